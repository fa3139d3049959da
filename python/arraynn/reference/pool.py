"""Pooling over windows of a plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, integer, per_axis, rounded, wide

Ints = int | tuple[int, ...]
Pull = Callable[[Any], tuple[Array | None, ...]]


class _Windows(NamedTuple):
    """Where the windows lie: one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    length: tuple[int, ...]  # of the output


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
    op = "max_pool2d"
    if return_indices and out is not None:
        raise TypeError(f"{op}: out cannot be given together with return_indices=True")
    best, index = _max_pool2d(op, input, kernel_size, stride, padding, dilation, ceil_mode)
    y = deliver(op, best, input.dtype, out, input)
    return (y, index) if return_indices else y


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
    w = _check(op, input, kernel_size, stride, padding, 1, ceil_mode)
    y = _window_sums(input, w) / _divisors(op, input, w, count_include_pad, divisor_override)
    return deliver(op, y, input.dtype, out, input)


def adaptive_avg_pool2d(
    input: Array, output_size: int | tuple[int | None, ...], *, out: Array | None = None
) -> Array:
    """Average windows chosen so that the output has `output_size` (torch.nn.functional.adaptive_avg_pool2d).

    Output row i averages the rows from floor(i H / OH) to before ceil((i + 1) H / OH); columns
    likewise. None in a tuple keeps that axis' size.
    """
    op = "adaptive_avg_pool2d"
    spans = _adaptive(op, input, output_size)
    x = wide(input)
    y = np.empty((*input.shape[:-2], *map(len, spans)))
    for i, rows in enumerate(spans[0]):
        for j, columns in enumerate(spans[1]):
            y[..., i, j] = x[..., rows, columns].mean((-2, -1))
    return deliver(op, y, input.dtype, out, input)


