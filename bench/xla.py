"""The ops as XLA compiles them, written in JAX the way its users write them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from peers import Call, Engine

Function = Callable[..., Any]


@cache
def _jax() -> Any:
    jax = importlib.import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)  # else labels and float64 would become narrower
    return jax


def engine(
    function: Function,
    leaves: Sequence[np.ndarray | None],
    fixed: Sequence[np.ndarray] = (),
    *,
    training: bool = False,
    cotangent: np.ndarray | None = None,
    post: Callable[[list[np.ndarray]], list[np.ndarray]] = lambda results: results,
) -> Engine:
    """Return an engine that computes ``function(*leaves, *fixed)``, with `training` its gradients too.

    `cotangent` is the output's, ones by default. `post` brings the results to our layout; it is not timed.
    """
    jax = _jax()
    given = [leaf for leaf in leaves if leaf is not None]
    at = [i for i, leaf in enumerate(leaves) if leaf is not None]

    def placed(found: Sequence[Any]) -> list[Any]:
        filled: list[Any] = [None] * len(leaves)
        for i, leaf in zip(at, found, strict=True):
            filled[i] = leaf
        return filled

    def forward(found: Sequence[Any], others: Sequence[Any]) -> Any:
        return function(*placed(found), *others)

    def step(found: Sequence[Any], others: Sequence[Any], dy: Any) -> Any:
        out, pullback = jax.vjp(lambda *leaves: forward(leaves, others), *found)
        return out, pullback(jax.numpy.ones_like(out) if dy is None else dy)

    operands: list[Any] = [[jax.numpy.asarray(x) for x in given], [jax.numpy.asarray(x) for x in fixed]]
    if training:
        operands.append(None if cotangent is None else jax.numpy.asarray(cotangent))
    compiled = jax.jit(step if training else forward)
    wait = jax.block_until_ready
    return Engine(
        lambda: wait(compiled(*operands)),
        lambda result: post([np.asarray(x) for x in jax.tree.leaves(result)]),
    )


# Convolution and pooling


def convolution(
    dimensions: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    *,
    transposed: bool = False,
    channels_last: bool = False,
) -> Function:
    """Return ``f(x, w, b)``; `channels_last` has x as (N, H, W, C)."""
    lax = _jax().lax
    spatial = "DHW"[-dimensions:]
    image = f"N{spatial}C" if channels_last else f"NC{spatial}"
    around = tuple(range(-dimensions, 0))

    def apply(x: Any, w: Any, b: Any) -> Any:
        options: dict[str, Any] = {"window_strides": (stride,) * dimensions}
        reach = [padding] * dimensions
        if transposed:  # the convolution of an input with zeros between its elements
            w = _jax().numpy.flip(w, around).swapaxes(0, 1)
            reach = [dilation * (size - 1) - padding for size in w.shape[2:]]
            options = {"window_strides": (1,) * dimensions, "lhs_dilation": (stride,) * dimensions}
        y = lax.conv_general_dilated(
            x,
            w,
            padding=[(p, p) for p in reach],
            rhs_dilation=(dilation,) * dimensions,
            dimension_numbers=(image, f"OI{spatial}", image),
            feature_group_count=groups,
            **options,
        )
        return y + (b if channels_last else b.reshape(-1, *(1,) * dimensions))

    return apply


def pooling(op: str, dimensions: int, window: int, stride: int, padding: int) -> Function:
    """Return ``f(x)`` of a maximum or, without padding, a mean."""
    jax = _jax()

    def reduce(x: Any, start: float, by: Function) -> Any:
        sizes, steps = (window,) * dimensions, (stride,) * dimensions
        around = ((0, 0), (0, 0), *((padding, padding),) * dimensions)
        return jax.lax.reduce_window(x, x.dtype.type(start), by, (1, 1, *sizes), (1, 1, *steps), around)

    if op == "max":
        return lambda x: reduce(x, -np.inf, jax.lax.max)
    return lambda x: reduce(x, 0.0, jax.lax.add) / x.dtype.type(window**dimensions)


# Rows


def elementwise(op: str) -> Function:
    """Return an activation or a softmax over the last axis."""
    jax = _jax()
    if op == "gelu":
        return lambda x: jax.nn.gelu(x, approximate=False)
    found = jax.numpy.tanh if op == "tanh" else getattr(jax.nn, op)
    return lambda x: found(x)


def linear(x: Any, w: Any, b: Any = None) -> Any:
    """Return x w' + b."""
    y = x @ w.T
    return y if b is None else y + b


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    """Return rows of mean 0 and variance 1, scaled and shifted."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * _jax().lax.rsqrt(variance + x.dtype.type(1e-5)) * weight + bias


def rms_norm(x: Any, weight: Any) -> Any:
    """Return rows of mean square 1, scaled."""
    eps = np.finfo(x.dtype).eps
    return x * _jax().lax.rsqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(eps)) * weight


def channel_norm(batch: bool, groups: int = 0) -> Function:
    """Return ``f(x, weight, bias[, mean, variance])``: batch_norm, or with `groups` group_norm."""
    jnp, lax = _jax().numpy, _jax().lax

    def apply(x: Any, weight: Any, bias: Any, mean: Any = None, variance: Any = None) -> Any:
        shape = (1, -1, *(1,) * (x.ndim - 2))
        z = x.reshape(x.shape[0], groups, -1) if groups else x
        axes = (2,) if groups else (0, *range(2, x.ndim))
        if batch or groups:
            mean = z.mean(axes, keepdims=True)
            variance = ((z - mean) ** 2).mean(axes, keepdims=True)
        else:
            mean, variance = mean.reshape(shape), variance.reshape(shape)
        y = (z - mean) * lax.rsqrt(variance + x.dtype.type(1e-5))
        return jnp.reshape(y, x.shape) * weight.reshape(shape) + bias.reshape(shape)

    return apply


def attention(causal: bool) -> Function:
    """Return ``f(q, k, v)``."""
    jax = _jax()
    jnp = jax.numpy

    def apply(q: Any, k: Any, v: Any) -> Any:
        scores = (q * q.dtype.type(q.shape[-1] ** -0.5)) @ k.swapaxes(-1, -2)
        if causal:
            seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
            scores = jnp.where(seen, scores, -jnp.inf)
        return jax.nn.softmax(scores, -1) @ v

    return apply


# Losses


def cross_entropy(smoothing: float) -> Function:
    """Return ``f(logits, target)`` with the mean over rows and positions."""
    jax = _jax()

    def apply(logits: Any, target: Any) -> Any:
        log_p = jax.nn.log_softmax(logits, 1)
        chosen = jax.numpy.take_along_axis(log_p, target[:, None], 1)[:, 0]
        return -((1 - smoothing) * chosen + smoothing * log_p.mean(1)).mean()

    return apply


def nll_loss(log_p: Any, target: Any) -> Any:
    """Return the mean of the chosen negative log-probabilities."""
    return -_jax().numpy.take_along_axis(log_p, target[:, None], 1).mean()


def linear_cross_entropy(x: Any, weight: Any, target: Any) -> Any:
    """Return the cross-entropy of a linear layer's output."""
    return cross_entropy(0.0)(x @ weight.T, target)


