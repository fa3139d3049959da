"""Dropout and the random masks behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._vjp import defvjp
from ._common import Array, deliver, floating, fraction, rounded, wide

Pull = Callable[[Array], tuple[Array | None, ...]]
Rng = int | np.random.Generator | None

_default = np.random.default_rng()


def dropout(
    input: Array, p: float = 0.5, training: bool = True, *, rng: Rng = None, out: Array | None = None
) -> Array:
    """Zero each element with probability p and scale the others by 1 / (1 - p) (Srivastava et al. 2014).

    Which are kept is a function of one 64-bit key drawn from `rng` and of the element's number
    in C order; see `kept`. Without `training` the input is returned as it is.
    """
    x, p = floating("dropout", "input", input), fraction("dropout", "p", p)
    scale = _scale(x.shape, p, training, rng)
    return deliver("dropout", np.where(scale > 0, wide(x) * scale, 0.0), x.dtype, out, input)


def _scale(shape: tuple[int, ...], p: float, training: bool, rng: Rng) -> Array:
    """Return what each element is multiplied with."""
    generator = as_generator("dropout", rng)
    if not training or p == 0:
        return np.ones(shape)
    return keep_scale(shape, p, draw_key(generator))


def as_generator(op: str, rng: Any) -> np.random.Generator:
    """Return a Generator for `rng` (SPEC 7): None, a seed, or a Generator."""
    if rng is None:
        return _default
    try:
        return np.random.default_rng(rng)
    except TypeError:
        raise TypeError(f"{op}: rng must be None, a seed or a numpy Generator, got {rng!r}") from None
    except ValueError:
        raise ValueError(f"{op}: rng must be a seed of 0 or more, got {rng!r}") from None


def draw_key(rng: np.random.Generator) -> int:
    """Draw the 64 bits that choose one mask."""
    return int(rng.integers(0, 2**64, dtype=np.uint64))


def keep_scale(shape: tuple[int, ...], p: float, key: int) -> Array:
    """Return 1 / (1 - p) where an element is kept and 0 where it is dropped."""
    with np.errstate(divide="ignore"):
        return np.where(kept(shape, p, key), 1 / np.float64(1 - p) if p < 1 else 0.0, 0.0)


def kept(shape: tuple[int, ...], p: float, key: int) -> Array:
    """Return the mask of the elements that stay: the random word of element i is >= floor(p * 2**32).

    That word is word i % 4 of Philox4x32-10 at counter i // 4.
    """
    size = int(np.prod(shape))
    words = philox(np.arange((size + 3) // 4, dtype=np.uint64), key).reshape(-1)[:size]
    return np.asarray((words >= np.uint64(int(p * 2**32))).reshape(shape))


def philox(counter: Array, key: int) -> Array:
    """Return the four 32-bit words of Philox4x32-10 for each counter, as uint64 of shape (n, 4).

    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The
    counter fills the two low words; the two high ones are 0.
    """
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c0, c1, c2, c3 = counter & low, counter >> half, np.zeros_like(counter), np.zeros_like(counter)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2  # exact in 64 bits
        c0, c1, c2, c3 = (b >> half) ^ c1 ^ np.uint64(k0), b & low, (a >> half) ^ c3 ^ np.uint64(k1), a & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


@defvjp(dropout, "input")
def _dropout_vjp(
    wanted: tuple[bool, ...], input: Array, p: float = 0.5, training: bool = True, *, rng: Rng = None
) -> tuple[Array, Pull]:
    x, p = floating("dropout", "input", input), fraction("dropout", "p", p)
    scale = _scale(x.shape, p, training, rng)

    def masked(a: Array) -> Array:
        return rounded(np.where(scale > 0, wide(a) * scale, 0.0), a.dtype)

    def pull(dout: Array) -> tuple[Array | None, ...]:
        """The gradient goes through the same mask."""
        return (masked(dout) if wanted[0] else None,)

    return masked(x), pull
