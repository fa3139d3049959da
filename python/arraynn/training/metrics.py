"""Losses and metrics over the batches of an epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Metric = Callable[[Array, Array], Any]
Metrics = str | Metric | Iterable[str | Metric] | Mapping[str, Metric]


class Measure:
    """Losses and predictions of batches, added up."""

    def __init__(self, metrics: dict[str, Metric]) -> None:
        self._metrics = metrics
        self._total, self._count = 0.0, 0
        self._targets: list[Array] = []
        self._outputs: list[Array] = []
        self._classes: list[Array] = []

    def add(self, loss: Any, output: Array, target: Array) -> None:
        self._total += float(loss) * len(target)
        self._count += len(target)
        if not self._metrics:
            return
        self._targets.append(target)
        indices = target.dtype.kind in "iu" and output.ndim == target.ndim + 1
        if indices:
            self._classes.append(output.argmax(1))
        if not indices or any(getattr(f, "takes_outputs", False) for f in self._metrics.values()):
            self._outputs.append(output)

    @property
    def loss(self) -> float:
        """The mean loss per sample so far."""
        return self._total / self._count

    def result(self) -> dict[str, float]:
        values = {"loss": self.loss}
        if self._metrics:
            targets = np.concatenate(self._targets)
            outputs = np.concatenate(self._outputs) if self._outputs else None
            classes = np.concatenate(self._classes) if self._classes else outputs
            for name, metric in self._metrics.items():
                predicted = outputs if getattr(metric, "takes_outputs", False) else classes
                assert predicted is not None  # `add` has kept what the metrics take
                values[name] = float(metric(targets, predicted))
        return values


def _accuracy(y_true: Array, y_pred: Array) -> float:
    """The share of samples whose class is right; class probabilities stand for their argmax."""
    if y_true.shape != y_pred.shape:
        raise ValueError(
            f"accuracy: targets of shape {y_true.shape} do not fit predictions of {y_pred.shape}"
        )
    if y_true.dtype.kind not in "iub":
        if y_true.ndim < 2 or y_true.shape[1] < 2:
            raise ValueError(
                f"accuracy: targets must be class indices or probabilities of classes, got {y_true.dtype} "
                f"of shape {y_true.shape}"
            )
        y_true, y_pred = y_true.argmax(1), y_pred.argmax(1)
    return float(np.mean(y_true == y_pred))


def _of_scikit_learn(function: str, **options: Any) -> Metric:
    """Return a metric of scikit-learn, which is imported when it is first used."""

    def metric(y_true: Array, y_pred: Array) -> float:
        try:
            from sklearn import metrics
        except ImportError as error:
            raise ImportError(f"{function} is scikit-learn's: pip install scikit-learn") from error
        if y_true.shape != y_pred.shape:
            raise ValueError(
                f"{function}: targets of shape {y_true.shape} do not fit predictions of {y_pred.shape}"
            )
        return float(getattr(metrics, function)(y_true.reshape(-1), y_pred.reshape(-1), **options))

    return metric


# Of classes: the mean over the classes, each of which weighs as much as another.
_MACRO = {"average": "macro", "zero_division": 0}
_NAMES: dict[str, Metric] = {
    "accuracy": _accuracy,
    "precision": _of_scikit_learn("precision_score", **_MACRO),
    "recall": _of_scikit_learn("recall_score", **_MACRO),
    "f1": _of_scikit_learn("f1_score", **_MACRO),
    "mae": _of_scikit_learn("mean_absolute_error"),
    "rmse": _of_scikit_learn("root_mean_squared_error"),
}


def named(metrics: Metrics, op: str = "fit") -> dict[str, Metric]:
    """Return metrics by name, as `fit` takes them."""
    if isinstance(metrics, Mapping):
        for name, metric in metrics.items():
            if not callable(metric):
                raise ValueError(f"{op}: metrics[{name!r}] must be a callable, got {metric!r}")
        if "loss" in metrics:
            raise ValueError(f"{op}: metrics has the name 'loss', which is that of the loss")
        return dict(metrics)
    found: dict[str, Metric] = {}
    for metric in [metrics] if isinstance(metrics, str) or callable(metrics) else metrics:
        if isinstance(metric, str) and metric in _NAMES:
            name, metric = metric, _NAMES[metric]
        elif callable(metric):
            inner: Any = metric.func if isinstance(metric, functools.partial) else metric
            name = getattr(inner, "__name__", type(inner).__name__)
        else:
            raise ValueError(
                f"{op}: metrics must be callables or of {', '.join(map(repr, _NAMES))}, got {metric!r}"
            )
        if name in found or name == "loss":
            raise ValueError(
                f"{op}: metrics has the name {name!r} twice, give a mapping of names to callables"
            )
        found[name] = metric
    return found
