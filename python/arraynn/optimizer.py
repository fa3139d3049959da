"""Optimizer steps, in place on lists of arrays, one fused pass over all of them."""

from __future__ import annotations

from collections.abc import Sequence

from . import _core
from ._common import Array, flag, integer, number


def adam_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avgs: Sequence[Array],
    exp_avg_sqs: Sequence[Array],
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    amsgrad_maxes: Sequence[Array] | None = None,
    grad_scale: float = 1.0,
    l1: float = 0.0,
) -> None:
    """Take one step of Adam [1]_, AdamW [2]_ or AMSGrad [3]_.

    ``g = grad / grad_scale + l1 * sign(p)``, then ``g += weight_decay * p``, or
    ``p *= 1 - lr * weight_decay`` if `decoupled`; ``m = b1 * m + (1 - b1) * g`` and
    ``v = b2 * v + (1 - b2) * g**2``; with `amsgrad_maxes`, ``vmax = max(vmax, v)`` takes the place of v in
    ``p -= lr * m / (1 - b1**step) / (sqrt(v / (1 - b2**step)) + eps)``.

    Parameters
    ----------
    params, exp_avgs, exp_avg_sqs : list or tuple of arrays
        Parameters, running means of the gradients and of their squares; written in place. The
        arrays of one parameter share shape and floating dtype; different parameters may differ.
    grads : list or tuple of arrays
        Not changed.
    step : int
        The number of this step, from 1.
    lr : float, default 1e-3
        The learning rate.
    betas : pair of floats, default (0.9, 0.999)
        What of the running means stays in a step; at least 0 and less than 1.
    eps : float, default 1e-8
        Added after the bias correction.
    weight_decay : float, default 0
    decoupled : bool, default False
        True is AdamW.
    amsgrad_maxes : list or tuple of arrays, optional
        The largest `exp_avg_sqs` so far, written in place.
    grad_scale : float, default 1
        What the gradients were multiplied with, in training with scaled losses.
    l1 : float, default 0
        Weight of the penalty ``sum |p|``; with `weight_decay`, of an elastic net.

    Raises
    ------
    TypeError, ValueError
        Lists or arrays do not fit together, one that is to be written is read-only or shares
        memory with another, or an option is out of range. Nothing has been written then.

    References
    ----------
    .. [1] Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    .. [2] Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    .. [3] Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018.
    """
    op = "adam_step"
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"{op}: betas is {betas!r}, expected two numbers")
    _core.adam_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        amsgrad_maxes,
        integer(op, "step", step),
        number(op, "lr", lr),
        number(op, "betas", betas[0]),
        number(op, "betas", betas[1]),
        number(op, "eps", eps),
        number(op, "weight_decay", weight_decay),
        flag(op, "decoupled", decoupled),
        number(op, "grad_scale", grad_scale),
        number(op, "l1", l1),
    )


def sgd_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    momentum_buffers: Sequence[Array] | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    l1: float = 0.0,
) -> None:
    """Take one step of gradient descent with momentum, in the form of ``torch.optim.SGD`` [1]_.

    ``g = grad + weight_decay * p + l1 * sign(p)``; with momentum
    ``b = momentum * b + (1 - dampening) * g``, and then ``g = b``, or ``g += momentum * b`` for
    Nesterov's; ``p -= lr * g``.

    Parameters
    ----------
    params : list or tuple of arrays
        Written in place. The arrays of one parameter share shape and floating dtype.
    grads : list or tuple of arrays
        Not changed.
    momentum_buffers : list or tuple of arrays, optional
        Used as given and written in place; needed with momentum.
    lr : float
        The learning rate.
    momentum, dampening, weight_decay : float, default 0
    nesterov : bool, default False
        Needs momentum and no dampening.
    l1 : float, default 0
        Weight of the penalty ``sum |p|``; with `weight_decay`, of an elastic net.

    Raises
    ------
    TypeError, ValueError
        Lists or arrays do not fit together, one that is to be written is read-only or shares
        memory with another, or an option is out of range. Nothing has been written then.

    References
    ----------
    .. [1] Sutskever et al., "On the importance of initialization and momentum in deep learning",
       ICML 2013.
    """
    op = "sgd_step"
    _core.sgd_step(
        params,
        grads,
        momentum_buffers,
        number(op, "lr", lr),
        number(op, "momentum", momentum),
        number(op, "dampening", dampening),
        number(op, "weight_decay", weight_decay),
        flag(op, "nesterov", nesterov),
        number(op, "l1", l1),
    )


