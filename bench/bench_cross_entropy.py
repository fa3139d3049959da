"""Softmax-cross-entropy: from ten classes to a vocabulary, label smoothing, segmentation, training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
from harness import Case, Random
from peers import Call, Engine, tensor


class Inputs(NamedTuple):
    logits: np.ndarray
    target: np.ndarray
    one: np.ndarray


def _ours(smoothing: float, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        logits, target, one = i

        def step() -> Any:
            loss, pullback = ann.vjp(ann.cross_entropy, logits, target, label_smoothing=smoothing)
            return loss, pullback(one)

        return step if training else lambda: ann.cross_entropy(logits, target, label_smoothing=smoothing)

    return build


def _torch(smoothing: float, training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = peers.torch.nn.functional.cross_entropy
        logits, target = tensor(i.logits), tensor(i.target)

        def forward() -> Any:
            return op(logits, target, label_smoothing=smoothing)

        return peers.gradients(forward, (logits,)) if training else forward

    return build


def _ort(i: Inputs) -> Engine:
    fed = {"x": i.logits, "target": i.target}
    return peers.ort([("SoftmaxCrossEntropyLoss", ["x", "target"], "y", {"reduction": "mean"})], fed, {})


def _scipy(i: Inputs) -> Call:
    from scipy.special import logsumexp

    def call() -> Any:
        chosen = np.take_along_axis(i.logits, np.expand_dims(i.target, 1), axis=1)
        return np.mean(logsumexp(i.logits, axis=1, keepdims=True) - chosen, dtype=i.logits.dtype)

    return call


def _case(*shape: int, smoothing: float = 0.0, training: bool = False, overhead: bool = False) -> Case:
    def make(rng: Random) -> Inputs:
        return Inputs(rng.normal(*shape), rng.labels(shape[1], shape[0], *shape[2:]), np.ones((), rng.dtype))

    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(smoothing, training)}
    if not training and not smoothing:
        engines |= {"onnxruntime": _ort, "scipy": _scipy}
    kind = f"{'overhead ' if overhead else ''}{'training ' if training else ''}"
    size = float(np.prod(shape))
    return Case(
        name=f"cross_entropy {kind}{'x'.join(map(str, shape))}{' smoothed' if smoothing else ''}",
        family="cross_entropy",
        group="overhead" if overhead else f"cross_entropy{' training' if training else ''}",
        op="cross_entropy",
        make=make,
        ours=_ours(smoothing, training),
        peers=engines,
        flops=0.0,
        elements=size * (2 if training else 1),  # training reads the logits and writes their gradient
        index_bytes=8 * size / shape[1],
        training=training,
        overhead=overhead,
    )


def cases() -> list[Case]:
    """Return the cross-entropy cases."""
    return [
        _case(256, 10),
        _case(128, 1000),
        _case(64, 32000),
        _case(512, 50257),
        _case(128, 1000, smoothing=0.1),
        _case(4, 21, 128, 128),
        _case(256, 10, training=True),
        _case(128, 1000, training=True),
        _case(64, 32000, training=True),
        _case(512, 50257, training=True),
        _case(128, 1000, smoothing=0.1, training=True),
        _case(4, 21, 128, 128, training=True),
        _case(2, 4, overhead=True),
    ]
