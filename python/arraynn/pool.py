"""Pooling over windows of a plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from . import _core
from ._common import Array, IntOrPair, as_dtype, flag, integer, is_channels_last, spatial
from ._vjp import defvjp

_Pull: TypeAlias = Callable[[Any], tuple[Any, ...]]


def _window(op: str, kernel_size: Any, stride: Any, padding: Any) -> tuple[tuple[int, ...], ...]:
    """Spell kernel, stride and padding as pairs; no stride is the kernel's size."""
    kernel = spatial(op, "kernel_size", kernel_size, 2)
    no_stride = stride is None or (isinstance(stride, tuple | list) and not stride)
    strides = kernel if no_stride else spatial(op, "stride", stride, 2)
    return kernel, strides, spatial(op, "padding", padding, 2)


def max_pool2d(
    input: Array,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the maximum of each window.

    ``y[p, q] = max_{r, s} x[p sh + r dh - ph, q sw + s dw - pw]``, padding counting as -inf. NaN wins.

    Parameters
    ----------
    input : array of shape (N, C, H, W) or (C, H, W)
        Floating. A channels-last array (say ``x_nhwc.transpose(0, 3, 1, 2)``) is used as it lies.
    kernel_size : int or pair of ints
    stride : int or pair of ints, optional
        `kernel_size` by default.
    padding : int or pair of ints, default 0
        At most half of the kernel.
    dilation : int or pair of ints, default 1
    ceil_mode : bool, default False
        Also take windows that hang over the end, if they start in the input or in the padding
        before it.
    return_indices : bool, default False
        Also return where the maxima lie.
    out : array of shape (N, C, P, Q), optional
        Where to write the result; not together with `return_indices`.

    Returns
    -------
    array of shape (N, C, P, Q) or (C, P, Q)
        ``P = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1``, in the memory order of `input`.
    indices : array of int64 of that shape, with ``return_indices=True``
        ``row * W + column`` in the plane without padding, of the first of equal maxima or the
        last NaN; -1 for a window of nothing but padding, which dilation makes possible.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 3 or 4 dimensions, or an option or `out` does not fit.
    """
    window = _max_options(kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        result: Array = _core.max_pool2d(input, *window, False, False, out)[0]
        return result
    if out is not None:
        raise TypeError("max_pool2d: out is given together with return_indices=True, expected one of them")
    y, indices, _, _ = _core.max_pool2d(input, *window, True, False, None)
    return y, indices


def _max_options(
    kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> tuple[Any, ...]:
    return (
        *_window("max_pool2d", kernel_size, stride, padding),
        spatial("max_pool2d", "dilation", dilation, 2),
        flag("max_pool2d", "ceil_mode", ceil_mode),
    )


def avg_pool2d(
    input: Array,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Average each window.

    ``y[p, q] = sum_{r, s} x[p sh + r - ph, q sw + s - pw] / divisor``, padding counting as 0.

    Parameters
    ----------
    input : array of shape (N, C, H, W) or (C, H, W)
        Floating. A channels-last array (say ``x_nhwc.transpose(0, 3, 1, 2)``) is used as it lies.
    kernel_size : int or pair of ints
    stride : int or pair of ints, optional
        `kernel_size` by default.
    padding : int or pair of ints, default 0
        At most half of the kernel.
    ceil_mode : bool, default False
        Also take windows that hang over the end, if they start in the input or in the padding
        before it.
    count_include_pad : bool, default True
        Whether the divisor counts padding (not what `ceil_mode` adds behind it).
    divisor_override : int, optional
        The divisor, instead of the number of entries.
    out : array of shape (N, C, P, Q), optional
        Where to write the result.

    Returns
    -------
    array of shape (N, C, P, Q) or (C, P, Q)
        ``P = (H + 2 padding - kernel) // stride + 1``, in the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 3 or 4 dimensions, or an option or `out` does not fit.
    """
    options = _average_options(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    result: Array = _core.avg_pool2d(input, *options, out)
    return result


def _average_options(
    kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any, count_include_pad: Any, divisor: Any
) -> tuple[Any, ...]:
    op = "avg_pool2d"
    if divisor is not None:
        divisor = integer(op, "divisor_override", divisor)
    return (
        *_window(op, kernel_size, stride, padding),
        flag(op, "ceil_mode", ceil_mode),
        flag(op, "count_include_pad", count_include_pad),
        divisor,
    )


def adaptive_avg_pool2d(
    input: Array, output_size: int | Sequence[int | None], *, out: Array | None = None
) -> Array:
    """Average windows chosen so that the output has the given size.

    Row p of the output averages the rows from ``floor(p H / P)`` to before ``ceil((p + 1) H / P)``, and
    so do the columns.

    Parameters
    ----------
    input : array of shape (N, C, H, W) or (C, H, W)
        Floating. A channels-last array (say ``x_nhwc.transpose(0, 3, 1, 2)``) is used as it lies.
    output_size : int or pair
        (P, Q); None in a pair keeps the input's size.
    out : array of shape (N, C, P, Q), optional
        Where to write the result.

    Returns
    -------
    array of shape (N, C, P, Q) or (C, P, Q)
        In the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 3 or 4 dimensions, or an option or `out` does not fit.
    """
    result: Array = _core.adaptive_avg_pool2d(input, _output_size(output_size), out)
    return result


def _output_size(value: Any) -> tuple[int | None, ...]:
    op, name = "adaptive_avg_pool2d", "output_size"
    if not isinstance(value, tuple | list):
        return (integer(op, name, value),) * 2
    if len(value) != 2:
        raise ValueError(f"{op}: {name} is {value!r}, expected an int or 2 of them")
    return tuple(None if size is None else integer(op, name, size) for size in value)


@defvjp(max_pool2d, "input")
def _max_pool2d_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Array | tuple[Array, Array], _Pull]:
    options = _max_options(kernel_size, stride, padding, dilation, ceil_mode)
    y, indices, taps, channels_last = _core.max_pool2d(input, *options, return_indices, wanted[0], None)
    shape, dtype = input.shape, input.dtype

    def pull(cotangent: Any) -> tuple[Any, ...]:
        if not wanted[0]:
            return (None,)
        dy = cotangent[0] if return_indices else cotangent
        return (as_dtype(_core.max_pool2d_backward(dy, taps, shape, channels_last, *options), dtype),)

    return ((y, indices) if return_indices else y), pull


def _average_rule(
    input: Array, out: Array, wanted: bool, backward: Callable[..., Array], options: tuple[Any, ...]
) -> tuple[Array, _Pull]:
    """Return an average and its pullback, which holds no array."""
    shape, dtype = input.shape, input.dtype
    channels_last = is_channels_last(input)

    def pull(cotangent: Array) -> tuple[Any, ...]:
        if not wanted:
            return (None,)
        return (as_dtype(backward(cotangent, shape, channels_last, *options), dtype),)

    return out, pull


@defvjp(avg_pool2d, "input")
def _avg_pool2d_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[Array, _Pull]:
    options = _average_options(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    out = _core.avg_pool2d(input, *options, None)
    return _average_rule(input, out, wanted[0], _core.avg_pool2d_backward, options)


@defvjp(adaptive_avg_pool2d, "input")
def _adaptive_avg_pool2d_vjp(
    wanted: tuple[bool, ...], input: Array, output_size: int | Sequence[int | None]
) -> tuple[Array, _Pull]:
    size = _output_size(output_size)
    out = _core.adaptive_avg_pool2d(input, size, None)
    return _average_rule(input, out, wanted[0], _core.adaptive_avg_pool2d_backward, (size,))
