"""dropout against the reference: the same mask for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits, check_bad, check_op, check_out, check_overlap, check_threads
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from shapes import HALF, LENGTHS, WIDE, arrays, channels_last, is_channels_last, values, wide_dtypes, widths


@given(
    st.data(),
    wide_dtypes,
    st.lists(st.integers(0, 5), max_size=3),
    widths,
    st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.999, 1.0]),
    st.integers(0, 2**40),
)
def test_dropout(data: Any, dtype: Any, shape: list[int], last: int, p: float, seed: int) -> None:
    x = data.draw(arrays((*shape, last), dtype, ("normal", "nan")))
    check_op("dropout", x, p, rng=seed)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_every_length(dtype: Any) -> None:
    for n in (*LENGTHS, 70_001):
        check_op("dropout", values((n,), dtype, 1), 0.3, rng=n)
    check_op("dropout", np.asarray(values((), dtype, 1)), 0.3, rng=1)


def test_the_mask_depends_on_the_place_and_not_on_the_layout() -> None:
    x = values((3, 5, 4, 7), np.float32, 1)
    expected = ann.dropout(x, 0.5, rng=5)
    for other in (channels_last(x), np.asfortranarray(x), x[::-1].copy()[::-1], np.repeat(x, 2, 3)[..., ::2]):
        np.testing.assert_array_equal(ann.dropout(other, 0.5, rng=5), expected)
        check_op("dropout", other, 0.5, rng=5)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_scale(p: float) -> None:
    y = ann.dropout(np.ones(200_000), p, rng=3)
    assert set(np.unique(y)) == {0.0, 1 / (1 - p)}
    assert abs((y != 0).mean() - (1 - p)) < 0.005
    pairs = (y[:-1] != 0) & (y[1:] != 0)
    assert abs(pairs.mean() - (1 - p) ** 2) < 0.01


def test_rng() -> None:
    x = np.ones(1000, np.float32)
    generator, twin = np.random.default_rng(3), np.random.default_rng(3)
    first = ann.dropout(x, rng=generator)
    np.testing.assert_array_equal(first, ann.dropout(x, rng=3))
    np.testing.assert_array_equal(first, ann.reference.dropout(x, rng=twin))
    second = ann.dropout(x, rng=generator)
    assert (second != first).any()
    np.testing.assert_array_equal(second, ann.reference.dropout(x, rng=twin))
    assert (ann.dropout(x) != ann.dropout(x)).any()
    np.testing.assert_array_equal(ann.vjp(ann.dropout, x, rng=3)[0], first)


def test_nothing_is_dropped_without_training() -> None:
    x = values((4, 5), np.float32, 1, "nan")
    for y in (ann.dropout(x, 0.5, False), ann.dropout(x, 0.5, training=False), ann.dropout(x, 0.0)):
        assert_same_bits(y, x)
        assert not np.shares_memory(y, x)
    check_op("dropout", x, 0.5, False)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half(dtype: Any) -> None:
    assert check_op("dropout", values((5, 37), dtype, 1), 0.3, rng=1).dtype == dtype


@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5), (0, 3)])
def test_out(shape: tuple[int, ...]) -> None:
    x = np.asarray(values(shape, np.float32, 1))
    check_out("dropout", x, rng=1)
    check_out("dropout", x, 0.5, False)
    check_overlap("dropout", x, rng=1)


def test_channels_last_stays_channels_last() -> None:
    x = channels_last(values((2, 5, 3, 4), np.float32, 1))
    y, pullback = ann.vjp(ann.dropout, x, rng=1)
    assert is_channels_last(y)
    assert is_channels_last(pullback(x)[0])


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads() -> None:
    check_threads("dropout", values((70_001,), np.float32, 1), 0.3, rng=2)
    check_threads("dropout", channels_last(values((3, 7, 60, 61), np.float32, 1)), 0.3, rng=2)


X = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("error", "argument", "args", "options"),
    [
        (TypeError, "input", (X.tolist(),), {}),
        (TypeError, "input", (X.astype(int),), {}),
        (ValueError, "p", (X, -0.1), {}),
        (ValueError, "p", (X, 1.1), {}),
        (ValueError, "p", (X, float("nan")), {}),
        (TypeError, "p", (X, "a"), {}),
        (TypeError, "p", (X, None), {}),
        (TypeError, "rng", (X,), dict(rng="a")),
        (TypeError, "rng", (X,), dict(rng=1.5)),
    ],
)
def test_bad(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad("dropout", error, argument, *args, **options)
