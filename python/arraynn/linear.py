"""The linear layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core
from ._common import Array, gradient_like, ndim
from ._vjp import defvjp


def linear(input: Array, weight: Array, bias: Array | None = None, *, out: Array | None = None) -> Array:
    """Apply ``y = x W^T + b`` to the last axis.

    Parameters
    ----------
    input : array of shape (..., in_features)
        Floating.
    weight : array of shape (out_features, in_features), or (in_features,) for one output
        Any strides.
    bias : array of shape (out_features,), or () for one output, optional
    out : array of shape (..., out_features) or (...), optional
        Where to write the result.

    Returns
    -------
    array of shape (..., out_features), or (...) for a weight of one dimension

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit.
    """
    if (weight.ndim if isinstance(weight, np.ndarray) else ndim(weight)) == 1:
        return _one_output(input, weight, bias, out)
    return _core.linear(input, weight, bias, out)


def _row(weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Return a weight of shape (in_features,) and its bias of shape () as those of one output."""
    return weight[None], bias.reshape(1) if bias is not None and ndim(bias) == 0 else bias


def _one_output(input: Array, weight: Array, bias: Array | None, out: Array | None) -> Array:
    column = out[..., None] if out is not None and ndim(out) is not None else out
    result: Array = _core.linear(input, *_row(weight, bias), column)
    return result[..., 0] if out is None else out


@defvjp(linear, "input", "weight", "bias")
def _linear_vjp(
    wanted: tuple[bool, ...], input: Array, weight: Array, bias: Array | None = None
) -> tuple[Array, Callable[[Array], tuple[Any, ...]]]:
    out = linear(input, weight, bias)
    one = weight.ndim == 1

    def pull(cotangent: Array) -> tuple[Any, ...]:
        dx, dw, db = _core.linear_backward(
            cotangent[..., None] if one else cotangent,
            input,
            weight[None] if one else weight,
            wanted[0],
            wanted[1],
            wanted[2] and bias is not None,
        )
        if one:
            dw = None if dw is None else dw[0]
            db = None if db is None or bias is None else db.reshape(tuple(bias.shape))
        return (
            gradient_like(dx, input),
            gradient_like(dw, weight),
            None if bias is None else gradient_like(db, bias),
        )

    return out, pull
