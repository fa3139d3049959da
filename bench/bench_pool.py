"""Pooling: windows of the common networks, lines and volumes, adaptive, both memory layouts, training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
import xla
from harness import Case, Random
from peers import Call, Engine, tensor


class Pool(NamedTuple):
    """A pooling: the op, input shape, output size per side, and the op's arguments behind the input."""

    op: str
    shape: tuple[int, ...]
    out: int
    arguments: tuple[int, ...]
    onnx: tuple[str, dict[str, Any]] | None = None

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (*self.shape[:2], *(self.out for _ in self.shape[2:]))


class Inputs(NamedTuple):
    x: np.ndarray
    dy: np.ndarray


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _make(pool: Pool, nhwc: bool) -> Callable[[Random], Inputs]:
    def make(rng: Random) -> Inputs:
        x, dy = rng.normal(*pool.shape), rng.normal(*pool.out_shape)
        return Inputs(_channels_last(x), _channels_last(dy)) if nhwc else Inputs(x, dy)

    return make


def _ours(pool: Pool, training: bool) -> Callable[[Inputs], Call]:
    op, arguments = getattr(ann, pool.op), pool.arguments

    def build(i: Inputs) -> Call:
        x, dy = i

        def step() -> Any:
            out, pullback = ann.vjp(op, x, *arguments)
            return out, pullback(dy)

        return step if training else lambda: op(x, *arguments)

    return build


def _torch(pool: Pool, training: bool, channels_last: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = getattr(peers.torch.nn.functional, pool.op)
        x, dy = tensor(i.x, channels_last), tensor(i.dy, channels_last)

        def forward() -> Any:
            return op(x, *pool.arguments)

        return peers.gradients(forward, (x,), dy) if training else forward

    return build


def _ort(onnx: tuple[str, dict[str, Any]]) -> Callable[[Inputs], Engine]:
    op, attributes = onnx
    return lambda i: peers.ort([(op, "x", "y", attributes)], {"x": i.x}, {})


def _xla(pool: Pool, training: bool) -> Callable[[Inputs], Engine]:
    def build(i: Inputs) -> Engine:
        window, stride, padding = (*pool.arguments, *(pool.arguments[0], 0)[len(pool.arguments) - 1 :])
        function = xla.pooling(pool.op[:3], len(pool.shape) - 2, window, stride, padding)
        return xla.engine(function, (i.x,), training=training, cotangent=i.dy)

    return build


def _case(what: str, pool: Pool, *, training: bool = False, nhwc: bool = False) -> Case:
    engines: dict[str, Callable[[Inputs], Call | Engine]] = {
        "torch": _torch(pool, training, False),
        "torch channels-last": _torch(pool, training, True),
    }
    if nhwc or len(pool.shape) != 4:
        del engines["torch channels-last"]  # the input is channels-last already, or has no such name
    if not nhwc and not training and pool.onnx:
        engines["onnxruntime"] = _ort(pool.onnx)
    if not nhwc and not pool.op.startswith("adaptive"):
        engines["jax"] = _xla(pool, training)
    x, y = float(np.prod(pool.shape)), float(np.prod(pool.out_shape))
    kind = f"{'nhwc ' if nhwc else ''}{'training ' if training else ''}"
    return Case(
        name=f"{pool.op} {kind}{what} {'x'.join(map(str, pool.shape))}",
        family="pool",
        group="pool training" if training else "pool",
        op=pool.op,
        make=_make(pool, nhwc),
        ours=_ours(pool, training),
        peers=engines,
        flops=0.0,
        elements=(x + y) * (2 if training else 1),
        training=training,
    )


def cases() -> list[Case]:
    """Return the pooling cases."""
    window3 = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    window2 = {"kernel_shape": [2, 2], "strides": [2, 2]}
    window8 = {"kernel_shape": [8, 8], "strides": [8, 8]}
    stem = Pool("max_pool2d", (8, 64, 112, 112), 56, (3, 2, 1), ("MaxPool", window3))
    digits = Pool("max_pool2d", (128, 32, 28, 28), 14, (2,), ("MaxPool", window2))
    average = Pool("avg_pool2d", (128, 32, 28, 28), 14, (2,), ("AveragePool", window2))
    whole = Pool("adaptive_avg_pool2d", (32, 512, 7, 7), 1, (1,), ("GlobalAveragePool", {}))
    seven = Pool("adaptive_avg_pool2d", (8, 128, 56, 56), 7, (7,), ("AveragePool", window8))
    cube = {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}
    line = Pool("max_pool1d", (16, 64, 4096), 2048, (3, 2, 1))
    scan = Pool("max_pool3d", (4, 32, 32, 32, 32), 16, (2,), ("MaxPool", cube))
    mean = Pool("avg_pool3d", (4, 32, 32, 32, 32), 16, (2,), ("AveragePool", cube))
    regions = Pool("adaptive_max_pool2d", (8, 128, 50, 50), 7, (7,))
    return [
        _case("3x3/2", stem),
        _case("2x2", digits),
        _case("2x2", average),
        _case("to 1x1", whole),
        _case("to 7x7", seven),
        _case("3x3/2", stem, nhwc=True),
        _case("3x3/2", stem, training=True),
        _case("2x2", digits, training=True),
        _case("2x2", average, training=True),
        _case("3/2", line),
        _case("2x2x2", scan),
        _case("2x2x2", mean),
        _case("to 7x7", regions),
        _case("2x2x2", scan, training=True),
    ]
