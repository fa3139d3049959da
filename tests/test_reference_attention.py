"""The reference of attention against PyTorch, and its gradients against central differences."""

from __future__ import annotations

from typing import Any

import arraynn as ann
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import check, check_gradient, check_parity, rand

attention = ann.reference.scaled_dot_product_attention
rng = np.random.default_rng(0)

SHAPES = [
    ((5, 4), (7, 4), (7, 3)),
    ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)),
    ((2, 1, 5, 4), (3, 7, 4), (7, 2)),  # batch axes broadcast
    ((1, 0, 5, 4), (1, 0, 7, 4), (1, 0, 7, 3)),
    ((0, 4), (7, 4), (7, 3)),
    ((5, 4), (0, 4), (0, 3)),
    ((5, 4), (7, 4), (7, 0)),
    ((5, 0), (7, 0), (7, 3)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": -0.7}, {"scale": 0.0}], ids=str)
def test_attention(shapes: Any, options: dict[str, Any]) -> None:
    check(
        attention,
        F.scaled_dot_product_attention,
        *(rand(*s, seed=i) for i, s in enumerate(shapes)),
        **options,
    )


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (5, 1), (2, 3, 5, 7), (3, 1, 7)])
def test_masks(shape: Any) -> None:
    q, k, v = (rand(*s, seed=i) for i, s in enumerate(SHAPES[1]))
    for mask in (
        rng.random(shape) < 0.5,
        np.where(rng.random(shape) < 0.3, -np.inf, rng.standard_normal(shape)),
    ):
        check_parity(attention, F.scaled_dot_product_attention, q, k, v, attn_mask=mask)
        check_gradient(attention, q, k, v, attn_mask=mask, is_causal=True)


def test_causal_and_a_mask_are_both_in_force() -> None:
    q, k, v = (rand(*s, seed=i) for i, s in enumerate(SHAPES[1]))
    mask = rng.random((5, 7)) < 0.5
    both = attention(q, k, v, mask & np.tri(5, 7, dtype=bool))
    np.testing.assert_array_equal(attention(q, k, v, mask, is_causal=True), both)


def test_a_query_without_a_key() -> None:
    q, k, v = (rand(*s, seed=i) for i, s in enumerate(SHAPES[0]))
    mask = np.ones((5, 7), bool)
    mask[2] = False
    check_parity(attention, F.scaled_dot_product_attention, q, k, v, attn_mask=mask)
    y, pullback = ann.vjp(attention, q, k, v, mask)
    assert not y[2].any()
    assert not pullback(np.ones_like(y))[0][2].any()
    check_parity(attention, F.scaled_dot_product_attention, q, k, v, attn_mask=np.full((5, 7), -1e30))


@pytest.mark.parametrize("heads", [(6, 2), (4, 1), (2, 2)])
def test_grouped_heads(heads: tuple[int, int]) -> None:
    q, k, v = rand(2, heads[0], 5, 4), rand(2, heads[1], 7, 4), rand(2, heads[1], 7, 3)
    check(attention, F.scaled_dot_product_attention, q, k, v, enable_gqa=True)


def test_dropout_is_of_the_weights() -> None:
    q, k = rand(2, 5, 4), rand(2, 7, 4)
    identity = np.broadcast_to(np.eye(7), (2, 7, 7))
    weights = attention(q, k, identity)
    for p in (0.3, 1.0):
        dropped = attention(q, k, identity, None, p, rng=3)
        np.testing.assert_array_equal(dropped, ann.reference.dropout(weights, p, rng=3))
    check_gradient(attention, q, k, rand(2, 7, 3), None, 0.3, rng=3)
    assert torch.equal(
        torch.tensor(weights.sum(-1)).round(decimals=12), torch.ones(2, 5, dtype=torch.float64)
    )
