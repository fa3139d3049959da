"""Describe a picture in words: a convolutional network looks, an LSTM with attention speaks.

Pictures hold one to three digits in the quarters of a square; the description names them from top left to
bottom right, as in "seven top left , three bottom right". The LSTM reads the words said so far; what it
remembers asks the places of the picture, and their answer and the memory together give the next word.
"""

from __future__ import annotations

import argparse

import arraynn as ann
import common
import numpy as np
from arraynn.layers import LSTM, BatchNorm2d, Conv2d, Embedding, Layer, Linear, MaxPool2d, ReLU, Sequential

TARGET = 0.90
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("<begin>", "<end>", ",", *NUMBERS, "top", "bottom", "left", "right")
LENGTH, NOTHING = 12, -100  # words of three digits with the end; places behind the end do not count
PICTURES, WIDTH, EPOCHS, BATCH, RATE, CLIP = 30_000, 64, 8, 64, 2e-3, 1.0


def pictures(images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator):
    """Return pictures (count, 1, 2 H, 2 H) and descriptions (count, LENGTH), NOTHING behind their ends."""
    size = images.shape[1]
    made = np.full((count, 1, 2 * size, 2 * size), images.min(), np.float32)
    words = np.full((count, LENGTH), NOTHING)
    number = {word: i for i, word in enumerate(WORDS)}
    for picture, said in zip(made[:, 0], words, strict=True):
        sentence: list[str] = []
        for quarter in sorted(rng.choice(4, rng.integers(1, 4), replace=False)):
            i = rng.integers(0, len(images))
            row, column = divmod(quarter, 2)
            top, left = row * size, column * size
            picture[top : top + size, left : left + size] = images[i]
            where = ("top", "bottom")[row], ("left", "right")[column]
            sentence += [*([","] if sentence else []), NUMBERS[labels[i]], *where]
        sentence.append("<end>")
        said[: len(sentence)] = [number[word] for word in sentence]
    return made, words


def before(words: np.ndarray) -> np.ndarray:
    """Return the words that each word follows."""
    return np.concatenate([np.zeros((len(words), 1), int), np.maximum(words[:, :-1], 0)], axis=1)


def sentence(words: np.ndarray) -> str:
    end = np.flatnonzero(words == 1)
    return " ".join(WORDS[i] for i in words[: end[0] if len(end) else None])


class Describer(Layer):
    """(N, 1, H, W) pictures and (N, T) words before to (N, words, T) scores of the next ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        layers: list[Layer] = []
        for channels, out in ((1, 32), (32, WIDTH), (WIDTH, WIDTH)):
            conv = Conv2d(channels, out, 3, padding=1, bias=False, rng=rng)
            layers += [conv, BatchNorm2d(out), ReLU(), MaxPool2d(2)]
        self.look = Sequential(*layers)
        self.embedding = Embedding(len(WORDS), WIDTH, rng=rng)
        self.lstm = LSTM(WIDTH, WIDTH, batch_first=True, rng=rng)
        self.ask = Linear(WIDTH, WIDTH, rng=rng)
        self.speak = Linear(2 * WIDTH, len(WORDS), rng=rng)

    def forward(self, picture: np.ndarray, words: np.ndarray) -> np.ndarray:
        features = self.look(picture, input_grad=False)
        self._shape = features.shape
        places = features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)
        # where a place is, it must tell itself
        self._marked = places + _positions(features.shape[2], features.shape[3], WIDTH).astype(places.dtype)
        memory, _ = self.lstm(self.embedding(words))
        answer, self._attend = ann.vjp(
            ann.scaled_dot_product_attention, self.ask(memory), self._marked, self._marked
        )
        return self.speak(np.concatenate([memory, answer], axis=2)).transpose(0, 2, 1)

    def backward(self, dy: np.ndarray) -> None:
        both = self.speak.backward(dy.transpose(0, 2, 1))
        d_question, d_keys, d_values = self._attend(np.ascontiguousarray(both[..., WIDTH:]))
        d_memory = both[..., :WIDTH] + self.ask.backward(d_question)
        self.embedding.backward(self.lstm.backward((d_memory, None)))
        self.look.backward((d_keys + d_values).transpose(0, 2, 1).reshape(self._shape))

    def describe(self, picture: np.ndarray) -> np.ndarray:
        """Return the likeliest words (N, LENGTH), one after the other."""
        self.eval()
        words = np.zeros((len(picture), 1), int)
        for _ in range(LENGTH):
            words = np.concatenate([words, self(picture, words)[:, :, -1:].argmax(1)], axis=1)
        return words[:, 1:]


def _positions(height: int, width: int, channels: int) -> np.ndarray:
    """Return waves over the places, (H * W, channels), of which each place has others."""
    y, x = (axis.reshape(-1, 1) for axis in np.mgrid[:height, :width])
    rate = np.pi / 2 ** np.arange(channels // 4)
    waves = [f(axis / max(height, width) * rate) for axis in (y, x) for f in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1)


def exact(found: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return which descriptions are right word for word."""
    return ((found == words) | (words == NOTHING)).all(1)


