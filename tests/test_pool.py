"""max_pool2d, avg_pool2d and adaptive_avg_pool2d against the reference and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import check_bad, check_op, check_out, check_overlap, check_threads, cotangent_of, refuses
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from shapes import HALF, WIDE, arrays, channels_last, is_channels_last, lay, values, wide_dtypes, widths
from tolerance import assert_close, largest

NAMES = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")


def check(name: str, x: Any, *args: Any, **options: Any) -> Any:
    """A window of the mean sums its entries; an entry's gradient sums the windows over it."""
    entries = 0 if name == "max_pool2d" else x.shape[-1] * x.shape[-2]
    places = max(1, x.shape[-1] * x.shape[-2])
    bounds = {"out": (min(entries, 64), largest(x)), "input": (min(places, 64), 1.0)}
    return check_op(name, x, *args, bounds=bounds, **options)


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...], dilated: bool) -> tuple[Any, dict[str, Any]]:
    def pair(low: int, high: int) -> Any:
        return draw(st.integers(low, high) | st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel = pair(1, 5)
    height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = (draw(st.integers(0, height // 2)), draw(st.integers(0, width // 2)))
    dilation = pair(1, 3) if dilated else 1
    down, along = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    size = (
        max(1, down * (height - 1) + 1 - 2 * padding[0]) + draw(st.integers(0, 7)),
        max(1, along * (width - 1) + 1 - 2 * padding[1]) + draw(widths) - 1,
    )
    batch = draw(st.sampled_from([(1,), (3,), (0, 2), (1, 9), (2, 17), (3, 4)]))
    x = draw(arrays((*batch, *size), draw(wide_dtypes), kinds))
    options = dict(
        kernel_size=kernel,
        stride=draw(st.none()) or (None if draw(st.booleans()) else pair(1, 4)),
        padding=padding,
    )
    options["ceil_mode"] = draw(st.booleans())
    if dilated:
        options["dilation"] = dilation
    return x, options


@given(cases(("ties", "normal", "inf", "nan"), True), st.booleans())
def test_max_pool2d(case: Any, return_indices: bool) -> None:
    x, options = case
    check("max_pool2d", x, return_indices=return_indices, **options)


@given(cases(("normal", "outliers", "nan"), False), st.booleans(), st.sampled_from([None, None, 3, -2]))
def test_avg_pool2d(case: Any, count_include_pad: bool, divisor: int | None) -> None:
    x, options = case
    check("avg_pool2d", x, count_include_pad=count_include_pad, divisor_override=divisor, **options)


@given(
    st.data(), wide_dtypes, st.integers(1, 12), widths, st.sampled_from([(1,), (3,), (0, 2), (1, 9), (2, 17)])
)
def test_adaptive_avg_pool2d(data: Any, dtype: Any, height: int, width: int, batch: tuple[int, ...]) -> None:
    size = st.integers(1, 9)
    x = data.draw(arrays((*batch, height, width), dtype, ("normal", "outliers")))
    check("adaptive_avg_pool2d", x, data.draw(size | st.tuples(st.none() | size, st.none() | size)))


CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 32, 32), dict(kernel_size=2)),
    ((2, 3, 33, 35), dict(kernel_size=2, stride=2)),
    ((1, 17, 28, 29), dict(kernel_size=3, stride=2, padding=1)),
    ((2, 8, 14, 14), dict(kernel_size=3, stride=1, padding=1)),
    ((1, 2, 9, 200), dict(kernel_size=(1, 5), stride=(1, 3))),
    ((3, 5, 7, 7), dict(kernel_size=7)),
    ((1, 33, 6, 7), dict(kernel_size=2, stride=1, ceil_mode=True)),
    ((1, 4, 8, 8), dict(kernel_size=2, stride=5, ceil_mode=True)),
    ((4, 1, 1), dict(kernel_size=1)),
]


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
@pytest.mark.parametrize("name", NAMES[:2])
def test_case(name: str, shape: tuple[int, ...], options: dict[str, Any], dtype: Any) -> None:
    for kind in ("normal", "ties"):
        x = values(shape, dtype, 1, kind)
        check(name, x, **options)
        check(name, channels_last(x), **options)


@pytest.mark.parametrize("layout", ["c", "channels-last", "strided", "reversed"])
def test_the_first_of_equals_and_the_last_nan(layout: str) -> None:
    x = np.zeros((2, 19, 8, 9), np.float32)
    y, index = ann.max_pool2d(lay(x, layout), 2, return_indices=True)
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index[1, 18], 2 * np.arange(4) + 18 * np.arange(4)[:, None])
    x[:, :, ::2, 1::2] = np.nan
    x[:, :, 1::2, ::2] = np.nan
    y, index = ann.max_pool2d(lay(x, layout), 2, return_indices=True)
    assert np.isnan(y).all()
    np.testing.assert_array_equal(index[1, 18], 9 + 2 * np.arange(4) + 18 * np.arange(4)[:, None])
    y, index = ann.max_pool2d(lay(np.full_like(x, -np.inf), layout), 3, 2, 1, return_indices=True)
    assert np.isneginf(y).all()
    assert index[0, 0, 0, 0] == 0


