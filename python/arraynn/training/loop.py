"""The training loop: `fit`."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .._vjp import differentiable, vjp
from ..layers import Layer
from ..optim import Optimizer, Schedule, clip_grad_norm, clip_grad_value
from . import checkpoint as checkpoints
from .data import Array, Data, Inputs, Source, at_least_one, parts, source, split
from .evaluation import MEASURED_AT_ONCE, call, measured
from .history import History
from .metrics import Measure, Metric, Metrics, named
from .stopping import Best, EarlyStopping
from .terminal import Bar, interruptible, progress_bar

Callback = Callable[[History, Layer, int], bool | None]


def fit(
    model: Layer,
    loss: Callable[..., Any],
    optimizer: Optimizer,
    data: Data,
    *,
    epochs: int,
    batch_size: int | None,
    validation_data: Data | None = None,
    validation_split: float = 0.0,
    metrics: Metrics = (),
    callbacks: Iterable[Callback] = (),
    shuffle: bool = True,
    schedule: Schedule | None = None,
    early_stopping: EarlyStopping | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    accumulate: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
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
    data : (x, y) arrays, iterable of such pairs, or callable
        Inputs and targets, one sample per row of the first axis. A model of several inputs takes a
        tuple of arrays for x, and gets them as its arguments. Or an iterable of batches, each such a
        pair, which a thread of its own reads ahead by one and which is gone through once an epoch (an
        array that was yielded must not be written again); or
        a function of the epoch, counted from 0, that returns the batches of that epoch.
    epochs : int
    batch_size : int or None
        The last batch of an epoch may be smaller. None where `data` comes in batches.
    validation_data : as `data`, optional
        Measured after every epoch, as ``val_loss`` and ``val_<metric>``.
    validation_split : float, default 0
        Share of `data` to hold out instead: chosen at random if `shuffle`, else its end.
    metrics : str, callable, or several of them (mapping name to callable, too)
        "accuracy"; "precision", "recall", "f1" (means over the classes), "mae", "rmse", computed by
        scikit-learn; or any ``f(y_true, y_pred)``. Where the targets are class indices `y_pred` is the
        predicted classes, the output's argmax over axis 1, unless ``f.takes_outputs`` is true; in all
        other cases it is the model's output. The values on the training data are of the outputs during
        the epoch, while the model still learns.
    callbacks : iterable of callable
        Each is called after every epoch as ``f(history, model, epoch)``, `epoch` counted from 0.
        One that returns True ends the run.
    shuffle : bool, default True
        Draw a new order of the samples in every epoch. Batches of an iterable keep theirs.
    schedule : Schedule, optional
        Of `optimizer`; it sets the learning rate after every epoch or step.
    early_stopping : EarlyStopping, optional
        End the run when it no longer gets better, with the weights of the best epoch.
    clip_norm, clip_value : float, optional
        Bounds on the joint norm of all gradients, and then on each of their elements.
    accumulate : int, default 1
        Compute every batch in this many parts and add up their gradients: the step of the whole
        batch, in the memory of a part. The loss must be a mean over samples; batch normalization
        sees the parts.
    checkpoint : path, optional
        A safetensors file, written atomically after every epoch: weights, the states of optimizer,
        schedule, random generators and early stopping, and the history.
    resume : bool, default False
        Go on from `checkpoint` if it exists. Called with the same arguments, the run gives bit for
        bit what it would have given without the interruption; an epoch that was interrupted begins anew.
    rng : None, int or numpy.random.Generator
        Source of the order of the samples and of the random hold-out.
    progress : bool, default True
        Show a progress bar per epoch, on standard error.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the checkpoint is of another run; raised before the first step.
    """
    if not isinstance(model, Layer):
        raise TypeError(f"fit: model must be a Layer, got {type(model).__name__}")
    if not {id(p) for p in model.parameters()} & {id(p) for p in optimizer.parameters}:
        raise ValueError("fit: optimizer has none of the model's parameters")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("fit: schedule must be of the same optimizer")
    at_least_one("fit: epochs", epochs)
    accumulate = at_least_one("fit: accumulate", accumulate)
    for what, bound in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if bound is not None and not bound >= 0:
            raise ValueError(f"fit: {what} must be at least 0, got {bound}")
    callbacks = tuple(callbacks)
    if checkpoint is not None and not (Path(checkpoint).parent.is_dir() and not Path(checkpoint).is_dir()):
        raise ValueError(f"fit: checkpoint must be a file in a folder that exists, got {checkpoint}")
    if resume and checkpoint is None:
        raise ValueError("fit: resume needs the path of a checkpoint")
    saved = checkpoints.read(checkpoint) if resume and checkpoint and Path(checkpoint).exists() else None
    rng = np.random.default_rng(rng)
    if saved:  # the hold-out is drawn again as it was
        rng.bit_generator.state = saved[1]["first_rng"]
    first_rng = rng.bit_generator.state
    order = rng if shuffle else None
    train, held_out = _sources(data, batch_size, validation_data, validation_split, order)
    clip = (clip_norm, clip_value)
    run = _Run(
        model, loss, optimizer, train, named(metrics), schedule, early_stopping, clip, accumulate, order
    )
    run.hold_out(held_out)
    if saved:
        run.load(*saved, rng)
    del saved
    mode = model.training
    try:
        with interruptible() as interrupted:
            while run.history.epochs < epochs and not run.stopped():
                epoch = run.history.epochs
                model.train()
                with progress_bar(progress, f"Epoch {epoch + 1}/{epochs}", train.steps()) as bar:
                    if not run.epoch(epoch, bar, interrupted):
                        run.history.stopped = "interrupt"
                        break
                said = [callback(run.history, model, epoch) for callback in callbacks]
                if any(isinstance(answer, bool | np.bool_) and answer for answer in said):
                    run.history.stopped = "callback"
                elif interrupted():
                    run.history.stopped = "interrupt"
                if checkpoint is not None:
                    run.save(checkpoint, first_rng, rng)
                if run.history.stopped:
                    break
    finally:
        model.train(mode)
    run.finish()
    return run.history


