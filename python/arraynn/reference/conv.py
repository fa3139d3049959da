"""Convolution (cross-correlation, as in every neural-network library)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, integer, per_axis, result_dtype, rounded, shaped, wide

Ints = int | tuple[int, ...]
Pull = Callable[[Array], tuple[Array | None, ...]]


class _Geometry(NamedTuple):
    """One convolution, spelled out: one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]  # padding in front of the input
    after: tuple[int, ...]
    length: tuple[int, ...]  # of the output
    groups: int


def conv1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Convolve (N, C, L) or (C, L) with weight (C_out, C/groups, K); `conv2d` gives the formula."""
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups, out)


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Convolve (N, C, H, W) or (C, H, W) with weight (C_out, C/groups, KH, KW).

    y[n, o, i] = b[o] + sum over c, k of w[o, c, k] * x[n, c', i * stride + k * dilation - padding]

    with i and k a pair each, x zero outside, and c' the channel c of the group that o is in
    (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016; argument
    meanings as torch.nn.functional.conv2d). The output has
    floor((H + padding before and after - dilation * (KH - 1) - 1) / stride) + 1 rows.
    """
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups, out)


def conv3d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Convolve (N, C, D, H, W) or (C, D, H, W) with weight (C_out, C/groups, KD, KH, KW), as `conv2d`."""
    return _conv("conv3d", 3, input, weight, bias, stride, padding, dilation, groups, out)


def _conv(
    op: str,
    axes: int,
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
    out: Array | None,
) -> Array:
    g, dtype = _check(op, axes, input, weight, bias, stride, padding, dilation, groups)
    x, w = _padded(input, g), _grouped(weight, g)
    y = np.zeros((x.shape[0], g.groups, w.shape[1], int(np.prod(g.length))))
    for tap in np.ndindex(*g.kernel):
        y += w[(..., *tap)] @ _flat(_seen(x, tap, g))
    y = y.reshape(*input.shape[: -axes - 1], weight.shape[0], *g.length)
    if bias is not None:
        y += wide(bias).reshape(-1, *(1,) * axes)
    return deliver(op, y, dtype, out, input, weight, bias)


def _check(
    op: str,
    axes: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> tuple[_Geometry, np.dtype[Any]]:
    floating(op, "input", input, (axes + 1, axes + 2))
    floating(op, "weight", weight, (axes + 2,))
    if bias is not None:
        floating(op, "bias", bias)
    groups = integer(op, "groups", groups, 1)
    stride = per_axis(op, "stride", stride, axes, 1)
    dilation = per_axis(op, "dilation", dilation, axes, 1)
    dtype = result_dtype(op, input, weight, bias)

    channels, size, kernel = input.shape[-axes - 1], input.shape[-axes:], weight.shape[2:]
    if 0 in size:
        raise ValueError(f"{op}: input has shape {input.shape}, but only batch and channels may be empty")
    if 0 in kernel:
        raise ValueError(f"{op}: weight has shape {weight.shape}, but the kernel must not be empty")
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
    return _Geometry(kernel, stride, dilation, before, after, tuple(length), groups), dtype


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


def _padded(input: Array, g: _Geometry) -> Array:
    """Return the input in float64 as (N, groups, C/groups, spatial with padding...)."""
    x = _batched(input, g)
    x = np.pad(x, [(0, 0), (0, 0), *zip(g.before, g.after, strict=True)])
    return x.reshape(x.shape[0], g.groups, x.shape[1] // g.groups, *x.shape[2:])


def _batched(a: Array, g: _Geometry) -> Array:
    return wide(a if a.ndim == len(g.kernel) + 2 else a[np.newaxis])


def _grouped(weight: Array, g: _Geometry) -> Array:
    """Return the weight in float64 as (groups, C_out/groups, C/groups, kernel...)."""
    return wide(weight).reshape(g.groups, weight.shape[0] // g.groups, *weight.shape[1:])


def _seen(padded: Array, tap: tuple[int, ...], g: _Geometry) -> Array:
    """Return the view of the padded input that the kernel's entry `tap` is multiplied with."""
    spans: list[Any] = [...]
    for t, d, n, s in zip(tap, g.dilation, g.length, g.stride, strict=True):
        spans.append(slice(t * d, t * d + (n - 1) * s + 1, s))
    return np.asarray(padded[tuple(spans)])


def _flat(a: Array) -> Array:
    """Return (N, groups, channels, spatial...) with all of space in one axis."""
    return a.reshape(*a.shape[:3], int(np.prod(a.shape[3:])))


def _convvjp(op: Callable[..., Array], axes: int) -> None:
    @defvjp(op, "input", "weight", "bias")
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        weight: Array,
        bias: Array | None = None,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
    ) -> tuple[Array, Pull]:
        out = op(input, weight, bias, stride, padding, dilation, groups)
        g, _ = _check(op.__name__, axes, input, weight, bias, stride, padding, dilation, groups)
        x, w = _padded(input, g), _grouped(weight, g)

        def pull(dout: Array) -> tuple[Array | None, ...]:
            """Each product y[o] += w[o, c] x[c] gives dx[c] += w[o, c] dy[o], dw[o, c] += dy[o] x[c]."""
            dy = _batched(dout, g).reshape(x.shape[0], g.groups, w.shape[1], int(np.prod(g.length)))
            dx, dw = np.zeros_like(x), np.zeros_like(w)
            for tap in np.ndindex(*g.kernel):
                seen = _seen(dx, tap, g)
                seen += (np.swapaxes(w[(..., *tap)], -1, -2) @ dy).reshape(seen.shape)
                dw[(..., *tap)] = (dy @ np.swapaxes(_flat(_seen(x, tap, g)), -1, -2)).sum(0)
            inside: list[Any] = [slice(b, b + n) for b, n in zip(g.before, input.shape[-axes:], strict=True)]
            dx = dx[(..., *inside)].reshape(input.shape)
            return (
                rounded(dx, input.dtype) if wanted[0] else None,
                rounded(dw.reshape(weight.shape), weight.dtype) if wanted[1] else None,
                rounded(dy.sum((0, 3)).reshape(-1), bias.dtype) if wanted[2] and bias is not None else None,
            )

        return out, pull


_convvjp(conv1d, 1)
_convvjp(conv2d, 2)
_convvjp(conv3d, 3)
