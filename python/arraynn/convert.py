"""Weights of recurrent layers from and to the orders of PyTorch, Keras and ONNX.

All functions are of one layer, with one direction or two, but for PyTorch's, and take and return NumPy
arrays; the parameters of a network of several layers are those of its layers, one after the other.

================  ====================================================================================
arraynn, PyTorch  w_ih (G H, I), w_hh (G H, H), b_ih (G H,), b_hh (G H,); gates i f g o, and r z n
Keras             kernel (I, G H), recurrent_kernel (H, G H), bias (G H,), or (2, G H) of a GRU with
                  ``reset_after``; gates i f c o, and z r h
ONNX              W (D, G H, I), R (D, G H, H), B (D, 2 G H), P (D, 3 H); gates i o f c, and z r h
================  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._common import Array, flag, integer

__all__ = ["Onnx", "from_keras", "from_onnx", "from_torch", "to_keras", "to_onnx", "to_torch"]

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
# Where the gates of another order stand in ours: gate i of ours is gate order[i] of theirs.
_KERAS = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}
_ONNX = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn": (0,)}
_PEEPHOLES = (0, 2, 1)  # i f o of i o f, and back


def _gates(op: str, kind: Any) -> int:
    if kind not in _GATES:
        raise ValueError(f"{op}: kind is {kind!r}, expected 'lstm', 'gru' or 'rnn'")
    return _GATES[kind]


def _take(order: Sequence[int], rows: Array) -> Array:
    """Return the blocks of `rows` in that order."""
    blocks = rows.reshape(len(order), -1, *rows.shape[1:])
    return np.ascontiguousarray(blocks[list(order)].reshape(rows.shape))


def _back(order: Sequence[int]) -> list[int]:
    return [order.index(i) for i in range(len(order))]


def _checked(op: str, name: str, array: Any, shape: tuple[int | None, ...]) -> Array:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{op}: {name} is a {type(array).__name__}, expected a NumPy array")
    fits = array.ndim == len(shape)
    if not fits or any(s is not None and s != n for s, n in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(f"{op}: {name} has shape {array.shape}, expected ({expected})")
    return array


def _sequence(op: str, name: str, arrays: Any) -> list[Any]:
    if isinstance(arrays, np.ndarray) or not isinstance(arrays, Sequence):
        raise TypeError(f"{op}: {name} is a {type(arrays).__name__}, expected a list of arrays")
    return list(arrays)


def _runs(
    op: str, kind: Any, params: Any, directions: int, peepholes: bool = False
) -> list[tuple[Array, Array, Array | None, Array | None, Array | None]]:
    """Return each direction's w_ih, w_hh, b_ih, b_hh and peepholes, checked."""
    gates, arrays, found = _gates(op, kind), _sequence(op, "params", params), []
    if peepholes and kind != "lstm":
        raise ValueError(f"{op}: peepholes is True, but kind is {kind!r}")
    counts = [directions * (n + peepholes) for n in (2, 4)]
    if len(arrays) not in counts:
        raise ValueError(f"{op}: params has {len(arrays)} arrays, expected {counts[0]} or {counts[1]}")
    each = len(arrays) // directions
    for first in range(0, len(arrays), each):
        _, hidden = _checked(op, f"params[{first + 1}]", arrays[first + 1], (None, None)).shape
        rows = gates * hidden
        shapes: list[tuple[int | None, ...]] = [(rows, None), (rows, hidden)]
        shapes += [(rows,), (rows,)] if each > 3 else []
        shapes += [(3, hidden)] if peepholes else []
        run = [
            _checked(op, f"params[{first + i}]", arrays[first + i], shape) for i, shape in enumerate(shapes)
        ]
        p = run.pop() if peepholes else None
        b_ih, b_hh = run[2:] if each > 3 else (None, None)
        found.append((run[0], run[1], b_ih, b_hh, p))
    return found


def _directions(op: str, bidirectional: Any) -> int:
    return 2 if flag(op, "bidirectional", bidirectional) else 1


# ---- Keras ------------------------------------------------------------------------------------------


