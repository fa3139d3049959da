"""Kinds of arrays of the emulated device, and calls of ops, for the tests of what a device's arrays meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arraynn as ann
import numpy as np
from arraynn import _device
from device import EmulatedArray, EmulatedLibrary
from shapes import values


class OtherArray(EmulatedArray):
    """An array of another library."""

    __module__ = "another_library"


class OtherLibrary(EmulatedLibrary):
    name = "other"


class ROCmArray(EmulatedArray):
    device_type = 10


class ManagedArray(EmulatedArray):
    device_type = 13


class VersionedArray(EmulatedArray):
    versioned = True


class Stranger:
    """It speaks DLPack, but nothing is known of its library."""

    __module__ = "an_unknown_library"

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("never asked")


_device.register_library("another_library", OtherLibrary())


def on(device: int = 0, kind: type[EmulatedArray] = EmulatedArray) -> Callable[[Any], Any]:
    """Return a function that puts arrays, nested or not, on a device."""

    def put(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(put, value))
        return kind(value, device) if isinstance(value, np.ndarray) else value

    return put


put = on()
X = values((2, 4, 6, 5), np.float32, 1)
W, B = values((3, 4, 3, 3), np.float32, 2), values((3,), np.float32, 3)
ROWS, LABELS = values((5, 7), np.float32, 4), np.array([0, 6, 3, 6, 1])
STEPS, PARAMS = (
    values((3, 2, 4), np.float32, 5),
    [values(s, np.float32, i) for i, s in enumerate([(9, 4), (9, 3)])],
)
STATE = values((1, 2, 3), np.float32, 6)
LISTS = [[values((6,), np.float32, i)] for i in range(4)]


def copies(lists: list[list[Any]]) -> list[list[Any]]:
    return [[np.abs(a) for a in arrays] for arrays in lists]


# Calls with two array arguments or more: the function, and the arguments by the names that errors use.
CALLS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (ann.conv2d, {"input": X, "weight": W, "bias": B}),
    (ann.linear, {"input": ROWS, "weight": values((3, 7), np.float32, 1), "bias": B}),
    (ann.cross_entropy, {"input": ROWS, "target": LABELS, "weight": np.ones(7, np.float32)}),
    (ann.cross_entropy, {"input": ROWS, "target": np.abs(ROWS)}),
    (ann.nll_loss, {"input": ROWS, "target": LABELS, "weight": np.ones(7, np.float32)}),
    (
        ann.linear_cross_entropy,
        {"input": ROWS, "linear_weight": values((9, 7), np.float32, 1), "target": LABELS},
    ),
    (ann.mse_loss, {"input": ROWS, "target": ROWS + 1}),
    (ann.embedding, {"input": np.array([3, 0, 4]), "weight": ROWS}),
    (
        ann.binary_cross_entropy_with_logits,
        {"input": ROWS, "target": ROWS, "weight": ROWS + 1, "pos_weight": ROWS[:1]},
    ),
    (
        ann.scaled_dot_product_attention,
        {"query": ROWS, "key": ROWS, "value": ROWS, "attn_mask": np.ones((5, 5), bool)},
    ),
    (ann.relu, {"input": ROWS, "out": np.zeros_like(ROWS)}),
    (
        lambda input, hx, p0, p1: ann.gru(input, hx, [p0, p1]),
        dict(input=STEPS, hx=STATE, p0=PARAMS[0], p1=PARAMS[1]),
    ),
    (
        lambda p, g, m, v: ann.adam_step([p], [g], [m], [v], step=1),
        dict(zip("pgmv", (a[0] for a in LISTS), strict=True)),
    ),
    (
        lambda p, g, b: ann.sgd_step([p], [g], [b], lr=1.0),
        dict(zip("pgb", (a[0] for a in LISTS), strict=False)),
    ),
]
LABEL = {"p0": r"params\[0\]", "p1": r"params\[1\]", "p": r"params\[0\]", "g": r"grads\[0\]"}
LABEL |= {"m": r"exp_avgs\[0\]", "v": r"exp_avg_sqs\[0\]", "b": r"momentum_buffers\[0\]"}
PAIRS = [(op, args, name) for op, args in CALLS for name in list(args)[1:]]


def label(name: str) -> str:
    return LABEL.get(name, name)
