"""Schedules of the learning rate: PyTorch's numbers, warm-up, going on from a state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from arraynn import optim
from arraynn.layers import Parameter


def sgd(lr=0.5):
    return optim.SGD([Parameter(np.zeros(3))], lr)


def rates(schedule, calls, values=None):
    """Return the rate before each of the calls of `step` and after the last."""
    found = [schedule.optimizer.lr]
    for i in range(calls):
        schedule.step(*(() if values is None else (values[i],)))
        found.append(schedule.optimizer.lr)
    return found


def torch_rates(name, calls, values=None, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], 0.5)
    schedule = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    found = [optimizer.param_groups[0]["lr"]]
    for i in range(calls):
        optimizer.step()
        schedule.step(*(() if values is None else (values[i],)))
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 3}),
        ("StepLR", {"step_size": 1, "gamma": 0.5}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("CosineAnnealingLR", {"T_max": 8}),
        ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.1}),
    ],
)
def test_rates_are_pytorchs(name, options):
    expected = torch_rates(name, 8, **options)
    np.testing.assert_allclose(
        rates(getattr(optim, name)(sgd(), **options), 8), expected, rtol=1e-12, atol=1e-15
    )


VALUES = [
    1.0,
    0.9,
    0.9,
    0.9,
    0.95,
    0.9,
    0.89999,
    0.5,
    0.6,
    0.6,
    0.6,
    0.6,
    -0.1,
    -0.1,
    -0.10001,
    -0.2,
    0.0,
    0.0,
]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"patience": 0, "factor": 0.5, "cooldown": 2},
        {"patience": 1, "threshold": 0.3},
        {"patience": 1, "threshold": 0.3, "threshold_mode": "abs"},
        {"patience": 0, "min_lr": 0.01},
        {"patience": 0, "eps": 0.1},
    ],
    ids=str,
)
def test_a_plateau_is_pytorchs(options, sign):
    values = [sign * v for v in VALUES]
    options = options | {"mode": "min" if sign == 1 else "max"}
    expected = torch_rates("ReduceLROnPlateau", len(values), values, **options)
    assert len(set(expected)) > 1
    schedule = optim.ReduceLROnPlateau(sgd(), **options)
    np.testing.assert_allclose(rates(schedule, len(values), values), expected, rtol=1e-12)


def test_nan_is_no_improvement():
    schedule = optim.ReduceLROnPlateau(sgd(), patience=1)
    assert rates(schedule, 3, [np.nan] * 3) == [0.5, 0.5, 0.05, 0.05]


def test_cosine_stays_at_its_end():
    assert rates(optim.CosineAnnealingLR(sgd(), 2, 0.1), 4)[2:] == [0.1, 0.1, 0.1]


def test_warmup():
    assert rates(optim.LinearWarmup(sgd(), 4), 5) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    schedule = optim.LinearWarmup(sgd(), 2, start_factor=0.5)
    assert rates(schedule, 2) == pytest.approx([0.375, 0.5, 0.5])
    schedule.optimizer.lr = 0.2  # once warm, it leaves the rate alone
    assert rates(schedule, 2) == [0.2, 0.2, 0.2]


def test_warmup_hands_over():
    optimizer = sgd()
    schedule = optim.LinearWarmup(optimizer, 2, then=optim.ExponentialLR(optimizer, 0.5))
    assert rates(schedule, 3) == [0.25, 0.5, 0.25, 0.125]


def test_after_epochs_and_steps():
    """As `fit` calls them: a warm-up over steps, then a plateau over epochs."""
    optimizer = sgd()
    plateau = optim.ReduceLROnPlateau(optimizer, patience=0, monitor="loss")
    schedule = optim.LinearWarmup(optimizer, 3, then=plateau)
    found = []
    for _ in range(3):
        for _ in range(2):
            schedule.after("step", {})
        schedule.after("epoch", {"loss": 1.0})
        found.append(optimizer.lr)
    assert found == pytest.approx([0.5, 0.05, 0.005])
    with pytest.raises(ValueError, match="monitor is 'loss', but measured are val_loss"):
        plateau.after("epoch", {"val_loss": 1.0})
    by_step = optim.StepLR(sgd(), 1, every="step")
    by_step.after("epoch", {})
    assert by_step.optimizer.lr == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda o: optim.StepLR(o, 2, 0.5),
        lambda o: optim.CosineAnnealingLR(o, 9),
        lambda o: optim.ReduceLROnPlateau(o, patience=0, cooldown=1),
        lambda o: optim.LinearWarmup(o, 3, then=optim.StepLR(o, 2, 0.5)),
        lambda o: optim.LinearWarmup(o, 8, then=optim.StepLR(o, 2, 0.5)),
    ],
)
def test_state_dict_continues(make):
    values = [3.0, 2.0, 4.0, 4.0, 4.0, 1.0, 5.0, 5.0]
    whole = rates(make(sgd()), 8, values)
    first = make(sgd())
    rates(first, 4, values[:4])
    optimizer = sgd()
    second = make(optimizer)
    second.load_state_dict(first.state_dict())
    optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 4, values[4:]) == whole[4:]
    with pytest.raises(ValueError, match=r"does not fit this .*, it differs in: base_lr"):
        second.load_state_dict({k: v for k, v in first.state_dict().items() if k != "base_lr"})


def test_a_schedule_of_ones_own():
    class Inverse(optim.Schedule):
        def rate(self, count):
            return self.base_lr / (1 + count)

    assert rates(Inverse(sgd()), 2) == [0.5, 0.25, 0.5 / 3]
    with pytest.raises(NotImplementedError, match="Schedule: rate is not defined"):
        optim.Schedule(sgd()).step()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: optim.StepLR(None, 2), TypeError, "StepLR: optimizer must be an Optimizer, got NoneType"),
        (lambda o: optim.StepLR(o, 0), ValueError, "StepLR: step_size must be at least 1, got 0"),
        (lambda o: optim.StepLR(o, 1.5), TypeError, "StepLR: step_size must be an integer, got 1.5"),
        (lambda o: optim.StepLR(o, 1, -1), ValueError, "StepLR: gamma must be at least 0, got -1"),
        (lambda o: optim.ExponentialLR(o, np.nan), ValueError, "ExponentialLR: gamma must be at least 0"),
        (lambda o: optim.CosineAnnealingLR(o, 0), ValueError, "CosineAnnealingLR: T_max must be at least 1"),
        (
            lambda o: optim.StepLR(o, 1, every="batch"),
            ValueError,
            "every must be 'epoch' or 'step', got 'batch'",
        ),
        (lambda o: optim.LinearWarmup(o, 2, start_factor=2), ValueError, "start_factor must be from 0 to 1"),
        (
            lambda o: optim.LinearWarmup(o, 2, then=optim.StepLR(sgd(), 1)),
            ValueError,
            "of the same optimizer",
        ),
        (
            lambda o: optim.ReduceLROnPlateau(o, "least"),
            ValueError,
            "mode must be 'min' or 'max', got 'least'",
        ),
        (lambda o: optim.ReduceLROnPlateau(o, factor=1.0), ValueError, "factor must be from 0 to below 1"),
        (lambda o: optim.ReduceLROnPlateau(o, threshold_mode="x"), ValueError, "threshold_mode must be"),
        (lambda o: optim.ReduceLROnPlateau(o).step(), TypeError, "step needs the value to watch"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make(sgd())


def test_repr_shows_the_options():
    assert (
        repr(optim.StepLR(sgd(), 3)) == "StepLR(every='epoch', base_lr=0.5, count=0, step_size=3, gamma=0.1)"
    )
