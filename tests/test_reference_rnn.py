"""The recurrent ops' reference against PyTorch, and its gradients against central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arraynn as ann
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arraynn.reference.dropout import kept
from checks import cotangent_of
from parity import check, check_gradient, flat, rand, torch_layers
from tolerance import assert_close

ref = ann.reference


def weights(
    gates: int, inputs: int, hidden: int, layers: int, directions: int, bias: bool
) -> list[np.ndarray]:
    """Return what PyTorch's modules keep in `_flat_weights`."""
    shapes: list[tuple[int, ...]] = []
    for layer in range(layers):
        features = inputs if layer == 0 else directions * hidden
        for _ in range(directions):
            shapes += [(gates * hidden, features), (gates * hidden, hidden)]
            shapes += [(gates * hidden,), (gates * hidden,)] if bias else []
    return [rand(*s, seed=i) / 2 for i, s in enumerate(shapes)]


@pytest.mark.parametrize("batch", [(), (3,), (0,)])
@pytest.mark.parametrize("bias", [(True, True), (False, False)])
def test_cells(batch: tuple[int, ...], bias: tuple[bool, bool]) -> None:
    def peer(gates: int) -> Callable[..., Any]:
        cell = {4: torch._VF.lstm_cell, 3: torch._VF.gru_cell, 1: torch._VF.rnn_tanh_cell}[gates]

        def call(x: Any, hx: Any, *w: Any) -> Any:
            if x.ndim == 2:
                return cell(x, hx, *w)
            out = cell(x[None], tuple(s[None] for s in hx) if gates == 4 else hx[None], *w)
            return tuple(s[0] for s in out) if gates == 4 else out[0]

        return call

    for gates, op in ((4, ref.lstm_cell), (3, ref.gru_cell), (1, ref.rnn_cell)):
        w = weights(gates, 5, 4, 1, 1, True)
        w[2:] = [b if keep else None for b, keep in zip(w[2:], bias, strict=True)]
        h, c = rand(*batch, 4, seed=1), rand(*batch, 4, seed=2)
        check(op, peer(gates), rand(*batch, 5), (h, c) if gates == 4 else h, *w)


@pytest.mark.parametrize("which", [2, 3])
def test_cells_with_one_bias(which: int) -> None:
    """One bias alone is the other one at zero."""
    for gates, op in ((4, ref.lstm_cell), (3, ref.gru_cell), (1, ref.rnn_cell)):
        w = weights(gates, 5, 4, 1, 1, True)
        h, c = rand(3, 4, seed=1), rand(3, 4, seed=2)
        hx = (h, c) if gates == 4 else h
        alone = [*w[:which], None, *w[which + 1 :]]
        zeros = [*w[:which], np.zeros_like(w[which]), *w[which + 1 :]]
        for a, b in zip(flat(op(rand(3, 5), hx, *alone)), flat(op(rand(3, 5), hx, *zeros)), strict=True):
            np.testing.assert_array_equal(a, b)
        check_gradient(op, rand(3, 5), hx, *alone)


@pytest.mark.parametrize("batch", [(), (3,), (0,)])
@pytest.mark.parametrize("which", [(2, 3), (2,), ()])
def test_gru_cell_with_the_reset_gate_first(batch: tuple[int, ...], which: tuple[int, ...]) -> None:
    """PyTorch has no such cell: its autograd goes through the paper's formula."""

    def peer(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, **_: Any) -> Any:
        zeros = torch.zeros(12, dtype=x.dtype)
        xr, xz, xn = torch.chunk(F.linear(x, w_ih, zeros if b_ih is None else b_ih), 3, -1)
        parts = zip(w_hh.chunk(3), (zeros if b_hh is None else b_hh).chunk(3), strict=True)
        (w_r, b_r), (w_z, b_z), (w_n, b_n) = parts
        r, z = torch.sigmoid(xr + F.linear(h, w_r, b_r)), torch.sigmoid(xz + F.linear(h, w_z, b_z))
        return (1 - z) * torch.tanh(xn + F.linear(r * h, w_n, b_n)) + z * h

    w = [b if i < 2 or i in which else None for i, b in enumerate(weights(3, 5, 4, 1, 1, True))]
    check(ref.gru_cell, peer, rand(*batch, 5), rand(*batch, 4, seed=1), *w, reset_after=False)


