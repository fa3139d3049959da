"""The dense layer's matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, result_dtype, rounded, shaped, wide

Pull = Callable[[Array], tuple[Array | None, ...]]


def linear(input: Array, weight: Array, bias: Array | None = None, *, out: Array | None = None) -> Array:
    """y = x W^T + b over the last axis (torch.nn.functional.linear).

    Input (..., in), weight (out, in) and bias (out,) give (..., out); weight (in,) and bias () give (...).
    """
    dtype = _check(input, weight, bias)
    y = wide(input) @ wide(weight).T
    if bias is not None:
        y = y + wide(bias)
    return deliver("linear", y, dtype, out, input, weight, bias)


def _check(input: Any, weight: Any, bias: Any) -> np.dtype[Any]:
    op = "linear"
    if floating(op, "input", input).ndim == 0:
        raise ValueError(f"{op}: input must have at least 1 dimension, got shape ()")
    floating(op, "weight", weight, (1, 2))
    if input.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"{op}: input of shape {input.shape} has {input.shape[-1]} features, "
            f"but weight of shape {weight.shape} takes {weight.shape[-1]}"
        )
    if bias is not None:
        shaped(op, "bias", floating(op, "bias", bias), weight.shape[:-1])
    return result_dtype(op, input, weight, bias)


@defvjp(linear, "input", "weight", "bias")
def _linear_vjp(
    wanted: tuple[bool, ...], input: Array, weight: Array, bias: Array | None = None
) -> tuple[Array, Pull]:
    out = linear(input, weight, bias)
    rows = int(np.prod(input.shape[:-1]))
    x, w = wide(input).reshape(rows, input.shape[-1]), np.atleast_2d(wide(weight))

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """dx = dy W, dW = dy^T x, db = the sum of dy over the rows."""
        dy = wide(dout).reshape(rows, w.shape[0])
        return (
            rounded((dy @ w).reshape(input.shape), input.dtype) if wanted[0] else None,
            rounded((dy.T @ x).reshape(weight.shape), weight.dtype) if wanted[1] else None,
            rounded(dy.sum(0).reshape(bias.shape), bias.dtype) if wanted[2] and bias is not None else None,
        )

    return out, pull
