"""Losses of one element of input and target each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _core
from ._common import Array, flag, loss_rule, number, reduction_code, sum_to
from ._vjp import defvjp

_Pull = Callable[[Array], tuple[Any, ...]]


def mse_loss(
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Square the errors: ``weight (input - target)**2``.

    Parameters
    ----------
    input, target : arrays
        Floating; they broadcast against each other.
    reduction : {'mean', 'sum', 'none'}
        The mean divides by the number of elements, or by the sum of the weights; over nothing it is NaN.
    weight : array of the shape of `input`, optional
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the broadcast shape with ``reduction='none'``
        Of the common dtype of the arguments. Differentiable in `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, a shape does not fit, or `reduction` is none of these.
    """
    code = reduction_code("mse_loss", reduction)
    result: Array = _core.mse_loss(input, target, weight, None, code, out)
    return result


def l1_loss(
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Take the errors' magnitudes: ``weight |input - target|``, whose derivative at 0 is 0.

    Parameters
    ----------
    input, target : arrays
        Floating; they broadcast against each other.
    reduction : {'mean', 'sum', 'none'}
        The mean divides by the number of elements, or by the sum of the weights; over nothing it is NaN.
    weight : array of the shape of `input`, optional
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the broadcast shape with ``reduction='none'``
        Of the common dtype of the arguments. Differentiable in `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, a shape does not fit, or `reduction` is none of these.
    """
    code = reduction_code("l1_loss", reduction)
    result: Array = _core.l1_loss(input, target, weight, None, code, out)
    return result


def huber_loss(
    input: Array,
    target: Array,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Array | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Square small errors and take large ones as they are [1]_.

    With ``d = |input - target|`` the loss is ``d**2 / 2`` up to `delta` and ``delta (d - delta / 2)`` beyond,
    times `weight`.

    Parameters
    ----------
    input, target : arrays
        Floating; they broadcast against each other.
    reduction : {'mean', 'sum', 'none'}
        The mean divides by the number of elements, with weights too; over nothing it is NaN.
    delta : float, default 1.0
        Above 0.
    weight : array of the shape of `input`, optional
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the broadcast shape with ``reduction='none'``
        Of the common dtype of the arguments. Differentiable in `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, a shape does not fit, or an option is none of these.

    References
    ----------
    .. [1] Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964.
    """
    options = _huber_options(reduction, delta)
    result: Array = _core.huber_loss(input, target, weight, None, *options, out)
    return result


def kl_div(
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    log_target: bool = False,
    out: Array | None = None,
) -> Array:
    """Take the terms of the Kullback-Leibler divergence: ``target (log target - input)``.

    Parameters
    ----------
    input : array
        Floating: logarithms of probabilities.
    target : array
        Floating: probabilities, of which 0 counts nothing; or their logarithms. It broadcasts with `input`.
    reduction : {'mean', 'batchmean', 'sum', 'none'}
        'batchmean', the divergence, divides by the length of the first axis of `input`, the mean by the
        number of elements; over nothing it is NaN.
    log_target : bool, default False
        Whether `target` holds logarithms.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the broadcast shape with ``reduction='none'``
        Of the common dtype of the arguments. Differentiable in `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, a shape does not fit, or an option is none of these.
    """
    options = _kl_options(reduction, log_target)
    result: Array = _core.kl_div(input, target, None, None, *options, out)
    return result


def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Compare logits with probabilities, sigmoid included.

    The loss is ``-weight (p t log s(x) + (1 - t) log(1 - s(x)))``, s the sigmoid and p `pos_weight`, computed
    without taking either logarithm.

    Parameters
    ----------
    input : array
        Floating: logits.
    target : array of the shape of `input`
        Floating: probabilities.
    weight : array that broadcasts to `input`, optional
    reduction : {'mean', 'sum', 'none'}
        The mean divides by the number of elements, with weights too; over nothing it is NaN.
    pos_weight : array that broadcasts to `input`, optional
        What the positive answers count, more than 1 for recall, less for precision.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of shape (), or of the shape of `input` with ``reduction='none'``
        Of the common dtype of the arguments. Differentiable in `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, a shape does not fit, or `reduction` is none of these.
    """
    op = "binary_cross_entropy_with_logits"
    code = reduction_code(op, reduction)
    result: Array = _core.binary_cross_entropy_with_logits(input, target, weight, pos_weight, code, out)
    return result


def _huber_options(reduction: Any, delta: Any) -> tuple[int, float]:
    return reduction_code("huber_loss", reduction), number("huber_loss", "delta", delta)


def _kl_options(reduction: Any, log_target: Any) -> tuple[int, bool, bool]:
    batch_mean = isinstance(reduction, str) and reduction == "batchmean"
    code = reduction_code("kl_div", "mean" if batch_mean else reduction, "'batchmean', ")
    return code, batch_mean, flag("kl_div", "log_target", log_target)


def _rule(
    op: str,
    wanted: tuple[bool, ...],
    arrays: tuple[Any, ...],
    options: tuple[Any, ...],
    reduction: str,
) -> tuple[Array, _Pull]:
    def shaped(gradient: Array) -> Array:
        return sum_to(gradient, tuple(arrays[0].shape))

    return loss_rule(_core, op, wanted, arrays, options, reduction != "none", shaped)


@defvjp(mse_loss, "input")
def _mse_loss_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
) -> tuple[Array, _Pull]:
    options = (reduction_code("mse_loss", reduction),)
    return _rule("mse_loss", wanted, (input, target, weight, None), options, reduction)


@defvjp(l1_loss, "input")
def _l1_loss_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    weight: Array | None = None,
) -> tuple[Array, _Pull]:
    options = (reduction_code("l1_loss", reduction),)
    return _rule("l1_loss", wanted, (input, target, weight, None), options, reduction)


@defvjp(huber_loss, "input")
def _huber_loss_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Array | None = None,
) -> tuple[Array, _Pull]:
    options = _huber_options(reduction, delta)
    return _rule("huber_loss", wanted, (input, target, weight, None), options, reduction)


@defvjp(kl_div, "input")
def _kl_div_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    *,
    reduction: str = "mean",
    log_target: bool = False,
) -> tuple[Array, _Pull]:
    return _rule("kl_div", wanted, (input, target, None, None), _kl_options(reduction, log_target), reduction)


@defvjp(binary_cross_entropy_with_logits, "input")
def _bce_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> tuple[Array, _Pull]:
    op = "binary_cross_entropy_with_logits"
    options = (reduction_code(op, reduction),)
    return _rule(op, wanted, (input, target, weight, pos_weight), options, reduction)
