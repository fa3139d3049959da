"""Losses other than cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
from harness import Case, Random
from peers import Call, tensor


class Inputs(NamedTuple):
    x: np.ndarray
    target: np.ndarray
    one: np.ndarray


def _ours(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        def step() -> Any:
            loss, pullback = ann.vjp(ann.mse_loss, i.x, i.target)
            return loss, pullback(i.one)

        return step if training else lambda: ann.mse_loss(i.x, i.target)

    return build


def _torch(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = peers.torch.nn.functional.mse_loss
        x, target = tensor(i.x), tensor(i.target)

        def forward() -> Any:
            return op(x, target)

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


def _case(rows: int, columns: int, *, training: bool = False) -> Case:
    def make(rng: Random) -> Inputs:
        return Inputs(rng.normal(rows, columns), rng.normal(rows, columns), np.ones((), rng.dtype))

    return Case(
        name=f"mse_loss {'training ' if training else ''}{rows}x{columns}",
        family="loss",
        group="loss",
        op="mse_loss",
        make=make,
        ours=_ours(training),
        peers={"torch": _torch(training), "numpy": _numpy(training)},
        flops=0.0,
        elements=rows * columns * (3.0 if training else 2.0),
        training=training,
    )


def cases() -> list[Case]:
    """Return the cases of the losses."""
    return [_case(rows, 1024, training=training) for training in (False, True) for rows in (128, 4096)]
