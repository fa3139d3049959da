"""Rows of a table, picked by their numbers."""

from __future__ import annotations

from typing import Any

from . import _core
from ._common import Array, as_dtype, integer
from ._vjp import defvjp


def embedding(
    input: Array, weight: Array, padding_idx: int | None = None, *, out: Array | None = None
) -> Array:
    """Pick rows of a table.

    ``y[i, :] = weight[input[i], :]``. Differentiable in `weight`: each row's gradient is the sum of the
    cotangents of where it was picked, always in the same order, except that of row `padding_idx`, which is
    zero.

    Parameters
    ----------
    input : array of integers
        Numbers of rows, of any shape and integer dtype.
    weight : array of shape (V, E)
        Floating. Rows that are dense are used where they lie.
    padding_idx : int, optional
        The row that takes no gradient; negative ones count from the end.
    out : array of the shape of `input` and an axis of E, optional
        Where to write the result.

    Returns
    -------
    array of the shape of `input` and an axis of E
        In the dtype of `weight`.

    Raises
    ------
    TypeError, ValueError
        `input` is not an array of integers from 0 to V - 1 (on a device: if `arraynn.cuda.set_checks` asks;
        else such a row is NaN and takes no part in the gradient), `weight` is not a floating array of 2
        dimensions, or `padding_idx` or `out` does not fit.
    """
    result: Array = _core.embedding(input, weight, _padding_idx(padding_idx), out)
    return result


def _padding_idx(value: Any) -> int | None:
    return None if value is None else integer("embedding", "padding_idx", value)


@defvjp(embedding, "weight")
def _embedding_vjp(
    wanted: tuple[bool, ...], input: Array, weight: Array, padding_idx: int | None = None
) -> Any:
    padding = _padding_idx(padding_idx)
    out = _core.embedding(input, weight, padding, None)
    rows, dtype = weight.shape[0], weight.dtype

    def pull(cotangent: Array) -> tuple[Any, ...]:
        if not wanted[0]:
            return (None,)
        return (as_dtype(_core.embedding_backward(cotangent, input, rows, padding), dtype),)

    return out, pull
