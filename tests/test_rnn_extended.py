"""Recurrent layers with projections, peepholes, recurrent dropout, zoneout and layer normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from arraynn.reference.dropout import kept
from checks import (
    assert_nested_close,
    assert_same_bits,
    check_bad,
    check_op,
    check_threads,
    cotangent_of,
    leaves,
)
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from rnn_calls import LAYERS, bound, check_layers, extended_weights, resets
from shapes import HALF, arrays, lay, seeds, values, wide_dtypes, widths
from tolerance import assert_close

# Each kind of layer with all that it may have, but for masks.
FULL: list[tuple[str, dict[str, Any]]] = [
    ("lstm", dict(projection=3, peepholes=True, layer_norm=True, zoneout=(0.2, 0.3))),
    ("gru", dict(layer_norm=True, zoneout=0.2)),
    ("gru", dict(reset_after=False, zoneout=0.2)),
    ("rnn", dict(zoneout=0.2)),
]
DRAWN = dict(recurrent_dropout=0.4, training=True, rng=5)


def call(
    name: str, steps: int, batch: int, hidden: int, dtype: Any = np.float64, **options: Any
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return input, states, parameters and options of a call; the op knows no `projection` and no `bias`."""
    projection, bias = options.pop("projection", 0), options.pop("bias", True)
    runs = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    params = extended_weights(name, 5, hidden, dtype, projection=projection, bias=bias, **options)
    h, c = values((runs, batch, projection or hidden), dtype, 101), values((runs, batch, hidden), dtype, 102)
    return values((steps, batch, 5), dtype, 1), (h, c) if name == "lstm" else h, params, options


# -- against the reference --------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Any, Any, Any, dict[str, Any]]:
    name, dtype, inputs = draw(st.sampled_from(LAYERS)), draw(wide_dtypes), draw(widths)
    hidden = draw(st.sampled_from((1, 2, 3, 5, 8, 9, 16, 17, 33)))
    layers, both, first = draw(st.integers(1, 2)), draw(st.booleans()), draw(st.booleans())
    steps, batch = draw(st.integers(0, 4)), draw(st.sampled_from([None, 0, 1, 2, 5, 9]))
    options: dict[str, Any] = dict(num_layers=layers, bidirectional=both)
    rates = st.sampled_from([0.0, 0.3, 1.0])
    options["zoneout"] = (draw(rates), draw(rates)) if name == "lstm" else draw(rates)
    options["recurrent_dropout"] = draw(rates)
    options.update(training=draw(st.booleans()), rng=draw(st.integers(0, 99)), dropout=draw(rates))
    projection = 0
    if name == "lstm":
        projection, options["peepholes"] = draw(st.sampled_from([0, 1, 2, 7, 18])), draw(st.booleans())
    elif name == "gru":
        options["reset_after"] = draw(st.booleans())
    else:
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    params = extended_weights(
        name, inputs, hidden, dtype, projection=projection, bias=draw(st.booleans()), **options
    )
    options["batch_first"] = first
    shape = (steps, inputs) if batch is None else (batch, steps, inputs) if first else (steps, batch, inputs)
    layout = st.sampled_from(["c", "fortran", "reversed", "strided", "read-only"])
    hx: Any = None
    if draw(st.booleans()):
        runs = (layers * (1 + both),) + (() if batch is None else (batch,))
        sizes = (projection or hidden, hidden)
        hx = tuple(lay(values((*runs, s), dtype, i), draw(layout), 0) for i, s in enumerate(sizes))
        hx = hx if name == "lstm" else hx[0]
    if batch is not None and draw(st.booleans()):
        options["lengths"] = np.random.default_rng(draw(seeds)).integers(0, steps + 1, batch)
    if draw(st.booleans()):
        options["reset"] = resets(draw, shape[:-1])
    return name, draw(arrays(shape, dtype)), hx, [lay(p, draw(layout), 0) for p in params], options


