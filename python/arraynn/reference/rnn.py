"""LSTM, GRU and plain recurrent networks: one step, and whole sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._cells import GRU, LSTM, RNN, Cell, weights_of
from ._common import Array, deliver, floating, fraction, result_dtype, rounded, shaped, wide
from ._extended import Extras, Masks, step
from ._sequences import as_states, check_cell, layers
from .dropout import Rng


def lstm_cell(
    input: Array,
    hx: tuple[Array, Array],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    peepholes: Array | None = None,
) -> tuple[Array, Array]:
    """One step of an LSTM (Hochreiter and Schmidhuber 1997, Gers et al. 2000; torch.nn.LSTMCell).

    i, f, g, o = the four parts of W_ih x + b_ih + W_hh h + b_hh;
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g);  h' = sigmoid(o) * tanh(c').
    The rows p of `peepholes` (3, H) add p_i * c to i, p_f * c to f and p_o * c' to o (Gers et al. 2002).

    Input (N, I), hx = (h, c) of (N, H) each, w_ih (4H, I), w_hh (4H, H), biases (4H,); or without N.
    """
    dtype, (h, c), _ = _lstm_cell(input, hx, w_ih, w_hh, b_ih, b_hh, peepholes)
    return rounded(h, dtype), rounded(c, dtype)


def _lstm_cell(
    input: Array, hx: Any, w_ih: Array, w_hh: Array, b_ih: Any, b_hh: Any, peepholes: Any
) -> tuple[Any, Any, Any]:
    """Return the dtype, the new states, and the function from their gradients to all arguments'."""
    dtype = check_cell("lstm_cell", LSTM, input, hx, w_ih, w_hh, b_ih, b_hh)
    weights = weights_of(w_ih, w_hh, b_ih, b_hh)
    state = (wide(hx[0]), wide(hx[1]))
    if peepholes is None:
        new, pull = LSTM.step(wide(input), state, weights)
        return dtype, new, pull
    floating("lstm_cell", "peepholes", peepholes, (2,))
    shaped("lstm_cell", "peepholes", peepholes, (3, w_hh.shape[1]))
    names = ("w_ih", "w_hh", "b_ih", "b_hh", "peepholes")
    new, pull = step(LSTM, names, wide(input), state, (*weights, wide(peepholes)), Masks())
    return result_dtype("lstm_cell", input, *hx, w_ih, w_hh, b_ih, b_hh, peepholes), new, pull


def gru_cell(
    input: Array,
    hx: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    reset_after: bool = True,
    out: Array | None = None,
) -> Array:
    """One step of a GRU (Cho et al. 2014; by default with the reset after the product, as torch.nn.GRUCell).

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr);  z = sigmoid(W_iz x + b_iz + W_hz h + b_hz);
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn));  h' = (1 - z) * n + z * h;
    or, with the reset before the product, n = tanh(W_in x + b_in + W_hn (r * h) + b_hn).

    Input (N, I), hx (N, H), w_ih (3H, I), w_hh (3H, H), biases (3H,); or without N.
    """
    cell = _gru("gru_cell", reset_after)
    dtype = check_cell("gru_cell", cell, input, hx, w_ih, w_hh, b_ih, b_hh)
    (h,), _ = cell.step(wide(input), (wide(hx),), weights_of(w_ih, w_hh, b_ih, b_hh))
    return deliver("gru_cell", h, dtype, out, input, hx, w_ih, w_hh, b_ih, b_hh)


def _gru(op: str, reset_after: bool) -> Cell:
    if not isinstance(reset_after, bool | np.bool_):
        raise TypeError(f"{op}: reset_after must be True or False, got {reset_after!r}")
    return GRU[bool(reset_after)]


def rnn_cell(
    input: Array,
    hx: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    nonlinearity: str = "tanh",
    out: Array | None = None,
) -> Array:
    """One step of a plain recurrent network (Elman 1990; torch.nn.RNNCell).

    h' = f(W_ih x + b_ih + W_hh h + b_hh), where f is tanh or max(0, .).

    Input (N, I), hx (N, H), w_ih (H, I), w_hh (H, H), biases (H,); or without N.
    """
    cell = _rnn("rnn_cell", nonlinearity)
    dtype = check_cell("rnn_cell", cell, input, hx, w_ih, w_hh, b_ih, b_hh)
    (h,), _ = cell.step(wide(input), (wide(hx),), weights_of(w_ih, w_hh, b_ih, b_hh))
    return deliver("rnn_cell", h, dtype, out, input, hx, w_ih, w_hh, b_ih, b_hh)


