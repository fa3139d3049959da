"""embedding against the reference and PyTorch."""

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
from shapes import HALF, WIDE, arrays, lay, values, wide_dtypes, widths
from tolerance import assert_close

INTEGERS = [
    np.dtype(t) for t in (np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8)
]


def check(index: Any, weight: Any, *args: Any, **options: Any) -> Any:
    """A row's gradient adds up at most every cotangent; the output is the rows, bit for bit."""
    out = check_op("embedding", index, weight, *args, bounds={"weight": (index.size, 1.0)}, **options)
    assert_same_bits(out, np.ascontiguousarray(weight)[index.astype(np.int64)])
    return out


@given(
    st.data(),
    st.sampled_from([(), (0,), (1,), (2,), (17,), (3, 5), (2, 0, 3), (4, 1, 9)]),
    st.sampled_from([1, 2, 3, 16, 40]),
    widths | st.just(0),
    wide_dtypes,
    st.sampled_from(INTEGERS),
)
def test_embedding(data: Any, shape: Any, rows: int, width: int, dtype: Any, integer: Any) -> None:
    weight = data.draw(arrays((rows, width), dtype, ("normal", "inf", "nan")))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    index = lay(
        np.asarray(rng.integers(0, rows, shape).astype(integer)),
        data.draw(st.sampled_from(["c", "strided", "reversed", "fortran"])),
    )
    padding = data.draw(st.none() | st.integers(-rows, rows - 1))
    check(index, weight, padding)


@pytest.mark.parametrize("width", [1, 8, 20])
@pytest.mark.parametrize("kind", ["spread", "one row", "runs", "none"])
def test_sums_of_many(kind: str, width: int) -> None:
    """Rows that fill several tiles of the sort and of the sums, end with one, or take no gradient."""
    count, rows = 4500, 300
    rng = np.random.default_rng(1)
    index = {
        "spread": rng.integers(0, rows, count),
        "one row": np.full(count, 299),
        "runs": np.repeat([5, 299, 0, 17, 256], [32, 64, 96, 1, count - 193]),
        "none": np.full(count, 7),
    }[kind]
    rng.shuffle(index)
    check(index, values((rows, width), np.float32, 1), 7)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("width", [5, 16])
def test_half(width: int, dtype: Any) -> None:
    """Sums are in float32: 300 ones are 300, which bfloat16 would not count to."""
    weight = values((9, width), dtype, 1)
    index = np.array([[3, 0, 8], [8, 8, 3]])
    assert check(index, weight).dtype == dtype
    y, pullback = ann.vjp(ann.embedding, np.zeros(300, int), weight)
    (dweight,) = pullback(np.ones_like(y))
    assert dweight.dtype == dtype
    assert (dweight[0] == 300).all()
    assert not dweight[1:].any()


@pytest.mark.parametrize(
    "layout", ["rows", "reversed", "strided", "broadcast", "misaligned", "read-only", "fortran"]
)
def test_rows_where_they_lie(layout: str) -> None:
    weight = lay(values((7, 8), np.float32, 1), layout)
    check(np.array([6, 0, 3, 3]), weight)


def test_every_row_has_its_order() -> None:
    """The same sum in another order would have other bits."""
    index = np.array([1, 0, 1, 1, 0, 1])
    dy = np.array([1e8, 1, 1, -1e8, 2, 1], np.float32)[:, np.newaxis]
    _, pullback = ann.vjp(ann.embedding, index, np.zeros((3, 1), np.float32))
    expected = np.float32(((np.float32(1e8) + np.float32(1)) - np.float32(1e8)) + np.float32(1))
    np.testing.assert_array_equal(pullback(dy)[0][:, 0], [3, expected, 0])


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads() -> None:
    index = np.random.default_rng(0).integers(0, 999, (70, 60)) ** 2 % 1000
    check_threads("embedding", index, values((1000, 33), np.float32, 1), 4)


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), ()])
def test_out(shape: tuple[int, ...]) -> None:
    index, weight = (
        np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape)),
        values((6, 4), np.float32, 1),
    )
    check_out("embedding", index, weight)
    check_overlap("embedding", index, weight)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("padding", [None, 2, -1])
def test_torch(padding: int | None, dtype: Any) -> None:
    index, weight = np.array([[0, 2, 4], [2, 2, 0]]), values((5, 3), dtype, 1)
    y, pullback = ann.vjp(ann.embedding, index, weight, padding)
    tweight = torch.tensor(weight, requires_grad=True)
    ty = F.embedding(torch.tensor(index), tweight, padding)
    np.testing.assert_array_equal(y, ty.detach().numpy())
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    assert_close(pullback(dy)[0], tweight.grad.numpy(), terms=3)


INDEX, WEIGHT = np.array([[0, 3], [1, 1]]), np.ones((4, 2), np.float32)


@pytest.mark.parametrize(
    ("error", "argument", "args"),
    [
        (TypeError, "input", (INDEX.tolist(), WEIGHT)),
        (TypeError, "input", (INDEX.astype(float), WEIGHT)),
        (TypeError, "input", (INDEX > 0, WEIGHT)),
        (TypeError, "input", (None, WEIGHT)),
        (ValueError, "input holds 4", (np.array([0, 4, -1]), WEIGHT)),
        (ValueError, "input holds -1", (np.array([0, -1]), WEIGHT)),
        (ValueError, "input", (np.array([0, 2**63], np.uint64), WEIGHT)),
        (ValueError, "input holds 0", (INDEX[:1, :1], WEIGHT[:0])),
        (TypeError, "weight", (INDEX, WEIGHT.tolist())),
        (TypeError, "weight", (INDEX, WEIGHT.astype(int))),
        (ValueError, "weight", (INDEX, WEIGHT[0])),
        (ValueError, "weight", (INDEX, WEIGHT[None])),
        (ValueError, "padding_idx", (INDEX, WEIGHT, 4)),
        (ValueError, "padding_idx", (INDEX, WEIGHT, -5)),
        (TypeError, "padding_idx", (INDEX, WEIGHT, 1.0)),
    ],
)
def test_bad(error: Any, argument: str, args: Any) -> None:
    check_bad("embedding", error, argument, *args)


def test_bad_number_of_dimensions() -> None:
    refuses(
        ValueError,
        "^embedding: input has 8 dimensions, expected at most 7",
        ann.embedding,
        INDEX.reshape((1,) * 6 + (2, 2)),
        WEIGHT,
    )


@pytest.mark.cpu_only
def test_a_bad_index_is_refused_before_out_is_written() -> None:
    out = np.full((3, 2), 7, np.float32)
    refuses(ValueError, "input holds 9", ann.embedding, np.array([0, 9, 3]), WEIGHT, out=out)
    assert (out == 7).all()
