"""What the families' Python files share: spelling of arguments and dtype of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
IntOrPair: TypeAlias = int | Sequence[int]


def spatial(op: str, name: str, value: Any, dims: int) -> tuple[int, ...]:
    """Return an int, or a sequence of `dims` ints (or of one, for all dimensions), as a tuple."""
    if type(value) is int:
        return (value,) * dims
    try:
        if isinstance(value, tuple | list):
            sizes = tuple(map(index, value))
            if len(sizes) == dims:
                return sizes
            if len(sizes) == 1:
                return sizes * dims
            raise ValueError(f"{op}: {name} is {value!r}, expected an int or {dims} of them")
        return (index(value),) * dims
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}, expected an int or a tuple of ints") from None


def integer(op: str, name: str, value: Any) -> int:
    """Return an int, or say which argument is not one."""
    if type(value) is int:
        return value
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}, expected an int") from None


def gradient_like(gradient: Array | None, argument: Array) -> Array | None:
    """Round a gradient to its argument's dtype."""
    if gradient is None or gradient.dtype == argument.dtype:
        return gradient
    return gradient.astype(argument.dtype)


def rng_key(op: str, rng: Any) -> int:
    """Draw the 64-bit Philox key of one dropout mask from a seed or a generator (SPEC 7)."""
    if rng is None:
        rng = _default_rng()
    elif not isinstance(rng, np.random.Generator):
        try:
            rng = np.random.default_rng(rng)
        except (TypeError, ValueError):
            raise TypeError(f"{op}: rng is {rng!r}, expected None, a seed or a numpy.random.Generator") from None
    return int(rng.integers(0, 2**64, dtype=np.uint64))


_rng: np.random.Generator | None = None


def _default_rng() -> np.random.Generator:
    global _rng
    if _rng is None:
        _rng = np.random.default_rng()
    return _rng
