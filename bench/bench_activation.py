"""Activations and softmax, in cache and out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
import xla
from harness import Case, Random
from peers import Call, Engine, tensor

_ONNX = {
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
}


class Inputs(NamedTuple):
    x: np.ndarray
    dy: np.ndarray


def _arguments(op: str) -> tuple[int, ...]:
    return (-1,) if op.endswith("softmax") else ()


def _ours(op: str, training: bool) -> Callable[[Inputs], Call]:
    function, arguments = getattr(ann, op), _arguments(op)

    def build(i: Inputs) -> Call:
        x, dy = i

        def step() -> Any:
            out, pullback = ann.vjp(function, x, *arguments)
            return out, pullback(dy)

        return step if training else lambda: function(x, *arguments)

    return build


def _torch(op: str, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        function = getattr(peers.torch, op, None) or getattr(peers.torch.nn.functional, op)
        arguments = _arguments(op)
        x, dy = tensor(i.x), tensor(i.dy)

        def forward() -> Any:
            return function(x, *arguments)

        return peers.gradients(forward, (x,), dy) if training else forward

    return build


def _ort(op: str) -> Callable[[Inputs], Engine]:
    attributes = {"axis": -1} if _arguments(op) else {}
    return lambda i: peers.ort([(_ONNX[op], "x", "y", attributes)], {"x": i.x}, {})


def _numpy(op: str) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        x = i.x
        return (lambda: np.maximum(x, 0)) if op == "relu" else lambda: np.tanh(x)

    return build


def _scipy(op: str) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        from scipy import special

        x = i.x
        if op == "sigmoid":
            return lambda: special.expit(x)
        function = getattr(special, op)
        return lambda: function(x, axis=-1)

    return build


def _case(op: str, *shape: int, training: bool = False, overhead: bool = False) -> Case:
    def make(rng: Random) -> Inputs:
        return Inputs(rng.normal(*shape), rng.normal(*shape))

    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(op, training)}
    if not training:
        if op in _ONNX:
            engines["onnxruntime"] = _ort(op)
        if op in ("relu", "tanh"):
            engines["numpy"] = _numpy(op)
        elif op in ("sigmoid", "softmax", "log_softmax"):
            engines["scipy"] = _scipy(op)
    engines["jax"] = lambda i: xla.engine(xla.elementwise(op), (i.x,), training=training, cotangent=i.dy)
    kind = f"{'overhead ' if overhead else ''}{'training ' if training else ''}"
    group = "softmax" if _arguments(op) else "activation"
    return Case(
        name=f"{op} {kind}{'x'.join(map(str, shape))}",
        family="activation",
        group="overhead" if overhead else group,
        op=op,
        make=make,
        ours=_ours(op, training),
        peers=engines,
        flops=0.0,
        # backward reads dy and what was saved, and writes dx
        elements=float(np.prod(shape)) * (5 if training else 2),
        training=training,
        overhead=overhead,
    )


def cases() -> list[Case]:
    """Return the activation cases."""
    cached, large = (8, 128, 32, 32), (16, 256, 64, 64)
    rows, attention = (256, 1000), (32, 12, 128, 128)
    return [
        *(_case(op, *shape) for op in ("relu", "sigmoid", "tanh", "gelu") for shape in (cached, large)),
        *(_case(op, *cached) for op in ("leaky_relu", "elu", "silu", "softplus")),
        *(_case(op, *shape) for op in ("softmax", "log_softmax") for shape in (rows, attention)),
        _case("relu", *cached, training=True),
        _case("tanh", *cached, training=True),
        _case("gelu", *cached, training=True),
        _case("silu", *cached, training=True),
        _case("softmax", *attention, training=True),
        _case("relu", 1, 1, 4, 4, overhead=True),
    ]
