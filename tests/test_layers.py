"""Layers: PyTorch's parameters, outputs and gradients; modes; what is refused."""

from __future__ import annotations

import arraynn as ann
import numpy as np
import pytest
import torch
from arraynn import layers
from layer_pairs import F64, compare, draw, pair_with

PLAIN = [
    ("Conv1d", (3, 4, 3), {"stride": 2, "padding": 1}, (2, 3, 9)),
    ("Conv2d", (4, 6, 3), {"padding": "same", "groups": 2}, (2, 4, 6, 7)),
    ("Conv2d", (2, 3, (3, 2), (2, 1), (1, 0), (1, 2)), {"bias": False}, (2, 2, 8, 7)),
    ("LayerNorm", (5,), {}, (2, 3, 5)),
    ("LayerNorm", ((3, 5), 0.1, True, False), {}, (2, 3, 5)),
    ("LayerNorm", (5,), {"elementwise_affine": False}, (2, 5)),
    ("RMSNorm", (5,), {}, (2, 3, 5)),
    ("RMSNorm", ((3, 5), 0.1, False), {}, (2, 3, 5)),
    ("BatchNorm1d", (3,), {}, (4, 3)),
    ("BatchNorm1d", (3, 0.1, 0.4), {}, (2, 3, 5)),
    ("BatchNorm2d", (3,), {"momentum": None, "affine": False}, (2, 3, 4, 5)),
    ("GroupNorm", (2, 6), {}, (2, 6, 5)),
    ("GroupNorm", (3, 6, 0.1), {"bias": False}, (2, 6, 3, 2)),
    ("GroupNorm", (1, 4), {"affine": False}, (2, 4)),
    ("BatchNorm3d", (3,), {"track_running_stats": False}, (2, 3, 2, 2, 2)),
    ("Conv3d", (2, 4, (2, 3, 1)), {"padding": (1, 0, 2), "groups": 2}, (2, 2, 3, 4, 3)),
    ("ConvTranspose1d", (3, 4, 3), {"stride": 2, "padding": 1}, (2, 3, 5)),
    ("ConvTranspose2d", (4, 6, 3, 2, 1, 1), {"groups": 2, "dilation": 2}, (2, 4, 3, 4)),
    ("ConvTranspose3d", (2, 3, (2, 3, 1), (1, 2, 1), 0), {"bias": False}, (2, 2, 2, 3, 2)),
    ("Linear", (5, 3), {}, (4, 5)),
    ("Linear", (5, 3), {"bias": False}, (2, 4, 5)),
]
FREE = [
    ("MaxPool2d", (2,), {}, (2, 3, 6, 6)),
    ("MaxPool2d", (3, 2, 1), {"ceil_mode": True}, (2, 3, 6, 7)),
    ("AvgPool2d", (3, 2, 1), {"count_include_pad": False}, (2, 3, 7, 6)),
    ("AdaptiveAvgPool2d", ((3, 2),), {}, (2, 3, 7, 6)),
    ("AdaptiveMaxPool2d", ((3, None),), {}, (2, 3, 7, 6)),
    ("MaxPool1d", (3, 2, 1), {"ceil_mode": True}, (2, 3, 8)),
    ("AvgPool1d", (3, 2, 1, True, False), {}, (2, 3, 8)),
    ("AdaptiveAvgPool1d", (3,), {}, (2, 3, 8)),
    ("AdaptiveMaxPool1d", (3,), {}, (2, 3, 8)),
    ("MaxPool3d", (2, 1), {"padding": 1}, (2, 3, 4, 5, 6)),
    ("AvgPool3d", (2,), {"divisor_override": 3}, (2, 3, 4, 5, 6)),
    ("AdaptiveAvgPool3d", ((3, None, 2),), {}, (2, 3, 4, 5, 6)),
    ("AdaptiveMaxPool3d", (3,), {}, (2, 3, 4, 5, 6)),
    ("ReLU", (), {}, (3, 4)),
    ("LeakyReLU", (), {}, (3, 4)),
    ("LeakyReLU", (-0.3,), {}, (3, 4)),
    ("ELU", (), {}, (3, 4)),
    ("ELU", (0.5,), {}, (3, 4)),
    ("GELU", (), {}, (3, 4)),
    ("GELU", ("tanh",), {}, (3, 4)),
    ("SiLU", (), {}, (3, 4)),
    ("Softplus", (), {}, (3, 4)),
    ("Softplus", (2.5, 1.5), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Softmax", (1,), {}, (3, 4)),
    ("LogSoftmax", (-1,), {}, (3, 4)),
    ("Flatten", (), {}, (3, 4, 2)),
    ("Flatten", (0, 1), {}, (3, 4, 2)),
]


@pytest.mark.parametrize(("name", "args", "options", "shape"), PLAIN)
def test_layer_with_parameters_is_pytorchs(name, args, options, shape):
    ours = getattr(layers, name)(*args, **options, **F64)
    compare(torch, ours, getattr(torch.nn, name)(*args, **options, dtype=torch.float64), draw(*shape))


@pytest.mark.parametrize(("name", "args", "options", "shape"), FREE)
def test_layer_without_parameters_is_pytorchs(name, args, options, shape):
    compare(
        torch,
        getattr(layers, name)(*args, **options),
        getattr(torch.nn, name)(*args, **options),
        draw(*shape),
    )


def small_cnn(rng=0, dtype=np.float64):
    rng = np.random.default_rng(rng)
    return layers.Sequential(
        layers.Conv2d(1, 4, 3, padding=1, rng=rng, dtype=dtype),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(4 * 9, 5, rng=rng, dtype=dtype),
    )


def test_sequential_is_pytorchs():
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    )
    compare(torch, small_cnn(), theirs.double(), draw(3, 1, 6, 6))
    assert repr(small_cnn()) == repr(theirs)


