"""Losses of one element of input and target each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._vjp import defvjp
from ._common import (
    Array,
    check_reduction,
    deliver,
    floating,
    number,
    result_dtype,
    rounded,
    shaped,
    wide,
)
from .activation import _sigmoid

Pull = Callable[[Array], tuple[Array | None, ...]]


class _Loss(NamedTuple):
    """One call: losses and their derivatives by the input, element by element, with the weights."""

    losses: Array
    slopes: Array
    divisor: Any  # of the sum, or 1
    dtype: np.dtype[Any]


def mse_loss(
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """l = w (x - t)**2, as it is, summed, or averaged (torch.nn.functional.mse_loss).

    Input and target broadcast against each other; `weight` has the input's shape, and the mean
    is then sum(l) / sum(w). The mean over nothing is NaN.
    """
    return _deliver("mse_loss", _mse(input, target, reduction, weight), reduction, out, input, target, weight)


def l1_loss(
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """l = w |x - t|, reduced as `mse_loss` is; the derivative at 0, and of NaN, is 0."""
    return _deliver("l1_loss", _l1(input, target, reduction, weight), reduction, out, input, target, weight)


def huber_loss(
    input: Array,
    target: Array,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Array | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """l = w d**2 / 2 where d = |x - t| <= delta, else w delta (d - delta / 2) (Huber 1964).

    The mean divides by the number of elements, with weights too.
    """
    loss = _huber(input, target, reduction, delta, weight)
    return _deliver("huber_loss", loss, reduction, out, input, target, weight)


def kl_div(
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    log_target: bool = False,
    out: Array | None = None,
) -> Array:
    """l = t (log t - x), with 0 log 0 = 0; of a target of logarithms, exp(t) (t - x).

    Input and target broadcast against each other. 'batchmean' divides the sum by the length of the
    input's first axis.
    """
    loss = _kl(input, target, reduction, log_target)
    return _deliver("kl_div", loss, reduction, out, input, target)


def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """l = -w (p t log s(x) + (1 - t) log(1 - s(x))), s(x) = 1 / (1 + exp(-x)), p = `pos_weight`.

    Weights broadcast to the input; the mean divides by the number of elements.
    """
    op = "binary_cross_entropy_with_logits"
    loss = _bce(input, target, weight, reduction, pos_weight)
    return _deliver(op, loss, reduction, out, input, target, weight, pos_weight)


def _mse(input: Any, target: Any, reduction: Any, weight: Any) -> _Loss:
    x, t, dtype = _check("mse_loss", input, target, reduction, weight)
    w = _ones(weight)
    return _Loss(w * (x - t) ** 2, w * 2 * (x - t), _divisor(x - t, reduction, weight), dtype)


def _l1(input: Any, target: Any, reduction: Any, weight: Any) -> _Loss:
    x, t, dtype = _check("l1_loss", input, target, reduction, weight)
    w = _ones(weight)
    sign = np.where(x > t, 1.0, 0.0) - np.where(x < t, 1.0, 0.0)
    return _Loss(w * np.abs(x - t), w * sign, _divisor(x - t, reduction, weight), dtype)


def _huber(input: Any, target: Any, reduction: Any, delta: Any, weight: Any) -> _Loss:
    op = "huber_loss"
    x, t, dtype = _check(op, input, target, reduction, weight)
    delta = number(op, "delta", delta)
    if not delta > 0:
        raise ValueError(f"{op}: delta must be above 0, got {delta}")
    w, d = _ones(weight), np.abs(x - t)
    losses = np.where(d <= delta, d**2 / 2, delta * (d - delta / 2))
    return _Loss(w * losses, w * np.clip(x - t, -delta, delta), _divisor(x - t, reduction), dtype)


def _kl(input: Any, target: Any, reduction: Any, log_target: Any) -> _Loss:
    op = "kl_div"
    batch_mean = isinstance(reduction, str) and reduction == "batchmean"
    x, t, dtype = _check(op, input, target, "mean" if batch_mean else reduction, None)
    if not isinstance(log_target, bool | np.bool_):
        raise TypeError(f"{op}: log_target must be True or False, got {log_target!r}")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        p = np.exp(t) if log_target else t
        losses = p * (t - x) if log_target else np.where(t == 0, 0.0, t * np.log(t)) - t * x
    divisor = _divisor(x - t, reduction)
    if batch_mean:
        divisor = np.float64(x.shape[0] if x.ndim else 1)
    return _Loss(losses, np.broadcast_to(-p, losses.shape), divisor, dtype)


def _bce(input: Any, target: Any, weight: Any, reduction: Any, pos_weight: Any) -> _Loss:
    op = "binary_cross_entropy_with_logits"
    floating(op, "input", input)
    shaped(op, "target", floating(op, "target", target), input.shape)
    check_reduction(op, reduction)
    for name, value in (("weight", weight), ("pos_weight", pos_weight)):
        if value is not None and not _broadcasts_to(floating(op, name, value).shape, input.shape):
            raise ValueError(
                f"{op}: {name} has shape {value.shape}, which does not broadcast to {input.shape}"
            )
    dtype = result_dtype(op, input, target, weight, pos_weight)
    x, t, w, p = wide(input), wide(target), _ones(weight), _ones(pos_weight)
    with np.errstate(invalid="ignore"):
        # -log s(x) = log(1 + exp(-|x|)) + max(-x, 0), and -log(1 - s(x)) is that plus x.
        linear = np.where(x < 0, -p * t, 1 - t) * x
        losses = w * (linear + (1 - t + p * t) * np.log1p(np.exp(-np.abs(x))))
    slopes = w * ((1 - t) * _sigmoid(x) - p * t * _sigmoid(-x))
    return _Loss(losses, slopes, _divisor(x, reduction), dtype)


def _check(
    op: str, input: Any, target: Any, reduction: Any, weight: Any
) -> tuple[Array, Array, np.dtype[Any]]:
    """Check, and return input and target in float64 and the result's dtype."""
    floating(op, "input", input)
    floating(op, "target", target)
    try:
        np.broadcast_shapes(input.shape, target.shape)
    except ValueError:
        raise ValueError(
            f"{op}: target has shape {target.shape}, which does not broadcast with input {input.shape}"
        ) from None
    check_reduction(op, reduction)
    if weight is not None:
        shaped(op, "weight", floating(op, "weight", weight), input.shape)
    return wide(input), wide(target), result_dtype(op, input, target, weight)


