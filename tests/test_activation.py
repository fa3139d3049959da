"""Activations against the reference and PyTorch."""

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

POINTWISE: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": -0.5}),
    ("leaky_relu", {"negative_slope": 0.0}),
    ("elu", {}),
    ("elu", {"alpha": -1.5}),
    ("elu", {"alpha": 0.0}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("softplus", {}),
    ("softplus", {"beta": 0.5, "threshold": 3.0}),
    ("softplus", {"beta": -2.0, "threshold": -1.0}),
    ("softplus", {"beta": 1.7, "threshold": 1e4}),
    ("softplus", {"beta": 0.0}),
]
ROWS: list[tuple[str, dict[str, Any]]] = [("softmax", {}), ("log_softmax", {})]
FROM_OUTPUT = ("relu", "sigmoid", "tanh")  # the gradients of these
pointwise = pytest.mark.parametrize(("name", "options"), POINTWISE, ids=str)
every = pytest.mark.parametrize(("name", "options"), POINTWISE + ROWS, ids=str)
rows = pytest.mark.parametrize("name", [name for name, _ in ROWS])
row_ops = st.sampled_from([name for name, _ in ROWS])


def check(name: str, x: Any, *args: Any, **options: Any) -> Any:
    """Gradients that come from the saved output cannot know what it lost by rounding.

    exp(z) is as wrong, relative to itself, as z is absolutely: by an ulp for each unit of z, as far
    down as exp goes.
    """
    compute = compute_dtype(x.dtype)
    unit = eps(x.dtype) / eps(compute)
    deepest = 104 if compute == np.float32 else 746
    if name in FROM_OUTPUT:
        return check_op(name, x, bounds={"input": (2 * unit + 2, 1)})
    if name in (n for n, _ in POINTWISE):
        slope = max(1.0, abs(options.get("alpha", 1.0)))
        # Where the gradient goes through zero, it is as wrong as its terms.
        crosses = 8 if name in ("gelu", "silu") else 0
        ulps = 10 + 4 * min(_depth(name, largest(x), compute, **options), deepest)
        return check_op(name, x, bounds={"out": (0, 1, ulps), "input": (crosses, slope, ulps)}, **options)
    size = x.shape[args[0] if args else -1] if x.ndim else 1
    depth = min(2 * largest(x), deepest)
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


def _depth(
    name: str, most: float, compute: Any, approximate: str = "none", beta: float = 1.0, **_: Any
) -> float:
    """Return how large the rounded argument of exp may be: of the op, or of the reference (erfc)."""
    if name == "softplus":
        return abs(beta) * most
    if approximate == "tanh":
        return 1.6 * most * (1 + 0.045 * most**2)
    return most**2 / 2 if name == "gelu" and compute == np.float64 else 0


@given(st.data(), wide_dtypes, st.lists(st.integers(0, 5), max_size=3), widths)
def test_pointwise(data: Any, dtype: Any, shape: list[int], last: int) -> None:
    x = data.draw(arrays((*shape, last), dtype, ("normal", "outliers", "ties", "nan")))
    for name, options in POINTWISE:
        check(name, x, **options)


@given(
    st.data(),
    wide_dtypes,
    st.lists(widths, min_size=1, max_size=3),
    row_ops,
)
def test_rows(data: Any, dtype: Any, shape: list[int], name: str) -> None:
    shape = [min(n, 6) for n in shape[:-1]] + shape[-1:]
    shape = data.draw(st.permutations(shape))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = data.draw(arrays(shape, dtype, ("normal", "outliers", "ties", "inf", "nan")))
    check(name, x, axis)


@pointwise
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_every_length(name: str, options: Any, dtype: Any) -> None:
    for n in LENGTHS:
        check(name, values((n,), dtype, n, "outliers"), **options)
    check(name, np.asarray(values((), dtype, 1)), **options)


@rows
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_every_row_length(name: str, dtype: Any) -> None:
    for n in LENGTHS:
        check(name, values((3, n), dtype, n, "outliers"))
        check(name, values((n, 3), dtype, n, "outliers"), 0)
    check(name, np.asarray(values((), dtype, 1)), 0)
    check(name, values((2, 0, 3), dtype, 1), -1)


def range_of(dtype: Any) -> Any:
    """Return numbers of every magnitude, steps through where functions bend, and the ends."""
    ends = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 88.8, -88.8, 104, -104, 710, -710, 746, -746, 1e30, -1e30]
    )
    tiny = 10.0 ** np.arange(-37, 3, 0.25)
    steps = np.linspace(-30, 30, 40001)
    return np.concatenate([ends, tiny, -tiny, steps]).astype(dtype)