@given(cases())
def test_extended_layers(case: Any) -> None:
    name, x, hx, params, options = case
    check_layers(name, x, hx, params, **options)


@pytest.mark.parametrize(("name", "full"), [f for f in FULL if "layer_norm" in f[1]])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("dtype", "steps", "batch", "hidden"),
    [(np.float64, 4, 3, 20), (np.float32, 2, 5, 33), (np.float32, 1, 2, 5), (np.float64, 3, 0, 4)],
)
def test_layer_norm(
    name: str, full: Any, bias: bool, dtype: Any, steps: int, batch: int, hidden: int
) -> None:
    """What is divided by a small deviation has the rounding of what was large: hence the wide bound."""
    rng = np.random.default_rng(steps)
    lengths, reset = rng.integers(0, steps + 1, batch), rng.random((steps, batch)) < 0.2
    both = steps != 1
    options = dict(full, num_layers=2, bidirectional=both, bias=bias, lengths=lengths, reset=reset, **DRAWN)
    x, hx, params, options = call(name, steps, batch, hidden, dtype, **options)
    bounds = {k: (30 * b[0], b[1]) for k, b in bound(x, params, steps, 2).items()}
    check_op(name, x, hx, params, bounds=bounds, **options)


@pytest.mark.parametrize(("name", "full"), FULL)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half(name: str, full: Any, dtype: Any) -> None:
    x, hx, params, options = call(name, 3, 2, 6, dtype, num_layers=2, **full)
    out, pullback = ann.vjp(getattr(ann, name), x, hx, params, **options)
    expected, right = ann.vjp(getattr(ann.reference, name), x, hx, params, **options)
    assert_nested_close(out, expected, (400, 2), name)
    dout = cotangent_of(out)
    assert_nested_close(pullback(dout), right(dout), (3000, 4), name)


@pytest.mark.parametrize(
    ("batch", "dtype"), [((), np.float64), ((0,), np.float32), ((3,), np.float32), ((9,), np.float64)]
)
def test_cell_with_peepholes(batch: tuple[int, ...], dtype: Any) -> None:
    for hidden, bias in ((1, True), (4, False), (17, True)):
        w = extended_weights("lstm", 5, hidden, dtype, bias=bias, peepholes=True)
        w, p = [*w[:-1], None, None][:4], lay(w[-1], "fortran", 0)
        hx = values((*batch, hidden), dtype, 1), values((*batch, hidden), dtype, 2)
        x = values((*batch, 5), dtype, 3)
        check_cell(x, hx, w, p)
        # A layer of one step, whose parameters are the same.
        if batch == (3,):
            state = tuple(s[None] for s in hx)
            _, last = ann.lstm(x[None], state, [a for a in (*w, p) if a is not None], peepholes=True)
            assert_same_bits(tuple(s[0] for s in last), ann.lstm_cell(x, hx, *w, peepholes=p))


def check_cell(x: Any, hx: Any, w: Any, p: Any) -> None:
    bounds = (40 + 4 * x.size, 4)
    out, pullback = ann.vjp(ann.lstm_cell, x, hx, *w, peepholes=p)
    expected, right = ann.vjp(ann.reference.lstm_cell, x, hx, *w, peepholes=p)
    assert_nested_close(out, expected, bounds, "vjp")
    assert_nested_close(ann.lstm_cell(x, hx, *w, peepholes=p), expected, bounds, "out")
    dout = cotangent_of(expected)
    gradients, expected_gradients = pullback(dout), right(dout)
    assert len(gradients) == 7
    assert_nested_close(gradients, expected_gradients, bounds, "gradients")
    alone = ann.vjp(ann.lstm_cell, x, hx, *w, peepholes=p, wrt="peepholes")[1](dout)
    assert alone[:6] == (None,) * 6
    assert_same_bits(alone[6], gradients[6])
    assert len(ann.vjp(ann.lstm_cell, x, hx, *w)[1](dout)) == 6
    with pytest.raises(ValueError, match="peepholes"):
        ann.vjp(ann.lstm_cell, x, hx, *w, wrt="peepholes")


