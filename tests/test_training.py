"""`fit`, `evaluate`, `predict`: learning, measuring, stopping, refusing."""

from __future__ import annotations

import functools
import os
import signal

import arraynn as ann
import numpy as np
import pytest
from arraynn.layers import Sequential
from networks import make_model, two_moons
from sklearn import metrics

QUIET = {"progress": False}


def run(seed=0, model=None, **options):
    model = model or make_model(seed)
    options = {"epochs": 3, "batch_size": 32, "rng": seed} | QUIET | options
    data = options.pop("data", two_moons())
    loss = options.pop("loss", ann.cross_entropy)
    return model, ann.fit(model, loss, ann.optim.Adam(model.parameters(), 0.01), data, **options)


def test_learns():
    model, history = run(epochs=60, metrics="accuracy")
    assert history["accuracy"][-1] > 0.97
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    x, y = two_moons(seed=1)
    assert (ann.predict(model, x, batch_size=64).argmax(1) == y).mean() > 0.97
    result = ann.evaluate(model, ann.cross_entropy, (x, y), metrics=["accuracy"])
    assert set(result) == {"loss", "accuracy"}
    assert result["accuracy"] > 0.97


def test_learns_a_regression():
    x, _ = two_moons()
    y = (x @ np.array([[1.5], [-2]], np.float32)) + 0.5
    model, history = run(model=make_model(outputs=1), data=(x, y), loss=ann.mse_loss, epochs=60)
    assert history["loss"][-1] < 0.05
    np.testing.assert_allclose(ann.predict(model, x), y, atol=1)