def rmsprop_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    square_avgs: Sequence[Array],
    momentum_buffers: Sequence[Array] | None = None,
    grad_avgs: Sequence[Array] | None = None,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    l1: float = 0.0,
) -> None:
    """Take one step of RMSprop [1]_, in the form of ``torch.optim.RMSprop``.

    ``g = grad + weight_decay * p + l1 * sign(p)``; ``s = alpha * s + (1 - alpha) * g**2``; with
    `grad_avgs`, the centered form [2]_, ``a = alpha * a + (1 - alpha) * g`` and
    ``d = g / (sqrt(max(s - a**2, 0)) + eps)``, else ``d = g / (sqrt(s) + eps)``; with momentum
    ``b = momentum * b + d`` and ``d = b``; ``p -= lr * d``.

    Parameters
    ----------
    params, square_avgs : list or tuple of arrays
        Parameters and running means of the squared gradients; written in place. The arrays of one
        parameter share shape and floating dtype.
    grads : list or tuple of arrays
        Not changed.
    momentum_buffers : list or tuple of arrays, optional
        Written in place; needed with momentum.
    grad_avgs : list or tuple of arrays, optional
        Running means of the gradients, written in place: the centered form.
    lr, alpha, eps, weight_decay, momentum : float
        `alpha` is what of the running means stays in a step, 0 to 1.
    l1 : float, default 0
        Weight of the penalty ``sum |p|``; with `weight_decay`, of an elastic net.

    Raises
    ------
    TypeError, ValueError
        Lists or arrays do not fit together, one that is to be written is read-only or shares
        memory with another, or an option is out of range. Nothing has been written then.

    References
    ----------
    .. [1] Tieleman and Hinton, "Lecture 6.5: rmsprop", Neural Networks for Machine Learning, 2012.
    .. [2] Graves, "Generating Sequences With Recurrent Neural Networks", 2013.
    """
    op = "rmsprop_step"
    _core.rmsprop_step(
        params,
        grads,
        square_avgs,
        momentum_buffers,
        grad_avgs,
        number(op, "lr", lr),
        number(op, "alpha", alpha),
        number(op, "eps", eps),
        number(op, "weight_decay", weight_decay),
        number(op, "momentum", momentum),
        number(op, "l1", l1),
    )


def adagrad_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    state_sums: Sequence[Array],
    *,
    step: int,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    l1: float = 0.0,
) -> None:
    """Take one step of Adagrad [1]_, in the form of ``torch.optim.Adagrad``.

    ``g = grad + weight_decay * p + l1 * sign(p)``; ``s += g**2``;
    ``p -= lr / (1 + (step - 1) * lr_decay) * g / (sqrt(s) + eps)``.

    Parameters
    ----------
    params, state_sums : list or tuple of arrays
        Parameters and sums of the squared gradients; written in place. The arrays of one parameter
        share shape and floating dtype.
    grads : list or tuple of arrays
        Not changed.
    step : int
        The number of this step, from 1.
    lr, lr_decay, weight_decay, eps : float
    l1 : float, default 0
        Weight of the penalty ``sum |p|``; with `weight_decay`, of an elastic net.

    Raises
    ------
    TypeError, ValueError
        Lists or arrays do not fit together, one that is to be written is read-only or shares
        memory with another, or an option is out of range. Nothing has been written then.

    References
    ----------
    .. [1] Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
       Optimization", JMLR 2011.
    """
    op = "adagrad_step"
    _core.adagrad_step(
        params,
        grads,
        state_sums,
        integer(op, "step", step),
        number(op, "lr", lr),
        number(op, "lr_decay", lr_decay),
        number(op, "weight_decay", weight_decay),
        number(op, "eps", eps),
        number(op, "l1", l1),
    )


def clip_grad_norm(grads: Sequence[Array], max_norm: float) -> float:
    """Scale gradients in place by ``min(1, max_norm / (norm + 1e-6))``.

    The norm is the Euclidean one of all gradients as one vector [1]_, accumulated in float64.

    Parameters
    ----------
    grads : list or tuple of arrays
        Floating; written in place if the norm is above `max_norm`. Where one holds NaN, all become NaN.
    max_norm : float

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    TypeError, ValueError
        `grads` is not a list of floating arrays, or one is read-only or shares memory with another.

    References
    ----------
    .. [1] Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    norm: float = _core.clip_grad_norm(grads, number("clip_grad_norm", "max_norm", max_norm))
    return norm


def clip_grad_value(grads: Sequence[Array], clip_value: float) -> None:
    """Bound every element of the gradients by ``-clip_value`` and ``clip_value``, in place.

    Parameters
    ----------
    grads : list or tuple of arrays
        Floating; written in place. NaN stays NaN.
    clip_value : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        `grads` is not a list of floating arrays, one is read-only or shares memory with another, or
        `clip_value` is negative or NaN. Nothing has been written then.
    """
    _core.clip_grad_value(grads, number("clip_grad_value", "clip_value", clip_value))