def ulps_between(actual: Any, expected: Any) -> Any:
    """Return the distance in units of the last place of `expected`, which is in long double."""
    info = np.finfo(actual.dtype)
    _, exponent = np.frexp(np.maximum(np.abs(expected), info.tiny))
    return np.abs(actual - expected) / np.ldexp(np.longdouble(1), exponent - 1 - info.nmant)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no long double to compare with")
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_sigmoid_and_tanh_in_ulps(dtype: Any, request: pytest.FixtureRequest) -> None:
    """What the docstrings say; on a GPU the library's exp and tanh have their part in it."""
    on_cpu = request.node.callspec.params["on_device"] == "cpu"
    x = range_of(dtype)
    if on_cpu and dtype == FLOAT32:
        every_4093rd = np.arange(0, 2**32, 4093, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = np.concatenate([x, every_4093rd[~np.isnan(every_4093rd)]])
    wide = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        expected = {"sigmoid": 1 / (1 + np.exp(-wide)), "tanh": np.tanh(wide)}
        for name, bound in (("sigmoid", 2.0), ("tanh", 2.2)):
            actual = getattr(ann, name)(x)
            np.testing.assert_array_equal(np.isnan(actual), np.isnan(x))
            error = ulps_between(actual, expected[name])[~np.isnan(x)]
            assert error.max() <= (bound if on_cpu else 3.0), f"{name}: {error.max():.3f} ulp"
            zero = actual[x == 0]
            np.testing.assert_array_equal(np.signbit(zero), np.signbit(expected[name][x == 0]))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_tanh_ends_at_one(dtype: Any) -> None:
    x = np.concatenate(
        [np.array([9.5, 10, 12, 1e30, np.inf] if dtype == FLOAT32 else [20, 1e300, np.inf])] * 5
    )
    np.testing.assert_array_equal(ann.tanh(x.astype(dtype)), np.ones_like(x))
    np.testing.assert_array_equal(ann.tanh(-x.astype(dtype)), -np.ones_like(x))


@pointwise
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_over_the_whole_range(name: str, options: Any, dtype: Any) -> None:
    x = range_of(dtype)
    check(name, x[:15], **options)
    for part in np.array_split(x[15:], 20):  # the bound is that of the largest
        check(name, part, **options)


# x, gelu(x) and its derivative, from mpmath
GELU = [
    (-0.25, -0.10032341857926907, 0.30462664511636395),
    (-1.0, -0.15865525393145705, -0.0833154705876863),
    (-3.5, -0.0008142017766243376, -0.002821760353624635),
    (-8.0, -4.976768459417427e-15, -3.979607261086796e-14),
    (-12.5, -4.665705373597142e-35, -5.831668554480156e-34),
    (-25.0, -7.641741765956403e-137, -1.9104257373984655e-135),
    (-37.0, -2.1184613523340935e-298, -7.838298669418516e-297),
]


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_gelu_is_accurate_in_its_tail(dtype: Any) -> None:
    for x, y, slope in GELU:
        out, pullback = ann.vjp(ann.gelu, np.full(19, x, dtype))
        assert_close(out, np.full(19, y), ulps=10)
        (gradient,) = pullback(np.ones(19, dtype))
        assert_close(gradient, np.full(19, slope), ulps=10 if abs(x) > 1 else 40)


@pointwise
def test_gradient_at_the_ends_is_pytorchs(name: str, options: Any) -> None:
    """A whole vector of each, and tails of one and two."""
    ends = [0.0, -0.0, -np.inf, np.nan, 1e10, -1e10, 1e-30, -1e-30, *([] if name == "gelu" else [np.inf])]
    for end in ends:
        # PyTorch's own loops disagree about the gradient of elu at NaN, where only the vectors give NaN.
        for n in (16,) if name == "elu" and np.isnan(end) else (16, 17, 18):
            x = np.full(n, end)
            y, pullback = ann.vjp(getattr(ann, name), x, **options)
            tx = torch.tensor(x, requires_grad=True)
            ty = torch_op(name)(tx, **options)
            ty.sum().backward()
            assert_close(y, ty.detach().numpy(), what=f"{name} of {end}")
            (gradient,) = pullback(np.ones(n))
            assert_close(gradient, tx.grad.numpy(), what=f"gradient of {name} at {end}")


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_rows_with_outliers(dtype: Any) -> None:
    """Large logits must not overflow and small ones not vanish from log_softmax."""
    rows = np.zeros((8, 37))
    rows[0, 36], rows[1, 0], rows[2, 35], rows[3, :] = 1e4, -1e4, 1e30, 1e4
    rows[4, 5], rows[5, :], rows[6, 36], rows[7, 1] = -np.inf, -np.inf, np.inf, np.nan
    for name, _ in ROWS:
        check(name, rows.astype(dtype))
        check(name, np.ascontiguousarray(rows.T.astype(dtype)), 0)


def test_relu_keeps_nan_and_drops_at_zero() -> None:
    x = np.array([np.nan, 0.0, -0.0, -1, 1, -np.inf, np.inf] * 5, np.float32)
    y, pullback = ann.vjp(ann.relu, x)
    np.testing.assert_array_equal(y, [np.nan, 0, 0, 0, 1, 0, np.inf] * 5)
    np.testing.assert_array_equal(pullback(np.ones_like(x))[0], [1, 0, 0, 0, 1, 0, 1] * 5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@every
def test_half(name: str, options: Any, dtype: Any) -> None:
    assert check(name, values((5, 37), dtype, 1), **options).dtype == dtype


@every
@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5), (0, 3)])
def test_out(name: str, options: Any, shape: tuple[int, ...]) -> None:
    x = np.asarray(values(shape, np.float32, 1))
    check_out(name, x, **options)
    check_overlap(name, x, **options)
    if x.size:
        buffer = x.copy()
        with pytest.raises(ValueError, match=rf"^{name}: .*out"):
            getattr(ann, name)(buffer, out=buffer)
        np.testing.assert_array_equal(buffer, x)


