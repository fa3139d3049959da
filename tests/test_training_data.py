"""Where `fit` gets its batches from: streams read ahead, several inputs, batches in parts."""

from __future__ import annotations

import threading

import arraynn as ann
import numpy as np
import pytest
from arraynn.layers import Layer, Linear
from networks import make_model, two_moons

X, Y = two_moons(100)
BATCHES = [(X[i : i + 32], Y[i : i + 32]) for i in range(0, 100, 32)]


def train(data, model=None, batch_size=None, epochs=2, **options):
    model = model or make_model()
    optimizer = ann.optim.Adam(model.parameters(), 0.01)
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        data,
        epochs=epochs,
        batch_size=batch_size,
        progress=False,
        **options,
    )
    return model, history


def assert_same(a, b):
    for (name, p), (_, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data, err_msg=name)


class Batches:
    """An iterable without a length."""

    def __iter__(self):
        return iter(BATCHES)


@pytest.mark.parametrize(
    "data", [BATCHES, Batches(), lambda epoch: iter(BATCHES)], ids=["list", "iterable", "function"]
)
def test_a_stream_is_the_same_as_arrays(data):
    expected, history = train(
        (X, Y), batch_size=32, shuffle=False, metrics="accuracy", validation_data=(X, Y)
    )
    model, found = train(data, metrics="accuracy", validation_data=Batches())
    assert_same(model, expected)
    assert found == history


def test_a_function_gets_the_epoch():
    epochs = []

    def data(epoch):
        epochs.append(epoch)
        return BATCHES

    train(data, epochs=3)
    assert epochs == [0, 1, 2]


def test_an_iterator_lasts_one_epoch():
    train(iter(BATCHES), epochs=1)
    with pytest.raises(ValueError, match="fit: data is an iterator, which ends with the first epoch"):
        train(iter(BATCHES), epochs=2)


def test_a_stream_is_read_ahead_by_one_in_a_thread_that_ends():
    events, threads = [], set()

    class Spy(Layer):
        def __init__(self):
            self.inner = make_model()

        def forward(self, x):
            events.append("learn")
            assert asked.wait(10)
            assert events.count("read") <= events.count("learn") + 1
            return self.inner(x, input_grad=False)

        def backward(self, dy):
            return self.inner.backward(dy)

    asked = threading.Event()

    def batches(epoch):
        for i, batch in enumerate(BATCHES):
            threads.add(threading.current_thread())
            if i == 1:
                asked.set()
            events.append("read")
            yield batch

    train(batches, Spy(), epochs=1)
    assert events.count("read") == events.count("learn") == 4
    assert events[0] == "read"
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_an_error_in_a_stream_comes_out():
    def batches(epoch):
        yield BATCHES[0]
        raise RuntimeError("the disk is gone")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the disk is gone"):
        train(batches)
    assert threading.active_count() == before


class Sum(Layer):
    """Two inputs, each with its own layer."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.a, self.b = Linear(2, 2, rng=rng), Linear(1, 2, rng=rng)

    def forward(self, x, z):
        return self.a(x) + self.b(z)

    def backward(self, dy):
        return self.a.backward(dy), self.b.backward(dy)


def test_several_inputs():
    z = X[:, :1] ** 2
    model, history = train(
        ((X, z), Y), Sum(), batch_size=32, epochs=40, validation_split=0.2, metrics="accuracy", rng=0
    )
    assert history["val_accuracy"][-1] >= 0.8
    np.testing.assert_allclose(ann.predict(model, (X, z), batch_size=7), model(X, z), rtol=1e-6, atol=1e-6)
    assert ann.evaluate(model, ann.cross_entropy, ((X, z), Y))["loss"] < 0.6


@pytest.mark.parametrize("accumulate", [2, 3, 50])
def test_a_batch_in_parts_is_the_step_of_the_batch(accumulate):
    """100 is no multiple of 32, a batch no multiple of 3, and the last batch has fewer samples than parts."""
    expected, history = train((X, Y), batch_size=32, metrics="accuracy", rng=0)
    sizes = []
    model = make_model()
    forward = model.forward
    model.forward = lambda x: (sizes.append(len(x)), forward(x))[1]
    _, found = train((X, Y), model, batch_size=32, metrics="accuracy", accumulate=accumulate, rng=0)
    assert max(sizes) == -(-32 // accumulate)
    assert min(sizes) >= 1
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-4, atol=1e-5)
    assert found["loss"] == pytest.approx(history["loss"], rel=1e-4)
