"""What the recurrent ops share: checks, and cells along sequences, in layers and directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._cells import Cell, State, StepPull, Weights, weights_of
from ._common import (
    Array,
    floating,
    fraction,
    integer,
    integers,
    result_dtype,
    rounded,
    shaped,
    wide,
)
from ._extended import Extras, Masks, names_of, shapes_of, step
from .dropout import as_generator, draw_key, keep_scale, kept


def as_states(op: str, cell: Cell, hx: Any) -> tuple[Any, ...]:
    """Return hx as a tuple of states."""
    if cell.states == 1:
        return (hx,)
    if not isinstance(hx, tuple | list):
        raise TypeError(f"{op}: hx must be a tuple (h, c), got {type(hx).__name__}")
    if len(hx) != 2:
        raise ValueError(f"{op}: hx must be a tuple (h, c), got {len(hx)} entries")
    return tuple(hx)


def state_names(cell: Cell) -> tuple[str, ...]:
    return ("hx",) if cell.states == 1 else ("hx[0]", "hx[1]")


def check_cell(
    op: str, cell: Cell, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any
) -> np.dtype[Any]:
    floating(op, "input", input, (1, 2))
    states = as_states(op, cell, hx)
    for name, state in zip(state_names(cell), states, strict=True):
        floating(op, name, state)
    hidden = check_weights(
        op, cell, ("w_ih", "w_hh", "b_ih", "b_hh"), (w_ih, w_hh, b_ih, b_hh), input.shape[-1]
    )
    for name, state in zip(state_names(cell), states, strict=True):
        shaped(op, name, state, (*input.shape[:-1], hidden))
    return result_dtype(op, input, *states, w_ih, w_hh, b_ih, b_hh)


def check_weights(op: str, cell: Cell, names: Sequence[str], weights: Sequence[Any], features: int) -> int:
    """Check one direction's weights against the number of input features; return the hidden size."""
    for name, weight, ndim in zip(names, weights, (2, 2, 1, 1), strict=False):
        if weight is not None or ndim == 2:
            floating(op, name, weight, (ndim,))
    hidden = int(weights[1].shape[1])
    rows = cell.gates * hidden
    shaped(op, names[1], weights[1], (rows, hidden))
    shaped(op, names[0], weights[0], (rows, features))
    for name, bias in zip(names[2:], weights[2:], strict=False):
        if bias is not None:
            shaped(op, name, bias, (rows,))
    return hidden


# -- sequences --------------------------------------------------------------------------------


class _Run(NamedTuple):
    """One direction of one layer, with what its gradient needs."""

    output: Array  # (T, N, H)
    state: State
    pulls: list[tuple[int, StepPull]]  # the steps in the order they were taken


# (step in time, input, state) -> the next state, and the gradients' way back
StepAt = Callable[[int, Array, State], tuple[State, StepPull]]


def _run(step: StepAt, x: Array, state: State, active: Array, fresh: Array, reverse: bool) -> _Run:
    """Step through x; where `active` (T, N, 1) is False the state stands still.

    Where `fresh` (T, N, 1) it is zero before the step.
    """
    output = np.zeros((*x.shape[:2], state[0].shape[-1]))
    pulls = []
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        state = tuple(np.where(fresh[t], 0.0, s) for s in state)
        new, pull = step(t, x[t], state)
        state = tuple(np.where(active[t], a, b) for a, b in zip(new, state, strict=True))
        output[t] = np.where(active[t], new[0], 0.0)
        pulls.append((t, pull))
    return _Run(output, state, pulls)


def _run_back(
    run: _Run, x: Array, doutput: Array, dstate: State, weights: Weights, active: Array, fresh: Array
) -> tuple[Array, State, list[Array]]:
    """Return the gradients of x, of the initial state and of the weights."""
    dx, dweights = np.zeros_like(x), [np.zeros_like(w) for w in weights]
    for t, pull in reversed(run.pulls):
        reached = tuple(np.where(active[t], d, 0.0) for d in (dstate[0] + doutput[t], *dstate[1:]))
        dx[t], dprevious, dw = pull(reached)
        dstate = tuple(np.where(active[t], a, b) for a, b in zip(dprevious, dstate, strict=True))
        dstate = tuple(np.where(fresh[t], 0.0, d) for d in dstate)
        for total, part in zip(dweights, dw, strict=True):
            total += part
    return dx, dstate, dweights


class _Call(NamedTuple):
    """One call, spelled out: time first, batched, float64."""

    x: Array
    states: State  # each (layers * directions, N, H)
    weights: list[Any]  # one tuple for each layer and direction
    names: tuple[str, ...] | None  # of what is in it; None: those of a plain cell, zeros for biases left out
    active: Array  # (T, N, 1): whether step t is inside sequence n
    fresh: Array  # (T, N, 1): whether the state of sequence n is cleared before step t
    scales: list[Array]  # dropout's factors for each layer's output but the last
    directions: int
    batched: bool
    batch_first: bool


