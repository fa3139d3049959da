"""Training: `fit`, `evaluate`, `predict`, `History`."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._vjp import vjp
from .layers import Layer
from .optim import Optimizer
from .optim import clip_grad_norm as _clip_grad_norm

__all__ = ["History", "evaluate", "fit", "predict"]

Array = NDArray[Any]
Data = tuple[Array, Array]
Metric = Callable[[Array, Array], Any]
Metrics = str | Metric | Iterable[str | Metric] | Mapping[str, Metric]
Callback = Callable[["History", Layer, int], bool | None]


class History(dict[str, list[float]]):
    """What `fit` measured: ``history["loss"][i]`` is the loss of epoch ``i``.

    Attributes
    ----------
    stopped : None or str
        Why the run ended before its last epoch: "interrupt" or "callback".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stopped: str | None = None

    @property
    def epochs(self) -> int:
        """The number of complete epochs."""
        return len(self.get("loss", ()))

    def record(self, values: Mapping[str, float]) -> None:
        """Append one epoch."""
        for name, value in values.items():
            self.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        head = f"History of {self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        head += f", stopped by {self.stopped}" if self.stopped else ""
        if not self.epochs:
            return head
        width = max(map(len, self))
        rows = [f"  {'':{width}}  {'first':>10}  {'last':>10}  {'least':>10}  {'most':>10}"]
        for name, values in self.items():
            cells = "  ".join(f"{v:10.4g}" for v in (values[0], values[-1], min(values), max(values)))
            rows.append(f"  {name:{width}}  {cells}")
        return "\n".join([head, *rows])


