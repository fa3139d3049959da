"""The reference's optimizer steps and clipping against PyTorch's."""

from __future__ import annotations

from typing import Any

import arraynn as ann
import numpy as np
import pytest
import torch
from parity import rand
from tolerance import assert_close

ref = ann.reference

SHAPES = [(3, 4), (7,), (), (0, 2)]


def lists(count: int, seed: int = 0) -> list[list[np.ndarray]]:
    return [[rand(*s, seed=100 * i + j + seed) for j, s in enumerate(SHAPES)] for i in range(count)]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_step(decoupled: bool, amsgrad: bool) -> None:
    options = dict(lr=0.03, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    params, *gradients = lists(6)
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    peer = kind(tensors, amsgrad=amsgrad, **options)
    m, v, largest = ([np.zeros(s) for s in SHAPES] for _ in range(3))
    for step, grads in enumerate(gradients, 1):
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g / step)  # smaller each time, so that amsgrad's maximum matters
        peer.step()
        more = dict(amsgrad_maxes=largest) if amsgrad else {}
        scaled = [np.asarray(g / step * 8) for g in grads]
        ref.adam_step(params, scaled, m, v, step=step, grad_scale=8, decoupled=decoupled, **options, **more)
        for p, t in zip(params, tensors, strict=True):
            assert_close(p, t.detach().numpy(), terms=2)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_sgd_step(nesterov: bool, momentum: float, dampening: float) -> None:
    if nesterov and (momentum == 0 or dampening != 0):
        params, grads = lists(2)
        with pytest.raises(ValueError, match=r"^sgd_step: nesterov"):
            ref.sgd_step(params, grads, params, lr=1, momentum=momentum, dampening=dampening, nesterov=True)
        return
    options = dict(lr=0.03, momentum=momentum, dampening=dampening, weight_decay=0.1, nesterov=nesterov)
    params, buffers, *gradients = lists(6)
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    peer = torch.optim.SGD(tensors, **options)
    for t, b in zip(tensors, buffers, strict=True):
        peer.state[t]["momentum_buffer"] = torch.tensor(b)
    for grads in gradients:
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        peer.step()
        ref.sgd_step(params, grads, buffers if momentum else None, **options)
        for p, t in zip(params, tensors, strict=True):
            assert_close(p, t.detach().numpy(), terms=2)


def check_against_torch(peer: Any, tensors: Any, params: Any, step_of_reference: Any) -> None:
    """Take four steps with both and compare the parameters after each."""
    for step in range(1, 5):
        (grads,) = lists(1, seed=1000 * step)
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        peer.step()
        step_of_reference(step, grads)
        for p, t in zip(params, tensors, strict=True):
            assert_close(p, t.detach().numpy(), terms=2 * step)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_rmsprop_step(momentum: float, centered: bool) -> None:
    options = dict(lr=0.03, alpha=0.8, eps=1e-3, weight_decay=0.1, momentum=momentum)
    (params,) = lists(1)
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    squares, buffers, means = ([np.zeros(s) for s in SHAPES] for _ in range(3))
    optional = (buffers if momentum else None, means if centered else None)
    check_against_torch(
        torch.optim.RMSprop(tensors, centered=centered, **options),
        tensors,
        params,
        lambda _, grads: ref.rmsprop_step(params, grads, squares, *optional, **options),
    )


def test_adagrad_step() -> None:
    options = dict(lr=0.03, lr_decay=0.2, eps=1e-3, weight_decay=0.1)
    (params,) = lists(1)
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    sums = [np.full(s, 0.5) for s in SHAPES]
    check_against_torch(
        torch.optim.Adagrad(tensors, initial_accumulator_value=0.5, **options),
        tensors,
        params,
        lambda step, grads: ref.adagrad_step(params, grads, sums, step=step, **options),
    )


@pytest.mark.parametrize("clip_value", [0.0, 0.5, 1e6])
def test_clip_grad_value(clip_value: float) -> None:
    (grads,) = lists(1)
    tensors = [torch.nn.Parameter(torch.tensor(g)) for g in grads]
    for t in tensors:
        t.grad = t.detach().clone()
    torch.nn.utils.clip_grad_value_(tensors, clip_value)
    ref.clip_grad_value(grads, clip_value)
    for g, t in zip(grads, tensors, strict=True):
        np.testing.assert_array_equal(g, t.grad.numpy())


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6])
def test_clip_grad_norm(max_norm: float) -> None:
    (grads,) = lists(1)
    tensors = [torch.nn.Parameter(torch.tensor(g)) for g in grads]
    for t in tensors:
        t.grad = t.detach().clone()
    expected = torch.nn.utils.clip_grad_norm_(tensors, max_norm)
    norm = ref.clip_grad_norm(grads, max_norm)
    assert type(norm) is float
    assert norm == pytest.approx(expected.item(), rel=1e-14)
    for g, t in zip(grads, tensors, strict=True):
        assert_close(g, t.grad.numpy())
