"""A three-dimensional convolutional network watches digits move, and says which digit goes where.

Each film of eight frames shows a digit of MNIST on its way in one of eight directions. Kernels that reach
over time as well as over the image see motion, which no single frame shows.
"""

from __future__ import annotations

from collections.abc import Iterator

import arraynn as ann
import common
import numpy as np
from arraynn.layers import BatchNorm3d, Conv3d, Flatten, Layer, Linear, ReLU, Sequential

TARGET = 0.95
FRAMES, FILMS, EPOCHS, BATCH, RATE = 8, 8000, 8, 64, 2e-3
DIRECTIONS = {
    "right": (0, 1), "down right": (1, 1), "down": (1, 0), "down left": (1, -1),
    "left": (0, -1), "up left": (-1, -1), "up": (-1, 0), "up right": (-1, 1),
}  # fmt: skip


def films(images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator):
    """Return films (count, 1, FRAMES, size, size), and 8 * digit + direction of each."""
    if images.shape[1] == 28:  # the rim of MNIST's images is empty
        images = images[:, 4:24, 4:24]
    digit = images.shape[1]
    size = digit * 8 // 5
    room = size - digit
    chosen, direction = rng.integers(0, len(images), count), rng.integers(0, 8, count)
    steps = np.array(list(DIRECTIONS.values()))[direction]
    speed = rng.uniform(0.5, 1, count) * room / (FRAMES - 1)
    way = steps[:, None] * speed[:, None, None] * np.arange(FRAMES)[:, None]
    low, high = -way.min(1), room - way.max(1)
    places = np.rint(way + (low + rng.random((count, 2)) * (high - low))[:, None]).astype(int)
    shown = images[chosen]
    made = np.full((count, 1, FRAMES, size, size), shown.min(), np.float32)
    # every place in every frame at which a digit may lie, without a copy
    spots = np.lib.stride_tricks.sliding_window_view(made[:, 0], (digit, digit), (2, 3), writeable=True)
    film, frame = np.ogrid[:count, :FRAMES]
    spots[film, frame, places[..., 0], places[..., 1]] = shown[:, None]
    return made, 8 * labels[chosen] + direction


def batches(x: np.ndarray, y: np.ndarray, count: int, seed: int, epoch: int) -> Iterator:
    """Yield new films in each epoch."""
    rng = np.random.default_rng((seed, epoch))
    for _ in range(count // BATCH):
        yield films(x, y, BATCH, rng)


class Both(Layer):
    """Scores of 10 digits and of 8 directions to those of the 80 pairs: their sums.

    The cross-entropy of the pair is then the sum of both cross-entropies.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        return (x[:, :10, None] + x[:, None, 10:]).reshape(len(x), 80)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        pairs = dy.reshape(len(dy), 10, 8)
        return np.concatenate([pairs.sum(2), pairs.sum(1)], axis=1)


def network(size: int, rng: np.random.Generator) -> Sequential:
    layers: list[Layer] = []
    shape = (FRAMES, size, size)
    for channels, out, stride in ((1, 16, (1, 2, 2)), (16, 32, (2, 2, 2)), (32, 64, (2, 2, 2))):
        layers += [
            Conv3d(channels, out, 3, stride=stride, padding=1, bias=False, rng=rng),
            BatchNorm3d(out),
            ReLU(),
        ]
        shape = tuple(-(-n // s) for n, s in zip(shape, stride, strict=True))
    return Sequential(*layers, Flatten(), Linear(64 * int(np.prod(shape)), 18, rng=rng), Both())


def train(digits: common.Digits, count: int, epochs: int, seed: int):
    test = films(*digits.test, min(count, 2000), np.random.default_rng(seed + 1))
    model = network(test[0].shape[-1], np.random.default_rng(seed))
    print(common.parameters(model))
    optimizer = ann.optim.Adam(model.parameters(), RATE)
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        lambda epoch: batches(*digits.train, count, seed, epoch),
        epochs=epochs,
        batch_size=None,
        validation_data=test,
        metrics="accuracy",
        schedule=ann.optim.CosineAnnealingLR(optimizer, epochs),
        callbacks=[clock],
    )
    found = ann.predict(model, test[0]).argmax(1)
    return history, test, found, common.Outcome(float((found == test[1]).mean()), clock.seconds)


def train_torch(digits: common.Digits, count: int, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    class Both(nn.Module):
        def forward(self, x):
            return (x[:, :10, None] + x[:, None, 10:]).flatten(1)

    torch.manual_seed(seed)
    test = films(*digits.test, min(count, 2000), np.random.default_rng(seed + 1))
    layers: list[nn.Module] = []
    for channels, out, stride in ((1, 16, (1, 2, 2)), (16, 32, (2, 2, 2)), (32, 64, (2, 2, 2))):
        conv = nn.Conv3d(channels, out, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm3d(out), nn.ReLU()]
    features = nn.Sequential(*layers, nn.Flatten())
    width = features(torch.from_numpy(test[0][:2])).shape[1]
    model = nn.Sequential(features, nn.Linear(width, 18), Both())
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    return common.torch_fit(
        model,
        nn.functional.cross_entropy,
        optimizer,
        lambda epoch: batches(*digits.train, count, seed, epoch),
        epochs=epochs,
        score=lambda: common.torch_accuracy(model, *test),
        after_epoch=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs).step,
    )


def draw(path: object, digits: common.Digits, history: ann.History, test, found: np.ndarray) -> None:
    figure = common.figure(f"Moving digits, made of {digits.name}", width=14)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    common.draw_history(
        left.subplots(), history, ["accuracy", "val_accuracy"], "Digit and direction both right"
    )
    names = list(DIRECTIONS)
    axes = right.subplots(5, FRAMES)
    for row, i in zip(axes, range(5), strict=True):
        said = f"{found[i] // 8} {names[found[i] % 8]}"
        common.draw_images(row, test[0][i, 0], [said] + [""] * 7, [found[i] != test[1][i]] * FRAMES)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = common.arguments(__doc__)
    digits = common.digits(options)
    count, epochs = (2 * BATCH, 1) if options.quick else (FILMS, EPOCHS)
    if options.engine == "torch":
        return common.hand_over(train_torch(digits, count, epochs, options.seed))
    history, test, found, outcome = train(digits, count, epochs, options.seed)
    for what, part in (("digit", found // 8 == test[1] // 8), ("direction", found % 8 == test[1] % 8)):
        print(f"{what} right: {part.mean():.2%}")
    draw(options.out, digits, history, test, found)
    common.report(
        options,
        outcome,
        what=f"3 convolutions in 3-D, films of {FRAMES} frames",
        data=f"moving digits of {digits.name}",
        measure="digit and direction both right",
        target=TARGET,
    )


if __name__ == "__main__":
    main()
