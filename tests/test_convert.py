"""Weights of other libraries, against their formulas written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arraynn as ann
import numpy as np
import pytest
import torch
from arraynn import convert
from parity import rand
from tolerance import assert_close

IN, H, N, T = 3, 4, 2, 5


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def drawn(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [rand(*shape, seed=i) / 2 for i, shape in enumerate(shapes)]


def run(step: Callable[..., tuple[Any, ...]], states: int, x: Any, *, reverse: bool = False) -> Any:
    """Return h of every step from zero states on."""
    state: tuple[Any, ...] = (np.zeros((N, H)),) * states
    outputs = np.zeros((T, N, H))
    for t in range(T)[:: -1 if reverse else 1]:
        state = step(x[t], *state)
        outputs[t] = state[0]
    return outputs


# -- the steps, as the documentation of each has them -------------------------------------------


def keras_lstm(kernel: Any, recurrent: Any, bias: Any = 0.0) -> Callable[..., tuple[Any, ...]]:
    def step(x: Any, h: Any, c: Any) -> tuple[Any, ...]:
        i, f, new, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
        return sigmoid(o) * np.tanh(c), c

    return step


def keras_gru(kernel: Any, recurrent: Any, bias: Any) -> Callable[..., tuple[Any, ...]]:
    def step(x: Any, h: Any) -> tuple[Any, ...]:
        if bias.ndim == 2:  # reset_after
            x_z, x_r, x_h = np.split(x @ kernel + bias[0], 3, axis=1)
            h_z, h_r, h_h = np.split(h @ recurrent + bias[1], 3, axis=1)
            z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
            new = np.tanh(x_h + r * h_h)
        else:
            x_z, x_r, x_h = np.split(x @ kernel + bias, 3, axis=1)
            u_z, u_r, u_h = np.split(recurrent, 3, axis=1)
            z, r = sigmoid(x_z + h @ u_z), sigmoid(x_r + h @ u_r)
            new = np.tanh(x_h + (r * h) @ u_h)
        return (z * h + (1 - z) * new,)

    return step


def keras_rnn(kernel: Any, recurrent: Any, bias: Any) -> Callable[..., tuple[Any, ...]]:
    return lambda x, h: (np.tanh(x @ kernel + h @ recurrent + bias),)


KERAS = {"lstm": keras_lstm, "gru": keras_gru, "rnn": keras_rnn}


def onnx_lstm(w: Any, r: Any, b: Any, p: Any) -> Callable[..., tuple[Any, ...]]:
    (w_i, w_o, w_f, w_c), (r_i, r_o, r_f, r_c) = np.split(w, 4), np.split(r, 4)
    wb_i, wb_o, wb_f, wb_c, rb_i, rb_o, rb_f, rb_c = np.split(b, 8)
    p_i, p_o, p_f = np.split(p, 3)

    def step(x: Any, h: Any, c: Any) -> tuple[Any, ...]:
        i = sigmoid(x @ w_i.T + h @ r_i.T + p_i * c + wb_i + rb_i)
        f = sigmoid(x @ w_f.T + h @ r_f.T + p_f * c + wb_f + rb_f)
        c = f * c + i * np.tanh(x @ w_c.T + h @ r_c.T + wb_c + rb_c)
        o = sigmoid(x @ w_o.T + h @ r_o.T + p_o * c + wb_o + rb_o)
        return o * np.tanh(c), c

    return step


def onnx_gru(w: Any, r: Any, b: Any, linear_before_reset: bool) -> Callable[..., tuple[Any, ...]]:
    (w_z, w_r, w_h), (r_z, r_r, r_h) = np.split(w, 3), np.split(r, 3)
    wb_z, wb_r, wb_h, rb_z, rb_r, rb_h = np.split(b, 6)

    def step(x: Any, h: Any) -> tuple[Any, ...]:
        z = sigmoid(x @ w_z.T + h @ r_z.T + wb_z + rb_z)
        reset = sigmoid(x @ w_r.T + h @ r_r.T + wb_r + rb_r)
        if linear_before_reset:
            new = np.tanh(x @ w_h.T + reset * (h @ r_h.T + rb_h) + wb_h)
        else:
            new = np.tanh(x @ w_h.T + (reset * h) @ r_h.T + rb_h + wb_h)
        return ((1 - z) * new + z * h,)

    return step


# -- tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    ("kind", "bias", "form"),
    [
        ("lstm", (4 * H,), {}),
        ("gru", (2, 3 * H), {}),
        ("gru", (3 * H,), {"reset_after": False}),
        ("rnn", (H,), {}),
    ],
)
def test_keras(kind: str, bias: tuple[int, ...], form: Any, both: bool) -> None:
    columns = bias[-1]
    weights = drawn(*[(IN, columns), (H, columns), bias] * (1 + both))
    params = convert.from_keras(kind, weights, bidirectional=both)
    x = rand(T, N, IN)
    y, _ = getattr(ann, kind)(x, None, params, bidirectional=both, **form)
    for d in range(1 + both):
        step = KERAS[kind](*weights[3 * d : 3 * d + 3])
        expected = run(step, 2 if kind == "lstm" else 1, x, reverse=d == 1)
        assert_close(y[..., d * H : (d + 1) * H], expected, terms=60)
    back = convert.to_keras(kind, params, bidirectional=both, **form)
    for a, e in zip(back, weights, strict=True):
        np.testing.assert_array_equal(a, e)
        assert a.flags.c_contiguous
    bare = [w for i, w in enumerate(weights) if i % 3 < 2]
    without = convert.from_keras(kind, bare, bidirectional=both)
    assert len(without) == 2 * (1 + both)
    for a, e in zip(convert.to_keras(kind, without, bidirectional=both), bare, strict=True):
        np.testing.assert_array_equal(a, e)


def test_two_biases_become_kerass_one() -> None:
    params = drawn((4 * H, IN), (4 * H, H), (4 * H,), (4 * H,))
    x = rand(T, N, IN)
    expected = run(keras_lstm(*convert.to_keras("lstm", params)), 2, x)
    assert_close(ann.lstm(x, None, params)[0], expected, terms=60)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("before", [None, False, True])
def test_onnx(before: bool | None, directions: int) -> None:
    """`before` is linear_before_reset of a GRU; None is an LSTM with peepholes."""
    kind, gates = ("lstm", 4) if before is None else ("gru", 3)
    w, r, b, p = drawn(
        (directions, gates * H, IN),
        (directions, gates * H, H),
        (directions, 2 * gates * H),
        (directions, 3 * H),
    )
    x, both = rand(T, N, IN), directions == 2
    given = (w, r, b, p) if before is None else (w, r, b)
    params = convert.from_onnx(kind, *given)
    form = {"peepholes": True} if before is None else {"reset_after": before}
    y, _ = getattr(ann, kind)(x, None, params, bidirectional=both, **form)
    for d in range(directions):
        step = onnx_lstm(w[d], r[d], b[d], p[d]) if before is None else onnx_gru(w[d], r[d], b[d], before)
        expected = run(step, 2 if before is None else 1, x, reverse=d == 1)
        assert_close(y[..., d * H : (d + 1) * H], expected, terms=60)
    back = convert.to_onnx(kind, params, bidirectional=both, peepholes=before is None)
    for a, e in zip(back, given, strict=False):
        np.testing.assert_array_equal(a, e)
    assert (back.P is None) == (before is not None)
    bare = convert.to_onnx(kind, convert.from_onnx(kind, w, r), bidirectional=both)
    np.testing.assert_array_equal(bare.W, w)
    np.testing.assert_array_equal(bare.R, r)
    assert bare.B is None
    assert bare.P is None


def test_onnx_rnn() -> None:
    w, r, b = drawn((1, H, IN), (1, H, H), (1, 2 * H))
    params = convert.from_onnx("rnn", w, r, b)
    for a, e in zip(params, (w[0], r[0], b[0, :H], b[0, H:]), strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("options", [{}, {"proj_size": 2}, {"bias": False}, {"bias": False, "proj_size": 2}])
@pytest.mark.parametrize("both", [False, True])
def test_torch(options: Any, both: bool) -> None:
    module = torch.nn.LSTM(IN, H, 2, bidirectional=both, **options)
    state = {f"encoder.{name}": p.numpy() for name, p in module.state_dict().items()} | {"head": np.ones(1)}
    params = convert.from_torch(state, prefix="encoder.")
    for a, e in zip(params, module._flat_weights, strict=True):
        np.testing.assert_array_equal(a, e.detach().numpy())
    back = convert.to_torch(params, num_layers=2, bidirectional=both, prefix="encoder.")
    assert list(back) == [name for name in state if name != "head"]
    assert all(back[name] is state[name] for name in back)


def test_what_is_refused() -> None:
    kernel, recurrent, bias = drawn((IN, 4 * H), (H, 4 * H), (4 * H,))
    good = [kernel, recurrent, bias]
    params = convert.from_keras("lstm", good)
    w, r, b, p = drawn((1, 4 * H, IN), (1, 4 * H, H), (1, 8 * H), (1, 3 * H))
    calls: list[tuple[Any, type[Exception], str]] = [
        (lambda: convert.from_keras("LSTM", good), ValueError, "from_keras: kind"),
        (lambda: convert.from_keras("lstm", kernel), TypeError, "from_keras: weights"),
        (lambda: convert.from_keras("lstm", [kernel]), ValueError, "from_keras: weights has 1"),
        (lambda: convert.from_keras("lstm", good, bidirectional=True), ValueError, "weights has 3"),
        (lambda: convert.from_keras("gru", good), ValueError, r"weights\[0\] has shape"),
        (lambda: convert.from_keras("lstm", [kernel, recurrent.T, bias]), ValueError, r"weights\[0\]"),
        (lambda: convert.from_keras("lstm", [kernel, recurrent, bias[1:]]), ValueError, r"weights\[2\]"),
        (
            lambda: convert.from_keras("lstm", [kernel.tolist(), recurrent]),
            TypeError,
            r"weights\[0\] is a list",
        ),
        (lambda: convert.to_keras("lstm", params[:3]), ValueError, "to_keras: params has 3"),
        (lambda: convert.to_keras("lstm", [*params[:2], bias, bias[1:]]), ValueError, r"params\[3\]"),
        (lambda: convert.to_keras("gru", params), ValueError, r"to_keras: params\[0\]"),
        (lambda: convert.to_keras("lstm", params, reset_after=1), TypeError, "reset_after"),
        (lambda: convert.from_onnx("lstm", w, r[0]), ValueError, "from_onnx: R has shape"),
        (lambda: convert.from_onnx("lstm", w[:, 1:], r), ValueError, "from_onnx: W has shape"),
        (lambda: convert.from_onnx("lstm", w, r, b[:, 1:]), ValueError, "from_onnx: B has shape"),
        (lambda: convert.from_onnx("lstm", w, r, b, p[:, 1:]), ValueError, "from_onnx: P has shape"),
        (lambda: convert.from_onnx("rnn", w[:, :H], r[:, :H], None, p), ValueError, "from_onnx: P is given"),
        (lambda: convert.to_onnx("lstm", params, peepholes=True), ValueError, "to_onnx: params has 4"),
        (lambda: convert.to_onnx("rnn", params, peepholes=True), ValueError, "to_onnx: peepholes"),
        (lambda: convert.from_torch(params), TypeError, "from_torch: state"),
        (lambda: convert.from_torch({}), ValueError, "from_torch: state has no weight_ih_l0"),
        (lambda: convert.from_torch({"weight_ih_l0": w, "weight_ih_l1": w}), ValueError, "weight_hh_l0|_l1"),
        (lambda: convert.to_torch(params, num_layers=3), ValueError, "to_torch: params has 4"),
        (lambda: convert.to_torch(params, num_layers=0), ValueError, "to_torch: num_layers"),
    ]
    for call, error, text in calls:
        with pytest.raises(error, match=text):
            call()