@every
def test_channels_last_stays_channels_last(name: str, options: Any) -> None:
    x = channels_last(values((2, 5, 3, 4), np.float32, 1))
    axis = (1,) if (name, {}) in ROWS else ()
    y, pullback = ann.vjp(getattr(ann, name), x, *axis, **options)
    if not axis:
        assert is_channels_last(y)
        assert is_channels_last(pullback(channels_last(cotangent_of(y)))[0])
    check(name, x, *axis, **options)


@pytest.mark.cpu_only
@every
def test_same_bits_for_any_number_of_threads(name: str, options: Any) -> None:
    check_threads(name, values((500, 203), np.float32, 1), **options)
    if (name, {}) in ROWS:
        check_threads(name, values((203, 500), np.float32, 1), 0)


@pytest.mark.cpu_only
@pointwise
def test_past_the_cache(name: str, options: Any) -> None:
    """Results of 32 MB and more are stored past the cache on any machine: the same bits, up to both ends."""
    row = values((1031,), np.float32, 1, "outliers")
    y, pullback = ann.vjp(getattr(ann, name), row, **options)
    dy = cotangent_of(y)
    expected, (gradient,) = y, pullback(dy)
    rows = 8200
    y, pullback = ann.vjp(getattr(ann, name), np.tile(row, rows), **options)
    for actual, right in ((y, expected), (pullback(np.tile(dy, rows))[0], gradient)):
        assert actual.nbytes >= 32 << 20
        np.testing.assert_array_equal(actual.reshape(rows, -1), np.broadcast_to(right, (rows, 1031)))


def torch_op(name: str) -> Any:
    return getattr(torch, name, None) or getattr(F, name)


@every
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_torch(name: str, options: Any, dtype: Any) -> None:
    x = values((6, 19), dtype, 1, "outliers")
    if options.get("beta") == 1.7:
        x = np.clip(x, -40, 40)  # PyTorch's exp overflows
    axis = (0,) if (name, {}) in ROWS else ()
    y, pullback = ann.vjp(getattr(ann, name), x, *axis, **options)
    tx = torch.tensor(x, requires_grad=True)
    ty = torch_op(name)(tx, *axis, **options)
    assert_close(y, ty.detach().numpy(), terms=2, scale=4)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    assert_close(pullback(dy)[0], tx.grad.numpy(), terms=4, scale=4)


def test_options_by_position() -> None:
    x = values((3, 7), np.float64, 1)
    for name, options in POINTWISE:
        if options:
            defaults = dict(beta=1.0, threshold=20.0) if name == "softplus" else {}
            expected, pull_expected = ann.vjp(getattr(ann, name), x, **options)
            y, pull = ann.vjp(getattr(ann, name), x, *{**defaults, **options}.values())
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_array_equal(pull(y)[0], pull_expected(y)[0])


@pytest.mark.parametrize("name", sorted({name for name, _ in POINTWISE + ROWS}))
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
    if (name, {}) in ROWS:
        for axis in (2, -3):
            check_bad(name, ValueError, "axis", x, axis)
        for axis in (1.0, None, (0, 1), "0"):
            check_bad(name, TypeError, "axis", x, axis)


@pytest.mark.parametrize(
    ("name", "option"),
    [("leaky_relu", "negative_slope"), ("elu", "alpha"), ("softplus", "beta"), ("softplus", "threshold")],
)
def test_bad_numbers(name: str, option: str) -> None:
    for bad in ("1", None, (1.0, 2.0), np.ones(2)):
        check_bad(name, TypeError, option, np.ones((3, 4), FLOAT32), **{option: bad})


@pytest.mark.parametrize("approximate", ["exact", "", None, True, ["tanh"]])
def test_bad_approximation(approximate: Any) -> None:
    check_bad("gelu", ValueError, "approximate", np.ones((3, 4), FLOAT32), approximate)
