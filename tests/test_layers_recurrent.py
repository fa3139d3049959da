"""Recurrent layers and cells: PyTorch's, each other's, and what they hand on to the ops."""

from __future__ import annotations

import arraynn as ann
import numpy as np
import pytest
import torch
from arraynn import layers
from layer_pairs import F64, compare, draw


@pytest.mark.parametrize(
    ("name", "form"), [("LSTM", {}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
)
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 2, "bidirectional": True, "bias": False, "batch_first": True},
    ],
)
def test_recurrent_layer_is_pytorchs(name, form, with_hx, options):
    options = options | form
    ours = getattr(layers, name)(3, 4, **options, **F64)
    theirs = getattr(torch.nn, name)(3, 4, **options, dtype=torch.float64)
    states = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    x = draw(2, 5, 3) if options.get("batch_first") else draw(5, 2, 3)
    h = (draw(states, 2, 4), draw(states, 2, 4)) if name == "LSTM" else draw(states, 2, 4)
    compare(torch, ours, theirs, x, *([h] if with_hx else []))


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # PyTorch on its own slow path
@pytest.mark.parametrize("bias", [True, False])
def test_a_projected_lstm_is_pytorchs(bias):
    options = dict(num_layers=2, bidirectional=True, proj_size=2, bias=bias)
    ours, theirs = layers.LSTM(3, 4, **options, **F64), torch.nn.LSTM(3, 4, **options, dtype=torch.float64)
    compare(torch, ours, theirs, draw(5, 2, 3), (draw(4, 2, 2), draw(4, 2, 4)))


EXTENDED = dict(recurrent_dropout=0.3, layer_norm=True)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("LSTM", dict(zoneout=(0.1, 0.2), peepholes=True, proj_size=2, **EXTENDED), 10),
        ("LSTM", dict(zoneout=(0.1, 0.2), peepholes=True, bias=False, **EXTENDED), 6),
        ("GRU", dict(zoneout=0.1, **EXTENDED), 6),
        ("RNN", dict(zoneout=0.1, recurrent_dropout=0.3), 4),
    ],
)
def test_a_recurrent_layer_hands_its_options_on(name, options, parameters):
    layer, x = getattr(layers, name)(3, 4, bidirectional=True, **F64, **options), draw(5, 2, 3)
    assert len(layer.state_dict()) == 2 * parameters
    params = [p.data for _, p in layer.named_parameters()]
    given = {k: v for k, v in options.items() if k not in ("bias", "proj_size")} | {"bidirectional": True}
    op = getattr(ann, name.lower())
    rng = np.random.default_rng(1)
    layer.rng = np.random.default_rng(1)
    expected, pullback = ann.vjp(op, x, None, params, training=True, rng=rng, **given)
    output, _ = layer(x)
    np.testing.assert_array_equal(output, expected[0])
    dx = layer.backward((output, None))
    right = pullback((output, None))
    np.testing.assert_array_equal(dx, right[0])
    for (key, p), gradient in zip(layer.named_parameters(), right[2], strict=True):
        np.testing.assert_array_equal(p.grad, gradient, err_msg=key)
        assert gradient.any(), key
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0], op(x, None, params, **given)[0])


def test_an_lstm_with_peepholes_is_its_cell():
    x, dy = draw(5, 2, 3), draw(5, 2, 4)
    layer, cell = layers.LSTM(3, 4, peepholes=True, **F64), layers.LSTMCell(3, 4, peepholes=True, **F64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    output, _ = layer(x)
    state, outputs, dstate = None, [], (np.zeros((2, 4)), None)
    for step in x:
        state = cell(step, state)
        outputs.append(state[0])
    np.testing.assert_allclose(outputs, output, rtol=1e-12)
    layer.backward((dy, None))
    for dstep in dy[::-1]:
        _, dstate = cell.backward((dstate[0] + dstep, dstate[1]))
    np.testing.assert_allclose(
        cell.weight_peephole.grad, layer.weight_peephole_l0.grad, rtol=1e-9, atol=1e-12
    )
    assert repr(cell) == "LSTMCell(3, 4, peepholes=True)"
    plain = "LSTM(3, 4, peepholes=True, recurrent_dropout=0.1, zoneout=(0.0, 0.5), layer_norm=True)"
    options = dict(peepholes=True, recurrent_dropout=0.1, zoneout=(0.0, 0.5), layer_norm=True)
    assert repr(layers.LSTM(3, 4, **options)) == plain


@pytest.mark.parametrize(
    ("name", "form"),
    [("LSTMCell", {}), ("GRUCell", {}), ("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"})],
)
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_cell_is_pytorchs(name, form, bias):
    h = (draw(2, 4), draw(2, 4)) if name == "LSTMCell" else draw(2, 4)
    theirs = getattr(torch.nn, name)(3, 4, bias, dtype=torch.float64, **form)
    compare(torch, getattr(layers, name)(3, 4, bias, **form, **F64), theirs, draw(2, 3), h)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_layer_hands_resets_on(name):
    layer, x = getattr(layers, name)(3, 4, batch_first=True, **F64), draw(2, 5, 3)
    reset = np.zeros((2, 5), bool)
    reset[:, 2] = True
    output, _ = layer(x, reset=reset)
    np.testing.assert_allclose(output[:, 2:], layer(x[:, 2:])[0], rtol=1e-12)
    assert (output[:, 2:] != layer(x)[0][:, 2:]).any()


