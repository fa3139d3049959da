"""Pooling over windows along one, two or three axes."""

from __future__ import annotations

from .._vjp import defvjp
from ._common import Array, deliver
from ._pool import (
    Ints,
    Sizes,
    adaptive_avg_pool_rule,
    adaptive_max,
    adaptive_max_pool_rule,
    adaptive_mean,
    adaptive_spans,
    avg_pool1d_rule,
    avg_pool_rule,
    deliver_max,
    max_pool,
    max_pool_rule,
    window_means,
    windows_of,
)


def max_pool1d(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """`max_pool2d` along the last axis of (N, C, L) or (C, L) (torch.nn.functional.max_pool1d)."""
    found = max_pool("max_pool1d", input, kernel_size, stride, padding, dilation, ceil_mode)
    return deliver_max("max_pool1d", input, *found, return_indices, out)


def max_pool2d(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the maximum of each window of (N, C, H, W) or (C, H, W) (torch.nn.functional.max_pool2d).

    y[i] = max over k of x[i * stride + k * dilation - padding]; `stride` is the kernel's size if
    None; padding counts as -inf. The output has floor((H + 2 padding - dilation (KH - 1) - 1) /
    stride) + 1 rows; with `ceil_mode` the quotient is rounded up, but a window that would start
    in the padding behind the input is left out.

    Indices are int64, row * W + column in the plane without padding: the first of equal maxima.
    A NaN wins, the last of several. A dilated window all of whose entries are padding gives -inf
    and index -1.
    """
    found = max_pool("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    return deliver_max("max_pool2d", input, *found, return_indices, out)


def max_pool3d(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """`max_pool2d` of (N, C, D, H, W) or (C, D, H, W) (torch.nn.functional.max_pool3d).

    Indices are (slice * H + row) * W + column.
    """
    found = max_pool("max_pool3d", input, kernel_size, stride, padding, dilation, ceil_mode)
    return deliver_max("max_pool3d", input, *found, return_indices, out)


def avg_pool1d(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    out: Array | None = None,
) -> Array:
    """`avg_pool2d` along the last axis of (N, C, L) or (C, L) (torch.nn.functional.avg_pool1d)."""
    op = "avg_pool1d"
    w = windows_of(op, input, kernel_size, stride, padding, 1, ceil_mode)
    return deliver(op, window_means(op, input, w, count_include_pad, None), input.dtype, out, input)


def avg_pool2d(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Average each window of (N, C, H, W) or (C, H, W) (torch.nn.functional.avg_pool2d).

    Windows lie as in `max_pool2d`; padding counts as 0. The sum is divided by the number of
    entries, which takes in the `padding` around the input if `count_include_pad` (but not what
    `ceil_mode` adds behind that), or by `divisor_override`.
    """
    op = "avg_pool2d"
    w = windows_of(op, input, kernel_size, stride, padding, 1, ceil_mode)
    return deliver(
        op, window_means(op, input, w, count_include_pad, divisor_override), input.dtype, out, input
    )


def avg_pool3d(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """`avg_pool2d` of (N, C, D, H, W) or (C, D, H, W) (torch.nn.functional.avg_pool3d)."""
    op = "avg_pool3d"
    w = windows_of(op, input, kernel_size, stride, padding, 1, ceil_mode)
    return deliver(
        op, window_means(op, input, w, count_include_pad, divisor_override), input.dtype, out, input
    )


def adaptive_avg_pool1d(input: Array, output_size: Sizes, *, out: Array | None = None) -> Array:
    """`adaptive_avg_pool2d` of (N, C, L) or (C, L) (torch.nn.functional.adaptive_avg_pool1d)."""
    op = "adaptive_avg_pool1d"
    return deliver(op, adaptive_mean(input, adaptive_spans(op, input, output_size)), input.dtype, out, input)


def adaptive_avg_pool2d(input: Array, output_size: Sizes, *, out: Array | None = None) -> Array:
    """Average windows chosen so that the output has `output_size` (torch.nn.functional.adaptive_avg_pool2d).

    Output row i averages the rows from floor(i H / OH) to before ceil((i + 1) H / OH); columns
    likewise. None in a tuple keeps that axis' size.
    """
    op = "adaptive_avg_pool2d"
    return deliver(op, adaptive_mean(input, adaptive_spans(op, input, output_size)), input.dtype, out, input)


def adaptive_avg_pool3d(input: Array, output_size: Sizes, *, out: Array | None = None) -> Array:
    """`adaptive_avg_pool2d` of (N, C, D, H, W) or (C, D, H, W) (torch.nn.functional.adaptive_avg_pool3d)."""
    op = "adaptive_avg_pool3d"
    return deliver(op, adaptive_mean(input, adaptive_spans(op, input, output_size)), input.dtype, out, input)


def adaptive_max_pool1d(
    input: Array, output_size: Sizes, return_indices: bool = False, *, out: Array | None = None
) -> Array | tuple[Array, Array]:
    """Take the maximum of `adaptive_avg_pool1d`'s windows (torch.nn.functional.adaptive_max_pool1d)."""
    op = "adaptive_max_pool1d"
    found = adaptive_max(input, adaptive_spans(op, input, output_size))
    return deliver_max(op, input, *found, return_indices, out)


def adaptive_max_pool2d(
    input: Array, output_size: Sizes, return_indices: bool = False, *, out: Array | None = None
) -> Array | tuple[Array, Array]:
    """Take the maximum of `adaptive_avg_pool2d`'s windows (torch.nn.functional.adaptive_max_pool2d).

    Which of several maxima is taken, and what its index is, is as in `max_pool2d`.
    """
    op = "adaptive_max_pool2d"
    found = adaptive_max(input, adaptive_spans(op, input, output_size))
    return deliver_max(op, input, *found, return_indices, out)


def adaptive_max_pool3d(
    input: Array, output_size: Sizes, return_indices: bool = False, *, out: Array | None = None
) -> Array | tuple[Array, Array]:
    """Take the maximum of `adaptive_avg_pool3d`'s windows (torch.nn.functional.adaptive_max_pool3d)."""
    op = "adaptive_max_pool3d"
    found = adaptive_max(input, adaptive_spans(op, input, output_size))
    return deliver_max(op, input, *found, return_indices, out)


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
