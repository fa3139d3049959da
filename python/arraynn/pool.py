"""Pooling over windows along one, two or three axes."""

from __future__ import annotations

from ._common import Array
from ._pool import (
    OutputSize,
    Sizes,
    adaptive_avg_pool_rule,
    adaptive_max_pool_rule,
    average_options,
    avg_pool1d_rule,
    avg_pool_rule,
    largest,
    max_options,
    max_pool_rule,
    mean,
    output_size_of,
)
from ._vjp import defvjp


def max_pool1d(
    input: Array,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the maximum of each window along an axis.

    ``y[q] = max_s x[q stride + s dilation - padding]``, padding counting as -inf. NaN wins.

    Parameters
    ----------
    input : array of shape (N, C, L) or (C, L)
        Floating. A channels-last array (say ``x_nlc.transpose(0, 2, 1)``) is used as it lies.
    kernel_size : int or tuple of 1 int
    stride : int or tuple of 1 int, optional
        `kernel_size` by default.
    padding : int or tuple of 1 int, default 0
        At most half of the kernel.
    dilation : int or tuple of 1 int, default 1
    ceil_mode : bool, default False
        Also take windows that hang over the end, if they start in the input or in the padding
        before it.
    return_indices : bool, default False
        Also return where the maxima lie.
    out : array, optional
        Where to write the result; not together with `return_indices`.

    Returns
    -------
    array of shape (N, C, Q) or (C, Q)
        ``Q = (L + 2 padding - dilation (kernel - 1) - 1) // stride + 1``, in the memory order of `input`.
    indices : array of int64 of that shape, with ``return_indices=True``
        The entry, counted without padding, of the first of equal maxima or the last NaN; -1 for a
        window of nothing but padding, which dilation makes possible.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 2 or 3 dimensions, or an option or `out` does not fit.
    """
    op = "max_pool1d"
    options = max_options(op, kernel_size, stride, padding, dilation, ceil_mode)
    return largest(op, input, options, return_indices, out)


def max_pool2d(
    input: Array,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
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
    out : array, optional
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
    op = "max_pool2d"
    options = max_options(op, kernel_size, stride, padding, dilation, ceil_mode)
    return largest(op, input, options, return_indices, out)


def max_pool3d(
    input: Array,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the maximum of each window of a volume.

    As in `max_pool2d`, with a third axis in front. Padding counts as -inf. NaN wins.

    Parameters
    ----------
    input : array of shape (N, C, D, H, W) or (C, D, H, W)
        Floating. A channels-last array (say ``x_ndhwc.transpose(0, 4, 1, 2, 3)``) is used as it lies.
    kernel_size : int or triple of ints
    stride : int or triple of ints, optional
        `kernel_size` by default.
    padding : int or triple of ints, default 0
        At most half of the kernel.
    dilation : int or triple of ints, default 1
    ceil_mode : bool, default False
        Also take windows that hang over the end, if they start in the input or in the padding
        before it.
    return_indices : bool, default False
        Also return where the maxima lie.
    out : array, optional
        Where to write the result; not together with `return_indices`.

    Returns
    -------
    array of shape (N, C, O, P, Q) or (C, O, P, Q)
        ``O = (D + 2 padding - dilation (kernel - 1) - 1) // stride + 1``, in the memory order of `input`.
    indices : array of int64 of that shape, with ``return_indices=True``
        ``(slice * H + row) * W + column`` in the volume without padding, of the first of equal
        maxima or the last NaN; -1 for a window of nothing but padding, which dilation makes possible.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 4 or 5 dimensions, or an option or `out` does not fit.
    """
    op = "max_pool3d"
    options = max_options(op, kernel_size, stride, padding, dilation, ceil_mode)
    return largest(op, input, options, return_indices, out)


def avg_pool1d(
    input: Array,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    out: Array | None = None,
) -> Array:
    """Average each window along an axis.

    ``y[q] = sum_s x[q stride + s - padding] / divisor``, padding counting as 0.

    Parameters
    ----------
    input : array of shape (N, C, L) or (C, L)
        Floating. A channels-last array (say ``x_nlc.transpose(0, 2, 1)``) is used as it lies.
    kernel_size : int or tuple of 1 int
    stride : int or tuple of 1 int, optional
        `kernel_size` by default.
    padding : int or tuple of 1 int, default 0
        At most half of the kernel.
    ceil_mode : bool, default False
        Also take windows that hang over the end, if they start in the input or in the padding
        before it.
    count_include_pad : bool, default True
        Whether the divisor counts padding (not what `ceil_mode` adds behind it).
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (N, C, Q) or (C, Q)
        ``Q = (L + 2 padding - kernel) // stride + 1``, in the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 2 or 3 dimensions, or an option or `out` does not fit.
    """
    op = "avg_pool1d"
    options = average_options(op, kernel_size, stride, padding, ceil_mode, count_include_pad, None)
    return mean(op, input, options, out)


def avg_pool2d(
    input: Array,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
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
    out : array, optional
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
    op = "avg_pool2d"
    options = average_options(
        op, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    return mean(op, input, options, out)


def avg_pool3d(
    input: Array,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Average each window of a volume.

    As in `avg_pool2d`, with a third axis in front. Padding counts as 0.

    Parameters
    ----------
    input : array of shape (N, C, D, H, W) or (C, D, H, W)
        Floating. A channels-last array (say ``x_ndhwc.transpose(0, 4, 1, 2, 3)``) is used as it lies.
    kernel_size : int or triple of ints
    stride : int or triple of ints, optional
        `kernel_size` by default.
    padding : int or triple of ints, default 0
        At most half of the kernel.
    ceil_mode : bool, default False
        Also take windows that hang over the end, if they start in the input or in the padding
        before it.
    count_include_pad : bool, default True
        Whether the divisor counts padding (not what `ceil_mode` adds behind it).
    divisor_override : int, optional
        The divisor, instead of the number of entries.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (N, C, O, P, Q) or (C, O, P, Q)
        ``O = (D + 2 padding - kernel) // stride + 1``, in the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 4 or 5 dimensions, or an option or `out` does not fit.
    """
    op = "avg_pool3d"
    options = average_options(
        op, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    return mean(op, input, options, out)


def adaptive_avg_pool1d(input: Array, output_size: OutputSize, *, out: Array | None = None) -> Array:
    """Average windows chosen so that the output has the given size.

    Entry q of the output averages the entries from ``floor(q L / Q)`` to before ``ceil((q + 1) L / Q)``.

    Parameters
    ----------
    input : array of shape (N, C, L) or (C, L)
        Floating. A channels-last array (say ``x_nlc.transpose(0, 2, 1)``) is used as it lies.
    output_size : int or tuple of 1 int
        Q; None in a tuple keeps the input's size.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (N, C, Q) or (C, Q)
        In the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 2 or 3 dimensions, or an option or `out` does not fit.
    """
    op = "adaptive_avg_pool1d"
    return mean(op, input, output_size_of(op, output_size), out)


def adaptive_avg_pool2d(input: Array, output_size: OutputSize, *, out: Array | None = None) -> Array:
    """Average windows chosen so that the output has the given size.

    Row p of the output averages the rows from ``floor(p H / P)`` to before ``ceil((p + 1) H / P)``, and
    so do the columns.

    Parameters
    ----------
    input : array of shape (N, C, H, W) or (C, H, W)
        Floating. A channels-last array (say ``x_nhwc.transpose(0, 3, 1, 2)``) is used as it lies.
    output_size : int or pair
        (P, Q); None in a pair keeps the input's size.
    out : array, optional
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
    op = "adaptive_avg_pool2d"
    return mean(op, input, output_size_of(op, output_size), out)


def adaptive_avg_pool3d(input: Array, output_size: OutputSize, *, out: Array | None = None) -> Array:
    """Average windows chosen so that the output has the given size.

    Row p of the output averages the rows from ``floor(p H / P)`` to before ``ceil((p + 1) H / P)``, and
    so do the slices and the columns.

    Parameters
    ----------
    input : array of shape (N, C, D, H, W) or (C, D, H, W)
        Floating. A channels-last array (say ``x_ndhwc.transpose(0, 4, 1, 2, 3)``) is used as it lies.
    output_size : int or triple
        (O, P, Q); None in a triple keeps the input's size.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (N, C, O, P, Q) or (C, O, P, Q)
        In the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 4 or 5 dimensions, or an option or `out` does not fit.
    """
    op = "adaptive_avg_pool3d"
    return mean(op, input, output_size_of(op, output_size), out)


def adaptive_max_pool1d(
    input: Array, output_size: OutputSize, return_indices: bool = False, *, out: Array | None = None
) -> Array | tuple[Array, Array]:
    """Take the maximum of windows chosen so that the output has the given size.

    Entry q of the output takes the entries from ``floor(q L / Q)`` to before ``ceil((q + 1) L / Q)``.
    NaN wins.

    Parameters
    ----------
    input : array of shape (N, C, L) or (C, L)
        Floating. A channels-last array (say ``x_nlc.transpose(0, 2, 1)``) is used as it lies.
    output_size : int or tuple of 1 int
        Q; None in a tuple keeps the input's size.
    return_indices : bool, default False
        Also return where the maxima lie.
    out : array, optional
        Where to write the result; not together with `return_indices`.

    Returns
    -------
    array of shape (N, C, Q) or (C, Q)
        In the memory order of `input`.
    indices : array of int64 of that shape, with ``return_indices=True``
        As those of `max_pool1d`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 2 or 3 dimensions, or an option or `out` does not fit.
    """
    op = "adaptive_max_pool1d"
    return largest(op, input, output_size_of(op, output_size), return_indices, out)


def adaptive_max_pool2d(
    input: Array, output_size: OutputSize, return_indices: bool = False, *, out: Array | None = None
) -> Array | tuple[Array, Array]:
    """Take the maximum of windows chosen so that the output has the given size.

    Row p of the output takes the rows from ``floor(p H / P)`` to before ``ceil((p + 1) H / P)``, and
    so do the columns. NaN wins.

    Parameters
    ----------
    input : array of shape (N, C, H, W) or (C, H, W)
        Floating. A channels-last array (say ``x_nhwc.transpose(0, 3, 1, 2)``) is used as it lies.
    output_size : int or pair
        (P, Q); None in a pair keeps the input's size.
    return_indices : bool, default False
        Also return where the maxima lie.
    out : array, optional
        Where to write the result; not together with `return_indices`.

    Returns
    -------
    array of shape (N, C, P, Q) or (C, P, Q)
        In the memory order of `input`.
    indices : array of int64 of that shape, with ``return_indices=True``
        As those of `max_pool2d`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 3 or 4 dimensions, or an option or `out` does not fit.
    """
    op = "adaptive_max_pool2d"
    return largest(op, input, output_size_of(op, output_size), return_indices, out)


def adaptive_max_pool3d(
    input: Array, output_size: OutputSize, return_indices: bool = False, *, out: Array | None = None
) -> Array | tuple[Array, Array]:
    """Take the maximum of windows chosen so that the output has the given size.

    Row p of the output takes the rows from ``floor(p H / P)`` to before ``ceil((p + 1) H / P)``, and
    so do the slices and the columns. NaN wins.

    Parameters
    ----------
    input : array of shape (N, C, D, H, W) or (C, D, H, W)
        Floating. A channels-last array (say ``x_ndhwc.transpose(0, 4, 1, 2, 3)``) is used as it lies.
    output_size : int or triple
        (O, P, Q); None in a triple keeps the input's size.
    return_indices : bool, default False
        Also return where the maxima lie.
    out : array, optional
        Where to write the result; not together with `return_indices`.

    Returns
    -------
    array of shape (N, C, O, P, Q) or (C, O, P, Q)
        In the memory order of `input`.
    indices : array of int64 of that shape, with ``return_indices=True``
        As those of `max_pool3d`.

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array of 4 or 5 dimensions, or an option or `out` does not fit.
    """
    op = "adaptive_max_pool3d"
    return largest(op, input, output_size_of(op, output_size), return_indices, out)


defvjp(max_pool1d, "input")(max_pool_rule("max_pool1d"))
defvjp(max_pool2d, "input")(max_pool_rule("max_pool2d"))
defvjp(max_pool3d, "input")(max_pool_rule("max_pool3d"))
defvjp(avg_pool1d, "input")(avg_pool1d_rule)
defvjp(avg_pool2d, "input")(avg_pool_rule("avg_pool2d"))
defvjp(avg_pool3d, "input")(avg_pool_rule("avg_pool3d"))
defvjp(adaptive_avg_pool1d, "input")(adaptive_avg_pool_rule("adaptive_avg_pool1d"))
defvjp(adaptive_avg_pool2d, "input")(adaptive_avg_pool_rule("adaptive_avg_pool2d"))
defvjp(adaptive_avg_pool3d, "input")(adaptive_avg_pool_rule("adaptive_avg_pool3d"))
defvjp(adaptive_max_pool1d, "input")(adaptive_max_pool_rule("adaptive_max_pool1d"))
defvjp(adaptive_max_pool2d, "input")(adaptive_max_pool_rule("adaptive_max_pool2d"))
defvjp(adaptive_max_pool3d, "input")(adaptive_max_pool_rule("adaptive_max_pool3d"))
