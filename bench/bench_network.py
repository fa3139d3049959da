"""Training steps of the demo's CNN and two-layer LSTM, layers and Adam included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
from arraynn import demo
from harness import Case, Random
from peers import Call, tensor

BATCH, SIDE, CLASSES, LR = 128, 28, 10, 1e-3


class Inputs(NamedTuple):
    x: np.ndarray
    target: np.ndarray
    params: list[np.ndarray]


def _cnn() -> ann.layers.Sequential:
    model = demo.cnn(SIDE, SIDE, np.random.default_rng(0))
    return ann.layers.Sequential(*(layer for layer in model if not isinstance(layer, ann.layers.Dropout)))


def _lstm() -> ann.layers.Sequential:
    return demo.lstm(SIDE, np.random.default_rng(0))


def _ours(network: Callable[[], ann.layers.Sequential]) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        model = network()
        for parameter, value in zip(model.parameters(), i.params, strict=True):
            parameter.data[...] = value
        optimizer = ann.optim.Adam(model.parameters(), LR)

        def step() -> Any:
            optimizer.zero_grad()
            loss, pullback = ann.vjp(ann.cross_entropy, model(i.x, input_grad=False), i.target)
            model.backward(pullback(np.ones_like(loss))[0])
            optimizer.step()
            return loss

        return step

    return build


def _torch_cnn() -> Any:
    nn = peers.torch.nn
    small = SIDE // 4
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * small * small, CLASSES),
    )


def _torch_lstm() -> Any:
    nn = peers.torch.nn

    class Network(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(SIDE, 64, num_layers=2, batch_first=True)
            self.head = nn.Linear(64, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[1][0][-1])

    return Network()


def _torch(
    network: Callable[[], Any], *, channels_last: bool = False, **mode: bool
) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        torch = peers.torch
        model = network()
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), i.params, strict=True):
                parameter.copy_(tensor(value))
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        x, target = tensor(i.x, channels_last), tensor(i.target)
        optimizer = torch.optim.Adam(model.parameters(), LR, **mode)

        def step() -> Any:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), target)
            loss.backward()
            optimizer.step()
            return loss

        return step

    return build


def _case(
    name: str,
    network: Callable[[], ann.layers.Sequential],
    shape: tuple[int, ...],
    flops: float,
    **torch: Any,
) -> Case:
    def make(rng: Random) -> Inputs:
        params = [p.data.astype(rng.dtype) for p in network().parameters()]
        return Inputs(rng.normal(*shape), rng.labels(CLASSES, BATCH), params)

    return Case(
        name=f"{name} training step of {BATCH} images",
        family="network",
        group="network",
        op="network",
        make=make,
        ours=_ours(network),
        peers=torch,
        flops=flops,
        elements=float(np.prod(shape)),
        training=True,
    )


def cases() -> list[Case]:
    """Return the networks' cases."""
    pixels, small, rows = BATCH * SIDE**2, SIDE // 4, BATCH * SIDE
    first, second = 2.0 * pixels * 16 * 25, 2.0 * pixels / 4 * 16 * 32 * 25
    head = 2.0 * BATCH * 32 * small**2 * CLASSES
    gates = 2.0 * rows * 4 * 64
    return [
        _case(
            "CNN",
            _cnn,
            (BATCH, 1, SIDE, SIDE),
            2 * first + 3 * (second + head),  # the image needs no gradient
            **{
                "torch": _torch(_torch_cnn),
                "torch channels-last": _torch(_torch_cnn, channels_last=True, fused=True),
                "torch fused": _torch(_torch_cnn, fused=True),
            },
        ),
        _case(
            "two LSTM(64)",
            _lstm,
            (BATCH, SIDE, SIDE),
            gates * (2 * SIDE + 3 * 64) + gates * 3 * 128,
            **{"torch": _torch(_torch_lstm), "torch fused": _torch(_torch_lstm, fused=True)},
        ),
    ]
