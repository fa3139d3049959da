"""Activations: relu, sigmoid, tanh, softmax, log_softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _core
from ._common import Array, gradient_like, integer
from ._vjp import defvjp

_Pull = Callable[[Array], tuple[Any, ...]]


def relu(input: Array, *, out: Array | None = None) -> Array:
    """Apply ``max(0, x)`` element by element; NaN stays NaN.

    Parameters
    ----------
    input : array
        Floating, any shape and strides; the result has its memory order.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, or `out` does not fit.
    """
    result: Array = _core.relu(input, out)
    return result


def sigmoid(input: Array, *, out: Array | None = None) -> Array:
    """Apply ``1 / (1 + exp(-x))`` element by element, to within 2.5 ulp.

    Parameters
    ----------
    input : array
        Floating, any shape and strides; the result has its memory order.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, or `out` does not fit.
    """
    result: Array = _core.sigmoid(input, out)
    return result


def tanh(input: Array, *, out: Array | None = None) -> Array:
    """Apply the hyperbolic tangent element by element, to within 2.5 ulp.

    Parameters
    ----------
    input : array
        Floating, any shape and strides; the result has its memory order.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, or `out` does not fit.
    """
    result: Array = _core.tanh(input, out)
    return result


def softmax(input: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """Apply ``exp(x_i - max x) / sum_j exp(x_j - max x)`` along one axis.

    Parameters
    ----------
    input : array
        Floating, any shape and strides.
    axis : int, default -1
        The axis whose results sum to 1 (PyTorch's ``dim``).
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, `axis` is out of range, or `out` does not fit.
    """
    result: Array = _core.softmax(input, integer("softmax", "axis", axis), out)
    return result


def log_softmax(input: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """Apply ``x_i - max x - log sum_j exp(x_j - max x)`` along one axis.

    Parameters
    ----------
    input : array
        Floating, any shape and strides.
    axis : int, default -1
        The axis that is normalised (PyTorch's ``dim``).
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, `axis` is out of range, or `out` does not fit.
    """
    result: Array = _core.log_softmax(input, integer("log_softmax", "axis", axis), out)
    return result


def _define(op: Callable[..., Array], backward: Callable[..., Array]) -> None:
    """Register the rule of an op whose gradient needs its output alone."""

    @defvjp(op, "input")
    def rule(wanted: tuple[bool, ...], input: Array, *args: Any, **kwargs: Any) -> tuple[Array, _Pull]:
        out = op(input, *args, **kwargs)

        def pull(cotangent: Array) -> tuple[Any, ...]:
            if not wanted[0]:
                return (None,)
            return (gradient_like(backward(out, cotangent, *args, *kwargs.values()), input),)

        return out, pull


_define(relu, _core.relu_backward)
_define(sigmoid, _core.sigmoid_backward)
_define(tanh, _core.tanh_backward)
_define(softmax, lambda out, dy, axis=-1: _core.softmax_backward(out, dy, axis))
_define(log_softmax, lambda out, dy, axis=-1: _core.log_softmax_backward(out, dy, axis))