def loss(op: str) -> Function:
    """Return ``f(input, target)`` with the reduction that bench_loss.py measures."""
    jax = _jax()
    jnp = jax.numpy
    return {
        "mse_loss": lambda x, t: ((x - t) ** 2).mean(),
        "l1_loss": lambda x, t: jnp.abs(x - t).mean(),
        "huber_loss": lambda x, t: jnp.where(
            jnp.abs(x - t) < 1, 0.5 * (x - t) ** 2, jnp.abs(x - t) - 0.5
        ).mean(),
        "kl_div": lambda x, t: (t * (jnp.log(t) - x)).sum() / x.shape[0],
        "binary_cross_entropy_with_logits": lambda x, t: (jax.nn.softplus(x) - x * t).mean(),
    }[op]


# Recurrent networks


def cell(kind: str) -> Function:
    """Return ``f(xw, state, whh, bhh)``, a step behind the input's product; the state is (h,) or (h, c)."""
    jax = _jax()
    jnp, sigmoid = jax.numpy, jax.nn.sigmoid

    def lstm(xw: Any, state: Any, whh: Any, bhh: Any) -> Any:
        i, f, g, o = jnp.split(xw + state[0] @ whh.T + bhh, 4, -1)
        c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
        return sigmoid(o) * jnp.tanh(c), c

    def gru(xw: Any, state: Any, whh: Any, bhh: Any) -> Any:
        (h,) = state
        xr, xz, xn = jnp.split(xw, 3, -1)
        hr, hz, hn = jnp.split(h @ whh.T + bhh, 3, -1)
        z = sigmoid(xz + hz)
        return ((1 - z) * jnp.tanh(xn + sigmoid(xr + hr) * hn) + z * h,)

    def rnn(xw: Any, state: Any, whh: Any, bhh: Any) -> Any:
        return (jnp.tanh(xw + state[0] @ whh.T + bhh),)

    return {"lstm": lstm, "gru": gru, "rnn": rnn}[kind]


