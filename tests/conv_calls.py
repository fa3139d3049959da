"""Calls of convolutions: drawn, and chosen for what a kernel may do."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
from checks import check_op
from device import ann
from shapes import arrays, small, wide_dtypes, widths
from tolerance import largest

Case = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]  # shapes of input and weight, options


# Winograd's transforms multiply by up to 8 and take differences: two to three bits more are lost than by sums
# of products (test_winograd.py holds what the documentation says of the error).
WINOGRAD_LOSS = 8.0


def _may_be_winograd(w: Any, stride: Any = 1, dilation: Any = 1, **_: Any) -> bool:
    """Tell whether the call is one of those that the algorithm is for, whatever its size."""
    ones = all(np.all(np.asarray(option) == 1) for option in (stride, dilation))
    *others, last = w.shape[2:]
    fits = last in (3, 5) and others[-1:] in ([], [1], [last])
    return fits and ones and min(w.shape[:2]) >= 8


def check(name: str, x: Any, w: Any, b: Any = None, **options: Any) -> Any:
    """`check_op` with the bounds of a convolution: how many products each result sums."""
    axes = w.ndim - 2
    kernel = int(np.prod(w.shape[2:]))
    out = getattr(ann.reference, name)(x, w, b, **options)
    scale = largest(x) * largest(w) + (largest(b) if b is not None else 0)
    lost = WINOGRAD_LOSS if _may_be_winograd(w, **options) else 1.0
    outer, inner = w.shape[0] // options.get("groups", 1), w.shape[1]
    seen, spread, gathered = (outer, inner, x) if "transpose" in name else (inner, outer, out)
    bounds = {
        "out": (seen * kernel + 1, lost * scale),
        "input": (spread * kernel, lost * largest(w)),
        "weight": (max(1, gathered.size // max(1, w.shape[0])), lost * largest(x)),
        "bias": (max(1, out.size // max(1, out.shape[-axes - 1])), 1.0),
    }
    y = check_op(name, x, w, b, bounds=bounds, **options)
    assert y.ndim == x.ndim
    return y


@st.composite
def cases(draw: st.DrawFn, axes: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    dtype = draw(wide_dtypes)
    longest, room, width, channels = (5, 6, widths, widths) if axes < 3 else (3, 2, st.integers(1, 10), small)
    kernel = tuple(draw(st.integers(1, longest)) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, min(longest - 1, 3))) for _ in range(axes))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    padding = draw(st.sampled_from(["ints", "same", "valid"]))
    if padding == "same":
        stride = (1,) * axes
    pads: Any = tuple(draw(st.integers(0, 3)) for _ in range(axes)) if padding == "ints" else padding
    size = []
    for i in range(axes):
        span = dilation[i] * (kernel[i] - 1) + 1
        around = 2 * pads[i] if padding == "ints" else span - 1 if padding == "same" else 0
        size.append(
            max(1, span - around) + (draw(width) - 1 if i == axes - 1 else draw(st.integers(0, room)))
        )
    groups = draw(st.sampled_from([1, 1, 2, 3, 8] if axes < 3 else [1, 1, 2, 4]))
    depthwise = draw(st.booleans()) and groups > 1
    per_group, out_per_group = (1, draw(st.integers(1, 2))) if depthwise else (draw(small), draw(small))
    if groups == 1:
        per_group, out_per_group = draw(channels), draw(channels)
    batch = draw(st.sampled_from([(), (0,), (1,), (2,), (3,)]))
    x = draw(arrays((*batch, groups * per_group, *size), dtype, ("normal", "outliers"), spatial=axes))
    w = draw(arrays((groups * out_per_group, per_group, *kernel), dtype, spatial=axes))
    b = draw(st.none() | arrays((groups * out_per_group,), dtype))
    options = dict(stride=stride, padding=pads, dilation=dilation, groups=groups)
    return (x, w, b), {k: v for k, v in options.items() if draw(st.booleans()) or _needed(k, v)}


@st.composite
def transpose_cases(draw: st.DrawFn, axes: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    dtype = draw(wide_dtypes)
    longest, room, width, channels = (4, 4, widths, widths) if axes < 3 else (3, 2, st.integers(1, 7), small)
    kernel, stride, dilation, padding = (
        tuple(draw(st.integers(*span)) for _ in range(axes))
        for span in ((1, longest), (1, 3), (1, 3), (0, 3))
    )
    more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    size = []
    for i in range(axes):
        cut = 2 * padding[i] - dilation[i] * (kernel[i] - 1) - more[i]
        least = 1 if cut <= 0 else 1 + -(-cut // stride[i])
        size.append(least + (draw(width) - 1 if i == axes - 1 else draw(st.integers(0, room))))
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    depthwise = draw(st.booleans()) and groups > 1
    per_group, out_per_group = (1, draw(st.integers(1, 2))) if depthwise else (draw(small), draw(small))
    if groups == 1:
        per_group, out_per_group = draw(channels), draw(channels)
    batch = draw(st.sampled_from([(), (0,), (1,), (2,)]))
    x = draw(arrays((*batch, groups * per_group, *size), dtype, ("normal", "outliers"), spatial=axes))
    w = draw(arrays((groups * per_group, out_per_group, *kernel), dtype, spatial=axes))
    b = draw(st.none() | arrays((groups * out_per_group,), dtype))
    options = dict(stride=stride, padding=padding, output_padding=more, groups=groups, dilation=dilation)
    return (x, w, b), {k: v for k, v in options.items() if draw(st.booleans()) or _needed(k, v)}


def _needed(name: str, value: Any) -> bool:
    """Return whether leaving the option out would change its meaning."""
    default = 0 if "padding" in name else 1
    spelled = (value,) if isinstance(value, int | str) else value
    return any(v != default for v in spelled)


# Each chosen for a path or a tail that a kernel may have: (input, weight, options).
CASES: list[Case] = [
    ((2, 3, 32, 32), (16, 3, 3, 3), dict(padding=1)),
    ((1, 16, 28, 28), (32, 16, 3, 3), dict(padding="same")),
    ((2, 33, 14, 15), (17, 33, 3, 3), dict(padding=1)),
    ((1, 3, 37, 41), (8, 3, 7, 7), dict(stride=2, padding=3)),
    ((2, 64, 9, 9), (65, 64, 1, 1), dict()),
    ((2, 66, 9, 9), (62, 33, 1, 1), dict(groups=2)),
    ((1, 1100, 7, 6), (20, 1100, 1, 1), dict()),
    ((2, 64, 9, 9), (31, 64, 1, 1), dict(stride=2)),
    ((2, 32, 17, 18), (32, 1, 3, 3), dict(groups=32, padding=1)),
    ((1, 35, 17, 19), (70, 1, 3, 3), dict(groups=35, padding=1, stride=2)),
    ((2, 19, 13, 14), (19, 1, 5, 5), dict(groups=19, padding=2)),
    ((2, 12, 11, 13), (8, 3, 3, 3), dict(groups=4, padding=1)),
    ((1, 16, 20, 20), (16, 16, 3, 3), dict(dilation=2, padding=2)),
    ((1, 1, 5, 300), (1, 1, 3, 3), dict()),
    ((1, 257, 3, 3), (2, 257, 3, 3), dict()),
    ((1, 2, 3, 3), (257, 2, 3, 3), dict(padding=1)),
    ((5, 4, 1, 1), (6, 4, 1, 1), dict()),
    ((1, 4, 1, 1), (6, 4, 5, 5), dict(padding="same")),
    ((1, 4, 6, 6), (6, 4, 6, 6), dict()),
    ((1, 4, 6, 6), (6, 4, 2, 2), dict(stride=5)),
    ((1, 4, 6, 6), (6, 4, 2, 2), dict(padding=4)),
]


CASES_3D: list[Case] = [
    ((2, 3, 4, 5, 17), (16, 3, 3, 3, 3), dict(padding=1)),
    ((1, 16, 5, 4, 9), (8, 16, 3, 1, 2), dict(padding="same", dilation=(1, 1, 2))),
    ((2, 33, 3, 4, 5), (17, 33, 1, 1, 1), dict()),
    ((1, 9, 4, 5, 6), (5, 9, 1, 1, 1), dict(stride=2)),
    ((2, 16, 4, 5, 18), (16, 1, 3, 3, 3), dict(groups=16, padding=1)),
    ((1, 5, 5, 6, 7), (10, 1, 2, 3, 4), dict(groups=5, padding=2, stride=(2, 1, 3))),
    ((2, 16, 5, 6, 7), (8, 4, 3, 3, 2), dict(groups=4, padding=1, stride=(3, 2, 2), dilation=(2, 3, 1))),
    ((1, 2, 1, 1, 1), (3, 2, 3, 3, 3), dict(padding=1)),
    ((1, 8, 2, 3, 3), (3, 8, 3, 1, 1), dict(padding=(3, 0, 0))),
]


CASES_TRANSPOSED: list[Case] = [
    ((2, 5, 17), (5, 8, 4), dict(stride=2, padding=1)),
    ((7, 33), (7, 3, 5), dict(stride=3, output_padding=1)),
    ((2, 3, 8, 9), (3, 16, 4, 4), dict(stride=2, padding=1)),
    ((1, 16, 7, 17), (16, 8, 2, 2), dict(stride=2)),
    ((2, 33, 5, 6), (33, 17, 3, 3), dict(padding=1)),
    ((2, 33, 5, 6), (33, 17, 1, 1), dict()),
    ((2, 8, 5, 6), (8, 9, 1, 1), dict(stride=2, output_padding=1)),  # pixels that no tap reaches
    ((2, 32, 6, 7), (32, 1, 3, 3), dict(groups=32, stride=2, padding=1, output_padding=1)),
    ((1, 5, 4, 9), (5, 2, 3, 3), dict(groups=5, stride=(1, 2))),
    ((1, 16, 4, 5), (16, 4, 3, 3), dict(groups=4, dilation=2, stride=3, output_padding=2)),
    ((1, 4, 3, 3), (4, 6, 3, 3), dict(dilation=3, output_padding=2)),
    ((1, 2, 1, 1), (2, 3, 2, 2), dict(stride=5, output_padding=4)),
    ((1, 4, 6, 6), (4, 6, 2, 2), dict(padding=3)),
    ((1, 8, 2, 3, 4), (8, 5, 3, 3, 3), dict(stride=2, padding=1, output_padding=1)),
    ((2, 4, 2, 2, 9), (4, 4, 2, 2, 2), dict(stride=2)),
    ((1, 8, 2, 3, 3), (8, 1, 3, 2, 3), dict(groups=8, stride=(1, 2, 1))),
]
