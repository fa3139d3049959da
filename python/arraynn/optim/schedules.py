"""Schedules of the learning rate: `StepLR`, `ExponentialLR`, `CosineAnnealingLR`, `LinearWarmup`,
`ReduceLROnPlateau`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .optimizers import Optimizer

Every = Literal["epoch", "step"]


class Schedule:
    """The base of schedules, and of one of one's own, which defines `rate`.

    A schedule sets ``optimizer.lr`` with each call of `step`, a warm-up when it is made too. `arraynn.fit`
    makes that call after every epoch, or after every step of the optimizer if `every` is "step".
    One schedule belongs to an optimizer; `LinearWarmup` puts a warm-up before another.

    Attributes
    ----------
    optimizer : Optimizer
    base_lr : float
        The optimizer's learning rate when the schedule was made.
    count : int
        Calls of `step` so far.
    every : "epoch" or "step"
    """

    _state_names: tuple[str, ...] = ("base_lr", "count")

    def __init__(self, optimizer: Optimizer, *, every: Every = "epoch") -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{self._name}: optimizer must be an Optimizer, got {type(optimizer).__name__}")
        if every not in ("epoch", "step"):
            raise ValueError(f"{self._name}: every must be 'epoch' or 'step', got {every!r}")
        self.optimizer = optimizer
        self.every: Every = every
        self.base_lr = float(optimizer.lr)
        self.count = 0

    @property
    def _name(self) -> str:
        return type(self).__name__

    def kind(self) -> str:
        """Return what kind of schedule it is, in a word or two."""
        return f"{self._name} of every {self.every}"

    @property
    def watched(self) -> str | None:
        """The entry of the history that the schedule needs, or None."""
        return None

    def rate(self, count: int) -> float:
        """Return the learning rate after `count` calls of `step`."""
        raise NotImplementedError(f"{self._name}: rate is not defined")

    def step(self, value: float | None = None) -> None:
        """Set the next learning rate. `value`, what `ReduceLROnPlateau` watches, is not used here."""
        self.count += 1
        self.optimizer.lr = self.rate(self.count)

    def after(self, event: Every, values: Mapping[str, float]) -> None:
        """Do what is due after an "epoch" or a "step", of which `values` were measured. `fit` calls this."""
        if event == self.every:
            self.step()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the counts and rates by name, without the optimizer's."""
        return {name: np.array(getattr(self, name), np.float64) for name in self._state_names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, of a schedule made with the same arguments.

        Raises
        ------
        ValueError
            A name is missing or unknown. Nothing has been written then.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            names = ", ".join(sorted(own.keys() ^ state.keys()))
            raise ValueError(f"load_state_dict: state does not fit this {self._name}, it differs in: {names}")
        for name in self._state_names:
            kind = type(getattr(self, name))
            setattr(self, name, kind(np.asarray(state[name]).item()))

    def __repr__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str)}
        return f"{self._name}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class StepLR(Schedule):
    """Multiply the rate by `gamma` after every `step_size` calls, as ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
        In epochs, or steps (see `every`).
    gamma : float, default 0.1
    every : "epoch" or "step"
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, *, every: Every = "epoch"
    ) -> None:
        super().__init__(optimizer, every=every)
        self.step_size = _at_least_one(self._name, "step_size", step_size)
        self.gamma = _at_least_zero(self._name, "gamma", gamma)

    def rate(self, count: int) -> float:
        return float(self.base_lr * self.gamma ** (count // self.step_size))


class ExponentialLR(Schedule):
    """Multiply the rate by `gamma` with every call, as ``torch.optim.lr_scheduler.ExponentialLR``.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float
    every : "epoch" or "step"
    """

    def __init__(self, optimizer: Optimizer, gamma: float, *, every: Every = "epoch") -> None:
        super().__init__(optimizer, every=every)
        self.gamma = _at_least_zero(self._name, "gamma", gamma)

    def rate(self, count: int) -> float:
        return float(self.base_lr * self.gamma**count)


class CosineAnnealingLR(Schedule):
    """Half a period of a cosine, from the rate down to `eta_min`, in `T_max` calls [1]_.

    ``lr = eta_min + (base_lr - eta_min) * (1 + cos(pi * min(count, T_max) / T_max)) / 2``. It stays at
    `eta_min` after that, where ``torch.optim.lr_scheduler.CosineAnnealingLR`` rises again.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
        In epochs, or steps (see `every`).
    eta_min : float, default 0
    every : "epoch" or "step"

    References
    ----------
    .. [1] Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, *, every: Every = "epoch"
    ) -> None:
        super().__init__(optimizer, every=every)
        self.T_max = _at_least_one(self._name, "T_max", T_max)
        self.eta_min = _at_least_zero(self._name, "eta_min", eta_min)

    def rate(self, count: int) -> float:
        share = (1 + math.cos(math.pi * min(count, self.T_max) / self.T_max)) / 2
        return self.eta_min + (self.base_lr - self.eta_min) * share