# -- what each part means ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # PyTorch on its own slow path
def test_projection_is_pytorchs() -> None:
    for dtype, both in ((torch.float32, True), (torch.float64, False)):
        module = torch.nn.LSTM(5, 9, 2, bidirectional=both, proj_size=4, dtype=dtype)
        params = [p.detach().numpy() for p in module._flat_weights]
        x, runs = values((6, 3, 5), params[0].dtype, 1), 4 if both else 2
        hx = values((runs, 3, 4), x.dtype, 2), values((runs, 3, 9), x.dtype, 3)
        out, pullback = ann.vjp(ann.lstm, x, hx, params, num_layers=2, bidirectional=both)
        tx, *thx = (torch.tensor(a, requires_grad=True) for a in (x, *hx))
        touts = list(leaves(module(tx, tuple(thx))))
        for a, t in zip(leaves(out), touts, strict=True):
            assert_close(a, t.detach().numpy(), terms=60, scale=2)
        dout = cotangent_of(out)
        torch.autograd.backward(touts, [torch.tensor(d) for d in leaves(dout)])
        expected = [t.grad.numpy() for t in (tx, *thx, *module._flat_weights)]
        for a, e in zip(leaves(pullback(dout)), expected, strict=True):
            assert_close(a, e, terms=200, scale=2)


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_off_is_the_plain_layer(name: str) -> None:
    x, hx, params, _ = call(name, 4, 3, 9)
    off: dict[str, Any] = dict(recurrent_dropout=0.0, zoneout=(0, 0) if name == "lstm" else 0.0)
    off |= {} if name == "rnn" else {"layer_norm": False}
    op = getattr(ann, name)
    assert_same_bits(op(x, hx, params, training=True, **off), op(x, hx, params))
    assert_same_bits(op(x, hx, params, recurrent_dropout=0.5), op(x, hx, params))  # not in training


@pytest.mark.parametrize("name", LAYERS)
def test_what_zoneout_keeps(name: str) -> None:
    """At a rate of 1 the state never moves, and all of its gradient passes; in between some of it stays."""
    x, hx, params, _ = call(name, 4, 3, 9)
    op, pair = getattr(ann, name), name == "lstm"
    for training in (True, False):
        options = dict(zoneout=(1.0, 1.0) if pair else 1.0, training=training, rng=1)
        (y, last), pullback = ann.vjp(op, x, hx, params, **options)
        h = hx[0] if pair else hx
        np.testing.assert_array_equal(y, np.broadcast_to(h, y.shape))
        assert_same_bits(last, hx)
        dlast = cotangent_of(last)
        dx, dhx, dparams = pullback((None, dlast))
        assert_same_bits(dhx, dlast)
        assert not any(d.any() for d in (dx, *dparams))
    options = dict(zoneout=(0.5, 0.0) if pair else 0.5, training=True, rng=7)
    y, _ = op(x, hx, params, **options)
    key = int(np.random.default_rng(7).integers(0, 2**64, dtype=np.uint64))
    stays, before = ~kept(y.shape, 0.5, key), np.concatenate([h, y[:-1]])
    np.testing.assert_array_equal(y == before, stays)  # the mask is that of dropout, by its key


def test_zoneout_of_c_leaves_what_h_is_made_of() -> None:
    """h comes of the new c, of which not all is kept."""
    x, hx, params, _ = call("lstm", 1, 3, 9)
    plain, (_, c) = ann.lstm(x, hx, params)
    y, (_, zoned) = ann.lstm(x, hx, params, zoneout=(0.0, 0.5), training=True, rng=3)
    assert_close(y, plain, terms=40)
    key = int(np.random.default_rng(3).integers(0, 2**64, dtype=np.uint64))
    assert_close(zoned, np.where(kept((1, 3, 9), 0.5, key), c, hx[1]), terms=40)
    mean, _ = ann.lstm(x, hx, params, zoneout=(0.25, 0.0))
    assert_close(mean, 0.25 * hx[0] + 0.75 * plain, terms=40)


