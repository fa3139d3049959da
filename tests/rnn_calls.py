"""Calls of the recurrent ops: weights, states, sequences, and how far results may be off."""

from __future__ import annotations

from typing import Any

import numpy as np
from checks import check_op
from hypothesis import strategies as st
from shapes import arrays, lay, seeds, values, wide_dtypes, widths
from tolerance import largest

GATES = {"lstm": 4, "gru": 3, "rnn": 1, "lstm_cell": 4, "gru_cell": 3, "rnn_cell": 1}
LAYERS = ("lstm", "gru", "rnn")
CELLS = ("lstm_cell", "gru_cell", "rnn_cell")
# An op's own options, which draw another kernel or another function.
FORMS: dict[str, list[dict[str, Any]]] = {
    "lstm": [{}],
    "gru": [{}, {"reset_after": False}],
    "rnn": [{"nonlinearity": "tanh"}, {"nonlinearity": "relu"}],
}
FORMS |= {f"{name}_cell": forms for name, forms in FORMS.items()}
LAYER_FORMS = [(name, form) for name in LAYERS for form in FORMS[name]]
CELL_FORMS = [(name, form) for name in CELLS for form in FORMS[name]]


def weights(
    name: str, inputs: int, hidden: int, dtype: Any, layers: int = 1, directions: int = 1, bias: bool = True
) -> Any:
    """Return weights in the order of PyTorch's `_flat_weights`, scaled so that gates do not saturate."""
    rows, found = GATES[name] * hidden, []
    for layer in range(layers):
        for _ in range(directions):
            features = inputs if layer == 0 else directions * hidden
            shapes: list[tuple[int, ...]] = [(rows, features), (rows, hidden)]
            shapes += [(rows,), (rows,)] if bias else []
            for s in shapes:
                w = values(s, np.float64, len(found) + 1)
                found.append((w / max(1, s[-1]) ** 0.5 if len(s) == 2 else w).astype(dtype))
    return found


def extended_weights(
    name: str,
    inputs: int,
    hidden: int,
    dtype: Any,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    projection: int = 0,
    peepholes: bool = False,
    layer_norm: bool = False,
    **_: Any,
) -> list[Any]:
    """Return parameters of a layer with those options in their order, so that gates do not saturate."""
    rows, width, found = GATES[name] * hidden, projection or hidden, []
    for layer in range(num_layers):
        for _ in range(1 + bidirectional):
            features = inputs if layer == 0 else (1 + bidirectional) * width
            shapes: list[tuple[int, ...]] = [(rows, features), (rows, width)]
            shapes += [(rows,), (rows,)] if bias else []
            shapes += [(width, hidden)] if projection else []
            shapes += [(3, hidden)] if peepholes else []
            if layer_norm:
                shapes += [(rows,), (rows,)] + ([(hidden,)] * (1 + bias) if name == "lstm" else [])
            for s in shapes:
                w = values(s, np.float64, len(found) + 1)
                found.append((w / max(1, s[-1]) ** 0.5 if len(s) == 2 else w).astype(dtype))
    return found


