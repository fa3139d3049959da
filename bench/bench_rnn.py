"""LSTM, GRU and plain recurrent networks: single steps, whole sequences, training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
import xla
from harness import Case, Random
from peers import Call, Engine, tensor

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
# ONNX's gate order, in PyTorch's: i o f c of i f g o, and z r h of r z n
_ONNX_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


class Net(NamedTuple):
    """A recurrent network: kind, steps, batch, input and hidden size, layers, directions, LSTM projection."""

    kind: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    layers: int = 1
    directions: int = 1
    projection: int = 0

    @property
    def width(self) -> int:
        return self.projection or self.hidden

    @property
    def layer_inputs(self) -> list[int]:
        return [self.inputs] + [self.width * self.directions] * (self.layers - 1)

    @property
    def flops(self) -> float:
        rows = 2.0 * self.steps * self.batch * self.directions * self.hidden
        gates = _GATES[self.kind]
        return sum(rows * (gates * (inputs + self.width) + self.projection) for inputs in self.layer_inputs)

    @property
    def traffic(self) -> tuple[float, float, float]:
        """Elements of input, parameters and output."""
        gates = self.directions * _GATES[self.kind] * self.hidden
        weights = sum(gates * (inputs + self.width + 2) for inputs in self.layer_inputs)
        weights += self.layers * self.directions * self.projection * self.hidden
        steps = float(self.steps * self.batch)
        return steps * self.inputs, float(weights), steps * self.width * self.directions


class Inputs(NamedTuple):
    x: np.ndarray
    params: list[np.ndarray]
    dy: np.ndarray


class CellInputs(NamedTuple):
    x: np.ndarray
    state: tuple[np.ndarray, ...]
    params: list[np.ndarray]


def _params(net: Net, rng: Random) -> list[np.ndarray]:
    rows, scale = _GATES[net.kind] * net.hidden, net.hidden**-0.5
    shapes = [
        shape
        for inputs in net.layer_inputs
        for _ in range(net.directions)
        for shape in (
            *((rows, inputs), (rows, net.width), (rows,), (rows,)),
            *([(net.width, net.hidden)] if net.projection else []),
        )
    ]
    return [rng.normal(*shape, scale=0.5 * scale) for shape in shapes]


# ONNX Runtime


def _onnx_layer(net: Net, params: list[np.ndarray], suffix: str) -> dict[str, np.ndarray]:
    """Return W, R and B of one layer in ONNX's layout; `params` are its directions' arrays."""

    def reorder(w: np.ndarray) -> np.ndarray:
        blocks = w.reshape(_GATES[net.kind], net.hidden, *w.shape[1:])
        return blocks[list(_ONNX_ORDER[net.kind])].reshape(w.shape)

    arrays = [reorder(w) for w in params]
    biases = [np.concatenate(pair) for pair in zip(arrays[2::4], arrays[3::4], strict=True)]
    return {
        f"W{suffix}": np.stack(arrays[0::4]),
        f"R{suffix}": np.stack(arrays[1::4]),
        f"B{suffix}": np.stack(biases),
    }


def _attributes(net: Net) -> dict[str, Any]:
    direction = {
        "direction": "bidirectional" if net.directions == 2 else "forward",
        "hidden_size": net.hidden,
    }
    return direction | ({"linear_before_reset": 1} if net.kind == "gru" else {})


def _ort(net: Net) -> Callable[[Inputs], Engine]:
    def build(i: Inputs) -> Engine:
        nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        constants = {"shape": np.array([net.steps, net.batch, -1])}
        per_layer = 4 * net.directions
        for layer in range(net.layers):
            n = str(layer)
            constants |= _onnx_layer(net, i.params[layer * per_layer :][:per_layer], n)
            names = [f"x{n}", f"W{n}", f"R{n}", f"B{n}"]
            # Y is (steps, directions, batch, hidden)
            nodes += [
                (net.kind.upper(), names, f"Y{n}", _attributes(net)),
                ("Transpose", [f"Y{n}"], f"T{n}", {"perm": [0, 2, 1, 3]}),
                ("Reshape", [f"T{n}", "shape"], f"x{layer + 1}", {}),
            ]
        return peers.ort(nodes, {"x0": i.x}, constants, [f"x{net.layers}"])

    return build


def _ort_cell(net: Net) -> Callable[[CellInputs], Engine]:
    states = ["h", "c"] if net.kind == "lstm" else ["h"]

    def build(i: CellInputs) -> Engine:
        outputs = [f"y_{name}" for name in states]
        nodes = [
            (net.kind.upper(), ["x", "W", "R", "B", "", *states], ",".join(["", *outputs]), _attributes(net))
        ]
        fed = {"x": i.x[None]} | {name: state[None] for name, state in zip(states, i.state, strict=True)}
        constants = _onnx_layer(net, i.params, "")
        return peers.ort(nodes, fed, constants, outputs, lambda results: [result[0] for result in results])

    return build


# Layers


def _ours(net: Net, training: bool) -> Callable[[Inputs], Call]:
    op: Callable[..., Any] = getattr(ann, net.kind)
    options: dict[str, Any] = {"num_layers": net.layers, "bidirectional": net.directions == 2}

    def build(i: Inputs) -> Call:
        x, params, dy = i

        def step() -> Any:
            (out, _), pullback = ann.vjp(op, x, None, params, **options)
            dx, _, dparams = pullback((dy, None))
            return out, dx, dparams

        return step if training else lambda: op(x, None, params, **options)[0]

    return build


def _torch(net: Net, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        torch = peers.torch
        kind = getattr(torch.nn, net.kind.upper())
        x, dy = tensor(i.x), tensor(i.dy)
        options = {"bidirectional": net.directions == 2, "dtype": x.dtype}
        if net.projection:
            options["proj_size"] = net.projection
            warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        module = kind(net.inputs, net.hidden, net.layers, **options)
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), i.params, strict=True):
                parameter.copy_(tensor(value))

        def forward() -> Any:
            return module(x)[0]

        return peers.gradients(forward, (x, *module.parameters()), dy) if training else forward

    return build


def _xla(net: Net, training: bool) -> Callable[[Inputs], Engine]:
    def build(i: Inputs) -> Engine:
        function = xla.recurrent(net.kind, net.layers, net.directions)
        return xla.engine(function, (i.x, *i.params), training=training, cotangent=i.dy)

    return build


def _layer(net: Net, *, training: bool = False) -> Case:
    def make(rng: Random) -> Inputs:
        x = rng.normal(net.steps, net.batch, net.inputs)
        return Inputs(x, _params(net, rng), rng.normal(net.steps, net.batch, net.width * net.directions))

    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(net, training)}
    if not training and not net.projection:  # which ONNX has not
        engines["onnxruntime"] = _ort(net)
    if not net.projection:
        engines["jax"] = _xla(net, training)
    words = [net.kind, *(["training"] if training else [])]
    words.append(f"T{net.steps} N{net.batch} I{net.inputs} H{net.hidden}")
    words += [f"P{net.projection}"] * (net.projection > 0)
    words += [f"{net.layers} layers"] * (net.layers > 1) + ["bidirectional"] * (net.directions == 2)
    x, w, y = net.traffic
    return Case(
        name=" ".join(words),
        family="rnn",
        group=f"{net.kind} {'training' if training else 'inference'}",
        op=net.kind,
        make=make,
        ours=_ours(net, training),
        peers=engines,
        flops=net.flops * (3 if training else 1),
        elements=3 * (x + w) + 2 * y if training else x + w + y,
        training=training,
    )


# Cells


def _ours_cell(net: Net) -> Callable[[CellInputs], Call]:
    op: Callable[..., Any] = getattr(ann, f"{net.kind}_cell")

    def build(i: CellInputs) -> Call:
        x, states, params = i
        state = states if net.kind == "lstm" else states[0]
        return lambda: op(x, state, *params)

    return build


def _torch_cell(net: Net) -> Callable[[CellInputs], Call]:
    def build(i: CellInputs) -> Call:
        torch = peers.torch
        kind = getattr(torch.nn, f"{net.kind.upper()}Cell")
        x = tensor(i.x)
        module = kind(net.inputs, net.hidden, dtype=x.dtype)
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), i.params, strict=True):
                parameter.copy_(tensor(value))
        states = tuple(map(tensor, i.state))
        state = states if net.kind == "lstm" else states[0]
        return lambda: module(x, state)

    return build


def _cell(kind: str, batch: int, inputs: int, hidden: int, *, overhead: bool = False) -> Case:
    net = Net(kind, 1, batch, inputs, hidden)
    states = 2 if kind == "lstm" else 1

    def make(rng: Random) -> CellInputs:
        state = tuple(rng.normal(batch, hidden) for _ in range(states))
        return CellInputs(rng.normal(batch, inputs), state, _params(net, rng))

    x, w, y = net.traffic
    return Case(
        name=f"{kind}_cell {'overhead ' if overhead else ''}N{batch} I{inputs} H{hidden}",
        family="rnn",
        group="overhead" if overhead else "cell",
        op=f"{kind}_cell",
        make=make,
        ours=_ours_cell(net),
        peers={
            "torch": _torch_cell(net),
            "onnxruntime": _ort_cell(net),
            "jax": lambda i: xla.engine(xla.cell_with_input(kind), (i.x, *i.state, *i.params)),
        },
        flops=net.flops,
        elements=x + w + 2 * states * y,
        overhead=overhead,
    )


# Cells in a loop over time, with their gradients


def _ours_unrolled(net: Net) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        x, params, dy = i
        zeros = np.zeros((net.batch, net.hidden), x.dtype)

        def step() -> Any:
            state, outs, pullbacks = (zeros, zeros), [], []
            for xt in x:
                state, pullback = ann.vjp(ann.lstm_cell, xt, state, *params)
                outs.append(state[0])
                pullbacks.append(pullback)
            dh, dc = np.zeros_like(zeros), np.zeros_like(zeros)
            dparams = [np.zeros_like(p) for p in params]
            for pullback, dout in zip(reversed(pullbacks), dy[::-1], strict=True):
                _, (dh, dc), *more = pullback((dh + dout, dc))
                for total, part in zip(dparams, more, strict=True):
                    total += part
            return outs[-1], dparams

        return step

    return build


def _torch_unrolled(net: Net) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        torch = peers.torch
        x, dy = tensor(i.x), tensor(i.dy)
        module = torch.nn.LSTMCell(net.inputs, net.hidden, dtype=x.dtype)
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), i.params, strict=True):
                parameter.copy_(tensor(value))
        params = list(module.parameters())

        def step() -> Any:
            state, outs = None, []
            for xt in x:
                state = module(xt, state)
                outs.append(state[0])
            return outs[-1].detach(), torch.autograd.grad(torch.stack(outs), params, dy)

        return step

    return build


def _unrolled(net: Net) -> Case:
    def make(rng: Random) -> Inputs:
        x = rng.normal(net.steps, net.batch, net.inputs)
        return Inputs(x, _params(net, rng), rng.normal(net.steps, net.batch, net.hidden))

    x, w, y = net.traffic
    return Case(
        name=f"lstm_cell training in a loop T{net.steps} N{net.batch} I{net.inputs} H{net.hidden}",
        family="rnn",
        group="cell",
        op="lstm_cell",
        make=make,
        ours=_ours_unrolled(net),
        peers={"torch": _torch_unrolled(net)},
        flops=3 * net.flops,
        elements=3 * (x + w) + 2 * y,
        training=True,
    )


def cases() -> list[Case]:
    """Return the recurrent cases."""
    speech, rows, stream, wide = (50, 32, 128, 256), (28, 128, 28, 64), (100, 1, 64, 128), (32, 64, 512, 512)
    return [
        *(_cell("lstm", 1, hidden, hidden) for hidden in (64, 128, 256)),
        _cell("lstm", 32, 256, 256),
        *(_cell("gru", 1, hidden, hidden) for hidden in (64, 256)),
        _cell("gru", 32, 256, 256),
        _cell("rnn", 1, 256, 256),
        *(_layer(Net("lstm", *size)) for size in (speech, rows, stream, wide)),
        _layer(Net("lstm", *speech, layers=2)),
        _layer(Net("lstm", *speech, directions=2)),
        _layer(Net("lstm", *speech, projection=64)),
        *(_layer(Net("gru", *size)) for size in (speech, rows, stream, wide)),
        _layer(Net("gru", *speech, directions=2)),
        *(_layer(Net(kind, 1, 1, 128, 128)) for kind in ("lstm", "gru")),
        *(_layer(Net("rnn", *size)) for size in (speech, stream)),
        _layer(Net("lstm", *speech), training=True),
        _layer(Net("lstm", *rows, layers=2), training=True),
        _layer(Net("lstm", *speech, projection=64), training=True),
        _layer(Net("lstm", *wide), training=True),
        _layer(Net("gru", *speech), training=True),
        _layer(Net("gru", *rows), training=True),
        _layer(Net("gru", *stream), training=True),
        _layer(Net("rnn", *speech), training=True),
        *(_unrolled(Net("lstm", 20, batch, 64, 64)) for batch in (1, 32)),
        _cell("lstm", 1, 4, 4, overhead=True),
    ]