def fit(
    model: Layer,
    loss: Callable[..., Any],
    optimizer: Optimizer,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    validation_data: Data | None = None,
    validation_split: float = 0.0,
    metrics: Metrics = (),
    callbacks: Iterable[Callback] = (),
    shuffle: bool = True,
    clip_norm: float | None = None,
    rng: int | np.random.Generator | None = None,
    progress: bool = True,
) -> History:
    """Train `model` on `data` and return what was measured.

    Ctrl-C ends the run after the batch at hand and keeps the epochs done; a second one raises
    KeyboardInterrupt at once.

    Parameters
    ----------
    model : Layer
    loss : callable
        An op of `arraynn` that takes ``(output, target)`` and returns a number, such as
        `arraynn.cross_entropy`, or a ``functools.partial`` of one with its options.
    optimizer : Optimizer
        Over ``model.parameters()``.
    data : (x, y) arrays
        Inputs and targets, one sample per row of the first axis.
    epochs, batch_size : int
        The last batch of an epoch may be smaller.
    validation_data : (x, y) arrays, optional
        Measured after every epoch, as ``val_loss`` and ``val_<metric>``.
    validation_split : float, default 0
        Share of `data` to hold out instead: chosen at random if `shuffle`, else its end.
    metrics : str, callable, or several of them (mapping name to callable, too)
        "accuracy", or any ``f(y_true, y_pred)``, scikit-learn's included. Where the targets are
        class indices `y_pred` is the predicted classes, the output's argmax over axis 1, unless
        ``f.takes_outputs`` is true; in all other cases it is the model's output. The values on
        the training data are of the outputs during the epoch, while the model still learns.
    callbacks : iterable of callable
        Each is called after every epoch as ``f(history, model, epoch)``, `epoch` counted from 0.
        One that returns True ends the run.
    shuffle : bool, default True
        Draw a new order of the samples in every epoch.
    clip_norm : float, optional
        Bound on the joint norm of all gradients (see `arraynn.optim.clip_grad_norm`).
    rng : None, int or numpy.random.Generator
        Source of that order and of the random hold-out.
    progress : bool, default True
        Show a progress bar per epoch, on standard error.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; raised before the first step.
    """
    x, y = _checked(data, "fit: data")
    if not isinstance(model, Layer):
        raise TypeError(f"fit: model must be a Layer, got {type(model).__name__}")
    if not {id(p) for p in model.parameters()} & {id(p) for p in optimizer.parameters}:
        raise ValueError("fit: optimizer has none of the model's parameters")
    _at_least_one("fit: epochs", epochs)
    _at_least_one("fit: batch_size", batch_size)
    named_metrics = _named(metrics)
    callbacks = tuple(callbacks)
    rng = np.random.default_rng(rng)
    held_out: Data | None = None
    if validation_data is not None:
        if validation_split:
            raise ValueError("fit: give validation_data or validation_split, not both")
        held_out = _checked(validation_data, "fit: validation_data")
    elif validation_split:
        (x, y), held_out = _split(x, y, validation_split, rng if shuffle else None)

    history = History()
    mode = model.training
    try:
        with _interruptible() as interrupted:
            for epoch in range(epochs):
                model.train()
                order = rng.permutation(len(x)) if shuffle else None
                with _bar(progress, f"Epoch {epoch + 1}/{epochs}", -(-len(x) // batch_size)) as bar:
                    measure = _Measure(named_metrics)
                    for xb, yb in _batches(x, y, batch_size, order):
                        _step(model, loss, optimizer, xb, yb, clip_norm, measure)
                        bar.show(loss=measure.loss)
                        if interrupted():
                            history.stopped = "interrupt"
                            return history
                    values = measure.result()
                    if held_out is not None:
                        measured = evaluate(
                            model, loss, held_out, metrics=named_metrics, batch_size=batch_size
                        )
                        values |= {f"val_{name}": value for name, value in measured.items()}
                    bar.finish(values)
                history.record(values)
                if any([callback(history, model, epoch) is True for callback in callbacks]):
                    history.stopped = "callback"
                elif interrupted():
                    history.stopped = "interrupt"
                if history.stopped:
                    return history
    finally:
        model.train(mode)
    return history


def evaluate(
    model: Layer,
    loss: Callable[..., Any],
    data: Data,
    *,
    metrics: Metrics = (),
    batch_size: int = 256,
) -> dict[str, float]:
    """Return the loss and the metrics of `model` on `data`, in `eval` mode.

    Parameters
    ----------
    model, loss, data, metrics
        As in `fit`.
    batch_size : int, default 256
        Samples per call of the model.

    Returns
    -------
    dict of str to float
        "loss" and one entry per metric.
    """
    x, y = _checked(data, "evaluate: data")
    _at_least_one("evaluate: batch_size", batch_size)
    measure = _Measure(_named(metrics))
    with _eval_mode(model):
        for xb, yb in _batches(x, y, batch_size):
            output = model(xb)
            measure.add(loss(output, yb), output, yb)
    return measure.result()


def predict(model: Layer, x: Array, *, batch_size: int = 256) -> Array:
    """Return the output of `model` for all of `x`, computed in `eval` mode batch by batch.

    Parameters
    ----------
    model : Layer
    x : array
        One sample per row of the first axis; not empty.
    batch_size : int, default 256
    """
    _at_least_one("predict: batch_size", batch_size)
    if not len(x):
        raise ValueError("predict: x is empty")
    with _eval_mode(model):
        return np.concatenate([model(x[i : i + batch_size]) for i in range(0, len(x), batch_size)])


# -- one step -------------------------------------------------------------------------------


def _step(
    model: Layer,
    loss: Callable[..., Any],
    optimizer: Optimizer,
    x: Array,
    y: Array,
    clip_norm: float | None,
    measure: _Measure,
) -> None:
    op: Any = loss
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    while isinstance(op, functools.partial):
        op, args, options = op.func, op.args + args, op.keywords | options
    if args:
        raise TypeError("fit: loss must be a partial with options by name only")
    output = model(x, input_grad=False)
    value, pullback = vjp(op, output, y, wrt="input", **options)
    if np.ndim(value):
        raise ValueError(f"fit: loss must return a number, got shape {value.shape} (reduction 'none'?)")
    optimizer.zero_grad()
    model.backward(pullback(np.ones_like(value))[0])
    if clip_norm is not None:
        _clip_grad_norm(optimizer.parameters, clip_norm)
    optimizer.step()
    measure.add(value, output, y)


def _batches(x: Array, y: Array, batch_size: int, order: Array | None = None) -> Iterator[Data]:
    for start in range(0, len(x), batch_size):
        chosen: Any = slice(start, start + batch_size)
        if order is not None:
            chosen = order[chosen]
        yield x[chosen], y[chosen]


@contextlib.contextmanager
def _eval_mode(model: Layer) -> Iterator[None]:
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


# -- measuring ------------------------------------------------------------------------------


class _Measure:
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
                takes_outputs = getattr(metric, "takes_outputs", False)
                values[name] = float(metric(targets, outputs if takes_outputs else classes))  # type: ignore[arg-type]
        return values


def _accuracy(y_true: Array, y_pred: Array) -> float:
    """The share of samples whose class is right; class probabilities stand for their argmax."""
    if y_true.shape != y_pred.shape:
        raise ValueError(
            f"accuracy: targets of shape {y_true.shape} do not fit predictions of {y_pred.shape}"
        )
    if y_true.dtype.kind not in "iub" and y_true.ndim > 1:
        y_true, y_pred = y_true.argmax(1), y_pred.argmax(1)
    return float(np.mean(y_true == y_pred))


def _named(metrics: Metrics) -> dict[str, Metric]:
    if isinstance(metrics, Mapping):
        return dict(metrics)
    named: dict[str, Metric] = {}
    for metric in [metrics] if isinstance(metrics, str) or callable(metrics) else metrics:
        if metric == "accuracy":
            name, metric = "accuracy", _accuracy
        elif callable(metric):
            inner: Any = metric.func if isinstance(metric, functools.partial) else metric
            name = getattr(inner, "__name__", type(inner).__name__)
        else:
            raise ValueError(f"fit: metrics must be callables or 'accuracy', got {metric!r}")
        if name in named or name == "loss":
            raise ValueError(
                f"fit: metrics has the name {name!r} twice, give a mapping of names to callables"
            )
        named[name] = metric
    return named


# -- arguments ------------------------------------------------------------------------------


def _checked(data: Any, what: str) -> Data:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"{what} must be a pair (x, y) of arrays, got {type(data).__name__}")
    x, y = data
    for name, array in (("x", x), ("y", y)):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{what}: {name} must be an array, got {type(array).__name__}")
        if array.ndim == 0:
            raise ValueError(f"{what}: {name} must have an axis of samples, got a 0-d array")
    if len(x) != len(y):
        raise ValueError(f"{what}: x has {len(x)} samples, but y has {len(y)}")
    if not len(x):
        raise ValueError(f"{what} is empty")
    return x, y


def _at_least_one(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{what} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}")


def _split(x: Array, y: Array, share: float, rng: np.random.Generator | None) -> tuple[Data, Data]:
    if not 0 <= share < 1:
        raise ValueError(f"fit: validation_split must be from 0 to below 1, got {share}")
    count = round(len(x) * share)
    if not 0 < count < len(x):
        use = "train on" if count else "measure"
        raise ValueError(f"fit: validation_split={share} of {len(x)} samples leaves nothing to {use}")
    order = np.arange(len(x)) if rng is None else rng.permutation(len(x))
    train, held_out = np.sort(order[:-count]), np.sort(order[-count:])
    return (x[train], y[train]), (x[held_out], y[held_out])


# -- terminal -------------------------------------------------------------------------------


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that no step is left half done."""
    pressed = False

    def note(signum: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one raises

    # a handler of the caller's own is left alone, and only the main thread may set one
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Bar:
    """A tqdm bar, or nothing."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def show(self, **values: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_text(values), refresh=False)
            self._bar.update()

    def finish(self, values: Mapping[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_text(values), refresh=True)


def _text(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.4f}" for name, value in values.items())


@contextlib.contextmanager
def _bar(progress: bool, title: str, total: int) -> Iterator[_Bar]:
    if not progress:
        yield _Bar(None)
        return
    from tqdm import tqdm  # here, because it takes longer to import than the rest of this package

    form = "{desc} |{bar:16}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    with tqdm(total=total, desc=title, bar_format=form, dynamic_ncols=True) as bar:
        yield _Bar(bar)
