"""scaled_dot_product_attention against the reference and PyTorch."""

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
from shapes import HALF, WIDE, arrays, values, wide_dtypes
from tolerance import assert_close, eps, largest

OP = "scaled_dot_product_attention"


def check(
    q: Any, k: Any, v: Any, mask: Any = None, p: float = 0.0, causal: bool = False, **options: Any
) -> Any:
    depth, columns, queries, keys = q.shape[-1], v.shape[-1], q.shape[-2], k.shape[-2]
    scale = abs(options.get("scale", max(depth, 1) ** -0.5))
    # An error of a score, of a sum of `depth` products, is one of its weight, relative to it.
    terms = 16 + keys + columns + 2 * scale * depth * largest(q) * largest(k) + queries
    more = 2 / (1 - p) if p < 1 else 1.0
    repeats = max(q.size // max(k.size, 1), v.size // max(q.size, 1), 1) * 4
    slope = more * scale * (columns + 1) * largest(v) * repeats
    bounds = {
        "out": (terms, more * largest(v)),
        "query": (terms, slope * largest(k)),
        "key": (terms, slope * largest(q) * (1 + queries)),
        "value": (terms, more * (1 + queries) * repeats),
    }
    return check_op(OP, q, k, v, mask, p, causal, bounds=bounds, **options)


@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (65, 70, 17, 16), (130, 33, 64, 80)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"dropout_p": 0.3, "rng": 3}, {"enable_gqa": True}], ids=str
)
def test_every_gradient_as_a_whole(options: dict[str, Any], sizes: tuple[int, ...]) -> None:
    """Bounds of single elements have to allow for so much that a gradient of zeros may lie within them."""
    q, k, v = qkv((2, 4), *sizes, kv=(2, 2) if "enable_gqa" in options else None)
    out, pullback = ann.vjp(ann.scaled_dot_product_attention, q, k, v, **options)
    expected, pull = ann.vjp(ann.reference.scaled_dot_product_attention, q, k, v, **options)
    dy = values(out.shape, np.float32, 7)
    for a, e in zip((out, *pullback(dy)), (expected, *pull(dy)), strict=True):
        assert np.linalg.norm(a - e) <= 200 * eps(np.float32) * np.linalg.norm(e)


def qkv(
    batch: tuple[int, ...], *sizes: int, dtype: Any = np.float32, kv: tuple[int, ...] | None = None
) -> Any:
    """Return query, key and value of (queries, keys, depth, value depth)."""
    queries, keys, depth, columns = sizes
    kv = batch if kv is None else kv
    shapes = ((*batch, queries, depth), (*kv, keys, depth), (*kv, keys, columns))
    return tuple(values(shape, dtype, i) for i, shape in enumerate(shapes))