@pytest.mark.parametrize("layout", ["c", "channels-last"])
def test_overlapping_windows_add_their_gradients(layout: str) -> None:
    x = np.zeros((2, 5, 5, 6), np.float32)
    x[:, :, 2, 3] = 1  # the maximum of all nine windows around it
    x = lay(x, layout)
    for indices in (False, True):
        _, pullback = ann.vjp(ann.max_pool2d, x, 3, 1, 1, return_indices=indices)
        dout = np.ones((2, 5, 5, 6), np.float32)
        (dx,) = pullback((dout, None) if indices else dout)
        np.testing.assert_array_equal(dx[:, :, 2, 3], 9)
        assert dx.sum() == dout.sum()


def test_a_window_of_nothing_but_padding() -> None:
    """Dilation can step over a whole input: -inf, an index of -1, and no gradient."""
    x = np.ones((1, 2, 1, 1), np.float32)
    y, index = check("max_pool2d", x, 2, 1, 1, 2, return_indices=True)
    assert np.isneginf(y).all()
    assert (index == -1).all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    ("name", "args"), [("max_pool2d", (3, 2, 1)), ("avg_pool2d", (3, 2, 1)), ("adaptive_avg_pool2d", (3,))]
)
def test_half(name: str, args: Any, dtype: Any) -> None:
    assert check(name, values((2, 5, 9, 8), dtype, 1, "ties"), *args).dtype == dtype
    assert check(name, values((2, 5, 9, 8), dtype, 1), *args).dtype == dtype


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (3, 8, 9), (0, 3, 8, 9)])
def test_out(name: str, shape: tuple[int, ...]) -> None:
    x = values(shape, np.float32, 1)
    check_out(name, x, 2)
    check_overlap(name, x, 2)


def test_out_with_indices_is_refused() -> None:
    x, out = np.ones((1, 4, 4), np.float32), np.zeros((1, 2, 2), np.float32)
    for op in (ann.max_pool2d, ann.reference.max_pool2d):
        refuses(TypeError, r"^max_pool2d: .*out", op, x, 2, return_indices=True, out=out)
    assert not out.any()


@pytest.mark.parametrize(
    ("name", "args"), [("max_pool2d", (2,)), ("avg_pool2d", (3, 2, 1)), ("adaptive_avg_pool2d", (4,))]
)
def test_channels_last_stays_channels_last(name: str, args: Any) -> None:
    x = channels_last(values((2, 5, 9, 8), np.float32, 1))
    y, pullback = ann.vjp(getattr(ann, name), x, *args)
    assert is_channels_last(y)
    assert is_channels_last(getattr(ann, name)(x, *args))
    assert is_channels_last(pullback(channels_last(cotangent_of(y)))[0])


