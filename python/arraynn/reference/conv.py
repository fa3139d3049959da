"""Convolution (cross-correlation, as in every neural-network library)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, rounded, wide
from ._conv import (
    batched,
    check,
    check_transpose,
    cut,
    flat,
    grouped,
    kept,
    padded,
    seen_by,
    split,
    whole,
)

Ints = int | tuple[int, ...]
Pull = Callable[[Array], tuple[Array | None, ...]]


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
    g, dtype = check(op, axes, input, weight, bias, stride, padding, dilation, groups)
    x, w = padded(input, g), grouped(weight, g)
    y = np.zeros((x.shape[0], g.groups, w.shape[1], int(np.prod(g.length))))
    for tap in np.ndindex(*g.kernel):
        y += w[(..., *tap)] @ flat(seen_by(x, tap, g))
    y = y.reshape(*input.shape[: -axes - 1], weight.shape[0], *g.length)
    if bias is not None:
        y += wide(bias).reshape(-1, *(1,) * axes)
    return deliver(op, y, dtype, out, input, weight, bias)


def conv_transpose1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Spread (N, C, L) or (C, L) with weight (C, C_out/groups, K); `conv_transpose2d` gives the formula."""
    options = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose("conv_transpose1d", 1, input, weight, bias, options, out)


def conv_transpose2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Spread (N, C, H, W) or (C, H, W) with weight (C, C_out/groups, KH, KW).

    y[n, o, i * stride + k * dilation - padding] += w[c, o, k] * x[n, c, i], from b[o] on

    over all c of o's group, i and k, as far as that lies in y (Dumoulin and Visin, as for `conv2d`;
    argument meanings as torch.nn.functional.conv_transpose2d). The output has
    (H - 1) * stride - 2 * padding + dilation * (KH - 1) + output_padding + 1 rows.
    """
    options = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose("conv_transpose2d", 2, input, weight, bias, options, out)


def conv_transpose3d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Spread (N, C, D, H, W) or (C, D, H, W) with weight (C, C_out/groups, KD, KH, KW), as in 2-D."""
    options = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose("conv_transpose3d", 3, input, weight, bias, options, out)


def _conv_transpose(
    op: str,
    axes: int,
    input: Array,
    weight: Array,
    bias: Array | None,
    options: tuple[Any, ...],
    out: Array | None,
) -> Array:
    g, dtype = check_transpose(op, axes, input, weight, bias, *options)
    x, w = split(input, g), grouped(weight, g)
    y = np.zeros((x.shape[0], g.groups, w.shape[2], *whole(g)))
    for tap in np.ndindex(*g.kernel):
        seen = seen_by(y, tap, g)
        seen += (np.swapaxes(w[(..., *tap)], -1, -2) @ x).reshape(seen.shape)
    y = cut(y, g).reshape(*input.shape[: -axes - 1], weight.shape[1] * g.groups, *kept(g))
    if bias is not None:
        y += wide(bias).reshape(-1, *(1,) * axes)
    return deliver(op, y, dtype, out, input, weight, bias)


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
        g, _ = check(op.__name__, axes, input, weight, bias, stride, padding, dilation, groups)
        x, w = padded(input, g), grouped(weight, g)

        def pull(dout: Array) -> tuple[Array | None, ...]:
            """Each product y[o] += w[o, c] x[c] gives dx[c] += w[o, c] dy[o], dw[o, c] += dy[o] x[c]."""
            dy = batched(dout, g).reshape(x.shape[0], g.groups, w.shape[1], int(np.prod(g.length)))
            dx, dw = np.zeros_like(x), np.zeros_like(w)
            for tap in np.ndindex(*g.kernel):
                seen = seen_by(dx, tap, g)
                seen += (np.swapaxes(w[(..., *tap)], -1, -2) @ dy).reshape(seen.shape)
                dw[(..., *tap)] = (dy @ np.swapaxes(flat(seen_by(x, tap, g)), -1, -2)).sum(0)
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


def _transposevjp(op: Callable[..., Array], axes: int) -> None:
    @defvjp(op, "input", "weight", "bias")
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        weight: Array,
        bias: Array | None = None,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        dilation: Ints = 1,
    ) -> tuple[Array, Pull]:
        options = (stride, padding, output_padding, groups, dilation)
        out = op(input, weight, bias, *options)
        g, _ = check_transpose(op.__name__, axes, input, weight, bias, *options)
        x, w = split(input, g), grouped(weight, g)

        def pull(dout: Array) -> tuple[Array | None, ...]:
            """Each product y[o] += w[c, o] x[c] gives dx[c] += w[c, o] dy[o], dw[c, o] += x[c] dy[o]."""
            dy = np.zeros((x.shape[0], g.groups, w.shape[2], *whole(g)))
            inside = cut(dy, g)
            inside[...] = batched(dout, g).reshape(inside.shape)
            dx, dw = np.zeros_like(x), np.zeros_like(w)
            for tap in np.ndindex(*g.kernel):
                seen = flat(seen_by(dy, tap, g))
                dx += w[(..., *tap)] @ seen
                dw[(..., *tap)] = (x @ np.swapaxes(seen, -1, -2)).sum(0)
            db = dy.sum((0, *range(3, dy.ndim))).reshape(-1)
            return (
                rounded(dx.reshape(input.shape), input.dtype) if wanted[0] else None,
                rounded(dw.reshape(weight.shape), weight.dtype) if wanted[1] else None,
                rounded(db, bias.dtype) if wanted[2] and bias is not None else None,
            )

        return out, pull


_transposevjp(conv_transpose1d, 1)
_transposevjp(conv_transpose2d, 2)
_transposevjp(conv_transpose3d, 3)
