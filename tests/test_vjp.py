"""vjp: structure, wrt, cotangents and what it refuses."""

from __future__ import annotations

import inspect
from typing import Any

import arraynn as ann
import numpy as np
import pytest
from arraynn._vjp import differentiable
from checks import assert_same_bits, check_op, cotangent_of, leaves
from shapes import values

X, W, B = values((3, 5), np.float32, 1), values((4, 5), np.float32, 2), values((4,), np.float32, 3)
H, C = values((3, 2), np.float32, 4), values((3, 2), np.float32, 5)
CELL = [values(s, np.float32, 6 + i) for i, s in enumerate([(8, 5), (8, 2), (8,), (8,)])]


def test_the_differentiable_arguments_of_every_op() -> None:
    expected = {
        **dict.fromkeys(("conv1d", "conv2d", "linear"), ("input", "weight", "bias")),
        **dict.fromkeys(("batch_norm", "layer_norm", "group_norm"), ("input", "weight", "bias")),
        "rms_norm": ("input", "weight"),
        **dict.fromkeys(
            (*(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)), "linear"),
            ("input", "weight", "bias"),
        ),
        **dict.fromkeys(
            ("lstm_cell", "gru_cell", "rnn_cell"), ("input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")
        ),
        **dict.fromkeys(("lstm", "gru", "rnn"), ("input", "hx", "params")),
        "scaled_dot_product_attention": ("query", "key", "value"),
        "embedding": ("weight",),
        "linear_cross_entropy": ("input", "linear_weight", "linear_bias"),
    }
    for name in ann.reference.__all__:
        if name.endswith("_step") or name.startswith("clip_grad"):
            continue
        for op in (getattr(ann, name), getattr(ann.reference, name)):
            assert differentiable(op) == expected.get(name, ("input",)), name
            in_order = [p for p in inspect.signature(op).parameters if p in differentiable(op)]
            assert in_order == list(differentiable(op)), name


def test_one_gradient_for_each_argument() -> None:
    y, pullback = ann.vjp(ann.linear, X, W, B)
    assert isinstance(pullback(y), tuple)
    assert [g.shape for g in pullback(y)] == [X.shape, W.shape, B.shape]
    y, pullback = ann.vjp(ann.linear, X, W)
    assert pullback(y)[2] is None
    y, pullback = ann.vjp(ann.linear, X, weight=W, bias=B)
    assert [g.shape for g in pullback(y)] == [X.shape, W.shape, B.shape]


@pytest.mark.parametrize("wrt", ["weight", ("weight",), ["bias", "weight"], ("input", "weight", "bias"), ()])
def test_wrt(wrt: Any) -> None:
    y, pullback = ann.vjp(ann.linear, X, W, B, wrt=wrt)
    everything = ann.vjp(ann.linear, X, W, B)[1](y)
    names = (wrt,) if isinstance(wrt, str) else wrt
    for name, gradient, full in zip(("input", "weight", "bias"), pullback(y), everything, strict=True):
        assert_same_bits(gradient, full if name in names else None)


@pytest.mark.parametrize("wrt", ["x", ("input", "weights"), "out"])
def test_an_unknown_wrt(wrt: Any) -> None:
    with pytest.raises(ValueError, match=r"^vjp: wrt names '(x|weights|out)'.*input, weight, bias"):
        ann.vjp(ann.linear, X, W, B, wrt=wrt)


@pytest.mark.parametrize("op", [np.tanh, len, None, "linear", ann.sgd_step, ann.clip_grad_norm])
def test_not_an_op(op: Any) -> None:
    with pytest.raises(TypeError, match=r"^vjp: op"):
        ann.vjp(op, X)


def test_nested_gradients() -> None:
    (h, c), pullback = ann.vjp(ann.lstm_cell, X, (H, C), *CELL)
    dx, dhx, *dw = pullback((h, c))
    assert isinstance(dhx, tuple)
    assert [d.shape for d in dhx] == [H.shape, C.shape]
    assert [d.shape for d in dw] == [w.shape for w in CELL]
    assert dx.shape == X.shape
    _, pullback = ann.vjp(ann.lstm, X, (H[:1], C[:1]), CELL)
    _, dhx, dparams = pullback(None)
    assert isinstance(dhx, tuple)
    assert isinstance(dparams, list)
    assert [d.shape for d in dparams] == [w.shape for w in CELL]


def test_none_is_a_zero_cotangent_at_any_level() -> None:
    y, pullback = ann.vjp(ann.linear, X, W, B)
    assert_same_bits(pullback(None), pullback(np.zeros_like(y)))
    (h, c), pullback = ann.vjp(ann.lstm_cell, X, (H, C), *CELL)
    zero = np.zeros_like(h)
    assert_same_bits(pullback((h, None)), pullback((h, zero)))
    assert_same_bits(pullback((None, c)), pullback((zero, c)))
    assert_same_bits(pullback(None), pullback((zero, zero)))
    assert_same_bits(pullback([h, c]), pullback((h, c)))
    (y, (h, c)), pullback = ann.vjp(ann.lstm, X, (H[:1], C[:1]), CELL)
    zero = np.zeros_like(h)
    assert_same_bits(pullback((y, None)), pullback((y, (zero, zero))))
    assert_same_bits(pullback((None, (None, c))), pullback((np.zeros_like(y), (zero, c))))


def test_integer_outputs_take_no_cotangent() -> None:
    x = values((1, 4, 4), np.float32, 1)
    (y, index), pullback = ann.vjp(ann.max_pool2d, x, 2, return_indices=True)
    expected = ann.vjp(ann.max_pool2d, x, 2)[1](y)
    assert_same_bits(pullback((y, None)), expected)
    assert_same_bits(pullback((y, index)), expected)


