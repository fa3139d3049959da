"""Pooling along one, two and three axes against the reference and PyTorch."""

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
from tolerance import assert_close, eps, largest

NAMES = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
DIMS = (1, 2, 3)
LEADS = ((1,), (3,), (0, 2), (1, 9), (2, 17))


def check(name: str, x: Any, *args: Any, **options: Any) -> Any:
    """A window of the mean sums its entries; an entry's gradient sums the windows over it."""
    places = max(1, int(np.prod(x.shape[-int(name[-2]) :])))
    bounds = {"out": (0 if "max" in name else min(places, 64), largest(x)), "input": (min(places, 64), 1.0)}
    return check_op(name, x, *args, bounds=bounds, **options)


@st.composite
def cases(draw: st.DrawFn, dims: int, kinds: tuple[str, ...], dilated: bool) -> tuple[Any, dict[str, Any]]:
    def per_axis(low: int, high: int) -> Any:
        return draw(st.integers(low, high) | st.tuples(*[st.integers(low, high)] * dims))

    def spelled(option: Any) -> tuple[int, ...]:
        return option if isinstance(option, tuple) else (option,) * dims

    kernel = per_axis(1, 5 if dims < 3 else 3)
    padding = tuple(draw(st.integers(0, k // 2)) for k in spelled(kernel))
    dilation = per_axis(1, 3) if dilated else 1
    more = [st.integers(0, 7 if dims < 3 else 3)] * (dims - 1) + [widths.map(lambda width: width - 1)]
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(m)
        for d, k, p, m in zip(spelled(dilation), spelled(kernel), padding, more, strict=True)
    ]
    lead = draw(st.sampled_from(LEADS))
    x = draw(arrays((*lead, *size), draw(wide_dtypes), kinds, spatial=dims))
    options = dict(
        kernel_size=kernel,
        stride=draw(st.none()) or (None if draw(st.booleans()) else per_axis(1, 4)),
        padding=padding,
    )
    options["ceil_mode"] = draw(st.booleans())
    if dilated:
        options["dilation"] = dilation
    return x, options


@pytest.mark.parametrize("dims", DIMS)
@given(st.data(), st.booleans())
def test_max_pool(dims: int, data: Any, return_indices: bool) -> None:
    x, options = data.draw(cases(dims, ("ties", "normal", "inf", "nan"), True))
    check(f"max_pool{dims}d", x, return_indices=return_indices, **options)


@pytest.mark.parametrize("dims", DIMS)
@given(st.data(), st.booleans(), st.sampled_from([None, None, 3, -2]))
def test_avg_pool(dims: int, data: Any, count_include_pad: bool, divisor: int | None) -> None:
    x, options = data.draw(cases(dims, ("normal", "outliers", "nan"), False))
    if dims > 1:
        options["divisor_override"] = divisor
    check(f"avg_pool{dims}d", x, count_include_pad=count_include_pad, **options)


@pytest.mark.parametrize("dims", DIMS)
@given(st.data(), wide_dtypes, st.booleans())
def test_adaptive_pool(dims: int, data: Any, dtype: Any, return_indices: bool) -> None:
    few = st.integers(1, 12 if dims < 3 else 5)
    shape = (
        *data.draw(st.sampled_from(LEADS)),
        *(data.draw(few) for _ in range(dims - 1)),
        data.draw(widths),
    )
    size = st.integers(1, 9 if dims < 3 else 5)
    wanted = data.draw(size | st.tuples(*[st.none() | size] * dims))
    x = data.draw(arrays(shape, dtype, ("normal", "outliers"), spatial=dims))
    check(f"adaptive_avg_pool{dims}d", x, wanted)
    x = data.draw(arrays(shape, dtype, ("ties", "inf", "nan"), spatial=dims))
    check(f"adaptive_max_pool{dims}d", x, wanted, return_indices=return_indices)


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
    ((2, 9, 130), dict(kernel_size=3, stride=2, padding=1)),
    ((1, 3, 300), dict(kernel_size=257, stride=7, padding=64)),
    ((2, 3, 4, 6, 18), dict(kernel_size=2)),
    ((1, 4, 5, 6, 35), dict(kernel_size=3, stride=2, padding=1)),
    ((1, 2, 8, 8, 9), dict(kernel_size=7, stride=1)),
    ((2, 3, 56, 57), dict(kernel_size=8)),  # windows that are a vector, or a part of one
    ((1, 3, 40, 71), dict(kernel_size=7, stride=6)),
    ((1, 2, 33, 50), dict(kernel_size=(5, 6), stride=5)),
    ((1, 8, 16, 16), dict(kernel_size=5, ceil_mode=True)),  # the fourth window has one column, or three
    ((1, 8, 18, 18), dict(kernel_size=5, ceil_mode=True)),
    ((3, 17, 3, 4, 5), dict(kernel_size=(3, 4, 5))),
]


def name_of(kind: str, shape: tuple[int, ...]) -> str:
    """Return the op's name for a shape; those of 3 axes are lines with a batch if the second one is long."""
    return f"{kind}{len(shape) - 2 if len(shape) > 3 else 1 if shape[2] > 100 else 2}d"


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
def test_case(kind: str, shape: tuple[int, ...], options: dict[str, Any], dtype: Any) -> None:
    name = name_of(kind, shape)
    for numbers in ("normal", "ties"):
        x = values(shape, dtype, 1, numbers)
        check(name, x, **options)
        check(name, channels_last(x, int(name[-2])), **options)


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", [*WIDE, *HALF], ids=str)
def test_the_mean_of_very_many(dtype: Any) -> None:
    """One sum of a million numbers, element after element, is off by a thousandth in float32."""
    x = np.full((1, 2, 1000, 1003), 0.1, dtype)
    error = ann.adaptive_avg_pool2d(x, 1).astype(np.float64) / x[0, 0, 0, 0].astype(np.float64) - 1
    assert np.abs(error).max() < 128 * eps(np.float32 if dtype in HALF else dtype)


def test_large_adaptive_windows() -> None:
    """Windows of more taps than a byte can name, and more windows over an entry than that."""
    for x, size in (
        (values((1, 3, 40, 41), np.float32, 1, "ties"), 2),
        (values((1, 3, 2, 3, 3), np.float32, 1, "ties"), 10),
        (values((2, 2, 9, 10, 11), np.float32, 1, "ties"), (1, 1, 2)),
    ):
        dims = x.ndim - 2
        for a in (x, channels_last(x, dims)):
            check(f"adaptive_avg_pool{dims}d", a, size)
            check(f"adaptive_max_pool{dims}d", a, size, return_indices=True)


@pytest.mark.parametrize("dims", [2, 3])
def test_more_taps_than_32_bits_count(dims: int) -> None:
    """Every window holds all of the input, so that the result is known without a look at each tap."""
    size, pad = (70000, 35000) if dims == 2 else (2000, 1000)
    x = values((2, 3, *(3,) * dims), np.float32, 1)
    for a in (x, channels_last(x, dims)):
        flat = x.reshape(2, 3, -1)
        best = flat.argmax(-1).reshape(2, 3, *(1,) * dims)
        (y, index), pullback = ann.vjp(getattr(ann, f"max_pool{dims}d"), a, size, 1, pad, return_indices=True)
        assert y.shape == (2, 3, *(4,) * dims)
        np.testing.assert_array_equal(index, np.broadcast_to(best, y.shape))
        (dx,) = pullback((np.ones_like(y), None))
        np.testing.assert_array_equal(np.flatnonzero(dx[0, 0]), [best[0, 0].item()])
        assert dx.sum() == y.size
        y, pullback = ann.vjp(getattr(ann, f"avg_pool{dims}d"), a, size, 1, pad, count_include_pad=False)
        assert_close(y, np.broadcast_to(flat.mean(-1).reshape(best.shape), y.shape), terms=27)
        (dx,) = pullback(np.ones_like(y))
        assert_close(dx, np.full(x.shape, 4**dims / 3**dims, np.float32), terms=64)


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
def test_the_first_of_equals_and_the_last_nan_in_a_volume(layout: str) -> None:
    x = np.zeros((2, 5, 4, 6, 5), np.float32)
    x = lay(x, layout, 3)
    row_starts = 60 * np.arange(2)[:, None, None] + 10 * np.arange(3)[:, None]
    _, index = ann.max_pool3d(x, 2, return_indices=True)
    np.testing.assert_array_equal(index[1, 4], row_starts + 2 * np.arange(2))
    _, index = ann.adaptive_max_pool3d(x, (2, 3, None), return_indices=True)
    np.testing.assert_array_equal(index[1, 4], row_starts + np.arange(5))
    x[:, :, ::2, :, ::2] = np.nan
    y, index = ann.max_pool3d(x, 2, return_indices=True)
    assert np.isnan(y).all()
    np.testing.assert_array_equal(index[1, 4], row_starts + 2 * np.arange(2) + 5)


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
    y, index = check("max_pool3d", x[:, :, None], 2, 1, 1, 2, return_indices=True)
    assert (index == -1).all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("max_pool2d", (3, 2, 1)),
        ("avg_pool2d", (3, 2, 1)),
        ("adaptive_avg_pool2d", (3,)),
        ("adaptive_max_pool2d", (4,)),
        ("max_pool3d", (2, 1, 1)),
        ("avg_pool3d", (2, 1, 1)),
    ],
)
def test_half(name: str, args: Any, dtype: Any) -> None:
    shape = (2, 5, *(4,) * (int(name[-2]) - 2), 9, 8)
    assert check(name, values(shape, dtype, 1, "ties"), *args).dtype == dtype
    assert check(name, channels_last(values(shape, dtype, 1), len(shape) - 2), *args).dtype == dtype


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, shape) for name in NAMES for shape in [(2, 3, 8, 9), (3, 8, 9), (0, 3, 8, 9)]),
        ("max_pool1d", (2, 3, 9)),
        ("avg_pool1d", (3, 9)),
        ("adaptive_avg_pool1d", (2, 3, 9)),
        ("adaptive_max_pool1d", (3, 9)),
        ("max_pool3d", (3, 4, 5, 6)),
        ("avg_pool3d", (2, 3, 4, 5, 6)),
        ("adaptive_avg_pool3d", (2, 3, 4, 5, 6)),
        ("adaptive_max_pool3d", (3, 4, 5, 6)),
    ],
)
def test_out(name: str, shape: tuple[int, ...]) -> None:
    x = values(shape, np.float32, 1)
    check_out(name, x, 2)
    check_overlap(name, x, 2)