def data(options: argparse.Namespace):
    digits = common.digits(options)
    count = 256 if options.quick else PICTURES
    rng = np.random.default_rng(options.seed)
    return digits.name, pictures(*digits.train, count, rng), pictures(*digits.test, min(count, 2000), rng)


def train(learned, test, epochs: int, seed: int):
    rng = np.random.default_rng(seed)
    model = Describer(rng)
    print(common.parameters(model))
    optimizer = ann.optim.Adam(model.parameters(), RATE)
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        ((learned[0], before(learned[1])), learned[1]),
        epochs=epochs,
        batch_size=BATCH,
        validation_data=((test[0], before(test[1])), test[1]),
        schedule=ann.optim.CosineAnnealingLR(optimizer, epochs),
        clip_norm=CLIP,
        callbacks=[clock],
        rng=rng,
    )
    found = np.concatenate([model.describe(test[0][i : i + 200]) for i in range(0, len(test[0]), 200)])
    return history, found, common.Outcome(float(exact(found, test[1]).mean()), clock.seconds)


def train_torch(learned, test, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    class Describer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for channels, out in ((1, 32), (32, WIDTH), (WIDTH, WIDTH)):
                conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
            self.look = nn.Sequential(*layers)
            self.embedding = nn.Embedding(len(WORDS), WIDTH)
            self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self.ask, self.speak = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, len(WORDS))

        def forward(self, both):
            picture, words = both
            features = self.look(picture)
            positions = _positions(*features.shape[2:], WIDTH).astype(np.float32)
            places = features.flatten(2).transpose(1, 2) + torch.from_numpy(positions)
            memory, _ = self.lstm(self.embedding(words))
            answer = nn.functional.scaled_dot_product_attention(self.ask(memory), places, places)
            return self.speak(torch.cat([memory, answer], 2)).transpose(1, 2)

        def describe(self, picture):
            words = torch.zeros(len(picture), 1, dtype=torch.long)
            for _ in range(LENGTH):
                words = torch.cat([words, self((picture, words))[:, :, -1:].argmax(1)], 1)
            return words[:, 1:].numpy()

    torch.manual_seed(seed)
    model = Describer()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    (x, words), said = (
        (torch.from_numpy(a) for a in (learned[0], before(learned[1]))),
        torch.from_numpy(learned[1]),
    )
    rng = np.random.default_rng(seed)
    picture, previous, right = (torch.from_numpy(a) for a in (test[0], before(test[1]), test[1]))
    loss = nn.functional.cross_entropy

    def epoch(_: int):
        order = torch.from_numpy(rng.permutation(len(x)))
        for i in range(0, len(x), BATCH):
            chosen = order[i : i + BATCH]
            yield (x[chosen], words[chosen]), said[chosen]

    def score() -> float:
        parts = range(0, len(picture), BATCH)
        return float(
            sum(
                loss(model((picture[i : i + BATCH], previous[i : i + BATCH])), right[i : i + BATCH])
                for i in parts
            )
        )

    outcome = common.torch_fit(
        model,
        loss,
        optimizer,
        epoch,
        epochs=epochs,
        score=score,
        clip_norm=CLIP,
        after_epoch=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs).step,
    )
    model.eval()
    with torch.inference_mode():
        found = np.concatenate([model.describe(picture[i : i + 200]) for i in range(0, len(picture), 200)])
    return outcome._replace(score=float(exact(found, test[1]).mean()))


def draw(path: object, name: str, history: ann.History, test, found: np.ndarray) -> None:
    figure = common.figure(f"Descriptions of pictures made of {name}", width=15, height=6)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
    common.draw_history(left.subplots(), history, ["loss", "val_loss"], "Loss per word (val_: test digits)")
    titles = [sentence(words).replace(" , ", "\n") for words in found[:10]]
    common.draw_images(right.subplots(2, 5).flat, test[0][:10, 0], titles, ~exact(found[:10], test[1][:10]))
    figure.savefig(path, dpi=120)


def main() -> None:
    options = common.arguments(__doc__)
    name, learned, test = data(options)
    epochs = 1 if options.quick else EPOCHS
    if options.engine == "torch":
        return common.hand_over(train_torch(learned, test, epochs, options.seed))
    history, found, outcome = train(learned, test, epochs, options.seed)
    print(f"says: {sentence(found[0])}; is: {sentence(test[1][0])}")
    draw(options.out, name, history, test, found)
    common.report(
        options,
        outcome,
        what="CNN, LSTM(64) with attention",
        data=f"pictures of {name}",
        measure="exact descriptions",
        target=TARGET,
    )


if __name__ == "__main__":
    main()
