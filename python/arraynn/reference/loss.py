"""Losses other than cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import (
    Array,
    check_reduction,
    deliver,
    floating,
    result_dtype,
    rounded,
    shaped,
    wide,
)

Pull = Callable[[Array], tuple[Array | None, ...]]


def mse_loss(
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """l = w (x - t)**2, as it is, summed, or averaged (torch.nn.functional.mse_loss).

    Input and target broadcast against each other; `weight` has the input's shape, and the mean
    is then sum(l) / sum(w). The mean over nothing is NaN.
    """
    dtype = _check(input, target, reduction, weight)
    error = wide(input) - wide(target)
    loss = error**2 if weight is None else wide(weight) * error**2
    with np.errstate(invalid="ignore", divide="ignore"):
        if reduction != "none":
            loss = loss.sum() / _divisor(error, reduction, weight)
    return deliver("mse_loss", loss, dtype, out, input, target, weight)


def _check(input: Any, target: Any, reduction: Any, weight: Any) -> np.dtype[Any]:
    op = "mse_loss"
    floating(op, "input", input)
    floating(op, "target", target)
    try:
        np.broadcast_shapes(input.shape, target.shape)
    except ValueError:
        raise ValueError(
            f"{op}: target has shape {target.shape}, which does not broadcast with input {input.shape}"
        ) from None
    check_reduction(op, reduction)
    if weight is not None:
        shaped(op, "weight", floating(op, "weight", weight), input.shape)
    return result_dtype(op, input, target, weight)


def _divisor(error: Array, reduction: str, weight: Array | None) -> Any:
    if reduction != "mean":
        return np.float64(1)
    return np.float64(error.size) if weight is None else wide(weight).sum()


@defvjp(mse_loss, "input")
def _mse_loss_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
) -> tuple[Array, Pull]:
    out = mse_loss(input, target, reduction=reduction, weight=weight)
    error = wide(input) - wide(target)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """dx = 2 w (x - t) dl, divided as the loss was, summed where x was broadcast."""
        if not wanted[0]:
            return (None,)
        with np.errstate(invalid="ignore", divide="ignore"):
            dx = (
                2
                * error
                * (1.0 if weight is None else wide(weight))
                * (wide(dout) / _divisor(error, reduction, weight))
            )
        return (rounded(_unbroadcast(dx, input.shape), input.dtype),)

    return out, pull


def _unbroadcast(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum `a` over the axes along which an array of `shape` was repeated to give a's shape."""
    a = a.sum(tuple(range(a.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and a.shape[i] != 1)
    return np.asarray(a.sum(repeated, keepdims=True))