def test_a_gru_with_its_reset_gate_first():
    x, dy = draw(5, 2, 3), draw(5, 2, 4)
    layer, cell = layers.GRU(3, 4, reset_after=False, **F64), layers.GRUCell(3, 4, reset_after=False, **F64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    output, _ = layer(x)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    params = [getattr(layer, name).data for name in names]
    np.testing.assert_array_equal(output, ann.gru(x, None, params, reset_after=False)[0])
    state, dstate, dx = None, 0, []
    for step in x:
        state = cell(step, state)
    np.testing.assert_allclose(state, output[-1], rtol=1e-12)
    expected = layer.backward((dy, None))
    for dstep in dy[::-1]:
        dinput, dstate = cell.backward(dstate + dstep)
        dx.append(dinput)
    np.testing.assert_allclose(dx[::-1], expected, rtol=1e-9, atol=1e-12)
    assert repr(layer) == "GRU(3, 4, reset_after=False)"
    assert repr(cell) == "GRUCell(3, 4, reset_after=False)"


def test_cell_in_a_loop_is_the_layer():
    x, dy = draw(5, 2, 3), draw(5, 2, 4)
    layer, cell = layers.LSTM(3, 4, **F64), layers.LSTMCell(3, 4, **F64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    output, _ = layer(x)
    state, outputs = None, []
    for step in x:
        state = cell(step, state)
        outputs.append(state[0])
    np.testing.assert_allclose(outputs, output, rtol=1e-12)
    expected = layer.backward((dy, None))
    dstate, dx = (np.zeros((2, 4)), None), []
    for dstep in dy[::-1]:
        dinput, dstate = cell.backward((dstate[0] + dstep, dstate[1]))
        dx.append(dinput)
    np.testing.assert_allclose(dx[::-1], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(cell.weight_hh.grad, layer.weight_hh_l0.grad, rtol=1e-9, atol=1e-12)
    with pytest.raises(RuntimeError, match="LSTMCell: backward needs a call"):
        cell.backward(dstate)


def test_last_step_follows_lengths_and_directions():
    x, lengths = draw(6, 3, 2), np.array([4, 6, 1])
    model = layers.LSTM(2, 3, num_layers=2, bidirectional=True, **F64)
    output, state = model(x, lengths=lengths)
    last = layers.LastStep()
    y = last((output, state))
    assert y.shape == (3, 6)
    for i, length in enumerate(lengths):
        np.testing.assert_array_equal(y[i, :3], output[length - 1, i, :3])
        np.testing.assert_array_equal(y[i, 3:], output[0, i, 3:])
    dy = draw(3, 6)
    doutput, (dh, dc) = last.backward(dy)
    assert doutput is None
    assert dc is None
    np.testing.assert_array_equal(dh[2:], [dy[:, :3], dy[:, 3:]])
    assert not dh[:2].any()


def test_each_step_is_the_output():
    nn = torch.nn
    ours = layers.Sequential(layers.GRU(3, 4, **F64), layers.EachStep(), layers.Linear(4, 2, **F64))
    gru, linear = nn.GRU(3, 4, dtype=torch.float64), nn.Linear(4, 2, dtype=torch.float64)
    ours[0].load_state_dict(gru.state_dict())
    ours[2].load_state_dict(linear.state_dict())
    x, dy = draw(5, 2, 3), draw(5, 2, 2)
    tx = torch.from_numpy(x).requires_grad_()
    expected = linear(gru(tx)[0])
    expected.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(ours(x), expected.detach().numpy(), rtol=1e-9)
    np.testing.assert_allclose(ours.backward(dy), tx.grad.numpy(), rtol=1e-9, atol=1e-12)
    with pytest.raises(TypeError, match="LastStep: input must be \\(output, state\\)"):
        layers.LastStep()(x)


def test_dropout_between_recurrent_layers_draws_anew():
    layer, x = layers.LSTM(3, 8, num_layers=2, dropout=0.5, rng=1), draw(4, 2, 3, dtype=np.float32)
    assert (layer(x)[0] != layer(x)[0]).any()
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0], layer(x)[0])