def test_same_seed_same_bits():
    runs = [run(model=make_model(p=0.3), epochs=2, validation_split=0.2) for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    for a, b in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert run(seed=1, epochs=2)[1] != run(epochs=2)[1]


def test_one_epoch_is_the_steps_by_hand():
    x, y = two_moons()
    model, history = run(epochs=1, batch_size=64, shuffle=False)
    expected, losses = make_model(), []
    optimizer = ann.optim.Adam(expected.parameters(), 0.01)
    for i in range(0, len(x), 64):
        loss, pullback = ann.vjp(ann.cross_entropy, expected(x[i : i + 64]), y[i : i + 64])
        expected.zero_grad()
        expected.backward(pullback(np.ones_like(loss))[0])
        optimizer.step()
        losses.append(float(loss) * len(x[i : i + 64]))
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert history["loss"] == [pytest.approx(sum(losses) / len(x))]


def test_validation_split_holds_out_samples():
    x, y = two_moons(50)
    seen = []

    class Spy(Sequential):
        def forward(self, x):
            seen.append((self.training, x))
            return super().forward(x)

    _, history = run(model=Spy(*make_model()), data=(x, y), validation_split=0.2, epochs=2)
    trained, measured = (np.concatenate([x for mode, x in seen if mode is m]) for m in (True, False))
    assert len(trained) == 80
    assert len(measured) == 20
    assert not {row.tobytes() for row in trained} & {row.tobytes() for row in measured}
    assert list(history) == ["loss", "val_loss"]
    seen.clear()
    run(model=Spy(*make_model()), data=(x, y), validation_split=0.2, epochs=1, shuffle=False)
    np.testing.assert_array_equal(np.concatenate([x for mode, x in seen if not mode]), x[40:])


def test_validation_data_is_evaluated():
    held_out = two_moons(seed=2)
    model, history = run(validation_data=held_out, metrics="accuracy")
    result = ann.evaluate(model, ann.cross_entropy, held_out, metrics="accuracy", batch_size=32)
    assert history["val_loss"][-1] == result["loss"]
    assert history["val_accuracy"][-1] == result["accuracy"]
    assert [len(values) for values in history.values()] == [3] * 4


def test_metrics_get_classes_or_outputs():
    calls = {}

    def classes(y_true, y_pred):
        calls["classes"] = y_pred
        return 1

    def scores(y_true, y_pred):
        calls["scores"] = y_pred
        return 2

    scores.takes_outputs = True
    _, history = run(metrics=[classes, scores, functools.partial(np.allclose, atol=9)])
    assert list(history) == ["loss", "classes", "scores", "allclose"]
    assert calls["classes"].shape == (200,)
    assert calls["classes"].dtype.kind == "i"
    assert calls["scores"].shape == (200, 2)
    assert list(run(metrics={"mine": classes})[1]) == ["loss", "mine"]
    x, y = two_moons()
    probabilities = np.eye(2, dtype=np.float32)[y]
    _, history = run(data=(x, probabilities), metrics=[classes, "accuracy"], epochs=20)
    assert calls["classes"].shape == (200, 2)
    assert history["accuracy"][-1] > 0.8


def test_metrics_of_scikit_learn():
    macro = functools.partial(metrics.f1_score, average="macro")
    names = ["accuracy", "precision", "recall", "f1"]
    model, history = run(metrics=[*names, metrics.accuracy_score, macro], validation_data=two_moons(seed=1))
    assert history["accuracy"] == history["accuracy_score"]
    assert history["f1"] == history["f1_score"]
    x, y = two_moons(seed=1)
    predicted = ann.predict(model, x).argmax(1)
    assert history["val_precision"][-1] == metrics.precision_score(y, predicted, average="macro")
    assert history["val_recall"][-1] == metrics.recall_score(y, predicted, average="macro")
    y = (x @ np.array([[1.5], [-2]], np.float32)) + 0.5
    model, history = run(model=make_model(outputs=1), data=(x, y), loss=ann.mse_loss, metrics=["mae", "rmse"])
    found = ann.evaluate(model, ann.mse_loss, (x, y), metrics=["mae", "rmse"])
    error = ann.predict(model, x) - y
    assert found["mae"] == pytest.approx(np.abs(error).mean())
    assert found["rmse"] == pytest.approx(np.sqrt(found["loss"]))


def test_accuracy_is_of_classes():
    """Of one number per sample no class can be told, and none is made up."""
    x, _ = two_moons(20)
    with pytest.raises(ValueError, match="accuracy: targets must be class indices or probabilities"):
        run(model=make_model(outputs=1), data=(x, x[:, :1]), loss=ann.mse_loss, metrics="accuracy")


def test_loss_with_options():
    smoothed = functools.partial(ann.cross_entropy, label_smoothing=0.2)
    _, history = run(loss=smoothed, epochs=40)
    assert 0.3 < history["loss"][-1] < 0.6  # the least loss that smoothing leaves is 0.325


def test_clip_norm():
    model, _ = run(clip_norm=1e-3, epochs=1, batch_size=200)
    norm = np.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_clip_value():
    model, _ = run(clip_value=1e-3, epochs=1, batch_size=200)
    assert max(np.abs(p.grad).max() for p in model.parameters()) == np.float32(1e-3)


def test_schedule_after_epochs_and_steps():
    for every, expected in (("epoch", 0.01 * 0.5**3), ("step", 0.01 * 0.5**21)):  # 7 batches per epoch
        model = make_model()
        optimizer = ann.optim.Adam(model.parameters(), 0.01)
        schedule = ann.optim.ExponentialLR(optimizer, 0.5, every=every)
        ann.fit(
            model,
            ann.cross_entropy,
            optimizer,
            two_moons(),
            epochs=3,
            batch_size=32,
            schedule=schedule,
            **QUIET,
        )
        assert optimizer.lr == pytest.approx(expected)


class Scripted:
    """A metric that is what a script says in one epoch after the other."""

    __name__ = "scripted"

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, y_true, y_pred):
        return self.values.pop(0)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_restores_the_best_weights(restore, mode):
    script = [3.0, 2.0, 2.5, np.nan, 1.95, 2.0, 1.94, 1.92, 0.0]  # 1.92 is not better by more than 0.04
    sign = 1 if mode == "min" else -1
    seen = []
    model, history = run(
        epochs=10,
        metrics=Scripted(*(sign * v for v in script)),
        early_stopping=ann.EarlyStopping("scripted", 3, mode, 0.04, restore),
        callbacks=[lambda history, model, epoch: seen.append(model.state_dict())],
    )
    assert history.epochs == 8
    assert history.stopped == "early stopping"
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, seen[4 if restore else -1][name])


def test_best_weights_come_back_at_the_end_of_the_run_too():
    seen = []
    model, history = run(
        metrics=Scripted(1.0, 2.0, 3.0),
        early_stopping=ann.EarlyStopping("scripted"),
        callbacks=[lambda history, model, epoch: seen.append(model.state_dict())],
    )
    assert history.stopped is None
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, seen[0][name])