MODES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
OWN_MODES = {**MODES, "gru_reset_first": 3}  # the last one is not PyTorch's


def layer_op(mode: str) -> tuple[Any, dict[str, Any]]:
    """Return the op, and its own options, that PyTorch's function of that name is."""
    if mode == "gru_reset_first":
        return ref.gru, {"reset_after": False}
    if not mode.startswith("rnn"):
        return getattr(ref, mode), {}
    return ref.rnn, {"nonlinearity": mode.removeprefix("rnn_")}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    "case", ["plain", "no bias", "batch first", "no hx", "unbatched", "lengths", "lengths, batch first"]
)
def test_layers(mode: str, layers: int, both: bool, case: str) -> None:
    gates, directions, first = MODES[mode], 1 + both, "batch first" in case
    op, form = layer_op(mode)
    params = weights(gates, 5, 4, layers, directions, case != "no bias")
    shape = (6, 5) if case == "unbatched" else (3, 6, 5) if first else (6, 3, 5)
    states = (layers * directions, 4) if case == "unbatched" else (layers * directions, 3, 4)
    h, c = rand(*states, seed=1), rand(*states, seed=2)
    hx: Any = None if case == "no hx" else (h, c) if mode == "lstm" else h
    lengths = np.array([4, 6, 1]) if "lengths" in case else None
    options = dict(num_layers=layers, bidirectional=both, batch_first=first)
    peer = torch_layers(mode, options, lengths)
    options |= dict(lengths=lengths, **form)
    check(op, lambda x, hx, p, **_: peer(x, hx, p), rand(*shape), hx, params, **options)


@pytest.mark.parametrize("mode", OWN_MODES)
def test_layers_with_lengths_are_each_sequence_alone(mode: str) -> None:
    params = weights(OWN_MODES[mode], 5, 4, 2, 2, True)
    x, h, c = rand(6, 4, 5), rand(4, 4, 4, seed=1), rand(4, 4, 4, seed=2)
    lengths = np.array([3, 0, 6, 1], np.uint8)
    op, form = layer_op(mode)
    options = dict(num_layers=2, bidirectional=True, **form)

    def states(n: slice) -> Any:
        return (h[:, n], c[:, n]) if mode == "lstm" else h[:, n]

    arguments = (x, states(slice(None)), params)
    (y, last), pullback = ann.vjp(op, *arguments, lengths=lengths, **options)
    check_gradient(op, *arguments, lengths=lengths, **options)
    dy = cotangent_of((y, last))
    dx, dhx, _ = pullback(dy)
    for n, length in enumerate(lengths):
        one = slice(n, n + 1)
        alone, last_alone = op(x[:length, one], states(one), params, **options)
        assert_close(y[:length, one], alone, terms=8)
        for a, b in zip(flat(last), flat(last_alone), strict=True):
            assert_close(a[:, one], b, terms=8)
        assert not y[length:, n].any()
        assert not dx[length:, n].any()
    for d, dlast in zip(flat(dhx), flat(dy[1]), strict=True):
        np.testing.assert_array_equal(d[:, 1], dlast[:, 1])


