"""Normalization of channels: batch_norm and group_norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, integer, number, result_dtype, rounded, shaped, wide

Pull = Callable[[Array], tuple[Array | None, ...]]


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
    """y = (x - mean) / sqrt(variance + eps) * w + b of each channel (torch.nn.functional.batch_norm).

    In training mean and biased variance are the channel's own, over images and space, and the running
    ones become (1 - momentum) running + momentum new, with the unbiased variance (Ioffe and Szegedy
    2015); else they are the running ones.
    """
    op = "batch_norm"
    dtype = _check_batch(input, running_mean, running_var, weight, bias, training)
    momentum, eps = number(op, "momentum", momentum), number(op, "eps", eps)
    z, _, new = _batch_normal(input, running_mean, running_var, training, eps)
    y = deliver(op, _affine(z, weight, bias), dtype, out, input, running_mean, running_var, weight, bias)
    for running, value in zip((running_mean, running_var), new, strict=False):
        if running is not None:
            with np.errstate(all="ignore"):
                running[...] = rounded((1 - momentum) * wide(running) + momentum * value, running.dtype)
    return y


def group_norm(
    input: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """y = (x - mean) / sqrt(variance + eps) * w + b (torch.nn.functional.group_norm).

    Mean and biased variance are those of a group of channels of an image (Wu and He 2018).
    """
    op = "group_norm"
    dtype = _check_group(input, num_groups, weight, bias)
    z, _ = _group_normal(input, num_groups, number(op, "eps", eps))
    return deliver(op, _affine(z, weight, bias), dtype, out, input, weight, bias)


def _check(op: str, input: Any, *per_channel: tuple[str, Any]) -> None:
    if floating(op, "input", input).ndim < 2:
        raise ValueError(f"{op}: input must have shape (N, C, ...), got {input.shape}")
    for name, array in per_channel:
        if array is not None:
            shaped(op, name, floating(op, name, array), (input.shape[1],))


def _check_batch(
    input: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, training: Any
) -> np.dtype[Any]:
    op = "batch_norm"
    if not isinstance(training, bool | np.bool_):
        raise TypeError(f"{op}: training must be True or False, got {training!r}")
    running = {"running_mean": running_mean, "running_var": running_var}
    _check(op, input, *running.items(), ("weight", weight), ("bias", bias))
    if running_mean is not None and running_var is not None and running_mean.dtype != running_var.dtype:
        raise TypeError(
            f"{op}: running_var has dtype {running_var.dtype}, but running_mean has {running_mean.dtype}"
        )
    for name, array in running.items():
        if not training and array is None:
            raise ValueError(f"{op}: {name} is needed with training=False")
        if training and array is not None:
            others = [input, weight, bias, *(a for n, a in running.items() if n != name)]
            if not array.flags.writeable:
                raise ValueError(f"{op}: {name} is read-only")
            if any(a is not None and np.shares_memory(array, a) for a in others):
                raise ValueError(f"{op}: {name} overlaps another argument")
            if array.size > 1 and array.strides == (0,):
                raise ValueError(f"{op}: {name} has elements that share memory")
    if training and input.size < 2 * input.shape[1]:
        raise ValueError(f"{op}: input must have more than one value per channel, got shape {input.shape}")
    return result_dtype(op, input, weight, bias)


def _check_group(input: Any, num_groups: Any, weight: Any, bias: Any) -> np.dtype[Any]:
    op = "group_norm"
    _check(op, input, ("weight", weight), ("bias", bias))
    groups = integer(op, "num_groups", num_groups)
    if groups < 1 or input.shape[1] % groups:
        raise ValueError(f"{op}: num_groups must divide the {input.shape[1]} channels of input, got {groups}")
    return result_dtype(op, input, weight, bias)


def _axes(x: Array) -> tuple[int, ...]:
    """Return all axes but the channels'."""
    return (0, *range(2, x.ndim))


def _channels(array: Array, ndim: int) -> Array:
    return wide(array).reshape(-1, *[1] * (ndim - 2))


def _affine(z: Array, weight: Array | None, bias: Array | None) -> Array:
    with np.errstate(all="ignore"):
        y = z if weight is None else z * _channels(weight, z.ndim)
        return y if bias is None else y + _channels(bias, z.ndim)


