"""16-bit floats on their way to the CPU kernels and back, against NumPy's and ml_dtypes' own conversions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import arraynn as ann
import numpy as np
import pytest
from arraynn import _core
from shapes import HALF

ISAS = [name for name, supported in _core.isas() if supported]
EVERY = np.arange(1 << 16, dtype=np.uint16)


@pytest.fixture(params=ISAS, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _core.isa()
    _core.set_isa(request.param)
    yield
    _core.set_isa(before)


def assert_same(actual: Any, expected: Any) -> None:
    """Assert the same bits, but that any NaN does for another."""
    assert actual.dtype == expected.dtype
    bits = np.dtype(f"u{actual.dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # signalling ones
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(bits)[~nan], expected.view(bits)[~nan])


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_every_half_is_widened_exactly(dtype: Any) -> None:
    halves = EVERY.view(dtype)
    assert_same(_core.as_dtype(halves, np.dtype(np.float32)), halves.astype(np.float32))
    assert_same(ann.leaky_relu(halves, 1.0), halves)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_floats_are_rounded_to_the_nearest_half(dtype: Any) -> None:
    """Every half, what lies between it and the next one, and one bit to either side of that."""
    halves = EVERY.view(dtype).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    with np.errstate(over="ignore"):
        between = (np.sort(halves)[1:].astype(np.float64) + np.sort(halves)[:-1]) / 2
    middles = between.astype(np.float32)
    bits = np.concatenate([halves.view(np.uint32), middles.view(np.uint32)])
    rng = np.random.default_rng(0)
    bits = np.concatenate([bits, bits + 1, bits - 1, rng.integers(0, 1 << 32, 100_003, dtype=np.uint32)])
    floats = bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = floats.astype(dtype)
    assert_same(_core.as_dtype(floats, np.dtype(dtype)), expected)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 15, 17, 31, 33, 70_001])
def test_tails_touch_nothing_else(count: int, dtype: Any) -> None:
    halves = np.linspace(-3, 3, count + 2).astype(dtype)
    room = np.full(count + 2, 7, dtype)
    ann.leaky_relu(halves[1:-1], 1.0, out=room[1:-1])
    np.testing.assert_array_equal(room[1:-1], halves[1:-1])
    assert room[0] == room[-1] == 7


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_any_strides(dtype: Any) -> None:
    a = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5).astype(dtype)
    swapped = a.astype(">f2") if dtype == np.float16 else a
    repeated = np.broadcast_to(a[0], a.shape)
    for view in (a.T, a[::-1], a[:, 1:2], a.transpose(0, 2, 3, 1), a[..., ::2], repeated, swapped):
        y = ann.leaky_relu(view, 1.0)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, view)
    unaligned = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(dtype).reshape(a.shape)
    np.testing.assert_array_equal(ann.leaky_relu(unaligned, 1.0), a)
    last = np.zeros((2, 5, 4, 3), dtype).transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(ann.leaky_relu(a, 1.0, out=last), a)
