"""layer_norm and rms_norm, in cache and out of it."""

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
    affine: tuple[np.ndarray, ...]
    dy: np.ndarray


def _ours(op: str, training: bool) -> Callable[[Inputs], Call]:
    function = getattr(ann, op)

    def build(i: Inputs) -> Call:
        arguments = (i.x, i.x.shape[-1], *i.affine)

        def step() -> Any:
            out, pullback = ann.vjp(function, *arguments)
            return out, *pullback(i.dy)

        return step if training else lambda: function(*arguments)

    return build


def _torch(op: str, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        function = getattr(peers.torch.nn.functional, op)
        x, *affine = (tensor(a) for a in (i.x, *i.affine))
        shape = i.x.shape[-1:]

        def forward() -> Any:
            return function(x, shape, *affine)

        return peers.gradients(forward, (x, *affine), tensor(i.dy)) if training else forward

    return build


def _xla(op: str, training: bool) -> Callable[[Inputs], Engine]:
    function = xla.rms_norm if op == "rms_norm" else xla.layer_norm
    return lambda i: xla.engine(function, (i.x, *i.affine), training=training, cotangent=i.dy)


def _case(op: str, *shape: int, training: bool = False, overhead: bool = False) -> Case:
    def make(rng: Random) -> Inputs:
        affine = tuple(rng.normal(shape[-1]) for _ in range(1 if op == "rms_norm" else 2))
        return Inputs(rng.normal(*shape), affine, rng.normal(*shape))

    kind = f"{'overhead ' if overhead else ''}{'training ' if training else ''}"
    return Case(
        name=f"{op} {kind}{'x'.join(map(str, shape))}",
        family="row_norm",
        group="overhead" if overhead else "normalization",
        op=op,
        make=make,
        ours=_ours(op, training),
        peers={"torch": _torch(op, training), "jax": _xla(op, training)},
        flops=0.0,
        # backward reads dy and x and writes dx
        elements=float(np.prod(shape)) * (5 if training else 2),
        training=training,
        overhead=overhead,
    )


def cases() -> list[Case]:
    """Return the layer_norm and rms_norm cases."""
    cached, large = (256, 768), (32, 512, 1024)
    return [
        *(_case(op, *shape) for op in ("layer_norm", "rms_norm") for shape in (cached, large)),
        *(_case(op, *large, training=True) for op in ("layer_norm", "rms_norm")),
        _case("layer_norm", *cached, training=True),
        _case("layer_norm", 1, 16, overhead=True),
    ]
