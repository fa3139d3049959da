"""A run that was interrupted goes on from its checkpoint to the same bits as one that was not."""

from __future__ import annotations

import os
import signal

import arraynn as ann
import numpy as np
import pytest
from arraynn import layers as L
from networks import make_model, two_moons

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((60, 1, 8, 8)).astype(np.float32)
LABELS = RNG.integers(0, 3, 60)


def cnn(seed=0):
    rng = np.random.default_rng(seed)
    return L.Sequential(
        L.Conv2d(1, 4, 3, rng=rng),
        L.ReLU(),
        L.MaxPool2d(2),
        L.Flatten(),
        L.Dropout(0.3, rng=rng),
        L.Linear(36, 3, rng=rng),
    )


class Rows(L.Sequential):
    """An image as a sequence of its rows."""

    def forward(self, x):
        return super().forward(x[:, 0])


def lstm(seed=0):
    rng = np.random.default_rng(seed)
    return Rows(
        L.LSTM(8, 5, num_layers=2, dropout=0.3, batch_first=True, rng=rng),
        L.LastStep(),
        L.Linear(5, 3, rng=rng),
    )


def interrupt_after(optimizer, steps):
    """Send Ctrl-C after so many batches."""
    if steps is None:
        return
    step, count = optimizer.step, iter(range(steps - 1))
    optimizer.step = lambda: (step(), next(count, None) is None and os.kill(os.getpid(), signal.SIGINT))


def train(make, path=None, stop_after=None, epochs=5, seed=0, **options):
    """Train anew, or on from `path`; send Ctrl-C after so many batches."""
    model = make(seed)
    optimizer = ann.optim.Adam(model.parameters(), 0.01)
    schedule = ann.optim.LinearWarmup(
        optimizer, 3, then=ann.optim.CosineAnnealingLR(optimizer, 20, every="step")
    )
    interrupt_after(optimizer, stop_after)
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        options.pop("data", (IMAGES, LABELS)),
        **{
            "epochs": epochs,
            "batch_size": 16,
            "validation_split": 0.2,
            "metrics": "accuracy",
            "schedule": schedule,
            "early_stopping": ann.EarlyStopping(patience=3),
            "checkpoint": path,
            "resume": path is not None,
            "rng": seed,
            "progress": False,
        }
        | options,
    )
    return model, optimizer, history


def assert_same_run(a, b):
    for x, y in zip(a[:2], b[:2], strict=True):
        mine, other = x.state_dict(), y.state_dict()
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert a[2] == b[2]
    assert a[2].stopped == b[2].stopped


@pytest.mark.parametrize("make", [cnn, lstm])
def test_an_interrupted_run_goes_on_bit_for_bit(make, tmp_path):
    whole = train(make)
    path = tmp_path / "run.safetensors"
    first = train(make, path, stop_after=5)  # 3 batches per epoch: in the middle of the second
    assert first[2].stopped == "interrupt"
    assert first[2].epochs == 1
    second = train(make, path, stop_after=4)  # and once more
    assert second[2].epochs == 2
    assert_same_run(train(make, path), whole)


def normalized(seed=0):
    """A network whose state is not in its parameters alone."""
    rng = np.random.default_rng(seed)
    return L.Sequential(
        L.Conv2d(1, 4, 3, bias=False, rng=rng),
        L.BatchNorm2d(4),
        L.ReLU(),
        L.MaxPool2d(2),
        L.Flatten(),
        L.Dropout(0.3, rng=rng),
        L.Linear(36, 3, rng=rng),
    )


def batches(epoch):
    rng = np.random.default_rng((7, epoch))
    for chosen in rng.permutation(48).reshape(3, 16):
        yield IMAGES[chosen] + rng.standard_normal((16, 1, 8, 8)).astype(np.float32) / 4, LABELS[chosen]


def train_on_a_stream(path=None, stop_after=None, epochs=6):
    model = normalized()
    optimizer = ann.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True)
    interrupt_after(optimizer, stop_after)
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        batches,
        epochs=epochs,
        batch_size=None,
        validation_data=(IMAGES[48:], LABELS[48:]),
        schedule=ann.optim.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.02, cooldown=1),
        checkpoint=path,
        resume=path is not None,
        progress=False,
    )
    return model, optimizer, history


def test_running_statistics_streams_and_plateaus_go_on_bit_for_bit(tmp_path):
    whole = train_on_a_stream()
    assert 0 < whole[1].lr < 0.05  # the plateau has been seen
    assert whole[0].state_dict()["1.num_batches_tracked"] == 18
    path = tmp_path / "run.safetensors"
    assert train_on_a_stream(path, stop_after=5)[2].epochs == 1
    assert train_on_a_stream(path, stop_after=8)[2].epochs == 3
    assert_same_run(train_on_a_stream(path), whole)


