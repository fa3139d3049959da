"""What is measured on a GPU: the cases, the groups they are summed up in, and what each has to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gpu_ops as ops
from gpu_ops import Case, Conv, Net, Window


@dataclass(frozen=True)
class Group:
    """A line of the summary and what it has to reach.

    Attributes
    ----------
    ratio : float or None
        Least geometric mean of PyTorch's time over ours.
    percent : float or None
        Least geometric mean of the floor over our time, in percent.
    """

    ratio: float | None = None
    percent: float | None = None


_MEMORY = Group(1.0, 85.0)
GROUPS: dict[str, Group] = {
    "activation forward": _MEMORY,
    "activation backward": _MEMORY,
    "pool forward": _MEMORY,
    "pool backward": _MEMORY,
    "pool volumes, adaptive maxima": Group(),
    "dropout, mse": _MEMORY,
    "cross-entropy": Group(1.5, 85.0),
    "optimizer": _MEMORY,
    "optimizer, 2000 tensors": Group(1.0),
    "conv fp16 channels-last": Group(0.9),
    "conv bf16 channels-last": Group(0.9),
    "conv fp16 NCHW": Group(0.9),
    "conv fp32": Group(1.5),
    "conv depthwise fp16": Group(0.9),
    "conv depthwise fp32": Group(1.5),
    "embedding": Group(),
    "conv 3d": Group(),
    "conv transposed": Group(),
    "linear fp32": Group(),
    "linear tf32": Group(),
    "linear bf16": Group(),
    "attention forward": Group(),
    "attention training": Group(),
    "lstm forward": Group(1.2),
    "lstm training": Group(1.2),
    "gru forward": Group(1.2),
    "gru training": Group(1.2),
    "rnn forward": Group(),
    "rnn training": Group(),
    "normalization forward": Group(),
    "normalization backward": Group(),
    "small calls": Group(1.0),
}
# What the project promises, and the groups whose cases it is judged over.
POINTS: dict[str, tuple[str, ...]] = {
    "memory-bound ops": (
        "activation forward",
        "activation backward",
        "pool forward",
        "pool backward",
        "dropout, mse",
        "optimizer",
        "optimizer, 2000 tensors",
    ),
    "softmax-cross-entropy": ("cross-entropy",),
    "16-bit convolution, ResNet-50": ("conv fp16 channels-last", "conv bf16 channels-last"),
    "float32 convolution, ResNet-50": ("conv fp32",),
    "LSTM and GRU": ("lstm forward", "lstm training", "gru forward", "gru training"),
}


# The distinct layers of ResNet-50 (He et al., 2015; the stride in the 3x3, as in torchvision), the
# kinds in turn, so that a run cut short has seen each.
RESNET50 = (
    Conv(64, 56, 64, 3),
    Conv(256, 56, 64, 1),
    Conv(256, 28, 256, 3, 2),
    Conv(3, 224, 64, 7, 2),
    Conv(256, 14, 1024, 1),
    Conv(128, 28, 128, 3),
    Conv(512, 28, 1024, 1, 2),
    Conv(512, 7, 512, 3),
    Conv(64, 56, 256, 1),
    Conv(256, 14, 256, 3),
    Conv(512, 28, 128, 1),
    Conv(128, 56, 128, 3, 2),
    Conv(2048, 7, 512, 1),
    Conv(64, 56, 64, 1),
    Conv(256, 56, 512, 1, 2),
    Conv(1024, 14, 256, 1),
    Conv(512, 14, 512, 3, 2),
    Conv(128, 28, 512, 1),
    Conv(256, 56, 128, 1),
    Conv(512, 28, 256, 1),
    Conv(1024, 14, 512, 1),
    Conv(1024, 14, 2048, 1, 2),
    Conv(512, 7, 2048, 1),
)
DEPTHWISE = tuple(
    Conv(channels, size, channels, kernel, stride, channels)
    for channels, size, kernel, stride in ((32, 112, 3, 1), (128, 56, 3, 2), (512, 14, 3, 1), (240, 28, 5, 1))
)
# Of a video network (Tran et al., "A closer look at spatiotemporal convolutions", 2018).
VOLUMES = (Conv(64, 28, 64, 3, batch=8, axes=3), Conv(64, 28, 128, 3, 2, batch=8, axes=3))
# Of a decoder (Radford et al., DCGAN, 2015).
TRANSPOSED = (Conv(512, 16, 256, 4, 2, transposed=True), Conv(128, 32, 64, 4, 2, transposed=True))
PASSES = ("forward", "dinput", "dweight")


_ACTIVATIONS = (
    "relu",
    "leaky_relu",
    "elu",
    "sigmoid",
    "tanh",
    "gelu",
    "silu",
    "softplus",
    "softmax",
    "log_softmax",
)
_LOSSES = ("mse_loss", "l1_loss", "huber_loss", "kl_div", "binary_cross_entropy_with_logits")
_PLANES, _ROWS = (64, 256, 56, 56), (16384, 4096)
_NORMS = (
    ("layer_norm", (16384, 1024)),
    ("layer_norm", (8192, 4096)),
    ("rms_norm", (8192, 4096)),
)
_NORM_PLANES = (64, 256, 28, 28)
_WINDOWS = (
    Window("max_pool2d", (64, 64, 112, 112), 3, 2, 1),
    Window("max_pool2d", (64, 128, 56, 56), 2, 2),
    Window("avg_pool2d", (64, 128, 56, 56), 2, 2),
    Window("adaptive_avg_pool2d", (256, 2048, 7, 7), 1),
    Window("adaptive_avg_pool2d", (256, 512, 14, 14), 7),
)
# Of those there is no promise yet.
_OTHER_WINDOWS = (
    Window("max_pool3d", (8, 64, 16, 56, 56), 2, 2),
    Window("avg_pool3d", (8, 64, 16, 56, 56), 2, 2),
    Window("adaptive_avg_pool3d", (64, 512, 4, 14, 14), 1),
    Window("adaptive_max_pool2d", (256, 512, 14, 14), 5),
    Window("adaptive_max_pool3d", (64, 512, 4, 14, 14), 3),
)
_NETS = (
    # steps, batch, hidden
    (64, 64, 512),
    (256, 1, 256),
    (128, 32, 1024),
    (256, 64, 256),
    (64, 1, 1024),
    (64, 16, 128),
    (128, 8, 512),
)
_OPTIMIZERS = ("adam_step", "sgd_step", "rmsprop_step", "adagrad_step", "clip_grad_norm", "clip_grad_value")
_BIG, _MANY = [(4096, 4096)] * 4, [(1024,)] * 2000


def _small() -> list[Case]:
    small: dict[str, Any] = {"group": "small calls", "graph": True, "rotates": False}
    image = Conv(64, 28, 64, 3, batch=1)
    window = Window("max_pool2d", (1, 64, 56, 56), 2, 2)
    return [
        ops.activation("relu", (64, 1024), "float32", **small),
        ops.cross_entropy(128, 1000, "float32", True, **small),
        ops.conv(image, "forward", "float16", True, **small),
        ops.linear(64, 512, 512, "float32", **small),
        ops.optimizer("adam_step", "20 tensors of 64x64", [(64, 64)] * 20, **small),
        ops.cell("lstm", 32, 256, **small),
        ops.activation("softmax", (128, 1000), "float32", **small),
        ops.pool(window, "float32", False, **small),
        ops.linear(64, 512, 512, "bfloat16", **small),
        ops.cell("gru", 32, 256, **small),
        ops.cell("rnn", 32, 256, **small),
        ops.pointwise_loss("mse_loss", (128, 1000), "float32", True, **small),
        ops.dropout((64, 1024), "float32", False, **small),
    ]


def cases() -> list[Case]:
    """Return all cases in the order in which they run: the groups in turn, so that none comes last."""
    found = _small()
    for dtype in ("float32", "bfloat16"):
        for op in _ACTIVATIONS:
            shape = _ROWS if op.endswith("softmax") else _PLANES
            found += [ops.activation(op, shape, dtype), ops.activation_backward(op, shape, dtype)]
        for channels_last in (False, True):
            for window in _WINDOWS:
                found.append(ops.pool(window, dtype, channels_last))
                found.append(ops.pool_backward(window, dtype, channels_last))
        for window in _OTHER_WINDOWS:
            group = "pool volumes, adaptive maxima"
            found.append(ops.pool(window, dtype, False, group=group))
            found.append(ops.pool_backward(window, dtype, False, group=group))
        for flag in (False, True):
            found += [ops.normalization(op, shape, dtype, flag) for op, shape in _NORMS]
            found += [
                ops.normalization(op, _NORM_PLANES, dtype, flag, channels_last=last)
                for op in ("batch_norm", "group_norm")
                for last in (False, True)
            ]
            found.append(ops.dropout(_PLANES, dtype, flag))
            found += [ops.pointwise_loss(op, _ROWS, dtype, flag) for op in _LOSSES]
    for rows, classes, dtype in (
        (8192, 50257, "bfloat16"),
        (8192, 50257, "float32"),
        (65536, 1000, "float32"),
        (4096, 128000, "bfloat16"),
    ):
        found.append(ops.cross_entropy(rows, classes, dtype, True))
    found.append(ops.nll(65536, 1000, "float32", True))
    found += [ops.linear_cross_entropy(8192, 1024, 50257, dtype) for dtype in ("float32", "bfloat16")]
    for op in _OPTIMIZERS:
        found.append(ops.optimizer(op, "4 tensors of 4096x4096", _BIG, "optimizer"))
        many = "optimizer, 2000 tensors"
        # clipping hands the host a number, which no graph can
        found.append(ops.optimizer(op, "2000 tensors of 1024", _MANY, many, graph=op != "clip_grad_norm"))
    for layer in RESNET50:
        for which in PASSES:
            found.append(ops.conv(layer, which, "float16", True, "conv fp16 channels-last"))
            found.append(ops.conv(layer, which, "float32", False, "conv fp32"))
            found.append(ops.conv(layer, which, "bfloat16", True, "conv bf16 channels-last"))
            if layer in RESNET50[:5]:
                found.append(ops.conv(layer, which, "float16", False, "conv fp16 NCHW"))
    for layer in DEPTHWISE:
        for which in PASSES:
            found.append(ops.conv(layer, which, "float16", True, "conv depthwise fp16"))
            found.append(ops.conv(layer, which, "float32", False, "conv depthwise fp32"))
    for dtype in ("bfloat16", "float32"):
        found += [ops.embedding(16384, 50257, 1024, dtype, backward) for backward in (False, True)]
    for layer in VOLUMES:
        for which in PASSES:
            found.append(ops.conv(layer, which, "float16", True, "conv 3d"))
            found.append(ops.conv(layer, which, "float32", False, "conv 3d"))
    for layer in TRANSPOSED:
        for which in PASSES:
            found.append(ops.conv(layer, which, "float16", True, "conv transposed"))
            found.append(ops.conv(layer, which, "float32", False, "conv transposed"))
    for size in (4096, 1024, 8192, 2048):
        found.append(ops.linear(size, size, size, "float32"))
        found.append(ops.linear(size, size, size, "float32", tf32=True))
        found.append(ops.linear(size, size, size, "bfloat16"))
    found += [ops.linear(4096, 4096, 4096, dtype, backward=True) for dtype in ("float32", "bfloat16")]
    found.append(ops.linear(4096, 4096, 4096, "float32", tf32=True, backward=True))
    for causal in (False, True):
        for training in (False, True):
            found.append(ops.attention(4, 16, 2048, 128, "bfloat16", causal, training))
            found.append(ops.attention(4, 16, 2048, 64, "float32", causal, training))
    for steps, batch, hidden in _NETS:
        for kind in ("lstm", "gru"):
            for training in (False, True):
                found.append(ops.rnn(Net(kind, steps, batch, hidden, hidden), training))
    found += [ops.rnn(Net("rnn", *_NETS[0], _NETS[0][-1]), training) for training in (False, True)]
    steps, batch, hidden = _NETS[0]
    projected = Net("lstm", steps, batch, hidden, hidden, hidden // 4)
    found += [ops.rnn(projected, training) for training in (False, True)]
    return _in_turn(found)


def _in_turn(found: Sequence[Case]) -> list[Case]:
    """Order cases so that the first of every group comes before the second of any."""
    ranks: dict[str, int] = {}
    keys = []
    for case in found:
        rank = ranks.setdefault(case.group, 0)
        ranks[case.group] += 1
        keys.append((rank, list(GROUPS).index(case.group)))
    return [case for _, case in sorted(zip(keys, found, strict=True), key=lambda pair: pair[0])]


def tiny() -> list[Case]:
    """Return a case of every op and pass at odd sizes: for tools that slow a kernel down a hundredfold."""
    found: list[Case] = []
    for dtype in ("float32", "bfloat16"):
        for op in _ACTIVATIONS:
            found += [ops.activation(op, (5, 131), dtype), ops.activation_backward(op, (5, 131), dtype)]
        for channels_last in (False, True):
            for window in (
                Window("max_pool2d", (2, 5, 13, 17), 3, 2, 1),
                Window("avg_pool2d", (2, 5, 13, 17), 2, 2),
                Window("adaptive_avg_pool2d", (2, 5, 7, 7), 1),
                Window("adaptive_avg_pool2d", (2, 5, 13, 17), 6),
            ):
                found.append(ops.pool(window, dtype, channels_last))
                found.append(ops.pool_backward(window, dtype, channels_last))
            found.append(ops.pool(Window("adaptive_max_pool2d", (2, 5, 13, 17), 6), dtype, channels_last))
            for layer in (
                Conv(5, 13, 11, 3, 2, batch=2),
                Conv(6, 9, 6, 3, 1, 6, 2),
                Conv(24, 9, 40, 1, batch=3),
            ):
                found += [ops.conv(layer, which, dtype, channels_last, "conv fp32") for which in PASSES]
            volume = Conv(5, 5, 11, 3, 2, batch=2, axes=3)
            found += [ops.conv(volume, which, dtype, channels_last, "conv 3d") for which in PASSES]
            decoder = Conv(5, 6, 11, 3, 2, batch=2, transposed=True)
            found += [ops.conv(decoder, which, dtype, channels_last, "conv transposed") for which in PASSES]
        for flag in (False, True):
            found += [ops.normalization(op, (5, 131), dtype, flag) for op in ("layer_norm", "rms_norm")]
            found += [
                ops.normalization(op, (3, 10, 5, 7), dtype, flag, channels_last=last, groups=5)
                for op in ("batch_norm", "group_norm")
                for last in (False, True)
            ]
            found.append(ops.dropout((37, 131), dtype, flag))
            found += [ops.pointwise_loss(op, (37, 131), dtype, flag) for op in _LOSSES]
            found.append(ops.linear(33, 65, 17, dtype, backward=flag))
            found.append(ops.embedding(37, 11, 17, dtype, flag))
            found += [ops.cross_entropy(7, 131, dtype, flag), ops.nll(7, 131, dtype, flag)]
            found += [ops.attention(2, 3, 70, 24, dtype, causal, flag) for causal in (False, True)]
        found.append(ops.linear_cross_entropy(7, 17, 131, dtype))
    for window in (  # PyTorch's host side, which the tests look at, has no mean of bfloat16 volumes
        Window("max_pool3d", (2, 3, 7, 9, 11), 3, 2, 1),
        Window("avg_pool3d", (2, 3, 7, 9, 11), 2, 2),
        Window("adaptive_avg_pool3d", (2, 3, 7, 9, 11), 4),
        Window("adaptive_max_pool3d", (2, 3, 7, 9, 11), 4),
    ):
        found += [ops.pool(window, "float32", False), ops.pool_backward(window, "float32", False)]
    for op in _OPTIMIZERS:
        found.append(ops.optimizer(op, "odd tensors", [(131,), (7, 5), (1,)], "optimizer"))
    for kind in ("lstm", "gru", "rnn"):
        found.append(ops.cell(kind, 5, 17))
        for steps, batch, hidden in ((3, 5, 17), (4, 1, 64)):
            found += [ops.rnn(Net(kind, steps, batch, 19, hidden), flag) for flag in (False, True)]
    found += [ops.rnn(Net("lstm", 3, 5, 19, 17, 6), flag) for flag in (False, True)]
    return found
