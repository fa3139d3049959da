"""MultiheadAttention: PyTorch's parameters, outputs, gradients and masks; what is its own."""

from __future__ import annotations

from typing import Any

import arraynn as ann
import numpy as np
import pytest
import torch
from arraynn import layers

rng = np.random.default_rng(0)
F64 = {"dtype": np.float64}


def draw(*shape: int) -> Any:
    return rng.standard_normal(shape)


def pair(**options: Any) -> Any:
    """Return the layer, and PyTorch's with its parameters."""
    ours = layers.MultiheadAttention(12, 3, **options, **F64)
    theirs = torch.nn.MultiheadAttention(12, 3, **options, dtype=torch.float64)
    with torch.no_grad():  # biases that are zero would not be missed
        for parameter in theirs.parameters():
            parameter.copy_(torch.from_numpy(draw(*parameter.shape)))
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours, theirs


def compare(ours: Any, theirs: Any, *inputs: Any, **masks: Any) -> None:
    tensors = [torch.from_numpy(x.copy()).requires_grad_() for x in inputs]
    y = ours(*inputs, **masks)
    hints = {k: torch.from_numpy(m) if isinstance(m, np.ndarray) else m for k, m in masks.items()}
    expected = theirs(*tensors, need_weights=False, **hints)[0]
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-9, atol=1e-11)
    dy = draw(*y.shape)
    expected.backward(torch.from_numpy(dy))
    for got, tensor in zip(ours.backward(dy), tensors, strict=True):
        np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=1e-9, atol=1e-11)
    for (name, parameter), (their_name, their) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == their_name
        np.testing.assert_allclose(parameter.grad, their.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"batch_first": True}])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_is_pytorchs(batch: Any, options: Any) -> None:
    def shaped(length: int) -> Any:
        return draw(*((*batch, length) if options.get("batch_first") else (length, *batch)), 12)

    compare(*pair(**options), shaped(5), shaped(7), shaped(7))


def test_masks_are_pytorchs() -> None:
    q, k, v = draw(5, 2, 12), draw(7, 2, 12), draw(7, 2, 12)
    padding = np.arange(7) >= np.array([[7], [4]])
    out = rng.random((5, 7)) < 0.3
    out[:, 0] = False  # PyTorch gives NaN for a query without a key
    each = np.repeat(out[None], 6, 0)
    each[3, :, 2] = True
    compare(*pair(), q, k, v, key_padding_mask=padding)
    compare(*pair(), q, k, v, attn_mask=out)
    compare(*pair(), q, k, v, key_padding_mask=padding, attn_mask=each)
    compare(*pair(), q, k, v, key_padding_mask=np.where(padding, -np.inf, 0.0), attn_mask=draw(5, 7))
    none = np.where(padding[1], -np.inf, 0.0)
    compare(*pair(), q[:, 0], k[:, 0], v[:, 0], key_padding_mask=none, attn_mask=draw(3, 5, 7))
    behind = np.triu(np.ones((5, 5), bool), 1)
    ours, theirs = pair()
    compare(ours, theirs, q, q, q, attn_mask=behind, is_causal=True)
    ours.zero_grad()
    np.testing.assert_allclose(ours(q, is_causal=True), ours(q, attn_mask=behind), rtol=1e-12)


def test_a_mask_of_flags_and_one_that_is_added() -> None:
    layer, x, padding, bias = (
        layers.MultiheadAttention(12, 3, **F64),
        draw(4, 2, 12),
        np.eye(2, 4) > 0,
        draw(4, 4),
    )
    added = np.where(padding, -np.inf, 0.0)
    np.testing.assert_array_equal(layer(x, None, None, padding, bias), layer(x, None, None, added, bias))


def test_a_query_without_a_key_gives_the_bias() -> None:
    layer, x = pair()[0], draw(4, 2, 12)
    y = layer(x, key_padding_mask=np.array([[True] * 4, [False] * 4]))
    np.testing.assert_array_equal(y[:, 0], np.broadcast_to(layer.out_proj.bias.data, (4, 12)))
    assert np.isfinite(layer.backward(y)).all()