def recurrent(kind: str, layers: int, directions: int) -> Function:
    """Return ``f(x, *params)`` of zero states, parameters in PyTorch's order."""
    jax = _jax()
    jnp, step = jax.numpy, cell(kind)

    def one(x: Any, wih: Any, whh: Any, bih: Any, bhh: Any, backward: bool) -> Any:
        zeros = jnp.zeros((x.shape[1], whh.shape[1]), x.dtype)
        start = (zeros,) * (2 if kind == "lstm" else 1)

        def body(state: Any, xw: Any) -> Any:
            state = step(xw, state, whh, bhh)
            return state, state[0]

        return jax.lax.scan(body, start, x @ wih.T + bih, reverse=backward)[1]

    def apply(x: Any, *params: Any) -> Any:
        rest = list(params)
        for _ in range(layers):
            outs = []
            for direction in range(directions):
                mine, rest = rest[:4], rest[4:]
                outs.append(one(x, *mine, backward=direction == 1))
            x = jnp.concatenate(outs, -1)
        return x

    return apply


def cell_with_input(kind: str) -> Function:
    """Return ``f(x, *states, wih, whh, bih, bhh)``."""
    step = cell(kind)

    def apply(x: Any, *rest: Any) -> Any:
        *state, wih, whh, bih, bhh = rest
        return step(x @ wih.T + bih, tuple(state), whh, bhh)

    return apply


# Optimizers


def optimizer(op: str, params: list[np.ndarray], grads: list[np.ndarray], options: Mapping[str, Any]) -> Call:
    """Return a call that takes a step of 'adam' or 'sgd' in place: what it replaces is given to XLA."""
    jax = _jax()
    jnp, tree = jax.numpy, jax.tree
    lr = options["lr"]

    def adam(p: Any, g: Any, state: Any, t: Any) -> Any:
        (beta1, beta2), eps = options["betas"], options["eps"]
        m, v = (tree.map(lambda a, g, b=b, n=n: b * a + (1 - b) * g**n, s, g)
                for s, b, n in zip(state, (beta1, beta2), (1, 2), strict=True))  # fmt: skip
        bias1, bias2 = 1 - beta1**t, 1 - beta2**t
        moved = tree.map(lambda p, m, v: p - lr / bias1 * m / (jnp.sqrt(v / bias2) + eps), p, m, v)
        return tree.map(lambda a, like: a.astype(like.dtype), (moved, (m, v)), (p, state))

    def sgd(p: Any, g: Any, state: Any, t: Any) -> Any:
        moved = tree.map(lambda b, g: options["momentum"] * b + g, state, g)
        return tree.map(lambda p, b: p - lr * b, p, moved), moved

    p, g = [jnp.array(x) for x in params], [jnp.asarray(x) for x in grads]
    zeros = [jnp.zeros_like(x) for x in p]
    state = (zeros, [jnp.zeros_like(x) for x in p]) if op == "adam" else zeros
    compiled = jax.jit(adam if op == "adam" else sgd, donate_argnums=(0, 2))
    held: list[Any] = [p, state, 0]

    def call() -> Any:
        held[2] += 1
        held[0], held[1] = jax.block_until_ready(compiled(held[0], g, held[1], float(held[2])))
        return held[0]

    return call
