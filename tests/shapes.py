"""Sizes, layouts and values that the tests draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[Any]

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WIDE = (FLOAT32, FLOAT64)
HALF = (FLOAT16, BFLOAT16)

# Around every vector width W in use (2, 4, 8, 16): W - 1, W, W + 1, 2 W + 1, and tails of 1 and 2;
# then primes, which no block size divides.
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 18, 31, 32, 33, 34, 37, 53)
LENGTHS = (0, *WIDTHS, 127, 128, 129, 257, 1031)

LAYOUTS = (
    "c",
    "fortran",
    "reversed",
    "strided",
    "rows",
    "broadcast",
    "misaligned",
    "read-only",
    "channels-last",
)

widths = st.sampled_from(WIDTHS)
lengths = st.sampled_from(LENGTHS)
small = st.integers(1, 5)
batches = st.sampled_from((0, 1, 2, 3))
wide_dtypes = st.sampled_from(WIDE)
seeds = st.integers(0, 2**32 - 1)


def lay(a: Array, layout: str, spatial: int = 2) -> Array:
    """Return an array with the values of `a` in the memory layout named.

    `broadcast` cannot keep all values: it repeats the first entry of an axis. `channels-last` puts
    the axis in front of the last `spatial` ones innermost.
    """
    if a.ndim == 0 and layout not in ("misaligned", "read-only"):
        return np.array(a)
    if layout == "fortran":
        return np.array(a, order="F")
    if layout == "reversed":
        flip = (slice(None, None, -1),) * a.ndim
        return np.array(a[flip])[flip]
    if layout == "strided":
        room = np.zeros(tuple(2 * n for n in a.shape), a.dtype)
        view = room[(slice(1, None, 2),) * a.ndim]
        view[...] = a
        return view
    if layout == "rows":  # each row is contiguous, but there is room behind it
        room = np.zeros((*a.shape[:-1], a.shape[-1] + 3), a.dtype)
        view = room[..., : a.shape[-1]]
        view[...] = a
        return view
    if layout == "broadcast":
        return np.broadcast_to(a[:1], a.shape)
    if layout == "misaligned":
        view = np.ndarray(a.shape, a.dtype, buffer=bytearray(a.nbytes + 1), offset=1)
        view[...] = a
        return view
    if layout == "channels-last" and a.ndim > spatial:
        return channels_last(a, spatial)
    copy = np.array(a, order="C")
    if layout == "read-only":
        copy.flags.writeable = False
    return copy


def channels_last(a: Array, spatial: int = 2) -> Array:
    """Return `a` with the channels, the axis in front of the `spatial` ones, innermost in memory."""
    channel = a.ndim - spatial - 1
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, channel, -1)), -1, channel)


def is_channels_last(a: Array, spatial: int = 2) -> bool:
    """Return whether the channels of `a` are innermost in memory, without gaps."""
    return bool(np.moveaxis(a, a.ndim - spatial - 1, -1).flags.c_contiguous)


def values(shape: Sequence[int], dtype: Any, seed: int, kind: str = "normal") -> Array:
    """Return numbers of the kind named, the same for the same seed.

    - normal: of both signs, around 1 in magnitude;
    - ties: of a few whole numbers, so that equal maxima abound;
    - outliers: normal, with a few that are a hundred times as large;
    - inf, nan: ties with a few infinities of both signs, or NaNs too.
    """
    rng = np.random.default_rng(seed)
    if kind in ("ties", "inf", "nan"):
        a = rng.integers(-2, 3, tuple(shape)).astype(np.float64)
    else:
        a = rng.standard_normal(tuple(shape))
    if kind == "outliers":
        a = np.where(rng.random(a.shape) < 0.1, 100 * a, a)
    if kind in ("inf", "nan"):
        a = np.where(rng.random(a.shape) < 0.1, np.inf, a)
        a = np.where(rng.random(a.shape) < 0.1, -np.inf, a)
    if kind == "nan":
        a = np.where(rng.random(a.shape) < 0.1, np.nan, a)
    return np.asarray(a.astype(dtype))


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: Sequence[int],
    dtype: Any,
    kinds: Sequence[str] = ("normal",),
    layouts: Sequence[str] = LAYOUTS,
    spatial: int = 2,
) -> Array:
    """Draw an array of `shape`, of one of the kinds and layouts."""
    a = values(shape, dtype, draw(seeds), draw(st.sampled_from(tuple(kinds))))
    return lay(a, draw(st.sampled_from(tuple(layouts))), spatial)