def test_gradients_are_of_what_was_given() -> None:
    layer, x, other, dy = (
        layers.MultiheadAttention(12, 3, **F64),
        draw(4, 2, 12),
        draw(6, 2, 12),
        draw(4, 2, 12),
    )
    layer(x, x, x)
    three = layer.backward(dy)
    layer(x)
    np.testing.assert_allclose(layer.backward(dy), sum(three), rtol=1e-12)
    layer(x, other)
    two = layer.backward(dy)
    layer(x, other, other)
    dquery, dkey, dvalue = layer.backward(dy)
    np.testing.assert_array_equal(two[0], dquery)
    np.testing.assert_allclose(two[1], dkey + dvalue, rtol=1e-12)
    layer(x, value=x)
    np.testing.assert_allclose(layer.backward(dy)[0], three[0] + three[1], rtol=1e-12)
    layer.zero_grad()
    layer(x, input_grad=False)
    assert layer.backward(dy) is None
    assert layer.in_proj_weight.grad is not None


def test_modes() -> None:
    layer, x = layers.MultiheadAttention(12, 3, dropout=0.5, rng=1, **F64), draw(20, 2, 12)
    assert abs(layer(x) - layer(x)).max() > 1e-3
    assert abs(layer.backward(x)).max() > 0
    layer(x)
    layer.eval()
    np.testing.assert_array_equal(layer(x), layer(x))
    assert layer._pullback is None
    with pytest.raises(RuntimeError, match="MultiheadAttention: backward needs a call in train"):
        layer.backward(x)
    again = layers.MultiheadAttention(12, 3, dropout=0.5, rng=1, **F64)
    np.testing.assert_array_equal(again.eval()(x), layer(x))
    assert repr(layer).startswith("MultiheadAttention(\n  12, 3, dropout=0.5\n  (out_proj): Linear(")


def test_learns_in_a_model() -> None:
    model = layers.Sequential(
        layers.MultiheadAttention(12, 3, rng=0, **F64), layers.Linear(12, 1, rng=0, **F64)
    )
    x, target = draw(5, 4, 12), draw(5, 4, 1)
    optimizer = ann.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss, pull = ann.vjp(ann.mse_loss, model(x), target)
        losses.append(float(loss))
        model.zero_grad()
        model.backward(pull(np.ones_like(loss))[0])
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


LAYER = layers.MultiheadAttention(12, 3)
X = np.ones((5, 2, 12), np.float32)


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (ValueError, "multiple of num_heads", lambda: layers.MultiheadAttention(12, 5)),
        (ValueError, "dropout", lambda: layers.MultiheadAttention(12, 3, 1.5)),
        (TypeError, "num_heads", lambda: layers.MultiheadAttention(12, 3.0)),
        (TypeError, "query", lambda: LAYER(X.tolist())),
        (ValueError, "query", lambda: LAYER(X[..., :6])),
        (ValueError, "query", lambda: LAYER(X[0, 0])),
        (ValueError, "key", lambda: LAYER(X, X[:, :1])),
        (ValueError, "value", lambda: LAYER(X, X, X[0])),
        (ValueError, "value", lambda: LAYER(X, X, X[:3])),
        (ValueError, "key_padding_mask", lambda: LAYER(X, key_padding_mask=np.ones((5, 2), bool))),
        (TypeError, "key_padding_mask", lambda: LAYER(X, key_padding_mask=np.ones((2, 5), int))),
        (TypeError, "attn_mask", lambda: LAYER(X, attn_mask=[[True]])),
        (ValueError, "attn_mask", lambda: LAYER(X, attn_mask=np.ones((2, 5, 5), bool))),
    ],
)
def test_bad(error: Any, argument: str, call: Any) -> None:
    with pytest.raises(error, match=argument):
        call()
