"""layer_norm and rms_norm against the reference and PyTorch."""

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
from shapes import FLOAT32, HALF, WIDE, arrays, lengths, values, wide_dtypes
from tolerance import assert_close, largest

OPS = ("layer_norm", "rms_norm")


def check(op: str, x: Any, shape: Any, w: Any = None, b: Any = None, eps: Any = 1e-5) -> Any:
    """Check an op; bounds follow from the largest weight, normalized number and reciprocal deviation."""
    sizes = shape if isinstance(shape, tuple) else (shape,)
    axes = tuple(range(-len(sizes), 0))
    rows = int(np.prod(x.shape[: x.ndim - len(sizes)]))
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        d = wide - wide.mean(axes, keepdims=True) if op == "layer_norm" and x.size else wide
        least = 1e-5 if eps is None or eps < 1e-5 else eps
        r = 1 / np.sqrt((d**2).mean(axes, keepdims=True) + least) if x.size else d
        z = largest(np.asarray(d * r))
    weight = 1.0 if w is None else largest(w)
    bounds = {
        "out": (16, weight * z + (0 if b is None else largest(b))),
        "input": (32, largest(r) * weight * (2 + z)),
        "weight": (rows + 16, z),
        "bias": (rows, 1.0),
    }
    affine = (w,) if op == "rms_norm" else (w, b)
    return check_op(op, x, shape, *affine, eps, bounds=bounds)


@given(
    st.data(),
    wide_dtypes,
    st.lists(st.integers(0, 4), max_size=2),
    st.lists(st.integers(1, 5), max_size=1),
    lengths,
)
@pytest.mark.parametrize("op", OPS)
def test_shapes(op: str, data: Any, dtype: Any, batch: list[int], more: list[int], size: int) -> None:
    shape = (*more, size)
    x = data.draw(arrays((*batch, *shape), dtype, ("normal", "outliers", "ties"), spatial=1))
    w, b = (data.draw(st.none() | arrays(shape, dtype)) for _ in range(2))
    check(op, x, size if not more else shape, w, b, data.draw(st.sampled_from((1e-5, 0.1))))


# In the registers of 4 and of 32 lanes; in a block's shared memory, in packs or with edges; in several tasks.
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("sizes", [(70, 32), (9, 256), (3, 1024), (5, 1025), (3, 2056), (2, 5001), (300, 40)])
@pytest.mark.parametrize("op", OPS)
def test_rows_of_every_length(op: str, sizes: tuple[int, int], dtype: Any) -> None:
    w, b = values(sizes[1:], dtype, 2), values(sizes[1:], dtype, 3)
    check(op, values(sizes, dtype, 1), sizes[1], w, b)


@pytest.mark.parametrize("op", OPS)
def test_a_row_longer_than_shared_memory(op: str) -> None:
    check(op, values((1, 60_001), FLOAT32, 1), 60_001)


@pytest.mark.parametrize("size", [5, 300, 1500])
def test_a_mean_far_from_zero(size: int) -> None:
    """The variance is that of x - mean, however large the mean is; and so where one number is far off."""
    x = values((4, size), FLOAT32, 1) + np.float32(1e4)
    x[2] = values((size,), FLOAT32, 2)
    x[2, 0] = 1e6
    x[3] = 1e6
    y = check("layer_norm", x, size)
    assert (y[3] == 0).all()
    np.testing.assert_allclose(y[:2].std(1), 1, rtol=1e-4)


@pytest.mark.parametrize("kind", ["inf", "nan"])
@pytest.mark.parametrize("op", OPS)
def test_infinity_and_nan_stay_in_their_row(kind: str, op: str) -> None:
    for size in (7, 1030):
        x = values((4, size), FLOAT32, 1)
        x[1] = values((size,), FLOAT32, 3, kind)
        check(op, x, size)
        assert np.isfinite(getattr(ann, op)(x, size)[[0, 2, 3]]).all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_half(op: str, dtype: Any) -> None:
    for sizes in ((5, 33), (3, 64), (2, 1032)):
        x, w = values(sizes, dtype, 1), values(sizes[1:], dtype, 2)
        assert check(op, x, sizes[1], w, values(sizes[1:], dtype, 3)).dtype == dtype
        check(op, x, sizes[1], w.astype(np.float32))
    x = values((3, 8), dtype, 1) * np.asarray(1e-3, dtype)
    assert check("rms_norm", x, 8, eps=None).dtype == dtype


