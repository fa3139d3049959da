"""Gradients as autograd expressions, for where a gradient is itself differentiated.

Three kinds of ops have them. A product (linear, convolution) is linear in each argument, so its pullbacks
are each other's: with <g, B(x, w)> = <X(g, w), x> = <W(g, x), w>, the pullback of X in g is B, in w it is W,
and so on; kernels all the way. A mean is linear: the pullback of its pullback is the mean. The others have
their formula written in `autograd.numpy`, which differentiates it as often as one likes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.core import make_vjp
from autograd.extend import defvjp, primitive

from .._vjp import vjp

Rule = Callable[[Any, tuple[Any, ...], Any], list[Any]]

# -- products -------------------------------------------------------------------------------


def _blank(of: Any) -> Any:
    """Stand for an argument of which the pullback needs the shape alone."""
    return np.zeros(of.shape, of.dtype)


# autograd has no types, hence the comment behind every `primitive`
@primitive  # type: ignore[untyped-decorator]
def _product(x: Any, w: Any, *, call: Any) -> Any:
    return call.op(x, w, **call.options())


@primitive  # type: ignore[untyped-decorator]
def _product_to_input(g: Any, w: Any, *, like: Any, call: Any) -> Any:
    return _pull(call, (like, w), "input", g)[0]


@primitive  # type: ignore[untyped-decorator]
def _product_to_weight(g: Any, x: Any, *, like: Any, call: Any) -> Any:
    return _pull(call, (x, like), "weight", g)[1]


def _pull(call: Any, args: tuple[Any, ...], wrt: str, g: Any) -> Any:
    out, pullback = vjp(call.op, *args, wrt=wrt, **call.options())
    return pullback(as_dtype(g, out))


def as_dtype(g: Any, like: Any) -> Any:
    """Return a cotangent in the dtype of what it belongs to: autograd.numpy makes some of float64."""
    return g if g.dtype == like.dtype else g.astype(like.dtype)


def _back_of_product(ans: Any, x: Any, w: Any, *, call: Any) -> tuple[Any, ...]:
    return (
        lambda g: _product_to_input(as_dtype(g, ans), w, like=_blank(x), call=call),
        lambda g: _product_to_weight(as_dtype(g, ans), x, like=_blank(w), call=call),
    )


def _back_of_product_to_input(ans: Any, g: Any, w: Any, *, like: Any, call: Any) -> tuple[Any, ...]:
    return (
        lambda u: _product(as_dtype(u, ans), w, call=call),
        lambda u: _product_to_weight(g, as_dtype(u, ans), like=_blank(w), call=call),
    )


def _back_of_product_to_weight(ans: Any, g: Any, x: Any, *, like: Any, call: Any) -> tuple[Any, ...]:
    return (
        lambda v: _product(x, as_dtype(v, ans), call=call),
        lambda v: _product_to_input(g, as_dtype(v, ans), like=_blank(x), call=call),
    )


for _of, _back in (
    (_product, _back_of_product),
    (_product_to_input, _back_of_product_to_input),
    (_product_to_weight, _back_of_product_to_weight),
):
    defvjp(
        _of,
        lambda *args, back=_back, **options: back(*args, **options)[0],
        lambda *args, back=_back, **options: back(*args, **options)[1],
    )


def _products(call: Any, leaves: tuple[Any, ...], g: Any) -> list[Any]:
    x, w = leaves[:2]
    found = [
        _product_to_input(g, w, like=_blank(x), call=call),
        _product_to_weight(g, x, like=_blank(w), call=call),
    ]
    if len(leaves) == 3:  # the bias goes along the last axis of linear's output, the channels of the others'
        last = call.op.__name__ == "linear"
        spatial = w.ndim - 2
        axis = g.ndim - 1 if last else g.ndim - 1 - spatial
        found.append(anp.sum(g, axis=tuple(i for i in range(g.ndim) if i != axis)))
    return found


# -- linear ops -----------------------------------------------------------------------------


@primitive  # type: ignore[untyped-decorator]
def _spread(g: Any, *, like: Any, call: Any) -> Any:
    return _pull(call, (like,), "input", g)[0]


@primitive  # type: ignore[untyped-decorator]
def _mean(x: Any, *, call: Any) -> Any:
    return call.op(x, **call.options())


defvjp(_spread, lambda ans, g, *, like, call: lambda u: _mean(as_dtype(u, ans), call=call))
defvjp(_mean, lambda ans, x, *, call: lambda g: _spread(as_dtype(g, ans), like=_blank(x), call=call))


def _means(call: Any, leaves: tuple[Any, ...], g: Any) -> list[Any]:
    return [_spread(g, like=_blank(leaves[0]), call=call)]


# -- formulas -------------------------------------------------------------------------------


def _by(formula: Callable[..., Any]) -> Rule:
    """Return the rule that differentiates `formula`, which takes the op's input and its options."""

    def rule(call: Any, leaves: tuple[Any, ...], g: Any) -> list[Any]:
        given = inspect.signature(call.op).bind(**call.arguments)
        given.apply_defaults()
        options = {name: value for name, value in given.arguments.items() if name not in ("input", "out")}
        pull, _ = make_vjp(lambda input: formula(input, **options), leaves[0])
        return [pull(g)]

    return rule


