"""Recurrent cells and layers: LSTM, GRU and plain recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _core
from ._common import Array
from ._rnn import (
    Call,
    State,
    define_cell_vjp,
    define_layer_vjp,
    define_lstm_cell_vjp,
    extras_of,
    is_relu,
    is_reset_first,
    required,
    states,
)

# ---- cells ----------------------------------------------------------------------------------------


def lstm_cell(
    input: Array,
    hx: tuple[Array, Array],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    peepholes: Array | None = None,
) -> State:
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
    peepholes : array of shape (3, H), optional
        By how much i and f see c, and o sees c': what their rows are multiplied with is added before the
        sigmoid (Gers et al., 2002). It has the last place among the gradients, if it is given.

    Returns
    -------
    (h, c) : arrays of shape (N, H) or (H,)

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit.

    Notes
    -----
    Weights of other formulas: where there is one bias, it is `b_ih`; where one matrix W takes h and x
    joined, ``W [h, x]``, `w_hh` is its first H columns and `w_ih` the others, the gates' matrices
    stacked in the order i, f, g, o (g is often written as a candidate, c~).
    """
    h, c = states("lstm_cell", required("lstm_cell", hx))
    params: tuple[Array | None, ...] = (w_ih, w_hh, b_ih, b_hh)
    if peepholes is not None:
        params += (peepholes,)
    _, h, c, _ = _core.lstm_cell(input, h, c, params, False)
    return h, c


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
    """Take one GRU step.

    ``r, z = sigmoid(W x + b)`` (with both products and biases),
    ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``, ``h' = (1 - z) n + z h`` (Cho et al., 2014, with
    the reset gate behind the product, as cuDNN and PyTorch have it); without `reset_after` it is
    before it, as in the paper: ``n = tanh(W_in x + b_in + W_hn (r h) + b_hn)``.

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
    reset_after : bool, default True
        Whether the reset gate is behind the product with the state or before it.
    out : array of shape (N, H) or (H,), optional
        Where to write the result.

    Returns
    -------
    array of shape (N, H) or (H,)

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit.

    Notes
    -----
    Weights of other formulas: where z means the opposite, ``h' = (1 - z) h + z n`` (Chung et al.,
    2014, and many textbooks), change the sign of z's rows of all weights and biases, since
    ``1 - sigmoid(a) = sigmoid(-a)``. Where there is one bias, it is `b_ih`. Where one matrix W takes
    h and x joined, ``W [h, x]``, `w_hh` is its first H columns and `w_ih` the others, the gates'
    matrices stacked in the order r, z, n.
    """
    other = reset_after is not True and is_reset_first("gru_cell", reset_after)
    h: Array = _core.gru_cell(input, required("gru_cell", hx), (w_ih, w_hh, b_ih, b_hh), other, False, out)
    return h


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
    """Take one step of a plain recurrent network.

    ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or ``max(0, .)`` of the same (Elman, 1990).

    Parameters
    ----------
    input : array of shape (N, I) or (I,)
        Floating.
    hx : array of shape (N, H) or (H,)
        The state h.
    w_ih : array of shape (H, I)
    w_hh : array of shape (H, H)
    b_ih, b_hh : arrays of shape (H,), optional
    nonlinearity : {'tanh', 'relu'}, default 'tanh'
    out : array of shape (N, H) or (H,), optional
        Where to write the result.

    Returns
    -------
    array of shape (N, H) or (H,)

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, its shape does not fit, or `nonlinearity` is unknown.
    """
    params, relu = (w_ih, w_hh, b_ih, b_hh), is_relu("rnn_cell", nonlinearity)
    h: Array = _core.rnn_cell(input, required("rnn_cell", hx), params, relu, False, out)
    return h


define_lstm_cell_vjp(lstm_cell)
define_cell_vjp(gru_cell, lambda reset_after=True: is_reset_first("gru_cell", reset_after))
define_cell_vjp(rnn_cell, lambda nonlinearity="tanh": is_relu("rnn_cell", nonlinearity))