def from_keras(kind: str, weights: Sequence[Array], *, bidirectional: bool = False) -> list[Array]:
    """Return the parameters of `lstm`, `gru` or `rnn` that a Keras layer's weights are.

    Parameters
    ----------
    kind : {'lstm', 'gru', 'rnn'}
        Of a ``keras.layers.LSTM``, ``GRU`` or ``SimpleRNN``.
    weights : sequence of arrays
        What the layer's ``get_weights()`` returns: kernel, recurrent kernel and, if there is one, bias;
        of ``Bidirectional`` the forward layer's and then the backward layer's.
    bidirectional : bool, default False

    Returns
    -------
    list of arrays
        w_ih, w_hh and, with a bias, b_ih and b_hh, for each direction. A bias of shape (2, 3 H) is that of a
        GRU with ``reset_after=True``, any other bias becomes b_ih, and b_hh is zero.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
    """
    op = "from_keras"
    gates, arrays, directions = (
        _gates(op, kind),
        _sequence(op, "weights", weights),
        _directions(op, bidirectional),
    )
    if len(arrays) not in (2 * directions, 3 * directions):
        counts = f"{2 * directions} or {3 * directions}"
        raise ValueError(f"{op}: weights has {len(arrays)} arrays, expected {counts}")
    each, order, params = len(arrays) // directions, _KERAS[kind], []
    for first in range(0, len(arrays), each):
        names = [f"weights[{first + i}]" for i in range(each)]
        hidden, _ = _checked(op, names[1], arrays[first + 1], (None, None)).shape
        columns = gates * hidden
        kernel = _checked(op, names[0], arrays[first], (None, columns))
        recurrent = _checked(op, names[1], arrays[first + 1], (hidden, columns))
        params += [_take(order, kernel.T), _take(order, recurrent.T)]
        if each == 2:
            continue
        bias = arrays[first + 2]
        if kind == "gru" and isinstance(bias, np.ndarray) and bias.ndim == 2:
            params += [_take(order, b) for b in _checked(op, names[2], bias, (2, columns))]
        else:
            b_ih = _take(order, _checked(op, names[2], bias, (columns,)))
            params += [b_ih, np.zeros_like(b_ih)]
    return params


def to_keras(
    kind: str, params: Sequence[Array], *, bidirectional: bool = False, reset_after: bool = True
) -> list[Array]:
    """Return what `set_weights` of a Keras layer takes; the inverse of `from_keras`.

    Parameters
    ----------
    kind : {'lstm', 'gru', 'rnn'}
    params : sequence of arrays
        Of one layer: w_ih, w_hh and with biases b_ih, b_hh, for each direction.
    bidirectional : bool, default False
    reset_after : bool, default True
        Of a GRU: with it Keras keeps two biases; without, as in all other layers, one, which is their sum.

    Returns
    -------
    list of arrays
        Kernel, recurrent kernel and, with biases, bias, for each direction.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
    """
    op = "to_keras"
    runs = _runs(op, kind, params, _directions(op, bidirectional))
    two = flag(op, "reset_after", reset_after) and kind == "gru"
    order, weights = _back(_KERAS[kind]), []
    for w_ih, w_hh, b_ih, b_hh, _ in runs:
        weights += [np.ascontiguousarray(_take(order, w).T) for w in (w_ih, w_hh)]
        if b_ih is not None and b_hh is not None:
            weights.append(
                np.stack([_take(order, b_ih), _take(order, b_hh)]) if two else _take(order, b_ih + b_hh)
            )
    return weights


# ---- ONNX -------------------------------------------------------------------------------------------


class Onnx(NamedTuple):
    """The inputs W, R, B and P of an ONNX node ``LSTM``, ``GRU`` or ``RNN``; None: not there."""

    W: Array
    R: Array
    B: Array | None = None
    P: Array | None = None


def from_onnx(kind: str, W: Array, R: Array, B: Array | None = None, P: Array | None = None) -> list[Array]:
    """Return the parameters of `lstm`, `gru` or `rnn` that an ONNX node's weights are.

    Parameters
    ----------
    kind : {'lstm', 'gru', 'rnn'}
        A GRU's ``linear_before_reset`` is the op's `reset_after`.
    W : array of shape (D, G H, I)
        D is the number of directions.
    R : array of shape (D, G H, H)
    B : array of shape (D, 2 G H), optional
    P : array of shape (D, 3 H), optional
        An LSTM's peepholes.

    Returns
    -------
    list of arrays
        w_ih, w_hh, with `B` b_ih and b_hh, with `P` peepholes (3, H), for each direction.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
    """
    op = "from_onnx"
    gates, order, params = _gates(op, kind), _ONNX[kind], []
    directions, _, hidden = _checked(op, "R", R, (None, None, None)).shape
    if directions not in (1, 2):
        raise ValueError(f"{op}: R has shape {R.shape}, expected one direction or two")
    rows = gates * hidden
    _checked(op, "R", R, (directions, rows, hidden))
    _checked(op, "W", W, (directions, rows, None))
    if B is not None:
        _checked(op, "B", B, (directions, 2 * rows))
    if P is not None:
        if kind != "lstm":
            raise ValueError(f"{op}: P is given, but kind is {kind!r}")
        _checked(op, "P", P, (directions, 3 * hidden))
    for d in range(directions):
        params += [_take(order, W[d]), _take(order, R[d])]
        if B is not None:
            params += [_take(order, b) for b in np.split(B[d], 2)]
        if P is not None:
            params.append(_take(_PEEPHOLES, P[d].reshape(3, hidden)))
    return params


