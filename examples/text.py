"""Characters and words for the examples on text."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import arraynn as ann
import common
import numpy as np

COLUMNS, ROWS = 48, 42  # of a sample in the picture


def bundled() -> str:
    """Return the descriptions of scikit-learn's data sets, one text of some 50 000 characters."""
    from sklearn import datasets

    loaders = (datasets.load_breast_cancer, datasets.load_diabetes, datasets.load_digits, datasets.load_iris)
    loaders += (datasets.load_linnerud, datasets.load_wine)
    return "\n".join(load().DESCR for load in loaders)


class Characters(NamedTuple):
    """A text as numbers: a tenth at its end is for validation."""

    name: str
    alphabet: str
    train: np.ndarray
    validation: np.ndarray

    def text(self, numbers: np.ndarray) -> str:
        return "".join(self.alphabet[i] for i in numbers)


def characters(options: argparse.Namespace) -> Characters:
    """Return tiny Shakespeare from ``--data``, else what scikit-learn bundles."""
    if options.data:
        name, text = "tiny Shakespeare", (options.data / "tinyshakespeare.txt").read_text()
    else:
        name, text = "scikit-learn's descriptions", bundled()
    if options.quick:
        text = text[:6000]
    alphabet = "".join(sorted(set(text)))
    table = {c: i for i, c in enumerate(alphabet)}
    all_numbers = np.array([table[c] for c in text])
    cut = int(0.9 * len(all_numbers))
    print(f"{name}: {len(text):,} characters of {len(alphabet)}")
    return Characters(name, alphabet, all_numbers[:cut], all_numbers[cut:])


def windows(numbers: np.ndarray, length: int, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return pieces (N, length) of a text, and the characters that follow each of theirs."""
    count = (len(numbers) - 1 - offset) // length
    x = numbers[offset : offset + count * length].reshape(count, length)
    y = numbers[offset + 1 : offset + 1 + count * length].reshape(count, length)
    return x, y


def batches(numbers: np.ndarray, length: int, size: int, seed: int, epoch: int) -> Iterator[tuple]:
    """Yield an epoch's batches of pieces of the text; they begin elsewhere in each epoch."""
    rng = np.random.default_rng((seed, epoch))
    x, y = windows(numbers, length, int(rng.integers(length)))
    order = rng.permutation(len(x))
    for i in range(0, len(x), size):
        yield x[order[i : i + size]], y[order[i : i + size]]


def torch_score(model: Any, x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    """Return what measures a network of PyTorch: the least loss so far."""
    import torch

    pieces, following = torch.from_numpy(x), torch.from_numpy(y)
    best = np.inf

    def score() -> float:
        nonlocal best
        total = 0.0
        for i in range(0, len(pieces), 256):
            part, right = pieces[i : i + 256], following[i : i + 256]
            total += float(torch.nn.functional.cross_entropy(model(part), right)) * len(part)
        best = min(best, total / len(pieces))
        return best

    return score


def run(
    options: argparse.Namespace,
    train: Callable[..., tuple[Any, ann.History, common.Outcome]],
    train_torch: Callable[..., common.Outcome],
    epochs: int,
    *,
    title: str,
    what: str,
    target: float,
    length: int,
) -> None:
    """Train a network that writes, or its twin; let it write, draw, report."""
    data = characters(options)
    epochs = 1 if options.quick else epochs
    if options.engine == "torch":
        return common.hand_over(train_torch(data, epochs, options.seed))
    model, history, outcome = train(data, epochs, options.seed)
    rng = np.random.default_rng(options.seed)
    first, count = data.validation[:length], 20 if options.quick else 1000
    samples = {t: data.text(model.write(first, count, t, rng)) for t in (0.4, 0.7, 1.0)}
    print(samples[0.7])
    _draw(options.out, f"{title}: {data.name}", history, samples)
    common.report(
        options,
        outcome,
        what=f"{what}, pieces of {length}",
        data=data.name,
        measure="validation loss, nats per character,",
        target=target,
        form=".3f",
        least=True,
    )


def _draw(path: object, title: str, history: ann.History, samples: dict[float, str]) -> None:
    figure = common.figure(title, width=14, height=6)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.6))
    common.draw_history(left.subplots(), history, ["loss", "val_loss"], "Loss, nats per character")
    for axis, (temperature, sample) in zip(right.subplots(1, len(samples)), samples.items(), strict=True):
        axis.set_title(f"temperature {temperature}")
        lines = [part for line in sample.splitlines() for part in textwrap.wrap(line, COLUMNS) or [""]]
        axis.text(0, 1, "\n".join(lines[:ROWS]), va="top", family="monospace", fontsize=7, parse_math=False)
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


class Sentences(NamedTuple):
    """Sentences as numbers of words, 0 where they have ended: (N, T), their lengths, and 0 or 1."""

    name: str
    words: int
    ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def sentences(options: argparse.Namespace) -> Sentences:
    """Return rt-polarity from ``--data``, else sentences of two descriptions of scikit-learn's."""
    if options.data:
        name = "rt-polarity"
        classes = [_lines(options.data / f"rt-polarity.{kind}") for kind in ("neg", "pos")]
    else:
        from sklearn import datasets

        name = "lines of two of scikit-learn's descriptions"
        classes = [
            [line.split() for line in load().DESCR.splitlines() if len(line.split()) > 3]
            for load in (datasets.load_breast_cancer, datasets.load_wine)
        ]
    if options.quick:
        classes = [found[:100] for found in classes]
    split = [*classes[0], *classes[1]]
    counts = Counter(word for sentence in split for word in sentence)
    number = {word: i for i, (word, _) in enumerate(counts.most_common(), 1)}
    lengths = np.array([len(sentence) for sentence in split])
    ids = np.zeros((len(split), max(lengths.max(), 5)), np.int64)
    for row, sentence in zip(ids, split, strict=True):
        row[: len(sentence)] = [number[word] for word in sentence]
    labels = np.repeat([0, 1], [len(found) for found in classes])
    print(f"{name}: {len(split):,} sentences of {len(number):,} words")
    return Sentences(name, len(number) + 1, ids, lengths, labels)


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text(encoding="latin-1").splitlines() if line.split()]


def split(labels: np.ndarray, seed: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return which sentences to learn from and which to test with: the same share of both classes."""
    rng = np.random.default_rng(seed)
    test = [
        rng.permutation(np.flatnonzero(labels == c))[: round(share * (labels == c).sum())] for c in (0, 1)
    ]
    held_out = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
