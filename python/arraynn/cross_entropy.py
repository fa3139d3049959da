"""Softmax-cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _core
from ._common import Array, gradient_like, integer, number, pull_of_reduced, reduction_code
from ._vjp import defvjp

_op = "cross_entropy"


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
    """Compare logits with class indices or class probabilities, softmax included.

    The loss of one label is ``-sum_c q_c log softmax(x)_c``, where
    ``q_c = weight_c ((1 - s) t_c + s / C)`` with s the label smoothing and t the target (1 at the
    class index and 0 elsewhere, or the probabilities) [1]_.

    Parameters
    ----------
    input : array of shape (N, C, ...) or (C,)
        Floating: one logit per class.
    target : array of shape (N, ...) or (), or of the shape of `input`
        Class indices of any integer dtype, or floating: class probabilities.
    weight : array of shape (C,), optional
        What each class counts.
    ignore_index : int, default -100
        Labels of this value take no part: their loss and gradient are zero.
    reduction : {'mean', 'sum', 'none'}
        The mean divides by the sum of the labels' weights (class indices) or by the number of
        labels (probabilities); over no label it is NaN, and its gradient zero.
    label_smoothing : float between 0 and 1, default 0
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the labels' shape with ``reduction='none'``
        Of the common dtype of the floating arguments.

    Raises
    ------
    TypeError
        `input` or `weight` is not a floating array, `target` neither that nor an integer array, or
        an option is not a number.
    ValueError
        A shape does not fit, a label is neither `ignore_index` nor between 0 and C - 1, or an
        option is out of range.

    References
    ----------
    .. [1] Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.

    Examples
    --------
    >>> loss = ann.cross_entropy(logits, labels, label_smoothing=0.1)
    """
    result: Array = _core.cross_entropy(
        input, target, weight, *_options(ignore_index, reduction, label_smoothing), out
    )
    return result


def _options(ignore_index: Any, reduction: Any, label_smoothing: Any) -> tuple[int, int, float]:
    return (
        integer(_op, "ignore_index", ignore_index),
        reduction_code(_op, reduction),
        number(_op, "label_smoothing", label_smoothing),
    )


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
) -> tuple[Array, Callable[[Array], tuple[Any, ...]]]:
    options = _options(ignore_index, reduction, label_smoothing)

    def fit(gradient: Array) -> Any:
        return gradient_like(gradient, input)

    def compute(cotangent: Array, unit: Array | None = None) -> Any:
        return fit(_core.cross_entropy_backward(cotangent, input, target, weight, *options, unit))

    if not wanted[0]:
        return _core.cross_entropy(input, target, weight, *options, None), lambda cotangent: (None,)
    if reduction == "none":
        return _core.cross_entropy(input, target, weight, *options, None), lambda dy: (compute(dy),)
    out, unit = _core.cross_entropy_gradient(input, target, weight, *options)
    pull = pull_of_reduced(unit, fit, compute)
    return out, lambda cotangent: (pull(cotangent),)
