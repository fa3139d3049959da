"""batch_norm and group_norm against the reference and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import (
    assert_same_bits,
    check_bad,
    check_op,
    check_out,
    check_overlap,
    check_threads,
    cotangent_of,
    refuses,
)
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from shapes import FLOAT32, HALF, WIDE, arrays, channels_last, is_channels_last, lay, values, wide_dtypes
from tolerance import assert_close, compute_dtype, eps, largest


def _bounds(x: Any, axes: Any, weight: Any, bias: Any, added: float, variance: Any = None) -> Any:
    """Return bounds that follow from the largest weight, normalized number and reciprocal deviation."""
    with np.errstate(all="ignore"):
        d = x.astype(np.float64)
        if variance is None:
            d = d - d.mean(axes, keepdims=True) if x.size else d
            variance = (d**2).mean(axes, keepdims=True) if x.size else np.ones(1)
        r = 1 / np.sqrt(variance + added)
        z, r = largest(np.asarray(d * r)), largest(np.asarray(r))
    w = 1.0 if weight is None else largest(weight)
    terms = x.size // max(x.shape[1], 1) + 16
    return {
        "out": (16, w * z + (0 if bias is None else largest(bias))),
        "input": (32, r * w * (2 + z)),
        "weight": (terms, z),
        "bias": (terms, 1.0),
    }


def check_batch(x: Any, mean: Any, var: Any, w: Any = None, b: Any = None, training: bool = True) -> Any:
    axes = (0, *range(2, x.ndim))
    if training:
        bounds = _bounds(x, axes, w, b, 1e-3)
        for stats in (mean, var):  # as precise as what x is computed in, where they could hold more
            if stats is not None:
                finer = eps(compute_dtype(x.dtype)) / eps(compute_dtype(stats.dtype))
                bounds["written"] = (8 * max(finer, 1), largest(x) ** 2)
    else:
        shape = (-1, *[1] * (x.ndim - 2))
        centered = x.astype(np.float64) - mean.astype(np.float64).reshape(shape)
        bounds = _bounds(centered, axes, w, b, 1e-3, var.astype(np.float64).reshape(shape))
        bounds["out"] = (32, bounds["out"][1])
        bounds["weight"] = (bounds["weight"][0], bounds["weight"][1] + 1)
    return check_op(
        "batch_norm",
        x,
        mean,
        var,
        w,
        b,
        training,
        0.3,
        1e-3,
        bounds=bounds,
        written=(1, 2) if training else (),
    )


def check_group(x: Any, groups: int, w: Any = None, b: Any = None) -> Any:
    wide = x.reshape(x.shape[0], groups, int(np.prod(x.shape[1:])) // groups)
    bounds = _bounds(wide, 2, w, b, 1e-3)
    terms = x.size // max(x.shape[1], 1) + 16
    bounds.update(weight=(terms, bounds["weight"][1]), bias=(terms, 1.0))
    return check_op("group_norm", x, groups, w, b, 1e-3, bounds=bounds)


def running(channels: int, dtype: Any) -> tuple[Any, Any]:
    return values((channels,), dtype, 5), np.abs(values((channels,), dtype, 6)) + np.asarray(0.5, dtype)


channels = st.sampled_from((1, 2, 3, 4, 6, 8, 16, 18, 33))
spaces = st.lists(st.sampled_from((1, 2, 3, 4)), max_size=3)


@given(st.data(), wide_dtypes, st.integers(1, 3), channels, spaces, st.booleans())
def test_batch_norm(data: Any, dtype: Any, n: int, c: int, space: list[int], training: bool) -> None:
    if training and n * int(np.prod(space)) < 2:
        n += 1
    x = data.draw(arrays((n, c, *space), dtype, ("normal", "outliers", "ties"), spatial=len(space)))
    w, b = (
        data.draw(st.none() | arrays((c,), dtype, layouts=("c", "reversed", "read-only"))) for _ in range(2)
    )
    mean, var = running(c, data.draw(st.sampled_from((dtype, *WIDE, *HALF))))
    layout = data.draw(st.sampled_from(("c", "reversed", "strided", "misaligned")))
    mean, var = lay(mean, layout), lay(var, layout)
    if training:
        mean, var = (data.draw(st.none() | st.just(a)) for a in (mean, var))
    check_batch(x, mean, var, w, b, training)


@given(st.data(), wide_dtypes, st.integers(0, 3), channels, spaces)
def test_group_norm(data: Any, dtype: Any, n: int, c: int, space: list[int]) -> None:
    x = data.draw(arrays((n, c, *space), dtype, ("normal", "outliers", "ties"), spatial=len(space)))
    w, b = (
        data.draw(st.none() | arrays((c,), dtype, layouts=("c", "reversed", "read-only"))) for _ in range(2)
    )
    check_group(x, data.draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0])), w, b)


# Several parts or tasks of a unit; few and many channels; planes of whole packs and with a rest.
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(5, 2, 60, 64), (3, 3, 61, 67), (12, 70, 3, 3), (2, 260, 4, 4)])
def test_more_than_one_part(shape: tuple[int, ...], last: bool) -> None:
    x, c = values(shape, FLOAT32, 1), shape[1]
    x = channels_last(x) if last else x
    w, b = values((c,), FLOAT32, 2), values((c,), FLOAT32, 3)
    check_batch(x, *running(c, FLOAT32), w, b)
    check_group(x, c if c < 4 else 10 if c % 4 else 4, w, b)


@pytest.mark.parametrize("shape", [(20_000, 3), (700, 70)])
def test_long_columns(shape: tuple[int, int]) -> None:
    check_batch(values(shape, FLOAT32, 1), *running(shape[1], FLOAT32), values(shape[1:], FLOAT32, 2))


@pytest.mark.parametrize("last", [False, True])
def test_channels_last_stays(last: bool) -> None:
    for shape in ((2, 4, 3, 5), (2, 4, 3, 5, 2), (2, 4, 7)):
        x, spatial = values(shape, FLOAT32, 1), len(shape) - 2
        x = channels_last(x, spatial) if last else x
        w, stats = np.ones(4, np.float32), running(4, FLOAT32)
        for op, args in (
            (ann.group_norm, (2, w)),
            (ann.batch_norm, (*stats, w)),
            (ann.batch_norm, (*stats, w, None, True)),
        ):
            y, pullback = ann.vjp(op, x, *args, wrt="input")
            assert is_channels_last(y, spatial) == last
            assert is_channels_last(pullback(y)[0], spatial) == last


@pytest.mark.parametrize("last", [False, True])
def test_a_mean_far_from_zero(last: bool) -> None:
    x = values((3, 4, 5, 7), FLOAT32, 1) + np.float32(1e4)
    x[:, 1] = values((3, 5, 7), FLOAT32, 2)
    x[0, 1, 0, 0] = 1e6
    x[:, 2] = 1e6
    x = channels_last(x) if last else x
    y = check_batch(x, *running(4, FLOAT32))
    assert (y[:, 2] == 0).all()
    check_group(x, 4)
    check_group(x[:, [0, 3]], 1)


@pytest.mark.parametrize("kind", ["inf", "nan"])
@pytest.mark.parametrize("last", [False, True])
def test_infinity_and_nan_stay_in_their_channel(last: bool, kind: str) -> None:
    x = values((3, 4, 5, 7), FLOAT32, 1)
    x[:, 1] = values((3, 5, 7), FLOAT32, 3, kind)
    x = channels_last(x) if last else x
    for training in (True, False):
        check_batch(x, *running(4, FLOAT32), training=training)
    check_group(x, 4)
    assert np.isfinite(ann.batch_norm(x, None, None, training=True)[:, [0, 2, 3]]).all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_half(last: bool, dtype: Any) -> None:
    for shape in ((3, 8, 2, 4), (2, 3, 5, 3)):
        c = shape[1]
        x, w, b = values(shape, dtype, 1), values((c,), dtype, 2), values((c,), dtype, 3)
        x = channels_last(x) if last else x
        for stats in (running(c, FLOAT32), running(c, dtype)):
            for training in (True, False):
                assert check_batch(x, *stats, w, b, training).dtype == dtype
        assert check_group(x, c, w, b).dtype == dtype
        check_group(x, 1, w.astype(np.float32), b)


def test_mixed_dtypes() -> None:
    """Running statistics have no say in the dtype of the result."""
    x, w, b = values((3, 4, 5), np.float32, 1), values((4,), np.float64, 2), values((4,), np.float16, 3)
    for training in (True, False):
        stats = running(4, np.float64)
        assert check_batch(x, *stats, None, b, training).dtype == np.float32
        assert check_batch(x.astype(np.float16), *stats, w, b, training).dtype == np.float64
    assert check_group(x, 2, w, b).dtype == np.float64


def test_options() -> None:
    """Every option at another value than its default, and eps of any sign."""
    x, (mean, var) = values((3, 4, 5), np.float64, 1), running(4, np.float64)
    for momentum in (0.0, 0.25, 1.0, -0.5, 2.0):
        check_op(
            "batch_norm",
            x,
            mean,
            var,
            training=True,
            momentum=momentum,
            written=(1, 2),
            bounds={"all": (64, 40)},
        )
    for added in (0.0, 1.0, -1e-3):
        for training in (False, True):
            check_op(
                "batch_norm",
                x,
                mean,
                var,
                training=training,
                eps=added,
                written=(1, 2),
                bounds={"all": (64, 40)},
            )
        check_op("group_norm", x, 2, eps=added, bounds={"all": (64, 40)})
    with np.errstate(invalid="ignore"):
        assert np.isnan(ann.group_norm(x, 2, eps=-100)).all()


def test_no_images() -> None:
    x, (mean, var), w = np.zeros((0, 3, 4)), running(3, np.float64), np.ones(3)
    assert ann.batch_norm(x, mean, var).shape == (0, 3, 4)
    for y, pullback in (ann.vjp(ann.batch_norm, x, mean, var, w, w), ann.vjp(ann.group_norm, x, 3, w, w)):
        dx, dw, db = pullback(y)
        assert dx.shape == x.shape
        assert not dw.any()
        assert not db.any()


def test_evaluation_reads_read_only_statistics() -> None:
    x, stats = values((2, 3, 4), np.float32, 1), running(3, np.float32)
    for a in stats:
        a.flags.writeable = False
    check_batch(x, *stats, training=False)
    shared = np.abs(values((3,), np.float32, 2))
    check_batch(x, shared, shared, shared, shared, training=False)


def test_the_gradient_in_evaluation_is_that_of_the_call() -> None:
    """Running statistics that have moved since, and an input that is gone, have no part in it."""
    x, (mean, var), w = values((2, 3, 4), np.float64, 1), running(3, np.float64), values((3,), np.float64, 2)
    y, pullback = ann.vjp(ann.batch_norm, x, mean, var, w, wrt="input")
    expected = y * w[:, None] / np.sqrt(var[:, None] + 1e-5)
    mean[...], var[...], x[...] = 7, 7, np.nan
    np.testing.assert_allclose(pullback(y)[0], expected, rtol=1e-12)


def test_out() -> None:
    x, w, stats = values((4, 3, 5), np.float32, 1), values((3,), np.float32, 2), running(3, np.float32)
    for training in (False, True):
        check_out("batch_norm", x, *stats, w, None, training)
        check_overlap("batch_norm", x, *stats, w, None, training)
    check_out("group_norm", x, 3, w)
    check_overlap("group_norm", x, 3, w)


@pytest.mark.cpu_only
@pytest.mark.parametrize("last", [False, True])
def test_same_bits_for_any_number_of_threads(last: bool) -> None:
    x, w = values((6, 12, 40, 40), np.float32, 1), values((12,), np.float32, 2)
    x = channels_last(x) if last else x
    check_threads("batch_norm", x, None, None, w, training=True)
    check_threads("batch_norm", x, *running(12, FLOAT32), w)
    check_threads("group_norm", x, 3, w)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_torch(training: bool, dtype: Any) -> None:
    x, w, b = values((3, 4, 3, 5), dtype, 1), values((4,), dtype, 2), values((4,), dtype, 3)
    mean, var = running(4, dtype)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    tmean, tvar = torch.tensor(mean), torch.tensor(var)
    ty = F.batch_norm(tensors[0], tmean, tvar, tensors[1], tensors[2], training, 0.3, 1e-4)
    y, pullback = ann.vjp(ann.batch_norm, x, mean, var, w, b, training, 0.3, 1e-4)
    assert_close(y, ty.detach().numpy(), terms=33, scale=4)
    assert_close(mean, tmean.numpy(), terms=16, scale=4)
    assert_close(var, tvar.numpy(), terms=16, scale=4)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    for g, t in zip(pullback(dy), tensors, strict=True):
        assert_close(g, t.grad.numpy(), terms=45, scale=9)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_group_norm_torch(dtype: Any) -> None:
    x, w, b = values((3, 6, 3, 5), dtype, 1), values((6,), dtype, 2), values((6,), dtype, 3)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    ty = F.group_norm(tensors[0], 3, *tensors[1:], 1e-4)
    y, pullback = ann.vjp(ann.group_norm, x, 3, w, b, 1e-4)
    assert_close(y, ty.detach().numpy(), terms=33, scale=4)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    for g, t in zip(pullback(dy), tensors, strict=True):
        assert_close(g, t.grad.numpy(), terms=45, scale=9)


X, W, M = np.ones((2, 4, 5)), np.ones(4), np.zeros(4)


@pytest.mark.parametrize(
    ("error", "argument", "args", "options"),
    [
        (TypeError, "input", (X.tolist(), M, W), {}),
        (TypeError, "input", (X.astype(int), M, W), {}),
        (ValueError, "input", (X[0, 0], M, W), {}),
        (ValueError, "input", (X[:1, :, :1], M, W), {"training": True}),
        (ValueError, "input", (X[:0], M, W), {"training": True}),
        (ValueError, "running_mean", (X, None, W), {}),
        (ValueError, "running_var", (X, M, None), {}),
        (TypeError, "running_mean", (X, M.tolist(), W), {}),
        (TypeError, "running_mean", (X, M.astype(int), W), {"training": True}),
        (TypeError, "running_var", (X, M, W > 0), {}),
        (TypeError, "running_var", (X, M, W.astype(np.float32)), {}),
        (ValueError, "running_mean", (X, M[:3], W), {}),
        (ValueError, "running_var", (X, M, W[:, None]), {"training": True}),
        (TypeError, "weight", (X, M, W, W.tolist()), {}),
        (TypeError, "weight", (X, M, W, W > 0), {}),
        (ValueError, "weight", (X, M, W, W[:3]), {"training": True}),
        (ValueError, "weight", (X, M, W, W[:1]), {}),
        (ValueError, "bias", (X, M, W, W, W[None]), {}),
        (TypeError, "training", (X, M, W), {"training": 1}),
        (TypeError, "momentum", (X, M, W), {"momentum": None}),
        (TypeError, "momentum", (X, M, W), {"momentum": "0.1"}),
        (TypeError, "eps", (X, M, W), {"eps": None}),
    ],
)
def test_bad_batch_norm(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad("batch_norm", error, argument, *args, **options)


@pytest.mark.parametrize(
    ("error", "argument", "args", "options"),
    [
        (TypeError, "input", (X.tolist(), 2), {}),
        (TypeError, "input", (X > 0, 2), {}),
        (ValueError, "input", (X[0, 0], 1), {}),
        (ValueError, "num_groups", (X, 3), {}),
        (ValueError, "num_groups", (X, 0), {}),
        (ValueError, "num_groups", (X, -2), {}),
        (ValueError, "num_groups", (X, 8), {}),
        (TypeError, "num_groups", (X, 2.0), {}),
        (TypeError, "num_groups", (X, None), {}),
        (TypeError, "weight", (X, 2, W.tolist()), {}),
        (ValueError, "weight", (X, 2, W[:2]), {}),
        (ValueError, "bias", (X, 2, W, W[:, None]), {}),
        (TypeError, "bias", (X, 2, W, W.astype(int)), {}),
        (TypeError, "eps", (X, 2), {"eps": "0"}),
    ],
)
def test_bad_group_norm(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad("group_norm", error, argument, *args, **options)


def test_running_statistics_that_cannot_be_written() -> None:
    x, w = values((2, 4, 5), np.float64, 1), values((4,), np.float64, 2)
    read_only = np.zeros(4)
    read_only.flags.writeable = False
    both = np.ones(5)
    for name, mean, var in (
        ("running_mean", read_only, np.ones(4)),
        ("running_var", np.zeros(4), read_only),
        ("running_mean", np.broadcast_to(np.zeros(1), 4), np.ones(4)),
        ("running_(mean|var)", both[:4], both[1:]),
        ("running_mean", x[0, 0, :4], np.ones(4)),
        ("running_var", np.zeros(4), w),
    ):
        kept = [np.array(a) for a in (x, mean, var, w)]
        for op in (ann.batch_norm, ann.reference.batch_norm):
            refuses(ValueError, f"batch_norm: {name}", op, x, mean, var, w, training=True)
            refuses(ValueError, f"batch_norm: {name}", ann.vjp, op, x, mean, var, w, training=True)
        assert_same_bits((x, mean, var, w), tuple(kept), "batch_norm wrote before it refused")


def test_refused_calls_leave_the_running_statistics_alone() -> None:
    x, (mean, var) = values((2, 4, 5), np.float64, 1), running(4, np.float64)
    kept = mean.copy(), var.copy()
    refuses(ValueError, "batch_norm: out", ann.batch_norm, x, mean, var, training=True, out=np.zeros(3))
    refuses(ValueError, "batch_norm: bias", ann.batch_norm, x, mean, var, None, np.ones(3), training=True)
    out = np.concatenate([mean, np.zeros(36)])
    refuses(
        ValueError,
        "batch_norm: out",
        ann.batch_norm,
        x,
        out[:4],
        var,
        training=True,
        out=out.reshape(2, 4, 5),
    )
    assert_same_bits((mean, var), kept)


@pytest.mark.cpu_only
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("inner", [(3, 5), (40, 50)], ids=str)  # planes added up in double, and read twice
def test_squares_beyond_the_range(scale: float, inner: tuple[int, int]) -> None:
    """Squares of such numbers are zero or infinite in float32."""
    x = values((4, 6, *inner), np.float32, 1) * np.float32(scale)
    for laid in (x, channels_last(x, 2)):
        y = ann.batch_norm(laid, None, None, training=True, eps=0.0)
        assert_close(y, ann.reference.batch_norm(x, None, None, training=True, eps=0.0), terms=20, scale=4)
        y = ann.group_norm(laid, 3, eps=0.0)
        assert_close(y, ann.reference.group_norm(x, 3, eps=0.0), terms=20, scale=4)
    for name in ("layer_norm", "rms_norm"):
        y = getattr(ann, name)(x, inner, eps=0.0)
        assert_close(y, getattr(ann.reference, name)(x, inner, eps=0.0), terms=20, scale=4)
