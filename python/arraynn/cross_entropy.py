"""Losses against class labels: softmax-cross-entropy, and negative log-likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _core
from ._common import Array, as_dtype, gradient_like, integer, loss_rule, number, reduction_code
from ._vjp import defvjp

_Pull = Callable[[Array], tuple[Any, ...]]


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


def nll_loss(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """Take the negative log-likelihood of the labels: ``-weight_label x_label``.

    Parameters
    ----------
    input : array of shape (N, C, ...) or (C,)
        Floating: the logarithms of the classes' probabilities, as of `log_softmax`.
    target : array of shape (N, ...) or ()
        Class indices of any integer dtype.
    weight : array of shape (C,), optional
        What each class counts.
    ignore_index : int, default -100
        Labels of this value take no part: their loss and gradient are zero.
    reduction : {'mean', 'sum', 'none'}
        The mean divides by the sum of the labels' weights; over no label it is NaN, and its gradient zero.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the labels' shape with ``reduction='none'``
        Of the common dtype of the floating arguments. Differentiable in `input`.

    Raises
    ------
    TypeError
        `input` or `weight` is not a floating array, `target` not an integer array, or `ignore_index` not an
        integer.
    ValueError
        A shape does not fit, a label is neither `ignore_index` nor between 0 and C - 1, or `reduction` is
        none of these.

    See Also
    --------
    cross_entropy : takes the logits themselves, in one pass.
    """
    options = _nll_options(ignore_index, reduction)
    result: Array = _core.nll_loss(input, target, weight, *options, out)
    return result


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
    """Apply `cross_entropy` to the logits ``input @ linear_weight.T + linear_bias``, which are not kept.

    They pass through memory in tiles of at most 1024 rows and 8 million logits. `vjp` leaves the gradients on
    the way, so that each logit is computed once.

    Parameters
    ----------
    input : array of shape (N, in_features) or (in_features,)
        Floating.
    linear_weight : array of shape (C, in_features)
        Floating: the weight of a linear layer with an output for each class.
    target : array of shape (N,) or (), or (N, C) or (C,)
        Class indices of any integer dtype, or floating: class probabilities.
    linear_bias : array of shape (C,), optional
    weight : array of shape (C,), optional
        What each class counts.
    reduction : {'mean', 'sum', 'none'}
        As in `cross_entropy`.
    ignore_index : int, default -100
        Labels of this value take no part: their loss and gradient are zero.
    label_smoothing : float between 0 and 1, default 0
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the labels' shape with ``reduction='none'``
        Of the common dtype of the floating arguments; 16-bit floats are computed with in float32.
        Differentiable in `input`, `linear_weight` and `linear_bias`.

    Raises
    ------
    TypeError, ValueError
        As of `linear` and `cross_entropy`.
    """
    options = _linear_options(ignore_index, reduction, label_smoothing)
    arrays = (input, linear_weight, target, linear_bias, weight)
    result: Array = _core.linear_cross_entropy(*arrays, *options, False, False, False, out)[0]
    return result


def _linear_options(ignore_index: Any, reduction: Any, label_smoothing: Any) -> tuple[int, int, float]:
    return _options(ignore_index, reduction, label_smoothing, "linear_cross_entropy")


def _options(
    ignore_index: Any, reduction: Any, label_smoothing: Any, op: str = "cross_entropy"
) -> tuple[int, int, float]:
    return (
        integer(op, "ignore_index", ignore_index),
        reduction_code(op, reduction),
        number(op, "label_smoothing", label_smoothing),
    )


def _nll_options(ignore_index: Any, reduction: Any) -> tuple[int, int]:
    op = "nll_loss"
    return integer(op, "ignore_index", ignore_index), reduction_code(op, reduction)


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
) -> tuple[Array, _Pull]:
    options = _options(ignore_index, reduction, label_smoothing)
    return loss_rule(_core, "cross_entropy", wanted, (input, target, weight), options, reduction != "none")


@defvjp(nll_loss, "input")
def _nll_loss_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Array, _Pull]:
    options = _nll_options(ignore_index, reduction)
    return loss_rule(_core, "nll_loss", wanted, (input, target, weight), options, reduction != "none")


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
) -> tuple[Array, _Pull]:
    options = _linear_options(ignore_index, reduction, label_smoothing)
    arrays = (input, linear_weight, target, linear_bias, weight)
    wanted = (wanted[0], wanted[1], wanted[2] and linear_bias is not None)
    reduced = reduction != "none"

    def forward(wanted: tuple[bool, ...]) -> Any:
        return _core.linear_cross_entropy(*arrays, *options, *wanted, None)

    out, *units = forward(wanted if reduced else (False, False, False))
    held = [units]

    def pull(cotangent: Array) -> tuple[Any, ...]:
        if reduced:
            try:
                gradients = held.pop()
            except IndexError:  # they were handed out, perhaps to another thread just now
                gradients = forward(wanted)[1:]
            for gradient in gradients:
                if gradient is not None:
                    _core.scale_gradient(gradient, as_dtype(cotangent, gradient.dtype))
        else:
            gradients = _core.linear_cross_entropy_backward(cotangent, *arrays, *options, *wanted)
        of: tuple[Any, ...] = (input, linear_weight, linear_bias)
        return tuple(None if g is None else gradient_like(g, a) for g, a in zip(gradients, of, strict=True))

    return out, pull
