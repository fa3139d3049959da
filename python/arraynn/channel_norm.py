"""Normalization of channels: batch_norm and group_norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _core
from ._common import Array, as_dtype, flag, integer, number
from ._vjp import defvjp

_Pull = Callable[[Array], tuple[Any, ...]]


def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """Normalize each channel to mean 0 and variance 1, then scale and shift it [1]_.

    ``y = (x - mean) / sqrt(variance + eps) * weight + bias``. In training, mean and (biased)
    variance are those of the channel over all images, and the running statistics move towards
    them; in evaluation they are the running ones.

    Parameters
    ----------
    input : array of shape (N, C, ...)
        Floating. A channels-last array (say ``x_nhwc.transpose(0, 3, 1, 2)``) is used as it lies.
    running_mean, running_var : array of shape (C,), or None
        Floating, both of one dtype, which they keep. In training they are written in place,
        ``running = (1 - momentum) * running + momentum * new`` with the unbiased variance, by
        `vjp` too; each may be None. In evaluation they are only read.
    weight, bias : array of shape (C,), optional
        Ones and zeros by default.
    training : bool, default False
        Needs more than one value per channel.
    momentum : float, default 0.1
    eps : float, default 1e-5
    out : array of the shape of `input`, optional
        Where to write the result.

    Returns
    -------
    array of the shape and memory order of `input`

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or its shape does not fit; running statistics to be
        written are read-only or share memory with another argument. Nothing has been written then.

    References
    ----------
    .. [1] Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
       Internal Covariate Shift", 2015. https://arxiv.org/abs/1502.03167
    """
    options = _batch_options(training, momentum, eps)
    result: Array = _core.batch_norm(input, running_mean, running_var, weight, bias, *options, False, out)[0]
    return result


def _batch_options(training: Any, momentum: Any, eps: Any) -> tuple[bool, float, float]:
    return (
        flag("batch_norm", "training", training),
        number("batch_norm", "momentum", momentum),
        number("batch_norm", "eps", eps),
    )


@defvjp(batch_norm, "input", "weight", "bias")
def _batch_norm_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, _Pull]:
    options = _batch_options(training, momentum, eps)
    out, saved = _core.batch_norm(input, running_mean, running_var, weight, bias, *options, True, None)
    wants = _wants(wanted, weight, bias)
    # In evaluation the input is only multiplied: its gradient does without it.
    kept = input if training or wants[1] else None
    dtypes = _dtypes(input, weight, bias)

    def pull(cotangent: Array) -> tuple[Any, ...]:
        gradients = _core.batch_norm_backward(cotangent, kept, weight, saved, options[0], *wants)
        return _fit(gradients, dtypes)

    return out, pull


def group_norm(
    input: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """Normalize groups of channels of each image, then scale and shift the channels [1]_.

    ``y = (x - mean) / sqrt(variance + eps) * weight + bias``, with the mean and the (biased)
    variance over a group's channels and all of space.

    Parameters
    ----------
    input : array of shape (N, C, ...)
        Floating. A channels-last array (say ``x_nhwc.transpose(0, 3, 1, 2)``) is used as it lies.
    num_groups : int
        A divisor of C; with C groups it is instance normalization.
    weight, bias : array of shape (C,), optional
        Ones and zeros by default.
    eps : float, default 1e-5
    out : array of the shape of `input`, optional
        Where to write the result.

    Returns
    -------
    array of the shape and memory order of `input`

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, its shape does not fit, or `num_groups` does not
        divide the channels.

    References
    ----------
    .. [1] Wu and He, "Group Normalization", 2018. https://arxiv.org/abs/1803.08494
    """
    groups, eps = integer("group_norm", "num_groups", num_groups), number("group_norm", "eps", eps)
    result: Array = _core.group_norm(input, groups, weight, bias, eps, False, out)[0]
    return result


@defvjp(group_norm, "input", "weight", "bias")
def _group_norm_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, _Pull]:
    groups, eps = integer("group_norm", "num_groups", num_groups), number("group_norm", "eps", eps)
    out, saved = _core.group_norm(input, groups, weight, bias, eps, True, None)
    wants, dtypes = _wants(wanted, weight, bias), _dtypes(input, weight, bias)

    def pull(cotangent: Array) -> tuple[Any, ...]:
        return _fit(_core.group_norm_backward(cotangent, input, groups, weight, saved, *wants), dtypes)

    return out, pull


def _wants(wanted: tuple[bool, ...], weight: Array | None, bias: Array | None) -> tuple[bool, ...]:
    return wanted[0], wanted[1] and weight is not None, wanted[2] and bias is not None


def _dtypes(*arguments: Array | None) -> tuple[Any, ...]:
    return tuple(None if argument is None else argument.dtype for argument in arguments)


def _fit(gradients: tuple[Any, ...], dtypes: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        None if gradient is None else as_dtype(gradient, dtype)
        for gradient, dtype in zip(gradients, dtypes, strict=True)
    )