def test_out_with_indices_is_refused() -> None:
    x, out = np.ones((1, 4, 4), np.float32), np.zeros((1, 2, 2), np.float32)
    for name in ("max_pool2d", "adaptive_max_pool2d"):
        for op in (getattr(ann, name), getattr(ann.reference, name)):
            refuses(TypeError, rf"^{name}: .*out", op, x, 2, return_indices=True, out=out)
    assert not out.any()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("max_pool2d", (2,)),
        ("avg_pool2d", (3, 2, 1)),
        ("adaptive_avg_pool2d", (4,)),
        ("adaptive_max_pool2d", (4,)),
        ("max_pool1d", (2,)),
        ("avg_pool1d", (2,)),
        ("max_pool3d", (2,)),
        ("avg_pool3d", (2,)),
    ],
)
def test_channels_last_stays_channels_last(name: str, args: Any) -> None:
    dims = int(name[-2])
    x = channels_last(values((2, 5, 9, 8, 7)[: dims + 2], np.float32, 1), dims)
    y, pullback = ann.vjp(getattr(ann, name), x, *args)
    assert is_channels_last(y, dims)
    assert is_channels_last(getattr(ann, name)(x, *args), dims)
    assert is_channels_last(pullback(channels_last(cotangent_of(y), dims))[0], dims)


