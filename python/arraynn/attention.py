"""Attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core
from ._common import Array, as_dtype, as_flags, flag, generator, number, rng_key, sum_to
from ._vjp import defvjp

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
    rng: np.random.Generator | int | None = None,
    out: Array | None = None,
) -> Array:
    """Compute ``dropout(softmax(scale query key^T + attn_mask)) value`` without holding the weights [1]_.

    A query of which every key is masked gives zeros, and gets and passes on a gradient of zero. What is
    masked has a weight of zero, whatever its score; that weight is still multiplied with its value, which
    must be finite.

    Parameters
    ----------
    query : array of shape (N, ..., L, E)
        Floating, any strides. Batch axes broadcast against those of `key` and `value`.
    key : array of shape (N, ..., S, E)
    value : array of shape (N, ..., S, Ev)
    attn_mask : array that broadcasts to (N, ..., L, S), optional
        Boolean, True for the keys that take part, or floating, added to the scores, -inf for those that do
        not.
    dropout_p : float between 0 and 1, default 0.0
        Probability of a weight to be zeroed; the others are scaled by ``1 / (1 - dropout_p)``. The mask is
        the one that `dropout` has for an array of shape (N, ..., L, S). It is in force always: pass 0 to
        predict.
    is_causal : bool, default False
        Let query i look at the keys up to i, counted from the top left, of those that `attn_mask` leaves.
    scale : float, optional
        ``1 / sqrt(E)`` by default.
    enable_gqa : bool, default False
        Let the last batch axis, the heads, be shorter in `key` and `value`: each of theirs serves as many
        heads of `query` in a row (grouped-query attention [2]_).
    rng : numpy.random.Generator or int, optional
        Where the mask's key comes from: a generator, which moves on, or a seed.
    out : array of shape (N, ..., L, Ev), optional
        Where to write the result.

    Returns
    -------
    array of shape (N, ..., L, Ev)
        Of the common dtype of the arguments. Differentiable in `query`, `key` and `value`.

    Raises
    ------
    TypeError, ValueError
        An argument is not of its kind, a shape does not fit, `dropout_p` is not between 0 and 1, or `out`
        does not fit.

    References
    ----------
    .. [1] Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", 2022.
    .. [2] Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
       Checkpoints", 2023.
    """
    mask, options = _options(attn_mask, dropout_p, is_causal, scale, enable_gqa, rng)
    result: Array = _core.scaled_dot_product_attention(query, key, value, mask, *options, False, out)[0]
    return result


def _options(
    attn_mask: Any, dropout_p: Any, is_causal: Any, scale: Any, enable_gqa: Any, rng: Any
) -> tuple[Any, tuple[Any, ...]]:
    """Return the mask as the bindings take it, and (is it of flags, dropout, causal, scale, grouped, key)."""
    chance, drawn = number(_op, "dropout_p", dropout_p), 0
    if 0 < chance <= 1:
        drawn = rng_key(_op, rng)
    elif rng is not None:
        generator(_op, rng)  # refuses what is not one
    dtype = str(getattr(attn_mask, "dtype", "")).removeprefix("torch.")
    if "int" in dtype:
        raise TypeError(f"{_op}: attn_mask has dtype {dtype}, expected bool or a floating dtype")
    mask = None if attn_mask is None else as_flags(attn_mask)
    return mask, (
        mask is not attn_mask,
        chance,
        flag(_op, "is_causal", is_causal),
        None if scale is None else number(_op, "scale", scale),
        flag(_op, "enable_gqa", enable_gqa),
        drawn,
    )


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
    rng: np.random.Generator | int | None = None,
) -> tuple[Array, Callable[[Array], tuple[Any, ...]]]:
    mask, options = _options(attn_mask, dropout_p, is_causal, scale, enable_gqa, rng)
    out, wide, rows = _core.scaled_dot_product_attention(query, key, value, mask, *options, True, None)

    def pull(cotangent: Array) -> tuple[Any, ...]:
        """Compute the weights again, tile by tile, from what is known of each row."""
        gradients = _core.scaled_dot_product_attention_backward(
            cotangent, query, key, value, mask, wide, rows, *options, *wanted
        )
        return tuple(
            None if gradient is None else as_dtype(sum_to(gradient, tuple(argument.shape)), argument.dtype)
            for gradient, argument in zip(gradients, (query, key, value), strict=True)
        )

    return out, pull