def _broadcasts_to(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def _ones(weight: Array | None) -> Array:
    return np.ones(()) if weight is None else wide(weight)


def _divisor(terms: Array, reduction: str, weight: Array | None = None) -> Any:
    if reduction != "mean":
        return np.float64(1)
    return np.float64(terms.size) if weight is None else wide(weight).sum()


def _deliver(op: str, loss: _Loss, reduction: str, out: Any, *inputs: Any) -> Array:
    value = loss.losses
    with np.errstate(invalid="ignore", divide="ignore"):
        if reduction != "none":
            value = value.sum() / loss.divisor
    return deliver(op, value, loss.dtype, out, *inputs)


def _define(op: Callable[..., Array], spell: Callable[..., _Loss], defaults: dict[str, Any]) -> None:
    """Register the rule of `op`; `spell` takes its arguments, of which `defaults` are the optional ones."""

    @defvjp(op, "input")
    def rule(
        wanted: tuple[bool, ...], input: Array, target: Array, *args: Any, **kwargs: Any
    ) -> tuple[Array, Pull]:
        out = op(input, target, *args, **kwargs)
        options = {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
        loss = spell(input, target, **options)

        def pull(dout: Array) -> tuple[Array | None, ...]:
            """dx = slope dl, divided as the loss was, summed where x was broadcast."""
            if not wanted[0]:
                return (None,)
            with np.errstate(invalid="ignore", divide="ignore"):
                dx = loss.slopes * (wide(dout) / loss.divisor)
            return (rounded(_unbroadcast(dx, input.shape), input.dtype),)

        return out, pull


def _unbroadcast(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum `a` over the axes along which an array of `shape` was repeated to give a's shape."""
    a = a.sum(tuple(range(a.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and a.shape[i] != 1)
    return np.asarray(a.sum(repeated, keepdims=True))


_define(mse_loss, _mse, {"reduction": "mean", "weight": None})
_define(l1_loss, _l1, {"reduction": "mean", "weight": None})
_define(huber_loss, _huber, {"reduction": "mean", "delta": 1.0, "weight": None})
_define(kl_div, _kl, {"reduction": "mean", "log_target": False})
_define(binary_cross_entropy_with_logits, _bce, {"weight": None, "reduction": "mean", "pos_weight": None})
