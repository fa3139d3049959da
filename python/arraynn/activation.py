"""Activations: pointwise ones, softmax and log_softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _core
from ._common import Array, gradient_like, integer, number
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
    """Apply ``1 / (1 + exp(-x))`` element by element, on the CPU to within 2 ulp.

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
    """Apply the hyperbolic tangent element by element, on the CPU to within 2.2 ulp.

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


def leaky_relu(input: Array, negative_slope: float = 0.01, *, out: Array | None = None) -> Array:
    """Apply ``x`` where it is positive and ``negative_slope x`` elsewhere; NaN stays NaN.

    Parameters
    ----------
    input : array
        Floating, any shape and strides; the result has its memory order.
    negative_slope : float, default 0.01
        Any number; it is the gradient at 0 too.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, `negative_slope` is not a number,
        or `out` does not fit.
    """
    result: Array = _core.leaky_relu(input, number("leaky_relu", "negative_slope", negative_slope), out)
    return result


def elu(input: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array:
    """Apply ``x`` where it is positive and ``alpha (exp(x) - 1)`` elsewhere [1]_.

    Parameters
    ----------
    input : array
        Floating, any shape and strides; the result has its memory order.
    alpha : float, default 1.0
        Any number; it is the gradient at 0 too.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, `alpha` is not a number, or `out` does not fit.

    References
    ----------
    .. [1] Clevert, Unterthiner and Hochreiter, "Fast and Accurate Deep Network Learning by Exponential
       Linear Units (ELUs)", ICLR 2016.
    """
    result: Array = _core.elu(input, number("elu", "alpha", alpha), out)
    return result


def gelu(input: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """Apply ``x Phi(x)``, Phi being the distribution function of the normal distribution [1]_.

    Parameters
    ----------
    input : array
        Floating, any shape and strides; the result has its memory order.
    approximate : {'none', 'tanh'}
        'tanh' takes ``(1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2`` for Phi.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, `approximate` is none of these,
        or `out` does not fit.

    References
    ----------
    .. [1] Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415, 2016.
    """
    result: Array = _core.gelu(input, _is_tanh(approximate), out)
    return result


def silu(input: Array, *, out: Array | None = None) -> Array:
    """Apply ``x sigmoid(x)`` element by element [1]_.

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

    References
    ----------
    .. [1] Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units for Neural Network Function
       Approximation in Reinforcement Learning", Neural Networks 107, 2018.
    """
    result: Array = _core.silu(input, out)
    return result


def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0, *, out: Array | None = None) -> Array:
    """Apply ``log(1 + exp(beta x)) / beta``, and ``x`` where ``beta x > threshold``.

    Parameters
    ----------
    input : array
        Floating, any shape and strides; the result has its memory order.
    beta : float, default 1.0
        How sharp the bend at 0 is; any number.
    threshold : float, default 20.0
        Beyond it the function is `x` itself.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, `beta` or `threshold` is not a
        number, or `out` does not fit.
    """
    op = "softplus"
    result: Array = _core.softplus(input, number(op, "beta", beta), number(op, "threshold", threshold), out)
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
        Results below the normal numbers (1.2e-38 in float32) may be 0.

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


def _is_tanh(approximate: Any) -> bool:
    """Return which of the two functions called GELU is meant."""
    if not isinstance(approximate, str) or approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is {approximate!r}, expected 'none' or 'tanh'")
    return approximate == "tanh"


def _define(op: Callable[..., Array], backward: Callable[..., Array], saves_output: bool) -> None:
    """Register the rule of an op whose gradient needs its output, or its input, and its options."""

    @defvjp(op, "input")
    def rule(wanted: tuple[bool, ...], input: Array, *args: Any, **kwargs: Any) -> tuple[Array, _Pull]:
        out = op(input, *args, **kwargs)
        saved = out if saves_output else input

        def pull(cotangent: Array) -> tuple[Any, ...]:
            if not wanted[0]:
                return (None,)
            return (gradient_like(backward(saved, cotangent, *args, **kwargs), input),)

        return out, pull


_define(relu, _core.relu_backward, True)
_define(sigmoid, _core.sigmoid_backward, True)
_define(tanh, _core.tanh_backward, True)
_define(silu, _core.silu_backward, False)
_define(
    leaky_relu,
    lambda x, dy, negative_slope=0.01: _core.leaky_relu_backward(x, dy, float(negative_slope)),
    False,
)
_define(elu, lambda x, dy, alpha=1.0: _core.elu_backward(x, dy, float(alpha)), False)
_define(gelu, lambda x, dy, approximate="none": _core.gelu_backward(x, dy, _is_tanh(approximate)), False)
_define(
    softplus,
    lambda x, dy, beta=1.0, threshold=20.0: _core.softplus_backward(x, dy, float(beta), float(threshold)),
    False,
)
_define(softmax, lambda out, dy, axis=-1: _core.softmax_backward(out, dy, axis), True)
_define(log_softmax, lambda out, dy, axis=-1: _core.log_softmax_backward(out, dy, axis), True)
