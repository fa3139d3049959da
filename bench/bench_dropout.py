"""Dropout: engines draw different masks, so what is compared is what a mask must be like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
from harness import Case, Random
from peers import Call, Engine, tensor

_P = 0.5


class Inputs(NamedTuple):
    x: np.ndarray
    dy: np.ndarray


def _same_distribution(ours: list[np.ndarray], theirs: list[np.ndarray], tolerance: float) -> str:
    """Say where the kept values differ, or the share of kept ones is not 1 - p."""
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for name, values in (("ours", a), ("theirs", b)):
            kept = np.count_nonzero(values) / values.size
            if abs(kept - (1 - _P)) > 0.01:
                return f"array {index}: {name} keep {kept:.3f} of the values"
        both = (a != 0) & (b != 0)
        if not np.allclose(a[both].astype(np.float64), b[both].astype(np.float64), rtol=tolerance):
            return f"array {index}: the values both keep differ"
    return ""


def _ours(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        def step() -> Any:
            out, pullback = ann.vjp(ann.dropout, i.x, _P)
            return out, pullback(i.dy)

        return step if training else lambda: ann.dropout(i.x, _P)

    return build


def _torch(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = peers.torch.nn.functional.dropout
        x, dy = tensor(i.x), tensor(i.dy)

        def forward() -> Any:
            return op(x, _P, True)

        return peers.gradients(forward, (x,), dy) if training else forward

    return build


def _ort(i: Inputs) -> Engine:
    constants = {"p": np.array(_P, np.float32), "training": np.array(True)}
    return peers.ort([("Dropout", ["x", "p", "training"], "y", {})], {"x": i.x}, constants)


def _numpy(i: Inputs) -> Call:
    rng, scale = np.random.default_rng(0), i.x.dtype.type(1 / (1 - _P))
    return lambda: i.x * (rng.random(i.x.shape, np.float32) >= _P) * scale


def _case(*shape: int, training: bool = False) -> Case:
    def make(rng: Random) -> Inputs:
        return Inputs(rng.normal(*shape), rng.normal(*shape))

    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(training)}
    if not training:
        engines |= {"onnxruntime": _ort, "numpy": _numpy}
    size = float(np.prod(shape))
    return Case(
        name=f"dropout {'training ' if training else ''}{'x'.join(map(str, shape))}",
        family="dropout",
        group="dropout",
        op="dropout",
        make=make,
        ours=_ours(training),
        peers=engines,
        flops=0.0,
        elements=size * (4 if training else 2),
        index_bytes=size / 4 if training else 0,  # the mask, a bit each, written and read
        training=training,
        compare=_same_distribution,
    )


def cases() -> list[Case]:
    """Return the dropout cases."""
    return [_case(256, 4096), _case(256, 4096, training=True)]
