"""linear against the reference and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import check_bad, check_op, check_out, check_overlap, check_threads, cotangent_of
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from shapes import HALF, WIDE, arrays, lengths, values, wide_dtypes, widths
from tolerance import assert_close, largest


def check(x: Any, w: Any, b: Any = None) -> Any:
    rows = max(1, int(np.prod(x.shape[:-1])))
    bounds = {
        "out": (w.shape[1] + 1, largest(x) * largest(w) + (largest(b) if b is not None else 0)),
        "input": (w.shape[0], largest(w)),
        "weight": (rows, largest(x)),
        "bias": (rows, 1.0),
    }
    return check_op("linear", x, w, b, bounds=bounds)


@given(st.data(), wide_dtypes, st.lists(st.integers(0, 4), max_size=2), lengths, widths)
def test_linear(data: Any, dtype: Any, batch: list[int], features: int, outputs: int) -> None:
    x = data.draw(arrays((*batch, features), dtype, ("normal", "outliers"), spatial=0))
    w = data.draw(arrays((outputs, features), dtype, spatial=0))
    check(x, w, data.draw(st.none() | arrays((outputs,), dtype)))


@given(st.data(), wide_dtypes, widths, widths, widths)
def test_every_tail_of_the_product(data: Any, dtype: Any, rows: int, features: int, outputs: int) -> None:
    check(data.draw(arrays((rows, features), dtype)), data.draw(arrays((outputs, features), dtype)))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1031, 1),
        (257, 3, 129),
        (64, 700, 70),
        (300, 257, 37),
        (400, 1100, 300),  # blocks of rows for several panels, and of k
        (600, 33, 250),
        (3, 5, 1031),
        (1, 300, 300),
        # weights read where they lie, for a narrow panel of rows, three quarters of a wide one, two wide ones
        (30, 201, 90),
        (45, 130, 71),
        (100, 260, 130),
    ],
)
def test_more_than_one_block(sizes: tuple[int, int, int], dtype: Any) -> None:
    """Sizes that fill the blocks of the product more than once, with a rest."""
    rows, features, outputs = sizes
    x, w, b = (
        values((rows, features), dtype, 1),
        values((outputs, features), dtype, 2),
        values((outputs,), dtype, 3),
    )
    check(x, w, b)
    check(x.T.copy().T, np.asfortranarray(w), b)


def test_infinity_and_nan_stay_in_their_row() -> None:
    x = values((5, 9), np.float32, 1)
    x[1, 8], x[3, 0] = np.inf, np.nan
    w = values((7, 9), np.float32, 2)
    check_op("linear", x[[0, 1, 2, 3, 4]], w, bounds={"all": (9, 10), "weight": (5, 10)})
    y = ann.linear(x, w)
    assert np.isnan(y[3]).all()
    assert np.isinf(y[1]).all()
    assert np.isfinite(y[[0, 2, 4]]).all()


def test_zero_features_is_the_bias() -> None:
    x, w, b = np.ones((3, 0)), np.ones((4, 0)), np.arange(4.0)
    np.testing.assert_array_equal(ann.linear(x, w, b), np.broadcast_to(b, (3, 4)))
    np.testing.assert_array_equal(ann.linear(x, w), np.zeros((3, 4)))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    "sizes",
    [(15, 33, 17), (1, 64, 9), (20, 130, 50), (40, 96, 60), (70, 300, 81), (300, 1100, 37), (4, 0, 3)],
)
def test_half(sizes: tuple[int, int, int], dtype: Any) -> None:
    rows, features, outputs = sizes
    x, w = values((rows, features), dtype, 1), values((outputs, features), dtype, 2)
    b = values((outputs,), dtype, 3)
    assert check(x, w, b).dtype == dtype
    check(x, np.asfortranarray(w))
    odd = np.concatenate([values((1,), dtype, 4), x.ravel()])[1:].reshape(
        x.shape
    )  # pairs that straddle floats
    check(odd, values((outputs, 2 * features), dtype, 5)[:, ::2])
    check(x, values((outputs, features + 1), dtype, 6)[:, 1:], b)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_is_summed_in_float32_and_rounded_once(dtype: Any) -> None:
    """Sums that lie between two results, or one bit beside, are rounded to the nearest, ties to even."""
    big, small = np.meshgrid(np.arange(1, 3, 1 / 16), np.ldexp(1.0, -np.arange(1, 22)))
    x = np.stack([big.ravel(), small.ravel(), small.ravel() / 64], 1).astype(dtype)
    wide = x.astype(np.float32)
    y = ann.linear(x, np.ones((1, 3), dtype))
    np.testing.assert_array_equal(y[:, 0], (wide[:, 0] + wide[:, 1] + wide[:, 2]).astype(dtype))
    many = ann.linear(np.ones((2, 3000), dtype), np.ones((1, 3000), dtype))
    np.testing.assert_array_equal(many, np.full((2, 1), 3000, dtype))


def test_infinity_and_nan_of_halves() -> None:
    for dtype in HALF:
        x = values((5, 9), dtype, 1)
        x[1, 8], x[3, 0] = np.inf, np.nan
        y = ann.linear(x, values((7, 9), dtype, 2)).astype(np.float32)
        assert np.isnan(y[3]).all()
        assert np.isinf(y[1]).all()
        assert np.isfinite(y[[0, 2, 4]]).all()


def test_mixed_dtypes() -> None:
    x, w, b = values((3, 5), np.float32, 1), values((4, 5), np.float64, 2), values((4,), np.float16, 3)
    assert check(x, w, b).dtype == np.float64
    assert check(x.astype(np.float16), w.astype(np.float32), b).dtype == np.float32


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_out(shape: tuple[int, ...]) -> None:
    x, w, b = values(shape, np.float32, 1), values((4, 5), np.float32, 2), values((4,), np.float32, 3)
    check_out("linear", x, w, b)
    check_overlap("linear", x, w, b)


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads() -> None:
    for rows, features, outputs in ((130, 300, 270), (1, 700, 900), (2000, 40, 10), (90, 300, 400)):
        x, w = values((rows, features), np.float32, 1), values((outputs, features), np.float32, 2)
        check_threads("linear", x, w, values((outputs,), np.float32, 3))
        for dtype in HALF:
            check_threads("linear", x.astype(dtype), w.astype(dtype))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_torch(dtype: Any) -> None:
    x, w, b = values((3, 4, 33), dtype, 1), values((18, 33), dtype, 2), values((18,), dtype, 3)
    y, pullback = ann.vjp(ann.linear, x, w, b)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    ty = F.linear(tx, tw, tb)
    assert_close(y, ty.detach().numpy(), terms=33, scale=9)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    for g, t in zip(pullback(dy), (tx, tw, tb), strict=True):
        assert_close(g, t.grad.numpy(), terms=33, scale=3)


X, W, B = np.ones((2, 5)), np.ones((4, 5)), np.ones(4)


@pytest.mark.parametrize(
    ("error", "argument", "args"),
    [
        (TypeError, "input", (X.tolist(), W)),
        (TypeError, "input", (1.0, W)),
        (TypeError, "input", (X.astype(int), W)),
        (TypeError, "weight", (X, W.tolist())),
        (TypeError, "weight", (X, W.astype(bool))),
        (TypeError, "bias", (X, W, B.tolist())),
        (TypeError, "bias", (X, W, B.astype(np.uint8))),
        (ValueError, "input", (np.asarray(1.0), W)),
        (ValueError, "weight", (X, W[None])),
        (ValueError, "input", (X[:, :4], W)),
        (ValueError, "input", (X.T, W)),
        (ValueError, "bias", (X, W, B[:3])),
        (ValueError, "bias", (X, W, B[:1])),
        (ValueError, "bias", (X, W, B[None])),
    ],
)
def test_bad(error: Any, argument: str, args: Any) -> None:
    check_bad("linear", error, argument, *args)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weight_of_one_output(dtype: Any) -> None:
    x, w = values((4, 3, 7), dtype, 1), values((7,), dtype, 2)
    for bias in (None, np.asarray(values((1,), dtype, 3)[0])):
        check_op("linear", x, w, bias, bounds={"all": (24, 30)})
        target = F.linear(*(None if a is None else torch.tensor(a) for a in (x, w, bias)))
        assert_close(ann.linear(x, w, bias), target.numpy(), terms=8, scale=30)
