"""What the families' Python files share: spelling of arguments and dtype of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _core, _device

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


def sizes(op: str, name: str, value: Any) -> tuple[int, ...]:
    """Return an int, or a sequence of any number of ints, as a tuple."""
    return spatial(op, name, value, len(value) if isinstance(value, tuple | list) else 1)


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


def reduction_code(op: str, value: Any, more: str = "") -> int:
    """Return the number by which the bindings know a reduction; `more` are others that the op takes."""
    try:
        return _reductions[value]
    except (KeyError, TypeError):
        raise ValueError(f"{op}: reduction is {value!r}, expected 'mean', {more}'sum' or 'none'") from None


def pull_of_reduced(
    unit: Array, fit: Callable[[Any], Any], compute: Callable[[Array, Array | None], Any]
) -> Callable[[Array], Any]:
    """Return the pullback of a reduced loss whose gradient for a cotangent of 1 is `unit`.

    That array is handed out once, by way of `fit`; any other call computes a gradient of its own. To
    look at a cotangent on a device is to wait for it: `compute` takes the array along, and the kernel
    looks.
    """
    if not isinstance(unit, np.ndarray):
        left = [unit]
        return lambda cotangent: compute(cotangent, _pop(left))
    held = [fit(unit)]

    def pull(cotangent: Array) -> Any:
        first = _pop(held) if held and cotangent == 1 else None
        return compute(cotangent, None) if first is None else first

    return pull


def loss_rule(
    core: Any,
    op: str,
    wanted: tuple[bool, ...],
    arrays: tuple[Any, ...],
    options: tuple[Any, ...],
    reduces: bool,
    shaped: Callable[[Any], Any] = lambda gradient: gradient,
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Return a loss of `arrays`, differentiable in the first, and its pullback.

    `core` has the functions `op`, <op>_gradient (the loss and its gradient for a cotangent of one) and
    <op>_backward. `shaped` brings a gradient to its argument's shape.
    """

    def fit(gradient: Any) -> Any:
        return gradient_like(shaped(gradient), arrays[0])

    def compute(cotangent: Any, unit: Any = None) -> Any:
        return fit(getattr(core, f"{op}_backward")(cotangent, *arrays, *options, unit))

    if not wanted[0]:
        return getattr(core, op)(*arrays, *options, None), lambda cotangent: (None,)
    if not reduces:
        return getattr(core, op)(*arrays, *options, None), lambda dy: (compute(dy),)
    out, unit = getattr(core, f"{op}_gradient")(*arrays, *options)
    pull = pull_of_reduced(unit, fit, compute)
    return out, lambda cotangent: (pull(cotangent),)


def _pop(held: list[Any]) -> Any:
    try:
        return held.pop()
    except IndexError:  # it was handed out, perhaps to another thread just now
        return None


def gradient_like(gradient: Array | None, argument: Array) -> Array | None:
    """Round a gradient to its argument's dtype."""
    return None if gradient is None else as_dtype(gradient, argument.dtype)


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of `shape` was repeated."""
    if tuple(a.shape) == shape:
        return a
    new = a.ndim - len(shape)
    repeated = tuple(i for i in range(a.ndim) if i < new or (shape[i - new] == 1 and a.shape[i] != 1))
    library = None if isinstance(a, np.ndarray) else _device.library_of(a)
    if library is not None:
        total: Array = library.sum(a, repeated).reshape(shape)
    else:
        total = a.sum(repeated, np.float64, keepdims=True).reshape(shape).astype(a.dtype)
    return total


def as_dtype(array: Any, dtype: Any) -> Any:
    """Return an array of its library's `dtype`: itself, if it has that."""
    if array.dtype == dtype:
        return array
    library = None if isinstance(array, np.ndarray) else _device.library_of(array)
    return _core.as_dtype(array, np.dtype(dtype)) if library is None else library.astype(array, dtype)


def as_flags(array: Any) -> Any:
    """Return a boolean array as integers of one byte, and anything else as it is."""
    if isinstance(array, np.ndarray):
        return array.view(np.uint8) if array.dtype == np.bool_ else array
    library = _device.library_of(array)
    if library is None or library.dtype_name(array) != "bool":
        return array
    one = library.empty((1,), "uint8", library.where(array)[1])  # its dtype is what `astype` takes
    return library.astype(array, one.dtype)


def ndim(value: Any) -> int | None:
    """Return the number of dimensions of an array, or None for what is none."""
    if isinstance(value, np.ndarray) or _device.library_of(value) is not None:
        dims: int = value.ndim
        return dims
    return None


def memory_order(array: Any) -> tuple[int, ...]:
    """Return the strides of an array, in units of its library."""
    library = None if isinstance(array, np.ndarray) else _device.library_of(array)
    strides: tuple[int, ...] = array.strides if library is None else library.strides(array)
    return strides


def is_channels_last(array: Any) -> bool:
    """Tell whether (N, C, H, W) lies densely as (N, H, W, C), and not as (N, C, H, W) too."""
    if isinstance(array, np.ndarray):
        return (
            array.ndim == 4
            and not array.flags.c_contiguous
            and array.transpose(0, 2, 3, 1).flags.c_contiguous
        )
    return _device.is_channels_last(tuple(array.shape), memory_order(array))


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
