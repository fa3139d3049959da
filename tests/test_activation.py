"""relu, sigmoid, tanh, softmax and log_softmax against the reference and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks import check_bad, check_op, check_out, check_overlap, check_threads, cotangent_of
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from shapes import (
    FLOAT32,
    HALF,
    LENGTHS,
    WIDE,
    arrays,
    channels_last,
    is_channels_last,
    values,
    wide_dtypes,
    widths,
)
from tolerance import assert_close, compute_dtype, eps, largest

POINTWISE = ("relu", "sigmoid", "tanh")
ROWS = ("softmax", "log_softmax")


def check(name: str, x: Any, *args: Any) -> Any:
    """Gradients come from the saved output: what it lost by rounding, they cannot know.

    exp(x - max) is as wrong, relative to itself, as x - max is absolutely: by an ulp for each unit
    of the difference, as far down as exp goes.
    """
    unit = eps(x.dtype) / eps(compute_dtype(x.dtype))
    if name in POINTWISE:
        return check_op(name, x, *args, bounds={"input": (2 * unit + 2, 1)})
    size = x.shape[args[0] if args else -1] if x.ndim else 1
    depth = min(2 * largest(x), 104 if compute_dtype(x.dtype) == np.float32 else 746)
    scale = 1 + size**0.5
    return check_op(
        name,
        x,
        *args,
        bounds={
            "out": (2 if name == "log_softmax" else 0, scale, 4 + depth),
            "input": (4 * unit + 4, scale, 8 + 3 * depth),
        },
    )


@given(st.data(), wide_dtypes, st.lists(st.integers(0, 5), max_size=3), widths)
def test_pointwise(data: Any, dtype: Any, shape: list[int], last: int) -> None:
    x = data.draw(arrays((*shape, last), dtype, ("normal", "outliers", "ties", "nan")))
    for name in POINTWISE:
        check(name, x)


@given(st.data(), wide_dtypes, st.lists(widths, min_size=1, max_size=3), st.sampled_from(ROWS))
def test_rows(data: Any, dtype: Any, shape: list[int], name: str) -> None:
    shape = [min(n, 6) for n in shape[:-1]] + shape[-1:]
    shape = data.draw(st.permutations(shape))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = data.draw(arrays(shape, dtype, ("normal", "outliers", "ties", "inf", "nan")))
    check(name, x, axis)


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_every_length(name: str, dtype: Any) -> None:
    for n in LENGTHS:
        check(name, values((n,), dtype, n, "outliers"))
    check(name, np.asarray(values((), dtype, 1)))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_every_row_length(name: str, dtype: Any) -> None:
    for n in LENGTHS:
        check(name, values((3, n), dtype, n, "outliers"))
        check(name, values((n, 3), dtype, n, "outliers"), 0)
    check(name, np.asarray(values((), dtype, 1)), 0)
    check(name, values((2, 0, 3), dtype, 1), -1)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_sigmoid_and_tanh_over_the_whole_range(dtype: Any) -> None:
    """At most 2 ulp, with one more for the rounding of the expected value to the dtype."""
    ends = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 88.8, -88.8, 104, -104, 710, -710, 746, -746, 1e30, -1e30]
    )
    tiny = 10.0 ** np.arange(-37, 3, 0.25)
    steps = np.linspace(-30, 30, 40001)
    x = np.concatenate([ends, tiny, -tiny, steps]).astype(dtype)
    for name in ("sigmoid", "tanh"):
        expected = getattr(ann.reference, name)(x.astype(np.float64))
        actual = getattr(ann, name)(x)
        assert_close(actual, expected.astype(np.float64), ulps=1)
        zero = actual[x == 0]
        np.testing.assert_array_equal(
            np.signbit(zero), np.signbit(getattr(np, name, np.ones_like)(x[x == 0]))
        )


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_rows_with_outliers(dtype: Any) -> None:
    """Large logits must not overflow and small ones not vanish from log_softmax."""
    rows = np.zeros((8, 37))
    rows[0, 36], rows[1, 0], rows[2, 35], rows[3, :] = 1e4, -1e4, 1e30, 1e4
    rows[4, 5], rows[5, :], rows[6, 36], rows[7, 1] = -np.inf, -np.inf, np.inf, np.nan
    for name in ROWS:
        check(name, rows.astype(dtype))
        check(name, np.ascontiguousarray(rows.T.astype(dtype)), 0)


def test_relu_keeps_nan_and_drops_at_zero() -> None:
    x = np.array([np.nan, 0.0, -0.0, -1, 1, -np.inf, np.inf] * 5, np.float32)
    y, pullback = ann.vjp(ann.relu, x)
    np.testing.assert_array_equal(y, [np.nan, 0, 0, 0, 1, 0, np.inf] * 5)
    np.testing.assert_array_equal(pullback(np.ones_like(x))[0], [1, 0, 0, 0, 1, 0, 1] * 5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", POINTWISE + ROWS)
def test_half(name: str, dtype: Any) -> None:
    assert check(name, values((5, 37), dtype, 1)).dtype == dtype


@pytest.mark.parametrize("name", POINTWISE + ROWS)
@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5), (0, 3)])
def test_out(name: str, shape: tuple[int, ...]) -> None:
    x = np.asarray(values(shape, np.float32, 1))
    check_out(name, x)
    check_overlap(name, x)
    if x.size:
        buffer = x.copy()
        with pytest.raises(ValueError, match=rf"^{name}: .*out"):
            getattr(ann, name)(buffer, out=buffer)
        np.testing.assert_array_equal(buffer, x)


@pytest.mark.parametrize("name", POINTWISE + ROWS)
def test_channels_last_stays_channels_last(name: str) -> None:
    x = channels_last(values((2, 5, 3, 4), np.float32, 1))
    y, pullback = ann.vjp(getattr(ann, name), x, *((1,) if name in ROWS else ()))
    if name in POINTWISE:
        assert is_channels_last(y)
        assert is_channels_last(pullback(channels_last(cotangent_of(y)))[0])
    check(name, x, *((1,) if name in ROWS else ()))


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", POINTWISE + ROWS)
def test_same_bits_for_any_number_of_threads(name: str) -> None:
    check_threads(name, values((500, 203), np.float32, 1))
    if name in ROWS:
        check_threads(name, values((203, 500), np.float32, 1), 0)


@pytest.mark.parametrize("name", POINTWISE + ROWS)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_torch(name: str, dtype: Any) -> None:
    x = values((6, 19), dtype, 1, "outliers")
    axis = (0,) if name in ROWS else ()
    y, pullback = ann.vjp(getattr(ann, name), x, *axis)
    tx = torch.tensor(x, requires_grad=True)
    ty = getattr(torch, name)(tx, *axis)
    assert_close(y, ty.detach().numpy(), terms=2, scale=4)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    assert_close(pullback(dy)[0], tx.grad.numpy(), terms=4, scale=4)


@pytest.mark.parametrize("name", POINTWISE + ROWS)
def test_bad(name: str) -> None:
    x = np.ones((3, 4), FLOAT32)
    for bad in (
        x.tolist(),
        1.0,
        np.float32(1),
        x.astype(int),
        x > 0,
        x.astype(complex),
        x.astype(object),
        None,
    ):
        check_bad(name, TypeError, "input", bad)
    if name in ROWS:
        for axis in (2, -3):
            check_bad(name, ValueError, "axis", x, axis)
        for axis in (1.0, None, (0, 1), "0"):
            check_bad(name, TypeError, "axis", x, axis)
