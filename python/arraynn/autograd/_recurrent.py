"""The recurrent ops' formulas in `autograd.numpy`, for where their gradient is itself differentiated.

A layer is then what it is in a book: a loop of cells over the steps. Its gradient alone is the kernels'.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.builtins import tuple as boxed_tuple
from autograd.core import make_vjp

from ..reference._cells import GRU, LSTM, RNN
from ..reference._extended import EPS, Extras, names_of
from ._second import as_dtype, sigmoid

# Of one layer and direction, by the names of `names_of`; those left out are not there.
Weights = dict[str, Any]
States = tuple[Any, ...]
Cell = Callable[[Any, States, Weights], States]

# -- cells ----------------------------------------------------------------------------------


def _normalized(a: Any) -> Any:
    centred = a - anp.mean(a, axis=-1, keepdims=True)
    return centred / anp.sqrt(anp.mean(centred**2, axis=-1, keepdims=True) + EPS)


def _product(w: Weights, side: str, v: Any, splits: list[int]) -> Any:
    """Return W v + b, W v normalized in parts that end at `splits` if it has gains."""
    a = anp.dot(v, w[f"w_{side}"].T)
    if f"gain_{side}" in w:
        parts = [_normalized(part) for part in anp.split(a, splits, axis=-1)]
        a = anp.concatenate(parts, axis=-1) * w[f"gain_{side}"]
    return a + w[f"b_{side}"] if f"b_{side}" in w else a


def _lstm(input: Any, states: States, w: Weights) -> States:
    h, c = states
    a_i, a_f, a_g, a_o = anp.split(_product(w, "ih", input, []) + _product(w, "hh", h, []), 4, axis=-1)
    if "peepholes" in w:
        a_i, a_f = a_i + w["peepholes"][0] * c, a_f + w["peepholes"][1] * c
    c = sigmoid(a_f) * c + sigmoid(a_i) * anp.tanh(a_g)
    if "peepholes" in w:
        a_o = a_o + w["peepholes"][2] * c
    shown = _normalized(c) * w["gain_c"] if "gain_c" in w else c
    h = sigmoid(a_o) * anp.tanh(shown + w["b_c"] if "b_c" in w else shown)
    return (anp.dot(h, w["w_hr"].T) if "w_hr" in w else h), c


def _gru(input: Any, states: States, w: Weights, *, reset_after: bool) -> States:
    (h,) = states
    first = 2 * h.shape[-1]
    xr, xz, xn = anp.split(_product(w, "ih", input, [first]), 3, axis=-1)
    if reset_after:
        hr, hz, hn = anp.split(_product(w, "hh", h, [first]), 3, axis=-1)
        r = sigmoid(xr + hr)
        inner = r * hn
    else:
        names = [name for name in w if name.endswith("_hh")]
        gates = {name: w[name][:first] for name in names}
        candidate = {name: w[name][first:] for name in names}
        hr, hz = anp.split(_product(gates, "hh", h, []), 2, axis=-1)
        r = sigmoid(xr + hr)
        inner = _product(candidate, "hh", r * h, [])
    z = sigmoid(xz + hz)
    return (z * h + (1 - z) * anp.tanh(xn + inner),)


def _rnn(input: Any, states: States, w: Weights, *, nonlinearity: str) -> States:
    a = _product(w, "ih", input, []) + _product(w, "hh", states[0], [])
    return (anp.where(a > 0, a, 0.0 * a) if nonlinearity == "relu" else anp.tanh(a),)


def _cell(kind: str, o: dict[str, Any]) -> Cell:
    """Return a kind's step with the options that it takes."""
    if kind == "lstm":
        return _lstm
    if kind == "gru":
        return functools.partial(_gru, reset_after=o["reset_after"])
    return functools.partial(_rnn, nonlinearity=o["nonlinearity"])


def _one_step(kind: str, arguments: dict[str, Any], o: dict[str, Any]) -> Any:
    hx = arguments["hx"]
    states = (hx[0], hx[1]) if kind == "lstm" else (hx,)
    w = {k: a for k, a in arguments.items() if k not in ("input", "hx") and a is not None}
    new = _cell(kind, o)(arguments["input"], states, w)
    return boxed_tuple(new) if kind == "lstm" else new[0]


# -- layers ---------------------------------------------------------------------------------