def test_a_seed_that_was_not_given_is_kept(tmp_path):
    """Otherwise samples of the hold-out would be trained on after the interruption."""
    path = tmp_path / "run.safetensors"
    seen = []
    for epochs in (1, 2):
        model = cnn()
        inner = model.forward
        model.forward = lambda x, model=model, inner=inner: (
            model.training and seen.append(x),
            inner(x),
        )[1]
        train(lambda seed, model=model: model, path, epochs=epochs, rng=None)
    assert len({row.tobytes() for row in np.concatenate(seen)}) == 48


def test_a_run_can_be_made_longer(tmp_path):
    path = tmp_path / "run.safetensors"
    constant = dict(schedule=None, early_stopping=None)
    train(cnn, path, epochs=2, **constant)
    assert_same_run(train(cnn, path, epochs=4, **constant), train(cnn, epochs=4, **constant))
    again = train(cnn, path, epochs=4, **constant)
    assert again[2].epochs == 4  # nothing was left to do


def test_early_stopping_goes_on(tmp_path):
    def moons(path, **options):
        model = make_model(p=0.2)
        optimizer = ann.optim.RMSprop(model.parameters(), 0.05, momentum=0.5)
        history = ann.fit(
            model,
            ann.cross_entropy,
            optimizer,
            two_moons(60),
            batch_size=16,
            validation_data=two_moons(60, 1),
            early_stopping=ann.EarlyStopping(patience=4),
            checkpoint=path,
            rng=0,
            progress=False,
            **options,
        )
        return model, optimizer, history

    whole = moons(None, epochs=60)
    assert whole[2].stopped == "early stopping"
    path = tmp_path / "run.safetensors"
    for epochs in (1, whole[2].epochs - 2, whole[2].epochs, 60, 60):
        last = moons(path, epochs=epochs, resume=True)
    assert_same_run(last, whole)


def test_generators_of_every_kind(tmp_path):
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        path = tmp_path / f"{kind.__name__}.safetensors"
        whole = train(cnn, rng=np.random.Generator(kind(3)))
        train(cnn, path, epochs=2, rng=np.random.Generator(kind(3)))
        assert_same_run(train(cnn, path, rng=np.random.Generator(kind(3))), whole)


def test_a_refused_checkpoint_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "run.safetensors"
    options = dict(epochs=2, batch_size=16, checkpoint=path, progress=False)
    model = cnn()
    plain = ann.optim.Adam(model.parameters())
    ann.fit(model, ann.cross_entropy, plain, (IMAGES, LABELS), **options)
    other = cnn(1)
    before = other.state_dict()
    optimizer = ann.optim.Adam(other.parameters(), amsgrad=True)
    with pytest.raises(ValueError, match="does not fit this Adam"):
        ann.fit(other, ann.cross_entropy, optimizer, (IMAGES, LABELS), resume=True, **options)
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_without_resume_a_run_begins_anew(tmp_path):
    path = tmp_path / "run.safetensors"
    train(cnn, path, epochs=2)
    assert_same_run(train(cnn, path, epochs=2, resume=False), train(cnn, epochs=2))


def test_other_runs_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    train(cnn, path, epochs=1)
    for options, message in (
        (dict(batch_size=8), "of another run: batch_size is 8, in the checkpoint 16"),
        (dict(data=(IMAGES[:40], LABELS[:40])), "samples is 32, in the checkpoint 48"),
        (dict(shuffle=False), "shuffle is False, in the checkpoint True"),
        (dict(accumulate=2), "accumulate is 2, in the checkpoint 1"),
        (dict(schedule=None), "schedule is None, in the checkpoint LinearWarmup of every step, then Cosine"),
        (dict(metrics=()), r"metrics is \[\], in the checkpoint \['accuracy'\]"),
        (
            dict(early_stopping=ann.EarlyStopping("loss")),
            "early_stopping is min loss, in the checkpoint min val",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train(cnn, path, **options)
    with pytest.raises(
        ValueError, match="fit: the checkpoint is of another run: the model has 0 generators, not 1"
    ):
        train(lambda seed: make_lean(seed), path)
    other = tmp_path / "weights.safetensors"
    ann.save(other, cnn())
    with pytest.raises(ValueError, match="is not a checkpoint of fit"):
        train(cnn, other)


def make_lean(seed):
    return L.Sequential(*list(cnn(seed))[:4], L.Linear(36, 3, rng=seed))
