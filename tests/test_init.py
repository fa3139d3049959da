"""Initial values: their distributions, and PyTorch's as a second witness."""

from __future__ import annotations

import inspect

import ml_dtypes
import numpy as np
import pytest
import torch
from arraynn import init
from arraynn.layers import GRU, LSTM, Conv2d, LSTMCell, Parameter

SHAPES = [(300, 200), (40, 30, 3, 5)]


def moments(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std(), np.abs(values).max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("uniform_", {"a": -0.5, "b": 0.25}),
        ("normal_", {"mean": 0.5, "std": 0.1}),
        ("xavier_uniform_", {}),
        ("xavier_uniform_", {"gain": 2.0}),
        ("xavier_normal_", {"gain": 0.5}),
        ("kaiming_uniform_", {}),
        ("kaiming_uniform_", {"a": 0.5, "mode": "fan_out"}),
        ("kaiming_normal_", {"nonlinearity": "relu"}),
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "tanh"}),
    ],
    ids=str,
)
def test_distributions_are_pytorchs(name, options, shape):
    """Mean and deviation of as many values differ by some percent at most."""
    ours = getattr(init, name)(np.full(shape, 9.0, np.float32), **options, rng=0)
    seed = torch.Generator().manual_seed(0)
    theirs = getattr(torch.nn.init, name)(torch.empty(shape), **options, generator=seed).numpy()
    mean, std, most = moments(ours)
    mean_of_torch, std_of_torch, most_of_torch = moments(theirs)
    assert std == pytest.approx(std_of_torch, rel=0.04)
    assert mean == pytest.approx(mean_of_torch, abs=0.04 * std)
    if "uniform" in name:
        assert most == pytest.approx(most_of_torch, rel=0.01)
    else:
        assert most > 3 * std


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (20, 20), (6, 5, 3, 3), (1, 7)], ids=str)
def test_orthogonal(shape):
    values = init.orthogonal_(np.empty(shape), 2.0, rng=0).reshape(shape[0], -1)
    small = values @ values.T if values.shape[0] <= values.shape[1] else values.T @ values
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)
    other = init.orthogonal_(np.empty(shape), 2.0, rng=1).reshape(shape[0], -1)
    assert np.abs(other - values).max() > 0.1
    torch.nn.init.orthogonal_(torch.empty(shape))  # which takes the same shapes


def test_orthogonal_is_uniform():
    """Without the signs of the triangle's diagonal the corner would always be negative."""
    rng = np.random.default_rng(0)
    corners = [init.orthogonal_(np.empty((3, 3)), rng=rng)[0, 0] for _ in range(2000)]
    assert abs(np.mean(corners)) < 4 / np.sqrt(3 * 2000)


def test_constants():
    for name, value in (("zeros_", 0), ("ones_", 1)):
        np.testing.assert_array_equal(getattr(init, name)(np.full((2, 3), 7.0)), value)
    np.testing.assert_array_equal(init.constant_(np.empty((2, 3)), 2.5), 2.5)


def with_normalization():
    layer = LSTM(3, 4, layer_norm=True, rng=0)
    layer.bias_cell_l0.data[:] = 7.0
    return layer


def test_parameters_are_filled_in_place_and_returned():
    layer = Conv2d(3, 4, 3, rng=0)
    before = layer.weight.data
    assert init.kaiming_normal_(layer.weight, nonlinearity="relu", rng=0) is layer.weight
    assert layer.weight.data is before
    np.testing.assert_array_equal(
        init.kaiming_normal_(np.empty_like(before), nonlinearity="relu", rng=0), before
    )
    view = np.zeros((4, 6), ml_dtypes.bfloat16)
    init.xavier_uniform_(view[:, ::2], rng=0)
    assert (view[:, ::2] != 0).all()
    assert (view[:, 1::2] == 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LSTM(3, 4, num_layers=2, bidirectional=True, rng=0),
        lambda: LSTMCell(3, 4, rng=0),
        with_normalization,
    ],
)
def test_forget_gate_bias(make):
    layer, before = make(), make().state_dict()
    assert init.forget_gate_bias_(layer, 1.5) is layer
    changed = 0
    for name, value in layer.state_dict().items():
        if name.startswith(("bias_ih", "bias_hh")):
            np.testing.assert_array_equal(value[4:8], 1.5 if "ih" in name else 0.0)
            changed += 1
            value[4:8] = before[name][4:8]
        np.testing.assert_array_equal(value, before[name])
    assert changed == 2 * len([name for name in before if name.startswith("bias_ih")])


@pytest.mark.parametrize(
    "name", ["linear", "conv1d", "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_gains_are_pytorchs(name):
    assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    if name == "leaky_relu":
        assert init.calculate_gain(name, 0.3) == pytest.approx(torch.nn.init.calculate_gain(name, 0.3))


def test_arguments_are_pytorchs():
    for name in init.__all__:
        if name == "forget_gate_bias_":
            continue
        ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (init, torch.nn.init))
        assert [n for n in ours if n != "rng"] == [n for n in theirs if n != "generator"]
        for n, parameter in ours.items():
            assert n == "rng" or parameter.default == theirs[n].default


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: init.zeros_([1.0]),
            TypeError,
            "zeros_: tensor must be a Parameter or an array, got list",
        ),
        (
            lambda: init.normal_(np.zeros(3, int)),
            TypeError,
            "normal_: tensor has dtype int64, expected a floating",
        ),
        (
            lambda: init.xavier_normal_(np.zeros(3)),
            ValueError,
            r"xavier_normal_: tensor has shape \(3,\), expected",
        ),
        (lambda: init.orthogonal_(Parameter(np.zeros(3))), ValueError, "orthogonal_: tensor has shape"),
        (lambda: init.kaiming_normal_(np.zeros((3, 3)), mode="in"), ValueError, "mode must be 'fan_in' or"),
        (
            lambda: init.kaiming_normal_(np.zeros((3, 3)), nonlinearity="x"),
            ValueError,
            "nonlinearity must be",
        ),
        (lambda: init.forget_gate_bias_(GRU(2, 3)), TypeError, "layer must be an LSTM or LSTMCell, got GRU"),
        (lambda: init.forget_gate_bias_(LSTM(2, 3, bias=False)), ValueError, "layer has no biases"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
