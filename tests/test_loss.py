"""mse_loss against the reference and PyTorch."""

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
from shapes import HALF, LENGTHS, WIDE, arrays, values, wide_dtypes, widths
from tolerance import assert_close, largest

REDUCTIONS = ("mean", "sum", "none")


def check(x: Any, t: Any, reduction: str = "mean", weight: Any = None) -> Any:
    size = max(1, int(np.prod(np.broadcast_shapes(x.shape, t.shape))))
    square = (largest(x) + largest(t)) ** 2 * (largest(weight) if weight is not None else 1)
    terms = size if reduction == "sum" else 8
    slope = 2 * (largest(x) + largest(t)) * (largest(weight) if weight is not None else 1)
    if reduction == "mean":
        total = abs(weight.astype(np.float64).sum()) if weight is not None else size
        square *= max(1.0, size / total) if total else 1
        slope /= total or 1
    repeats = size / max(1, x.size)
    return check_op(
        "mse_loss",
        x,
        t,
        reduction=reduction,
        weight=weight,
        bounds={"out": (terms, square), "input": (4 + repeats, slope)},
    )


@given(st.data(), wide_dtypes, st.lists(st.integers(0, 5), max_size=2), widths, st.sampled_from(REDUCTIONS))
def test_mse_loss(data: Any, dtype: Any, shape: list[int], last: int, reduction: str) -> None:
    shape = [*shape, last]
    x, t = (data.draw(arrays(shape, dtype, ("normal", "outliers"))) for _ in range(2))
    weight = None
    if data.draw(st.booleans()):
        weight = np.asarray((np.abs(values(shape, dtype, 3)) + 0.5).astype(dtype))
    check(x, t, reduction, weight)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_length(reduction: str, dtype: Any) -> None:
    for n in (*LENGTHS, 5003):
        check(values((n,), dtype, 1), values((n,), dtype, 2), reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "shapes",
    [
        ((4,), (3, 4)),
        ((3, 1), (3, 4)),
        ((3, 4), (1,)),
        ((), (5,)),
        ((2, 1, 3), (4, 1)),
        ((1, 2, 1), (3, 2, 4)),
        ((), ()),
    ],
)
def test_broadcasting(shapes: Any, reduction: str) -> None:
    x, t = (np.asarray(values(s, np.float64, i)) for i, s in enumerate(shapes))
    check(x, t, reduction)
    check(x, t, reduction, np.asarray(np.abs(values(shapes[0], np.float64, 3)) + 0.5))


def test_the_mean_of_nothing_is_nan() -> None:
    x = np.zeros((0, 3), np.float32)
    loss, pullback = ann.vjp(ann.mse_loss, x, x)
    assert np.isnan(loss)
    assert type(loss) is np.ndarray
    assert pullback(np.ones((), np.float32))[0].shape == (0, 3)
    assert ann.mse_loss(x, x, reduction="sum") == 0
    assert ann.mse_loss(x, x, reduction="none").shape == (0, 3)


def test_outliers_do_not_drown_the_rest() -> None:
    """A float32 running sum would lose the ones behind 1e8."""
    x = np.ones(100_001, np.float32)
    x[0] = 1e4
    assert ann.mse_loss(x, np.zeros_like(x), reduction="sum") == pytest.approx(1e8 + 1e5, rel=1e-6)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_half(reduction: str, dtype: Any) -> None:
    assert check(values((5, 7), dtype, 1), values((5, 7), dtype, 2), reduction).dtype == dtype


def test_mixed_dtypes() -> None:
    x, t = values((5, 7), np.float32, 1), values((5, 7), np.float64, 2)
    assert check(x, t).dtype == np.float64
    assert check(x, x[::-1], "mean", np.abs(t) + 0.5).dtype == np.float64


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_out(reduction: str) -> None:
    x, t = values((4, 5), np.float32, 1), values((4, 5), np.float32, 2)
    check_out("mse_loss", x, t, reduction=reduction)
    check_overlap("mse_loss", x, t, reduction=reduction)


@pytest.mark.cpu_only
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_same_bits_for_any_number_of_threads(reduction: str) -> None:
    for n in (1031, 200_003):
        check_threads(
            "mse_loss", values((n,), np.float32, 1), values((n,), np.float32, 2), reduction=reduction
        )


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_torch(weighted: bool, reduction: str, dtype: Any) -> None:
    x, t = values((6, 19), dtype, 1), values((6, 19), dtype, 2)
    weight = np.abs(values((6, 19), dtype, 3)) if weighted else None
    loss, pullback = ann.vjp(ann.mse_loss, x, t, reduction=reduction, weight=weight)
    tx = torch.tensor(x, requires_grad=True)
    tloss = F.mse_loss(
        tx, torch.tensor(t), reduction=reduction, weight=torch.tensor(weight) if weighted else None
    )
    assert_close(loss, tloss.detach().numpy(), terms=114, scale=9)
    dloss = cotangent_of(loss)
    tloss.backward(torch.tensor(dloss))
    assert_close(pullback(dloss)[0], tx.grad.numpy(), terms=4, scale=9)


X = np.ones((3, 5), np.float32)


@pytest.mark.parametrize(
    ("error", "argument", "args", "options"),
    [
        (TypeError, "input", (X.tolist(), X), {}),
        (TypeError, "input", (X.astype(int), X), {}),
        (TypeError, "target", (X, X.tolist()), {}),
        (TypeError, "target", (X, X.astype(int)), {}),
        (TypeError, "target", (X, 1.0), {}),
        (ValueError, "target", (X, X[:, :4]), {}),
        (ValueError, "target", (X, X[:2]), {}),
        (ValueError, "reduction", (X, X), {"reduction": "avg"}),
        (ValueError, "reduction", (X, X), {"reduction": None}),
        (TypeError, "weight", (X, X), {"weight": X.tolist()}),
        (TypeError, "weight", (X, X), {"weight": X > 0}),
        (ValueError, "weight", (X, X), {"weight": X[0]}),
    ],
)
def test_bad(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad("mse_loss", error, argument, *args, **options)