@pytest.mark.parametrize(
    "options", [{"bias": False}, {"momentum": None}, {"momentum": 0.6}, {"track_running_stats": False}]
)
def test_running_statistics_are_pytorchs(options):
    """Batch after batch, and in eval mode; a layer that continues from a checkpoint goes the same way."""
    ours = layers.Sequential(layers.BatchNorm2d(3, **options, **F64), layers.ReLU())
    theirs = torch.nn.Sequential(torch.nn.BatchNorm2d(3, **options, dtype=torch.float64), torch.nn.ReLU())
    pair_with(torch, ours, theirs)
    for _ in range(3):
        x = draw(2, 3, 4, 5)
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours(x), expected, rtol=1e-9, atol=1e-11)
    state = ours.state_dict()
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(state[name], value.numpy(), rtol=1e-12, err_msg=name)
        assert state[name].dtype == value.numpy().dtype
    theirs.eval()
    again = layers.Sequential(layers.BatchNorm2d(3, **options, **F64), layers.ReLU())
    again.load_state_dict(state)
    for layer in (ours, again):
        layer.eval()
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(layer(x), expected, rtol=1e-9, atol=1e-11)
        for name, value in layer.state_dict().items():
            np.testing.assert_array_equal(value, state[name])
    assert repr(ours) == repr(theirs)


def test_batch_norm_counts_only_batches_that_it_has_seen():
    layer = layers.BatchNorm1d(3)
    for bad in (draw(1, 3, dtype=np.float32), draw(2, 4, dtype=np.float32)):
        with pytest.raises(ValueError, match="batch_norm: "):
            layer(bad)
    with pytest.raises(ValueError, match="BatchNorm1d: input has 4 dimensions, expected 2 or 3"):
        layer(draw(2, 3, 4, 5))
    assert layer.num_batches_tracked == 0
    assert (layer.running_mean == 0).all()
    assert layer.running_mean.dtype == np.float32
    with pytest.raises(ValueError, match="missing: num_batches_tracked"):
        layer.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"})
    with pytest.raises(ValueError, match="running_var has shape"):
        layer.load_state_dict(layer.state_dict() | {"running_var": np.ones(2)})
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_sequential_names_and_items():
    model = layers.Sequential(
        {"first": layers.Linear(3, 4), "second": layers.Sequential(layers.Linear(4, 2))}
    )
    assert list(model.state_dict()) == ["first.weight", "first.bias", "second.0.weight", "second.0.bias"]
    assert len(model) == 2
    assert model[0].in_features == 3
    assert len(model[1:]) == 1
    assert [type(layer).__name__ for layer in model] == ["Linear", "Sequential"]
    with pytest.raises(TypeError, match="Sequential: layer 1 must be a Layer, got function"):
        layers.Sequential(layers.ReLU(), ann.relu)


def test_input_grad_false_skips_the_first_gradient():
    x, dy = draw(3, 1, 6, 6), draw(3, 5)
    full, less = small_cnn(), small_cnn()
    full(x)
    less(x, input_grad=False)
    assert full.backward(dy).shape == x.shape
    assert less.backward(dy) is None
    for ours, expected in zip(less.parameters(), full.parameters(), strict=True):
        np.testing.assert_array_equal(ours.grad, expected.grad)


