"""Losses other than cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
import xla
from harness import Case, Random
from peers import Call, tensor

_BCE = "binary_cross_entropy_with_logits"
# 'mean' of kl_div makes PyTorch warn.
_OPTIONS: dict[str, dict[str, Any]] = {"kl_div": {"reduction": "batchmean"}}


class Inputs(NamedTuple):
    x: np.ndarray
    target: np.ndarray
    one: np.ndarray


def _ours(op: str, training: bool) -> Callable[[Inputs], Call]:
    function, options = getattr(ann, op), _OPTIONS.get(op, {})

    def build(i: Inputs) -> Call:
        def step() -> Any:
            loss, pullback = ann.vjp(function, i.x, i.target, **options)
            return loss, pullback(i.one)

        return step if training else lambda: function(i.x, i.target, **options)

    return build


def _torch(op: str, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        function, options = getattr(peers.torch.nn.functional, op), _OPTIONS.get(op, {})
        x, target = tensor(i.x), tensor(i.target)

        def forward() -> Any:
            return function(x, target, **options)

        return peers.gradients(forward, (x,)) if training else forward

    return build


def _numpy(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        def forward() -> Any:
            return np.mean(np.square(i.x - i.target))

        def step() -> Any:
            error = i.x - i.target
            return np.mean(np.square(error)), error * error.dtype.type(2 / error.size)

        return step if training else forward

    return build


def _case(op: str, rows: int, columns: int, *, training: bool = False) -> Case:
    def make(rng: Random) -> Inputs:
        target = rng.normal(rows, columns)
        if op in (_BCE, "kl_div"):
            target = 1 / (1 + np.exp(-target))
        return Inputs(rng.normal(rows, columns), target, np.ones((), rng.dtype))

    engines: dict[str, Any] = {"torch": _torch(op, training)}
    if op == "mse_loss":
        engines["numpy"] = _numpy(training)
    engines["jax"] = lambda i: xla.engine(xla.loss(op), (i.x,), (i.target,), training=training)
    return Case(
        name=f"{op} {'training ' if training else ''}{rows}x{columns}",
        family="loss",
        group="loss",
        op=op,
        make=make,
        ours=_ours(op, training),
        peers=engines,
        flops=0.0,
        elements=rows * columns * (3.0 if training else 2.0),
        training=training,
    )


def cases() -> list[Case]:
    """Return the cases of the losses."""
    others = ("l1_loss", "huber_loss", "kl_div", _BCE)
    return [
        *(_case("mse_loss", rows, 1024, training=flag) for flag in (False, True) for rows in (128, 4096)),
        *(_case(op, 128, 1024) for op in others),
        *(_case(op, 4096, 1024, training=flag) for op in others for flag in (False, True)),
    ]