def test_the_channels_of_a_batch_of_lines_are_not_those_of_a_plane() -> None:
    """(C, H, W) has the axes of (N, C, L): as a plane its first axis is the channels."""
    x = channels_last(values((2, 5, 9), np.float32, 1), 1)
    assert check("max_pool2d", x, 2).flags.c_contiguous
    assert is_channels_last(check("max_pool1d", x, 2), 1)


@pytest.mark.cpu_only
@pytest.mark.parametrize("layout", ["c", "channels-last"])
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("max_pool2d", (3, 2, 1)),
        ("avg_pool2d", (3, 2, 1)),
        ("adaptive_avg_pool2d", (7,)),
        ("adaptive_max_pool2d", (7,)),
        ("max_pool3d", (3, 2, 1)),
        ("avg_pool3d", (3, 2, 1)),
        ("avg_pool1d", (3, 1, 1)),
    ],
)
def test_same_bits_for_any_number_of_threads(name: str, args: Any, layout: Any) -> None:
    shape = {1: (20, 70, 53), 2: (3, 20, 61, 53), 3: (2, 10, 11, 31, 23)}[int(name[-2])]
    check_threads(name, lay(values(shape, np.float32, 1), layout, len(shape) - 2), *args)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("max_pool2d", (3, 2, 1)),
        ("avg_pool2d", (3, 2, 1, True, False)),
        ("adaptive_avg_pool2d", ((3, None),)),
        ("adaptive_max_pool2d", ((3, 5),)),
        ("max_pool1d", (3, 2, 1)),
        ("avg_pool1d", (3, 2, 1, True, False)),
        ("max_pool3d", (3, 2, 1)),
        ("avg_pool3d", (3, 2, 1, True, False)),
        ("adaptive_avg_pool3d", ((3, None, 5),)),
    ],
)
def test_torch(name: str, args: Any, dtype: Any) -> None:
    x = values((2, 4, 7, 11, 12)[: int(name[-2]) + 2], dtype, 1, "ties")
    y, pullback = ann.vjp(getattr(ann, name), x, *args)
    tx = torch.tensor(x, requires_grad=True)
    ty = getattr(F, name)(tx, *args)
    assert_close(y, ty.detach().numpy(), terms=27, scale=2)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    assert_close(pullback(dy)[0], tx.grad.numpy(), terms=27)


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