def _check(
    op: str, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> _Windows:
    floating(op, "input", input, (3, 4))
    kernel = per_axis(op, "kernel_size", kernel_size, 2, 1)
    no_stride = stride is None or (isinstance(stride, tuple | list) and not stride)
    strides = kernel if no_stride else per_axis(op, "stride", stride, 2, 1)
    pads = per_axis(op, "padding", padding, 2, 0)
    dilations = per_axis(op, "dilation", dilation, 2, 1)
    if any(p > k // 2 for p, k in zip(pads, kernel, strict=True)):
        raise ValueError(f"{op}: padding is {padding}, more than half of kernel_size={kernel_size}")
    if 0 in input.shape[-2:]:
        raise ValueError(f"{op}: input has shape {input.shape}, but the plane must not be empty")
    length = []
    for n, k, s, p, d in zip(input.shape[-2:], kernel, strides, pads, dilations, strict=True):
        room = n + 2 * p - d * (k - 1) - 1  # last place at which a window fits
        count = (room + s - 1 if ceil_mode else room) // s + 1
        if ceil_mode and (count - 1) * s >= n + p:
            count -= 1
        if count < 1:
            raise ValueError(
                f"{op}: input of shape {input.shape} with padding={padding} is smaller than "
                f"the window of kernel_size={kernel_size}, dilation={dilation}"
            )
        length.append(count)
    return _Windows(kernel, strides, pads, dilations, tuple(length))


def _padded(plane: Array, w: _Windows, fill: float) -> Array:
    """Pad the last two axes so that every window lies inside."""
    widths = [(0, 0)] * (plane.ndim - 2)
    for n, k, s, p, d, o in zip(plane.shape[-2:], *w, strict=True):
        widths.append((p, max(0, (o - 1) * s + d * (k - 1) + 1 - p - n)))
    return np.pad(plane, widths, constant_values=fill)


def _seen(padded: Array, tap: tuple[int, ...], w: _Windows) -> Array:
    """Return the view that holds entry `tap` of every window."""
    rows, columns = (
        slice(t * d, t * d + (o - 1) * s + 1, s)
        for t, d, o, s in zip(tap, w.dilation, w.length, w.stride, strict=True)
    )
    return np.asarray(padded[..., rows, columns])


def _max_pool2d(
    op: str, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Array, Array]:
    w = _check(op, input, kernel_size, stride, padding, dilation, ceil_mode)
    values = _padded(wide(input), w, -np.inf)
    places = _padded(np.arange(input.shape[-2] * input.shape[-1]).reshape(input.shape[-2:]), w, -1)
    best = np.full((*input.shape[:-2], *w.length), -np.inf)
    index = np.full(best.shape, -1, np.int64)
    for tap in np.ndindex(*w.kernel):
        value, place = _seen(values, tap, w), _seen(places, tap, w)
        better = (place >= 0) & ((index < 0) | (value > best) | np.isnan(value))
        best, index = np.where(better, value, best), np.where(better, place, index)
    return best, index


def _window_sums(input: Array, w: _Windows) -> Array:
    padded = _padded(wide(input), w, 0)
    sums = np.zeros((*input.shape[:-2], *w.length))
    for tap in np.ndindex(*w.kernel):
        sums += _seen(padded, tap, w)
    return sums


def _divisors(op: str, input: Array, w: _Windows, count_include_pad: bool, override: Any) -> Array:
    """Return what each window's sum is divided by."""
    if override is not None:
        if integer(op, "divisor_override", override) == 0:
            raise ValueError(f"{op}: divisor_override must not be 0")
        return np.full(w.length, float(override))
    counts = []
    for n, k, s, p, o in zip(input.shape[-2:], w.kernel, w.stride, w.padding, w.length, strict=True):
        start = np.arange(o) * s - p
        stop = np.minimum(start + k, n + p)
        counts.append(stop - start if count_include_pad else np.minimum(stop, n) - np.maximum(start, 0))
    return np.asarray(counts[0][:, np.newaxis] * counts[1], np.float64)


def _adaptive(op: str, input: Any, output_size: Any) -> list[list[slice]]:
    """Return, per axis, the span of the input that each output entry averages."""
    floating(op, "input", input, (3, 4))
    if output_size is None:
        raise TypeError(f"{op}: output_size must be an int or a tuple of 2, got None")
    sizes = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size,) * 2
    if len(sizes) != 2:
        raise ValueError(f"{op}: output_size must be an int or a tuple of 2, got {output_size}")
    if 0 in input.shape[-2:]:
        raise ValueError(f"{op}: input has shape {input.shape}, but the plane must not be empty")
    spans = []
    for n, size in zip(input.shape[-2:], sizes, strict=True):
        o = n if size is None else integer(op, "output_size", size, 0)
        spans.append([slice(i * n // o, -(-(i + 1) * n // o)) for i in range(o)])
    return spans


@defvjp(max_pool2d, "input")
def _max_pool2d_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Array | tuple[Array, Array], Pull]:
    best, index = _max_pool2d("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    y, shape, dtype = rounded(best, input.dtype), input.shape, input.dtype

    def pull(dout: Any) -> tuple[Array | None, ...]:
        """Each window's gradient goes to the entry its index names."""
        if not wanted[0]:
            return (None,)
        dy = wide(dout[0] if return_indices else dout)
        dx = np.zeros((*shape[:-2], shape[-2] * shape[-1]))
        for where in np.argwhere(index >= 0):
            plane, place = tuple(where[:-2]), tuple(where)
            dx[(*plane, index[place])] += dy[place]
        return (rounded(dx.reshape(shape), dtype),)

    return ((y, index.copy()) if return_indices else y), pull


@defvjp(avg_pool2d, "input")
def _avg_pool2d_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[Array, Pull]:
    y = avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    w = _check("avg_pool2d", input, kernel_size, stride, padding, 1, ceil_mode)
    divisors = _divisors("avg_pool2d", input, w, count_include_pad, divisor_override)
    shape, dtype = input.shape, input.dtype

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """Each window spreads its gradient evenly over its entries."""
        if not wanted[0]:
            return (None,)
        dx = _padded(np.zeros(shape), w, 0)
        for tap in np.ndindex(*w.kernel):
            seen = _seen(dx, tap, w)
            seen += wide(dout) / divisors
        top, left = w.padding
        return (rounded(dx[..., top : top + shape[-2], left : left + shape[-1]], dtype),)

    return y, pull


@defvjp(adaptive_avg_pool2d, "input")
def _adaptive_avg_pool2d_vjp(
    wanted: tuple[bool, ...], input: Array, output_size: int | tuple[int | None, ...]
) -> tuple[Array, Pull]:
    y = adaptive_avg_pool2d(input, output_size)
    spans = _adaptive("adaptive_avg_pool2d", input, output_size)
    shape, dtype = input.shape, input.dtype

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """Each window spreads its gradient evenly over its entries."""
        if not wanted[0]:
            return (None,)
        dx, dy = np.zeros(shape), wide(dout)
        for i, rows in enumerate(spans[0]):
            for j, columns in enumerate(spans[1]):
                entries = (rows.stop - rows.start) * (columns.stop - columns.start)
                dx[..., rows, columns] += dy[..., i, j, np.newaxis, np.newaxis] / entries
        return (rounded(dx, dtype),)

    return y, pull