@pytest.mark.cpu_only
@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last], ids=["c", "channels-last"])
@pytest.mark.parametrize(
    ("name", "args"), [("max_pool2d", (3, 2, 1)), ("avg_pool2d", (3, 2, 1)), ("adaptive_avg_pool2d", (7,))]
)
def test_same_bits_for_any_number_of_threads(name: str, args: Any, layout: Any) -> None:
    check_threads(name, layout(values((3, 20, 61, 53), np.float32, 1)), *args)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("max_pool2d", (3, 2, 1)),
        ("avg_pool2d", (3, 2, 1, True, False)),
        ("adaptive_avg_pool2d", ((3, None),)),
    ],
)
def test_torch(name: str, args: Any, dtype: Any) -> None:
    x = values((2, 4, 11, 12), dtype, 1, "ties")
    y, pullback = ann.vjp(getattr(ann, name), x, *args)
    tx = torch.tensor(x, requires_grad=True)
    ty = getattr(F, name)(tx, *args)
    assert_close(y, ty.detach().numpy(), terms=9, scale=2)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    assert_close(pullback(dy)[0], tx.grad.numpy(), terms=9)


X = np.ones((2, 3, 6, 7), np.float32)

BAD: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
    (TypeError, "input", (X.tolist(), 2), {}),
    (TypeError, "input", (X.astype(int), 2), {}),
    (TypeError, "input", (X > 0, 2), {}),
    (TypeError, "input", (None, 2), {}),
    (ValueError, "input", (X[0, 0], 2), {}),
    (ValueError, "input", (X[None], 2), {}),
    (ValueError, "kernel_size", (X, 0), {}),
    (ValueError, "kernel_size", (X, (2, -1)), {}),
    (ValueError, "kernel_size", (X, (2, 2, 2)), {}),
    (TypeError, "kernel_size", (X, 2.0), {}),
    (TypeError, "kernel_size", (X, None), {}),
    (TypeError, "kernel_size", (X, "2"), {}),
    (ValueError, "stride", (X, 2, 0), {}),
    (ValueError, "stride", (X, 2, (1, -1)), {}),
    (TypeError, "stride", (X, 2, 0.5), {}),
    (ValueError, "padding", (X, 2), dict(padding=-1)),
    (ValueError, "padding", (X, 2), dict(padding=2)),
    (ValueError, "padding", (X, (3, 2)), dict(padding=(2, 1))),
    (ValueError, "padding", (X, 2), dict(padding=(1, 1, 1))),
    (TypeError, "padding", (X, 2), dict(padding=1.0)),
    (ValueError, "input", (X, 8), {}),
    (ValueError, "input", (X[:0], 8), {}),
    (ValueError, "input", (X[..., :0], 1), {}),
]


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize(("error", "argument", "args", "options"), BAD)
def test_bad(name: str, error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad(name, error, argument, *args, **options)


def test_bad_of_one_op() -> None:
    check_bad("max_pool2d", ValueError, "dilation", X, 2, dilation=0)
    check_bad("max_pool2d", ValueError, "padding", X, 3, padding=2, dilation=2)
    check_bad("max_pool2d", TypeError, "dilation", X, 2, dilation=1.0)
    check_bad("max_pool2d", ValueError, "input", X, 3, dilation=4)
    check_bad("avg_pool2d", ValueError, "divisor_override", X, 2, divisor_override=0)
    check_bad("avg_pool2d", TypeError, "divisor_override", X, 2, divisor_override=1.5)


@pytest.mark.parametrize(
    ("error", "argument", "args"),
    [
        (TypeError, "input", (X.tolist(), 2)),
        (TypeError, "input", (X.astype(int), 2)),
        (ValueError, "input", (X[0, 0], 2)),
        (ValueError, "input", (X[..., :0], 2)),
        (ValueError, "output_size", (X, -1)),
        (ValueError, "output_size", (X, (2, 2, 2))),
        (TypeError, "output_size", (X, 2.0)),
        (TypeError, "output_size", (X, None)),
        (TypeError, "output_size", (X, (2, "2"))),
    ],
)
def test_bad_adaptive(error: Any, argument: str, args: Any) -> None:
    check_bad("adaptive_avg_pool2d", error, argument, *args)