def _rnn(op: str, nonlinearity: str) -> Cell:
    if not isinstance(nonlinearity, str) or nonlinearity not in RNN:
        raise ValueError(f"{op}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return RNN[nonlinearity]


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
    rng: Rng = None,
    reset: Array | None = None,
    peepholes: bool = False,
    recurrent_dropout: float = 0.0,
    zoneout: tuple[float, float] = (0.0, 0.0),
    layer_norm: bool = False,
) -> tuple[Array, tuple[Array, Array]]:
    """`lstm_cell` along sequences, in layers and directions (torch.nn.LSTM).

    Input (T, N, I), (N, T, I) with `batch_first`, or (T, I); hx = (h, c) of (D layers, N, H) each or
    None for zeros, where D = 2 if `bidirectional`, else 1; params per layer and direction w_ih,
    w_hh and, for all or none, b_ih, b_hh; w_hr; peepholes; gain_ih, gain_hh, gain_c and, with biases,
    b_c. Returns the last layer's h of every step, (T, N, D H), and the states (h_n, c_n) at the end.

    A layer takes the previous one's output, both directions joined, after dropout. Sequence n ends
    after lengths[n] steps: past it the output is zero and the state stands still, and the reverse
    direction starts there. Where reset (T, N) is true (laid out as the input is), the state is zero
    before the step, in either direction. The step with all there may be is, N being normalization times
    its gain, m recurrent dropout's mask and z zoneout's:

    i, f, g, o = N(W_ih x) + b_ih + N(W_hh (m h)) + b_hh, of i and f and o with peepholes;
    c~ = sigmoid(f) * c + sigmoid(i) * tanh(g);  h~ = W_hr (sigmoid(o) * tanh(N(c~) + b_c));
    c' = z_c * c + (1 - z_c) * c~;  h' = z_h * h + (1 - z_h) * h~.
    """
    output, finals, _ = layers(
        "lstm",
        LSTM,
        input,
        hx,
        params,
        num_layers,
        bidirectional,
        batch_first,
        dropout,
        training,
        lengths,
        rng,
        reset,
        _extras("lstm", LSTM, recurrent_dropout, zoneout, layer_norm, peepholes),
    )
    return output, (finals[0], finals[1])


def _extras(
    op: str, cell: Cell, recurrent_dropout: Any, zoneout: Any, layer_norm: Any = False, peepholes: Any = False
) -> Extras:
    for name, value in (("layer_norm", layer_norm), ("peepholes", peepholes)):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{op}: {name} must be True or False, got {value!r}")
    if layer_norm and cell.name == "gru_reset_first":
        raise ValueError(f"{op}: layer_norm takes reset_after=True")
    rates = zoneout if cell.states == 2 else (zoneout, 0.0)
    if not isinstance(rates, tuple | list) or len(rates) != 2:
        raise TypeError(f"{op}: zoneout must be a tuple of two fractions, of h and of c, got {zoneout!r}")
    stays = [fraction(op, "zoneout", rate) for rate in rates]
    dropped = fraction(op, "recurrent_dropout", recurrent_dropout)
    return Extras(bool(peepholes), bool(layer_norm), dropped, stays[0], stays[1])


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
    rng: Rng = None,
    reset_after: bool = True,
    reset: Array | None = None,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
    layer_norm: bool = False,
) -> tuple[Array, Array]:
    """`gru_cell` along sequences, in layers and directions (torch.nn.GRU); as `lstm`, with one state.

    With `layer_norm` r and z are normalized together, and n by itself, inside its reset gate.
    """
    cell = _gru("gru", reset_after)
    output, finals, _ = layers(
        "gru",
        cell,
        input,
        hx,
        params,
        num_layers,
        bidirectional,
        batch_first,
        dropout,
        training,
        lengths,
        rng,
        reset,
        _extras("gru", cell, recurrent_dropout, zoneout, layer_norm),
    )
    return output, finals[0]


def rnn(
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
    rng: Rng = None,
    nonlinearity: str = "tanh",
    reset: Array | None = None,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
) -> tuple[Array, Array]:
    """`rnn_cell` along sequences, in layers and directions (torch.nn.RNN); as `lstm`, with one state."""
    cell = _rnn("rnn", nonlinearity)
    output, finals, _ = layers(
        "rnn",
        cell,
        input,
        hx,
        params,
        num_layers,
        bidirectional,
        batch_first,
        dropout,
        training,
        lengths,
        rng,
        reset,
        _extras("rnn", cell, recurrent_dropout, zoneout),
    )
    return output, finals[0]


# -- gradients --------------------------------------------------------------------------------