def test_input_grad_false_reaches_through_layers_without_parameters():
    x = draw(2, 3, 4)
    model = layers.Sequential(layers.Flatten(), layers.Tanh(), layers.Sequential(layers.Linear(12, 2, **F64)))
    model(x, input_grad=False)
    assert model.backward(draw(2, 2)) is None
    assert model[2][0].weight.grad.shape == (2, 12)
    model(x)
    assert model.backward(draw(2, 2)).shape == x.shape


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Linear(3, 4, dtype=np.float64), (5, 3)),
        (layers.BatchNorm1d(3, dtype=np.float64), (5, 3)),
        (layers.LSTM(3, 4, dtype=np.float64), (6, 5, 3)),
        (layers.GRUCell(3, 4, dtype=np.float64), (5, 3)),
        (layers.MultiheadAttention(4, 2, dtype=np.float64), (6, 5, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else "",
)
def test_a_frozen_layer_passes_the_input_gradient_alone(layer, shape):
    x = np.random.default_rng(0).standard_normal(shape)

    def back():
        layer.zero_grad()
        out = layer(x)
        dy = (np.ones_like(out[0]), None) if isinstance(out, tuple) else np.ones_like(out)
        found = layer.backward(dy)
        return found[0] if isinstance(found, tuple) else found

    expected = back()
    assert all(p.grad is not None for p in layer.parameters())
    assert layer.requires_grad_(False) is layer
    np.testing.assert_array_equal(back(), expected)
    assert all(p.grad is None for p in layer.parameters())
    names = [name for name, _ in layer.named_parameters()]
    first = getattr(layer, names[0])
    first.requires_grad = True  # one alone learns again
    np.testing.assert_array_equal(back(), expected)
    assert [p.grad is None for p in layer.parameters()] == [False] + [True] * (len(names) - 1)


def test_sequential_goes_back_to_the_first_layer_that_learns():
    model = layers.Sequential(layers.Linear(3, 4), layers.ReLU(), layers.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = ann.optim.Adam(model.parameters(), 0.1)
    before = model.state_dict()
    y = model(np.ones((5, 3), np.float32), input_grad=False)
    assert not model[2].input_grad
    assert model.backward(np.ones_like(y)) is None
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == {"2.weight", "2.bias"}


def test_gradients_add_up_until_zero_grad():
    layer, x, dy = layers.Linear(3, 2, **F64), draw(4, 3), draw(4, 2)
    layer(x)
    layer.backward(dy)
    once = layer.weight.grad.copy()
    layer(x)
    layer.backward(dy)
    np.testing.assert_allclose(layer.weight.grad, 2 * once)
    layer.zero_grad()
    assert layer.weight.grad is None
    assert layer.bias.grad is None


LAYERS = [
    (layers.Conv2d(1, 2, 3), (2, 1, 5, 5)),
    (layers.Linear(3, 2), (2, 3)),
    (layers.BatchNorm1d(3), (2, 3)),
    (layers.LayerNorm(3), (2, 3)),
    (layers.MaxPool2d(2), (2, 1, 4, 4)),
    (layers.ReLU(), (2, 3)),
    (layers.Dropout(), (2, 3)),
    (layers.Flatten(), (2, 3, 4)),
    (layers.LSTM(3, 4), (5, 2, 3)),
    (layers.GRUCell(3, 4), (2, 3)),
    (layers.Sequential(layers.GRU(3, 4), layers.LastStep()), (5, 2, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: type(v).__name__)
def test_backward_needs_a_call_in_train_mode(layer, shape):
    x = draw(*shape, dtype=np.float32)
    layer.train()
    with pytest.raises(RuntimeError, match="backward needs a call in train\\(\\) mode"):
        layer.backward(None)
    layer(x)
    layer.eval()
    layer(x)
    with pytest.raises(RuntimeError, match="the layer is in eval\\(\\) mode"):
        layer.backward(None)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: type(v).__name__)
def test_eval_keeps_nothing(layer, shape):
    """No array of the call is alive once its output and its input are gone."""
    layer.eval()
    before = {name: id(value) for name, value in vars(layer).items()}
    out = layer(draw(*shape, dtype=np.float32))
    assert {name: id(value) for name, value in vars(layer).items() if name != "input_grad"} == {
        name: value for name, value in before.items() if name != "input_grad"
    }
    assert out is not None
    layer.train()


def test_a_result_of_train_and_of_eval_agree():
    model, x = small_cnn(), draw(3, 1, 6, 6)
    np.testing.assert_array_equal(model(x), model.eval()(x))


def test_dropout_drops_in_train_mode_only():
    layer, x = layers.Dropout(0.25, rng=3), np.ones((100, 100), np.float32)
    y = layer(x)
    assert 0.2 < (y == 0).mean() < 0.3
    np.testing.assert_array_equal(layer.backward(x), y)
    assert (layer(x) != y).any()
    np.testing.assert_array_equal(layer.eval()(x), x)
    np.testing.assert_array_equal(layers.Dropout(0.25, rng=3)(x), y)


@pytest.mark.parametrize("padding_idx", [None, 1, -2])
def test_embedding_is_pytorchs(padding_idx):
    ours = layers.Embedding(5, 3, padding_idx, **F64)
    theirs = torch.nn.Embedding(5, 3, padding_idx, dtype=torch.float64)
    assert ours.padding_idx == theirs.padding_idx
    assert ours.weight.data[1 if padding_idx == 1 else 3].any() == (padding_idx is None)
    pair_with(torch, ours, theirs)
    index = np.array([[0, 1, 3], [3, 3, 4]])
    for input_grad in (True, False):
        y, expected = ours(index, input_grad=input_grad), theirs(torch.from_numpy(index))
        np.testing.assert_array_equal(y, expected.detach().numpy())
        dy = draw(*y.shape)
        assert ours.backward(dy) is None
        expected.backward(torch.from_numpy(dy))
        np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("padding_idx", [5, -6])
def test_embedding_refuses_a_padding_idx_out_of_range(padding_idx):
    with pytest.raises(ValueError, match="Embedding: padding_idx"):
        layers.Embedding(5, 3, padding_idx)


def test_max_pool_with_indices():
    for layer in (layers.MaxPool2d(2, return_indices=True), layers.AdaptiveMaxPool2d(2, return_indices=True)):
        y, indices = layer(draw(1, 1, 4, 4))
        assert indices.dtype == np.int64
        dx = layer.backward((np.ones_like(y), None))
        np.testing.assert_array_equal(np.flatnonzero(dx), np.sort(indices.ravel()))


def test_initial_values_follow_the_generator():
    a, b, c = (layers.Conv2d(3, 8, 3, rng=seed).state_dict() for seed in (0, 0, 1))
    np.testing.assert_array_equal(a["weight"], b["weight"])
    assert (a["weight"] != c["weight"]).any()
    assert a["weight"].dtype == np.float32
    bound = 1 / np.sqrt(27)
    assert abs(a["weight"]).max() <= bound
    assert a["weight"].std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
    assert abs(layers.GRU(3, 16).weight_ih_l0.data).max() <= 0.25


def test_state_dict_is_a_copy():
    layer = layers.Linear(3, 2)
    state = layer.state_dict()
    layer.weight.data[...] = 0
    assert state["weight"].any()
    layer.load_state_dict(state)
    np.testing.assert_array_equal(layer.weight.data, state["weight"])


def test_load_state_dict_takes_other_dtypes():
    layer = layers.Linear(3, 2)
    weight, bias = torch.randn(2, 3, dtype=torch.bfloat16), torch.randn(2, dtype=torch.float64)
    layer.load_state_dict({"weight": weight, "bias": torch.nn.Parameter(bias)})
    np.testing.assert_array_equal(layer.weight.data, weight.float().numpy())
    np.testing.assert_array_equal(layer.bias.data, bias.float().numpy())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bias": None}, ValueError, "load_state_dict: state must name Linear's parameters, missing: bias"),
        ({"extra": np.zeros(2)}, ValueError, "unknown: extra"),
        ({"weight": np.zeros((3, 2))}, ValueError, "weight has shape \\(3, 2\\), expected \\(2, 3\\)"),
        ({"weight": np.zeros((2, 3), complex)}, TypeError, "weight must be an array of real numbers"),
        ({"bias": [0.0, 0.0]}, TypeError, "bias must be an array, got list"),
    ],
)
def test_load_state_dict_refuses_and_writes_nothing(change, error, message):
    layer = layers.Linear(3, 2)
    before = layer.state_dict()
    state = {"weight": np.zeros((2, 3)), "bias": np.zeros(2)} | change
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(error, match=message):
        layer.load_state_dict(state)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: layers.Conv2d(3, 4, 3, groups=2),
            ValueError,
            "Conv2d: in_channels must be divisible by groups",
        ),
        (lambda: layers.Conv2d(3, 4, (3, 3, 3)), ValueError, "Conv2d: kernel_size must be 2 integers"),
        (lambda: layers.Conv1d(3, 4, 3, padding="full"), ValueError, "Conv1d: padding must be sizes, 'same'"),
        (lambda: layers.Conv1d(3, 4, 2.5), TypeError, "Conv1d: kernel_size must be an integer, got 2.5"),
        (lambda: layers.Linear(0, 4), ValueError, "Linear: in_features must be at least 1, got 0"),
        (lambda: layers.LSTM(3, 4, dropout=2), ValueError, "LSTM: dropout must be between 0 and 1"),
        (lambda: layers.GRU(3, 4, zoneout=-1), ValueError, "GRU: zoneout must be between 0 and 1"),
        (lambda: layers.LSTM(3, 4, zoneout=(0, 2)), ValueError, "LSTM: zoneout must be between 0 and 1"),
        (
            lambda: layers.RNN(3, 4, nonlinearity="x"),
            ValueError,
            "RNN: nonlinearity must be 'tanh' or 'relu'",
        ),
        (lambda: layers.RNNCell(3, 4, nonlinearity=1), ValueError, "RNNCell: nonlinearity must be"),
        (lambda: layers.Dropout(-1), ValueError, "Dropout: p must be between 0 and 1"),
        (lambda: layers.Flatten(2, 1)(np.zeros((2, 3, 4))), ValueError, "Flatten: input has 3 axes"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_output_size_of_a_transposed_convolution():
    ours, theirs = (
        layers.ConvTranspose2d(3, 4, 3, 3, 1, **F64),
        torch.nn.ConvTranspose2d(3, 4, 3, 3, 1).double(),
    )
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    for wanted in ((10, 13), (12, 14)):
        expected = theirs(torch.from_numpy(x), output_size=wanted).detach().numpy()
        np.testing.assert_allclose(ours(x, output_size=wanted), expected, rtol=1e-12, atol=1e-12)
        assert ours.backward(np.ones_like(expected)).shape == x.shape
    with pytest.raises(ValueError, match=r"^ConvTranspose2d: output_size must be between \(10, 13\)"):
        ours(x, output_size=(13, 13))


REPRS = [
    ("Conv1d", (3, 4, 3), {"padding": 1, "dilation": 2}),
    ("Conv2d", (4, 6, (3, 2)), {"padding": "same", "groups": 2, "bias": False}),
    ("Conv3d", (4, 6, (3, 2, 1)), {"stride": 2}),
    ("ConvTranspose2d", (4, 6, 3, 2), {"output_padding": 1, "groups": 2, "bias": False}),
    ("Linear", (5, 3), {"bias": False}),
    ("LSTM", (5, 3), {"num_layers": 2, "batch_first": True, "dropout": 0.5, "bidirectional": True}),
    ("LSTM", (5, 3), {"num_layers": 2, "proj_size": 2}),
    ("GRU", (5, 3), {"bias": False}),
    ("RNN", (5, 3), {"num_layers": 2, "nonlinearity": "relu"}),
    ("LSTMCell", (5, 3), {}),
    ("RNNCell", (5, 3), {"nonlinearity": "relu"}),
    ("GRUCell", (5, 3), {"bias": False}),
    ("MaxPool2d", (2,), {}),
    ("AvgPool2d", ((2, 3),), {}),
    ("AdaptiveAvgPool2d", (1,), {}),
    ("Flatten", (), {}),
    ("Tanh", (), {}),
]


@pytest.mark.parametrize(("name", "args", "options"), REPRS)
def test_repr_is_pytorchs(name, args, options):
    assert repr(getattr(layers, name)(*args, **options)) == repr(getattr(torch.nn, name)(*args, **options))


def test_a_model_of_ones_own():
    class Residual(layers.Layer):
        def __init__(self, body):
            self.body = body

        def forward(self, x):
            return x + self.body(x)

        def backward(self, dy):
            return dy + self.body.backward(dy)

    model = Residual(layers.Linear(3, 3, rng=0, **F64))
    x, dy = draw(2, 3), draw(2, 3)
    np.testing.assert_allclose(model(x), x + x @ model.body.weight.data.T + model.body.bias.data)
    np.testing.assert_allclose(model.backward(dy), dy + dy @ model.body.weight.data)
    assert [name for name, _ in model.named_parameters()] == ["body.weight", "body.bias"]
    assert repr(model) == ("Residual(\n  (body): Linear(in_features=3, out_features=3, bias=True)\n)")
    assert not model.eval().body.training


def test_a_shared_layer_counts_once():
    shared = layers.Linear(3, 3)
    model = layers.Sequential(shared, layers.ReLU(), shared)
    assert len(list(model.parameters())) == 2
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
