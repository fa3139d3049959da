"""Normalization over the last dimensions: layer_norm and rms_norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import _core
from ._common import Array, gradient_like, number, sizes
from ._vjp import defvjp

_Pull = Callable[[Array], tuple[Any, ...]]


def layer_norm(
    input: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """Normalize the last dimensions to mean 0 and variance 1, then scale and shift them [1]_.

    ``y = (x - mean) / sqrt(variance + eps) * weight + bias``, with the mean and the (biased)
    variance over the last dimensions.

    Parameters
    ----------
    input : array of shape (..., *normalized_shape)
        Floating.
    normalized_shape : int or tuple of ints
        The last dimensions, one at least; an int is the last one alone.
    weight, bias : array of shape normalized_shape, optional
        Ones and zeros by default.
    eps : float, default 1e-5
    out : array of shape (..., *normalized_shape), optional
        Where to write the result.

    Returns
    -------
    array of the shape of `input`

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit.

    References
    ----------
    .. [1] Ba, Kiros and Hinton, "Layer Normalization", 2016. https://arxiv.org/abs/1607.06450
    """
    shape = sizes("layer_norm", "normalized_shape", normalized_shape)
    eps = number("layer_norm", "eps", eps)
    result: Array = _core.layer_norm(input, shape, weight, bias, eps, False, out)[0]
    return result


@defvjp(layer_norm, "input", "weight", "bias")
def _layer_norm_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, _Pull]:
    return _rule(
        "layer_norm", wanted, input, normalized_shape, weight, bias, number("layer_norm", "eps", eps)
    )


def rms_norm(
    input: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Divide the last dimensions by their root mean square, then scale them [1]_.

    ``y = x / sqrt(mean(x**2) + eps) * weight``, with the mean over the last dimensions.

    Parameters
    ----------
    input : array of shape (..., *normalized_shape)
        Floating.
    normalized_shape : int or tuple of ints
        The last dimensions, one at least; an int is the last one alone.
    weight : array of shape normalized_shape, optional
        Ones by default.
    eps : float, optional
        By default the distance from 1 to the next number of the dtype that is computed in:
        float32 for 16-bit arrays.
    out : array of shape (..., *normalized_shape), optional
        Where to write the result.

    Returns
    -------
    array of the shape of `input`

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit.

    References
    ----------
    .. [1] Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
       https://arxiv.org/abs/1910.07467
    """
    shape = sizes("rms_norm", "normalized_shape", normalized_shape)
    eps = None if eps is None else number("rms_norm", "eps", eps)
    result: Array = _core.rms_norm(input, shape, weight, None, eps, False, out)[0]
    return result


@defvjp(rms_norm, "input", "weight")
def _rms_norm_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
) -> tuple[Array, _Pull]:
    eps = None if eps is None else number("rms_norm", "eps", eps)
    out, pull = _rule("rms_norm", (*wanted, False), input, normalized_shape, weight, None, eps)
    return out, lambda cotangent: pull(cotangent)[:2]


def _rule(
    op: str,
    wanted: tuple[bool, ...],
    input: Array,
    normalized_shape: Any,
    weight: Array | None,
    bias: Array | None,
    eps: float | None,
) -> tuple[Array, _Pull]:
    """Return the output of `op` and its pullback to input, weight and bias."""
    shape = sizes(op, "normalized_shape", normalized_shape)
    out, saved = getattr(_core, op)(input, shape, weight, bias, eps, True, None)
    wants = (wanted[0], wanted[1] and weight is not None, wanted[2] and bias is not None)

    def pull(cotangent: Array) -> tuple[Any, ...]:
        gradients = getattr(_core, f"{op}_backward")(cotangent, input, shape, weight, saved, *wants)
        return tuple(
            None if argument is None else gradient_like(gradient, argument)
            for gradient, argument in zip(gradients, (input, weight, bias), strict=True)
        )

    return out, pull