@pytest.mark.parametrize(
    ("name", "form"), [("lstm", {}), ("gru", {}), ("gru", {"reset_after": False}), ("rnn", {})]
)
def test_recurrent_dropout_holds_one_mask_over_the_steps(name: str, form: Any) -> None:
    """It is the layer whose recurrent weights lack the dropped columns, sequence by sequence."""
    x, hx, params, _ = call(name, 5, 2, 6, **form)
    (y, _), pullback = ann.vjp(
        getattr(ann, name), x, hx, params, recurrent_dropout=0.5, training=True, rng=7, **form
    )
    key = int(np.random.default_rng(7).integers(0, 2**64, dtype=np.uint64))
    factors = np.where(kept((2, 6), 0.5, key), 2.0, 0.0)
    dy = cotangent_of(y)
    dx = pullback((dy, None))[0]
    for n in range(2):
        one = slice(n, n + 1)
        given_hx = tuple(s[:, one] for s in hx) if name == "lstm" else hx[:, one]
        masked = [params[0], params[1] * factors[n], *params[2:]]
        (alone, _), pull = ann.vjp(getattr(ann, name), x[:, one], given_hx, masked, **form)
        assert_close(y[:, one], alone, terms=60)
        assert_close(dx[:, one], pull((dy[:, one], None))[0], terms=200)


@pytest.mark.parametrize(("name", "full"), FULL)
@pytest.mark.parametrize("both", [False, True])
def test_lengths_and_resets_cut_sequences(name: str, full: Any, both: bool) -> None:
    x, hx, params, options = call(name, 6, 4, 7, num_layers=1, bidirectional=both, **full)
    lengths = np.array([3, 0, 6, 1])
    x[3:, 0] = np.nan  # past the end nothing may be read into a result
    op = getattr(ann, name)
    (y, last), pullback = ann.vjp(op, x, hx, params, lengths=lengths, **options)
    dx, _, dparams = pullback(cotangent_of((y, last)))
    for n, length in enumerate(lengths):
        one = slice(n, n + 1)
        given_hx = tuple(s[:, one] for s in hx) if name == "lstm" else hx[:, one]
        alone = op(x[:length, one], given_hx, params, **options)
        assert_nested_close(y[:length, one], alone[0], (400, 2), "output")
        mine = tuple(s[:, one] for s in last) if name == "lstm" else last[:, one]
        assert_nested_close(mine, alone[1], (400, 2), "last state")
        assert not y[length:, n].any()
        assert not dx[length:, n].any()
    assert all(np.isfinite(d).all() for d in dparams)
    reset = np.zeros((6, 4), bool)
    reset[4, 2] = True
    y, _ = op(x[:, 2:3], None, params, reset=reset[:, 2:3], **options)
    width = y.shape[-1] // (1 + both)
    pieces = op(x[4:, 2:3], None, params, **options)[0], op(x[:5, 2:3], None, params, **options)[0]
    assert_close(y[4:, :, :width], pieces[0][..., :width], terms=400)
    assert_close(y[:5, :, width:], pieces[1][..., width:], terms=400)


@pytest.mark.parametrize(("name", "full"), FULL)
def test_masks_come_of_the_seed(name: str, full: Any) -> None:
    options = dict(full, num_layers=2, bidirectional=True, dropout=0.3, **DRAWN)
    x, hx, params, options = call(name, 4, 3, 9, np.float32, **options)
    op = getattr(ann, name)
    first = op(x, hx, params, **options)
    assert_same_bits(op(x, hx, params, **options), first)
    close = (3000, 1)
    assert_nested_close(ann.vjp(op, x, hx, params, **options)[0], first, close, "vjp")
    assert (first[0] != op(x, hx, params, **{**options, "rng": 8})[0]).any()
    generator, twin = np.random.default_rng(3), np.random.default_rng(3)
    op(x, hx, params, **{**options, "rng": generator})
    getattr(ann.reference, name)(x, hx, params, **{**options, "rng": twin})
    assert generator.random() == twin.random()  # both moved on by as many keys


