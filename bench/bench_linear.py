"""Linear layers and plain matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
import xla
from harness import Case, Random
from peers import Call, Engine, tensor


class Inputs(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    dy: np.ndarray


def _ours(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        x, w, b, dy = i

        def step() -> Any:
            out, pullback = ann.vjp(ann.linear, x, w, b)
            return out, pullback(dy)

        return step if training else lambda: ann.linear(x, w, b)

    return build


def _torch(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = peers.torch.nn.functional.linear
        x, w, dy = tensor(i.x), tensor(i.w), tensor(i.dy)
        b = None if i.b is None else tensor(i.b)

        def forward() -> Any:
            return op(x, w, b)

        return peers.gradients(forward, [t for t in (x, w, b) if t is not None], dy) if training else forward

    return build


def _ort(i: Inputs) -> Engine:
    if i.b is None:
        return peers.ort([("Gemm", "xw", "y", {"transB": 1})], {"x": i.x}, {"w": i.w})
    return peers.ort([("Gemm", "xwb", "y", {"transB": 1})], {"x": i.x}, {"w": i.w, "b": i.b})


def _numpy(i: Inputs) -> Call:
    x, w, b, _ = i
    if b is None:
        return lambda: x @ w.T
    return lambda: x @ w.T + b


def _case(
    rows: int, inner: int, columns: int, *, bias: bool = True, training: bool = False, overhead: bool = False
) -> Case:
    def make(rng: Random) -> Inputs:
        w = rng.normal(columns, inner, scale=inner**-0.5)
        return Inputs(
            rng.normal(rows, inner), w, rng.normal(columns) if bias else None, rng.normal(rows, columns)
        )

    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(training)}
    if not training:
        engines |= {"onnxruntime": _ort, "numpy": _numpy}
    engines["jax"] = lambda i: xla.engine(xla.linear, (i.x, i.w, i.b), training=training, cotangent=i.dy)
    kind = "overhead " if overhead else "training " if training else "" if bias else "gemm "
    x, w, y = rows * inner, columns * inner, rows * columns
    return Case(
        name=f"linear {kind}{rows}x{inner}->{columns}",
        family="linear",
        group="overhead" if overhead else "linear training" if training else "linear",
        op="linear",
        make=make,
        ours=_ours(training),
        peers=engines,
        flops=2.0 * rows * inner * columns * (3 if training else 1),
        elements=3 * (x + w) + 2 * y if training else x + w + y,
        training=training,
        overhead=overhead,
    )


def cases() -> list[Case]:
    """Return the linear cases."""
    return [
        _case(64, 1024, 1024),
        _case(512, 512, 2048),
        _case(1, 1024, 1024),
        _case(8, 4096, 1024),
        _case(128, 784, 128),
        _case(4096, 64, 64),
        _case(32, 768, 3072),
        _case(1024, 1024, 1024, bias=False),
        _case(2048, 512, 2048, bias=False),
        _case(64, 1024, 1024, training=True),
        _case(128, 784, 128, training=True),
        _case(512, 512, 2048, training=True),
        _case(1, 4, 4, overhead=True),
    ]