def _names(kind: str, each: int, o: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the `each` arrays of one layer and direction."""
    cell = {"lstm": LSTM, "gru": GRU[True], "rnn": RNN["tanh"]}[kind]
    extras = Extras(o.get("peepholes", False), o.get("layer_norm", False))
    kinds = [names_of(cell, extras, b, p) for p in (False, kind == "lstm") for b in (False, True)]
    return next(names for names in kinds if len(names) == each)


def _initial(kind: str, hx: Any, runs: int, batch: int, batched: bool, w: Weights, dtype: Any) -> list[Any]:
    """Return the states, each (layers * directions, N, H)."""
    if hx is None:
        width = w["w_hh"].shape[1]
        sizes = (width, w["w_hh"].shape[0] // 4) if kind == "lstm" else (width,)
        return [np.zeros((runs, batch, size), dtype) for size in sizes]
    states = [hx[0], hx[1]] if kind == "lstm" else [hx]
    return states if batched else [s[:, None] for s in states]


def _marks(steps: int, batch: int, swapped: bool, o: dict[str, Any]) -> tuple[Any, Any]:
    """Return where a step is inside its sequence and where the state is cleared before it, (T, N, 1) each."""
    active, fresh = np.ones((steps, batch, 1), bool), np.zeros((steps, batch, 1), bool)
    if o["lengths"] is not None:
        active = np.arange(steps)[:, None, None] < np.asarray(o["lengths"])[:, None]
    if o["reset"] is not None:
        marks = np.asarray(o["reset"]) != 0
        fresh = (marks.T if swapped else marks).reshape(steps, batch, 1)
    return active, fresh & active


def _direction(
    cell: Cell, x: Any, states: States, w: Weights, active: Any, fresh: Any, stay: Any, reverse: bool
) -> tuple[Any, States]:
    outputs: list[Any] = [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        before = tuple(anp.where(fresh[t], 0.0, s) for s in states)
        new = cell(x[t], before, w)
        # zoneout, outside training: its mean
        new = tuple(p * old + (1 - p) * s for p, s, old in zip(stay, new, before, strict=False))
        states = tuple(anp.where(active[t], a, b) for a, b in zip(new, before, strict=True))
        outputs[t] = anp.where(active[t], new[0], 0.0)
    return anp.stack(outputs), states


def _sequence(kind: str, arguments: dict[str, Any], o: dict[str, Any]) -> Any:
    x, params = arguments["input"], arguments["params"]
    batched = x.ndim == 3
    swapped = batched and o["batch_first"]
    x = x if batched else x[:, None]
    x = anp.swapaxes(x, 0, 1) if swapped else x
    directions = 2 if o["bidirectional"] else 1
    runs = o["num_layers"] * directions
    each = len(params) // runs
    names = _names(kind, each, o)
    weights = [{name: params[k * each + i] for i, name in enumerate(names)} for k in range(runs)]
    initial = _initial(kind, arguments["hx"], runs, x.shape[1], batched, weights[0], x.dtype)
    active, fresh = _marks(x.shape[0], x.shape[1], swapped, o)
    x = anp.where(active, x, 0.0)
    stay = np.broadcast_to(o.get("zoneout", 0.0), 2)
    ends = []
    for layer in range(o["num_layers"]):
        outputs = []
        for d in range(directions):
            k = layer * directions + d
            states = tuple(s[k] for s in initial)
            output, end = _direction(_cell(kind, o), x, states, weights[k], active, fresh, stay, d == 1)
            outputs.append(output)
            ends.append(end)
        x = anp.concatenate(outputs, axis=-1)
    finals = [anp.stack(s) for s in zip(*ends, strict=True)]
    if not batched:
        return boxed_tuple((x[:, 0], *(s[:, 0] for s in finals)))
    return boxed_tuple((anp.swapaxes(x, 0, 1) if swapped else x, *finals))


# -- rules ----------------------------------------------------------------------------------


def _refuse_drawn(op: str, o: dict[str, Any]) -> None:
    for name in ("dropout", "recurrent_dropout", "zoneout"):
        if o.get("training") and np.max(o.get(name, 0.0)) > 0:
            raise NotImplementedError(f"{op} has no second derivative with {name} in training")


def _by(formula: Callable[..., Any], kind: str) -> Callable[..., list[Any]]:
    def rule(call: Any, leaves: tuple[Any, ...], cotangent: Any) -> list[Any]:
        given = inspect.signature(call.op).bind(**call.arguments)
        given.apply_defaults()
        options = {k: v for k, v in given.arguments.items() if k not in call.structure and k != "out"}
        _refuse_drawn(call.op.__name__, options)

        def out(arrays: Any) -> Any:
            return formula(kind, {k: call.filled(v, arrays) for k, v in call.structure.items()}, options)

        pull, _ = make_vjp(out, boxed_tuple(leaves))
        gradients = pull(boxed_tuple(cotangent) if isinstance(cotangent, tuple | list) else cotangent)
        return [as_dtype(gradients[i], leaves[i]) for i in range(len(leaves))]

    return rule


RECURRENT = {f"{kind}_cell": _by(_one_step, kind) for kind in ("lstm", "gru", "rnn")}
RECURRENT |= {kind: _by(_sequence, kind) for kind in ("lstm", "gru", "rnn")}