def layers(
    op: str,
    cell: Cell,
    input: Any,
    hx: Any,
    params: Any,
    num_layers: Any,
    bidirectional: bool,
    batch_first: bool,
    dropout: Any,
    training: bool,
    lengths: Any,
    rng: Any,
    reset: Any,
    extras: Extras,
) -> tuple[Array, State, Callable[[Array, State], tuple[Array, State, list[list[Array]]]]]:
    """Return output, final states, and the function from their gradients to those of the arguments."""
    num_layers = integer(op, "num_layers", num_layers, 1)
    dropout = fraction(op, "dropout", dropout)
    generator = as_generator(op, rng)
    call, dtype = _spell(
        op, cell, input, hx, params, num_layers, bidirectional, batch_first, lengths, reset, extras
    )
    if training and dropout > 0:
        shape = (*call.x.shape[:2], call.directions * call.states[0].shape[-1])
        for _ in range(num_layers - 1):
            call.scales.append(keep_scale(shape, dropout, draw_key(generator)))

    steps = _steps_of(cell, call, extras, training, generator)
    x, finals, inputs, runs = call.x, [], [], []
    for layer in range(num_layers):
        inputs.append(x)
        for d in range(call.directions):
            k = layer * call.directions + d
            initial = tuple(s[k] for s in call.states)
            runs.append(_run(steps[k], x, initial, call.active, call.fresh, reverse=d == 1))
            finals.append(runs[-1].state)
        x = np.concatenate([r.output for r in runs[-call.directions :]], axis=-1)
        if layer < len(call.scales):
            x = np.where(call.scales[layer] > 0, x * call.scales[layer], 0.0)

    def back(doutput: Array, dfinals: State) -> tuple[Array, State, list[list[Array]]]:
        dx = _time_first(wide(doutput), call)
        dinitials: list[State] = [()] * len(runs)
        dweights: list[list[Array]] = [[]] * len(runs)
        for layer in reversed(range(num_layers)):
            if layer < len(call.scales):
                dx = np.where(call.scales[layer] > 0, dx * call.scales[layer], 0.0)
            parts, dx = np.split(dx, call.directions, axis=-1), np.zeros_like(inputs[layer])
            for d, part in enumerate(parts):
                k = layer * call.directions + d
                dfinal = tuple(_batched(wide(s), call)[k] for s in dfinals)
                more, dinitials[k], dweights[k] = _run_back(
                    runs[k], inputs[layer], part, dfinal, call.weights[k], call.active, call.fresh
                )
                dx += more
        dstates = tuple(_as_given(np.stack(s), call) for s in zip(*dinitials, strict=True))
        return _layout(dx, call), dstates, dweights

    states = tuple(rounded(_as_given(np.stack(s), call), dtype) for s in zip(*finals, strict=True))
    return rounded(_layout(x, call), dtype), states, back


def _steps_of(
    cell: Cell, call: _Call, extras: Extras, training: bool, generator: np.random.Generator
) -> list[StepAt]:
    """Return each layer and direction's step; masks are drawn here, kind by kind."""
    if call.names is None:

        def plain(k: int) -> StepAt:
            return lambda t, x, state: cell.step(x, state, call.weights[k])

        return [plain(k) for k in range(len(call.weights))]
    count, runs = call.x.shape[:2], len(call.weights)
    ends = [s.shape[-1] for s in call.states]
    recurrent: list[Any] = [1.0] * runs
    if training and extras.recurrent_dropout > 0:
        p = extras.recurrent_dropout
        recurrent = [keep_scale((count[1], ends[0]), p, draw_key(generator)) for _ in range(runs)]
    stays: list[list[Any]] = []
    for p, size in zip((extras.zoneout_h, extras.zoneout_c), (*ends, 0), strict=False):
        if training and p > 0:
            stays.append([~kept((*count, size), p, draw_key(generator)) for _ in range(runs)])
        else:
            stays.append([np.full(count[:1], p)] * runs)
    names = call.names

    def at(k: int) -> StepAt:
        def take(t: int, x: Array, state: State) -> tuple[State, StepPull]:
            return step(
                cell, names, x, state, call.weights[k], Masks(recurrent[k], stays[0][k][t], stays[1][k][t])
            )

        return take

    return [at(k) for k in range(runs)]


def _batched(state: Array, call: _Call) -> Array:
    return state if call.batched else state[:, np.newaxis]


def _as_given(state: Array, call: _Call) -> Array:
    return state if call.batched else state[:, 0]


def _time_first(x: Array, call: _Call) -> Array:
    """Undo `_layout`."""
    if not call.batched:
        return x[:, np.newaxis]
    return x.swapaxes(0, 1) if call.batch_first else x


