"""The ops under HIPS autograd: gradients as `vjp`'s, and second derivatives against differences."""

from __future__ import annotations

import inspect

import arraynn
import arraynn.autograd as ann
import autograd.numpy as anp
import numpy as np
import pytest
from autograd import elementwise_grad, grad, jacobian
from tolerance import assert_close

RNG = np.random.default_rng(0)


def rand(*shape):
    return RNG.standard_normal(shape)


X, W, B = rand(2, 4, 6, 5), rand(6, 2, 3, 2), rand(6)
SEQUENCE, STATE = rand(4, 3, 2), (rand(1, 3, 5), rand(1, 3, 5))
PARAMS = [rand(20, 2), rand(20, 5), rand(20), rand(20)]
PARAMS_OF_3 = [rand(12, 2), rand(12, 3), rand(12), rand(12)]


def test_every_differentiable_op_is_there():
    for name in arraynn.reference.__all__:
        if getattr(arraynn, name) in arraynn._vjp._rules:
            op = getattr(ann, name)
            assert inspect.signature(op) == inspect.signature(getattr(arraynn, name))
            assert name in ann.__all__
    assert ann.layers is arraynn.layers
    assert arraynn.vjp(ann.linear, rand(2, 3), rand(4, 3))[0].shape == (2, 4)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ann.nothing


