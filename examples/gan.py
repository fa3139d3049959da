"""Two networks against each other: one draws digits, one tells drawn from real (DCGAN, Radford et al. 2016).

Both know which digit is meant (Mirza and Osindero 2014): the first is asked for it, and the second has a
verdict for each (as in Miyato and Koyama 2018). The gradient of the verdict goes through the second network
back to the image, and from there into the first. A classifier that has learned the real digits judges the
drawings: are they confidently some digit, and do all ten occur?
"""

from __future__ import annotations

import argparse

import arraynn as ann
import common
import numpy as np
from arraynn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Tanh,
)
from autoencoder import Reshape

TARGET, CONFIDENT = 0.90, 0.9
NOISE, DIGITS, WIDTH, EPOCHS, BATCH, RATE, BETAS = 64, 10, 64, 3, 64, 2e-4, (0.5, 0.999)
SAMPLES = 1000


def generator(size: int, rng: np.random.Generator) -> Sequential:
    """(N, NOISE + DIGITS) to images (N, 1, size, size) between -1 and 1."""
    small = size // 4
    return Sequential(
        Linear(NOISE + DIGITS, 2 * WIDTH * small * small, bias=False, rng=rng),
        BatchNorm1d(2 * WIDTH * small * small),
        ReLU(),
        Reshape(2 * WIDTH, small, small),
        ConvTranspose2d(2 * WIDTH, WIDTH, 4, stride=2, padding=1, bias=False, rng=rng),
        BatchNorm2d(WIDTH),
        ReLU(),
        ConvTranspose2d(WIDTH, 1, 4, stride=2, padding=1, rng=rng),
        Tanh(),
    )


def discriminator(size: int, rng: np.random.Generator) -> Sequential:
    """Images (N, 1, size, size) to (N, DIGITS): above zero is real, as that digit."""
    small = size // 4
    return Sequential(
        Conv2d(1, WIDTH, 4, stride=2, padding=1, rng=rng),
        LeakyReLU(0.2),
        Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1, bias=False, rng=rng),
        BatchNorm2d(2 * WIDTH),
        LeakyReLU(0.2),
        Flatten(),
        Linear(2 * WIDTH * small * small, DIGITS, rng=rng),
    )


def initialize(model: Layer, rng: np.random.Generator) -> None:
    """Draw the weights as the paper does."""
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.data.ndim > 1:
            ann.init.normal_(parameter, 0.0, 0.02, rng=rng)


