"""Optimizers over the parameters of layers: `SGD`, `Adam`, `AdamW`, `RMSprop`, `Adagrad`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import Parameter
from ..optimizer import adagrad_step, adam_step, rmsprop_step, sgd_step


class Optimizer:
    """The base of optimizers.

    Attributes
    ----------
    parameters : list of Parameter
    lr : float
        The learning rate; assign to it to change it between steps.
    """

    _state_names: tuple[str, ...] = ()  # attributes that are lists of one array per parameter

    def __init__(self, parameters: Iterable[Parameter], lr: float) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError(f"{self._name}: parameters is empty")
        for parameter in self.parameters:
            if not isinstance(parameter, Parameter):
                raise TypeError(
                    f"{self._name}: parameters must be Parameters, got {type(parameter).__name__}"
                )
        self.lr = self._at_least_zero("lr", lr)
        self._steps = np.zeros(len(self.parameters), np.int64)  # taken by each parameter

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _at_least_zero(self, name: str, value: float) -> float:
        if not value >= 0:
            raise ValueError(f"{self._name}: {name} must be at least 0, got {value}")
        return value

    def _zeros(self) -> list[NDArray[Any]]:
        return [np.zeros_like(parameter.data) for parameter in self.parameters]

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Update the parameters that have a gradient, in place."""
        raise NotImplementedError

    def _by_step(self) -> Iterator[tuple[int, list[bool]]]:
        """Count the step of each parameter with a gradient, and group them by that count.

        That is one group, unless some parameters had no gradient in an earlier step.
        """
        with_grad = np.array([parameter.grad is not None for parameter in self.parameters])
        self._steps[with_grad] += 1
        for step in np.unique(self._steps[with_grad]):
            yield int(step), list(with_grad & (self._steps == step))

    def _lists(self, chosen: list[bool]) -> tuple[list[NDArray[Any]], list[Any]]:
        parameters = list(compress(self.parameters, chosen))
        return [p.data for p in parameters], [p.grad for p in parameters]

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the learning rate, the step counts and the running averages, by name."""
        state = {"lr": np.array(self.lr, np.float64), "steps": self._steps.copy()}
        for name in self._state_names:
            for i, array in enumerate(getattr(self, name) or ()):
                state[f"{name}.{i}"] = array.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, of an optimizer made with the same arguments.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape differs. Nothing has been written then.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            names = ", ".join(sorted(own.keys() ^ state.keys()))
            raise ValueError(f"load_state_dict: state does not fit this {self._name}, it differs in: {names}")
        arrays = {name: np.asarray(state[name]) for name in own}
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                raise ValueError(
                    f"load_state_dict: {name} has shape {array.shape}, expected {own[name].shape}"
                )
        self.lr = float(arrays["lr"])
        self._steps[:] = arrays["steps"]
        for name in self._state_names:
            for i, array in enumerate(getattr(self, name) or ()):
                array[...] = arrays[f"{name}.{i}"].astype(array.dtype, copy=False)

    def __repr__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if isinstance(v, int | float | tuple)}
        return f"{self._name}({', '.join(f'{name}={value}' for name, value in shown.items())})"


class SGD(Optimizer):
    """Stochastic gradient descent, `arraynn.sgd_step`. Parameters as in ``torch.optim.SGD``.

    Parameters
    ----------
    parameters : iterable of Parameter
        ``model.parameters()``.
    lr, momentum, dampening, weight_decay : float
    nesterov : bool
        Needs momentum and no dampening.
    l1 : float, default 0
        Weight of the penalty ``sum |p|``; with `weight_decay`, which is that of ``sum p**2 / 2``, of
        an elastic net. PyTorch has no such argument.
    """

    _state_names = ("momentum_buffers",)

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        l1: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr)
        self.momentum = self._at_least_zero("momentum", momentum)
        self.dampening = dampening
        self.weight_decay = self._at_least_zero("weight_decay", weight_decay)
        self.nesterov = nesterov
        self.l1 = self._at_least_zero("l1", l1)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"SGD: nesterov needs momentum above 0 and dampening 0, got {momentum} and {dampening}"
            )
        self.momentum_buffers = self._zeros() if momentum else None

    def step(self) -> None:
        for step, chosen in self._by_step():
            sgd_step(
                *self._lists(chosen),
                _chosen(self.momentum_buffers, chosen),
                lr=self.lr,
                momentum=self.momentum,
                # as in PyTorch, the first gradient goes into the buffer undamped
                dampening=self.dampening if step > 1 else 0.0,
                weight_decay=self.weight_decay,
                nesterov=self.nesterov,
                l1=self.l1,
            )


class Adam(Optimizer):
    """Adam, `arraynn.adam_step`. Parameters as in ``torch.optim.Adam``.

    Parameters
    ----------
    parameters : iterable of Parameter
        ``model.parameters()``.
    lr, betas, eps, weight_decay : float, pair of floats, float, float
    amsgrad : bool
        Divide by the largest second moment so far.
    l1 : float, default 0
        Weight of the penalty ``sum |p|`` (see `SGD`).
    """

    _state_names = ("exp_avgs", "exp_avg_sqs", "amsgrad_maxes")
    _decoupled = False

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        l1: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"{self._name}: betas must be two numbers from 0 to below 1, got {betas}")
        self.betas = (betas[0], betas[1])
        self.eps = self._at_least_zero("eps", eps)
        self.weight_decay = self._at_least_zero("weight_decay", weight_decay)
        self.amsgrad = amsgrad
        self.l1 = self._at_least_zero("l1", l1)
        self.exp_avgs, self.exp_avg_sqs = self._zeros(), self._zeros()
        self.amsgrad_maxes = self._zeros() if amsgrad else None

    def step(self) -> None:
        for step, chosen in self._by_step():
            adam_step(
                *self._lists(chosen),
                list(compress(self.exp_avgs, chosen)),
                list(compress(self.exp_avg_sqs, chosen)),
                step=step,
                lr=self.lr,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay,
                decoupled=self._decoupled,
                amsgrad_maxes=_chosen(self.amsgrad_maxes, chosen),
                l1=self.l1,
            )


class AdamW(Adam):
    """Adam with decoupled weight decay. Parameters as in ``torch.optim.AdamW``."""

    _decoupled = True

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        l1: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay, amsgrad, l1=l1)


class RMSprop(Optimizer):
    """RMSprop, `arraynn.rmsprop_step`. Parameters as in ``torch.optim.RMSprop``.

    Parameters
    ----------
    parameters : iterable of Parameter
        ``model.parameters()``.
    lr, alpha, eps, weight_decay, momentum : float
    centered : bool
        Divide by the standard deviation of the gradient instead of its root mean square.
    l1 : float, default 0
        Weight of the penalty ``sum |p|`` (see `SGD`).
    """

    _state_names = ("square_avgs", "momentum_buffers", "grad_avgs")

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        l1: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr)
        if not 0 <= alpha <= 1:
            raise ValueError(f"RMSprop: alpha must be from 0 to 1, got {alpha}")
        self.alpha = alpha
        self.eps = self._at_least_zero("eps", eps)
        self.weight_decay = self._at_least_zero("weight_decay", weight_decay)
        self.momentum = self._at_least_zero("momentum", momentum)
        self.centered = centered
        self.l1 = self._at_least_zero("l1", l1)
        self.square_avgs = self._zeros()
        self.momentum_buffers = self._zeros() if momentum else None
        self.grad_avgs = self._zeros() if centered else None

    def step(self) -> None:
        for _, chosen in self._by_step():
            rmsprop_step(
                *self._lists(chosen),
                list(compress(self.square_avgs, chosen)),
                _chosen(self.momentum_buffers, chosen),
                _chosen(self.grad_avgs, chosen),
                lr=self.lr,
                alpha=self.alpha,
                eps=self.eps,
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                l1=self.l1,
            )


class Adagrad(Optimizer):
    """Adagrad, `arraynn.adagrad_step`. Parameters as in ``torch.optim.Adagrad``.

    Parameters
    ----------
    parameters : iterable of Parameter
        ``model.parameters()``.
    lr, lr_decay, weight_decay, initial_accumulator_value, eps : float
    l1 : float, default 0
        Weight of the penalty ``sum |p|`` (see `SGD`).
    """

    _state_names = ("state_sums",)

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        l1: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr)
        self.lr_decay = self._at_least_zero("lr_decay", lr_decay)
        self.weight_decay = self._at_least_zero("weight_decay", weight_decay)
        self.initial_accumulator_value = self._at_least_zero(
            "initial_accumulator_value", initial_accumulator_value
        )
        self.eps = self._at_least_zero("eps", eps)
        self.l1 = self._at_least_zero("l1", l1)
        self.state_sums = self._zeros()
        for total in self.state_sums:
            total.fill(initial_accumulator_value)

    def step(self) -> None:
        for step, chosen in self._by_step():
            adagrad_step(
                *self._lists(chosen),
                list(compress(self.state_sums, chosen)),
                step=step,
                lr=self.lr,
                lr_decay=self.lr_decay,
                weight_decay=self.weight_decay,
                eps=self.eps,
                l1=self.l1,
            )


def _chosen(arrays: list[NDArray[Any]] | None, chosen: list[bool]) -> list[NDArray[Any]] | None:
    return None if arrays is None else list(compress(arrays, chosen))
