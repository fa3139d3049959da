"""`LSTMCell`, `GRUCell` and `RNNCell`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..rnn import gru_cell, lstm_cell, rnn_cell
from .base import Layer, Parameter, Seed, size, uniform


class _Cell(Layer):
    op: ClassVar[Callable[..., Any]]
    gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.input_size = size(self, "input_size", input_size)
        self.hidden_size = size(self, "hidden_size", hidden_size)
        self.bias = bias
        self._calls: list[Callable[[Any], tuple[Any, ...]]] = []
        rng = np.random.default_rng(rng)
        rows, bound = self.gates * hidden_size, 1 / math.sqrt(hidden_size)
        self.weight_ih = uniform(rng, bound, (rows, input_size), dtype)
        self.weight_hh = uniform(rng, bound, (rows, hidden_size), dtype)
        self.bias_ih = uniform(rng, bound, (rows,), dtype) if bias else None
        self.bias_hh = uniform(rng, bound, (rows,), dtype) if bias else None

    def _parameters(self) -> tuple[Parameter | None, ...]:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def _options(self) -> dict[str, Any]:
        """Return what the op takes besides."""
        return {}

    def _zeros(self, x: NDArray[Any]) -> Any:
        return np.zeros((*x.shape[:-1], self.hidden_size), x.dtype)

    def forward(self, x: NDArray[Any], hx: Any = None) -> Any:
        state = self._zeros(x) if hx is None else hx
        arrays = (None if p is None else p.data for p in self._parameters()[:4])
        out = self._run(self.op, x, state, *arrays, **self._options())
        if self._pullback is not None:
            self._calls.append(self._take_pullback())
        return out

    def backward(self, dy: Any) -> Any:
        if not self._calls:
            raise self._no_call()
        dx, dhx, *gradients = self._calls.pop()(dy)
        for parameter, gradient in zip(self._parameters(), gradients, strict=True):
            if parameter is not None:
                parameter.accumulate(gradient)
        return dx, dhx

    def train(self, mode: bool = True) -> Self:
        self._calls.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class LSTMCell(_Cell):
    """One step of an LSTM, `arraynn.lstm_cell`: ``h, c = cell(x, hx=None)``, with ``hx = (h, c)``.

    A cell is called once per step, so it remembers all its calls in `train` mode: each `backward`
    goes back through the latest one that is left, and returns ``(dx, (dh, dc))``.

    Parameters
    ----------
    input_size, hidden_size, bias
        As in ``torch.nn.LSTMCell``.
    peepholes : bool, keyword-only, default False
        Whether the gates see c, by `weight_peephole` (see `arraynn.lstm_cell`).
    rng, dtype
        As in `Conv1d`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : Parameter
        Gates in the order i, f, g, o. All drawn from U(-k, k) with k = 1/sqrt(hidden_size).

    Examples
    --------
    >>> state = None
    >>> for x in steps:
    ...     state = cell(x, state)
    >>> dstate = (dh, None)
    >>> for _ in steps:
    ...     dx, dstate = cell.backward(dstate)
    """

    op = staticmethod(lstm_cell)
    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        peepholes: bool = False,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = np.random.default_rng(rng)
        super().__init__(input_size, hidden_size, bias, rng=rng, dtype=dtype)
        self.peepholes = peepholes
        if peepholes:
            self.weight_peephole = uniform(rng, 1 / math.sqrt(hidden_size), (3, hidden_size), dtype)

    def _parameters(self) -> tuple[Parameter | None, ...]:
        return super()._parameters() + ((self.weight_peephole,) if self.peepholes else ())

    def _options(self) -> dict[str, Any]:
        return {"peepholes": self.weight_peephole.data} if self.peepholes else {}

    def _zeros(self, x: NDArray[Any]) -> Any:
        return super()._zeros(x), super()._zeros(x)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", peepholes=True" if self.peepholes else "")


class GRUCell(_Cell):
    """One step of a GRU, `arraynn.gru_cell`: ``h = cell(x, hx=None)``, with ``hx = h``.

    As `LSTMCell`, with the gates in the order r, z, n and `reset_after` as in `GRU`; `backward` returns
    ``(dx, dh)``.
    """

    op = staticmethod(gru_cell)
    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset_after: bool = True,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, rng=rng, dtype=dtype)
        self.reset_after = reset_after

    def _options(self) -> dict[str, Any]:
        return {"reset_after": self.reset_after}

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")


class RNNCell(_Cell):
    """One step of a plain recurrent network, `arraynn.rnn_cell`: ``h = cell(x, hx=None)``, with ``hx = h``.

    As `GRUCell`, but without gates; `nonlinearity` is 'tanh' or 'relu'.
    """

    op = staticmethod(rnn_cell)
    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, rng=rng, dtype=dtype)
        self.nonlinearity = check_nonlinearity(self, nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else f"{text}, nonlinearity={self.nonlinearity}"


def check_nonlinearity(layer: Layer, value: str) -> str:
    if value not in ("tanh", "relu"):
        raise ValueError(f"{type(layer).__name__}: nonlinearity must be 'tanh' or 'relu', got {value!r}")
    return value