def test_a_0d_cotangent_may_be_a_numpy_scalar() -> None:
    loss, pullback = ann.vjp(ann.mse_loss, X, X + 1)
    assert_same_bits(pullback(np.float32(2)), pullback(np.asarray(2, np.float32)))
    assert_same_bits(pullback(loss * 2), pullback(np.asarray(loss * 2)))


@pytest.mark.parametrize(
    ("cotangent", "error"),
    [
        (np.ones((3, 4)), TypeError),
        (np.ones((3, 4), int), TypeError),
        (np.ones((4, 3), np.float32), ValueError),
        (np.ones((3, 1), np.float32), ValueError),
        (np.ones((), np.float32), ValueError),
        ([[1.0] * 4] * 3, TypeError),
        (1.0, TypeError),
        ((np.ones((3, 4), np.float32),), TypeError),
    ],
)
def test_a_cotangent_unlike_the_output(cotangent: Any, error: Any) -> None:
    _, pullback = ann.vjp(ann.linear, X, W, B)
    with pytest.raises(error, match=r"^pullback: cotangent"):
        pullback(cotangent)


@pytest.mark.parametrize("cotangent", [H, (H,), (H, C, C), {"h": H, "c": C}])
def test_a_cotangent_of_another_structure(cotangent: Any) -> None:
    _, pullback = ann.vjp(ann.lstm_cell, X, (H, C), *CELL)
    with pytest.raises(ValueError, match=r"^pullback: cotangent.* tuple of 2"):
        pullback(cotangent)


def test_a_cotangent_wrong_inside() -> None:
    _, pullback = ann.vjp(ann.lstm, X, (H[:1], C[:1]), CELL)
    with pytest.raises(TypeError, match=r"^pullback: cotangent\[1\]\[0\]"):
        pullback((None, (H[:1].astype(np.float64), None)))


def test_the_pullback_may_be_called_again_with_another_cotangent() -> None:
    """Calls do not leave anything behind, and gradients do not share memory."""
    for op, args in (
        (ann.linear, (X, W, B)),
        (ann.lstm_cell, (X, (H, C), *CELL)),
        (ann.lstm, (X, (H[:1], C[:1]), CELL)),
        (ann.dropout, (X,)),
        (ann.max_pool2d, (values((2, 6, 6), np.float32, 1), 3, 1)),
        (ann.cross_entropy, (X, np.array([0, 4, 2]))),
    ):
        out, pullback = ann.vjp(op, *args)
        one, two = cotangent_of(out, 1), cotangent_of(out, 2)
        first = pullback(one)
        saved = [None if a is None else a.copy() for a in leaves(first)]
        second = pullback(two)
        assert_same_bits(
            list(leaves(first)), saved, f"{op.__name__}: a later call changed an earlier gradient"
        )
        assert not any(
            np.shares_memory(a, b)
            for a in leaves(first)
            for b in leaves(second)
            if a is not None and b is not None
        )
        assert_same_bits(pullback(one), first)


def test_results_never_share_memory_with_arguments() -> None:
    for op, args in (
        (ann.relu, (np.abs(X),)),
        (ann.dropout, (X, 0.0)),
        (ann.dropout, (X, 0.5, False)),
        (ann.max_pool2d, (values((2, 6, 6), np.float32, 1), 1)),
        (ann.avg_pool2d, (values((2, 6, 6), np.float32, 1), 1)),
        (ann.adaptive_avg_pool2d, (values((2, 6, 6), np.float32, 1), 6)),
        (ann.lstm, (X[:0], (H[:1], C[:1]), CELL)),
        (ann.mse_loss, (X, X + 1)),
    ):
        options = {"reduction": "none"} if op is ann.mse_loss else {}
        out, pullback = ann.vjp(op, *args, **options)
        dout = cotangent_of(out)
        results = [
            a for a in (*leaves(op(*args, **options)), *leaves(out), *leaves(pullback(dout))) if a is not None
        ]
        given = [a for a in (*leaves(args), *leaves(dout)) if isinstance(a, np.ndarray)]
        assert not any(np.shares_memory(a, b) for a in results for b in given), op.__name__


def test_a_cotangent_may_have_any_strides() -> None:
    x = values((2, 3, 6, 7), np.float32, 1)
    w = values((4, 3, 3, 3), np.float32, 2)
    for op, args in (
        (ann.conv2d, (x, w)),
        (ann.max_pool2d, (x, 2)),
        (ann.avg_pool2d, (x, 2)),
        (ann.softmax, (x,)),
        (ann.relu, (x,)),
    ):
        out, pullback = ann.vjp(op, *args)
        dout = cotangent_of(out)
        expected = pullback(dout)
        room = np.zeros((*dout.shape, 2), dout.dtype)
        room[..., 1] = dout
        for strided in (np.asfortranarray(dout), dout[::-1].copy()[::-1], room[..., 1]):
            for a, e in zip(pullback(strided), expected, strict=True):
                if e is not None:
                    np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)
        one = np.broadcast_to(np.float32(0.5), dout.shape)
        for a, e in zip(pullback(one), pullback(one.copy()), strict=True):
            if e is not None:
                np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_gradients_take_the_dtype_of_their_argument() -> None:
    y = check_op("linear", X, W.astype(np.float64), B.astype(np.float16), bounds={"all": (8, 4)})
    assert y.dtype == np.float64


def test_out_is_refused() -> None:
    for op in (ann.relu, ann.conv2d):
        with pytest.raises(TypeError, match=r"^vjp: out"):
            ann.vjp(op, X, out=np.empty_like(X))


def test_wrong_arguments_are_told_with_the_name_of_the_op() -> None:
    with pytest.raises(TypeError, match=r"^conv2d\(\)"):
        ann.vjp(ann.conv2d, X)
