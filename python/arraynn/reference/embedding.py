"""Rows of a table, picked by their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, integer, integers, rounded, wide

Pull = Callable[[Any], tuple[Array | None, ...]]


def embedding(
    input: Array, weight: Array, padding_idx: int | None = None, *, out: Array | None = None
) -> Array:
    """Pick rows of a table of shape (V, E) (torch.nn.functional.embedding).

    y[i, :] = weight[input[i], :]. The gradient of a row is the sum of the cotangents of where it was
    picked; row `padding_idx`, which counts from the end if it is negative, has none.
    """
    rows, _ = _check(input, weight, padding_idx)
    return deliver("embedding", wide(weight)[rows], weight.dtype, out, input, weight)


def _check(input: Any, weight: Any, padding_idx: Any) -> tuple[Array, int | None]:
    """Return the rows' numbers and the one that has no gradient."""
    op = "embedding"
    rows = integers(op, "input", input)
    count = floating(op, "weight", weight, (2,)).shape[0]
    if padding_idx is not None and not -count <= integer(op, "padding_idx", padding_idx) < count:
        raise ValueError(f"{op}: padding_idx is {padding_idx}, but weight has {count} rows")
    bad = rows[(rows < 0) | (rows >= count)]
    if bad.size:
        raise ValueError(f"{op}: input holds {bad[0]}, but weight has {count} rows")
    return rows, None if padding_idx is None else integer(op, "padding_idx", padding_idx) % count


@defvjp(embedding, "weight")
def _embedding_vjp(
    wanted: tuple[bool, ...], input: Array, weight: Array, padding_idx: int | None = None
) -> tuple[Array, Pull]:
    rows, padding = _check(input, weight, padding_idx)
    shape, dtype = weight.shape, weight.dtype

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """Each row adds up what was picked from it."""
        if not wanted[0]:
            return (None,)
        dweight = np.zeros(shape)
        np.add.at(dweight, rows, wide(dout))
        if padding is not None:
            dweight[padding] = 0
        return (rounded(dweight, dtype),)

    return rounded(wide(weight)[rows], dtype), pull