def mask_of(kind: str, shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    if kind == "none":
        return None
    if kind == "flags":
        return rng.random(shape) < 0.6
    bias = rng.standard_normal(shape)
    return np.where(rng.random(shape) < 0.2, -np.inf, bias).astype(dtype)


sizes = st.sampled_from((0, 1, 2, 3, 5, 16, 33, 65))
depths = st.sampled_from((1, 2, 3, 8, 17, 80))


@given(
    st.data(),
    wide_dtypes,
    st.sampled_from([(), (0,), (2,), (1, 2)]),
    st.tuples(sizes, sizes, depths, depths),
    st.sampled_from(["none", "flags", "bias"]),
    st.sampled_from([0.0, 0.0, 0.3]),
    st.booleans(),
)
def test_attention(data: Any, dtype: Any, batch: Any, shape: Any, mask: str, p: float, causal: bool) -> None:
    queries, keys, depth, columns = shape
    q = data.draw(arrays((*batch, queries, depth), dtype))
    k = data.draw(arrays((*batch, keys, depth), dtype))
    v = data.draw(arrays((*batch, keys, columns), dtype))
    axes = data.draw(
        st.sampled_from([(queries, keys), (1, keys), (queries, 1), (*batch, queries, keys), (keys,)])
    )
    check(q, k, v, mask_of(mask, axes, dtype), p, causal, rng=1)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_more_than_one_block(causal: bool, dtype: Any) -> None:
    """Sizes that fill tiles and blocks of either back end more than once, with a rest."""
    check(*qkv((1,), 34, 500, 9, 5, dtype=dtype), None, 0.0, causal)
    check(*qkv((1,), 430, 35, 5, 9, dtype=dtype), None, 0.0, causal)


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("queries", [1, 2, 3, 8])
def test_few_queries(queries: int, dtype: Any) -> None:
    """Keys that are read as they lie, in more than one part, with a rest, and masked as a whole."""
    check(*qkv((2, 3), queries, 2317, 19, 37, dtype=dtype))
    q, k, v = qkv((1, 6), queries, 1100, 9, 70, dtype=dtype, kv=(1, 2))
    mask = mask_of("flags", (6, queries, 1100), None)
    mask[1], mask[2, :, :1030] = False, False
    check(q, k, v, mask, 0.3, enable_gqa=True, rng=1)
    check(q[0, :2], k[0], v[0], mask_of("bias", (queries, 1100), dtype), 0.0, True)
    check(q[0, :2], np.swapaxes(np.swapaxes(k[0], -1, -2).copy(), -1, -2), v[0, :, :, ::2])


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_many_heads(causal: bool, dtype: Any) -> None:
    """Enough that the host adds up the queries' gradient from the keys' tiles."""
    check(*qkv((2, 8), 210, 300, 40, 5, dtype=dtype), None, 0.0, causal)
    q, k, v = qkv((2, 16), 130, 270, 9, 7, dtype=dtype, kv=(2, 8))
    check(q, k, v, mask_of("flags", (130, 270), None), 0.2, causal, enable_gqa=True, rng=1)


@pytest.mark.parametrize("sizes", [(1, 5, 256, 128), (3, 2, 128, 300), (3, 66, 200, 3)])
def test_wide_heads(sizes: tuple[int, ...]) -> None:
    check(*qkv((2,), *sizes))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(6, 2), (4, 1), (3, 3)])
def test_grouped_heads(heads: tuple[int, int], causal: bool) -> None:
    q, k, v = qkv((2, heads[0]), 35, 37, 8, 7, kv=(2, heads[1]))
    check(q, k, v, mask_of("flags", (2, heads[0], 35, 37), None), 0.2, causal, enable_gqa=True, rng=3)


def test_batch_axes_broadcast() -> None:
    q, k, v = (
        values((3, 1, 5, 4), np.float64, 1),
        values((2, 6, 4), np.float64, 2),
        values((6, 7), np.float64, 3),
    )
    assert check(q, k, v).shape == (3, 2, 5, 7)
    assert check(q[0, 0], k, v).shape == (2, 5, 7)
    assert check(q[:1, 0], k[0], np.stack([v, v + 1]), rng=1, p=0.3).shape == (2, 5, 7)
    out, pullback = ann.vjp(ann.scaled_dot_product_attention, q, k, v)
    assert [g.shape for g in pullback(out)] == [q.shape, k.shape, v.shape]


def test_heads_behind_the_sequence() -> None:
    """(N, L, H, E) with the axes swapped, as a projection gives it, in memory where rows are apart."""
    q, k, v = (values((2, 33, 3, 16), np.float32, i).swapaxes(1, 2) for i in range(3))
    check(q, k, v, None, 0.0, True)
    check(q[..., ::-1, :], k.swapaxes(-1, -2).copy().swapaxes(-1, -2), v[..., ::-1])


@pytest.mark.parametrize("scale", [0.0, -1.5, 3])
def test_scale(scale: float) -> None:
    check(*qkv((2,), 5, 7, 4, 3), scale=scale)


