"""Optimizers: PyTorch's numbers over several steps, with all options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from arraynn import optim
from arraynn.layers import Parameter

SHAPES = [(3, 4), (5,), (2, 3, 2)]


def make(seed=0):
    rng = np.random.default_rng(seed)
    return [Parameter(rng.standard_normal(shape)) for shape in SHAPES]


def gradients(steps, seed=1):
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(shape) for shape in SHAPES] for _ in range(steps)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        ("Adam", {}),
        ("Adam", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
        ("Adam", {"lr": 0.1, "amsgrad": True}),
        ("AdamW", {}),
        ("AdamW", {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True}),
        ("RMSprop", {}),
        ("RMSprop", {"lr": 0.1, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.7}),
        ("RMSprop", {"momentum": 0.7, "centered": True}),
        ("Adagrad", {}),
        (
            "Adagrad",
            {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3},
        ),
    ],
)
@pytest.mark.parametrize("skip", [False, True], ids=["every", "some"])
def test_steps_are_pytorchs(name, options, skip):
    """`skip`: one parameter has no gradient in the first two steps."""
    ours = make()
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    optimizer, expected = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step, grads in enumerate(gradients(5)):
        if step == 3:  # as a schedule does
            optimizer.lr = 0.05
            expected.param_groups[0]["lr"] = 0.05
        for i, (p, q, g) in enumerate(zip(ours, theirs, grads, strict=True)):
            if skip and i == 1 and step < 2:
                g = None
            p.grad, q.grad = (None, None) if g is None else (g.copy(), torch.from_numpy(g.copy()))
        optimizer.step()
        expected.step()
        for p, q, g in zip(ours, theirs, grads, strict=True):
            np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-10, atol=1e-12)
            if p.grad is not None:
                np.testing.assert_array_equal(p.grad, g)
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
        ("SGD", {}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {}),
        ("RMSprop", {"momentum": 0.7, "centered": True}),
        ("Adagrad", {"lr_decay": 0.2}),
    ],
)
def test_state_dict_continues_bit_for_bit(name, options):
    grads = gradients(6)

    def run(optimizer, parameters, steps):
        for step in steps:
            for p, g in zip(parameters, step, strict=True):
                p.grad = g.copy()
            optimizer.step()

    whole = make()
    run(getattr(optim, name)(whole, **options), whole, grads)
    first = make()
    before = getattr(optim, name)(first, **options)
    before.lr = 2 * before.lr
    before.lr /= 2
    run(before, first, grads[:3])
    second = [Parameter(p.data.copy()) for p in first]
    after = getattr(optim, name)(second, **options)
    after.load_state_dict(before.state_dict())
    run(before, first, grads[3:])  # the state is a copy: going on does not change it
    run(after, second, grads[3:])
    for p, q, r in zip(whole, first, second, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
        np.testing.assert_array_equal(p.data, r.data)


def test_load_state_dict_refuses():
    adam = optim.Adam(make())
    with pytest.raises(ValueError, match=r"does not fit this Adam, it differs in: .*amsgrad_maxes\.0"):
        adam.load_state_dict(optim.Adam(make(), amsgrad=True).state_dict())
    state = adam.state_dict()
    state["exp_avgs.1"] = np.zeros(6)
    with pytest.raises(ValueError, match=r"exp_avgs\.1 has shape \(6,\), expected \(5,\)"):
        adam.load_state_dict(state)


def test_clip_grad_norm():
    parameters = make()
    for p, g in zip(parameters, gradients(1)[0], strict=True):
        p.grad = g.copy()
    parameters[1].grad = None
    norm = np.sqrt(sum((p.grad**2).sum() for p in parameters if p.grad is not None))
    assert optim.clip_grad_norm(parameters, 0.5) == pytest.approx(norm)
    assert np.sqrt(sum((p.grad**2).sum() for p in parameters if p.grad is not None)) == pytest.approx(0.5)


def test_clip_grad_value():
    parameters = make()
    for p, g in zip(parameters, gradients(1)[0], strict=True):
        p.grad = g.copy()
    parameters[1].grad = None
    optim.clip_grad_value(parameters, 0.5)
    np.testing.assert_array_equal(parameters[0].grad, gradients(1)[0][0].clip(-0.5, 0.5))
    assert parameters[1].grad is None


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_l1_makes_weights_that_nothing_needs_small(name):
    """A penalty of slope 0.5 outweighs a pull of 0.3 away from zero."""
    plain, lean = make(), make()
    lr = 0.3 if name == "Adagrad" else 0.01
    first, second = getattr(optim, name)(plain, lr=lr), getattr(optim, name)(lean, lr=lr, l1=0.5)
    for _ in range(300):
        for parameters, optimizer in ((plain, first), (lean, second)):
            for p in parameters:
                p.grad = p.data - 0.3  # of (p - 0.3)**2 / 2, whose least value with the penalty is at 0
            optimizer.step()
    assert max(np.abs(p.data).mean() for p in lean) < 0.1 < min(p.data.mean() for p in plain)


@pytest.mark.parametrize(
    ("make_optimizer", "error", "message"),
    [
        (lambda: optim.SGD(make(), l1=-1), ValueError, "SGD: l1 must be at least 0, got -1"),
        (lambda: optim.RMSprop(make(), alpha=1.5), ValueError, "RMSprop: alpha must be from 0 to 1, got 1.5"),
        (lambda: optim.Adagrad(make(), lr_decay=-1), ValueError, "Adagrad: lr_decay must be at least 0"),
        (lambda: optim.SGD([]), ValueError, "SGD: parameters is empty"),
        (lambda: optim.SGD([np.zeros(3)]), TypeError, "SGD: parameters must be Parameters, got ndarray"),
        (lambda: optim.SGD(make(), lr=-1), ValueError, "SGD: lr must be at least 0, got -1"),
        (lambda: optim.SGD(make(), nesterov=True), ValueError, "SGD: nesterov needs momentum"),
        (lambda: optim.Adam(make(), betas=(0.9, 1.0)), ValueError, "Adam: betas must be two numbers"),
        (lambda: optim.AdamW(make(), weight_decay=-1), ValueError, "AdamW: weight_decay must be at least 0"),
    ],
)
def test_bad_arguments(make_optimizer, error, message):
    with pytest.raises(error, match=message):
        make_optimizer()


def test_repr_shows_the_options():
    assert (
        repr(optim.AdamW(make()))
        == "AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False, l1=0.0)"
    )