@pytest.mark.cpu_only
@pytest.mark.parametrize(("name", "full"), FULL)
def test_same_bits_for_any_number_of_threads(name: str, full: Any) -> None:
    for batch in (1, 26):
        lengths = np.arange(batch) % 5
        options = dict(full, num_layers=2, bidirectional=True, lengths=lengths, **DRAWN)
        x, hx, params, options = call(name, 4, batch, 37, np.float32, **options)
        check_threads(name, x, hx, params, **options)


# -- bad calls --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_bad_rates(name: str) -> None:
    x, hx, params, _ = call(name, 3, 2, 4)

    def zoneout(rate: Any) -> Any:
        return (0.0, rate) if name == "lstm" else rate

    for rate, error in (
        (1.5, ValueError),
        (-0.1, ValueError),
        (np.nan, ValueError),
        ("a", TypeError),
        (None, TypeError),
    ):
        check_bad(name, error, "zoneout", x, hx, params, zoneout=zoneout(rate))
        check_bad(name, error, "recurrent_dropout", x, hx, params, recurrent_dropout=rate, training=True)
    check_bad(name, TypeError, "zoneout", x, hx, params, zoneout=0.5 if name == "lstm" else (0.5, 0.5))
    check_bad(name, TypeError, "rng", x, hx, params, recurrent_dropout=0.5, training=True, rng="a")
    if name != "rnn":
        check_bad(name, TypeError, "layer_norm", x, hx, params, layer_norm=1)
        check_bad(name, ValueError, "params", x, hx, params[:3], layer_norm=True)
    if name == "gru":
        gains = extended_weights("gru", 5, 4, np.float64, layer_norm=True)
        check_bad(name, ValueError, "layer_norm", x, hx, gains, layer_norm=True, reset_after=False)
    if name == "lstm":
        check_bad(name, TypeError, "peepholes", x, hx, params, peepholes="yes")
        check_bad(name, TypeError, "zoneout", x, hx, params, zoneout=(0.5,))


def test_bad_arrays_of_an_lstm() -> None:
    full = dict(FULL[0][1], num_layers=2, bidirectional=True)
    x, (h, c), params, options = call("lstm", 3, 2, 4, **full)

    def bad(error: Any, argument: str, x: Any, hx: Any, params: Any, **more: Any) -> None:
        check_bad("lstm", error, argument, x, hx, params, **{**options, **more})

    for i in range(len(params)):
        bad(ValueError, "params[", x, (h, c), [*params[:i], params[i][..., :-1], *params[i + 1 :]])
        bad(TypeError, f"params[{i}]", x, (h, c), [*params[:i], params[i].tolist(), *params[i + 1 :]])
    bad(ValueError, "params", x, (h, c), params, peepholes=False)
    bad(ValueError, "params", x, (h, c), params, layer_norm=False)
    bad(ValueError, "params", x, (h, c), params[:-1])
    bad(ValueError, "hx", x, (c, c), params)
    bad(ValueError, "hx", x, (h, h), params)


def test_bad_peepholes_of_a_cell() -> None:
    w = extended_weights("lstm", 5, 4, np.float64)
    x, hx = values((3, 5), np.float64, 1), (values((3, 4), np.float64, 2), values((3, 4), np.float64, 3))
    for p, error in (
        (np.ones((3, 5)), ValueError),
        (np.ones((4, 4)), ValueError),
        (np.ones(12), ValueError),
        (np.ones((3, 4), int), TypeError),
        ([[1.0] * 4] * 3, TypeError),
        (True, TypeError),
    ):
        check_bad("lstm_cell", error, "peepholes", x, hx, *w, peepholes=p)
