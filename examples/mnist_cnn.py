"""A convolutional network on handwritten digits: batch normalization, dropout, augmented images.

Every epoch shows every image anew: turned by up to 10 degrees, scaled by up to a tenth and moved by up to two
pixels. Those images come from a function of the epoch, which a thread of its own runs ahead of the training.
"""

from __future__ import annotations

from collections.abc import Iterator

import arraynn as ann
import common
import numpy as np
from arraynn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential

TARGET = 0.993
EPOCHS, BATCH, RATE = 8, 64, 2e-3


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the images (N, 1, H, W), each turned, scaled and moved at random, by bilinear interpolation."""
    count, _, height, width = images.shape
    angle, scale = np.deg2rad(rng.uniform(-10, 10, count)), rng.uniform(0.9, 1.1, count)
    shift = rng.uniform(-1, 1, (2, count, 1, 1)) * np.array([height, width]).reshape(2, 1, 1, 1) / 14
    turn = np.stack([np.cos(angle), np.sin(angle)])[..., None, None] / scale[:, None, None]
    y, x = (np.mgrid[:height, :width] - np.array([[[height]], [[width]]]) / 2)[:, None]
    rows = turn[0] * y - turn[1] * x + height / 2 + shift[0]
    columns = turn[1] * y + turn[0] * x + width / 2 + shift[1]
    rows, columns = rows.clip(0, height - 1.001), columns.clip(0, width - 1.001)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    down, right = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    pixels = images.reshape(-1)
    corner = np.arange(count)[:, None, None] * (height * width) + top * width + left
    above = pixels[corner] * (1 - right) + pixels[corner + 1] * right
    below = pixels[corner + width] * (1 - right) + pixels[corner + width + 1] * right
    return (above * (1 - down) + below * down)[:, None]


def batches(x: np.ndarray, y: np.ndarray, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the augmented batches of an epoch: always the same for a seed and an epoch."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(x))
    for i in range(0, len(x), BATCH):
        chosen = order[i : i + BATCH]
        yield augmented(x[chosen], rng), y[chosen]


def train(digits: common.Digits, epochs: int, seed: int) -> tuple[ann.History, np.ndarray, common.Outcome]:
    rng = np.random.default_rng(seed)
    (x, y), (x_test, y_test) = ((images[:, None], labels) for images, labels in (digits.train, digits.test))
    height, width = x.shape[2:]
    model = Sequential(
        Conv2d(1, 32, 3, padding=1, bias=False, rng=rng),
        BatchNorm2d(32),
        ReLU(),
        Conv2d(32, 32, 3, padding=1, bias=False, rng=rng),
        BatchNorm2d(32),
        ReLU(),
        MaxPool2d(2),
        Conv2d(32, 64, 3, padding=1, bias=False, rng=rng),
        BatchNorm2d(64),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dropout(0.3, rng=rng),
        Linear(64 * (height // 4) * (width // 4), 10, rng=rng),
    )
    print(common.parameters(model))
    optimizer = ann.optim.Adam(model.parameters(), RATE)
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        lambda epoch: batches(x, y, seed, epoch),
        epochs=epochs,
        batch_size=None,
        validation_data=(x_test, y_test),
        metrics="accuracy",
        schedule=ann.optim.CosineAnnealingLR(optimizer, epochs),
        callbacks=[clock],
    )
    scores = ann.predict(model, x_test)
    return history, scores, common.Outcome(float((scores.argmax(1) == y_test).mean()), clock.seconds)


def train_torch(digits: common.Digits, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    (x, y), (x_test, y_test) = ((images[:, None], labels) for images, labels in (digits.train, digits.test))
    height, width = x.shape[2:]

    def block(channels: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]

    model = nn.Sequential(
        *block(1, 32),
        *block(32, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * (height // 4) * (width // 4), 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    return common.torch_fit(
        model,
        nn.functional.cross_entropy,
        optimizer,
        lambda epoch: batches(x, y, seed, epoch),
        epochs=epochs,
        score=lambda: common.torch_accuracy(model, x_test, y_test),
        after_epoch=schedule.step,
    )


def draw(path: object, digits: common.Digits, history: ann.History, scores: np.ndarray) -> None:
    figure = common.figure(f"Convolutional network on {digits.name}", width=14)
    left, middle, right = figure.subfigures(1, 3)
    common.draw_history(
        left.subplots(), history, ["accuracy", "val_accuracy"], "Accuracy (val_: test images)"
    )
    middle.suptitle("One image as eight epochs show it, and two more")
    shown = np.repeat(digits.train[0][:3, None], 8, axis=0)
    shown = augmented(shown, np.random.default_rng(0))[:, 0]
    common.draw_images(middle.subplots(4, 6).flat, shown, [""] * len(shown))
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
        what="3 convolutions with batch norm, augmented images",
        data=digits.name,
        measure="test accuracy",
        target=TARGET,
    )


if __name__ == "__main__":
    main()