LINE, VOLUME = np.ones((2, 3, 6), np.float32), np.ones((2, 3, 4, 6, 7), np.float32)


def test_bad_of_one_op() -> None:
    check_bad("max_pool2d", ValueError, "dilation", X, 2, dilation=0)
    check_bad("max_pool2d", ValueError, "padding", X, 3, padding=2, dilation=2)
    check_bad("max_pool2d", TypeError, "dilation", X, 2, dilation=1.0)
    check_bad("max_pool2d", ValueError, "input", X, 3, dilation=4)
    check_bad("avg_pool2d", ValueError, "divisor_override", X, 2, divisor_override=0)
    check_bad("avg_pool2d", TypeError, "divisor_override", X, 2, divisor_override=1.5)
    check_bad("avg_pool3d", ValueError, "divisor_override", VOLUME, 2, divisor_override=0)


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
def test_bad_of_other_dimensions(kind: str) -> None:
    for x, dims in ((LINE, 1), (VOLUME, 3)):
        name = f"{kind}{dims}d"
        check_bad(name, ValueError, "input", X[None] if dims == 1 else X[0], 2)
        check_bad(name, ValueError, "input", x[..., :0], 1)
        check_bad(name, ValueError, "input", x, 8)
        check_bad(name, ValueError, "kernel_size", x, (2, 2))
        check_bad(name, ValueError, "stride", x, 2, (1,) * (dims - 1) + (0,))
        check_bad(name, ValueError, "padding", x, 2, padding=(1,) * (dims - 1) + (2,))
    check_bad("max_pool3d", ValueError, "input", VOLUME, (5, 1, 1))


@pytest.mark.parametrize("name", NAMES[2:])
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
def test_bad_adaptive(name: str, error: Any, argument: str, args: Any) -> None:
    check_bad(name, error, argument, *args)


def test_bad_adaptive_of_other_dimensions() -> None:
    for kind in ("avg", "max"):
        check_bad(f"adaptive_{kind}_pool1d", ValueError, "output_size", LINE, (2, 2))
        check_bad(f"adaptive_{kind}_pool1d", ValueError, "input", X, 2)
        check_bad(f"adaptive_{kind}_pool3d", ValueError, "output_size", VOLUME, (2, -1, 2))
        check_bad(f"adaptive_{kind}_pool3d", ValueError, "input", X[0], 2)


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_to_nothing(kind: str) -> None:
    name = f"adaptive_{kind}_pool3d"
    for size in ((0, 2, 2), (2, 2, 0)):
        for x in (VOLUME, channels_last(VOLUME, 3)):
            assert check(name, x, size).shape == (2, 3, *size)