def _layout(x: Array, call: _Call) -> Array:
    """Return (T, N, features) as the caller lays sequences out."""
    if not call.batched:
        return x[:, 0]
    return x.swapaxes(0, 1) if call.batch_first else x


def _spell(
    op: str,
    cell: Cell,
    input: Any,
    hx: Any,
    params: Any,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    lengths: Any,
    reset: Any,
    extras: Extras,
) -> tuple[_Call, np.dtype[Any]]:
    floating(op, "input", input, (2, 3))
    directions = 2 if bidirectional else 1
    runs = num_layers * directions
    names, hidden, width = _check_params(op, cell, input, params, num_layers, directions, extras)
    batched = input.ndim == 3
    x = wide(input) if batched else wide(input)[:, np.newaxis]
    if batched and batch_first:
        x = x.swapaxes(0, 1)
    steps, batch = x.shape[:2]

    given = () if hx is None else as_states(op, cell, hx)
    sizes = (width, hidden)[: cell.states]
    for name, state, size in zip(state_names(cell), given, sizes, strict=False):
        shaped(op, name, floating(op, name, state), (runs, batch, size) if batched else (runs, size))
    dtype = result_dtype(op, input, *given, *params)
    states = tuple(wide(s).reshape(runs, batch, size) for s, size in zip(given, sizes, strict=False))
    if hx is None:
        states = tuple(np.zeros((runs, batch, size)) for size in sizes)

    active = np.ones((steps, batch, 1), bool)
    if lengths is not None:
        if not batched:
            raise ValueError(f"{op}: lengths needs a batched input, got input of shape {input.shape}")
        ends = shaped(op, "lengths", integers(op, "lengths", lengths), (batch,))
        wrong = ends[(ends < 0) | (ends > steps)]
        if wrong.size:
            raise ValueError(f"{op}: lengths holds {wrong[0]}, but input has {steps} steps")
        active = np.arange(steps)[:, np.newaxis, np.newaxis] < ends[:, np.newaxis]
        x = np.where(active, x, 0.0)  # what lies past an end takes no part, not even a NaN
    fresh = _fresh(op, reset, (steps, batch), batched, batch_first) & active
    each = len(params) // runs
    arrays = [params[k : k + each] for k in range(0, len(params), each)]
    if extras.any() or "w_hr" in names:
        weights = [tuple(wide(a) for a in run) for run in arrays]
        return _Call(x, states, weights, names, active, fresh, [], directions, batched, batch_first), dtype
    weights = [weights_of(*(*run, None, None)[:4]) for run in arrays]
    return _Call(x, states, weights, None, active, fresh, [], directions, batched, batch_first), dtype


def _fresh(op: str, reset: Any, shape: tuple[int, int], batched: bool, batch_first: bool) -> Array:
    """Return `reset` as booleans (T, N, 1)."""
    if reset is None:
        return np.zeros((*shape, 1), bool)
    if not isinstance(reset, np.ndarray):
        raise TypeError(f"{op}: reset must be an array, got {type(reset).__name__}")
    if reset.dtype.kind not in "biu":
        raise TypeError(f"{op}: reset has dtype {reset.dtype}, expected bool or integers")
    shaped(op, "reset", reset, shape[:1] if not batched else shape[::-1] if batch_first else shape)
    swapped = reset.T if batched and batch_first else reset
    return np.asarray(swapped != 0).reshape(*shape, 1)


def _check_params(
    op: str, cell: Cell, input: Array, params: Any, num_layers: int, directions: int, extras: Extras
) -> tuple[tuple[str, ...], int, int]:
    """Check the shapes of all weights; return the names in each run, the hidden size and the width of h."""
    if not isinstance(params, list | tuple):
        raise TypeError(f"{op}: params must be a list of arrays, got {type(params).__name__}")
    runs = num_layers * directions
    kinds = [
        names_of(cell, extras, biases, projects)
        for projects in ((False, True) if cell.states == 2 else (False,))
        for biases in (False, True)
    ]
    found = [names for names in kinds if len(params) == runs * len(names)]
    if not found:
        raise ValueError(
            f"{op}: params has {len(params)} arrays, but num_layers={num_layers} and "
            f"bidirectional={directions == 2} take {' or '.join(str(runs * len(names)) for names in kinds)}"
        )
    names, features = found[0], input.shape[-1]
    for i, param in enumerate(params):
        floating(op, f"params[{i}]", param, (1 if names[i % len(names)][0] in "bg" else 2,))
    if "w_hr" in names:
        width, hidden = (int(s) for s in params[names.index("w_hr")].shape)
    else:
        width = hidden = int(params[1].shape[1])
    for i, param in enumerate(params):
        if i == directions * len(names):
            features = directions * width
        shapes = shapes_of(cell, features, hidden, width)
        shaped(op, f"params[{i}]", param, shapes[names[i % len(names)]])
    return names, hidden, width