def to_onnx(
    kind: str, params: Sequence[Array], *, bidirectional: bool = False, peepholes: bool = False
) -> Onnx:
    """Return W, R, B and P of an ONNX node; the inverse of `from_onnx`.

    Parameters
    ----------
    kind : {'lstm', 'gru', 'rnn'}
    params : sequence of arrays
        Of one layer: w_ih, w_hh, with biases b_ih, b_hh, with `peepholes` those, for each direction.
    bidirectional : bool, default False
    peepholes : bool, default False

    Returns
    -------
    Onnx
        W, R, B and P, of which the last two may be None.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
    """
    op = "to_onnx"
    runs = _runs(op, kind, params, _directions(op, bidirectional), flag(op, "peepholes", peepholes))
    order = _back(_ONNX[kind])
    pairs = [(b_ih, b_hh) for _, _, b_ih, b_hh, _ in runs if b_ih is not None and b_hh is not None]
    b = [np.concatenate([_take(order, bias) for bias in pair]) for pair in pairs]
    p = [_take(_PEEPHOLES, run[4]).reshape(-1) for run in runs if run[4] is not None]
    return Onnx(
        np.stack([_take(order, run[0]) for run in runs]),
        np.stack([_take(order, run[1]) for run in runs]),
        np.stack(b) if b else None,
        np.stack(p) if p else None,
    )


# ---- PyTorch ----------------------------------------------------------------------------------------

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def from_torch(state: Mapping[str, Array], *, prefix: str = "") -> list[Array]:
    """Return the parameters that the arrays of a ``torch.nn.LSTM``, ``GRU`` or ``RNN`` are, in order.

    Parameters
    ----------
    state : mapping of names to arrays
        Its state dict: weight_ih_l0, weight_hh_l0, bias_ih_l0, … of all layers and directions. Arrays are
        returned as they are.
    prefix : str, default ''
        Of the layer's names in the state dict of a larger module, with its dot.

    Returns
    -------
    list of arrays

    Raises
    ------
    TypeError, ValueError
        `state` is no mapping, or lacks the arrays of a layer.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"from_torch: state is a {type(state).__name__}, expected a mapping of names to arrays"
        )
    params: list[Array] = []
    each = [*_NAMES[:2], *(name for name in _NAMES[2:] if f"{prefix}{name}_l0" in state)]
    both = ("", "_reverse") if f"{prefix}weight_ih_l0_reverse" in state else ("",)
    layer = 0
    while layer == 0 or f"{prefix}weight_ih_l{layer}" in state:
        for name in (f"{prefix}{n}_l{layer}{direction}" for direction in both for n in each):
            if name not in state:
                raise ValueError(f"from_torch: state has no {name}")
            params.append(state[name])
        layer += 1
    return params


def to_torch(
    params: Sequence[Array], *, num_layers: int = 1, bidirectional: bool = False, prefix: str = ""
) -> dict[str, Array]:
    """Return the arrays of `params` by PyTorch's names; the inverse of `from_torch`.

    Parameters
    ----------
    params : sequence of arrays
        Per layer and direction w_ih, w_hh, with biases b_ih, b_hh, and with a projection w_hr.
    num_layers : int, default 1
    bidirectional : bool, default False
    prefix : str, default ''

    Returns
    -------
    dict of names to arrays
        What ``load_state_dict`` of an arraynn layer takes, and of a PyTorch module, as tensors.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, or `params` another number of arrays.
    """
    op = "to_torch"
    arrays, layers = _sequence(op, "params", params), integer(op, "num_layers", num_layers)
    both = ("", "_reverse")[: _directions(op, bidirectional)]
    if layers < 1:
        raise ValueError(f"{op}: num_layers is {layers}, expected at least 1")
    each, rest = divmod(len(arrays), layers * len(both))
    names = {2: _NAMES[:2], 3: (*_NAMES[:2], _NAMES[4]), 4: _NAMES[:4], 5: _NAMES}.get(each)
    if rest or names is None:
        runs = layers * len(both)
        raise ValueError(f"{op}: params has {len(arrays)} arrays, expected 2, 3, 4 or 5 times {runs}")
    suffixes = [f"_l{layer}{direction}" for layer in range(layers) for direction in both]
    return dict(zip([f"{prefix}{n}{suffix}" for suffix in suffixes for n in names], arrays, strict=True))
