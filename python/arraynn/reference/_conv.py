"""Convolution's geometry: what its options mean, and the views that its sums are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._common import Array, floating, integer, per_axis, result_dtype, shaped, wide


class Geometry(NamedTuple):
    """One convolution, spelled out: one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]  # padding in front of the input
    after: tuple[int, ...]
    length: tuple[int, ...]  # of the output
    groups: int


def check(
    op: str,
    axes: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> tuple[Geometry, np.dtype[Any]]:
    _check_arrays(op, axes, input, weight, bias)
    groups = integer(op, "groups", groups, 1)
    stride = per_axis(op, "stride", stride, axes, 1)
    dilation = per_axis(op, "dilation", dilation, axes, 1)
    dtype = result_dtype(op, input, weight, bias)

    channels, size, kernel = input.shape[-axes - 1], input.shape[-axes:], weight.shape[2:]
    if weight.shape[0] % groups:
        raise ValueError(
            f"{op}: weight has {weight.shape[0]} output channels, not a multiple of groups={groups}"
        )
    if channels != weight.shape[1] * groups:
        raise ValueError(
            f"{op}: input has {channels} channels, but weight of shape {weight.shape} "
            f"with groups={groups} takes {weight.shape[1] * groups}"
        )
    if bias is not None:
        shaped(op, "bias", bias, weight.shape[:1])
    before, after = _padding(op, axes, padding, stride, dilation, kernel)
    length = []
    for n, p, q, k, s, d in zip(size, before, after, kernel, stride, dilation, strict=True):
        if n + p + q < d * (k - 1) + 1:
            raise ValueError(
                f"{op}: input of shape {input.shape} with padding={padding} is smaller than "
                f"the kernel of weight {weight.shape} with dilation={dilation}"
            )
        length.append((n + p + q - d * (k - 1) - 1) // s + 1)
    return Geometry(kernel, stride, dilation, before, after, tuple(length), groups), dtype


def check_transpose(
    op: str,
    axes: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> tuple[Geometry, np.dtype[Any]]:
    """Return the geometry of the convolution that is transposed: `after` may be negative."""
    _check_arrays(op, axes, input, weight, bias)
    groups = integer(op, "groups", groups, 1)
    stride = per_axis(op, "stride", stride, axes, 1)
    dilation = per_axis(op, "dilation", dilation, axes, 1)
    padding = per_axis(op, "padding", padding, axes, 0)
    more = per_axis(op, "output_padding", output_padding, axes, 0)
    dtype = result_dtype(op, input, weight, bias)
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise ValueError(f"{op}: output_padding={more} is not below stride={stride} or dilation={dilation}")
    channels, length, kernel = input.shape[-axes - 1], input.shape[-axes:], weight.shape[2:]
    if weight.shape[0] % groups:
        raise ValueError(
            f"{op}: weight has {weight.shape[0]} input channels, not a multiple of groups={groups}"
        )
    if channels != weight.shape[0]:
        raise ValueError(
            f"{op}: input has {channels} channels, but weight of shape {weight.shape} takes {weight.shape[0]}"
        )
    if bias is not None:
        shaped(op, "bias", bias, (weight.shape[1] * groups,))
    after = tuple(p - m for p, m in zip(padding, more, strict=True))
    g = Geometry(kernel, stride, dilation, padding, after, length, groups)
    if any(n < 1 for n in kept(g)):
        raise ValueError(f"{op}: input of shape {input.shape} has no output with padding={padding}")
    return g, dtype


def _check_arrays(op: str, axes: int, input: Any, weight: Any, bias: Any) -> None:
    floating(op, "input", input, (axes + 1, axes + 2))
    floating(op, "weight", weight, (axes + 2,))
    if bias is not None:
        floating(op, "bias", bias)
    if 0 in input.shape[-axes:]:
        raise ValueError(f"{op}: input has shape {input.shape}, but only batch and channels may be empty")
    if 0 in weight.shape[2:]:
        raise ValueError(f"{op}: weight has shape {weight.shape}, but the kernel must not be empty")


def _padding(
    op: str,
    axes: int,
    padding: Any,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    kernel: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not isinstance(padding, str):
        both = per_axis(op, "padding", padding, axes, 0)
        return both, both
    if padding == "valid":
        return (0,) * axes, (0,) * axes
    if padding != "same":
        raise ValueError(f"{op}: padding must be ints, 'same' or 'valid', got {padding!r}")
    if any(s != 1 for s in stride):
        raise ValueError(f"{op}: padding='same' needs stride 1, got stride={stride}")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    before = tuple(t // 2 for t in total)
    return before, tuple(t - b for t, b in zip(total, before, strict=True))


def padded(input: Array, g: Geometry) -> Array:
    """Return the input in float64 as (N, groups, C/groups, spatial with padding...)."""
    x = batched(input, g)
    x = np.pad(x, [(0, 0), (0, 0), *zip(g.before, g.after, strict=True)])
    return x.reshape(x.shape[0], g.groups, x.shape[1] // g.groups, *x.shape[2:])


def batched(a: Array, g: Geometry) -> Array:
    return wide(a if a.ndim == len(g.kernel) + 2 else a[np.newaxis])


def grouped(weight: Array, g: Geometry) -> Array:
    """Return the weight in float64 as (groups, C_out/groups, C/groups, kernel...)."""
    return wide(weight).reshape(g.groups, weight.shape[0] // g.groups, *weight.shape[1:])


def split(a: Array, g: Geometry) -> Array:
    """Return an array in float64 as (N, groups, channels/groups, all of space)."""
    a = batched(a, g)
    return a.reshape(a.shape[0], g.groups, a.shape[1] // g.groups, int(np.prod(g.length)))


def seen_by(padded: Array, tap: tuple[int, ...], g: Geometry) -> Array:
    """Return the view of the padded input that the kernel's entry `tap` is multiplied with."""
    spans: list[Any] = [...]
    for t, d, n, s in zip(tap, g.dilation, g.length, g.stride, strict=True):
        spans.append(slice(t * d, t * d + (n - 1) * s + 1, s))
    return np.asarray(padded[tuple(spans)])


def flat(a: Array) -> Array:
    """Return (N, groups, channels, spatial...) with all of space in one axis."""
    return a.reshape(*a.shape[:3], int(np.prod(a.shape[3:])))


def whole(g: Geometry) -> tuple[int, ...]:
    """Return the size of a transposed convolution's output with its padding, which later is cut off."""
    axes = zip(g.kernel, g.stride, g.dilation, g.after, g.length, strict=True)
    return tuple((n - 1) * s + d * (k - 1) + 1 + max(0, -after) for k, s, d, after, n in axes)


def kept(g: Geometry) -> tuple[int, ...]:
    """Return the size of a transposed convolution's output."""
    pairs = zip(whole(g), g.before, g.after, strict=True)
    return tuple(n - before - max(0, after) for n, before, after in pairs)


def cut(padded: Array, g: Geometry) -> Array:
    """Return the view of a transposed convolution's output without its padding."""
    spans: list[Any] = [slice(before, before + n) for before, n in zip(g.before, kept(g), strict=True)]
    return np.asarray(padded[(..., *spans)])
