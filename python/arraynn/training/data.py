"""Where batches come from: arrays in memory, or a stream that a thread reads ahead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Inputs = Array | tuple[Array, ...]  # a model of several inputs gets them as its arguments
Batch = tuple[Inputs, Array]
Data = Batch | Iterable[Batch] | Callable[[int], Iterable[Batch]]


class Source(Protocol):
    """The batches of a run."""

    description: dict[str, int]  # what a run that goes on must have alike

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch, in an order drawn from `rng`, or that of the samples."""

    def steps(self) -> int | None:
        """Return the number of batches in an epoch, None if it is not known."""


def source(data: Data, batch_size: int | None, what: str) -> Source:
    """Return the batches of `data`: a pair of arrays, or an iterable of such pairs."""
    if isinstance(data, tuple):
        x, y = checked(data, what)
        return _Arrays(x, y, _size(batch_size, what))
    if isinstance(data, np.ndarray) or not (isinstance(data, Iterable) or callable(data)):
        raise TypeError(
            f"{what} must be a pair (x, y) of arrays or an iterable of such pairs, got {type(data).__name__}"
        )
    if batch_size is not None:
        raise ValueError(f"{what} comes in batches, expected batch_size=None, got {batch_size}")
    return _Stream(data, what)


def checked(data: Any, what: str) -> Batch:
    """Return `data` if it is a pair of inputs and targets with as many samples each, and not empty."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"{what} must be a pair (x, y) of arrays, got {_kind(data)}")
    x, y = data
    several = isinstance(x, tuple)
    named = [(f"x[{i}]", part) for i, part in enumerate(x)] if several else [("x", x)]
    for name, array in [*named, ("y", y)]:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{what}: {name} must be an array, got {type(array).__name__}")
        if array.ndim == 0:
            raise ValueError(f"{what}: {name} must have an axis of samples, got a 0-d array")
    for name, array in named:
        if len(array) != len(y):
            raise ValueError(f"{what}: {name} has {len(array)} samples, but y has {len(y)}")
    if not named or not len(y):
        raise ValueError(f"{what} is empty")
    return x, y


def split(
    data: Any, share: float, rng: np.random.Generator | None, what: str = "fit: validation_split"
) -> tuple[Batch, Batch]:
    """Return what to train on and the share that is held out: drawn from `rng`, or the end."""
    if not 0 <= share < 1:
        raise ValueError(f"{what} must be from 0 to below 1, got {share}")
    if not isinstance(data, tuple):
        raise ValueError(f"{what} needs data in arrays, give validation_data beside an iterable")
    x, y = checked(data, "fit: data")
    count = round(len(y) * share)
    if not 0 < count < len(y):
        use = "train on" if count else "measure"
        raise ValueError(f"{what}={share} of {len(y)} samples leaves nothing to {use}")
    order = np.arange(len(y)) if rng is None else rng.permutation(len(y))
    train, held_out = np.sort(order[:-count]), np.sort(order[-count:])
    return (take(x, train), y[train]), (take(x, held_out), y[held_out])


def take(x: Inputs, chosen: Any) -> Inputs:
    """Return the chosen samples of every input."""
    return tuple(part[chosen] for part in x) if isinstance(x, tuple) else x[chosen]


def parts(x: Inputs, y: Array, count: int) -> Iterator[tuple[Inputs, Array, float]]:
    """Yield a batch in `count` parts, or in as many as it has samples, each with its share of them."""
    count = min(count, len(y))
    if count == 1:
        yield x, y, 1.0
        return
    bounds = [len(y) * i // count for i in range(count + 1)]
    for begin, end in pairwise(bounds):
        chosen = slice(begin, end)
        yield take(x, chosen), y[chosen], (end - begin) / len(y)


class _Arrays:
    def __init__(self, x: Inputs, y: Array, batch_size: int) -> None:
        self._x, self._y, self._batch_size = x, y, batch_size
        self.description = {"batch_size": batch_size, "samples": len(y)}

    def steps(self) -> int:
        return -(-len(self._y) // self._batch_size)

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Generator[Batch, None, None]:
        count = len(self._y)
        order = None if rng is None else rng.permutation(count)
        for start in range(0, count, self._batch_size):
            chosen: Any = slice(start, start + self._batch_size)
            if order is not None:
                chosen = order[chosen]
            yield take(self._x, chosen), self._y[chosen]


class _Stream:
    """Batches from an iterable, the next of which a thread fetches while this one is learned from."""

    description: dict[str, int]

    def __init__(self, data: Iterable[Batch] | Callable[[int], Iterable[Batch]], what: str) -> None:
        self._data, self._what = data, what
        self._begun = False
        self.description = {}

    def steps(self) -> int | None:
        return len(self._data) if isinstance(self._data, Sized) else None

    def batches(self, epoch: int, rng: np.random.Generator | None) -> Generator[Batch, None, None]:
        iterable = self._data(epoch) if callable(self._data) else self._data
        iterator = iter(iterable)
        if iterator is self._data:
            if self._begun:
                raise ValueError(
                    f"{self._what} is an iterator, which ends with the first epoch: give an iterable that "
                    "can be gone through again, or a function that returns the batches of an epoch"
                )
            self._begun = True
        found = False
        with contextlib.closing(read_ahead(iterator)) as batches:
            for batch in batches:
                yield checked(batch, f"{self._what}: batch")
                found = True
        if not found:
            raise ValueError(f"{self._what} is empty")


def read_ahead(iterator: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield from `iterator`, of which a thread of its own takes the next item meanwhile."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="arraynn-data") as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item


def _size(batch_size: int | None, what: str) -> int:
    op = what.split(":")[0]
    if batch_size is None:
        raise TypeError(f"{op}: batch_size must be an integer for data in arrays, got None")
    return at_least_one(f"{op}: batch_size", batch_size)


def at_least_one(what: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{what} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}")
    return int(value)


def _kind(data: Any) -> str:
    kind = type(data).__name__
    return f"a {kind} of {len(data)}" if isinstance(data, tuple | list) else kind