def states(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """h and c differ, or exchanging them would not show."""
    h, c = values(shape, dtype, 101), values(shape, dtype, 102)
    return (h, c) if GATES[name] == 4 else h


def bound(x: Any, params: Any, steps: int, layers: int = 1) -> dict[str, tuple[float, ...]]:
    """Each step and layer adds the rounding of its sums to what it was given.

    A gradient of a weight also sums over rows and steps.
    """
    hidden = params[1].shape[1]
    terms = (x.shape[-1] + 2 * hidden + 16) * layers * (1 + steps**0.5)
    scale = max(1.0, largest(x)) * max(0.5, largest(*params))
    rows = max(1, x.size // max(1, x.shape[-1]))
    sums = (terms + rows, 2 * scale * (1 + steps) ** 0.5)
    names = dict.fromkeys(("w_ih", "w_hh", "b_ih", "b_hh", "params"), sums)
    return {"out": (terms, scale), "input": (terms, 2 * scale), "hx": (terms, 2 * scale), **names}


def check_layers(name: str, x: Any, hx: Any, params: Any, **options: Any) -> Any:
    steps = x.shape[1 if options.get("batch_first") and x.ndim == 3 else 0]
    return check_op(
        name, x, hx, params, bounds=bound(x, params, steps, options.get("num_layers", 1)), **options
    )


def textbook(gates: list[str], inputs: int, hidden: int) -> dict[str, Any]:
    """Return for each gate W, which takes h and x joined, and b."""
    found: dict[str, Any] = {}
    for i, gate in enumerate(gates):
        found[f"W_{gate}"] = values((hidden, hidden + inputs), np.float64, 10 + i) / (hidden + inputs) ** 0.5
        found[f"b_{gate}"] = values((hidden,), np.float64, 20 + i)
    return found


def stacked(book: dict[str, Any], gates: str, hidden: int, opposite: str = "") -> list[Any]:
    """Return w_ih, w_hh and b_ih of gates in the ops' order; those in `opposite` mean 1 - the ops' own."""
    sign = {gate: -1.0 if gate in opposite else 1.0 for gate in gates}
    w = np.concatenate([sign[gate] * book[f"W_{gate}"] for gate in gates])
    return [w[:, hidden:], w[:, :hidden], np.concatenate([sign[gate] * book[f"b_{gate}"] for gate in gates])]


def resets(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Draw where states are reset: never, here and there, always; as booleans or integers, of any strides."""
    rng, rate = np.random.default_rng(draw(seeds)), draw(st.sampled_from([0.0, 0.3, 1.0]))
    marks = (rng.random(shape) < rate) * rng.integers(-3, 4, shape)
    dtype = draw(st.sampled_from([np.bool_, np.int8, np.int64, np.uint16]))
    return lay(marks.astype(dtype), draw(st.sampled_from(["c", "fortran", "reversed", "strided"])), 0)


@st.composite
def sequences(draw: st.DrawFn, name: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    dtype, inputs, hidden = (
        draw(wide_dtypes),
        draw(widths),
        draw(st.sampled_from((1, 2, 3, 5, 8, 9, 16, 17, 33))),
    )
    layers, both, first = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans())
    steps, batch = draw(st.integers(0, 6)), draw(st.sampled_from([None, 0, 1, 2, 3, 5, 9]))
    params = weights(name, inputs, hidden, dtype, layers, 1 + both, draw(st.booleans()))
    shape = (steps, inputs) if batch is None else (batch, steps, inputs) if first else (steps, batch, inputs)
    x = draw(arrays(shape, dtype))
    runs = layers * (1 + both)
    options = dict(num_layers=layers, bidirectional=both, batch_first=first)
    layout = st.sampled_from(["c", "fortran", "reversed", "strided", "read-only"])
    hx: Any = None
    if draw(st.booleans()):
        hx = states(name, (runs, hidden) if batch is None else (runs, batch, hidden), dtype)
        hx = tuple(lay(s, draw(layout), 0) for s in hx) if isinstance(hx, tuple) else lay(hx, draw(layout), 0)
    params = [lay(p, draw(layout), 0) for p in params]
    if batch is not None and draw(st.booleans()):
        rng = np.random.default_rng(draw(seeds))
        lengths = rng.integers(0, steps + 1, batch).astype(
            draw(st.sampled_from([np.int64, np.int32, np.uint8]))
        )
        options["lengths"] = lengths
    if draw(st.booleans()):
        options["reset"] = resets(draw, shape[:-1])
    if draw(st.booleans()):
        options.update(
            dropout=draw(st.sampled_from([0.0, 0.4, 1.0])),
            training=draw(st.booleans()),
            rng=draw(st.integers(0, 99)),
        )
    return x, hx, params, options
