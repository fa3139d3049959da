"""Why deep networks would not learn, and what mended it: gradients of each layer of a network 20 deep.

With the sigmoid the gradient shrinks by a factor in every layer on its way back, until the first layers get
nothing; with tanh and a suitable initialization less so, with ReLU and He's hardly, with batch normalization
even under a bad initialization. One recurrent network in which gradients explode shows what clipping is for.
"""

from __future__ import annotations

import time

import arraynn as ann
import common
import numpy as np
from arraynn.layers import RNN, BatchNorm1d, LastStep, Layer, Linear, ReLU, Sequential, Sigmoid, Tanh

DEPTH, WIDTH, BATCH, RATE, STEPS = 20, 64, 128, 0.05, 600


def network(inputs: int, kind: str, rng: np.random.Generator) -> Sequential:
    activation = {"sigmoid": Sigmoid, "tanh": Tanh, "ReLU": ReLU, "sigmoid, batch norm": Sigmoid}[kind]
    layers: list[Layer] = []
    for i in range(DEPTH):
        linear = Linear(inputs if i == 0 else WIDTH, WIDTH, rng=rng)
        if kind == "ReLU":
            ann.init.kaiming_normal_(linear.weight, nonlinearity="relu", rng=rng)
        else:
            ann.init.xavier_normal_(linear.weight, 5 / 3 if kind == "tanh" else 1.0, rng=rng)
        layers += [linear, *([BatchNorm1d(WIDTH)] if "batch norm" in kind else []), activation()]
    return Sequential(*layers, Linear(WIDTH, 10, rng=rng))


def gradient_norms(model: Sequential) -> np.ndarray:
    """Return the norm of the gradient of each hidden layer's weights, first layer first."""
    return np.array([np.linalg.norm(layer.weight.grad) for layer in model if isinstance(layer, Linear)][:-1])


def learn(
    model: Layer,
    x: np.ndarray,
    y: np.ndarray,
    steps: int,
    rng: np.random.Generator,
    clip: float | None = None,
) -> tuple[np.ndarray | None, list[float], list[float]]:
    """Return the gradient norms of the first step, the losses, and the joint gradient norms."""
    optimizer = ann.optim.SGD(model.parameters(), RATE, momentum=0.9)
    first, losses, norms = None, [], []
    for step in range(steps):
        chosen = rng.integers(0, len(x), BATCH)
        loss, pullback = ann.vjp(ann.cross_entropy, model(x[chosen], input_grad=False), y[chosen])
        optimizer.zero_grad()
        model.backward(pullback(np.ones_like(loss))[0])
        if step == 0 and isinstance(model, Sequential) and isinstance(model[0], Linear):
            first = gradient_norms(model)
        norms.append(ann.optim.clip_grad_norm(model.parameters(), clip or np.inf))
        optimizer.step()
        losses.append(float(loss))
    return first, losses, norms


def exploding(width: int, rng: np.random.Generator) -> Sequential:
    """A recurrent network whose weights are too large: gradients grow with every step back."""
    layer = RNN(width, WIDTH, nonlinearity="relu", batch_first=True, rng=rng)
    ann.init.orthogonal_(layer.weight_hh_l0, 1.6, rng=rng)
    return Sequential(layer, LastStep(), Linear(WIDTH, 10, rng=rng))


def draw(path: object, name: str, runs: dict, recurrent: dict) -> None:
    figure = common.figure(f"Vanishing and exploding gradients, on {name}", width=15)
    left, middle, right = figure.subplots(1, 3)
    for (kind, (first, losses, _)), color in zip(runs.items(), common.COLORS, strict=False):
        left.semilogy(
            range(1, DEPTH + 1), np.maximum(first, 1e-20), "o-", color=color, label=kind, markersize=4
        )
        smooth = np.convolve(losses, np.ones(20) / 20, "valid") if len(losses) >= 20 else losses
        middle.plot(smooth, color=color, label=kind, linewidth=2)
    left.set(title="Gradient norm of each layer, first step", xlabel="layer, from the input")
    middle.set(title="Loss", xlabel="step", ylim=(0, 3))
    for (kind, (_, losses, norms)), color in zip(recurrent.items(), common.COLORS, strict=False):
        right.semilogy(np.nan_to_num(norms, nan=np.inf), color=color, alpha=0.35)
        right.semilogy(losses, color=color, linewidth=2, label=f"loss, {kind}")
    right.set(title="Recurrent network: loss, and (pale) gradient norm", xlabel="step")
    common.tidy(left, middle, right)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = common.arguments(__doc__)
    digits = common.digits(options)
    images, y = digits.train
    x = images.reshape(len(images), -1)
    steps = 5 if options.quick else STEPS
    start = time.perf_counter()
    runs = {}
    for kind in ("sigmoid", "tanh", "ReLU", "sigmoid, batch norm"):
        rng = np.random.default_rng(options.seed)
        runs[kind] = learn(network(x.shape[1], kind, rng), x, y, steps, rng)
        first, losses, _ = runs[kind]
        share = f"gradient of layer 1 / layer {DEPTH}: {first[0] / first[-1]:7.1e}"
        print(f"{kind:20} {share}, last loss {losses[-1]:.3f}")
    recurrent = {}
    for kind, clip in (("without clipping", None), ("clipped to norm 1", 1.0)):
        rng = np.random.default_rng(options.seed)
        with np.errstate(all="ignore"):
            recurrent[kind] = learn(exploding(images.shape[2], rng), images, y, steps, rng, clip)
        print(f"recurrent, {kind:18} last loss {recurrent[kind][1][-1]:.3f}")
    draw(options.out, digits.name, runs, recurrent)
    share = {kind: first[0] / first[-1] for kind, (first, _, _) in runs.items()}
    common.report(
        options,
        common.Outcome(float(share["ReLU"] / share["sigmoid"]), time.perf_counter() - start),
        what=f"{DEPTH} layers with sigmoid, tanh, ReLU, batch norm; clipping",
        data=digits.name,
        measure="first layer's share of the gradient, ReLU's over the sigmoid's,",
        target=1e6,
        form=".0e",
        twin=False,
    )


if __name__ == "__main__":
    main()
