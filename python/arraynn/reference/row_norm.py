"""Normalization over the last dimensions: layer_norm and rms_norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, integer, number, result_dtype, rounded, shaped, wide

Pull = Callable[[Array], tuple[Array | None, ...]]


def layer_norm(
    input: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """y = (x - mean) / sqrt(variance + eps) * w + b (torch.nn.functional.layer_norm).

    Mean and biased variance are those of each row, the last dimensions taken together (Ba et al. 2016).
    """
    op = "layer_norm"
    shape, dtype = _check(op, input, normalized_shape, weight, bias)
    z, _ = _normal(wide(input), _axes(shape), number(op, "eps", eps), centered=True)
    return deliver(op, _affine(z, weight, bias), dtype, out, input, weight, bias)


def rms_norm(
    input: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * w (torch.nn.functional.rms_norm).

    The mean is that of each row, the last dimensions taken together (Zhang and Sennrich 2019).
    eps is by default that of the dtype computed in, float32 for 16-bit arrays.
    """
    op = "rms_norm"
    shape, dtype = _check(op, input, normalized_shape, weight, None)
    z, _ = _normal(wide(input), _axes(shape), _rms_eps(eps, dtype), centered=False)
    return deliver(op, _affine(z, weight, None), dtype, out, input, weight)


def _check(
    op: str, input: Any, normalized_shape: Any, weight: Any, bias: Any
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    floating(op, "input", input)
    several = isinstance(normalized_shape, tuple | list)
    sizes = normalized_shape if several else (normalized_shape,)
    shape = tuple(integer(op, "normalized_shape", size) for size in sizes)
    if not shape:
        raise ValueError(f"{op}: normalized_shape must have at least 1 dimension, got ()")
    if input.shape[-len(shape) :] != shape:
        raise ValueError(f"{op}: input of shape {input.shape} does not end in normalized_shape={shape}")
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None:
            shaped(op, name, floating(op, name, array), shape)
    return shape, result_dtype(op, input, weight, bias)


def _axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def _rms_eps(eps: Any, dtype: np.dtype[Any]) -> float:
    if eps is None:
        return float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)
    return number("rms_norm", "eps", eps)


def _normal(x: Array, axes: tuple[int, ...], eps: float, centered: bool) -> tuple[Array, Array]:
    """Return z = (x - mean) / sqrt(mean((x - mean)^2) + eps), and the reciprocal of the root."""
    if x.size == 0:
        return x, np.ones([1] * x.ndim)
    with np.errstate(all="ignore"):
        deviations = x - x.mean(axes, keepdims=True) if centered else x
        rstd = 1 / np.sqrt((deviations**2).mean(axes, keepdims=True) + eps)
        return deviations * rstd, rstd


def _affine(z: Array, weight: Array | None, bias: Array | None) -> Array:
    with np.errstate(all="ignore"):
        y = z if weight is None else z * wide(weight)
        return y if bias is None else y + wide(bias)


@defvjp(layer_norm, "input", "weight", "bias")
def _layer_norm_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Pull]:
    out = layer_norm(input, normalized_shape, weight, bias, eps)
    shape, _ = _check("layer_norm", input, normalized_shape, weight, bias)
    gradients = _gradients(input, shape, weight, float(eps), centered=True)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        dx, dw, db = gradients(dout)
        return (
            rounded(dx, input.dtype) if wanted[0] else None,
            rounded(dw, weight.dtype) if wanted[1] and weight is not None else None,
            rounded(db, bias.dtype) if wanted[2] and bias is not None else None,
        )

    return out, pull


@defvjp(rms_norm, "input", "weight")
def _rms_norm_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
) -> tuple[Array, Pull]:
    out = rms_norm(input, normalized_shape, weight, eps)
    shape, dtype = _check("rms_norm", input, normalized_shape, weight, None)
    gradients = _gradients(input, shape, weight, _rms_eps(eps, dtype), centered=False)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        dx, dw, _ = gradients(dout)
        return (
            rounded(dx, input.dtype) if wanted[0] else None,
            rounded(dw, weight.dtype) if wanted[1] and weight is not None else None,
        )

    return out, pull


def _gradients(
    input: Array, shape: tuple[int, ...], weight: Array | None, eps: float, centered: bool
) -> Callable[[Array], tuple[Array, Array, Array]]:
    axes = _axes(shape)
    z, rstd = _normal(wide(input), axes, eps, centered)
    outer = tuple(range(input.ndim - len(shape)))

    def gradients(dout: Array) -> tuple[Array, Array, Array]:
        """dx = rstd (g - mean g - z mean(g z)) with g = dy w; dw = sum dy z and db = sum dy over the rows."""
        dy = wide(dout)
        if dy.size == 0:
            return dy, np.zeros(shape), np.zeros(shape)
        g = _affine(dy, weight, None)
        dx = g - z * (g * z).mean(axes, keepdims=True)
        if centered:
            dx = dx - g.mean(axes, keepdims=True)
        return dx * rstd, (dy * z).sum(outer), dy.sum(outer)

    return gradients
