"""Attention over several heads, with all keys and with those up to the query's own."""

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
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dy: np.ndarray


def _ours(causal: bool, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = ann.scaled_dot_product_attention

        def step() -> Any:
            out, pullback = ann.vjp(op, i.q, i.k, i.v, is_causal=causal)
            return out, pullback(i.dy)

        return step if training else lambda: op(i.q, i.k, i.v, is_causal=causal)

    return build


def _torch(causal: bool, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = peers.torch.nn.functional.scaled_dot_product_attention
        q, k, v, dy = map(tensor, i)

        def forward() -> Any:
            return op(q, k, v, is_causal=causal)

        return peers.gradients(forward, (q, k, v), dy) if training else forward

    return build


def _numpy(i: Inputs) -> Call:
    scale = i.q.shape[-1] ** -0.5

    def forward() -> Any:
        scores = (i.q * scale) @ i.k.swapaxes(-1, -2)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights @ i.v / weights.sum(-1, keepdims=True)

    return forward


def _case(
    *sizes: int, causal: bool = False, training: bool = False, overhead: bool = False, keys: int = 0
) -> Case:
    batch, heads, queries, depth = sizes
    keys = keys or queries

    def make(rng: Random) -> Inputs:
        q, k = (batch, heads, queries, depth), (batch, heads, keys, depth)
        return Inputs(rng.normal(*q), rng.normal(*k), rng.normal(*k), rng.normal(*q))

    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(causal, training)}
    if not training and not causal:
        engines["numpy"] = _numpy
    engines["jax"] = lambda i: xla.engine(
        xla.attention(causal), (i.q, i.k, i.v), training=training, cotangent=i.dy
    )
    kind = "overhead " if overhead else "training " if training else ""
    pairs = batch * heads * queries * (keys if not causal else (keys + 1) / 2)
    size = float(batch * heads * (queries + keys) * depth)
    length = f"{queries}" if keys == queries else f"{queries}on{keys}"
    return Case(
        name=f"attention {kind}{'causal ' if causal else ''}{batch}x{heads}x{length}x{depth}",
        family="attention",
        group="overhead" if overhead else "attention training" if training else "attention",
        op="scaled_dot_product_attention",
        make=make,
        ours=_ours(causal, training),
        peers=engines,
        # Two products forward; backward computes the weights again and has four of its own.
        flops=pairs * depth * 2 * (7 if training else 2),
        elements=size * (6 if training else 2),
        training=training,
        overhead=overhead,
    )


def cases() -> list[Case]:
    """Return the attention cases."""
    return [
        _case(8, 8, 512, 64),
        _case(8, 8, 512, 64, causal=True),
        _case(1, 8, 2048, 128, causal=True),
        _case(8, 12, 197, 64),
        _case(4, 8, 1, 64, keys=1024),
        _case(8, 8, 512, 64, training=True),
        _case(8, 8, 512, 64, causal=True, training=True),
        _case(8, 12, 197, 64, training=True),
        _case(1, 1, 4, 4, overhead=True),
    ]
