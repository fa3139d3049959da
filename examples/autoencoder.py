"""A convolutional autoencoder keeps an image in 16 numbers; principal components with as many do worse.

Convolutions with stride shrink the image to a few numbers, transposed convolutions draw it again from them.
PCA is the best that a linear map can do.
"""

from __future__ import annotations

import argparse

import arraynn as ann
import common
import numpy as np
from arraynn.layers import Conv2d, ConvTranspose2d, Flatten, Layer, Linear, ReLU, Sequential

CODE, EPOCHS, BATCH, RATE = 16, 10, 128, 2e-3


class Reshape(Layer):
    """(N, C * H * W) to (N, C, H, W)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), *self.shape)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy.reshape(len(dy), -1)


def network(size: int, rng: np.random.Generator) -> Sequential:
    """For images of `size` x `size`, which is halved twice."""
    small = size // 4
    return Sequential(
        Conv2d(1, 16, 3, stride=2, padding=1, rng=rng),
        ReLU(),
        Conv2d(16, 32, 3, stride=2, padding=1, rng=rng),
        ReLU(),
        Flatten(),
        Linear(32 * small * small, CODE, rng=rng),
        Linear(CODE, 32 * small * small, rng=rng),
        ReLU(),
        Reshape(32, small, small),
        ConvTranspose2d(32, 16, 4, stride=2, padding=1, rng=rng),
        ReLU(),
        ConvTranspose2d(16, 1, 4, stride=2, padding=1, rng=rng),
    )


def images(options: argparse.Namespace) -> tuple[str, np.ndarray, np.ndarray]:
    digits = common.digits(options)
    x, x_test = (part[0][:, None] for part in (digits.train, digits.test))
    low = x.min()
    high = x.max()
    return digits.name, (x - low) / (high - low), (x_test - low) / (high - low)


def train(x: np.ndarray, x_test: np.ndarray, epochs: int, seed: int):
    rng = np.random.default_rng(seed)
    model = network(x.shape[2], rng)
    print(common.parameters(model))
    optimizer = ann.optim.Adam(model.parameters(), RATE)
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.mse_loss,
        optimizer,
        (x, x),
        epochs=epochs,
        batch_size=BATCH,
        validation_data=(x_test, x_test),
        schedule=ann.optim.CosineAnnealingLR(optimizer, epochs),
        callbacks=[clock],
        rng=rng,
    )
    return history, ann.predict(model, x_test), clock.seconds


def principal_components(x: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    pca = PCA(CODE, random_state=0).fit(x.reshape(len(x), -1))
    return pca.inverse_transform(pca.transform(x_test.reshape(len(x_test), -1))).reshape(x_test.shape)


def train_torch(x: np.ndarray, x_test: np.ndarray, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    small = x.shape[2] // 4
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * small * small, CODE),
        nn.Linear(CODE, 32 * small * small),
        nn.ReLU(),
        nn.Unflatten(1, (32, small, small)),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
    )
    optimizer = torch.optim.Adam(model.parameters(), RATE)

    def score() -> float:
        found = [model(torch.from_numpy(x_test[i : i + 256])) for i in range(0, len(x_test), 256)]
        return float(((torch.cat(found).numpy() - x_test) ** 2).mean())

    outcome = common.torch_fit(
        model,
        nn.functional.mse_loss,
        optimizer,
        (x, x),
        epochs=epochs,
        batch_size=BATCH,
        score=score,
        after_epoch=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs).step,
        seed=seed,
    )
    linear = float(((principal_components(x, x_test) - x_test) ** 2).mean())
    return outcome._replace(score=outcome.score / linear)


def draw(path: object, name: str, history: ann.History, rows: dict[str, np.ndarray], linear: float) -> None:
    figure = common.figure(f"{CODE} numbers per image: {name}", width=13)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.7))
    axis = left.subplots()
    common.draw_history(axis, history, ["loss", "val_loss"], "Mean squared error (val_: test images)")
    axis.axhline(linear, color="black", linestyle="--", label="PCA, test images")
    axis.set_yscale("log")
    common.tidy(axis)
    axes = right.subplots(len(rows), 10)
    for line, (label, found) in zip(axes, rows.items(), strict=True):
        common.draw_images(line, found[:10, 0].clip(0, 1), [label] + [""] * 9)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = common.arguments(__doc__)
    name, x, x_test = images(options)
    epochs = 1 if options.quick else EPOCHS
    if options.engine == "torch":
        return common.hand_over(train_torch(x, x_test, epochs, options.seed))
    history, found, seconds = train(x, x_test, epochs, options.seed)
    components = principal_components(x, x_test)
    error, linear = (float(((images - x_test) ** 2).mean()) for images in (found, components))
    print(f"mean squared error: {error:.5f}, principal components: {linear:.5f}")
    draw(options.out, name, history, {"image": x_test, "network": found, "PCA": components}, linear)
    common.report(
        options,
        common.Outcome(error / linear, seconds),
        what=f"convolutions and transposed convolutions, {CODE} numbers between",
        data=name,
        measure="squared error over that of PCA",
        target=1.0,
        form=".3f",
        least=True,
    )


if __name__ == "__main__":
    main()