def _cellvjp(op: Callable[..., Any], choose: Callable[..., Cell]) -> None:
    """Give `op` its rule; `choose` tells the cell from the op's own options."""

    @defvjp(op, "input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        hx: Any,
        w_ih: Array,
        w_hh: Array,
        b_ih: Array | None = None,
        b_hh: Array | None = None,
        **options: Any,
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        cell = choose(**options)
        out = op(input, hx, w_ih, w_hh, b_ih, b_hh, **options)
        given = as_states(op.__name__, cell, hx)
        _, pull_step = cell.step(
            wide(input), tuple(wide(s) for s in given), weights_of(w_ih, w_hh, b_ih, b_hh)
        )

        def pull(dout: Any) -> tuple[Any, ...]:
            dx, dstates, dweights = pull_step(tuple(wide(d) for d in as_states(op.__name__, cell, dout)))
            gradients: list[Any] = [rounded(dx, input.dtype), rounded(dstates[0], hx.dtype)]
            for d, weight in zip(dweights, (w_ih, w_hh, b_ih, b_hh), strict=True):
                gradients.append(None if weight is None else rounded(d, weight.dtype))
            return tuple(g if w else None for g, w in zip(gradients, wanted, strict=True))

        return out, pull


@defvjp(lstm_cell, "input", "hx", "w_ih", "w_hh", "b_ih", "b_hh", optional=("peepholes",))
def _lstm_cell_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    hx: Any,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    peepholes: Array | None = None,
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    dtype, new, pull_step = _lstm_cell(input, hx, w_ih, w_hh, b_ih, b_hh, peepholes)
    weights = (w_ih, w_hh, b_ih, b_hh) + (() if peepholes is None else (peepholes,))

    def pull(dout: Any) -> tuple[Any, ...]:
        dx, dstates, dweights = pull_step(tuple(wide(d) for d in dout))
        like = tuple(rounded(d, s.dtype) for d, s in zip(dstates, hx, strict=True))
        gradients: list[Any] = [rounded(dx, input.dtype), like]
        for d, weight in zip(dweights, weights, strict=True):
            gradients.append(None if weight is None else rounded(d, weight.dtype))
        return tuple(g if w else None for g, w in zip(gradients, wanted, strict=True))

    return (rounded(new[0], dtype), rounded(new[1], dtype)), pull


_cellvjp(gru_cell, lambda reset_after=True: _gru("gru_cell", reset_after))
_cellvjp(rnn_cell, lambda nonlinearity="tanh": _rnn("rnn_cell", nonlinearity))


def _layervjp(
    op: Callable[..., Any], choose: Callable[..., tuple[Cell, tuple[Any, ...]]], still: Any
) -> None:
    """Give `op` its rule; `choose` tells the cell from the op's own options, and the last ones of `_extras`.

    `still` is the default of zoneout.
    """

    @defvjp(op, "input", "hx", "params")
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        hx: Any,
        params: Sequence[Array],
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        training: bool = False,
        lengths: Array | None = None,
        rng: Rng = None,
        reset: Array | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: Any = still,
        **options: Any,
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        name, (cell, more) = op.__name__, choose(**options)
        output, finals, back = layers(
            name,
            cell,
            input,
            hx,
            params,
            num_layers,
            bidirectional,
            batch_first,
            dropout,
            training,
            lengths,
            rng,
            reset,
            _extras(name, cell, recurrent_dropout, zoneout, *more),
        )

        def pull(dout: Any) -> tuple[Any, ...]:
            doutput, dfinals = dout
            dx, dstates, dweights = back(doutput, as_states(name, cell, dfinals))
            dhx: Any = None
            if hx is not None:
                like = zip(dstates, as_states(name, cell, hx), strict=True)
                dhx = tuple(rounded(d, s.dtype) for d, s in like)
                dhx = dhx if cell.states == 2 else dhx[0]
            each = len(params) // len(dweights)
            flat = [d for run in dweights for d in run[:each]]
            dparams = [rounded(d, p.dtype) for d, p in zip(flat, params, strict=True)]
            gradients = (rounded(dx, input.dtype), dhx, dparams)
            return tuple(g if w else None for g, w in zip(gradients, wanted, strict=True))

        return (output, finals if cell.states == 2 else finals[0]), pull


_layervjp(lstm, lambda layer_norm=False, peepholes=False: (LSTM, (layer_norm, peepholes)), still=(0.0, 0.0))
_layervjp(
    gru, lambda reset_after=True, layer_norm=False: (_gru("gru", reset_after), (layer_norm,)), still=0.0
)
_layervjp(rnn, lambda nonlinearity="tanh": (_rnn("rnn", nonlinearity), ()), still=0.0)