def test_no_columns() -> None:
    check(*qkv((2,), 5, 7, 0, 3))
    check(*qkv((2,), 5, 7, 4, 0))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_a_query_without_a_key_is_zero(dtype: Any) -> None:
    q, k, v = qkv((2,), 5, 70, 4, 3, dtype=dtype)
    flags, bias = np.ones((5, 70), bool), np.zeros((5, 70), dtype)
    flags[2], bias[2] = False, -np.inf
    bias[3, :69] = -np.inf  # one key is left, the last
    for mask in (flags, bias):
        y, pullback = ann.vjp(ann.scaled_dot_product_attention, q, k, v, mask)
        assert not y[:, 2].any()
        gradients = pullback(np.ones_like(y))
        assert not gradients[0][:, 2].any()
        assert all(np.isfinite(g).all() for g in gradients)
        check(q, k, v, mask)
    assert not ann.scaled_dot_product_attention(q, k, v, np.zeros((1, 1), bool)).any()
    assert not ann.scaled_dot_product_attention(q, k[:, :0], v[:, :0]).any()
    y, pullback = ann.vjp(ann.scaled_dot_product_attention, q, k, v, np.zeros(70, bool))
    assert not any(g.any() for g in pullback(np.ones_like(y)))


def test_what_is_masked_does_not_matter() -> None:
    q, k, v = qkv((), 6, 90, 4, 3)
    mask = np.arange(90) < 70
    expected = ann.scaled_dot_product_attention(q, k[:70], v[:70])
    k[70:] = np.nan
    np.testing.assert_allclose(
        ann.scaled_dot_product_attention(q, k, v, mask), expected, rtol=1e-5, atol=1e-6
    )


def test_scores_of_any_size() -> None:
    """The largest weight comes first, last, and everywhere; sums would overflow, or vanish, without it."""
    q, k, v = qkv((), 40, 300, 8, 4)
    for order in (slice(None), slice(None, None, -1)):
        ramp = np.linspace(-200, 200, 300)[order].astype(np.float32)
        check(q, k, v, ramp)
    check(np.zeros_like(q), k, v)
    check(q * 0, k, v, np.full((40, 300), -1e30, np.float32))


def test_infinity_and_nan_stay_in_their_row() -> None:
    q, k, v = qkv((), 7, 80, 4, 3)
    q[1], q[3, 0] = np.nan, np.inf
    k[:, 0] = np.abs(k[:, 0])  # so that the infinity gives scores of +inf
    y = ann.scaled_dot_product_attention(q, k, v)
    assert np.isnan(y[[1, 3]]).all()
    assert np.isfinite(y[[0, 2, 4, 5, 6]]).all()
    q[3, 0] = -np.inf  # no score is above -inf: as if all keys were masked
    k[5:, 0] = -1
    y = ann.scaled_dot_product_attention(q, k, v)
    assert np.isnan(y[3]).all()
    k[:, 0] = 1
    assert not ann.scaled_dot_product_attention(q, k, v)[3].any()


def test_dropout_is_dropouts_mask_of_the_weights() -> None:
    q, k = qkv((2,), 37, 70, 4, 1)[:2]
    identity = np.broadcast_to(np.eye(70, dtype=np.float32), (2, 70, 70))
    weights = ann.scaled_dot_product_attention(q, k, identity)
    dropped = ann.scaled_dot_product_attention(q, k, identity, None, 0.4, rng=5)
    np.testing.assert_array_equal(dropped != 0, ann.dropout(weights, 0.4, rng=5) != 0)
    assert_close(dropped, ann.dropout(weights, 0.4, rng=5), terms=64)
    assert not ann.scaled_dot_product_attention(q, k, identity, None, 1.0).any()
    generator = np.random.default_rng(5)
    for _ in range(2):
        again = ann.scaled_dot_product_attention(q, k, identity, None, 0.4, rng=generator)
        np.testing.assert_array_equal(again == dropped, (again == dropped).all())
        dropped = again + 1


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half(dtype: Any) -> None:
    assert check(*qkv((2,), 35, 70, 24, 72, dtype=dtype), None, 0.0, True).dtype == dtype
    q, k, v = qkv((2, 2), 5, 67, 7, 5, dtype=dtype, kv=(2, 1))
    check(q, k, v, mask_of("bias", (5, 67), dtype), 0.3, enable_gqa=True, rng=1)


