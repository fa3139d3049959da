"""A model's losses, metrics and outputs: `evaluate`, `predict`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..layers import Layer
from .data import Array, Data, Inputs, Source, at_least_one, source, take
from .metrics import Measure, Metric, Metrics, named

MEASURED_AT_ONCE = 256  # samples per call of a model


def evaluate(
    model: Layer,
    loss: Callable[..., Any],
    data: Data,
    *,
    metrics: Metrics = (),
    batch_size: int | None = MEASURED_AT_ONCE,
) -> dict[str, float]:
    """Return the loss and the metrics of `model` on `data`, in `eval` mode.

    Parameters
    ----------
    model, loss, data, metrics
        As in `fit`.
    batch_size : int or None, default 256
        Samples per call of the model; an iterable of batches has its own.

    Returns
    -------
    dict of str to float
        "loss" and one entry per metric.
    """
    batches = source(data, batch_size if isinstance(data, tuple) else None, "evaluate: data")
    return measured(model, loss, batches, named(metrics, "evaluate"))


def measured(
    model: Layer, loss: Callable[..., Any], batches: Source, metrics: dict[str, Metric]
) -> dict[str, float]:
    """Return loss and metrics over all batches."""
    measure = Measure(metrics)
    with _eval_mode(model), contextlib.closing(batches.batches(0, None)) as found:
        for x, y in found:
            output = call(model, x)
            measure.add(loss(output, y), output, y)
    return measure.result()


def predict(model: Layer, x: Inputs, *, batch_size: int = MEASURED_AT_ONCE) -> Array:
    """Return the output of `model` for all of `x`, computed in `eval` mode batch by batch.

    Parameters
    ----------
    model : Layer
    x : array or tuple of arrays
        One sample per row of the first axis; not empty. A model of several inputs takes a tuple.
    batch_size : int, default 256
    """
    at_least_one("predict: batch_size", batch_size)
    counts = {len(part) for part in x} if isinstance(x, tuple) else {len(x)}
    if len(counts) > 1:
        raise ValueError(f"predict: the arrays of x have {', '.join(map(str, sorted(counts)))} samples")
    count = max(counts, default=0)
    if not count:
        raise ValueError("predict: x is empty")
    starts = range(0, count, batch_size)
    with _eval_mode(model):
        return np.concatenate([call(model, take(x, slice(i, i + batch_size))) for i in starts])


def call(model: Layer, x: Inputs, **options: Any) -> Any:
    """Return the model's output; a tuple is its several inputs."""
    return model(*x, **options) if isinstance(x, tuple) else model(x, **options)


@contextlib.contextmanager
def _eval_mode(model: Layer) -> Iterator[None]:
    modes = [(layer, layer.training) for layer in _layers(model)]  # some may be frozen
    model.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _layers(model: Layer) -> Iterator[Layer]:
    yield model
    for _, child in model.named_children():
        yield from _layers(child)