# ---- layers ---------------------------------------------------------------------------------------


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
    reset: Array | None = None,
    peepholes: bool = False,
    recurrent_dropout: float = 0.0,
    zoneout: tuple[float, float] = (0.0, 0.0),
    layer_norm: bool = False,
) -> tuple[Array, State]:
    """Run an LSTM over sequences (see `lstm_cell` for the step).

    Parameters
    ----------
    input : array of shape (T, N, I), or (N, T, I) with `batch_first`, or (T, I)
        Floating. T may be 0.
    hx : tuple of two arrays of shape (num_layers * D, N, H) or (num_layers * D, H), or None
        The initial states h and c; zeros if None. D is 2 if bidirectional, else 1. With a projection h
        is (num_layers * D, N, P).
    params : sequence of arrays
        In the order of PyTorch's ``_flat_weights``: per layer and direction ``w_ih`` (4 H, I or D H),
        ``w_hh`` (4 H, H), and with biases ``b_ih`` (4 H,), ``b_hh`` (4 H,). Where one array more for each
        layer and direction is given, it is ``w_hr`` (P, H), a projection (Sak et al., 2014): h is
        ``W_hr (o tanh(c'))``, of P elements in all of its places, and ``w_hh`` is (4 H, P). What options
        ask for follows: of `peepholes` (3, H) for i, f, o; of `layer_norm` gains of the input's product
        (4 H,), the state's (4 H,) and c's (H,), and with biases one of c's (H,).
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
        For the masks of dropout and zoneout.
    reset : bool or integer array of shape (T, N), (N, T) with `batch_first`, or (T,), optional
        Where it is true, or not zero, the states h and c of a sequence are zero before that step, as where
        another sequence begins; no gradient flows through. Each direction counts steps its own way: the
        reverse one has step t + 1 before step t. Past a sequence's end nothing is reset.
    peepholes : bool, default False
        Whether i and f see c, and o sees c' (Gers et al., 2002; see `lstm_cell`), with weights in `params`.
    recurrent_dropout : float, default 0.0
        If `training`, applied to h on its way into the recurrent product, with one mask of (N, H) for all
        steps of a layer and direction (Gal and Ghahramani, 2016).
    zoneout : tuple of two floats, default (0.0, 0.0)
        The probabilities with which an element of h, and of c, stays as it was before the step if `training`;
        otherwise the step takes the mean of what was and what is new (Krueger et al., 2017).
    layer_norm : bool, default False
        Whether ``W_ih x``, ``W_hh h`` and c', on its way to h, are normalized (Ba et al., 2016), with gains
        in `params` and an eps of 1e-5. The two products are normalized over all gates.

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
    h, c = states("lstm", hx)
    call = Call(
        "lstm",
        input,
        params,
        num_layers,
        bidirectional,
        batch_first,
        dropout,
        training,
        lengths,
        rng,
        reset,
        False,
        extras_of(True, recurrent_dropout, zoneout, layer_norm, peepholes),
    )
    output, h_n, c_n, _ = _core.lstm(call.input, h, c, call.params, *call.options, False)
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
    reset_after: bool = True,
    reset: Array | None = None,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
    layer_norm: bool = False,
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
        ``w_hh`` (3 H, H), and with biases ``b_ih`` (3 H,), ``b_hh`` (3 H,); with `layer_norm` then the
        gains of the input's product (3 H,) and of the state's (3 H,).
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
        For the masks of dropout and zoneout.
    reset_after : bool, default True
        Whether the reset gate is behind the product with the state or before it.
    reset : bool or integer array of shape (T, N), (N, T) with `batch_first`, or (T,), optional
        Where it is true, or not zero, the state of a sequence is zero before that step, as where
        another sequence begins; no gradient flows through. Each direction counts steps its own way: the
        reverse one has step t + 1 before step t. Past a sequence's end nothing is reset.
    recurrent_dropout : float, default 0.0
        If `training`, applied to h on its way into the recurrent product, with one mask of (N, H) for all
        steps of a layer and direction (Gal and Ghahramani, 2016).
    zoneout : float, default 0.0
        The probability with which an element of h stays as it was before the step if `training`; otherwise
        the step takes the mean of what was and what is new (Krueger et al., 2017).
    layer_norm : bool, default False
        Whether ``W_ih x`` and ``W_hh h`` are normalized (Ba et al., 2016), with gains in `params` and an eps
        of 1e-5: r and z together, and n by itself, inside its reset gate. It takes `reset_after`.

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
    call = Call(
        "gru",
        input,
        params,
        num_layers,
        bidirectional,
        batch_first,
        dropout,
        training,
        lengths,
        rng,
        reset,
        reset_after is not True and is_reset_first("gru", reset_after),
        extras_of(False, recurrent_dropout, zoneout, layer_norm),
    )
    output, h_n, _, _ = _core.gru(call.input, hx, None, call.params, *call.options, False)
    return output, h_n


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
    rng: Any = None,
    nonlinearity: str = "tanh",
    reset: Array | None = None,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
) -> tuple[Array, Array]:
    """Run a plain recurrent network over sequences (see `rnn_cell` for the step).

    Parameters
    ----------
    input : array of shape (T, N, I), or (N, T, I) with `batch_first`, or (T, I)
        Floating. T may be 0.
    hx : array of shape (num_layers * D, N, H) or (num_layers * D, H), or None
        The initial state; zeros if None. D is 2 if bidirectional, else 1.
    params : sequence of arrays
        In the order of PyTorch's ``_flat_weights``: per layer and direction ``w_ih`` (H, I or D H),
        ``w_hh`` (H, H), and with biases ``b_ih`` (H,), ``b_hh`` (H,).
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
        For the masks of dropout and zoneout.
    nonlinearity : {'tanh', 'relu'}, default 'tanh'
    reset : bool or integer array of shape (T, N), (N, T) with `batch_first`, or (T,), optional
        Where it is true, or not zero, the state of a sequence is zero before that step, as where
        another sequence begins; no gradient flows through. Each direction counts steps its own way: the
        reverse one has step t + 1 before step t. Past a sequence's end nothing is reset.
    recurrent_dropout : float, default 0.0
        If `training`, applied to h on its way into the recurrent product, with one mask of (N, H) for all
        steps of a layer and direction (Gal and Ghahramani, 2016).
    zoneout : float, default 0.0
        The probability with which an element of h stays as it was before the step if `training`; otherwise
        the step takes the mean of what was and what is new (Krueger et al., 2017).

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
    call = Call(
        "rnn",
        input,
        params,
        num_layers,
        bidirectional,
        batch_first,
        dropout,
        training,
        lengths,
        rng,
        reset,
        is_relu("rnn", nonlinearity),
        extras_of(False, recurrent_dropout, zoneout),
    )
    output, h_n, _, _ = _core.rnn(call.input, hx, None, call.params, *call.options, False)
    return output, h_n


define_layer_vjp(lstm, lambda layer_norm=False, peepholes=False: (False, layer_norm, peepholes), pair=True)
define_layer_vjp(
    gru,
    lambda reset_after=True, layer_norm=False: (is_reset_first("gru", reset_after), layer_norm, False),
)
define_layer_vjp(rnn, lambda nonlinearity="tanh": (is_relu("rnn", nonlinearity), False, False))