@pytest.mark.parametrize("mode", OWN_MODES)
@pytest.mark.parametrize("both", [False, True])
def test_layers_with_resets(mode: str, both: bool) -> None:
    """Against steps by hand, whose state is cleared; and gradients against differences."""
    (op, form), runs = layer_op(mode), 1 + both
    params = weights(OWN_MODES[mode], 5, 4, 1, runs, True)
    x, h, c = rand(6, 4, 5), rand(runs, 4, 4, seed=1), rand(runs, 4, 4, seed=2)
    lengths = np.array([6, 4, 0, 5])
    reset = np.random.default_rng(3).random((6, 4)) < 0.4
    hx = (h, c) if mode == "lstm" else h
    options = dict(bidirectional=both, lengths=lengths, reset=reset, **form)
    y, last = op(x, hx, params, **options)
    check_gradient(op, x, hx, params, **options)
    cell = getattr(ref, f"{op.__name__}_cell")
    for d in range(runs):
        for n, length in enumerate(lengths):
            state = [s[d, n] for s in flat(hx)]
            for t in range(length)[:: -1 if d else 1]:
                state = [0 * s if reset[t, n] else s for s in state]
                given = tuple(state) if mode == "lstm" else state[0]
                state = flat(cell(x[t, n], given, *params[4 * d : 4 * d + 4], **form))
                assert_close(y[t, n, 4 * d : 4 * d + 4], state[0], terms=8)
            for a, b in zip(flat(last), state, strict=True):
                assert_close(a[d, n], b, terms=8)


