"""What the families' Python files share: spelling of arguments and dtype of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
IntOrPair: TypeAlias = int | Sequence[int]


_limit = 2**63


def _index(op: str, name: str, value: Any) -> int:
    """Return an int that C++ can hold."""
    number = index(value)
    if not -_limit <= number < _limit:
        raise ValueError(f"{op}: {name} is {value!r}, expected an int of at most 64 bits")
    return number


def spatial(op: str, name: str, value: Any, dims: int) -> tuple[int, ...]:
    """Return an int, or a sequence of `dims` ints (or of one, for all dimensions), as a tuple."""
    if type(value) is int and -_limit <= value < _limit:
        return (value,) * dims
    try:
        if isinstance(value, tuple | list):
            sizes = tuple([_index(op, name, size) for size in value])
            if len(sizes) == dims:
                return sizes
            if len(sizes) == 1:
                return sizes * dims
            raise ValueError(f"{op}: {name} is {value!r}, expected an int or {dims} of them")
        return (_index(op, name, value),) * dims
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}, expected an int or a tuple of ints") from None


def integer(op: str, name: str, value: Any) -> int:
    """Return an int, or say which argument is not one."""
    if type(value) is int and -_limit <= value < _limit:
        return value
    try:
        return _index(op, name, value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}, expected an int") from None


def flag(op: str, name: str, value: Any) -> bool:
    """Return a bool, or say which argument is not one."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{op}: {name} is {value!r}, expected True or False")
    return bool(value)


def number(op: str, name: str, value: Any) -> float:
    """Return a float, or say which argument is not a number."""
    if type(value) is float:
        return value
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{op}: {name} is {value!r}, expected a number") from None


_reductions = {"none": 0, "mean": 1, "sum": 2}


def reduction_code(op: str, value: Any) -> int:
    """Return the number by which the bindings know a reduction."""
    try:
        return _reductions[value]
    except (KeyError, TypeError):
        raise ValueError(f"{op}: reduction is {value!r}, expected 'mean', 'sum' or 'none'") from None


def pull_of_reduced(unit: Array | None, compute: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return the pullback of a reduced loss whose gradient for a cotangent of 1 is `unit`.

    That array is handed out once; any other call computes a gradient of its own.
    """
    held = [unit]

    def pull(cotangent: Array) -> Array:
        if held and cotangent == 1:
            try:
                first = held.pop()
            except IndexError:  # another thread was faster
                first = None
            if first is not None:
                return first
        return compute(cotangent)

    return pull


def gradient_like(gradient: Array | None, argument: Array) -> Array | None:
    """Round a gradient to its argument's dtype."""
    if gradient is None or gradient.dtype == argument.dtype:
        return gradient
    return gradient.astype(argument.dtype)


def generator(op: str, rng: Any) -> np.random.Generator:
    """Return the generator that a seed, a generator or None stands for (SPEC 7)."""
    if rng is None:
        return _default_rng()
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise TypeError(f"{op}: rng is {rng!r}, expected None, a seed or a numpy.random.Generator") from None


def rng_key(op: str, rng: Any) -> int:
    """Draw the 64-bit Philox key of one dropout mask."""
    return int(generator(op, rng).integers(0, 2**64, dtype=np.uint64))


_rng: np.random.Generator | None = None


def _default_rng() -> np.random.Generator:
    global _rng
    if _rng is None:
        _rng = np.random.default_rng()
    return _rng
