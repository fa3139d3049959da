"""Convolution: images of the sizes networks have, both memory layouts, training, and a tiny call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
import xla
from harness import Case, Random
from peers import Call, Engine, tensor


class Conv(NamedTuple):
    """A convolution: batch, input channels and spatial sizes; output channels; kernel; options.

    Of a transposed one, `transposed` says so.
    """

    shape: tuple[int, ...]
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False

    @property
    def op(self) -> str:
        return f"conv{'_transpose' if self.transposed else ''}{self.dimensions}d"

    @property
    def dimensions(self) -> int:
        return len(self.shape) - 2

    @property
    def weight_shape(self) -> tuple[int, ...]:
        outer, inner = self.out_channels, self.shape[1]
        if self.transposed:
            outer, inner = inner, outer
        return (outer, inner // self.groups, *(self.kernel,) * self.dimensions)

    @property
    def out_shape(self) -> tuple[int, ...]:
        reach = self.dilation * (self.kernel - 1) + 1
        around = 2 * self.padding
        if self.transposed:
            sizes = [(size - 1) * self.stride + reach - around for size in self.shape[2:]]
        else:
            sizes = [(size + around - reach) // self.stride + 1 for size in self.shape[2:]]
        return (self.shape[0], self.out_channels, *sizes)

    @property
    def options(self) -> tuple[int, ...]:
        if self.transposed:
            return self.stride, self.padding, 0, self.groups, self.dilation
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def flops(self) -> float:
        pixels = self.shape if self.transposed else self.out_shape
        return 2.0 * np.prod(pixels) * np.prod(self.weight_shape[1:])

    @property
    def traffic(self) -> tuple[float, float, float]:
        """Elements of input, weight and output."""
        return float(np.prod(self.shape)), float(np.prod(self.weight_shape)), float(np.prod(self.out_shape))


class Inputs(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    b: np.ndarray
    dy: np.ndarray


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _make(conv: Conv, nhwc: bool) -> Callable[[Random], Inputs]:
    def make(rng: Random) -> Inputs:
        x, dy = rng.normal(*conv.shape), rng.normal(*conv.out_shape)
        if nhwc:
            x, dy = _channels_last(x), _channels_last(dy)
        fan_in = float(np.prod(conv.weight_shape[1:]))
        return Inputs(
            x, rng.normal(*conv.weight_shape, scale=fan_in**-0.5), rng.normal(conv.out_channels), dy
        )

    return make


def _ours(conv: Conv, training: bool) -> Callable[[Inputs], Call]:
    op = getattr(ann, conv.op)

    def build(i: Inputs) -> Call:
        x, w, b, dy = i
        options = conv.options

        def step() -> Any:
            out, pullback = ann.vjp(op, x, w, b, *options)
            return out, pullback(dy)

        return step if training else lambda: op(x, w, b, *options)

    return build


def _torch(conv: Conv, training: bool, channels_last: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        op = getattr(peers.torch.nn.functional, conv.op)
        x, w, b, dy = (
            tensor(i.x, channels_last),
            tensor(i.w, channels_last),
            tensor(i.b),
            tensor(i.dy, channels_last),
        )
        options = conv.options

        def forward() -> Any:
            return op(x, w, b, *options)

        return peers.gradients(forward, (x, w, b), dy) if training else forward

    return build


def _ort(conv: Conv, nhwc: bool) -> Callable[[Inputs], Engine]:
    attributes = {
        "strides": [conv.stride] * conv.dimensions,
        "pads": [conv.padding] * 2 * conv.dimensions,
        "dilations": [conv.dilation] * conv.dimensions,
        "group": conv.groups,
    }

    def build(i: Inputs) -> Engine:
        constants = {"w": i.w, "b": i.b}
        node = "ConvTranspose" if conv.transposed else "Conv"
        if not nhwc:
            return peers.ort([(node, "xwb", "y", attributes)], {"x": i.x}, constants)
        nodes: list[tuple[str, Sequence[str], str, dict[str, Any]]] = [
            ("Transpose", ["nhwc"], "x", {"perm": [0, 3, 1, 2]}),
            (node, "xwb", "z", attributes),
            ("Transpose", ["z"], "y", {"perm": [0, 2, 3, 1]}),
        ]
        fed = {"nhwc": i.x.transpose(0, 2, 3, 1)}
        return peers.ort(nodes, fed, constants, post=lambda results: [results[0].transpose(0, 3, 1, 2)])

    return build


def _xla(conv: Conv, training: bool, nhwc: bool) -> Callable[[Inputs], Engine]:
    def arranged(x: np.ndarray) -> np.ndarray:
        return x.transpose(0, 2, 3, 1) if nhwc else x

    def ours(results: list[np.ndarray]) -> list[np.ndarray]:
        return [x.transpose(0, 3, 1, 2) if nhwc and k < 2 else x for k, x in enumerate(results)]  # y, dx

    def build(i: Inputs) -> Engine:
        function = xla.convolution(
            conv.dimensions,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            transposed=conv.transposed,
            channels_last=nhwc,
        )
        leaves = (arranged(i.x), i.w, i.b)
        return xla.engine(function, leaves, training=training, cotangent=arranged(i.dy), post=ours)

    return build


def _case(
    what: str, conv: Conv, *, group: str, training: bool = False, nhwc: bool = False, overhead: bool = False
) -> Case:
    kind = "overhead " if overhead else f"{'nhwc ' if nhwc else ''}{'training ' if training else ''}"
    engines: dict[str, Callable[[Inputs], Call | Engine]] = {"torch": _torch(conv, training, False)}
    if conv.dimensions == 2:
        engines["torch channels-last"] = _torch(conv, training, True)
    if not training:
        engines["onnxruntime"] = _ort(conv, nhwc)
    if conv.groups == 1:  # XLA's grouped convolutions take 40 times as long, their gradients seconds
        engines["jax"] = _xla(conv, training, nhwc)
    x, w, y = conv.traffic
    return Case(
        name=f"{conv.op} {kind}{what} {'x'.join(map(str, conv.shape))}->{conv.out_channels}",
        family="conv",
        group=group,
        op=conv.op,
        make=_make(conv, nhwc),
        ours=_ours(conv, training),
        peers=engines,
        flops=conv.flops * (3 if training else 1),
        # backward reads dy, x and w and writes dx and dw
        elements=3 * (x + w) + 2 * y if training else x + w + y,
        training=training,
        overhead=overhead,
    )


_LAYERS: dict[str, list[tuple[str, Conv]]] = {
    "conv 3x3": [
        ("3x3", Conv((8, 64, 56, 56), 64, 3, padding=1)),
        ("3x3", Conv((8, 128, 28, 28), 128, 3, padding=1)),
        ("3x3", Conv((8, 256, 14, 14), 256, 3, padding=1)),
        ("3x3", Conv((8, 512, 7, 7), 512, 3, padding=1)),
        ("3x3", Conv((1, 64, 56, 56), 64, 3, padding=1)),
        ("3x3", Conv((32, 32, 28, 28), 64, 3, padding=1)),
        ("3x3 digits", Conv((128, 1, 28, 28), 32, 3, padding=1)),
    ],
    "conv other": [
        ("1x1", Conv((8, 256, 56, 56), 64, 1)),
        ("1x1", Conv((8, 64, 56, 56), 256, 1)),
        ("1x1", Conv((8, 1024, 14, 14), 256, 1)),
        ("1x1", Conv((1, 512, 28, 28), 128, 1)),
        ("1x1/2", Conv((8, 256, 56, 56), 512, 1, 2)),
        ("3x3/2", Conv((8, 128, 56, 56), 128, 3, 2, 1)),
        ("7x7/2", Conv((8, 3, 224, 224), 64, 7, 2, 3)),
        ("5x5", Conv((8, 64, 28, 28), 64, 5, padding=2)),
        ("3x3 dilated", Conv((8, 64, 28, 28), 64, 3, padding=2, dilation=2)),
        ("3x3 depthwise", Conv((8, 128, 56, 56), 128, 3, padding=1, groups=128)),
        ("5x5 depthwise", Conv((8, 96, 28, 28), 96, 5, padding=2, groups=96)),
        ("3x3/2 depthwise", Conv((8, 128, 56, 56), 128, 3, 2, 1, groups=128)),
        ("3x3 depthwise x2", Conv((8, 64, 56, 56), 128, 3, padding=1, groups=64)),
        ("3x3 32 groups", Conv((8, 128, 28, 28), 128, 3, padding=1, groups=32)),
        ("k5", Conv((16, 64, 1000), 64, 5, padding=2)),
        ("k3 short", Conv((64, 32, 50), 32, 3, padding=1)),
        ("3x3x3", Conv((1, 32, 8, 28, 28), 32, 3, padding=1)),
        ("4x4/2", Conv((4, 64, 16, 16), 32, 4, 2, 1, transposed=True)),
        ("2x2x2/2", Conv((1, 32, 8, 14, 14), 16, 2, 2, transposed=True)),
        ("k16/8", Conv((4, 64, 200), 32, 16, 8, 4, transposed=True)),
    ],
    "conv nhwc": [
        ("3x3", Conv((8, 64, 56, 56), 64, 3, padding=1)),
        ("1x1", Conv((8, 256, 56, 56), 64, 1)),
        ("3x3/2", Conv((8, 128, 56, 56), 128, 3, 2, 1)),
        ("3x3 depthwise", Conv((8, 128, 56, 56), 128, 3, padding=1, groups=128)),
        ("3x3 depthwise x2", Conv((8, 64, 56, 56), 128, 3, padding=1, groups=64)),
        ("7x7/2", Conv((8, 3, 224, 224), 64, 7, 2, 3)),
    ],
    "conv training": [
        ("3x3", Conv((8, 64, 56, 56), 64, 3, padding=1)),
        ("3x3", Conv((8, 256, 14, 14), 256, 3, padding=1)),
        ("3x3 digits", Conv((128, 1, 28, 28), 32, 3, padding=1)),
        ("1x1", Conv((8, 256, 56, 56), 64, 1)),
        ("3x3/2", Conv((8, 128, 56, 56), 128, 3, 2, 1)),
        ("3x3 depthwise", Conv((8, 128, 56, 56), 128, 3, padding=1, groups=128)),
        ("3x3 depthwise x2", Conv((8, 64, 56, 56), 128, 3, padding=1, groups=64)),
        ("3x3 32 groups", Conv((8, 128, 28, 28), 128, 3, padding=1, groups=32)),
        ("5x5 digits", Conv((128, 16, 14, 14), 32, 5, padding=2)),
        ("7x7/2", Conv((8, 3, 224, 224), 64, 7, 2, 3)),
        ("k5", Conv((16, 64, 1000), 64, 5, padding=2)),
        ("k3 short", Conv((64, 32, 50), 32, 3, padding=1)),
        ("3x3x3", Conv((1, 32, 8, 28, 28), 32, 3, padding=1)),
        ("4x4/2", Conv((4, 64, 16, 16), 32, 4, 2, 1, transposed=True)),
    ],
}


def cases() -> list[Case]:
    """Return the convolution cases."""
    found = [
        _case(what, conv, group=group, training=group == "conv training", nhwc=group == "conv nhwc")
        for group, layers in _LAYERS.items()
        for what, conv in layers
    ]
    image = Conv((8, 64, 56, 56), 64, 3, padding=1)
    depthwise = Conv((8, 128, 56, 56), 128, 3, padding=1, groups=128)
    for what, conv in (("3x3", image), ("3x3 depthwise", depthwise), ("1x1", Conv((8, 256, 56, 56), 64, 1))):
        found.append(_case(what, conv, group="conv training", training=True, nhwc=True))
    found.append(_case("3x3", Conv((1, 1, 4, 4), 1, 3, padding=1), group="overhead", overhead=True))
    return found
