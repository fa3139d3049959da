"""What the pooling ops of one, two and three dimensions share: spelling of arguments, and their rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from . import _core
from ._common import Array, as_dtype, flag, integer, spatial

Sizes: TypeAlias = int | Sequence[int]
OutputSize: TypeAlias = int | Sequence[int | None]
Pull: TypeAlias = Callable[[Any], tuple[Any, ...]]
Options: TypeAlias = tuple[Any, ...]


_dims = {"1": 1, "2": 2, "3": 3}


def dims_of(op: str) -> int:
    """Return the number of spatial dimensions, which is in the op's name."""
    return _dims[op[-2]]


def _window(op: str, dims: int, kernel_size: Any, stride: Any, padding: Any) -> tuple[tuple[int, ...], ...]:
    """Spell kernel, stride and padding as tuples; no stride is the kernel's size."""
    kernel = spatial(op, "kernel_size", kernel_size, dims)
    no_stride = stride is None or (isinstance(stride, tuple | list) and not stride)
    strides = kernel if no_stride else spatial(op, "stride", stride, dims)
    return kernel, strides, spatial(op, "padding", padding, dims)


def max_options(
    op: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> Options:
    dims = dims_of(op)
    return (
        *_window(op, dims, kernel_size, stride, padding),
        spatial(op, "dilation", dilation, dims),
        flag(op, "ceil_mode", ceil_mode),
    )


def average_options(
    op: str, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any, count_include_pad: Any, divisor: Any
) -> Options:
    if divisor is not None:
        divisor = integer(op, "divisor_override", divisor)
    return (
        *_window(op, dims_of(op), kernel_size, stride, padding),
        flag(op, "ceil_mode", ceil_mode),
        flag(op, "count_include_pad", count_include_pad),
        divisor,
    )


def output_size_of(op: str, value: Any) -> Options:
    name, dims = "output_size", dims_of(op)
    if not isinstance(value, tuple | list):
        return ((integer(op, name, value),) * dims,)
    if len(value) != dims:
        raise ValueError(f"{op}: {name} is {value!r}, expected an int or {dims} of them")
    return (tuple(None if size is None else integer(op, name, size) for size in value),)


def largest(
    op: str, input: Array, options: Options, return_indices: bool, out: Array | None
) -> Array | tuple[Array, Array]:
    """Compute a maximum, with where it lies if that is asked for."""
    compute = getattr(_core, op)
    if not return_indices:
        result: Array = compute(input, *options, False, False, out)[0]
        return result
    if out is not None:
        raise TypeError(f"{op}: out is given together with return_indices=True, expected one of them")
    y, indices, _, _ = compute(input, *options, True, False, None)
    return y, indices


def largest_rule(
    op: str, wanted: bool, input: Array, options: Options, return_indices: bool
) -> tuple[Array | tuple[Array, Array], Pull]:
    """Return a maximum and its pullback, which holds the tap of each."""
    y, indices, taps, channels_last = getattr(_core, op)(input, *options, return_indices, wanted, None)
    shape, dtype = input.shape, input.dtype
    backward = getattr(_core, f"{op}_backward")

    def pull(cotangent: Any) -> tuple[Any, ...]:
        if not wanted:
            return (None,)
        dy = cotangent[0] if return_indices else cotangent
        return (as_dtype(backward(dy, taps, shape, channels_last, *options), dtype),)

    return ((y, indices) if return_indices else y), pull


def mean(op: str, input: Array, options: Options, out: Array | None) -> Array:
    result: Array = getattr(_core, op)(input, *options, out)[0]
    return result


def mean_rule(op: str, wanted: bool, input: Array, options: Options) -> tuple[Array, Pull]:
    """Return a mean and its pullback, which holds no array."""
    out, channels_last = getattr(_core, op)(input, *options, None)
    shape, dtype = input.shape, input.dtype
    backward = getattr(_core, f"{op}_backward")

    def pull(cotangent: Array) -> tuple[Any, ...]:
        if not wanted:
            return (None,)
        return (as_dtype(backward(cotangent, shape, channels_last, *options), dtype),)

    return out, pull


def max_pool_rule(op: str) -> Callable[..., Any]:
    """Return the rule of a max_pool: `defvjp` says what that is."""

    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        options = max_options(op, kernel_size, stride, padding, dilation, ceil_mode)
        return largest_rule(op, wanted[0], input, options, return_indices)

    return rule


def avg_pool_rule(op: str) -> Callable[..., Any]:
    """Return the rule of an avg_pool of two dimensions or more."""

    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        options = average_options(
            op, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        return mean_rule(op, wanted[0], input, options)

    return rule


def avg_pool1d_rule(
    wanted: tuple[bool, ...],
    input: Array,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    op = "avg_pool1d"
    options = average_options(op, kernel_size, stride, padding, ceil_mode, count_include_pad, None)
    return mean_rule(op, wanted[0], input, options)


def adaptive_avg_pool_rule(op: str) -> Callable[..., Any]:
    """Return the rule of an adaptive_avg_pool."""

    def rule(wanted: tuple[bool, ...], input: Array, output_size: OutputSize) -> Any:
        return mean_rule(op, wanted[0], input, output_size_of(op, output_size))

    return rule


def adaptive_max_pool_rule(op: str) -> Callable[..., Any]:
    """Return the rule of an adaptive_max_pool."""

    def rule(
        wanted: tuple[bool, ...], input: Array, output_size: OutputSize, return_indices: bool = False
    ) -> Any:
        return largest_rule(op, wanted[0], input, output_size_of(op, output_size), return_indices)

    return rule