def _sources(
    data: Data,
    batch_size: int | None,
    validation_data: Data | None,
    validation_split: float,
    rng: np.random.Generator | None,
) -> tuple[Source, Source | None]:
    """Return what to learn from and what to measure after every epoch."""
    if validation_data is not None and validation_split:
        raise ValueError("fit: give validation_data or validation_split, not both")
    if validation_split:
        data, validation_data = split(data, validation_split, rng)
    train = source(data, batch_size, "fit: data")
    if validation_data is None:
        return train, None
    size = (batch_size or MEASURED_AT_ONCE) if isinstance(validation_data, tuple) else None
    return train, source(validation_data, size, "fit: validation_data")


class _Run:
    """What a run consists of, and its state."""

    def __init__(
        self,
        model: Layer,
        loss: Callable[..., Any],
        optimizer: Optimizer,
        data: Source,
        metrics: dict[str, Metric],
        schedule: Schedule | None,
        early_stopping: EarlyStopping | None,
        clip: tuple[float | None, float | None],
        accumulate: int,
        order: np.random.Generator | None,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.data, self.metrics = data, metrics
        self._loss = loss
        self._op, self._options = _op_of(loss)
        self._clip, self._accumulate, self._order = clip, accumulate, order
        self._stopping = early_stopping
        self.best = None if early_stopping is None else Best(early_stopping)
        self.history = History()

    def hold_out(self, held_out: Source | None) -> None:
        """Measure on `held_out` too, and see that what is watched will then be known."""
        self.held_out = held_out
        known = ["loss", *self.metrics]
        known += [f"val_{name}" for name in known] if held_out else []
        for what, name in (
            ("schedule", self.schedule and self.schedule.watched),
            ("early_stopping", self._stopping and self._stopping.monitor),
        ):
            if name is not None and name not in known:
                raise ValueError(
                    f"fit: {what} watches {name!r}, but what is measured is {', '.join(map(repr, known))}"
                )

    def epoch(self, epoch: int, bar: Bar, interrupted: Callable[[], bool]) -> bool:
        """Learn from every batch, then measure; False if interrupted."""
        measure = Measure(self.metrics)
        with contextlib.closing(self.data.batches(epoch, self._order)) as batches:
            for x, y in batches:
                self._step(x, y, measure)
                bar.show(loss=measure.loss)
                if interrupted():
                    return False
        values = measure.result()
        if self.held_out is not None:
            found = measured(self.model, self._loss, self.held_out, self.metrics)
            values |= {f"val_{name}": value for name, value in found.items()}
        self.history.record(values)
        if self.schedule is not None:
            self.schedule.after("epoch", values)
        if self.best is not None:
            self.best.see(values, self.model)
        bar.finish(values)
        return True

    def _step(self, x: Inputs, y: Array, measure: Measure) -> None:
        self.optimizer.zero_grad()
        for xi, yi, share in parts(x, y, self._accumulate):
            output = call(self.model, xi, input_grad=False)
            value, pullback = vjp(self._op, output, yi, wrt="input", **self._options)
            if np.ndim(value):
                raise ValueError(
                    f"fit: loss must return a number, got shape {value.shape} (reduction 'none'?)"
                )
            self.model.backward(pullback(np.full_like(value, share))[0])
            measure.add(value, output, yi)
        norm, bound = self._clip
        if norm is not None:
            clip_grad_norm(self.optimizer.parameters, norm)
        if bound is not None:
            clip_grad_value(self.optimizer.parameters, bound)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.after("step", {})

    def stopped(self) -> bool:
        """Whether early stopping ends the run."""
        if self.best is not None and self.best.stops:
            self.history.stopped = "early stopping"
            return True
        return False

    def finish(self) -> None:
        """Put the best weights back, if that was asked for."""
        if self.best is not None:
            self.best.restore(self.model)

    def _description(self) -> dict[str, Any]:
        return self.data.description | {
            "accumulate": self._accumulate,
            "shuffle": self._order is not None,
            "optimizer": type(self.optimizer).__name__,
            "schedule": None if self.schedule is None else self.schedule.kind(),
            "metrics": list(self.metrics),
            "validation": self.held_out is not None,
            "early_stopping": self._stopping and f"{self._stopping.mode} {self._stopping.monitor}",
        }

    def _states(self) -> dict[str, checkpoints.State]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {} if self.schedule is None else self.schedule.state_dict(),
        }

    def _load_states(self, states: dict[str, checkpoints.State]) -> None:
        self.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(states.get("schedule", {}))

    def save(self, path: str | os.PathLike[str], first_rng: Any, rng: np.random.Generator) -> None:
        arrays = self._states() | {
            "best": {} if self.best is None else self.best.weights,
            "history": {name: np.array(values) for name, values in self.history.items()},
        }
        facts = {
            "run": self._description(),
            "first_rng": first_rng,
            "rng": rng.bit_generator.state,
            "generators": [g.bit_generator.state for g in checkpoints.generators(self.model)],
            "best": None if self.best is None else self.best.facts(),
        }
        checkpoints.write(path, arrays, facts)

    def load(
        self, arrays: dict[str, checkpoints.State], facts: dict[str, Any], rng: np.random.Generator
    ) -> None:
        """Go on from what `save` wrote."""
        wrong = list(checkpoints.differences(self._description(), facts["run"]))
        layers = checkpoints.generators(self.model)
        if len(layers) != len(facts["generators"]):
            wrong.append(f"the model has {len(layers)} generators, not {len(facts['generators'])}")
        if wrong:
            raise ValueError(f"fit: the checkpoint is of another run: {'; '.join(wrong)}")
        ours = self._states()
        try:
            self._load_states(arrays)
        except ValueError:
            self._load_states(ours)  # a run that is refused leaves everything as it was
            raise
        if self.best is not None:
            self.best.go_on(facts["best"], arrays.get("best", {}))
        for generator, state in zip(layers, facts["generators"], strict=True):
            generator.bit_generator.state = state
        rng.bit_generator.state = facts["rng"]
        for name, values in arrays["history"].items():
            self.history[name] = values.tolist()


def _op_of(loss: Any) -> tuple[Any, dict[str, Any]]:
    """Return the op below partials, and the options they give it."""
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        loss, args, options = loss.func, loss.args + args, loss.keywords | options
    if args:
        raise TypeError("fit: loss must be a partial with options by name only")
    differentiable(loss)  # or a TypeError
    return loss, options
