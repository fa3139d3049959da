"""Dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core
from ._common import Array, as_dtype, generator, memory_order, number, rng_key
from ._vjp import defvjp


def dropout(
    input: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: np.random.Generator | int | None = None,
    out: Array | None = None,
) -> Array:
    """Zero each element with probability `p` and scale the others by ``1 / (1 - p)`` [1]_.

    The mask is a function of one 64-bit key drawn from `rng` and of the element's number in C order:
    element i is kept if word ``i % 4`` of Philox4x32-10 [2]_ at counter ``i // 4`` is at least
    ``floor(p 2**32)``. It does not depend on the memory order or the number of threads.

    Parameters
    ----------
    input : array
        Floating, any shape and strides; the result has its memory order.
    p : float between 0 and 1, default 0.5
    training : bool, default True
        Without it the result is a copy of `input`.
    rng : numpy.random.Generator or int, optional
        Where the key comes from: a generator, which moves on, or a seed.
    out : array, optional
        Where to write the result.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        `input` is not a floating array, `p` is not between 0 and 1, `rng` is neither a generator nor
        a seed, or `out` does not fit.

    References
    ----------
    .. [1] Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    .. [2] Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
    """
    result: Array = _core.dropout(input, *_chance_and_key(p, training, rng), out)
    return result


def _chance_and_key(p: Any, training: bool, rng: Any) -> tuple[float, int]:
    p = number("dropout", "p", p)
    if not 0 <= p <= 1:
        return p, 0  # refused below, before anything is drawn
    if training and p > 0:
        return p, rng_key("dropout", rng)
    if rng is not None:
        generator("dropout", rng)  # refuses what is not one
    return 0.0, 0


@defvjp(dropout, "input")
def _dropout_vjp(
    wanted: tuple[bool, ...],
    input: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: np.random.Generator | int | None = None,
) -> tuple[Array, Callable[[Array], tuple[Any, ...]]]:
    chance, key = _chance_and_key(p, training, rng)
    out = _core.dropout(input, chance, key, None)
    strides, dtype = memory_order(input), input.dtype

    def pull(cotangent: Array) -> tuple[Any, ...]:
        """Mask the cotangent; the mask is drawn again, from its key."""
        if not wanted[0]:
            return (None,)
        return (as_dtype(_core.dropout_backward(cotangent, strides, chance, key), dtype),)

    return out, pull
