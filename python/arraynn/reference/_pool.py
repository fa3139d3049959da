"""What the pooling ops of one, two and three dimensions share: where windows lie, and the rules."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ._common import Array, deliver, floating, integer, per_axis, rounded, wide

Ints = int | tuple[int, ...]
Sizes = int | tuple[int | None, ...]
Pull = Callable[[Any], tuple[Array | None, ...]]
Spans = list[list[slice]]


class Windows(NamedTuple):
    """Where the windows lie: one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    length: tuple[int, ...]  # of the output


def dims_of(op: str) -> int:
    return int(op[-2])


def check_input(op: str, input: Any) -> tuple[int, ...]:
    """Return the sizes of the spatial axes."""
    dims = dims_of(op)
    shape: tuple[int, ...] = floating(op, "input", input, (dims + 1, dims + 2)).shape
    if 0 in shape[-dims:]:
        raise ValueError(f"{op}: input has shape {shape}, but its spatial axes must not be empty")
    return shape[-dims:]


def windows_of(
    op: str, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Windows:
    sizes, dims = check_input(op, input), dims_of(op)
    kernel = per_axis(op, "kernel_size", kernel_size, dims, 1)
    no_stride = stride is None or (isinstance(stride, tuple | list) and not stride)
    strides = kernel if no_stride else per_axis(op, "stride", stride, dims, 1)
    pads = per_axis(op, "padding", padding, dims, 0)
    dilations = per_axis(op, "dilation", dilation, dims, 1)
    if any(p > k // 2 for p, k in zip(pads, kernel, strict=True)):
        raise ValueError(f"{op}: padding is {padding}, more than half of kernel_size={kernel_size}")
    length = []
    for n, k, s, p, d in zip(sizes, kernel, strides, pads, dilations, strict=True):
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
    return Windows(kernel, strides, pads, dilations, tuple(length))


def padded_for(values: Array, w: Windows, fill: float) -> Array:
    """Pad the spatial axes so that every window lies inside."""
    dims = len(w.kernel)
    widths = [(0, 0)] * (values.ndim - dims)
    for n, k, s, p, d, o in zip(values.shape[-dims:], *w, strict=True):
        widths.append((p, max(0, (o - 1) * s + d * (k - 1) + 1 - p - n)))
    return np.pad(values, widths, constant_values=fill)


def seen_by(padded: Array, tap: tuple[int, ...], w: Windows) -> Array:
    """Return the view that holds entry `tap` of every window."""
    spans: Any = (
        slice(t * d, t * d + (o - 1) * s + 1, s)
        for t, d, o, s in zip(tap, w.dilation, w.length, w.stride, strict=True)
    )
    return np.asarray(padded[(..., *spans)])


def max_pool(
    op: str, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Array, Array]:
    w, dims = windows_of(op, input, kernel_size, stride, padding, dilation, ceil_mode), dims_of(op)
    sizes = input.shape[-dims:]
    values = padded_for(wide(input), w, -np.inf)
    places = padded_for(np.arange(prod(sizes)).reshape(sizes), w, -1)
    best = np.full((*input.shape[:-dims], *w.length), -np.inf)
    index = np.full(best.shape, -1, np.int64)
    for tap in np.ndindex(*w.kernel):
        value, place = seen_by(values, tap, w), seen_by(places, tap, w)
        better = (place >= 0) & ((index < 0) | (value > best) | np.isnan(value))
        best, index = np.where(better, value, best), np.where(better, place, index)
    return best, index


def deliver_max(
    op: str, input: Array, best: Array, index: Array, return_indices: bool, out: Any
) -> Array | tuple[Array, Array]:
    if return_indices and out is not None:
        raise TypeError(f"{op}: out cannot be given together with return_indices=True")
    y = deliver(op, best, input.dtype, out, input)
    return (y, index) if return_indices else y


def window_means(op: str, input: Array, w: Windows, count_include_pad: bool, override: Any) -> Array:
    divisors = divisors_of(op, input, w, count_include_pad, override)
    padded = padded_for(wide(input), w, 0)
    sums = np.zeros((*input.shape[: -dims_of(op)], *w.length))
    for tap in np.ndindex(*w.kernel):
        sums += seen_by(padded, tap, w)
    return np.asarray(sums / divisors)


def divisors_of(op: str, input: Array, w: Windows, count_include_pad: bool, override: Any) -> Array:
    """Return what each window's sum is divided by."""
    if override is not None:
        if integer(op, "divisor_override", override) == 0:
            raise ValueError(f"{op}: divisor_override must not be 0")
        return np.full(w.length, float(override))
    product = np.ones(())
    for n, k, s, p, o in zip(
        input.shape[-dims_of(op) :], w.kernel, w.stride, w.padding, w.length, strict=True
    ):
        start = np.arange(o) * s - p
        stop = np.minimum(start + k, n + p)
        count = stop - start if count_include_pad else np.minimum(stop, n) - np.maximum(start, 0)
        product = product[..., np.newaxis] * count
    return product


def adaptive_spans(op: str, input: Any, output_size: Any) -> Spans:
    """Return, per axis, the span of the input that each output entry looks at."""
    sizes, dims = check_input(op, input), dims_of(op)
    if output_size is None:
        raise TypeError(f"{op}: output_size must be an int or a tuple of {dims}, got None")
    wanted = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size,) * dims
    if len(wanted) != dims:
        raise ValueError(f"{op}: output_size must be an int or a tuple of {dims}, got {output_size}")
    spans = []
    for n, size in zip(sizes, wanted, strict=True):
        o = n if size is None else integer(op, "output_size", size, 0)
        spans.append([slice(i * n // o, -(-(i + 1) * n // o)) for i in range(o)])
    return spans


def adaptive_windows(spans: Spans) -> list[tuple[Any, Any]]:
    """Return each window's place in the output and its spans of the input."""
    places = np.ndindex(*map(len, spans))
    return [(o, tuple(axis[i] for axis, i in zip(spans, o, strict=True))) for o in places]


def adaptive_mean(input: Array, spans: Spans) -> Array:
    x, dims = wide(input), len(spans)
    y = np.empty((*input.shape[:-dims], *map(len, spans)))
    for place, window in adaptive_windows(spans):
        y[(..., *place)] = x[(..., *window)].mean(tuple(range(-dims, 0)))
    return y


def adaptive_max(input: Array, spans: Spans) -> tuple[Array, Array]:
    x, dims = wide(input), len(spans)
    lead, sizes = input.shape[:-dims], input.shape[-dims:]
    places = np.arange(prod(sizes)).reshape(sizes)
    best = np.empty((*lead, *map(len, spans)))
    index = np.empty(best.shape, np.int64)
    for place, window in adaptive_windows(spans):
        entries = x[(..., *window)].reshape(*lead, places[window].size)
        nan = np.isnan(entries)
        last_nan = nan.shape[-1] - 1 - nan[..., ::-1].argmax(-1)
        which = np.where(nan.any(-1), last_nan, np.where(nan, -np.inf, entries).argmax(-1))
        best[(..., *place)] = np.take_along_axis(entries, which[..., np.newaxis], -1)[..., 0]
        index[(..., *place)] = places[window].ravel()[which]
    return best, index


def max_rule(
    wanted: bool, input: Array, best: Array, index: Array, return_indices: bool, dims: int
) -> tuple[Array | tuple[Array, Array], Pull]:
    y, shape, dtype = rounded(best, input.dtype), input.shape, input.dtype

    def pull(dout: Any) -> tuple[Array | None, ...]:
        """Each window's gradient goes to the entry its index names."""
        if not wanted:
            return (None,)
        dy = wide(dout[0] if return_indices else dout)
        dx = np.zeros((*shape[:-dims], prod(shape[-dims:])))
        for where in np.argwhere(index >= 0):
            lead, place = tuple(where[:-dims]), tuple(where)
            dx[(*lead, index[place])] += dy[place]
        return (rounded(dx.reshape(shape), dtype),)

    return ((y, index.copy()) if return_indices else y), pull


def max_pool_rule(op: str) -> Callable[..., Any]:
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        found = max_pool(op, input, kernel_size, stride, padding, dilation, ceil_mode)
        return max_rule(wanted[0], input, *found, return_indices, dims_of(op))

    return rule


def mean_rule(wanted: bool, input: Array, y: Array, w: Windows, divisors: Array) -> tuple[Array, Pull]:
    shape, dtype, dims = input.shape, input.dtype, len(w.kernel)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """Each window spreads its gradient evenly over its entries."""
        if not wanted:
            return (None,)
        dx = padded_for(np.zeros(shape), w, 0)
        for tap in np.ndindex(*w.kernel):
            seen = seen_by(dx, tap, w)
            seen += wide(dout) / divisors
        inside: Any = (slice(p, p + n) for p, n in zip(w.padding, shape[-dims:], strict=True))
        return (rounded(dx[(..., *inside)], dtype),)

    return y, pull


def avg_pool_rule(op: str) -> Callable[..., Any]:
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        w = windows_of(op, input, kernel_size, stride, padding, 1, ceil_mode)
        y = rounded(window_means(op, input, w, count_include_pad, divisor_override), input.dtype)
        divisors = divisors_of(op, input, w, count_include_pad, divisor_override)
        return mean_rule(wanted[0], input, y, w, divisors)

    return rule


def avg_pool1d_rule(
    wanted: tuple[bool, ...],
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    rule = avg_pool_rule("avg_pool1d")
    return rule(wanted, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def adaptive_avg_pool_rule(op: str) -> Callable[..., Any]:
    def rule(wanted: tuple[bool, ...], input: Array, output_size: Sizes) -> Any:
        spans = adaptive_spans(op, input, output_size)
        shape, dtype, dims = input.shape, input.dtype, len(spans)

        def pull(dout: Array) -> tuple[Array | None, ...]:
            """Each window spreads its gradient evenly over its entries."""
            if not wanted[0]:
                return (None,)
            dx, dy = np.zeros(shape), wide(dout)
            for place, window in adaptive_windows(spans):
                entries = prod(s.stop - s.start for s in window)
                dx[(..., *window)] += np.expand_dims(dy[(..., *place)], tuple(range(-dims, 0))) / entries
            return (rounded(dx, dtype),)

        return rounded(adaptive_mean(input, spans), dtype), pull

    return rule


def adaptive_max_pool_rule(op: str) -> Callable[..., Any]:
    def rule(wanted: tuple[bool, ...], input: Array, output_size: Sizes, return_indices: bool = False) -> Any:
        found = adaptive_max(input, adaptive_spans(op, input, output_size))
        return max_rule(wanted[0], input, *found, return_indices, dims_of(op))

    return rule
