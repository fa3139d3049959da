"""Embedding: the rows of a vocabulary's table, and their gradients."""

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
    index: np.ndarray
    weight: np.ndarray
    dy: np.ndarray


def _ours(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        def step() -> Any:
            out, pullback = ann.vjp(ann.embedding, i.index, i.weight)
            return out, *pullback(i.dy)

        return step if training else lambda: ann.embedding(i.index, i.weight)

    return build


def _torch(training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = peers.torch.nn.functional.embedding
        index, weight, dy = tensor(i.index), tensor(i.weight), tensor(i.dy)

        def forward() -> Any:
            return op(index, weight)

        return peers.gradients(forward, (weight,), dy) if training else forward

    return build


def _ort(i: Inputs) -> Engine:
    inputs = {"weight": i.weight, "index": i.index}
    return peers.ort([("Gather", ["weight", "index"], "y", {"axis": 0})], inputs, {})


def _case(tokens: int, rows: int, width: int, training: bool) -> Case:
    def make(rng: Random) -> Inputs:
        # Few words are most of a text: the k-th most frequent has a share of about 1 / k.
        share = 1 / np.arange(1, rows + 1)
        index = np.random.default_rng(0).choice(rows, tokens, p=share / share.sum())
        return Inputs(index, rng.normal(rows, width), rng.normal(tokens, width))

    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(training)}
    if not training:
        engines["onnxruntime"] = _ort
        engines["numpy"] = lambda i: lambda: i.weight[i.index]
    engines["jax"] = lambda i: xla.engine(
        lambda weight, index: weight[index], (i.weight,), (i.index,), training=training, cotangent=i.dy
    )
    return Case(
        name=f"embedding {'training ' if training else ''}{tokens} of {rows}x{width}",
        family="embedding",
        group="embedding",
        op="embedding",
        make=make,
        ours=_ours(training),
        peers=engines,
        flops=0.0,
        elements=tokens * width * (3.0 if training else 2.0) + (rows * width if training else 0),
        training=training,
    )


def cases() -> list[Case]:
    """Return the cases of embedding."""
    return [_case(4096, 10000, 256, training) for training in (False, True)]
