"""Recurrent cells and layers against the reference and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks import (
    assert_nested_close,
    assert_same_bits,
    check_bad,
    check_op,
    check_out,
    check_overlap,
    check_threads,
    cotangent_of,
    leaves,
)
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from rnn_calls import (
    CELL_FORMS,
    CELLS,
    FORMS,
    GATES,
    LAYER_FORMS,
    LAYERS,
    bound,
    check_layers,
    sequences,
    stacked,
    states,
    textbook,
    weights,
)
from shapes import HALF, WIDE, arrays, lay, values, wide_dtypes, widths
from tolerance import assert_close, eps

# -- cells ------------------------------------------------------------------------------------


@given(
    st.data(),
    st.sampled_from(CELL_FORMS),
    wide_dtypes,
    widths,
    widths,
    st.sampled_from([(), (0,), (1,), (2,), (3,), (9,)]),
)
def test_cells(
    data: Any, cell: tuple[str, Any], dtype: Any, inputs: int, hidden: int, batch: tuple[int, ...]
) -> None:
    name, form = cell
    layout = st.sampled_from(["c", "fortran", "reversed", "strided", "misaligned", "read-only", "rows"])
    w = [lay(a, data.draw(layout), 0) for a in weights(name, inputs, hidden, dtype)]
    which = data.draw(st.sampled_from(["both", "none", "b_ih", "b_hh"]))
    w[2:] = [
        b if which in ("both", label) else None for label, b in zip(("b_ih", "b_hh"), w[2:], strict=True)
    ]
    x = data.draw(arrays((*batch, inputs), dtype, ("normal", "outliers")))
    shape = (*batch, hidden)
    h, c = (lay(values(shape, dtype, i), data.draw(layout), 0) for i in (1, 2))
    check_op(name, x, (h, c) if name == "lstm_cell" else h, *w, bounds=bound(x, w[:2], 1), **form)


@pytest.mark.parametrize("name", CELLS)
def test_each_gate_and_state_has_its_place(name: str) -> None:
    """Gates driven by biases alone: any other order of gates or of (h, c) gives other numbers."""
    rows = GATES[name] * 2
    x, w_ih, w_hh = np.zeros((1, 3)), np.zeros((rows, 3)), np.zeros((rows, 2))
    h, c = np.array([[0.25, -0.5]]), np.array([[2.0, 3.0]])
    b = np.linspace(-1, 2, rows)

    def s(v: Any) -> Any:
        return 1 / (1 + np.exp(-v))

    if name == "lstm_cell":
        new_h, new_c = ann.lstm_cell(x, (h, c), w_ih, w_hh, b)
        expected = s(b[2:4]) * c + s(b[0:2]) * np.tanh(b[4:6])
        assert_close(new_c, expected, ulps=8)
        assert_close(new_h, s(b[6:8]) * np.tanh(expected), ulps=8)
    elif name == "rnn_cell":
        assert_close(ann.rnn_cell(x, h, w_ih, w_hh, b), np.tanh(b)[None], ulps=8)
        relu = ann.rnn_cell(x, h, w_ih, w_hh, b, -3 * b, nonlinearity="relu")
        np.testing.assert_array_equal(relu, np.maximum(-2 * b, 0)[None])
    else:
        b2 = np.linspace(0.5, -1, rows)
        r, z = s(b[:2] + b2[:2]), s(b[2:4] + b2[2:4])
        expected = (1 - z) * np.tanh(b[4:6] + r * b2[4:6]) + z * h
        assert_close(ann.gru_cell(x, h, w_ih, w_hh, b, b2), expected, ulps=8)
        first = (1 - z) * np.tanh(b[4:6] + b2[4:6]) + z * h
        assert_close(ann.gru_cell(x, h, w_ih, w_hh, b, b2, reset_after=False), first, terms=8)


def test_textbook_lstm() -> None:
    """One matrix on [h, x] and one bias per gate (Gers et al., 2000, as many texts have it)."""
    book, sigmoid = textbook(["f", "i", "g", "o"], 5, 4), lambda a: 1 / (1 + np.exp(-a))
    x, (h, c) = values((6, 3, 5), np.float64, 1), states("lstm", (3, 4), np.float64)
    y, last = ann.lstm(x, (h[None], c[None]), [*stacked(book, "ifgo", 4), np.zeros(16)])
    cell = h, c
    for t in range(6):
        cell = ann.lstm_cell(x[t], cell, *stacked(book, "ifgo", 4))
        joined = np.concatenate([h, x[t]], axis=1)
        f, i, o = (sigmoid(joined @ book[f"W_{gate}"].T + book[f"b_{gate}"]) for gate in "fio")
        c = f * c + i * np.tanh(joined @ book["W_g"].T + book["b_g"])
        h = o * np.tanh(c)
        for actual, expected in ((y[t], h), (cell[0], h), (cell[1], c)):
            assert_close(actual, expected, terms=80)
    assert_close(last[1][0], c, terms=80)


def test_textbook_gru() -> None:
    """The reset gate before the product, and z the share of the new (Chung et al., 2014)."""
    book, sigmoid = textbook(["z", "r", "n"], 5, 4), lambda a: 1 / (1 + np.exp(-a))
    x, h = values((6, 3, 5), np.float64, 1), values((3, 4), np.float64, 2)
    params = stacked(book, "rzn", 4, opposite="z")
    y, last = ann.gru(x, h[None], [*params, np.zeros(12)], reset_after=False)
    cell = h
    for t in range(6):
        cell = ann.gru_cell(x[t], cell, *params, reset_after=False)
        joined = np.concatenate([h, x[t]], axis=1)
        r, z = (sigmoid(joined @ book[f"W_{gate}"].T + book[f"b_{gate}"]) for gate in "rz")
        new = np.tanh(np.concatenate([r * h, x[t]], axis=1) @ book["W_n"].T + book["b_n"])
        h = (1 - z) * h + z * new
        for actual in (y[t], cell):
            assert_close(actual, h, terms=80)
    assert_close(last[0], h, terms=80)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_saturated_gates(name: str, dtype: Any) -> None:
    """Far outside, gates are 0 or 1 and nothing overflows."""
    w = [np.asarray(200 * a) for a in weights(name, 5, 7, dtype)]
    x = values((4, 5), dtype, 1)
    out = getattr(ann, name)(x, states(name, (4, 7), dtype), *w)
    assert all(np.isfinite(a).all() for a in leaves(out))
    check_op(name, x, states(name, (4, 7), dtype), *w, bounds={"all": (400, 200), "out": (400, 200)})


# -- layers -----------------------------------------------------------------------------------


@given(sequences("lstm"))
def test_lstm(case: Any) -> None:
    *args, options = case
    check_layers("lstm", *args, **options)


@given(sequences("rnn"), st.sampled_from(FORMS["rnn"]))
def test_rnn(case: Any, form: Any) -> None:
    *args, options = case
    check_layers("rnn", *args, **options, **form)


@given(sequences("gru"), st.sampled_from(FORMS["gru"]))
def test_gru(case: Any, form: Any) -> None:
    *args, options = case
    check_layers("gru", *args, **options, **form)


@pytest.mark.parametrize(("name", "form"), LAYER_FORMS)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [(40, 3, 10, 20), (5, 33, 28, 64), (3, 2, 130, 129), (25, 1, 1, 1), (2, 70, 3, 40)],
)
def test_sizes(name: str, form: Any, steps: int, batch: int, inputs: int, hidden: int, dtype: Any) -> None:
    params = weights(name, inputs, hidden, dtype, 2, 1)
    hx, x = states(name, (2, batch, hidden), dtype), values((steps, batch, inputs), dtype, 1)
    check_layers(name, x, hx, params, num_layers=2, **form)


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_weights_gradients_of_different_width(name: str) -> None:
    """One is a product that packs nothing, the other one of packed gates."""
    x, hx = values((8, 9, 5), np.float32, 1), states(name, (1, 9, 260), np.float32)
    params = weights(name, 5, 260, np.float32, 1, 1)
    found, expected = (ann.vjp(getattr(module, name), x, hx, params) for module in (ann, ann.reference))
    dy = cotangent_of(found[0])
    for a, e in zip(found[1](dy)[2], expected[1](dy)[2], strict=True):
        assert np.linalg.norm(a - e) <= 100 * eps(np.float32) * np.linalg.norm(e)


@pytest.mark.parametrize(("name", "form"), LAYER_FORMS)
@pytest.mark.parametrize(("steps", "batch", "hidden"), [(12, 3, 20), (5, 33, 64), (2, 2, 129), (9, 1, 1)])
def test_sizes_with_lengths_and_resets(name: str, form: Any, steps: int, batch: int, hidden: int) -> None:
    rng = np.random.default_rng(steps)
    lengths, reset = rng.integers(0, steps + 1, batch), rng.random((steps, batch)) < 0.3
    params, hx = weights(name, 5, hidden, np.float32, 2, 2), states(name, (4, batch, hidden), np.float32)
    options = dict(num_layers=2, bidirectional=True, lengths=lengths, reset=reset, **form)
    check_layers(name, values((steps, batch, 5), np.float32, 1), hx, params, **options)


@pytest.mark.parametrize(("name", "form"), LAYER_FORMS)
@pytest.mark.parametrize("both", [False, True])
def test_lengths_in_any_order(name: str, form: Any, both: bool) -> None:
    params = weights(name, 5, 9, np.float64, 2, 1 + both)
    x, hx = values((7, 6, 5), np.float64, 1), states(name, (2 * (1 + both), 6, 9), np.float64)
    lengths = np.array([3, 0, 7, 1, 7, 2])
    options = dict(num_layers=2, bidirectional=both, **form)
    x[3:, 0] = np.nan  # past the end nothing may be read into a result
    (y, last), pullback = ann.vjp(getattr(ann, name), x, hx, params, lengths=lengths, **options)
    dout = cotangent_of((y, last))
    dx, dhx, dparams = pullback(dout)
    for n, length in enumerate(lengths):
        one = slice(n, n + 1)
        hx_one = tuple(s[:, one] for s in hx) if name == "lstm" else hx[:, one]
        if length:
            alone = getattr(ann.reference, name)(x[:length, one], hx_one, params, **options)
            assert_nested_close(y[:length, one], alone[0], (40, 2), "output")
            states_one = tuple(s[:, one] for s in last) if name == "lstm" else last[:, one]
            assert_nested_close(states_one, alone[1], (40, 2), "last state")
        assert not y[length:, n].any()
        assert not dx[length:, n].any()
    for final, initial, d, given_d in zip(
        leaves(last), leaves(hx), leaves(dhx), leaves(dout[1]), strict=True
    ):
        np.testing.assert_array_equal(final[:, 1], initial[:, 1])
        np.testing.assert_array_equal(d[:, 1], given_d[:, 1])
    assert all(np.isfinite(d).all() for d in dparams)


@pytest.mark.parametrize(("name", "form"), LAYER_FORMS)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_reset_begins_another_sequence(name: str, form: Any, both: bool, first: bool) -> None:
    """Both directions of one layer, cut at a reset, are those of the pieces; nothing flows across."""
    params, steps, at = weights(name, 5, 9, np.float64, 1, 1 + both), 7, 3
    x, hx = values((steps, 2, 5), np.float64, 1), states(name, (1 + both, 2, 9), np.float64)
    reset = np.zeros((steps, 2), bool)
    reset[at, 1] = True
    op, options = getattr(ann, name), dict(bidirectional=both, **form)

    def piece(cut: slice) -> Any:
        return op(x[cut, 1:], None, params, **options)[0][:, 0]

    def laid(a: Any) -> Any:
        return a.swapaxes(0, 1) if first else a

    (y, _), pullback = ann.vjp(op, laid(x), hx, params, reset=laid(reset), batch_first=first, **options)
    y = laid(y)
    untouched, _ = op(x, hx, params, **options)
    assert_same_bits(y[:, 0], untouched[:, 0], "a sequence without a reset")
    # Forward, the step that is reset begins a piece; in reverse it is the step after it that ends one.
    assert_close(y[at:, 1, :9], piece(slice(at, steps))[:, :9], terms=60)
    np.testing.assert_array_equal(y[:at, 1, :9], untouched[:at, 1, :9])
    if both:
        assert_close(y[: at + 1, 1, 9:], piece(slice(0, at + 1))[:, 9:], terms=60)
        np.testing.assert_array_equal(y[at + 1 :, 1, 9:], untouched[at + 1 :, 1, 9:])
    dy = np.zeros_like(y)
    dy[at:, 1, :9] = 1  # behind the reset, forward
    dx, dhx, _ = pullback((laid(dy), None))
    assert not laid(dx)[:at, 1].any()
    assert laid(dx)[at:, 1].any()
    assert not any(d[0, 1].any() for d in leaves(dhx))
    dy[...] = 0
    dy[: at + 1, 1, 9:] = 1  # behind it, in reverse
    dx, dhx, _ = pullback((laid(dy), None))
    assert not laid(dx)[at + 1 :, 1].any()
    assert not any(d[1:, 1].any() for d in leaves(dhx))


@pytest.mark.parametrize("name", LAYERS)
def test_a_reset_past_the_end_does_nothing(name: str) -> None:
    params, x = weights(name, 5, 4, np.float64, 1, 2), values((6, 3, 5), np.float64, 1)
    hx, lengths = states(name, (2, 3, 4), np.float64), np.array([6, 2, 0])
    options = dict(bidirectional=True, lengths=lengths)
    reset = np.arange(6)[:, None] >= lengths
    op = getattr(ann, name)
    plain, marked = (ann.vjp(op, x, hx, params, reset=r, **options) for r in (None, reset))
    assert_same_bits(marked[0], plain[0])
    assert_same_bits(marked[1](cotangent_of(plain[0])), plain[1](cotangent_of(plain[0])))


@pytest.mark.parametrize("name", LAYERS)
def test_a_state_that_is_cleared_may_be_anything(name: str) -> None:
    """NaN in the initial state does not pass a reset before the first step, nor into a gradient."""
    params, x = weights(name, 5, 4, np.float64), values((3, 2, 5), np.float64, 1)
    nan, zero = np.full((1, 2, 4), np.nan), np.zeros((1, 2, 4))
    reset = np.array([[1, 1], [0, 0], [0, 1]])
    op = getattr(ann, name)
    given = [(s, s) if name == "lstm" else s for s in (nan, zero)]
    (out, pullback), (expected, right) = (ann.vjp(op, x, hx, params, reset=reset) for hx in given)
    assert_same_bits(out, expected)
    assert_same_bits(pullback(cotangent_of(out)), right(cotangent_of(out)))


@pytest.mark.parametrize("name", LAYERS)
def test_no_steps(name: str) -> None:
    params, hx = weights(name, 5, 4, np.float32, 2), states(name, (2, 3, 4), np.float32)
    x = np.zeros((0, 3, 5), np.float32)
    (y, last), pullback = ann.vjp(getattr(ann, name), x, hx, params, num_layers=2)
    assert y.shape == (0, 3, 4)
    for a, b in zip(leaves(last), leaves(hx), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, b)
    dlast = cotangent_of(last)
    dx, dhx, dparams = pullback((None, dlast))
    assert dx.shape == x.shape
    for a, b in zip(leaves(dhx), leaves(dlast), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [d.shape for d in dparams] == [p.shape for p in params]
    assert not any(d.any() for d in dparams)


@pytest.mark.parametrize("name", LAYERS)
def test_params_may_be_a_tuple_and_hx_none_is_zeros(name: str) -> None:
    params, x = weights(name, 5, 4, np.float32), values((3, 2, 5), np.float32, 1)
    zero = np.zeros((1, 2, 4), np.float32)
    out, pullback = ann.vjp(getattr(ann, name), x, None, tuple(params))
    with_zeros = getattr(ann, name)(x, (zero, zero) if name == "lstm" else zero, params)
    for a, b in zip(leaves(out), leaves(with_zeros), strict=True):
        np.testing.assert_array_equal(a, b)
    assert pullback(cotangent_of(out))[1] is None


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_draws_the_same_mask_for_the_same_seed(name: str) -> None:
    params, x = weights(name, 5, 9, np.float32, 3), values((4, 3, 5), np.float32, 1)
    options = dict(num_layers=3, dropout=0.5, training=True)
    op = getattr(ann, name)
    first = op(x, None, params, rng=7, **options)[0]
    np.testing.assert_array_equal(first, op(x, None, params, rng=7, **options)[0])
    np.testing.assert_array_equal(first, ann.vjp(op, x, None, params, rng=7, **options)[0][0])
    assert (first != op(x, None, params, rng=8, **options)[0]).any()
    assert (first != op(x, None, params, num_layers=3)[0]).any()
    generator, twin = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(2):  # a generator moves on by one key for each layer but the last
        a, b = (
            op(x, None, params, rng=generator, **options),
            getattr(ann.reference, name)(x, None, params, rng=twin, **options),
        )
        assert_nested_close(a, b, (40, 2), name)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half(dtype: Any) -> None:
    x = values((3, 2, 5), dtype, 1)
    for name, form in LAYER_FORMS:
        params, hx = weights(name, 5, 4, dtype, 2, 2), states(name, (4, 2, 4), dtype)
        options = dict(num_layers=2, bidirectional=True, **form)
        out, pullback = ann.vjp(getattr(ann, name), x, hx, params, **options)
        expected, right = ann.vjp(getattr(ann.reference, name), x, hx, params, **options)
        assert_nested_close(out, expected, (200, 2), name)
        dout = cotangent_of(out)
        assert_nested_close(pullback(dout), right(dout), (800, 4), name)
    for name, form in CELL_FORMS:
        w, hx = weights(name, 5, 4, dtype), states(name, (2, 4), dtype)
        check_op(name, x[0], hx, *w, bounds={"all": (60, 2)}, **form)


def test_mixed_dtypes() -> None:
    x = values((3, 2, 5), np.float32, 1)
    for name in LAYERS:
        params = weights(name, 5, 4, np.float64)
        (y, last) = check_layers(name, x, states(name, (1, 2, 4), np.float32), params)
        assert y.dtype == np.float64
        assert all(s.dtype == np.float64 for s in leaves(last))
    for name in CELLS:
        w = weights(name, 5, 4, np.float64)
        check_op(name, x[0], states(name, (2, 4), np.float32), *w, bounds={"all": (60, 2)})


@pytest.mark.parametrize(("name", "form"), [c for c in CELL_FORMS if c[0] != "lstm_cell"])
@pytest.mark.parametrize("batch", [(), (3,), (0,)])
def test_out(name: str, form: Any, batch: tuple[int, ...]) -> None:
    w, h, x = (
        weights(name, 5, 4, np.float32),
        values((*batch, 4), np.float32, 2),
        values((*batch, 5), np.float32, 1),
    )
    check_out(name, x, h, *w, **form)
    check_overlap(name, x, h, *w, **form)


def test_relu_keeps_nan_and_infinities() -> None:
    """A gradient passes where the result is above zero, and where it is NaN."""
    x = np.array([[np.nan], [np.inf], [-np.inf], [0.0], [-1.0], [2.0]])
    args = x, np.zeros_like(x), np.ones((1, 1)), np.ones((1, 1))
    y, pullback = ann.vjp(ann.rnn_cell, *args, nonlinearity="relu")
    np.testing.assert_array_equal(y[:, 0], [np.nan, np.inf, 0, 0, 0, 2])
    np.testing.assert_array_equal(pullback(np.ones_like(y))[0][:, 0], [1, 1, 0, 0, 0, 1])


@pytest.mark.cpu_only
@pytest.mark.parametrize(("name", "form"), LAYER_FORMS)
@pytest.mark.parametrize("both", [False, True])
def test_same_bits_for_any_number_of_threads(name: str, form: Any, both: bool) -> None:
    params = weights(name, 37, 70, np.float32, 2, 1 + both)
    for batch in (1, 40):
        x, hx = values((9, batch, 37), np.float32, 1), states(name, (2 * (1 + both), batch, 70), np.float32)
        lengths = np.arange(batch) % 10
        options = dict(num_layers=2, bidirectional=both, **form)
        check_threads(name, x, hx, params, **options)
        reset = np.arange(9)[:, None] % (2 + np.arange(batch)) == 1
        check_threads(name, x, hx, params, lengths=lengths, reset=reset, **options)


@pytest.mark.cpu_only
@pytest.mark.parametrize(("name", "form"), CELL_FORMS)
def test_same_bits_of_cells_for_any_number_of_threads(name: str, form: Any) -> None:
    w = weights(name, 137, 150, np.float32)
    for batch in (1, 60):
        x, hx = values((batch, 137), np.float32, 1), states(name, (batch, 150), np.float32)
        check_threads(name, x, hx, *w, **form)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(("name", "form"), [f for f in LAYER_FORMS if f[1].get("reset_after", True)])
@pytest.mark.parametrize("both", [False, True])
def test_torch(name: str, form: Any, both: bool, dtype: Any) -> None:
    x, hx = values((6, 3, 5), dtype, 1), states(name, (4 if both else 2, 3, 9), dtype)
    options = dict(bidirectional=both, **form)
    module = getattr(torch.nn, name.upper())(5, 9, 2, dtype=torch.tensor(x).dtype, **options)
    params = [p.detach().numpy() for p in module._flat_weights]
    out, pullback = ann.vjp(getattr(ann, name), x, hx, params, num_layers=2, **options)
    tx = torch.tensor(x, requires_grad=True)
    thx = tuple(torch.tensor(s, requires_grad=True) for s in leaves(hx))
    tout = module(tx, thx if name == "lstm" else thx[0])
    dout = cotangent_of(out)
    touts, douts = list(leaves(tout)), list(leaves(dout))
    for a, t in zip(leaves(out), touts, strict=True):
        assert_close(a, t.detach().numpy(), terms=60, scale=2)
    torch.autograd.backward(touts, [torch.tensor(d) for d in douts])
    expected = [t.grad.numpy() for t in (tx, *thx, *module._flat_weights)]
    for a, e in zip(leaves(pullback(dout)), expected, strict=True):
        assert_close(a, e, terms=200, scale=2)


# -- bad calls --------------------------------------------------------------------------------

X, H, C = np.ones((3, 5), np.float32), np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)


def cell_args(name: str) -> tuple[Any, ...]:
    return X, (H, C) if name == "lstm_cell" else H, *weights(name, 5, 4, np.float32)


@pytest.mark.parametrize("name", CELLS)
def test_bad_cells(name: str) -> None:
    x, hx, w_ih, w_hh, b_ih, b_hh = cell_args(name)
    check_bad(name, TypeError, "input", x.tolist(), hx, w_ih, w_hh)
    check_bad(name, TypeError, "input", x.astype(int), hx, w_ih, w_hh)
    check_bad(name, ValueError, "input", x[None], hx, w_ih, w_hh)
    check_bad(name, ValueError, "w_ih", x, hx, w_ih[:, :4], w_hh)
    check_bad(name, ValueError, "w_ih", x, hx, w_ih[0], w_hh)
    check_bad(name, ValueError, "w_ih", x, hx, w_ih[:-1], w_hh)
    check_bad(name, TypeError, "w_ih", x, hx, w_ih.tolist(), w_hh)
    check_bad(name, ValueError, "w_hh", x, hx, w_ih, w_hh[:-1])
    check_bad(name, ValueError, "w_hh", x, hx, w_ih, w_hh[0])
    check_bad(name, TypeError, "w_hh", x, hx, w_ih, w_hh.astype(int))
    check_bad(name, ValueError, "b_ih", x, hx, w_ih, w_hh, b_ih[:-1])
    check_bad(name, TypeError, "b_ih", x, hx, w_ih, w_hh, b_ih.tolist())
    check_bad(name, ValueError, "b_hh", x, hx, w_ih, w_hh, b_ih, b_hh[:, None])
    check_bad(name, TypeError, "b_hh", x, hx, w_ih, w_hh, b_ih, b_hh.astype(bool))
    check_bad(name, TypeError, "hx", x, None, w_ih, w_hh)
    if name == "lstm_cell":
        check_bad(name, TypeError, "hx", x, H, w_ih, w_hh)
        check_bad(name, (TypeError, ValueError), "hx", x, (H,), w_ih, w_hh)
        check_bad(name, (TypeError, ValueError), "hx", x, (H, C, C), w_ih, w_hh)
        for bad in (H[:2], H[:, :3], H[0]):
            check_bad(name, ValueError, "hx", x, (bad, C), w_ih, w_hh)
            check_bad(name, ValueError, "hx", x, (H, bad), w_ih, w_hh)
        check_bad(name, TypeError, "hx", x, (H, C.tolist()), w_ih, w_hh)
        check_bad(name, TypeError, "hx", x, (H.astype(int), C), w_ih, w_hh)
    else:
        for bad in (H[:2], H[:, :3], H[0]):
            check_bad(name, ValueError, "hx", x, bad, w_ih, w_hh)
        check_bad(name, TypeError, "hx", x, (H,), w_ih, w_hh)
        check_bad(name, TypeError, "hx", x, H.astype(int), w_ih, w_hh)
    if name == "gru_cell":
        check_bad(name, TypeError, "reset_after", x, hx, w_ih, w_hh, reset_after=1)
        check_bad(name, TypeError, "reset_after", x, hx, w_ih, w_hh, reset_after=None)
    if name == "rnn_cell":
        check_bad(name, ValueError, "nonlinearity", x, hx, w_ih, w_hh, nonlinearity="sigmoid")
        check_bad(name, ValueError, "nonlinearity", x, hx, w_ih, w_hh, nonlinearity=None)


@pytest.mark.parametrize("name", LAYERS)
def test_bad_layers(name: str) -> None:
    params, x = weights(name, 5, 4, np.float32, 2, 2), np.ones((6, 3, 5), np.float32)
    hx = states(name, (4, 3, 4), np.float32)
    good = dict(num_layers=2, bidirectional=True)

    def bad(error: Any, argument: str, *args: Any, **options: Any) -> None:
        check_bad(name, error, argument, *args, **{**good, **options})

    bad(TypeError, "input", x.tolist(), hx, params)
    bad(TypeError, "input", x.astype(int), hx, params)
    bad(ValueError, "input", x[0, 0], hx, params)
    bad(ValueError, "input", x[None], hx, params)
    bad(ValueError, "params[0]", x[..., :4], hx, params)
    bad(TypeError, "params", x, hx, params[0])
    bad(TypeError, "params", x, hx, None)
    bad(ValueError, "params", x, hx, params[:-1])
    bad(ValueError, "params", x, hx, params[:8])
    bad(ValueError, "params", x, hx, [])
    bad(ValueError, "params", x, hx, params, num_layers=1)
    bad(ValueError, "params", x, hx, params, bidirectional=False)
    bad(TypeError, "params[3]", x, hx, [*params[:3], params[3].tolist(), *params[4:]])
    bad(TypeError, "params[3]", x, hx, [*params[:3], None, *params[4:]])
    bad(TypeError, "params[9]", x, hx, [*params[:9], params[9].astype(int), *params[10:]])
    for i in range(16):
        bad(ValueError, f"params[{i}]", x, hx, [*params[:i], params[i][:-1], *params[i + 1 :]])
    bad(ValueError, "num_layers", x, hx, params, num_layers=0)
    bad(TypeError, "num_layers", x, hx, params, num_layers=2.0)
    bad(ValueError, "dropout", x, hx, params, dropout=1.5)
    bad(ValueError, "dropout", x, hx, params, dropout=-0.5)
    bad(TypeError, "dropout", x, hx, params, dropout="a")
    bad(TypeError, "rng", x, hx, params, dropout=0.5, training=True, rng="a")
    for lengths, error in (
        (np.array([1, 2, 7]), ValueError),
        (np.array([1, 2, -1]), ValueError),
        (np.array([1, 2]), ValueError),
        (np.array([[1, 2, 3]]), ValueError),
        (np.array([1.0, 2, 3]), TypeError),
        ([1, 2, 3], TypeError),
    ):
        bad(error, "lengths", x, hx, params, lengths=lengths)
    bad(ValueError, "lengths", x[:, 0], None, params, lengths=np.array([6]))
    marks = np.zeros((6, 3), bool)
    for wrong, error in (
        (marks.T, ValueError),
        (marks[:5], ValueError),
        (marks[:, 0], ValueError),
        (marks[..., None], ValueError),
        (marks.astype(np.float32), TypeError),
        (marks.astype(complex), TypeError),
        (marks.tolist(), TypeError),
        (1, TypeError),
    ):
        bad(error, "reset", x, hx, params, reset=wrong)
    bad(ValueError, "reset", x.swapaxes(0, 1), hx, params, reset=marks, batch_first=True)
    bad(ValueError, "reset", x[:, 0], None, params, reset=marks[:, :1])
    one = hx[0] if name == "lstm" else hx
    for wrong in (one[:3], one[:, :2], one[..., :3], one[0], one.swapaxes(0, 1)):
        bad(ValueError, "hx", x, (wrong, one) if name == "lstm" else wrong, params)
        if name == "lstm":
            bad(ValueError, "hx", x, (one, wrong), params)
    bad(ValueError, "hx", x[:, 0], hx, params)
    bad(TypeError, "hx", x, (one.tolist(), one) if name == "lstm" else one.tolist(), params)
    bad(TypeError, "hx", x, (one, one.astype(int)) if name == "lstm" else one.astype(int), params)
    if name == "gru":
        bad(TypeError, "reset_after", x, hx, params, reset_after="no")
    if name == "rnn":
        for wrong in ("sigmoid", None, 1, ["relu"]):
            bad(ValueError, "nonlinearity", x, hx, params, nonlinearity=wrong)
    if name == "lstm":
        bad(TypeError, "hx", x, one, params)
        bad((TypeError, ValueError), "hx", x, (one,), params)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_needs_its_weights(name: str) -> None:
    x, h = values((2, 3), np.float32, 1), values((2, 2), np.float32, 2)
    hx = (h, h) if name == "lstm_cell" else h
    gates = 2 * GATES[name]
    w_ih, w_hh = values((gates, 3), np.float32, 3), values((gates, 2), np.float32, 4)
    check_bad(name, TypeError, "w_ih", x, hx, None, w_hh)
    check_bad(name, TypeError, "w_hh", x, hx, w_ih, None)


@pytest.mark.parametrize("name", LAYERS)
def test_huge_num_layers_are_refused_at_once(name: str) -> None:
    x = values((2, 2, 3), np.float32, 1)
    for layers in (2**61, 2**62):
        options = dict(num_layers=layers, dropout=0.5, training=True)
        check_bad(name, ValueError, "params", x, None, [], **options)
