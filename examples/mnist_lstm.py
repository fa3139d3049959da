"""Two layers of LSTM that read an image of a digit row by row.

28 steps of 28 pixels; the state after the last row is classified. The learning rate falls along a cosine, and
gradients are clipped, as recurrent networks need.
"""

from __future__ import annotations

import arraynn as ann
import common
import numpy as np
from arraynn.layers import LSTM, LastStep, Linear, Sequential

TARGET = 0.983
HIDDEN, EPOCHS, BATCH, RATE, CLIP = 64, 10, 128, 4e-3, 1.0


def train(digits: common.Digits, epochs: int, seed: int) -> tuple[ann.History, np.ndarray, common.Outcome]:
    rng = np.random.default_rng(seed)
    (x, _), (x_test, y_test) = digits.train, digits.test
    model = Sequential(
        LSTM(x.shape[2], HIDDEN, num_layers=2, batch_first=True, rng=rng),
        LastStep(),
        Linear(HIDDEN, 10, rng=rng),
    )
    print(common.parameters(model))
    optimizer = ann.optim.Adam(model.parameters(), RATE)
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        digits.train,
        epochs=epochs,
        batch_size=BATCH,
        validation_data=digits.test,
        metrics="accuracy",
        schedule=ann.optim.CosineAnnealingLR(optimizer, epochs),
        clip_norm=CLIP,
        callbacks=[clock],
        rng=rng,
    )
    scores = ann.predict(model, x_test)
    return history, scores, common.Outcome(float((scores.argmax(1) == y_test).mean()), clock.seconds)


def train_torch(digits: common.Digits, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.lstm = nn.LSTM(width, HIDDEN, num_layers=2, batch_first=True)
            self.head = nn.Linear(HIDDEN, 10)

        def forward(self, x):
            _, (hidden, _) = self.lstm(x)
            return self.head(hidden[-1])

    torch.manual_seed(seed)
    model = Network(digits.train[0].shape[2])
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    return common.torch_fit(
        model,
        nn.functional.cross_entropy,
        optimizer,
        digits.train,
        epochs=epochs,
        batch_size=BATCH,
        score=lambda: common.torch_accuracy(model, *digits.test),
        clip_norm=CLIP,
        after_epoch=schedule.step,
        seed=seed,
    )


def draw(path: object, digits: common.Digits, history: ann.History, scores: np.ndarray) -> None:
    figure = common.figure(f"Two-layer LSTM over the rows of {digits.name}")
    left, right = figure.subfigures(1, 2)
    common.draw_history(
        left.subplots(), history, ["accuracy", "val_accuracy"], "Accuracy (val_: test images)"
    )
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
        what="two LSTM(64) over rows, batch 128",
        data=digits.name,
        measure="test accuracy",
        target=TARGET,
    )


if __name__ == "__main__":
    main()