class LinearWarmup(Schedule):
    """Raise the rate in equal steps to the optimizer's own, then leave it, or hand over to `then`.

    The rate of the k-th step of the optimizer, from 1, is
    ``base_lr * (start_factor + (1 - start_factor) * min(k / steps, 1))``: the first step already learns.

    Parameters
    ----------
    optimizer : Optimizer
    steps : int
        After this many the rate is `base_lr`; steps, or epochs (see `every`).
    start_factor : float, default 0
        From 0 to 1.
    then : Schedule, optional
        Of the same optimizer, made before this one; its calls are counted from the warm-up's end.
    every : "step" or "epoch"
        `then` has its own.

    Examples
    --------
    >>> cosine = ann.optim.CosineAnnealingLR(optimizer, 1900, every="step")
    >>> schedule = ann.optim.LinearWarmup(optimizer, 100, then=cosine)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        *,
        start_factor: float = 0.0,
        then: Schedule | None = None,
        every: Every = "step",
    ) -> None:
        super().__init__(optimizer, every=every)
        self.steps = _at_least_one(self._name, "steps", steps)
        if not 0 <= start_factor <= 1:
            raise ValueError(f"LinearWarmup: start_factor must be from 0 to 1, got {start_factor}")
        if then is not None and getattr(then, "optimizer", None) is not optimizer:
            raise ValueError("LinearWarmup: then must be a schedule of the same optimizer")
        self.start_factor = start_factor
        self.then = then
        optimizer.lr = self.rate(0)

    def kind(self) -> str:
        return super().kind() + ("" if self.then is None else f", then {self.then.kind()}")

    @property
    def watched(self) -> str | None:
        return None if self.then is None else self.then.watched

    @property
    def _warm(self) -> bool:
        """Whether the rate is reached: step number `steps` has it, and comes after one call less."""
        return self.count >= self.steps - 1

    def rate(self, count: int) -> float:
        share = min((count + 1) / self.steps, 1)
        return self.base_lr * (self.start_factor + (1 - self.start_factor) * share)

    def step(self, value: float | None = None) -> None:
        if not self._warm:
            super().step()
        elif self.then is not None:
            self.then.step(value)

    def after(self, event: Every, values: Mapping[str, float]) -> None:
        if not self._warm:
            super().after(event, values)
        elif self.then is not None:
            self.then.after(event, values)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        then = {} if self.then is None else self.then.state_dict()
        return super().state_dict() | {f"then.{name}": value for name, value in then.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.then is not None:
            prefix = "then."
            self.then.load_state_dict(
                {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
            )


class ReduceLROnPlateau(Schedule):
    """Multiply the rate by `factor` when a value has not improved for `patience` calls.

    As ``torch.optim.lr_scheduler.ReduceLROnPlateau``.

    Parameters
    ----------
    optimizer : Optimizer
    mode : "min" or "max"
        Whether smaller or larger is better.
    factor : float, default 0.1
        From 0 to below 1.
    patience : int, default 10
        Calls without improvement that are let pass.
    threshold : float, default 1e-4
        What counts as an improvement: beyond the best by this share of it ("rel"), or by this much ("abs").
    threshold_mode : "rel" or "abs"
    cooldown : int, default 0
        Calls after a reduction that are not counted.
    min_lr : float, default 0
    eps : float, default 1e-8
        A smaller change of the rate is not made.
    monitor : str, default "val_loss"
        The entry of the history that `arraynn.fit` gives to `step`, after every epoch.
    """

    _state_names = ("base_lr", "count", "best", "bad", "cooling")

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
        *,
        monitor: str = "val_loss",
    ) -> None:
        super().__init__(optimizer)
        if mode not in ("min", "max"):
            raise ValueError(f"{self._name}: mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"{self._name}: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        if not 0 <= factor < 1:
            raise ValueError(f"{self._name}: factor must be from 0 to below 1, got {factor}")
        self.mode, self.factor, self.threshold_mode, self.monitor = mode, factor, threshold_mode, monitor
        self.patience = _at_least_zero(self._name, "patience", patience)
        self.threshold = _at_least_zero(self._name, "threshold", threshold)
        self.cooldown = _at_least_zero(self._name, "cooldown", cooldown)
        self.min_lr = _at_least_zero(self._name, "min_lr", min_lr)
        self.eps = _at_least_zero(self._name, "eps", eps)
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = 0  # calls without improvement
        self.cooling = 0  # calls of the cooldown left

    @property
    def watched(self) -> str | None:
        return self.monitor

    def _improves(self, value: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        margin = self.threshold
        if self.threshold_mode == "rel":
            # of the best itself, as in PyTorch: a negative best makes it easier, not harder
            margin *= self.best if math.isfinite(self.best) else 0
        return sign * value > sign * self.best + margin

    def step(self, value: float | None = None) -> None:
        """Take notice of `value`, and reduce the rate if it is time to.

        Raises
        ------
        TypeError
            `value` is not given.
        """
        if value is None:
            raise TypeError("ReduceLROnPlateau: step needs the value to watch")
        self.count += 1
        if self._improves(value):
            self.best, self.bad = float(value), 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad = 0
        if self.bad > self.patience:
            lr = max(self.optimizer.lr * self.factor, self.min_lr)
            if self.optimizer.lr - lr > self.eps:
                self.optimizer.lr = lr
            self.cooling, self.bad = int(self.cooldown), 0

    def after(self, event: Every, values: Mapping[str, float]) -> None:
        if event != "epoch":
            return
        if self.monitor not in values:
            raise ValueError(
                f"ReduceLROnPlateau: monitor is {self.monitor!r}, but measured are {', '.join(values)}"
            )
        self.step(values[self.monitor])


def _at_least_one(schedule: str, name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{schedule}: {name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{schedule}: {name} must be at least 1, got {value}")
    return int(value)


def _at_least_zero(schedule: str, name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{schedule}: {name} must be at least 0, got {value}")
    return value