def _batch_normal(
    input: Array, running_mean: Array | None, running_var: Array | None, training: bool, eps: float
) -> tuple[Array, Array, tuple[Array, ...]]:
    """Return z = (x - mean) rstd, rstd, and in training the mean and variance for the running ones."""
    x = wide(input)
    with np.errstate(all="ignore"):
        if not training:
            assert running_mean is not None
            assert running_var is not None
            rstd = 1 / np.sqrt(_channels(running_var, x.ndim) + eps)
            return (x - _channels(running_mean, x.ndim)) * rstd, rstd, ()
        mean = x.mean(_axes(x), keepdims=True)
        variance = ((x - mean) ** 2).mean(_axes(x), keepdims=True)
        rstd = 1 / np.sqrt(variance + eps)
        count = x.size // max(x.shape[1], 1)
        new = (mean.reshape(-1), variance.reshape(-1) * (count / (count - 1)))
        return (x - mean) * rstd, rstd, new


def _group_normal(input: Array, groups: int, eps: float) -> tuple[Array, Array]:
    """Return z = (x - mean) rstd, and rstd, both of the input's shape."""
    if input.size == 0:
        return wide(input), wide(input)
    x = wide(input).reshape(input.shape[0], groups, -1)
    with np.errstate(all="ignore"):
        deviations = x - x.mean(2, keepdims=True)
        rstd = 1 / np.sqrt((deviations**2).mean(2, keepdims=True) + eps)
        return (deviations * rstd).reshape(input.shape), np.broadcast_to(rstd, x.shape).reshape(input.shape)


def _gradients(
    z: Array, rstd: Array, weight: Array | None, mean: Callable[[Array], Array]
) -> Callable[[Array], tuple[Array, Array, Array]]:
    def gradients(dout: Array) -> tuple[Array, Array, Array]:
        """dx = rstd (g - mean g - z mean(g z)) with g = dy w; dw = sum dy z and db = sum dy over channels."""
        dy = wide(dout)
        with np.errstate(all="ignore"):
            g = _affine(dy, weight, None)
            dx = rstd * (g - mean(g) - z * mean(g * z))
            return dx, (dy * z).sum(_axes(dy)), dy.sum(_axes(dy))

    return gradients


def _pull(
    gradients: Callable[[Array], tuple[Array, Array, Array]],
    wanted: tuple[bool, ...],
    *arguments: Array | None,
) -> Pull:
    def pull(dout: Array) -> tuple[Array | None, ...]:
        return tuple(
            rounded(gradient, argument.dtype) if want and argument is not None else None
            for gradient, want, argument in zip(gradients(dout), wanted, arguments, strict=True)
        )

    return pull


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
) -> tuple[Array, Pull]:
    _check_batch(input, running_mean, running_var, weight, bias, training)
    z, rstd, _ = _batch_normal(input, running_mean, running_var, training, number("batch_norm", "eps", eps))
    out = batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    def mean(a: Array) -> Array:
        """Return what the statistics take part in: in evaluation they are constants."""
        return np.asarray(a.mean(_axes(a), keepdims=True)) if training else np.zeros([1] * a.ndim)

    def gradients(dout: Array) -> tuple[Array, Array, Array]:
        dx, dw, db = _gradients(z, rstd, weight, mean)(dout)
        if not training:
            with np.errstate(all="ignore"):
                dx = rstd * _affine(wide(dout), weight, None)
        return dx, dw, db

    return out, _pull(gradients, wanted, input, weight, bias)


@defvjp(group_norm, "input", "weight", "bias")
def _group_norm_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Pull]:
    out = group_norm(input, num_groups, weight, bias, eps)
    z, rstd = _group_normal(input, num_groups, float(eps))

    def mean(a: Array) -> Array:
        if a.size == 0:
            return a
        groups = a.reshape(a.shape[0], num_groups, -1)
        return np.asarray(np.broadcast_to(groups.mean(2, keepdims=True), groups.shape).reshape(a.shape))

    return out, _pull(_gradients(z, rstd, weight, mean), wanted, input, weight, bias)
