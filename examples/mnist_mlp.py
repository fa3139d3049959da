"""A fully connected network on handwritten digits: 784-128-10, ReLU, dropout, Adam.

The first network of every textbook. A tenth of the training images is held out for validation; the test
images are looked at once, at the end.
"""

from __future__ import annotations

import arraynn as ann
import common
import numpy as np
from arraynn.layers import Dropout, Linear, ReLU, Sequential

TARGET = 0.975
EPOCHS, BATCH, RATE = 10, 32, 1e-3


def train(digits: common.Digits, epochs: int, seed: int) -> tuple[ann.History, np.ndarray, common.Outcome]:
    rng = np.random.default_rng(seed)
    (x, y), (x_test, y_test) = (_flat(part) for part in (digits.train, digits.test))
    model = Sequential(
        Linear(x.shape[1], 128, rng=rng),
        ReLU(),
        Dropout(0.2, rng=rng),
        Linear(128, 10, rng=rng),
    )
    print(common.parameters(model))
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        ann.optim.Adam(model.parameters(), RATE),
        (x, y),
        epochs=epochs,
        batch_size=BATCH,
        validation_split=0.1,
        metrics="accuracy",
        callbacks=[clock],
        rng=rng,
    )
    scores = ann.predict(model, x_test)
    return history, scores, common.Outcome(float((scores.argmax(1) == y_test).mean()), clock.seconds)


def train_torch(digits: common.Digits, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    (x, y), (x_test, y_test) = (_flat(part) for part in (digits.train, digits.test))
    model = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    count = len(x) - round(0.1 * len(x))
    outcome = common.torch_fit(
        model,
        nn.functional.cross_entropy,
        torch.optim.Adam(model.parameters(), RATE),
        (x[:count], y[:count]),
        epochs=epochs,
        batch_size=BATCH,
        score=lambda: common.torch_accuracy(model, x[count:], y[count:]),
        seed=seed,
    )
    return outcome._replace(score=common.torch_accuracy(model, x_test, y_test))


def _flat(part: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = part
    return images.reshape(len(images), -1), labels


def draw(path: object, digits: common.Digits, history: ann.History, scores: np.ndarray) -> None:
    figure = common.figure(f"Fully connected network on {digits.name}")
    left, right = figure.subfigures(1, 2)
    common.draw_history(left.subplots(), history, ["accuracy", "val_accuracy"], "Accuracy")
    images, labels = digits.test
    found = scores.argmax(1)
    wrong = np.flatnonzero(found != labels)[:24]
    right.suptitle(f"{(found != labels).sum()} of {len(labels):,} test digits wrong: label, prediction")
    titles = [f"{labels[i]}, {found[i]}" for i in wrong]
    common.draw_images(right.subplots(4, 6).flat, images[wrong], titles)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = common.arguments(__doc__)
    digits = common.digits(options)
    epochs = 2 if options.quick else EPOCHS
    if options.engine == "torch":
        return common.hand_over(train_torch(digits, epochs, options.seed))
    history, scores, outcome = train(digits, epochs, options.seed)
    draw(options.out, digits, history, scores)
    common.report(
        options,
        outcome,
        what="784-128-10, ReLU, dropout 0.2, Adam",
        data=digits.name,
        measure="test accuracy",
        target=TARGET,
    )


if __name__ == "__main__":
    main()
