"""Cross-entropy: from ten classes to a vocabulary, label smoothing, segmentation, training; nll_loss."""

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
    logits: np.ndarray
    target: np.ndarray
    one: np.ndarray


def _ours(op: str, options: dict[str, Any], training: bool) -> Callable[[Inputs], Call]:
    function = getattr(ann, op)

    def build(i: Inputs) -> Call:
        logits, target, one = i

        def step() -> Any:
            loss, pullback = ann.vjp(function, logits, target, **options)
            return loss, pullback(one)

        return step if training else lambda: function(logits, target, **options)

    return build


def _torch(op: str, options: dict[str, Any], training: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        function = getattr(peers.torch.nn.functional, op)
        logits, target = tensor(i.logits), tensor(i.target)

        def forward() -> Any:
            return function(logits, target, **options)

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

    op, options = "cross_entropy", {"label_smoothing": smoothing}
    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(op, options, training)}
    if not training and not smoothing:
        engines |= {"onnxruntime": _ort, "scipy": _scipy}
    engines["jax"] = lambda i: xla.engine(
        xla.cross_entropy(smoothing), (i.logits,), (i.target,), training=training
    )
    kind = f"{'overhead ' if overhead else ''}{'training ' if training else ''}"
    size = float(np.prod(shape))
    return Case(
        name=f"cross_entropy {kind}{'x'.join(map(str, shape))}{' smoothed' if smoothing else ''}",
        family="cross_entropy",
        group="overhead" if overhead else f"cross_entropy{' training' if training else ''}",
        op="cross_entropy",
        make=make,
        ours=_ours(op, options, training),
        peers=engines,
        flops=0.0,
        elements=size * (2 if training else 1),  # training reads the logits and writes their gradient
        index_bytes=8 * size / shape[1],
        training=training,
        overhead=overhead,
    )


def _nll(rows: int, classes: int, *, training: bool = False) -> Case:
    def make(rng: Random) -> Inputs:
        return Inputs(rng.normal(rows, classes), rng.labels(classes, rows), np.ones((), rng.dtype))

    return Case(
        name=f"nll_loss {'training ' if training else ''}{rows}x{classes}",
        family="cross_entropy",
        group=f"cross_entropy{' training' if training else ''}",
        op="nll_loss",
        make=make,
        ours=_ours("nll_loss", {}, training),
        peers={
            "torch": _torch("nll_loss", {}, training),
            "jax": lambda i: xla.engine(xla.nll_loss, (i.logits,), (i.target,), training=training),
        },
        flops=0.0,
        elements=rows * (classes if training else min(classes, 16)),  # the gradient, or lines of 64 bytes
        index_bytes=8.0 * rows,
        training=training,
    )


class Layer(NamedTuple):
    x: np.ndarray
    weight: np.ndarray
    target: np.ndarray
    one: np.ndarray


def _linear_ours(training: bool) -> Callable[[Layer], Call]:
    def build(i: Layer) -> Call:
        def step() -> Any:
            loss, pullback = ann.vjp(ann.linear_cross_entropy, i.x, i.weight, i.target)
            return loss, *pullback(i.one)[:2]

        return step if training else lambda: ann.linear_cross_entropy(i.x, i.weight, i.target)

    return build


def _linear_torch(training: bool) -> Callable[[Layer], Call]:
    def build(i: Layer) -> Call:
        functional = peers.torch.nn.functional
        x, weight, target = tensor(i.x), tensor(i.weight), tensor(i.target)

        def forward() -> Any:
            return functional.cross_entropy(functional.linear(x, weight), target)

        return peers.gradients(forward, (x, weight)) if training else forward

    return build


def _linear(rows: int, features: int, classes: int, *, training: bool = False) -> Case:
    def make(rng: Random) -> Layer:
        weight = rng.normal(classes, features) / np.asarray(features**0.5, rng.dtype)
        return Layer(rng.normal(rows, features), weight, rng.labels(classes, rows), np.ones((), rng.dtype))

    return Case(
        name=f"linear_cross_entropy {'training ' if training else ''}{rows}x{features} to {classes}",
        family="cross_entropy",
        group=f"cross_entropy{' training' if training else ''}",
        op="linear_cross_entropy",
        make=make,
        ours=_linear_ours(training),
        peers={
            "torch": _linear_torch(training),
            "jax": lambda i: xla.engine(
                xla.linear_cross_entropy, (i.x, i.weight), (i.target,), training=training
            ),
        },
        flops=(6.0 if training else 2.0) * rows * features * classes,
        elements=float(features * (rows + classes)) * (2 if training else 1),
        index_bytes=8.0 * rows,
        training=training,
    )


def cases() -> list[Case]:
    """Return the cross-entropy cases."""
    return [
        _linear(256, 64, 1000),
        _linear(256, 64, 1000, training=True),
        _linear(512, 256, 32000, training=True),
        _nll(65536, 10),
        _nll(4096, 1000, training=True),
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
