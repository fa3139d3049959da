"""Pointwise activations and softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, integer, rounded, wide

Pull = Callable[[Array], tuple[Array | None, ...]]


def relu(input: Array, *, out: Array | None = None) -> Array:
    """max(x, 0), with NaN for NaN (Nair and Hinton 2010); the derivative at 0 is 0."""
    x = floating("relu", "input", input)
    return deliver("relu", np.where(x <= 0, 0.0, wide(x)), x.dtype, out, input)


def sigmoid(input: Array, *, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)); its derivative is y (1 - y)."""
    x = floating("sigmoid", "input", input)
    return deliver("sigmoid", _sigmoid(wide(x)), x.dtype, out, input)


def tanh(input: Array, *, out: Array | None = None) -> Array:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)); its derivative is 1 - y**2."""
    x = floating("tanh", "input", input)
    return deliver("tanh", np.tanh(wide(x)), x.dtype, out, input)


def softmax(input: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """exp(x_i - m) / sum_j exp(x_j - m) along `axis`, where m is the largest of them.

    Subtracting m changes nothing but keeps exp from overflowing (Blanchard, Higham and Higham,
    "Accurately computing the log-sum-exp and softmax functions", 2021).
    """
    x, axis = _along("softmax", input, axis)
    return deliver("softmax", _softmax(x, axis).reshape(input.shape), input.dtype, out, input)


def log_softmax(input: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """x_i - m - log(sum_j exp(x_j - m)) along `axis`, where m is the largest of them.

    The shifted formula of Blanchard, Higham and Higham (2021), which is accurate where the
    logarithm of `softmax` is not.
    """
    x, axis = _along("log_softmax", input, axis)
    return deliver("log_softmax", _log_softmax(x, axis).reshape(input.shape), input.dtype, out, input)


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right 0
        return np.asarray(1 / (1 + np.exp(-x)))


def _along(op: str, input: Any, axis: Any) -> tuple[Array, int]:
    """Check, and return the input in float64 (of one dimension at least) and the axis from 0."""
    x = wide(floating(op, "input", input))
    ndim = max(x.ndim, 1)  # as in PyTorch, a 0-d array has an axis of length 1
    axis = integer(op, "axis", axis)
    if not -ndim <= axis < ndim:
        raise ValueError(f"{op}: axis is {axis}, but input has {x.ndim} dimensions")
    return np.atleast_1d(x), axis % ndim


def _shifted(x: Array, axis: int) -> Array:
    with np.errstate(invalid="ignore"):  # a row with nothing but -inf, or with +inf, has no softmax: NaN
        return np.asarray(x - x.max(axis, keepdims=True, initial=-np.inf))


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(_shifted(x, axis))
    return np.asarray(e / e.sum(axis, keepdims=True))


def _log_softmax(x: Array, axis: int) -> Array:
    shifted = _shifted(x, axis)
    with np.errstate(divide="ignore"):  # along an axis of length 0: nothing comes of it
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)))


def _pointwise(op: Callable[..., Array], derivative: Callable[[Array], Array]) -> None:
    @defvjp(op, "input")
    def rule(wanted: tuple[bool, ...], input: Array) -> tuple[Array, Pull]:
        out, slope, dtype = op(input), derivative(wide(input)), input.dtype

        def pull(dout: Array) -> tuple[Array | None, ...]:
            return (rounded(wide(dout) * slope, dtype) if wanted[0] else None,)

        return out, pull


_pointwise(relu, lambda x: np.where(x <= 0, 0.0, 1.0))
_pointwise(sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x))  # 1 - y, but exact where y is close to 1
_pointwise(tanh, lambda x: 4 * _sigmoid(2 * x) * _sigmoid(-2 * x))  # 1 - tanh(x)**2, without cancellation


@defvjp(softmax, "input")
def _softmax_vjp(wanted: tuple[bool, ...], input: Array, axis: int = -1) -> tuple[Array, Pull]:
    out = softmax(input, axis)
    x, axis = _along("softmax", input, axis)
    y = _softmax(x, axis)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """dx = y * (dy - sum(y * dy))."""
        dy = wide(dout).reshape(y.shape)
        dx = y * (dy - (y * dy).sum(axis, keepdims=True))
        return (rounded(dx.reshape(dout.shape), dout.dtype) if wanted[0] else None,)

    return out, pull


@defvjp(log_softmax, "input")
def _log_softmax_vjp(wanted: tuple[bool, ...], input: Array, axis: int = -1) -> tuple[Array, Pull]:
    out = log_softmax(input, axis)
    x, axis = _along("log_softmax", input, axis)
    y = _softmax(x, axis)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """dx = dy - softmax(x) * sum(dy)."""
        dy = wide(dout).reshape(y.shape)
        dx = dy - y * dy.sum(axis, keepdims=True)
        return (rounded(dx.reshape(dout.shape), dout.dtype) if wanted[0] else None,)

    return out, pull
