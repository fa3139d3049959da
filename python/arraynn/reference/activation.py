"""Pointwise activations and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, integer, number, rounded, wide

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


def leaky_relu(input: Array, negative_slope: float = 0.01, *, out: Array | None = None) -> Array:
    """x where x > 0, else negative_slope * x (Maas, Hannun and Ng 2013), the derivative at 0 included."""
    x = floating("leaky_relu", "input", input)
    slope = number("leaky_relu", "negative_slope", negative_slope)
    with np.errstate(invalid="ignore"):  # 0 * -inf
        y = np.where(x > 0, wide(x), slope * wide(x))
    return deliver("leaky_relu", y, x.dtype, out, input)


def elu(input: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array:
    """x where x > 0, else alpha (exp(x) - 1) (Clevert et al. 2016), the derivative at 0 included."""
    x = floating("elu", "input", input)
    alpha = number("elu", "alpha", alpha)
    return deliver("elu", np.where(x > 0, wide(x), alpha * np.expm1(_lower(x))), x.dtype, out, input)


def gelu(input: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016).

    'tanh' is their approximation of it, (1 + tanh(g / 2)) / 2 = 1 / (1 + exp(-g)) with
    g = 2 sqrt(2 / pi) (x + 0.044715 x**3).
    """
    x = floating("gelu", "input", input)
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    x = wide(x)
    with np.errstate(over="ignore", invalid="ignore"):  # the cube of x; -inf * 0
        phi = _normal(x) if approximate == "none" else _sigmoid(_gate(x))
        return deliver("gelu", x * phi, input.dtype, out, input)


def silu(input: Array, *, out: Array | None = None) -> Array:
    """x / (1 + exp(-x)) (Elfwing, Uchibe and Doya 2018)."""
    x = floating("silu", "input", input)
    with np.errstate(invalid="ignore"):  # -inf * 0
        return deliver("silu", wide(x) * _sigmoid(wide(x)), x.dtype, out, input)


def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0, *, out: Array | None = None) -> Array:
    """log(1 + exp(beta x)) / beta, and x where beta x > threshold (torch.nn.functional.softplus)."""
    op = "softplus"
    x = wide(floating(op, "input", input))
    beta, threshold = number(op, "beta", beta), number(op, "threshold", threshold)
    with np.errstate(all="ignore"):  # a beta of 0
        z = beta * x
        y = np.where(z > threshold, x, np.logaddexp(0, z) / beta)
    return deliver(op, y, input.dtype, out, input)


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
    e = np.exp(-np.abs(x))  # never infinite
    return np.asarray(np.where(x < 0, e, 1.0) / (1 + e))


def _lower(x: Array) -> Array:
    """min(x, 0), with NaN for NaN: what a branch for x <= 0 sees, so that it does not overflow."""
    return np.minimum(wide(x), 0)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal(x: Array) -> Array:
    """Phi(x), by erfc, which is accurate in the tail where 1 + erf is not."""
    return np.asarray(0.5 * _erfc(-x / math.sqrt(2)))


def _gate(x: Array) -> Array:
    """g of `gelu`."""
    return np.asarray(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


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


def _pointwise(op: Callable[..., Array], derivative: Callable[..., Array]) -> None:
    @defvjp(op, "input")
    def rule(wanted: tuple[bool, ...], input: Array, *args: Any, **kwargs: Any) -> tuple[Array, Pull]:
        out, dtype = op(input, *args, **kwargs), input.dtype
        with np.errstate(over="ignore", invalid="ignore"):
            slope = derivative(wide(input), *args, **kwargs)

        def pull(dout: Array) -> tuple[Array | None, ...]:
            return (rounded(wide(dout) * slope, dtype) if wanted[0] else None,)

        return out, pull


def _gelu_slope(x: Array, approximate: str = "none") -> Array:
    """Phi(x) + x Phi'(x)."""
    if approximate == "none":
        return _normal(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    near = np.clip(x, -50, 50)  # beyond, the gate is 0 or 1 to the last bit, and does not change
    slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * near**2)
    g = _gate(near)
    return np.asarray(_sigmoid(g) + x * (_sigmoid(g) * _sigmoid(-g) * slope))


def _softplus_slope(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return np.where(beta * x > threshold, 1.0, _sigmoid(beta * x))


_pointwise(relu, lambda x: np.where(x <= 0, 0.0, 1.0))
_pointwise(leaky_relu, lambda x, negative_slope=0.01: np.where(x > 0, 1.0, negative_slope))
_pointwise(elu, lambda x, alpha=1.0: np.where(x > 0, 1.0, alpha * np.exp(_lower(x))))
_pointwise(sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x))  # 1 - y, but exact where y is close to 1
_pointwise(tanh, lambda x: 4 * _sigmoid(2 * x) * _sigmoid(-2 * x))  # 1 - tanh(x)**2, without cancellation
_pointwise(gelu, _gelu_slope)
_pointwise(silu, lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)))
_pointwise(softplus, _softplus_slope)


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