@primitive  # type: ignore[untyped-decorator]
def _normal_cdf(x: Any) -> Any:
    erf: Any = np.vectorize(math.erf, [np.float64])(x / math.sqrt(2))
    return ((1 + erf) / 2).astype(x.dtype)


defvjp(_normal_cdf, lambda ans, x: lambda g: g * anp.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))


def sigmoid(input: Any) -> Any:
    return anp.exp(-anp.logaddexp(0.0 * input, -input))


def _leaky_relu(input: Any, negative_slope: float = 0.01) -> Any:
    return anp.where(input > 0, input, negative_slope * input)


def _elu(input: Any, alpha: float) -> Any:
    below = anp.where(input > 0, 0.0 * input, input)  # so that exp does not overflow where it is not used
    return anp.where(input > 0, input, alpha * (anp.exp(below) - 1))


def _gelu(input: Any, approximate: str) -> Any:
    if approximate == "none":
        return input * _normal_cdf(input)
    inner = math.sqrt(2 / math.pi) * (input + 0.044715 * input**3)
    return 0.5 * input * (1 + anp.tanh(inner))


def _softplus(input: Any, beta: float, threshold: float) -> Any:
    scaled = beta * input
    above = scaled > threshold
    inner = anp.where(above, 0.0 * scaled, scaled)
    return anp.where(above, input, anp.logaddexp(0.0 * inner, inner) / beta)


def _log_softmax(input: Any, axis: int = -1) -> Any:
    shifted = input - anp.max(input, axis=axis, keepdims=True)
    return shifted - anp.log(anp.sum(anp.exp(shifted), axis=axis, keepdims=True))


def _reduced(values: Any, reduction: str) -> Any:
    if reduction == "none":
        return values
    return anp.mean(values) if reduction == "mean" else anp.sum(values)


def _mse_loss(input: Any, target: Any, reduction: str, weight: Any) -> Any:
    losses = (input - target) ** 2
    if weight is None:
        return _reduced(losses, reduction)
    total = np.sum(np.broadcast_to(weight, losses.shape)) if reduction == "mean" else 1.0
    return _reduced(weight * losses, "sum" if reduction == "mean" else reduction) / total


def _cross_entropy(
    input: Any, target: Any, weight: Any, ignore_index: int, reduction: str, label_smoothing: float
) -> Any:
    axis = 0 if input.ndim == 1 else 1
    classes = input.shape[axis]
    log_p = _log_softmax(input, axis)
    shape = [1] * input.ndim
    shape[axis] = classes
    w = (np.ones(classes) if weight is None else weight).astype(input.dtype).reshape(shape)
    if target.dtype.kind not in "iu":
        smooth = target * (1 - label_smoothing) + label_smoothing / classes
        losses = -anp.sum(w * smooth * log_p, axis=axis)
        return _reduced(losses, reduction)
    kept = target != ignore_index
    hot = np.expand_dims(np.where(kept, target, 0), axis) == np.arange(classes).reshape(shape)
    hot = (hot & np.expand_dims(kept, axis)).astype(input.dtype)
    of_label = (w * hot).sum(axis)
    smoothed = (1 - label_smoothing) * hot + label_smoothing / classes * np.expand_dims(kept, axis)
    losses = -anp.sum(w * smoothed.astype(input.dtype) * log_p, axis=axis)
    return (
        anp.sum(losses) / max(of_label.sum(), np.finfo(np.float32).tiny)
        if reduction == "mean"
        else _reduced(losses, reduction)
    )


_PRODUCTS = ("linear", *(f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)))
_MEANS = tuple(f"{kind}{n}d" for kind in ("avg_pool", "adaptive_avg_pool") for n in (1, 2, 3))

SECOND: dict[str, Rule] = {
    **dict.fromkeys(_PRODUCTS, _products),
    **dict.fromkeys(_MEANS, _means),
    "relu": _by(lambda input: _leaky_relu(input, 0.0)),
    "leaky_relu": _by(_leaky_relu),
    "elu": _by(_elu),
    "gelu": _by(_gelu),
    "silu": _by(lambda input: input * sigmoid(input)),
    "sigmoid": _by(sigmoid),
    "tanh": _by(lambda input: anp.tanh(input)),
    "softplus": _by(_softplus),
    "softmax": _by(lambda input, axis: anp.exp(_log_softmax(input, axis))),
    "log_softmax": _by(_log_softmax),
    "mse_loss": _by(_mse_loss),
    "cross_entropy": _by(_cross_entropy),
}