@pytest.mark.parametrize("dtype", [*WIDE, *HALF], ids=str)
def test_default_eps_is_that_of_the_computation(dtype: Any) -> None:
    x = np.full((1, 4), 2.0**-14, dtype)
    eps = 2.0**-52 if dtype == np.float64 else 2.0**-23
    expected = (x.astype(np.float64) / np.sqrt(2.0**-28 + eps)).astype(dtype)
    assert_close(ann.rms_norm(x, 4), expected)
    assert_close(ann.reference.rms_norm(x, 4), expected)


def test_mixed_dtypes() -> None:
    x, w, b = values((3, 5), np.float32, 1), values((5,), np.float64, 2), values((5,), np.float16, 3)
    assert check("layer_norm", x, 5, w, b).dtype == np.float64
    assert check("layer_norm", x, 5, None, b).dtype == np.float32
    assert check("rms_norm", x.astype(np.float16), 5, w).dtype == np.float64


def test_eps_of_any_sign() -> None:
    x = values((3, 5), np.float64, 1)
    with np.errstate(invalid="ignore"):
        for op in OPS:
            for eps in (0.0, -1e-3):
                check(op, x, 5, eps=eps)
            assert np.isnan(getattr(ann, op)(x, 5, eps=-100)).all()


@pytest.mark.parametrize("op", OPS)
def test_out(op: str) -> None:
    for shape in ((4, 5), (0, 5), (5,)):
        x, w = values(shape, np.float32, 1), values((5,), np.float32, 2)
        check_out(op, x, (5,), w)
        check_overlap(op, x, (5,), w)


@pytest.mark.cpu_only
@pytest.mark.parametrize("op", OPS)
def test_same_bits_for_any_number_of_threads(op: str) -> None:
    for sizes in ((999, 70), (5, 20_011)):
        check_threads(op, values(sizes, np.float32, 1), sizes[1], values(sizes[1:], np.float32, 2))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_torch(op: str, dtype: Any) -> None:
    arguments = [values((3, 4, 3, 11), dtype, 1), *(values((3, 11), dtype, i) for i in (2, 3))]
    arguments = arguments[: 2 if op == "rms_norm" else 3]
    y, pullback = ann.vjp(getattr(ann, op), arguments[0], (3, 11), *arguments[1:])
    tensors = [torch.tensor(a, requires_grad=True) for a in arguments]
    ty = getattr(F, op)(tensors[0], (3, 11), *tensors[1:])
    assert_close(y, ty.detach().numpy(), terms=33, scale=4)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    for g, t in zip(pullback(dy), tensors, strict=True):
        assert_close(g, t.grad.numpy(), terms=33, scale=9)


X, W = np.ones((2, 3, 5)), np.ones((3, 5))


@pytest.mark.parametrize(
    ("error", "argument", "args", "options"),
    [
        (TypeError, "input", (X.tolist(), 5), {}),
        (TypeError, "input", (X.astype(int), 5), {}),
        (ValueError, "normalized_shape", (X, 4), {}),
        (ValueError, "normalized_shape", (X, (5, 3)), {}),
        (ValueError, "normalized_shape", (X, (1, 2, 3, 5)), {}),
        (ValueError, "normalized_shape", (X, ()), {}),
        (ValueError, "normalized_shape", (X, -5), {}),
        (TypeError, "normalized_shape", (X, 5.0), {}),
        (TypeError, "normalized_shape", (X, "5"), {}),
        (TypeError, "normalized_shape", (X, (3, None)), {}),
        (ValueError, "input", (np.asarray(1.0), 1), {}),
        (TypeError, "weight", (X, (3, 5), W.tolist()), {}),
        (TypeError, "weight", (X, (3, 5), W > 0), {}),
        (ValueError, "weight", (X, (3, 5), W[:2]), {}),
        (ValueError, "weight", (X, (3, 5), W.reshape(15)), {}),
        (ValueError, "weight", (X, 5, W), {}),
        (TypeError, "eps", (X, 5), {"eps": "1e-5"}),
        (TypeError, "eps", (X, 5), {"eps": X}),
    ],
)
@pytest.mark.parametrize("op", OPS)
def test_bad(op: str, error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad(op, error, argument, *args, **options)


@pytest.mark.parametrize(
    ("error", "argument", "bias", "options"),
    [
        (TypeError, "bias", W.tolist(), {}),
        (TypeError, "bias", W.astype(np.uint8), {}),
        (ValueError, "bias", W[:1], {}),
        (ValueError, "bias", W[0], {}),
        (TypeError, "eps", None, {"eps": None}),
    ],
)
def test_bad_for_layer_norm(error: Any, argument: str, bias: Any, options: Any) -> None:
    check_bad("layer_norm", error, argument, X, (3, 5), W, bias, **options)