def test_without_gradients_it_is_the_op_itself():
    out = np.empty((2, 6, 4, 4))
    assert ann.conv2d(X, W, B, groups=2, out=out) is out
    np.testing.assert_array_equal(out, arraynn.conv2d(X, W, B, groups=2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_those_of_vjp(dtype):
    x, w, b = (a.astype(dtype) for a in (X, W, B))
    g = rand(2, 6, 4, 4).astype(dtype)
    found = grad(lambda args: anp.sum(ann.conv2d(*args, groups=2) * g))((x, w, b))
    expected = arraynn.vjp(arraynn.conv2d, x, w, b, groups=2)[1](g)
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, e)


def test_by_name_and_only_what_is_asked_for():
    calls = []
    original = arraynn._vjp._rules[arraynn.linear]
    arraynn._vjp._rules[arraynn.linear] = original._replace(
        forward=lambda wanted, *a, **k: (calls.append(wanted), original.forward(wanted, *a, **k))[1]
    )
    try:
        x, w = rand(3, 4), rand(2, 4)
        found = grad(lambda w: anp.sum(ann.linear(weight=w, input=x)))(w)
    finally:
        arraynn._vjp._rules[arraynn.linear] = original
    np.testing.assert_allclose(found, np.broadcast_to(x.sum(0), (2, 4)))
    assert calls == [(False, True, False)]  # once, and in the weight alone


def test_a_program():
    """Branches, loops, NumPy between the ops, a parameter used twice."""

    def loss(w, b):
        h = X
        for i in range(2):
            h = anp.tanh(ann.conv2d(h, w[:4], b[:4], padding="same", groups=1) if i else h * 0.5)
        return anp.mean(h**2) + 0.1 * anp.sum(w**2)

    w = rand(6, 4, 3, 3)
    dw, db = grad(loss, 0)(w, B), grad(loss, 1)(w, B)
    for i in ((0, 0, 0, 0), (3, 2, 1, 2), (5, 3, 2, 2)):
        step = np.zeros_like(w)
        step[i] = 1e-6
        assert dw[i] == pytest.approx((loss(w + step, B) - loss(w - step, B)) / 2e-6, rel=1e-6)
    assert (db[4:] == 0).all()


def test_nested_arguments_and_results():
    g, gh, gc = rand(4, 3, 5), rand(1, 3, 5), rand(1, 3, 5)

    def loss(args):
        x, h, c, params = args
        output, (h_n, c_n) = ann.lstm(x, (h, c), params)
        return anp.sum(output * g) + anp.sum(h_n * gh) + anp.sum(c_n * gc)

    dx, dh, dc, dparams = grad(loss)((SEQUENCE, *STATE, PARAMS))
    expected = arraynn.vjp(arraynn.lstm, SEQUENCE, STATE, PARAMS)[1]((g, (gh, gc)))
    np.testing.assert_array_equal(dx, expected[0])
    np.testing.assert_array_equal(dh, expected[1][0])
    np.testing.assert_array_equal(dc, expected[1][1])
    for a, e in zip(dparams, expected[2], strict=True):
        np.testing.assert_array_equal(a, e)
    only_h = grad(lambda h: anp.sum(ann.lstm(SEQUENCE, (h, STATE[1]), PARAMS)[0] * g))(STATE[0])
    zeros = (np.zeros_like(gh), np.zeros_like(gc))
    expected = arraynn.vjp(arraynn.lstm, SEQUENCE, STATE, PARAMS)[1]((g, zeros))
    np.testing.assert_array_equal(only_h, expected[1][0])


def test_an_integer_result_carries_no_gradient():
    g = rand(2, 4, 3, 2)

    def loss(x):
        pooled, indices = ann.max_pool2d(x, 2, return_indices=True)
        assert indices.dtype == np.int64
        return anp.sum(pooled * g)

    np.testing.assert_array_equal(grad(loss)(X), arraynn.vjp(arraynn.max_pool2d, X, 2)[1](g)[0])


def test_dropout_draws_one_mask():
    rng = np.random.default_rng(5)
    x = rand(40, 50)
    kept = []

    def loss(x):
        y = ann.dropout(x, 0.5, rng=rng)
        kept.append(y._value != 0)
        return anp.sum(y)

    np.testing.assert_array_equal(grad(loss)(x) != 0, kept[0])


# -- second derivatives ---------------------------------------------------------------------

LABELS = np.array([1, 0, 3, -100, 2])
SOFT = np.abs(rand(5, 4)) / 3
SECOND = [
    ("linear", (rand(3, 2, 4), rand(5, 4), rand(5)), {}),
    ("linear", (rand(4), rand(5, 4)), {}),
    ("conv1d", (rand(2, 3, 9), rand(4, 3, 3), rand(4)), dict(stride=2, padding=1)),
    ("conv2d", (X, W, B), dict(groups=2, padding=(1, 0), dilation=(1, 2))),
    ("conv2d", (X[0], rand(3, 4, 2, 2), rand(3)), {}),
    ("conv3d", (rand(1, 2, 3, 4, 3), rand(3, 2, 2, 1, 2), rand(3)), dict(stride=(1, 2, 1))),
    ("conv_transpose1d", (rand(2, 3, 4), rand(3, 2, 3)), dict(padding=1)),
    ("conv_transpose2d", (X, rand(4, 3, 3, 2), rand(6)), dict(stride=2, output_padding=1, groups=2)),
    ("avg_pool2d", (X,), dict(kernel_size=3, stride=2, padding=1, ceil_mode=True)),
    ("adaptive_avg_pool2d", (X,), dict(output_size=(4, 3))),
    ("relu", (rand(37),), {}),
    ("leaky_relu", (rand(37),), dict(negative_slope=0.2)),
    ("elu", (rand(37),), dict(alpha=0.7)),
    ("gelu", (rand(37),), {}),
    ("gelu", (rand(37),), dict(approximate="tanh")),
    ("silu", (rand(37),), {}),
    ("sigmoid", (rand(37),), {}),
    ("tanh", (rand(37),), {}),
    ("softplus", (10 * rand(37),), dict(beta=0.5, threshold=3.0)),
    ("softmax", (rand(3, 4, 5),), dict(axis=1)),
    ("log_softmax", (rand(3, 4, 5),), {}),
    ("mse_loss", (rand(5, 3),), dict(target=rand(5, 3))),
    ("mse_loss", (rand(5, 3),), dict(target=rand(5, 3), weight=np.abs(rand(5, 3)))),
    ("cross_entropy", (rand(5, 4),), dict(target=LABELS)),
    ("cross_entropy", (rand(5, 4),), dict(target=LABELS, weight=np.arange(1.0, 5), label_smoothing=0.2)),
    ("cross_entropy", (rand(5, 4),), dict(target=SOFT, weight=np.arange(1.0, 5), label_smoothing=0.2)),
    ("cross_entropy", (rand(2, 4, 3),), dict(target=LABELS[:3] * np.ones((2, 1), int), reduction="sum")),
    ("cross_entropy", (rand(4),), dict(target=np.array(2))),
]


def weighted(name, options):
    """Return a number of an op's output that is not linear in it."""
    op = getattr(ann, name)

    def f(args):
        out = op(*args, **options)
        weights = np.cos(np.arange(out.size)).reshape(out.shape)
        return anp.sum(weights * out) + 0.5 * anp.sum(out**2)

    return f


@pytest.mark.parametrize(("name", "args", "options"), SECOND, ids=lambda v: v if isinstance(v, str) else "")
def test_hessian_vector_products(name, args, options):
    """In all arguments at once, against differences of the gradient."""
    f = weighted(name, options)
    vector = tuple(np.sin(1 + np.arange(a.size)).reshape(a.shape) for a in args)
    found = grad(lambda args: sum(anp.sum(g * v) for g, v in zip(grad(f)(args), vector, strict=True)))(args)
    step = 1e-5
    ahead = grad(f)(tuple(a + step * v for a, v in zip(args, vector, strict=True)))
    behind = grad(f)(tuple(a - step * v for a, v in zip(args, vector, strict=True)))
    for h, a, b in zip(found, ahead, behind, strict=True):
        expected = (a - b) / (2 * step)
        np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-6 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize(("name", "args", "options"), SECOND, ids=lambda v: v if isinstance(v, str) else "")
def test_gradients_by_formula_are_those_of_the_kernels(name, args, options):
    """What the second derivative goes through is the first one."""
    f = weighted(name, options)
    expected = grad(f)(args)
    through = []

    def keeps(args):
        gradient = grad(f)(args)
        through.append([getattr(g, "_value", g) for g in gradient])
        return sum(anp.sum(g) for g in gradient)

    grad(keeps)(args)
    for a, e in zip(through[0], expected, strict=True):
        assert_close(np.asarray(a), e, terms=64)


def cell_loss(name, options):
    """Return a number of two steps of a cell that is not linear in them, of (x, states, weights)."""
    op = getattr(ann, name)

    def f(args):
        x, states, params = args[0], args[1:3], args[3:]
        state = (states[0], states[1]) if name == "lstm_cell" else states[0]
        named = {"peepholes": params[4]} if len(params) == 5 else {}
        for t in range(2):
            state = op(x[t], state, *params[:4], **named, **options)
        parts = state if name == "lstm_cell" else (state,)
        return sum(anp.sum(anp.cos(p)) + anp.sum(p**3) for p in parts)

    return f


def check_hessian(f, args, *, step, rtol, **bound):
    """Check a Hessian-vector product against differences, and the gradient within it against the kernels."""
    vector = [np.sin(1 + np.arange(a.size)).reshape(a.shape) for a in args]

    def slope(args):
        return sum(anp.sum(g * v) for g, v in zip(grad(f)(args), vector, strict=True))

    found = grad(slope)(args)
    ahead, behind = (grad(f)([a + by * v for a, v in zip(args, vector, strict=True)]) for by in (step, -step))
    for h, a, b in zip(found, ahead, behind, strict=True):
        expected = (a - b) / (2 * step)
        np.testing.assert_allclose(h, expected, rtol=rtol, atol=1e-6 * (1 + np.abs(expected).max()))
    through = []
    grad(lambda args: sum(anp.sum(g) for g in keep(through, grad(f)(args))))(args)
    for a, e in zip(through, grad(f)(args), strict=True):
        assert_close(np.asarray(a), e, **bound)


CELL_CALLS = [
    ("lstm_cell", 4, 4, False, {}),
    ("lstm_cell", 4, 0, False, {}),
    ("lstm_cell", 4, 4, True, {}),
    ("gru_cell", 3, 4, False, {}),
    ("gru_cell", 3, 4, False, {"reset_after": False}),
    ("gru_cell", 3, 0, False, {"reset_after": False}),
    ("rnn_cell", 1, 4, False, {}),
    ("rnn_cell", 1, 4, False, {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("name", "gates", "arrays", "peepholes", "options"), CELL_CALLS)
def test_hessian_vector_products_through_cells(name, gates, arrays, peepholes, options):
    """In input, states and weights at once, against differences of the kernels' gradient."""
    rows = gates * 3
    args = [rand(2, 4, 2), rand(4, 3), rand(4, 3), rand(rows, 2), rand(rows, 3)]
    args += [rand(rows), rand(rows)] if arrays else []
    args += [rand(3, 3)] if peepholes else []
    f = cell_loss(name, options)
    check_hessian(f, args, step=1e-5, rtol=1e-5, terms=200)


def keep(found, gradients):
    """Return `gradients`, their arrays appended to `found`."""
    found.extend(getattr(g, "_value", g) for g in gradients)
    return gradients


LAYER_CALLS = [  # op, arrays of a layer and direction by their sizes, options
    ("lstm", "ih hh b b", {}),
    ("lstm", "ih hh", {"bidirectional": True, "num_layers": 2, "batch_first": True}),
    ("lstm", "ih hh b b hr", {"lengths": np.array([4, 0, 2])}),
    ("lstm", "ih hh b b p", {"peepholes": True, "reset": np.eye(4, 3) > 0}),
    ("lstm", "ih hh b b g g c c", {"layer_norm": True, "zoneout": (0.2, 0.1)}),
    ("lstm", "ih hh g g c", {"layer_norm": True, "training": True}),
    ("gru", "ih hh b b", {"bidirectional": True, "lengths": np.array([1, 4, 3])}),
    ("gru", "ih hh b b", {"reset_after": False, "num_layers": 2, "reset": np.eye(4, 3) > 0}),
    ("gru", "ih hh", {"reset_after": False, "zoneout": 0.3}),
    ("gru", "ih hh b b g g", {"layer_norm": True}),
    ("rnn", "ih hh b b", {"batch_first": True, "lengths": np.array([4, 1, 2])}),
    ("rnn", "ih hh", {"nonlinearity": "relu", "num_layers": 2}),
]


def layer_arguments(name, arrays, options):
    """Return input (T 4, N 3, I 2), states and parameters for hidden size 5, 3 with a projection."""
    rows, hidden = {"lstm": 4, "gru": 3, "rnn": 1}[name] * 5, 5
    width = 3 if "hr" in arrays.split() else hidden
    directions = 2 if options.get("bidirectional") else 1
    layers = options.get("num_layers", 1)
    params = []
    for layer in range(layers):
        features = directions * width if layer else 2
        shapes = {"ih": (rows, features), "hh": (rows, width), "hr": (width, hidden), "p": (3, hidden)}
        shapes |= {"b": (rows,), "g": (rows,), "c": (hidden,)}
        params += [rand(*shapes[kind]) for _ in range(directions) for kind in arrays.split()]
    x = rand(3, 4, 2) if options.get("batch_first") else rand(4, 3, 2)
    states = [rand(layers * directions, 3, size) for size in (width, hidden)]
    return [x, *states[: 2 if name == "lstm" else 1], *params]


def layer_loss(name, options):
    """Return a number of a layer's outputs that is not linear in them, of (x, states, parameters)."""
    op, count = getattr(ann, name), 2 if name == "lstm" else 1

    def f(args):
        hx = (args[1], args[2]) if count == 2 else args[1]
        output, ends = op(args[0], hx, list(args[1 + count :]), **options)
        parts = [output, *([ends[0], ends[1]] if count == 2 else [ends])]
        return sum(anp.sum(anp.cos(p)) + anp.sum(p**3) for p in parts)

    return f


@pytest.mark.parametrize(("name", "arrays", "options"), LAYER_CALLS, ids=str)
def test_hessian_vector_products_through_layers(name, arrays, options):
    """In input, states and weights at once, against differences of the kernels' gradient."""
    args, f = layer_arguments(name, arrays, options), layer_loss(name, options)
    check_hessian(f, args, step=1e-6, rtol=1e-4, terms=400, scale=10)


def test_second_derivatives_of_a_layer_without_a_batch_or_states():
    params = [rand(20, 2), rand(20, 5)]

    def f(x):
        return anp.sum(ann.lstm(x, None, params)[0] ** 3)

    x = rand(4, 2)
    found = grad(lambda x: anp.sum(grad(f)(x) * 1.5))(x)
    step = np.full_like(x, 1e-6)
    np.testing.assert_allclose(
        found, 1.5 * (grad(f)(x + step) - grad(f)(x - step)) / 2e-6, rtol=1e-5, atol=1e-7
    )
    narrow = grad(lambda x: anp.sum(grad(f)(x) * np.float32(1.5)))
    params = [p.astype(np.float32) for p in params]
    assert narrow(x.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(narrow(x.astype(np.float32)), found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "value"), [("dropout", 0.5), ("recurrent_dropout", 0.5), ("zoneout", (0.0, 0.1))]
)
def test_masks_of_training_have_no_second_derivative(option, value):
    def f(x):
        args = layer_arguments("lstm", "ih hh", {})
        return anp.sum(ann.lstm(x, None, args[3:], training=True, rng=0, **{option: value})[0] ** 2)

    with pytest.raises(NotImplementedError, match=f"lstm has no second derivative with {option} in training"):
        grad(lambda x: anp.sum(grad(f)(x)))(rand(4, 3, 2))


def test_a_hessian_vector_product_in_float32():
    args = [a.astype(np.float32) for a in (rand(2, 4, 2), *(rand(4, 3) for _ in range(2)), *PARAMS_OF_3)]
    f = cell_loss("lstm_cell", {})
    found = grad(lambda args: sum(anp.sum(g) for g in grad(f)(args)))(args)
    wide = [a.astype(np.float64) for a in args]
    expected = grad(lambda args: sum(anp.sum(g) for g in grad(f)(args)))(wide)
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4 * np.abs(e).max())


def test_peepholes_alone():
    x, h, c, p = rand(4, 2), rand(4, 3), rand(4, 3), rand(3, 3)
    g = rand(4, 3)
    found = grad(lambda p: anp.sum(ann.lstm_cell(x, (h, c), *PARAMS_OF_3, peepholes=p)[0] * g))(p)
    _, pullback = arraynn.vjp(arraynn.lstm_cell, x, (h, c), *PARAMS_OF_3, peepholes=p)
    np.testing.assert_array_equal(found, pullback((g, None))[6])


def test_a_third_derivative():
    x = np.linspace(-2, 2, 9)
    f = elementwise_grad(elementwise_grad(elementwise_grad(ann.tanh)))
    t = np.tanh(x)
    np.testing.assert_allclose(f(x), -2 * (1 - t**2) * (1 - 3 * t**2), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_penalty_on_a_critics_gradient(dtype):
    """Of a Wasserstein network: the gradient in the weights of the norm of the gradient in the images."""
    images, w, head = (a.astype(dtype) for a in (rand(3, 1, 6, 6), rand(4, 1, 3, 3), rand(1, 64)))

    def critic(images, w):
        features = ann.leaky_relu(ann.conv2d(images, w), 0.2)
        return anp.sum(ann.linear(features.reshape(3, 64), head))

    def penalty(w):
        slopes = grad(critic)(images, w)
        return anp.mean((anp.sqrt(anp.sum(slopes**2, axis=(1, 2, 3))) - 1) ** 2)

    found = grad(penalty)(w)
    assert found.dtype == dtype
    if dtype == np.float32:
        images, head = images.astype(np.float64), head.astype(np.float64)
        np.testing.assert_allclose(found, grad(penalty)(w.astype(np.float64)), rtol=1e-3, atol=1e-4)
        return
    step = np.zeros_like(w)
    step[2, 0, 1, 1] = 1e-6
    assert found[2, 0, 1, 1] == pytest.approx((penalty(w + step) - penalty(w - step)) / 2e-6, rel=1e-5)


def test_a_jacobian():
    w = rand(3, 4)
    np.testing.assert_allclose(jacobian(lambda x: ann.linear(x, w))(rand(4)), w)


def test_refusals():
    with pytest.raises(
        NotImplementedError, match="max_pool2d has no second derivative here; those that have"
    ):
        grad(lambda x: anp.sum(grad(lambda y: anp.sum(ann.max_pool2d(y, 2) ** 2))(x)))(X)
    with pytest.raises(TypeError, match="relu: out is not taken where gradients are asked for"):
        grad(lambda x: anp.sum(ann.relu(x, out=np.empty_like(X))))(X)
    with pytest.raises(ValueError, match="conv2d: input has 4 channels"):
        grad(lambda x: anp.sum(ann.conv2d(x, W)))(X)