def test_callback_stops():
    epochs = []

    def stop(history, model, epoch):
        epochs.append((epoch, history.epochs, len(list(model.parameters()))))
        return np.bool_(epoch == 1)

    _, history = run(epochs=5, callbacks=[stop])
    assert epochs == [(0, 1, 4), (1, 2, 4)]
    assert history.stopped == "callback"
    assert history.epochs == 2


def test_ctrl_c_ends_after_the_batch():
    steps = []
    old = signal.getsignal(signal.SIGINT)
    assert old is signal.default_int_handler

    class Interrupted(Sequential):
        def backward(self, dy):
            dx = super().backward(dy)
            steps.append(1)
            if len(steps) == 10:  # 7 batches per epoch
                os.kill(os.getpid(), signal.SIGINT)
            return dx

    model = Interrupted(*make_model()).eval()
    _, history = run(model=model, epochs=5)
    assert len(steps) == 10
    assert history.epochs == 1
    assert history.stopped == "interrupt"
    assert "stopped by interrupt" in repr(history)
    assert not model.training
    assert signal.getsignal(signal.SIGINT) is old


def test_second_ctrl_c_raises():
    class Interrupted(Sequential):
        def backward(self, dy):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            return super().backward(dy)

    with pytest.raises(KeyboardInterrupt):
        run(model=Interrupted(*make_model()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_mode_is_restored():
    model = make_model()
    run(model=model.eval())
    assert not model.training
    assert not model[0].training
    ann.predict(model.train(), two_moons()[0])
    assert model.training
    assert model[0].training


def test_a_frozen_layer_stays_in_its_mode():
    model = make_model().train()
    model[1].eval()
    ann.predict(model, two_moons()[0])
    assert [layer.training for layer in (model, *model)] == [True, True, False, True, True]


def test_progress_bar_shows_loss_and_metrics(capsys):
    run(progress=True, metrics="accuracy", validation_split=0.2)
    text = capsys.readouterr().err
    assert "Epoch 3/3" in text
    assert "loss=" in text
    assert "val_accuracy=" in text


def test_history_repr():
    history = run(epochs=2)[1]
    assert repr(history).startswith("History of 2 epochs\n")
    assert "loss" in repr(history)
    assert repr(ann.History()) == "History of 0 epochs"


X, Y = two_moons(10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": (X, Y[:9])}, ValueError, "fit: data: x has 10 samples, but y has 9"),
        ({"data": (X[:0], Y[:0])}, ValueError, "fit: data is empty"),
        (
            {"data": X},
            TypeError,
            r"fit: data must be a pair \(x, y\) of arrays or an iterable .*, got ndarray",
        ),
        ({"data": (X, list(Y))}, TypeError, "fit: data: y must be an array, got list"),
        ({"data": (X, np.float32(1))}, TypeError, "fit: data: y must be an array, got float32"),
        ({"data": (X, np.array(1))}, ValueError, "fit: data: y must have an axis of samples"),
        ({"epochs": 0}, ValueError, "fit: epochs must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "fit: batch_size must be at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "fit: batch_size must be an integer, got 1.5"),
        ({"validation_split": 1.0}, ValueError, "fit: validation_split must be from 0 to below 1, got 1.0"),
        ({"validation_split": -0.5}, ValueError, "fit: validation_split must be from 0 to below 1"),
        ({"validation_split": 0.001}, ValueError, "leaves nothing to measure"),
        ({"validation_split": 0.999}, ValueError, "leaves nothing to train on"),
        ({"validation_split": 0.5, "validation_data": (X, Y)}, ValueError, "not both"),
        ({"validation_data": (X, Y[:9])}, ValueError, "fit: validation_data: x has 10 samples, but y has 9"),
        ({"metrics": "auc"}, ValueError, "fit: metrics must be callables or of 'accuracy', .*, got 'auc'"),
        ({"metrics": ["accuracy", "accuracy"]}, ValueError, "the name 'accuracy' twice"),
        ({"clip_norm": -1.0}, ValueError, "fit: clip_norm must be at least 0, got -1"),
        ({"clip_value": float("nan")}, ValueError, "fit: clip_value must be at least 0, got nan"),
        (
            {"checkpoint": "no/such/folder/file"},
            ValueError,
            "checkpoint must be a file in a folder that exists",
        ),
        ({"metrics": {"acc": "accuracy"}}, ValueError, r"fit: metrics\['acc'\] must be a callable"),
        ({"metrics": {"loss": np.equal}}, ValueError, "fit: metrics has the name 'loss'"),
        ({"accumulate": 0}, ValueError, "fit: accumulate must be at least 1, got 0"),
        ({"batch_size": None}, TypeError, "fit: batch_size must be an integer for data in arrays, got None"),
        ({"data": ()}, TypeError, r"fit: data must be a pair \(x, y\) of arrays, got a tuple of 0"),
        ({"data": ((), Y)}, ValueError, "fit: data is empty"),
        ({"data": ((X, X[:9]), Y)}, ValueError, r"fit: data: x\[1\] has 9 samples, but y has 10"),
        ({"data": [(X, Y)]}, ValueError, "fit: data comes in batches, expected batch_size=None, got 32"),
        ({"data": [(X, Y)], "batch_size": None, "validation_split": 0.5}, ValueError, "needs data in arrays"),
        ({"data": [], "batch_size": None}, ValueError, "fit: data is empty"),
        ({"data": [(X, Y[:9])], "batch_size": None}, ValueError, "fit: data: batch: x has 10 samples, but y"),
        ({"early_stopping": ann.EarlyStopping()}, ValueError, "early_stopping watches 'val_loss', but"),
        ({"resume": True}, ValueError, "fit: resume needs the path of a checkpoint"),
        ({"loss": lambda a, b: 0}, TypeError, "vjp: op must be a differentiable arraynn op"),
        (
            {"loss": functools.partial(ann.cross_entropy, reduction="none")},
            ValueError,
            "fit: loss must return a number",
        ),
    ],
)
def test_bad_arguments(options, error, message):
    model = make_model()
    before = model.state_dict()
    with pytest.raises(error, match=message):
        run(model=model, **({"data": (X, Y)} | options))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_optimizer_of_another_model():
    with pytest.raises(ValueError, match="fit: optimizer has none of the model's parameters"):
        ann.fit(
            make_model(),
            ann.cross_entropy,
            ann.optim.SGD(make_model().parameters()),
            (X, Y),
            epochs=1,
            batch_size=2,
        )


def test_schedule_of_another_optimizer():
    model = make_model()
    optimizer, other = (ann.optim.SGD(model.parameters()) for _ in range(2))
    for schedule, message in (
        (ann.optim.StepLR(other, 1), "fit: schedule must be of the same optimizer"),
        (ann.optim.ReduceLROnPlateau(optimizer), "fit: schedule watches 'val_loss', but"),
    ):
        with pytest.raises(ValueError, match=message):
            ann.fit(
                model,
                ann.cross_entropy,
                optimizer,
                (X, Y),
                epochs=1,
                batch_size=2,
                schedule=schedule,
                **QUIET,
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "least"}, "EarlyStopping: mode must be 'min' or 'max', got 'least'"),
        ({"patience": 0}, "EarlyStopping: patience must be at least 1, got 0"),
        ({"min_delta": -1.0}, "EarlyStopping: min_delta must be at least 0, got -1"),
    ],
)
def test_bad_early_stopping(options, message):
    with pytest.raises(ValueError, match=message):
        ann.EarlyStopping(**options)


def test_predict_and_evaluate_refuse():
    with pytest.raises(ValueError, match="predict: x is empty"):
        ann.predict(make_model(), X[:0])
    with pytest.raises(ValueError, match="predict: the arrays of x have 9, 10 samples"):
        ann.predict(make_model(), (X, X[:9]))
    with pytest.raises(ValueError, match="evaluate: metrics must be callables"):
        ann.evaluate(make_model(), ann.cross_entropy, (X, Y), metrics="auc")
    with pytest.raises(ValueError, match="predict: batch_size must be at least 1"):
        ann.predict(make_model(), X, batch_size=0)
    with pytest.raises(ValueError, match="evaluate: data: x has 10 samples, but y has 9"):
        ann.evaluate(make_model(), ann.cross_entropy, (X, Y[:9]))
