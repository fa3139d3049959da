"""What every reference op shares: argument checks, float64 inside, rounding at the end."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOATS = tuple(np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
REDUCTIONS = ("mean", "sum", "none")


def array(op: str, name: str, value: Any) -> Array:
    """Return `value` if it is an array; lists and scalars are refused, not converted."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{op}: {name} must be an array, got {type(value).__name__}")
    return np.asarray(value)


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return `dtype` in this machine's byte order."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether arrays of `dtype` are what a floating argument takes."""
    return native(dtype) in FLOATS


def floating(op: str, name: str, value: Any, ndim: Sequence[int] | None = None) -> Array:
    """Return `value` if it is a floating-point array (of one of the dimensions `ndim`)."""
    if not is_floating(array(op, name, value).dtype):
        raise TypeError(f"{op}: {name} must be a floating-point array, got dtype {value.dtype}")
    if ndim is not None and value.ndim not in ndim:
        expected = " or ".join(map(str, ndim))
        raise ValueError(f"{op}: {name} must have {expected} dimensions, got shape {value.shape}")
    return np.asarray(value)


def integers(op: str, name: str, value: Any) -> Array:
    """Return `value` as int64 if it is an array of any integer dtype."""
    if array(op, name, value).dtype.kind not in "iu":
        raise TypeError(f"{op}: {name} must be an integer array, got dtype {value.dtype}")
    if value.dtype == np.uint64 and value.size and value.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{op}: {name} holds {value.max()}, which is out of range")
    return np.asarray(value.astype(np.int64))


def shaped(op: str, name: str, value: Array, shape: tuple[int, ...]) -> Array:
    """Return `value` if it has `shape`."""
    if value.shape != shape:
        raise ValueError(f"{op}: {name} has shape {value.shape}, expected {shape}")
    return value


def integer(op: str, name: str, value: Any, least: int | None = None) -> int:
    """Return `value` as an int of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value}")
    return number


def per_axis(op: str, name: str, value: Any, axes: int, least: int) -> tuple[int, ...]:
    """Spell `value`, an int or a sequence of 1 or `axes` ints, as one int per spatial axis."""
    if not isinstance(value, tuple | list):
        return (integer(op, name, value, least),) * axes
    if len(value) not in (1, axes):
        raise ValueError(f"{op}: {name} must be an int or {axes} ints, got {value}")
    numbers = tuple(integer(op, name, v, least) for v in value)
    return numbers * (axes // len(numbers))


def number(op: str, name: str, value: Any) -> float:
    """Return `value` as a float."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}") from None


def fraction(op: str, name: str, value: Any) -> float:
    """Return `value` as a float between 0 and 1."""
    share = number(op, name, value)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{op}: {name} must be between 0 and 1, got {value}")
    return share


def check_reduction(op: str, value: Any) -> None:
    """Refuse what is not a name of a reduction."""
    if value not in REDUCTIONS:
        raise ValueError(f"{op}: reduction must be 'mean', 'sum' or 'none', got {value!r}")


def result_dtype(op: str, *arrays: Array | None) -> np.dtype[Any]:
    """Return the dtype of the result: NumPy's promotion of the floating inputs."""
    try:
        return np.result_type(*(native(a.dtype) for a in arrays if a is not None))
    except TypeError as error:
        raise TypeError(f"{op}: inputs have dtypes without a common one: {error}") from None


def wide(value: Array) -> NDArray[np.float64]:
    """Return `value` in float64, in which all of the reference computes."""
    return value.astype(np.float64)


def rounded(value: Any, dtype: np.dtype[Any]) -> Array:
    """Return `value` as a fresh array, rounded once to `dtype`."""
    with np.errstate(over="ignore", invalid="ignore"):  # too large for `dtype` is inf, as in the kernels
        return np.array(value, dtype=native(dtype))


def deliver(op: str, value: Any, dtype: np.dtype[Any], out: Any, *inputs: Any) -> Array:
    """Round `value` to `dtype` and return it: fresh, or in `out` where that can take it."""
    result = rounded(value, dtype)
    if out is None:
        return result
    if array(op, "out", out).dtype != result.dtype:
        raise TypeError(f"{op}: out has dtype {out.dtype}, expected {result.dtype}")
    shaped(op, "out", out, result.shape)
    if not out.flags.writeable:
        raise ValueError(f"{op}: out is read-only")
    if any(np.shares_memory(out, a) for a in inputs if a is not None):
        raise ValueError(f"{op}: out overlaps an input")
    out[...] = result
    return np.asarray(out)
