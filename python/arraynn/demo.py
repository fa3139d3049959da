"""Train a CNN and an LSTM on handwritten digits: ``python -m arraynn.demo``.

Without arguments the digits are scikit-learn's 1797 images of 8x8 pixels; ``--data DIR`` reads
MNIST's four IDX files. Accuracy is printed per epoch, learning curves and predictions are drawn
into one PNG, and a table compares the speed of the kernels.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _demo_table
from .cross_entropy import cross_entropy
from .layers import LSTM, Conv2d, Dropout, Flatten, LastStep, Layer, Linear, MaxPool2d, ReLU, Sequential
from .optim import Adam, CosineAnnealingLR
from .training import History, fit, predict

Array = NDArray[Any]


class Digits(NamedTuple):
    """Images (N, H, W) of float32 with mean 0 and variance 1 over the training set; labels (N,)."""

    name: str
    train: tuple[Array, Array]
    test: tuple[Array, Array]


class Plan(NamedTuple):
    """How long and how fast to train."""

    epochs: int
    batch_size: int
    lr: float


class Trained(NamedTuple):
    name: str
    color: str
    model: Layer
    history: History
    scores: Array  # of the test images, (N, 10)


# -- data -----------------------------------------------------------------------------------


def read_idx(path: Path) -> Array:
    """Read one of MNIST's files: bytes of any shape, gzipped or not."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"demo: {path} is not an IDX file of bytes")
    header = 4 + 4 * data[3]
    shape = tuple(int(n) for n in np.frombuffer(data[4:header], ">u4"))
    if len(shape) != data[3] or len(data) != header + math.prod(shape):
        raise ValueError(f"demo: {path} is cut off: {len(data)} bytes for the shape {shape}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def mnist(folder: Path) -> Digits:
    """Read MNIST's four files, whose names may end in ``.gz``."""
    arrays = []
    for name in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        stem = f"{name}-idx{3 if 'images' in name else 1}-ubyte"
        found = [path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()]
        if not found:
            raise FileNotFoundError(f"demo: {folder} has no file {stem} or {stem}.gz")
        arrays.append(read_idx(found[0]))
    return _standardized("MNIST", *arrays)


def bundled() -> Digits:
    """Return scikit-learn's digits: a fifth of each class is the test set, always the same."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits().images, load_digits().target
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return _standardized("scikit-learn's digits", x, y, x_test, y_test)


def _standardized(name: str, x: Array, y: Array, x_test: Array, y_test: Array) -> Digits:
    if not (x.ndim == x_test.ndim == 3 and x.shape[1:] == x_test.shape[1:]):
        raise ValueError(f"demo: images have the shapes {x.shape} and {x_test.shape}")
    mean, scale = x.mean(), x.std()
    x, x_test = (((images - mean) / scale).astype(np.float32) for images in (x, x_test))
    return Digits(name, (x, y.astype(np.int64)), (x_test, y_test.astype(np.int64)))


def shifted(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the images and their copies moved by one pixel up, down, left and right."""
    edge = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = x.shape[1:]
    moves = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    return np.concatenate([edge[:, i : i + height, j : j + width] for i, j in moves]), np.tile(y, len(moves))


# -- networks -------------------------------------------------------------------------------


def cnn(height: int, width: int, rng: np.random.Generator) -> Sequential:
    """Two convolutions, each halved by max pooling, and a linear layer: (N, 1, H, W) to (N, 10)."""
    return Sequential(
        Conv2d(1, 16, 5, padding=2, rng=rng),
        ReLU(),
        MaxPool2d(2),
        Conv2d(16, 32, 5, padding=2, rng=rng),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dropout(0.25, rng=rng),
        Linear(32 * (height // 4) * (width // 4), 10, rng=rng),
    )


def lstm(width: int, rng: np.random.Generator) -> Sequential:
    """Two layers of LSTM that read an image row by row: (N, H, width) to (N, 10)."""
    return Sequential(
        LSTM(width, 64, num_layers=2, batch_first=True, rng=rng),
        LastStep(),
        Linear(64, 10, rng=rng),
    )


def train(
    name: str,
    color: str,
    model: Layer,
    plan: Plan,
    data: tuple[Array, Array],
    test: tuple[Array, Array],
    rng: np.random.Generator,
) -> Trained:
    """Train with Adam, the learning rate falling along a cosine, and measure on `test`."""
    print(f"\n{name}: {sum(p.data.size for p in model.parameters()):,} parameters. val_ is the test set.")
    optimizer = Adam(model.parameters(), plan.lr)
    start = time.perf_counter()
    history = fit(
        model,
        cross_entropy,
        optimizer,
        data,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        validation_data=test,
        metrics="accuracy",
        schedule=CosineAnnealingLR(optimizer, plan.epochs),
        rng=rng,
    )
    if history.stopped:
        raise SystemExit(f"demo: {name} stopped by {history.stopped}")
    seconds = time.perf_counter() - start
    print(
        f"{name}: test accuracy {history['val_accuracy'][-1]:.2%} after {plan.epochs} epochs, {seconds:.1f} s"
    )
    return Trained(name, color, model, history, predict(model, test[0]))


# -- picture --------------------------------------------------------------------------------


def draw(path: Path, digits: Digits, runs: Sequence[Trained], rng: np.random.Generator) -> None:
    """Draw learning curves and predicted digits into one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), layout="constrained", facecolor="white")
    figure.suptitle(f"arraynn on {digits.name}", fontsize=16, fontweight="bold")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.25), wspace=0.04)
    left, right = halves
    _draw_curves(left.subplots(2, 1, sharex=True), runs)
    for part, run in zip(right.subfigures(len(runs), 1, hspace=0.04), runs, strict=True):
        _draw_digits(part, digits, run, rng)
    figure.savefig(path, dpi=120)


def _draw_curves(axes: Any, runs: Sequence[Trained]) -> None:
    for run in runs:
        history = run.history
        epochs = range(1, history.epochs + 1)
        style: dict[str, Any] = {"color": run.color, "linewidth": 2}
        axes[0].plot(epochs, history["loss"], label=f"{run.name}, training", **style)
        axes[0].plot(epochs, history["val_loss"], label=f"{run.name}, test", linestyle=":", **style)
        last = history["val_accuracy"][-1]
        axes[1].plot(epochs, history["val_accuracy"], marker="o", label=f"{run.name}, {last:.2%}", **style)
    axes[0].set(title="Loss", yscale="log")
    least = min(min(run.history["val_accuracy"]) for run in runs)
    axes[1].set(title="Test accuracy", xlabel="epoch", ylim=(max(least, 0.8) - 0.01, 1.001))
    axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)


def _draw_digits(figure: Any, digits: Digits, run: Trained, rng: np.random.Generator) -> None:
    """Any digits, and in the last row those the network gets wrong."""
    rows, columns = 3, 10
    images, labels = digits.test
    predicted = run.scores.argmax(1)
    wrong = rng.permutation(np.flatnonzero(predicted != labels))[:columns]
    others = np.setdiff1d(rng.permutation(len(labels))[: rows * columns], wrong)
    chosen = [*rng.permutation(others)[: rows * columns - len(wrong)], *wrong]
    count = int((predicted != labels).sum())
    shown = "" if len(wrong) == count else f", {len(wrong)} of them here"
    figure.suptitle(f"{run.name}: {count} of {len(labels):,} test digits wrong{shown}")
    for axis, i in zip(figure.subplots(rows, columns).flat, chosen, strict=False):
        right = predicted[i] == labels[i]
        axis.imshow(images[i], cmap="gray_r", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        text = f"{predicted[i]}" if right else f"{predicted[i]}, is {labels[i]}"
        color = "#1a7f4b" if right else "#c8322b"
        axis.set_title(text, color=color, fontsize=11, fontweight="bold", pad=3)
        for spine in axis.spines.values():
            spine.set(edgecolor=color, linewidth=1 if right else 2)


# -- command --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo with the command line `arguments`."""
    parser = argparse.ArgumentParser(prog="python -m arraynn.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of MNIST's four IDX files")
    parser.add_argument(
        "--out", type=Path, default=Path("arraynn_demo.png"), help="the picture (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, help="epochs for both networks")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (%(default)s)")
    parser.add_argument("--no-table", action="store_true", help="leave out the table of kernel speed")
    options = parser.parse_args(arguments)
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    needed = {"matplotlib": "matplotlib"} | ({} if options.data else {"sklearn": "scikit-learn"})
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SystemExit(f"demo: needs {' and '.join(missing)}: pip install 'arraynn[demo]'")

    if options.data:
        try:
            digits = mnist(options.data)
        except (OSError, ValueError) as error:
            raise SystemExit(str(error)) from error
        data, plans = digits.train, (Plan(5, 64, 2e-3), Plan(10, 128, 4e-3))
    else:
        digits = bundled()
        data, plans = shifted(*digits.train), (Plan(10, 64, 3e-3), Plan(12, 64, 5e-3))
    if options.epochs:
        plans = tuple(plan._replace(epochs=options.epochs) for plan in plans)  # type: ignore[assignment]
    (x, y), (x_test, y_test) = data, digits.test
    print(f"{digits.name}: {len(digits.train[0]):,} training and {len(x_test):,} test images")

    rng = np.random.default_rng(options.seed)
    height, width = x.shape[1:]
    images = (x[:, None], y), (x_test[:, None], y_test)
    runs = [
        train("CNN", "#2a6fdb", cnn(height, width, rng), plans[0], *images, rng),
        train("LSTM", "#e8743b", lstm(width, rng), plans[1], (x, y), digits.test, rng),
    ]
    draw(options.out, digits, runs, rng)
    print(f"\nLearning curves and predicted digits: {options.out}")
    if not options.no_table:
        print()
        _demo_table.show()


if __name__ == "__main__":
    main()