def asked(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what the generator is given: noise, and the digit to draw."""
    noise = rng.standard_normal((len(labels), NOISE), np.float32)
    return np.concatenate([noise, np.eye(DIGITS, dtype=np.float32)[labels]], axis=1)


def judged(
    model: Layer, images: np.ndarray, labels: np.ndarray, real: float, input_grad: bool = False
) -> tuple[float, np.ndarray]:
    """Return the loss if `images` were `real`, and the gradient in them; those in the weights add up."""
    verdicts = model(images, input_grad=input_grad)
    each = np.arange(len(labels)), labels
    loss, pull = ann.vjp(
        ann.binary_cross_entropy_with_logits, verdicts[each], np.full(len(labels), real, np.float32)
    )
    d_verdicts = np.zeros_like(verdicts)
    d_verdicts[each] = pull(np.ones_like(loss))[0]
    return float(loss), model.backward(d_verdicts)


def train(
    x: np.ndarray, y: np.ndarray, epochs: int, seed: int
) -> tuple[Sequential, list[tuple[float, float]], float]:
    from tqdm import tqdm

    rng = np.random.default_rng(seed)
    draws, tells = generator(x.shape[2], rng), discriminator(x.shape[2], rng)
    optimizers = []
    for model in (draws, tells):
        initialize(model, rng)
        optimizers.append(ann.optim.Adam(model.parameters(), RATE, BETAS))
    print(f"generator {common.parameters(draws)}, discriminator {common.parameters(tells)}")
    losses: list[tuple[float, float]] = []
    clock = common.Clock()
    for epoch in range(epochs):
        order = rng.permutation(len(x))[: len(x) // BATCH * BATCH].reshape(-1, BATCH)
        with tqdm(order, f"Epoch {epoch + 1}/{epochs}") as bar:
            for chosen in bar:
                labels = y[chosen]
                images = draws(asked(labels, rng), input_grad=False)
                tells.zero_grad()
                right = judged(tells, x[chosen], labels, 0.9)[0] + judged(tells, images, labels, 0.0)[0]
                optimizers[1].step()
                # the same images again, before the discriminator that has learned from them
                draws.zero_grad()
                tells.requires_grad_(False)
                loss, d_images = judged(tells, images, labels, 1.0, input_grad=True)
                tells.requires_grad_(True)
                draws.backward(d_images)
                optimizers[0].step()
                losses.append((right, loss))
                bar.set_postfix_str(f"discriminator={right:.3f}, generator={loss:.3f}")
        clock()
    return draws, losses, clock.seconds


def classifier(digits: common.Digits, quick: bool, seed: int) -> Sequential:
    """Return a network that has learned the real digits."""
    rng = np.random.default_rng(seed)
    (x, y), (x_test, y_test) = ((_scaled(images), labels) for images, labels in (digits.train, digits.test))
    small = x.shape[2] // 4
    model = Sequential(
        Conv2d(1, 16, 5, padding=2, rng=rng),
        ReLU(),
        MaxPool2d(2),
        Conv2d(16, 32, 5, padding=2, rng=rng),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dropout(0.25, rng=rng),
        Linear(32 * small * small, 10, rng=rng),
    )
    optimizer = ann.optim.Adam(model.parameters(), 2e-3)
    epochs = 1 if quick else 3
    schedule = ann.optim.CosineAnnealingLR(optimizer, epochs)
    ann.fit(
        model, ann.cross_entropy, optimizer, (x, y), epochs=epochs, batch_size=64, schedule=schedule, rng=rng
    )
    print(
        f"the judge is right on {(ann.predict(model, x_test).argmax(1) == y_test).mean():.2%} of real digits"
    )
    return model


def train_torch(
    x: np.ndarray, y: np.ndarray, judge: Sequential, epochs: int, seed: int, samples: int
) -> common.Outcome:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(ann.get_num_threads())
    small = x.shape[2] // 4
    wide = 2 * WIDTH * small * small
    draws = nn.Sequential(
        nn.Linear(NOISE + DIGITS, wide, bias=False),
        nn.BatchNorm1d(wide),
        nn.ReLU(),
        nn.Unflatten(1, (2 * WIDTH, small, small)),
        nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(WIDTH, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )
    tells = nn.Sequential(
        nn.Conv2d(1, WIDTH, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * WIDTH),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(wide, DIGITS),
    )
    for model in (draws, tells):
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                nn.init.normal_(parameter, 0.0, 0.02)
    by, to = (torch.optim.Adam(model.parameters(), RATE, BETAS) for model in (draws, tells))
    real, digits, rng = torch.from_numpy(x), torch.from_numpy(y), np.random.default_rng(seed)

    def loss(images: torch.Tensor, labels: torch.Tensor, truth: float) -> torch.Tensor:
        verdicts = tells(images).gather(1, labels[:, None])[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(verdicts, torch.full_like(verdicts, truth))

    def drawn(labels: torch.Tensor) -> torch.Tensor:
        one_hot = nn.functional.one_hot(labels, DIGITS).float()
        return draws(torch.cat([torch.randn(len(labels), NOISE), one_hot], 1))

    clock = common.Clock()
    for _ in range(epochs):
        for chosen in torch.from_numpy(rng.permutation(len(x))[: len(x) // BATCH * BATCH].reshape(-1, BATCH)):
            labels = digits[chosen]
            images = drawn(labels)
            to.zero_grad()
            loss(real[chosen], labels, 0.9).backward()
            loss(images.detach(), labels, 0.0).backward()
            to.step()
            by.zero_grad()
            tells.requires_grad_(False)
            loss(images, labels, 1.0).backward()
            tells.requires_grad_(True)
            by.step()
        clock()
    seconds = clock.seconds
    draws.eval()
    with torch.inference_mode():
        images = drawn(torch.arange(samples) % DIGITS).numpy()
    return common.Outcome(score(judge, images), seconds)


def verdict(judge: Sequential, images: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the share of confident digits, and how many of each class there are."""
    p = ann.softmax(ann.predict(judge, images))
    return float((p.max(1) >= CONFIDENT).mean()), np.bincount(p.argmax(1), minlength=10)


def score(judge: Sequential, images: np.ndarray) -> float:
    """Return the share of confident digits, or 0 if a class is missing."""
    share, counts = verdict(judge, images)
    return share if counts.all() else 0.0


def _scaled(images: np.ndarray) -> np.ndarray:
    low, high = images.min(), images.max()
    return (2 * (images - low) / (high - low) - 1)[:, None]


def draw(path: object, name: str, losses: list, images: np.ndarray, counts: np.ndarray) -> None:
    figure = common.figure(f"Digits that no one wrote: DCGAN on {name}", width=14, height=6)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.4))
    top, bottom = left.subplots(2, 1)
    smooth = np.ones(min(50, len(losses))) / min(50, len(losses))
    for values, label, color in zip(
        zip(*losses, strict=True), ("discriminator", "generator"), common.COLORS, strict=False
    ):
        top.plot(np.convolve(values, smooth, "valid"), label=label, color=color)
    top.set(title="Loss", xlabel="step")
    bottom.bar(range(10), counts, color=common.COLORS[2])
    bottom.set(title="Classes among the drawings, by a classifier", xticks=range(10))
    common.tidy(top, bottom)
    common.draw_images(right.subplots(8, DIGITS).flat, images[: 8 * DIGITS, 0], [""] * (8 * DIGITS))
    figure.savefig(path, dpi=120)


def main() -> None:
    options: argparse.Namespace = common.arguments(__doc__)
    digits = common.digits(options)
    judge = classifier(digits, options.quick, options.seed)
    x, y = _scaled(digits.train[0]), digits.train[1]
    epochs, samples = (1, 100) if options.quick else (EPOCHS, SAMPLES)
    if options.engine == "torch":
        return common.hand_over(train_torch(x, y, judge, epochs, options.seed, samples))
    draws, losses, seconds = train(x, y, epochs, options.seed)
    labels = np.arange(samples) % DIGITS
    images = ann.predict(draws, asked(labels, np.random.default_rng(options.seed + 1)))
    counts = verdict(judge, images)[1]
    print(f"of each class: {', '.join(map(str, counts))}")
    right = ann.predict(judge, images).argmax(1) == labels
    print(f"the digit that was asked for: {right.mean():.1%}")
    draw(options.out, digits.name, losses, images, counts)
    common.report(
        options,
        common.Outcome(score(judge, images), seconds),
        what="DCGAN told which digit to draw, by chained pullbacks",
        data=digits.name,
        measure=f"drawings that are a digit at {CONFIDENT:.0%}, all ten classes,",
        target=TARGET,
    )


if __name__ == "__main__":
    main()
