"""Losses other than cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core
from ._common import Array, gradient_like, pull_of_reduced, reduction_code
from ._device import library_of
from ._vjp import defvjp

_op = "mse_loss"


def mse_loss(
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Square the errors: ``weight (input - target)**2``.

    Parameters
    ----------
    input, target : arrays
        Floating; they broadcast against each other.
    reduction : {'mean', 'sum', 'none'}
        The mean divides by the number of elements, or by the sum of the weights; over nothing it is NaN.
    weight : array of the shape of `input`, optional
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the broadcast shape with ``reduction='none'``
        Of the common dtype of the arguments. Differentiable in `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, a shape does not fit, or `reduction` is none of these.
    """
    result: Array = _core.mse_loss(input, target, reduction_code(_op, reduction), weight, out)
    return result


def _sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of `shape` was repeated."""
    if tuple(a.shape) == shape:
        return a
    new = a.ndim - len(shape)
    repeated = tuple(i for i in range(a.ndim) if i < new or (shape[i - new] == 1 and a.shape[i] != 1))
    library = None if isinstance(a, np.ndarray) else library_of(a)
    if library is not None:
        total: Array = library.sum(a, repeated).reshape(shape)
    else:
        total = a.sum(repeated, np.float64, keepdims=True).reshape(shape).astype(a.dtype)
    return total


@defvjp(mse_loss, "input")
def _mse_loss_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
) -> tuple[Array, Callable[[Array], tuple[Any, ...]]]:
    code = reduction_code(_op, reduction)

    def fit(gradient: Array) -> Any:
        return gradient_like(_sum_to(gradient, tuple(input.shape)), input)

    def compute(cotangent: Array, unit: Array | None = None) -> Any:
        return fit(_core.mse_loss_backward(cotangent, input, target, code, weight, unit))

    if not wanted[0]:
        return _core.mse_loss(input, target, code, weight, None), lambda cotangent: (None,)
    if reduction == "none":
        return _core.mse_loss(input, target, code, weight, None), lambda dy: (compute(dy),)
    out, unit = _core.mse_loss_gradient(input, target, code, weight)
    pull = pull_of_reduced(unit, fit, compute)
    return out, lambda cotangent: (pull(cotangent),)
