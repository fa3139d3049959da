"""Optimizer steps, in place on lists of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._common import Array, array, floating, integer, shaped, wide


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
    """One step of Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), AMSGrad (Reddi et al. 2018).

    g = grad / grad_scale + l1 * sign(p); then g += weight_decay * p, or
    p *= 1 - lr * weight_decay if `decoupled`;
    m = beta1 * m + (1 - beta1) * g and v = beta2 * v + (1 - beta2) * g**2; with `amsgrad_maxes`,
    vmax = max(vmax, v) takes the place of v below;
    p -= lr * m / (1 - beta1**step) / (sqrt(v) / sqrt(1 - beta2**step) + eps).
    Formulas as torch.optim.Adam documents them.
    """
    op = "adam_step"
    lists = {"params": params, "grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if amsgrad_maxes is not None:
        lists["amsgrad_maxes"] = amsgrad_maxes
    _check_lists(op, lists, read_only=("grads",))
    step = integer(op, "step", step, 1)
    lr, eps, decay = _number(op, "lr", lr), _number(op, "eps", eps), _number(op, "weight_decay", weight_decay)
    grad_scale, l1 = _number(op, "grad_scale", grad_scale), _number(op, "l1", l1)
    beta1, beta2 = _betas(op, betas)
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    maxes = [None] * len(params) if amsgrad_maxes is None else amsgrad_maxes
    for param, grad, avg, square, largest in zip(params, grads, exp_avgs, exp_avg_sqs, maxes, strict=True):
        p = wide(param)
        g = wide(grad) / grad_scale + l1 * np.sign(p)
        if decoupled:
            p *= 1 - lr * decay
        else:
            g += decay * p
        m = beta1 * wide(avg) + (1 - beta1) * g
        v = beta2 * wide(square) + (1 - beta2) * g**2
        avg[...], square[...] = m, v
        if largest is not None:
            v = np.maximum(wide(largest), v)
            largest[...] = v
        param[...] = p - lr * (m / correction1) / (np.sqrt(v) / math.sqrt(correction2) + eps)


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
    """One step of gradient descent with momentum (Sutskever et al. 2013, in torch.optim.SGD's form).

    g = grad + weight_decay * p + l1 * sign(p); with momentum,
    b = momentum * b + (1 - dampening) * g, and g = b,
    or g + momentum * b for Nesterov's; p -= lr * g.
    """
    op = "sgd_step"
    lists = {"params": params, "grads": grads}
    if momentum_buffers is not None:
        lists["momentum_buffers"] = momentum_buffers
    _check_lists(op, lists, read_only=("grads",))
    lr, momentum = _number(op, "lr", lr), _number(op, "momentum", momentum)
    dampening = _number(op, "dampening", dampening)
    decay, l1 = _number(op, "weight_decay", weight_decay), _number(op, "l1", l1)
    if momentum != 0 and momentum_buffers is None:
        raise ValueError(f"{op}: momentum_buffers is None, but momentum={momentum} needs them")
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError(
            f"{op}: nesterov needs momentum and no dampening, got momentum={momentum}, dampening={dampening}"
        )
    buffers = momentum_buffers if momentum_buffers is not None and momentum != 0 else [None] * len(params)
    for param, grad, buffer in zip(params, grads, buffers, strict=True):
        p = wide(param)
        g = wide(grad) + decay * p + l1 * np.sign(p)
        if buffer is not None:
            b = momentum * wide(buffer) + (1 - dampening) * g
            buffer[...] = b
            g = g + momentum * b if nesterov else b
        param[...] = p - lr * g


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
    """One step of RMSprop (Tieleman and Hinton 2012; centered: Graves 2013; in torch.optim.RMSprop's form).

    g = grad + weight_decay * p + l1 * sign(p); s = alpha * s + (1 - alpha) * g**2; with `grad_avgs`,
    a = alpha * a + (1 - alpha) * g, else a = 0; d = g / (sqrt(max(s - a**2, 0)) + eps); with momentum,
    b = momentum * b + d and d = b; p -= lr * d.
    """
    op = "rmsprop_step"
    lists = {"params": params, "grads": grads, "square_avgs": square_avgs}
    for name, given in (("momentum_buffers", momentum_buffers), ("grad_avgs", grad_avgs)):
        if given is not None:
            lists[name] = given
    _check_lists(op, lists, read_only=("grads",))
    lr, alpha, eps = _number(op, "lr", lr), _number(op, "alpha", alpha), _number(op, "eps", eps)
    decay, l1 = _number(op, "weight_decay", weight_decay), _number(op, "l1", l1)
    momentum = _number(op, "momentum", momentum)
    if not 0 <= alpha <= 1:
        raise ValueError(f"{op}: alpha must be from 0 to 1, got {alpha}")
    if momentum != 0 and momentum_buffers is None:
        raise ValueError(f"{op}: momentum_buffers is None, but momentum={momentum} needs them")
    nothing = [None] * len(params)
    buffers = nothing if momentum_buffers is None or momentum == 0 else momentum_buffers
    means = nothing if grad_avgs is None else grad_avgs
    for param, grad, square, buffer, mean in zip(params, grads, square_avgs, buffers, means, strict=True):
        p = wide(param)
        g = wide(grad) + decay * p + l1 * np.sign(p)
        s = alpha * wide(square) + (1 - alpha) * g**2
        square[...] = s
        if mean is not None:
            a = alpha * wide(mean) + (1 - alpha) * g
            mean[...] = a
            s = np.maximum(s - a**2, 0)
        d = g / (np.sqrt(s) + eps)
        if buffer is not None:
            d = momentum * wide(buffer) + d
            buffer[...] = d
        param[...] = p - lr * d


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
    """One step of Adagrad (Duchi, Hazan and Singer 2011, in torch.optim.Adagrad's form).

    g = grad + weight_decay * p + l1 * sign(p); s += g**2;
    p -= lr / (1 + (step - 1) * lr_decay) * g / (sqrt(s) + eps).
    """
    op = "adagrad_step"
    _check_lists(op, {"params": params, "grads": grads, "state_sums": state_sums}, read_only=("grads",))
    step = integer(op, "step", step, 1)
    lr, lr_decay, eps = _number(op, "lr", lr), _number(op, "lr_decay", lr_decay), _number(op, "eps", eps)
    decay, l1 = _number(op, "weight_decay", weight_decay), _number(op, "l1", l1)
    for param, grad, total in zip(params, grads, state_sums, strict=True):
        p = wide(param)
        g = wide(grad) + decay * p + l1 * np.sign(p)
        s = wide(total) + g**2
        total[...] = s
        param[...] = p - lr / (1 + (step - 1) * lr_decay) * g / (np.sqrt(s) + eps)


def clip_grad_norm(grads: Sequence[Array], max_norm: float) -> float:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)) and return the norm they had.

    The norm is the Euclidean one over all gradients as one vector (Pascanu, Mikolov and Bengio
    2013; the 1e-6 is torch.nn.utils.clip_grad_norm_'s). A NaN among them makes all NaN.
    """
    op = "clip_grad_norm"
    _check_lists(op, {"grads": grads})
    max_norm = _number(op, "max_norm", max_norm)
    norm = float(np.sqrt(sum(np.sum(wide(g) ** 2) for g in grads)))
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:  # also for NaN
        for g in grads:
            g[...] = wide(g) * scale
    return norm


def clip_grad_value(grads: Sequence[Array], clip_value: float) -> None:
    """Bound every element of the gradients by -clip_value and clip_value; NaN stays NaN."""
    op = "clip_grad_value"
    _check_lists(op, {"grads": grads})
    bound = _number(op, "clip_value", clip_value)
    if not bound >= 0:
        raise ValueError(f"{op}: clip_value must be at least 0, got {clip_value}")
    for g in grads:
        g[...] = np.clip(wide(g), -bound, bound)


def _check_lists(op: str, lists: dict[str, Sequence[Array]], read_only: tuple[str, ...] = ()) -> None:
    """Refuse lists that differ in length, or whose arrays differ in shape or cannot be written."""
    first, shapes = next(iter(lists.items()))
    for name, values in lists.items():
        if not isinstance(values, list | tuple):
            raise TypeError(f"{op}: {name} must be a list of arrays, got {type(values).__name__}")
        if len(values) != len(shapes):
            raise ValueError(f"{op}: {name} has {len(values)} arrays, but {first} has {len(shapes)}")
        for i, value in enumerate(values):
            label = f"{name}[{i}]"
            floating(op, label, value)
            shaped(op, label, value, array(op, f"{first}[{i}]", shapes[i]).shape)
            if name not in read_only and not value.flags.writeable:
                raise ValueError(f"{op}: {label} is read-only")


def _number(op: str, name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}") from None


def _betas(op: str, betas: Any) -> tuple[float, float]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"{op}: betas must be two numbers, got {betas!r}")
    beta1, beta2 = (_number(op, "betas", b) for b in betas)
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(f"{op}: betas must be at least 0 and less than 1, got {betas!r}")
    return beta1, beta2
