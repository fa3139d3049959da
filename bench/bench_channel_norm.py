"""batch_norm and group_norm, channels as planes or innermost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
import xla
from harness import Case, Random
from peers import Call, Engine, tensor

GROUPS = 32


class Inputs(NamedTuple):
    x: np.ndarray
    running: tuple[np.ndarray, ...]  # mean and variance, of batch_norm
    affine: tuple[np.ndarray, ...]
    dy: np.ndarray


def _ours(op: str, batch: bool, training: bool) -> Callable[[Inputs], Call]:
    function = getattr(ann, op)

    def build(i: Inputs) -> Call:
        # `batch`: whether batch_norm takes the statistics of the batch
        arguments = (i.x, *i.running, *i.affine, batch) if i.running else (i.x, GROUPS, *i.affine)

        def step() -> Any:
            out, pullback = ann.vjp(function, *arguments)
            return out, *pullback(i.dy)

        return step if training else lambda: function(*arguments)

    return build


def _torch(op: str, batch: bool, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        function = getattr(peers.torch.nn.functional, op)
        x, *affine = (tensor(a) for a in (i.x, *i.affine))
        running = [tensor(a.copy()) for a in i.running]

        def forward() -> Any:
            return function(x, *running, *affine, batch) if running else function(x, GROUPS, *affine)

        return peers.gradients(forward, (x, *affine), tensor(i.dy)) if training else forward

    return build


def _xla(op: str, batch: bool, training: bool) -> Callable[[Inputs], Engine]:
    def build(i: Inputs) -> Engine:
        function = xla.channel_norm(batch, GROUPS if op == "group_norm" else 0)
        fixed = () if batch else i.running
        return xla.engine(function, (i.x, *i.affine), fixed, training=training, cotangent=i.dy)

    return build


def _case(
    op: str,
    *shape: int,
    batch: bool = False,
    last: bool = False,
    training: bool = False,
    overhead: bool = False,
) -> Case:
    def make(rng: Random) -> Inputs:
        def array() -> np.ndarray:
            if not last:
                return rng.normal(*shape)
            n, c, h, w = shape
            return rng.normal(n, h, w, c).transpose(0, 3, 1, 2)

        running = (rng.normal(shape[1]), rng.normal(shape[1]) ** 2 + 0.5) if op == "batch_norm" else ()
        return Inputs(array(), running, (rng.normal(shape[1]), rng.normal(shape[1])), array())

    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(op, batch, training)}
    if not last:
        engines["jax"] = _xla(op, batch, training)
    kind = f"{'overhead ' if overhead else ''}{'training ' if training else 'of the batch ' if batch else ''}"
    return Case(
        name=f"{op} {kind}{'x'.join(map(str, shape))}{' channels-last' if last else ''}",
        family="channel_norm",
        group="overhead" if overhead else "normalization",
        op=op,
        make=make,
        ours=_ours(op, batch, training),
        peers=engines,
        flops=0.0,
        # backward reads dy and x and writes dx
        elements=float(np.prod(shape)) * (5 if training else 2),
        training=training,
        overhead=overhead,
    )


def cases() -> list[Case]:
    """Return the batch_norm and group_norm cases."""
    early, late = (32, 64, 56, 56), (32, 512, 7, 7)
    return [
        _case("batch_norm", *early),
        *(_case("batch_norm", *shape, batch=True) for shape in (early, late)),
        *(_case("batch_norm", *early, batch=True, last=last, training=True) for last in (False, True)),
        _case("batch_norm", *early, batch=True, last=True),
        *(_case("group_norm", *early, last=last) for last in (False, True)),
        _case("group_norm", *early, training=True),
        _case("batch_norm", 2, 8, 2, 2, overhead=True),
        _case("group_norm", 2, 32, 2, 2, overhead=True),
    ]