def test_mixed_dtypes() -> None:
    q, k, v = qkv((2,), 5, 7, 4, 3)
    assert check(q.astype(np.float16), k, v).dtype == np.float32
    assert check(q, k, v, np.zeros((5, 7))).dtype == np.float64


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
def test_out(batch: tuple[int, ...]) -> None:
    q, k, v = qkv(batch, 5, 7, 4, 3)
    check_out(OP, q, k, v)
    check_overlap(OP, q, k, v)


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads() -> None:
    for sizes in ((200, 800, 20, 30), (1, 70, 8, 8)):
        check_threads(OP, *qkv((2, 3), *sizes), None, 0.1, True, rng=1)
    check_threads(OP, *qkv((16,), 100, 300, 20, 30), None, 0.0, True)
    q, k, v = qkv((1, 6), 50, 90, 8, 8, kv=(1, 2))
    check_threads(OP, q, k, v, mask_of("flags", (50, 90), None), enable_gqa=True)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("mask", ["none", "flags", "bias"])
def test_torch(mask: str, dtype: Any) -> None:
    q, k, v = qkv((2, 4), 33, 34, 16, 9, dtype=dtype, kv=(2, 2))
    bias = mask_of(mask, (33, 34), dtype)
    causal = mask == "none"
    y, pullback = ann.vjp(ann.scaled_dot_product_attention, q, k, v, bias, is_causal=causal, enable_gqa=True)
    leaves = [torch.tensor(a, requires_grad=True) for a in (q, k, v)]
    peer = F.scaled_dot_product_attention(
        *leaves, None if bias is None else torch.tensor(bias), is_causal=causal, enable_gqa=True
    )
    assert_close(y, peer.detach().numpy(), terms=128, scale=4)
    dy = cotangent_of(y)
    peer.backward(torch.tensor(dy))
    for g, t in zip(pullback(dy), leaves, strict=True):
        assert_close(g, t.grad.numpy(), terms=512, scale=8)


Q, K, V = np.ones((2, 3, 5, 4)), np.ones((2, 3, 6, 4)), np.ones((2, 3, 6, 7))


@pytest.mark.parametrize(
    ("error", "argument", "args", "options"),
    [
        (TypeError, "query", (Q.tolist(), K, V), {}),
        (TypeError, "key", (Q, K.astype(int), V), {}),
        (TypeError, "value", (Q, K, V.astype(bool)), {}),
        (TypeError, "attn_mask", (Q, K, V, [True] * 6), {}),
        (TypeError, "attn_mask", (Q, K, V, np.ones(6, int)), {}),
        (TypeError, "attn_mask", (Q, K, V, np.ones(6, np.uint8)), {}),
        (ValueError, "query", (Q[0, 0, 0], K, V), {}),
        (ValueError, "value", (Q, K, V[0, 0, 0]), {}),
        (ValueError, "key", (Q, K[..., :3], V), {}),
        (ValueError, "value", (Q, K, V[..., :5, :]), {}),
        (ValueError, "key", (Q, K[:, :2], V[:, :2]), {}),
        (ValueError, "value", (Q, K, V[:, :2]), {}),
        (ValueError, "attn_mask", (Q, K, V, np.ones((5, 5), bool)), {}),
        (ValueError, "attn_mask", (Q, K, V, np.ones((4, 2, 3, 5, 6))), {}),
        (ValueError, "attn_mask", (Q, K, V, np.ones((2, 2, 5, 6))), {}),
        (ValueError, "query", (Q, K[:, :2], V[:, :2]), dict(enable_gqa=True)),
        (ValueError, "value", (Q, K, V[:, :1]), dict(enable_gqa=True)),
        (ValueError, "enable_gqa", (Q[0, 0], K[0], V[0]), dict(enable_gqa=True)),
        (ValueError, "dropout_p", (Q, K, V, None, -0.1), {}),
        (ValueError, "dropout_p", (Q, K, V, None, 1.1), {}),
        (TypeError, "dropout_p", (Q, K, V, None, "a"), {}),
        (TypeError, "is_causal", (Q, K, V), dict(is_causal=1)),
        (TypeError, "enable_gqa", (Q, K, V), dict(enable_gqa=None)),
        (TypeError, "scale", (Q, K, V), dict(scale="a")),
        (TypeError, "rng", (Q, K, V), dict(rng="a")),
    ],
)
def test_bad(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad(OP, error, argument, *args, **options)
