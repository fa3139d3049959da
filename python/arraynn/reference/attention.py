"""Scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, array, deliver, floating, fraction, number, result_dtype, rounded, wide
from .dropout import Rng, as_generator, draw_key, keep_scale

Pull = Callable[[Array], tuple[Array | None, ...]]

_op = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    enable_gqa: bool = False,
    rng: Rng = None,
    out: Array | None = None,
) -> Array:
    """Return dropout(softmax(scale Q K^T + mask)) V (Vaswani et al., "Attention Is All You Need", 2017).

    A boolean mask says which keys take part, a floating one is added to the scores, and keeps a key out
    where it is -inf. `is_causal` keeps out the keys behind the query's own number. A row of which all keys
    are out has weights of zero. With `enable_gqa` a head of key and value serves several of query in a row.
    """
    y = _Attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, rng)
    return deliver(_op, y.output, y.dtype, out, query, key, value, attn_mask)


class _Attention:
    """The weights and the output, in float64."""

    def __init__(
        self, q: Any, k: Any, v: Any, mask: Any, p: Any, causal: Any, scale: Any, grouped: Any, rng: Any
    ) -> None:
        p = fraction(_op, "dropout_p", p)
        for name, flag in (("is_causal", causal), ("enable_gqa", grouped)):
            if not isinstance(flag, bool | np.bool_):
                raise TypeError(f"{_op}: {name} must be True or False, got {flag!r}")
        self.dtype = _check(q, k, v, mask, bool(grouped))
        self.scale = 1 / np.sqrt(max(q.shape[-1], 1)) if scale is None else number(_op, "scale", scale)
        self.group = q.shape[-3] // max(k.shape[-3], 1) if grouped else 1
        generator = as_generator(_op, rng)
        self.q, self.k, self.v = wide(q), wide(k), wide(v)
        if self.group > 1:
            self.k, self.v = (np.repeat(a, self.group, -3) for a in (self.k, self.v))
        scores = self.q @ np.swapaxes(self.k, -1, -2) * self.scale
        # Values may have batch axes that queries and keys have not: weights have them all.
        batch = np.broadcast_shapes(scores.shape[:-2], self.v.shape[:-2])
        scores = np.broadcast_to(scores, batch + scores.shape[-2:])
        _check_mask(mask, scores.shape)
        if mask is not None:
            bias = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else wide(mask)
            scores = np.where(bias == -np.inf, -np.inf, scores + bias)
        if causal:
            scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
        self.weights = _softmax(scores)
        self.keep = keep_scale(scores.shape, p, draw_key(generator)) if p > 0 else np.ones(scores.shape)
        self.output = (self.weights * self.keep) @ self.v

    def gradients(self, dy: Array) -> tuple[Array, Array, Array]:
        """Return those of q, k and v, over all batch axes."""
        dv = np.swapaxes(self.weights * self.keep, -1, -2) @ dy
        dweights = dy @ np.swapaxes(self.v, -1, -2) * self.keep
        inner = np.sum(self.weights * dweights, -1, keepdims=True)
        dscores = self.weights * (dweights - inner) * self.scale
        return dscores @ self.k, np.swapaxes(dscores, -1, -2) @ self.q, dv


def _softmax(scores: Array) -> Array:
    """Return softmax over the last axis, zeros where all is -inf."""
    top = np.max(scores, -1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(top == -np.inf, 0.0, top))
    total = e.sum(-1, keepdims=True)
    return np.asarray(e / np.where(total == 0, 1.0, total))


def _check(q: Any, k: Any, v: Any, mask: Any, grouped: bool) -> np.dtype[Any]:
    for name, a in (("query", q), ("key", k), ("value", v)):
        if floating(_op, name, a).ndim < 2:
            raise ValueError(f"{_op}: {name} must have at least 2 dimensions, got shape {a.shape}")
    biases = []
    if mask is not None and array(_op, "attn_mask", mask).dtype != bool:
        biases.append(floating(_op, "attn_mask", mask))
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"{_op}: key of shape {k.shape} must have the last axis of query, {q.shape}")
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"{_op}: value of shape {v.shape} must have as many rows as key, {k.shape}")
    if grouped:
        if min(q.ndim, k.ndim, v.ndim) < 3:
            raise ValueError(
                f"{_op}: enable_gqa takes at least 3 dimensions, got {q.shape}, {k.shape}, {v.shape}"
            )
        if v.shape[-3] != k.shape[-3]:
            raise ValueError(f"{_op}: value of shape {v.shape} must have as many heads as key, {k.shape}")
        if q.shape[-3] % k.shape[-3] if k.shape[-3] else q.shape[-3]:
            raise ValueError(
                f"{_op}: query of shape {q.shape} must have a multiple of the heads of key, {k.shape}"
            )
    batches = [a.shape[: -3 if grouped else -2] for a in (q, k, v)]
    for i, (name, a) in enumerate((("key", k), ("value", v))):
        try:
            np.broadcast_shapes(*batches[: i + 2])
        except ValueError:
            raise ValueError(
                f"{_op}: {name} of shape {a.shape} does not broadcast with query's {q.shape}"
            ) from None
    return result_dtype(_op, q, k, v, *biases)


def _check_mask(mask: Any, shape: tuple[int, ...]) -> None:
    if mask is None:
        return
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{_op}: attn_mask of shape {mask.shape} does not broadcast to {shape}")


@defvjp(scaled_dot_product_attention, "query", "key", "value")
def _attention_vjp(
    wanted: tuple[bool, ...],
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    enable_gqa: bool = False,
    rng: Rng = None,
) -> tuple[Array, Pull]:
    y = _Attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, rng)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """With W the weights: dV = W^T dO, dS = W (dO V^T - sum of W dO V^T), dQ = dS K, dK = dS^T Q."""
        dq, dk, dv = y.gradients(wide(dout))
        dk, dv = (_join_groups(a, y.group) for a in (dk, dv))
        gradients = zip((dq, dk, dv), (query, key, value), wanted, strict=True)
        return tuple(
            rounded(_sum_to(a, like.shape), like.dtype) if want else None for a, like, want in gradients
        )

    return rounded(y.output, y.dtype), pull


def _join_groups(a: Array, group: int) -> Array:
    if group == 1:
        return a
    return np.asarray(a.reshape(*a.shape[:-3], -1, group, *a.shape[-2:]).sum(-3))


def _sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of `shape` was repeated."""
    new = a.ndim - len(shape)
    repeated = tuple(i for i in range(a.ndim) if i < new or (shape[i - new] == 1 and a.shape[i] != 1))
    return np.asarray(a.sum(repeated).reshape(shape))
