"""Recurrent cells and layers: LSTM and GRU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from . import _core
from ._common import Array, flag, generator, gradient_like, integer, ndim, rng_key
from ._vjp import defvjp

_Pull: TypeAlias = Callable[[Any], tuple[Any, ...]]
_State: TypeAlias = tuple[Array, Array]


def _states(op: str, hx: Any) -> tuple[Any, Any]:
    """Return an LSTM's (h, c), or (None, None)."""
    if hx is None:
        return None, None
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        raise TypeError(f"{op}: hx is {_kind(hx)}, expected a tuple (h, c)")
    if hx[0] is None or hx[1] is None:
        raise TypeError(f"{op}: hx holds None, expected a tuple (h, c) of arrays")
    return hx[0], hx[1]


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


def _like(gradients: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    return [
        None if argument is None else gradient_like(gradient, argument)
        for gradient, argument in zip(gradients, arguments, strict=True)
    ]


# ---- cells ----------------------------------------------------------------------------------------


def lstm_cell(
    input: Array,
    hx: tuple[Array, Array],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> _State:
    """Take one LSTM step.

    ``i, f, o = sigmoid(W x + b)``, ``g = tanh(W x + b)`` (each with its part of both products and
    biases), ``c' = f c + i g``, ``h' = o tanh(c')`` (Hochreiter and Schmidhuber, 1997).

    Parameters
    ----------
    input : array of shape (N, I) or (I,)
        Floating.
    hx : tuple of two arrays of shape (N, H) or (H,)
        The states h and c.
    w_ih : array of shape (4 H, I)
    w_hh : array of shape (4 H, H)
        Gate order i, f, g, o, as in PyTorch.
    b_ih, b_hh : arrays of shape (4 H,), optional

    Returns
    -------
    (h, c) : arrays of shape (N, H) or (H,)

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit.
    """
    h, c = _states("lstm_cell", _required("lstm_cell", hx))
    _, h, c, _ = _core.lstm_cell(input, h, c, (w_ih, w_hh, b_ih, b_hh), False)
    return h, c


def gru_cell(
    input: Array,
    hx: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Take one GRU step.

    ``r, z = sigmoid(W x + b)`` (with both products and biases),
    ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``, ``h' = (1 - z) n + z h`` (Cho et al., 2014, with
    the reset gate behind the product, as cuDNN and PyTorch have it).

    Parameters
    ----------
    input : array of shape (N, I) or (I,)
        Floating.
    hx : array of shape (N, H) or (H,)
        The state h.
    w_ih : array of shape (3 H, I)
    w_hh : array of shape (3 H, H)
        Gate order r, z, n, as in PyTorch.
    b_ih, b_hh : arrays of shape (3 H,), optional
    out : array of shape (N, H) or (H,), optional
        Where to write the result.

    Returns
    -------
    array of shape (N, H) or (H,)

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit.
    """
    params = (w_ih, w_hh, b_ih, b_hh)
    h: Array = _core.gru_cell(input, _required("gru_cell", hx), params, False, out)
    return h


def _required(op: str, hx: Any) -> Any:
    if hx is None:
        raise TypeError(f"{op}: hx is None, expected the state before the step")
    return hx


@defvjp(lstm_cell, "input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")
def _lstm_cell_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    hx: tuple[Array, Array],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> tuple[_State, _Pull]:
    params = (w_ih, w_hh, b_ih, b_hh)
    h0, c0 = _states("lstm_cell", _required("lstm_cell", hx))
    _, h, c, saved = _core.lstm_cell(input, h0, c0, params, True)

    def pull(cotangent: _State) -> tuple[Any, ...]:
        dx, dh, dc, d_params = _core.lstm_cell_backward(
            input, params, saved, cotangent[0], cotangent[1], wanted[0], any(wanted[2:])
        )
        state = (gradient_like(dh, h0), gradient_like(dc, c0))
        return _chosen(wanted, gradient_like(dx, input), state, _like(d_params, params))

    return (h, c), pull


@defvjp(gru_cell, "input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")
def _gru_cell_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    hx: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> tuple[Array, _Pull]:
    params = (w_ih, w_hh, b_ih, b_hh)
    h, saved = _core.gru_cell(input, _required("gru_cell", hx), params, True, None)

    def pull(cotangent: Array) -> tuple[Any, ...]:
        dx, dh, _, d_params = _core.gru_cell_backward(
            input, params, saved, cotangent, None, wanted[0], any(wanted[2:])
        )
        return _chosen(wanted, gradient_like(dx, input), gradient_like(dh, hx), _like(d_params, params))

    return h, pull


def _chosen(wanted: tuple[bool, ...], dx: Any, d_state: Any, d_params: list[Any]) -> tuple[Any, ...]:
    gradients = (dx, d_state, *d_params)
    return tuple(g if want else None for g, want in zip(gradients, wanted, strict=True))


# ---- layers ---------------------------------------------------------------------------------------


class _Sequence:
    """A call of `lstm` or `gru`, its options spelled as the binding takes them."""

    def __init__(
        self,
        op: str,
        input: Array,
        params: Sequence[Array],
        num_layers: int,
        bidirectional: bool,
        batch_first: bool,
        dropout: float,
        training: bool,
        lengths: Array | None,
        rng: Any,
    ) -> None:
        if isinstance(params, np.ndarray) or not isinstance(params, Sequence):
            raise TypeError(f"{op}: params is {_kind(params)}, expected a flat sequence of arrays")
        layers = integer(op, "num_layers", num_layers)
        if layers < 1:
            raise ValueError(f"{op}: num_layers is {layers}, expected at least 1")
        if not isinstance(dropout, int | float | np.floating):
            raise TypeError(f"{op}: dropout is {dropout!r}, expected a float from 0 to 1")
        if not 0 <= dropout <= 1:
            raise ValueError(f"{op}: dropout is {dropout}, expected 0 to 1")
        rate = float(dropout) if flag(op, "training", training) and layers > 1 else 0.0
        keys: list[int] = []
        if rate > 0 and len(params) >= 2 * layers:  # else the call is refused
            source = generator(op, rng)
            keys = [rng_key(op, source) for _ in range(layers - 1)]
        both, batch_first = flag(op, "bidirectional", bidirectional), flag(op, "batch_first", batch_first)
        self.swap = batch_first and ndim(input) == 3
        self.input = input.swapaxes(0, 1) if self.swap else input
        self.params = list(params)
        self.options = (layers, both, batch_first, lengths, rate, keys)


def lstm(
    input: Array,
    hx: tuple[Array, Array] | None,
    params: Sequence[Array],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Array | None = None,
    rng: Any = None,
) -> tuple[Array, _State]:
    """Run an LSTM over sequences (see `lstm_cell` for the step).

    Parameters
    ----------
    input : array of shape (T, N, I), or (N, T, I) with `batch_first`, or (T, I)
        Floating. T may be 0.
    hx : tuple of two arrays of shape (num_layers * D, N, H) or (num_layers * D, H), or None
        The initial states h and c; zeros if None. D is 2 if bidirectional, else 1.
    params : sequence of arrays
        In the order of PyTorch's ``_flat_weights``: per layer and direction ``w_ih`` (4 H, I or D H),
        ``w_hh`` (4 H, H), and with biases ``b_ih`` (4 H,), ``b_hh`` (4 H,).
    num_layers : int, default 1
    bidirectional : bool, default False
    batch_first : bool, default False
    dropout : float, default 0.0
        Applied to the output of each layer but the last, if `training`.
    training : bool, default False
    lengths : integer array of shape (N,), optional
        Lengths of the sequences, 0 to T, in any order. Past a sequence's end the output is zero;
        the final state is that at its end; the reverse direction starts there.
    rng : numpy.random.Generator, int or None
        For the dropout masks.

    Returns
    -------
    output : array of shape (T, N, D H), (N, T, D H) or (T, D H)
        The last layer's h of every step, both directions side by side.
    (h_n, c_n) : arrays of the shape of the initial states

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
    """
    h, c = _states("lstm", hx)
    s = _Sequence(
        "lstm", input, params, num_layers, bidirectional, batch_first, dropout, training, lengths, rng
    )
    output, h_n, c_n, _ = _core.lstm(s.input, h, c, s.params, *s.options, False)
    return output, (h_n, c_n)


def gru(
    input: Array,
    hx: Array | None,
    params: Sequence[Array],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Array | None = None,
    rng: Any = None,
) -> tuple[Array, Array]:
    """Run a GRU over sequences (see `gru_cell` for the step).

    Parameters
    ----------
    input : array of shape (T, N, I), or (N, T, I) with `batch_first`, or (T, I)
        Floating. T may be 0.
    hx : array of shape (num_layers * D, N, H) or (num_layers * D, H), or None
        The initial state; zeros if None. D is 2 if bidirectional, else 1.
    params : sequence of arrays
        In the order of PyTorch's ``_flat_weights``: per layer and direction ``w_ih`` (3 H, I or D H),
        ``w_hh`` (3 H, H), and with biases ``b_ih`` (3 H,), ``b_hh`` (3 H,).
    num_layers : int, default 1
    bidirectional : bool, default False
    batch_first : bool, default False
    dropout : float, default 0.0
        Applied to the output of each layer but the last, if `training`.
    training : bool, default False
    lengths : integer array of shape (N,), optional
        Lengths of the sequences, 0 to T, in any order. Past a sequence's end the output is zero;
        the final state is that at its end; the reverse direction starts there.
    rng : numpy.random.Generator, int or None
        For the dropout masks.

    Returns
    -------
    output : array of shape (T, N, D H), (N, T, D H) or (T, D H)
        The last layer's h of every step, both directions side by side.
    h_n : array of the shape of the initial state

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
    """
    s = _Sequence(
        "gru", input, params, num_layers, bidirectional, batch_first, dropout, training, lengths, rng
    )
    output, h_n, _, _ = _core.gru(s.input, hx, None, s.params, *s.options, False)
    return output, h_n


@defvjp(lstm, "input", "hx", "params")
def _lstm_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    hx: tuple[Array, Array] | None,
    params: Sequence[Array],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Array | None = None,
    rng: Any = None,
) -> tuple[tuple[Array, _State], _Pull]:
    h, c = _states("lstm", hx)
    s = _Sequence(
        "lstm", input, params, num_layers, bidirectional, batch_first, dropout, training, lengths, rng
    )
    output, h_n, c_n, saved = _core.lstm(s.input, h, c, s.params, *s.options, True)

    def pull(cotangent: tuple[Array, _State]) -> tuple[Any, ...]:
        dx, dh, dc, d_params = _core.lstm_backward(
            s.input, s.params, *s.options, saved, cotangent[0], *cotangent[1], wanted[0], wanted[2]
        )
        state = (gradient_like(dh, h), gradient_like(dc, c)) if wanted[1] and hx is not None else None
        return _sequence_gradients(wanted, s, dx, state, d_params)

    return (output, (h_n, c_n)), pull


@defvjp(gru, "input", "hx", "params")
def _gru_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    hx: Array | None,
    params: Sequence[Array],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Array | None = None,
    rng: Any = None,
) -> tuple[tuple[Array, Array], _Pull]:
    s = _Sequence(
        "gru", input, params, num_layers, bidirectional, batch_first, dropout, training, lengths, rng
    )
    output, h_n, _, saved = _core.gru(s.input, hx, None, s.params, *s.options, True)

    def pull(cotangent: tuple[Array, Array]) -> tuple[Any, ...]:
        dx, dh, _, d_params = _core.gru_backward(
            s.input, s.params, *s.options, saved, cotangent[0], cotangent[1], None, wanted[0], wanted[2]
        )
        state = gradient_like(dh, hx) if wanted[1] and hx is not None else None
        return _sequence_gradients(wanted, s, dx, state, d_params)

    return (output, h_n), pull


def _sequence_gradients(
    wanted: tuple[bool, ...], s: _Sequence, dx: Any, d_state: Any, d_params: list[Any]
) -> tuple[Any, ...]:
    if wanted[0]:
        dx = gradient_like(dx.swapaxes(0, 1) if s.swap else dx, s.input)
    return dx, d_state, _like(d_params, s.params) if wanted[2] else None