@pytest.mark.parametrize("mode", MODES)
def test_layers_over_no_steps(mode: str) -> None:
    params = weights(MODES[mode], 5, 4, 2, 1, True)
    h, c = rand(2, 3, 4, seed=1), rand(2, 3, 4, seed=2)
    hx = (h, c) if mode == "lstm" else h
    (y, last), pullback = ann.vjp(layer_op(mode)[0], rand(0, 3, 5), hx, params, num_layers=2)
    assert y.shape == (0, 3, 4)
    for a, b in zip(flat(last), flat(hx), strict=True):
        np.testing.assert_array_equal(a, b)
    dlast = cotangent_of(last)
    dx, dhx, dparams = pullback((None, dlast))
    assert dx.shape == (0, 3, 5)
    for a, b in zip(flat(dhx), flat(dlast), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(d.any() for d in dparams)


@pytest.mark.parametrize("mode", MODES)
def test_layers_drop_between_layers(mode: str) -> None:
    """Dropout between two layers is the two layers with `keep` in between, whatever the layout."""
    op, params = layer_op(mode)[0], weights(MODES[mode], 5, 4, 2, 1, True)
    x, p = rand(6, 3, 5), 0.4
    key = int(np.random.default_rng(7).integers(0, 2**64, dtype=np.uint64))
    middle, _ = op(x, None, params[:4])
    expected, _ = op(np.where(kept(middle.shape, p, key), middle / (1 - p), 0), None, params[4:])
    options = dict(num_layers=2, dropout=p, training=True, rng=7)
    y, _ = op(x, None, params, **options)
    assert_close(y, expected)
    y, _ = op(x.swapaxes(0, 1), None, params, batch_first=True, **options)
    assert_close(y, expected.swapaxes(0, 1))
    check_gradient(op, x, None, params, **options)
    a, b = (op(x, None, params, **{**options, **o})[0] for o in (dict(training=False), dict(dropout=0.0)))
    np.testing.assert_array_equal(a, b)


# -- projections, peepholes, masks, normalization ----------------------------------------------

# One direction, step by step, as the papers have it: PyTorch's own layers know projections alone.


def torch_extended(name: str, names: tuple[str, ...], rates: Any, form: Any) -> Any:
    """Return the formulas with `names` of the parameters; rates are of what stays of h and c."""

    def call(x: Any, hx: Any, params: Any, **_: Any) -> Any:
        w = dict(zip(names, params, strict=True))
        h, c = (s[0] for s in hx) if name == "lstm" else (hx[0], None)
        outputs = []
        for xt in x:
            new = torch_step(name, w, xt, h, c, form)
            if name == "lstm":
                c = rates[1] * c + (1 - rates[1]) * new[1]
            h = rates[0] * h + (1 - rates[0]) * new[0]
            outputs.append(h)
        return torch.stack(outputs), (h[None], c[None]) if name == "lstm" else h[None]

    return call


def torch_step(name: str, w: dict[str, Any], x: Any, h: Any, c: Any, form: Any) -> Any:
    def norm(a: Any, gain: str) -> Any:
        return F.layer_norm(a, a.shape[-1:], w[gain]) if gain in w else a

    def bias(side: str) -> Any:
        return w.get(f"b_{side}", torch.zeros(()))

    if name == "lstm":
        p = w.get("peepholes", torch.zeros(3, 1))
        a = norm(x @ w["w_ih"].T, "gain_ih") + bias("ih") + norm(h @ w["w_hh"].T, "gain_hh") + bias("hh")
        i, f, g, o = a.chunk(4, -1)
        c = torch.sigmoid(f + p[1] * c) * c + torch.sigmoid(i + p[0] * c) * torch.tanh(g)
        inner = torch.sigmoid(o + p[2] * c) * torch.tanh(norm(c, "gain_c") + w.get("b_c", torch.zeros(())))
        return inner @ w["w_hr"].T if "w_hr" in w else inner, c
    if name == "rnn":
        return (torch.tanh(F.linear(x, w["w_ih"]) + bias("ih") + F.linear(h, w["w_hh"]) + bias("hh")),)
    hidden = h.shape[-1]

    def parts(side: str, v: Any) -> Any:
        products = (v @ w[f"w_{side}"].T).split((2 * hidden, hidden), -1)
        gains = w[f"gain_{side}"].split((2 * hidden, hidden)) if f"gain_{side}" in w else (None, None)
        pairs = zip(products, gains, strict=True)
        normed = [a if g is None else F.layer_norm(a, a.shape[-1:], g) for a, g in pairs]
        return (torch.cat(normed, -1) + bias(side)).chunk(3, -1)

    (xr, xz, xn), (hr, hz, hn) = parts("ih", x), parts("hh", h)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    if not form.get("reset_after", True):
        hn = F.linear(r * h, w["w_hh"][2 * hidden :]) + w["b_hh"][2 * hidden :]
    n = torch.tanh(xn + (hn if not form.get("reset_after", True) else r * hn))
    return ((1 - z) * n + z * h,)


def named_shapes(name: str, names: tuple[str, ...]) -> list[tuple[int, ...]]:
    gates, width = MODES["rnn_tanh" if name == "rnn" else name], 3 if "w_hr" in names else 4
    rows = 4 * gates
    matrices = {"w_ih": (rows, 5), "w_hh": (rows, width), "w_hr": (width, 4), "peepholes": (3, 4)}
    return [matrices.get(n, (4,) if n in ("gain_c", "b_c") else (rows,)) for n in names]


PLAIN, BIASES, GAINS = ("w_ih", "w_hh"), ("b_ih", "b_hh"), ("gain_ih", "gain_hh")


@pytest.mark.parametrize(
    ("name", "names", "form"),
    [
        ("lstm", (*PLAIN, "w_hr"), {}),
        ("lstm", (*PLAIN, *BIASES, "peepholes"), {"peepholes": True}),
        ("lstm", (*PLAIN, *BIASES, *GAINS, "gain_c", "b_c"), {"layer_norm": True}),
        ("lstm", (*PLAIN, "w_hr", "peepholes", *GAINS, "gain_c"), {"layer_norm": True, "peepholes": True}),
        ("gru", (*PLAIN, *BIASES), {"reset_after": False}),
        ("gru", (*PLAIN, *BIASES, *GAINS), {"layer_norm": True}),
        ("gru", (*PLAIN, *GAINS), {"layer_norm": True}),
        ("rnn", (*PLAIN, *BIASES), {}),
    ],
)
@pytest.mark.parametrize("zoned", [False, True])
def test_extended_layers(name: str, names: tuple[str, ...], form: dict[str, Any], zoned: bool) -> None:
    rates = (0.2, 0.3) if zoned else (0.0, 0.0)
    options = dict(form, zoneout=rates if name == "lstm" else rates[0])
    params = [rand(*s, seed=i) / 2 for i, s in enumerate(named_shapes(name, names))]
    width = 3 if "w_hr" in names else 4
    hx = (rand(1, 3, width, seed=1), rand(1, 3, 4, seed=2)) if name == "lstm" else rand(1, 3, 4, seed=1)
    check(getattr(ref, name), torch_extended(name, names, rates, form), rand(4, 3, 5), hx, params, **options)


def test_a_cell_with_peepholes() -> None:
    names = (*PLAIN, *BIASES, "peepholes")
    *w, p = (rand(*s, seed=i) / 2 for i, s in enumerate(named_shapes("lstm", names)))
    x, hx = rand(3, 5), (rand(3, 4, seed=1), rand(3, 4, seed=2))
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, *hx, *w, p)]
    tx, h, c, *tw = tensors
    expected = torch_step("lstm", dict(zip(names, tw, strict=True)), tx, h, c, {})
    out, pullback = ann.vjp(ref.lstm_cell, x, hx, *w, peepholes=p)
    dout = cotangent_of(out)
    for a, e in zip(out, expected, strict=True):
        assert_close(a, e.detach().numpy(), terms=64)
    torch.autograd.backward(expected, [torch.tensor(d) for d in dout])
    for g, t in zip(flat(pullback(dout)), tensors, strict=True):
        assert_close(g, t.grad.numpy(), terms=256)


