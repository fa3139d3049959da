"""The linear layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _core
from ._common import Array, gradient_like
from ._vjp import defvjp


def linear(input: Array, weight: Array, bias: Array | None = None, *, out: Array | None = None) -> Array:
    """Apply ``y = x W^T + b`` to the last axis.

    Parameters
    ----------
    input : array of shape (..., in_features)
        Floating.
    weight : array of shape (out_features, in_features)
        Any strides.
    bias : array of shape (out_features,), optional
    out : array of shape (..., out_features), optional
        Where to write the result.

    Returns
    -------
    array of shape (..., out_features)

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit.
    """
    result: Array = _core.linear(input, weight, bias, out)
    return result


@defvjp(linear, "input", "weight", "bias")
def _linear_vjp(
    wanted: tuple[bool, ...], input: Array, weight: Array, bias: Array | None = None
) -> tuple[Array, Callable[[Array], tuple[Any, ...]]]:
    out = linear(input, weight, bias)

    def pull(cotangent: Array) -> tuple[Any, ...]:
        dx, dw, db = _core.linear_backward(
            cotangent, input, weight, wanted[0], wanted[1], wanted[2] and bias is not None
        )
        return (
            gradient_like(dx, input),
            gradient_like(dw, weight),
            None if bias is None else gradient_like(db, bias),
        )

    return out, pull
