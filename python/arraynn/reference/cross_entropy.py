"""Cross-entropy of logits, and negative log-likelihood, against class indices or class probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._vjp import defvjp
from ._common import (
    Array,
    array,
    check_reduction,
    deliver,
    floating,
    fraction,
    integer,
    integers,
    is_floating,
    result_dtype,
    rounded,
    shaped,
    wide,
)

Pull = Callable[[Array], tuple[Array | None, ...]]


class _Loss(NamedTuple):
    """One call, spelled out; the class axis is the last of x and q."""

    logp: Array  # log of the softmax of the logits
    q: Array  # what each class's logp counts, negated, in the loss
    losses: Array  # one for each label
    counts: Array  # what each label counts in the divisor of the mean; 0 where it is ignored
    used: Array  # whether a label is not ignored


def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    out: Array | None = None,
) -> Array:
    """l = -sum over c of w[c] q[c] log softmax(x)[c] (torch.nn.functional.cross_entropy).

    Input is (N, C, ...) or (C,). Target holds class indices, (N, ...) or (): q is then 1 at
    that class; or probabilities of the input's shape: q is then the target. Label smoothing s makes
    it (1 - s) q + s / C (Szegedy et al. 2016). The mean divides by the sum of the labels' weights
    (indices) or by their number (probabilities); labels equal to `ignore_index` take no part.
    The mean over no label is NaN.
    """
    op = "cross_entropy"
    dtype = _check(op, input, target, weight, ignore_index, reduction, label_smoothing)
    value = _reduced(_spell(input, target, weight, ignore_index, label_smoothing), reduction)
    return deliver(op, value, dtype, out, input, target, weight)


def _reduced(loss: _Loss | _Picks, reduction: str) -> Array:
    value = loss.losses if reduction == "none" else loss.losses.sum()
    if reduction == "mean":
        with np.errstate(invalid="ignore", divide="ignore"):
            value = value / loss.counts.sum()
    return np.asarray(value)


def _check(
    op: str, input: Any, target: Any, weight: Any, ignore_index: Any, reduction: Any, label_smoothing: Any
) -> np.dtype[Any]:
    classes = _check_classes(op, input, weight, ignore_index, reduction)
    fraction(op, "label_smoothing", label_smoothing)
    if not is_floating(array(op, "target", target).dtype):
        if target.dtype.kind not in "iu":
            raise TypeError(
                f"{op}: target must be an integer or floating-point array, got dtype {target.dtype}"
            )
        _check_labels(op, input, target, classes, ignore_index)
        return result_dtype(op, input, weight)
    shaped(op, "target", target, input.shape)
    if ignore_index >= 0:
        raise ValueError(f"{op}: ignore_index is {ignore_index}, but target holds probabilities")
    return result_dtype(op, input, target, weight)


def _check_classes(op: str, input: Any, weight: Any, ignore_index: Any, reduction: Any) -> int:
    """Check what both ops take, and return the number of classes."""
    if floating(op, "input", input).ndim == 0:
        raise ValueError(f"{op}: input must have at least 1 dimension, got shape ()")
    classes: int = input.shape[_axis(input)]
    if classes == 0:
        raise ValueError(f"{op}: input has shape {input.shape}, without a class")
    integer(op, "ignore_index", ignore_index)
    check_reduction(op, reduction)
    if weight is not None:
        shaped(op, "weight", floating(op, "weight", weight), (classes,))
    return classes


def _check_labels(op: str, input: Array, target: Any, classes: int, ignore_index: int) -> None:
    axis = _axis(input)
    labels = integers(op, "target", target)
    shaped(op, "target", target, input.shape[:axis] + input.shape[axis + 1 :])
    wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= classes))]
    if wrong.size:
        raise ValueError(f"{op}: target holds {wrong[0]}, but input has {classes} classes")


def _axis(input: Array) -> int:
    """Return the axis of the classes."""
    return 0 if input.ndim == 1 else 1


def _spell(
    input: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> _Loss:
    axis = _axis(input)
    x = np.moveaxis(wide(input), axis, -1)
    classes = x.shape[-1]
    w = np.ones(classes) if weight is None else wide(weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = x - x.max(-1, keepdims=True, initial=-np.inf)
        logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        if is_floating(target.dtype):
            t = np.moveaxis(wide(target), axis, -1)
            q = w * ((1 - label_smoothing) * t + label_smoothing / classes)
            used = np.ones(x.shape[:-1], bool)
            losses = -(q * logp).sum(-1)
            counts = np.ones(x.shape[:-1])
        else:
            labels = target.astype(np.int64)
            used = labels != ignore_index
            at = np.where(used, labels, 0)[..., np.newaxis]
            counts = np.where(used, w[at[..., 0]], 0.0)
            hit = np.arange(classes) == at
            q = w * ((1 - label_smoothing) * hit + label_smoothing / classes)
            # The label's term alone, not a sum with 0 * logp in it: logp may be -inf elsewhere.
            losses = -(1 - label_smoothing) * w[at[..., 0]] * np.take_along_axis(logp, at, -1)[..., 0]
            if label_smoothing:
                losses = losses - label_smoothing / classes * (w * logp).sum(-1)
            losses = np.where(used, losses, 0.0)
    return _Loss(logp, q, losses, counts, used)


@defvjp(cross_entropy, "input")
def _cross_entropy_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[Array, Pull]:
    out = cross_entropy(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    loss = _spell(input, target, weight, ignore_index, label_smoothing)
    axis, dtype = _axis(input), input.dtype

    def pull(dout: Array) -> tuple[Array | None, ...]:
        if not wanted[0]:
            return (None,)
        return (rounded(np.moveaxis(_gradient(loss, dout, reduction), -1, axis), dtype),)

    return out, pull


def _gradient(loss: _Loss, dout: Array, reduction: str) -> Array:
    """dx = (softmax(x) * sum(q) - q) dl, divided as the loss was; 0 for an ignored label; classes last."""
    with np.errstate(invalid="ignore", divide="ignore"):
        dl = wide(dout) / (loss.counts.sum() if reduction == "mean" else 1.0)
        dx = (np.exp(loss.logp) * loss.q.sum(-1, keepdims=True) - loss.q) * dl[..., np.newaxis]
    return np.where(loss.used[..., np.newaxis], dx, 0.0)


class _Picks(NamedTuple):
    """One call of `nll_loss`; the class axis is the last."""

    hit: Array  # whether an element is a label's
    losses: Array
    counts: Array


def nll_loss(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """l = -w[t] x[t] (torch.nn.functional.nll_loss), reduced as `cross_entropy` reduces it."""
    op = "nll_loss"
    classes = _check_classes(op, input, weight, ignore_index, reduction)
    _check_labels(op, input, target, classes, ignore_index)
    value = _reduced(_pick(input, target, weight, ignore_index), reduction)
    return deliver(op, value, result_dtype(op, input, weight), out, input, target, weight)


def _pick(input: Array, target: Array, weight: Array | None, ignore_index: int) -> _Picks:
    x = np.moveaxis(wide(input), _axis(input), -1)
    labels = target.astype(np.int64)
    used = labels != ignore_index
    at = np.where(used, labels, 0)[..., np.newaxis]
    w = np.ones(x.shape[-1]) if weight is None else wide(weight)
    counts = np.where(used, w[at[..., 0]], 0.0)
    with np.errstate(invalid="ignore"):  # an ignored infinity
        losses = np.where(used, -counts * np.take_along_axis(x, at, -1)[..., 0], 0.0)
    hit = (np.arange(x.shape[-1]) == at) & used[..., np.newaxis]
    return _Picks(hit, losses, counts)


@defvjp(nll_loss, "input")
def _nll_loss_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Array, Pull]:
    out = nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
    picks, axis, dtype = _pick(input, target, weight, ignore_index), _axis(input), input.dtype

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """dx = -w[t] dl at the label, divided as the loss was; 0 elsewhere."""
        if not wanted[0]:
            return (None,)
        with np.errstate(invalid="ignore", divide="ignore"):
            dl = wide(dout) / (picks.counts.sum() if reduction == "mean" else 1.0)
            dx = np.where(picks.hit, -(picks.counts * dl)[..., np.newaxis], 0.0)
        return (rounded(np.moveaxis(dx, -1, axis), dtype),)

    return out, pull


def linear_cross_entropy(
    input: Array,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    out: Array | None = None,
) -> Array:
    """`cross_entropy` of the logits x W^T + b (torch.nn.functional.linear_cross_entropy)."""
    op = "linear_cross_entropy"
    logits = _logits(op, input, linear_weight, linear_bias)
    _check(op, logits, target, weight, ignore_index, reduction, label_smoothing)
    probabilities = target if is_floating(target.dtype) else None
    dtype = result_dtype(op, input, linear_weight, linear_bias, weight, probabilities)
    value = _reduced(_spell(logits, target, weight, ignore_index, label_smoothing), reduction)
    return deliver(op, value, dtype, out, input, linear_weight, target, linear_bias, weight)


def _logits(op: str, input: Any, linear_weight: Any, linear_bias: Any) -> Array:
    floating(op, "input", input, (1, 2))
    floating(op, "linear_weight", linear_weight, (2,))
    if input.shape[-1] != linear_weight.shape[1]:
        raise ValueError(
            f"{op}: input has {input.shape[-1]} features, but linear_weight has shape {linear_weight.shape}"
        )
    logits = wide(input) @ wide(linear_weight).T
    if linear_bias is not None:
        logits += wide(shaped(op, "linear_bias", floating(op, "linear_bias", linear_bias), logits.shape[-1:]))
    return logits


@defvjp(linear_cross_entropy, "input", "linear_weight", "linear_bias")
def _linear_cross_entropy_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[Array, Pull]:
    out = linear_cross_entropy(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    logits = _logits("linear_cross_entropy", input, linear_weight, linear_bias)
    loss = _spell(logits, target, weight, ignore_index, label_smoothing)
    x, w = wide(input), wide(linear_weight)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """dx = dlogits W, dW = dlogits^T x, db the sum of dlogits over its rows."""
        d = _gradient(loss, dout, reduction)
        rows = np.atleast_2d(d)
        dx, dw = d @ w, rows.T @ np.atleast_2d(x)
        return (
            rounded(dx, input.dtype) if wanted[0] else None,
            rounded(dw, linear_weight.dtype) if wanted[1] else None,
            rounded(rows.sum(0), linear_bias.dtype) if wanted[2] and linear_bias is not None else None,
        )

    return out, pull