@pytest.mark.parametrize("mode", OWN_MODES)
@pytest.mark.parametrize("both", [False, True])
def test_masks_are_held_or_drawn(mode: str, both: bool) -> None:
    """Against steps by hand with masks of their own keys: dropout's, h's zoneout for each run, and c's."""
    op, form = layer_op(mode)
    lstm, runs = mode == "lstm", 1 + both
    params, per_run = weights(OWN_MODES[mode], 5, 4, 1, runs, True), 4
    x, hx = rand(4, 3, 5), tuple(rand(runs, 3, 4, seed=s) for s in (1, 2))
    rates = dict(recurrent_dropout=0.4, zoneout=(0.3, 0.2) if lstm else 0.3)
    options = dict(rates, bidirectional=both, training=True, rng=7, **form)
    y, last = op(x, hx if lstm else hx[0], params, **options)
    check_gradient(op, x, hx if lstm else hx[0], params, **options)
    rng = np.random.default_rng(7)
    drawn = [(0.4, (3, 4)), (0.3, (4, 3, 4)), (0.2, (4, 3, 4))][: 2 + lstm]
    masks = [
        [kept(shape, p, int(rng.integers(0, 2**64, dtype=np.uint64))) for _ in range(runs)]
        for p, shape in drawn
    ]
    cell = getattr(ref, f"{op.__name__}_cell")
    for d in range(runs):
        w_ih, w_hh, b_ih, b_hh = params[per_run * d : per_run * (d + 1)]
        for n in range(3):
            state, factor = [s[d, n] for s in hx[: 1 + lstm]], masks[0][d][n] / 0.6
            for t in range(4)[:: -1 if d else 1]:
                arguments = (tuple(state) if lstm else state[0], w_ih, w_hh * factor, b_ih, b_hh)
                new = flat(cell(x[t, n], *arguments, **form))
                goes = [mask[d][t, n] for mask in masks[1:]]
                state = [np.where(m, a, s) for m, a, s in zip(goes, new, state, strict=True)]
                assert_close(y[t, n, 4 * d : 4 * d + 4], state[0], terms=8)
            for a, b in zip(flat(last), state, strict=True):
                assert_close(a[d, n], b, terms=8)
