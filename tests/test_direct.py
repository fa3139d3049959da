"""The convolutions that pack nothing but their weights: the edges of their tasks, tiles and vectors."""

from __future__ import annotations

from typing import Any

import arraynn as ann
import numpy as np
import pytest
from checks import assert_same_bits, cotangent_of
from conv_calls import check
from shapes import channels_last, values
from tolerance import assert_close, largest

SHAPES = [  # input, weight, options
    (
        (2, 17, 11, 13),
        (33, 17, 3, 3),
        dict(stride=2, padding=1),
    ),  # one channel beyond a vector, and two vectors
    (
        (2, 16, 9, 30),
        (19, 16, 4, 5),
        dict(stride=(1, 3), padding=(2, 1)),
    ),  # a stride without a kernel of its own
    ((1, 5, 40, 12), (16, 5, 3, 2), dict(dilation=2)),
    ((3, 32, 7, 8), (64, 16, 5, 5), dict(padding=2, groups=2)),
    (
        (2, 20, 9, 11),
        (162, 10, 3, 3),
        dict(stride=2, padding=1, groups=2),
    ),  # two panels of channels in a group
    ((1, 1, 70, 100), (16, 1, 2, 2), {}),  # more columns than a task has
    ((1, 24, 6, 10), (130, 24, 2, 3), {}),  # more outputs than a block of the gradient has
    ((2, 16, 33, 33), (16, 16, 7, 7), dict(stride=4, padding=3)),
    ((65, 16, 5, 5), (16, 16, 2, 2), {}),  # more places than chunks
    (
        (1, 16, 64, 16),
        (16, 16, 3, 1),
        dict(dilation=(16, 1)),
    ),  # taps so far apart that few rows are not worth it
]
FEW = [  # output channels, so that lanes are pixels
    ((2, 16, 9, 13), (1, 16, 3, 3), dict(padding=1)),
    ((1, 5, 8, 40), (7, 5, 2, 4), {}),
    ((3, 3, 70, 6), (2, 3, 5, 1), dict(padding=(2, 0))),
    ((2, 8, 12, 15), (6, 4, 3, 3), dict(padding=2, dilation=2, groups=2)),
    ((2, 70, 64, 64), (3, 70, 3, 3), dict(padding=1)),  # several tasks of an image
    ((1, 2, 112, 16), (2, 2, 3, 1), dict(dilation=(24, 1))),
]
THIN = [  # groups of so few channels that little is computed with a pixel
    ((2, 17, 9, 13), (17, 1, 3, 3), dict(padding=1, groups=17)),
    ((2, 32, 11, 40), (32, 1, 5, 3), dict(padding=(2, 1), groups=32, stride=2)),
    ((1, 16, 8, 50), (16, 1, 2, 4), dict(groups=16, stride=(1, 3), dilation=(3, 2))),
    ((3, 5, 7, 7), (10, 1, 7, 7), dict(padding=3, groups=5)),  # two outputs of each input
    ((2, 6, 6, 9), (3, 2, 3, 3), dict(padding=2, groups=3)),  # and two inputs of each output
    ((1, 6, 12, 10), (6, 2, 3, 2), dict(groups=3, stride=2, dilation=2)),
    ((2, 33, 6, 5), (33, 1, 1, 1), dict(groups=33)),
    ((1, 8, 3, 4), (8, 1, 9, 9), dict(padding=4, groups=8)),  # pixels that are mostly padding
    ((1, 4, 90, 130), (4, 1, 3, 3), dict(padding=1, groups=4)),  # several tasks of an image
    ((65, 16, 4, 4), (16, 1, 2, 2), dict(groups=16, stride=3)),
    ((1, 6, 9, 150), (6, 1, 5, 5), dict(padding=2, groups=6)),  # rows together, several tiles of columns
    ((2, 9, 10, 20), (9, 1, 7, 7), dict(padding=3, groups=9)),
    ((1, 4, 12, 70), (4, 1, 3, 3), dict(dilation=(1, 3), padding=1, groups=4)),
    ((1, 3, 43, 500), (3, 1, 3, 3), dict(padding=1, groups=3)),
    ((1, 3, 21, 85), (3, 1, 7, 7), dict(padding=3, stride=2, groups=3)),
    ((2, 4, 9, 19), (4, 1, 3, 5), dict(padding=(4, 6), groups=4)),  # rows and columns wholly outside
    ((1, 2, 5, 33), (2, 1, 5, 3), dict(padding=(1, 0), groups=2)),  # fewer rows than are computed together
    ((2, 3, 9, 66), (3, 1, 5, 11), dict(padding=(2, 5), stride=2, groups=3)),
]
VOLUMES = [
    ((2, 16, 5, 7, 9), (18, 16, 3, 3, 3), dict(stride=2, padding=1)),
    ((1, 17, 4, 6, 8), (16, 17, 2, 3, 2), dict(padding=(3, 1, 0))),  # slices wholly outside
    ((1, 16, 9, 8, 8), (16, 16, 3, 2, 2), dict(dilation=(2, 1, 1))),
    ((2, 4, 5, 6, 7), (3, 4, 2, 3, 3), dict(padding=1)),
    ((2, 17, 5, 6, 7), (17, 1, 3, 2, 3), dict(padding=1, stride=(2, 1, 2), groups=17)),
    (
        (1, 16, 1, 32, 32),
        (16, 16, 1, 3, 3),
        dict(padding=1, stride=(3, 1, 1)),
    ),  # the one slice sees padding alone
]
SIGNALS = [
    ((3, 20, 205), (35, 20, 5), dict(padding=2)),
    ((1, 16, 97), (16, 16, 9), dict(stride=2)),
    ((20, 16), (16, 20, 3), dict(padding=1)),  # no batch
    ((2, 18, 300), (18, 1, 31), dict(padding=15, groups=18)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize(("shape", "kernel", "options"), SHAPES + FEW + THIN + VOLUMES + SIGNALS, ids=str)
def test_edges(shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], dtype: Any) -> None:
    axes = len(kernel) - 2
    x, w, b = values(shape, dtype, 1), values(kernel, dtype, 2), values(kernel[:1], dtype, 3)
    check(f"conv{axes}d", x, w, b, **options)
    check(f"conv{axes}d", x, channels_last(w, axes), **options)
    if len(shape) == axes + 2:
        check(f"conv{axes}d", channels_last(x, axes), w, b, **options)


@pytest.mark.parametrize(("shape", "kernel", "options"), SHAPES + THIN + VOLUMES[::2], ids=str)
def test_transposed(shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any]) -> None:
    axes, groups = len(kernel) - 2, options.get("groups", 1)
    channels = (kernel[0] // groups, kernel[1] * groups)
    x = values((shape[0], kernel[0], *shape[2:]), np.float32, 1)
    w, b = values(kernel, np.float32, 2), values((channels[1],), np.float32, 3)
    check(f"conv_transpose{axes}d", x, w, b, **options)
    check(f"conv_transpose{axes}d", channels_last(x, axes), w, b, **options)


def test_taps_far_apart() -> None:
    """Distances whose products no integer holds: all taps but one meet padding."""
    far = 2**28
    x, w = values((2, 16, 3, 4, 5), np.float32, 1), values((16, 16, 3, 3, 3), np.float32, 2)
    options = dict(dilation=(far, far, 1), padding=(far, far, 1))
    y, pullback = ann.vjp(ann.conv3d, x, w, **options)
    near, near_pullback = ann.vjp(ann.conv3d, x, w[:, :, 1:2, 1:2].copy(), padding=(0, 0, 1))
    scale = largest(x) * largest(w)
    assert_close(y, near, terms=48, scale=scale)
    dy = cotangent_of(y)
    for found, right in zip(pullback(dy)[:2], near_pullback(dy)[:2], strict=True):
        inner = found if found.shape == right.shape else found[:, :, 1:2, 1:2]
        assert_close(inner, right, terms=200, scale=scale)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("out", [1, 2, 3, 5])
def test_transposed_to_few_channels(out: int, stride: int) -> None:
    """Each phase of the stride has taps of its own, or none."""
    for shape, kernel in (((2, 16, 9, 13), (16, out, 4, 4)), ((1, 9, 5, 6), (9, out, 2, 3))):
        x, w, b = values(shape, np.float32, 1), values(kernel, np.float32, 2), values((out,), np.float32, 3)
        check("conv_transpose2d", x, w, b, stride=stride, padding=1)


@pytest.mark.parametrize(("shape", "kernel", "options"), SHAPES + FEW + THIN + VOLUMES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_same_bits_for_any_number_of_threads(
    shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], last: bool
) -> None:
    op = getattr(ann, f"conv{len(kernel) - 2}d")
    x, w = values(shape, np.float32, 1), values(kernel, np.float32, 2)
    b = values(kernel[:1], np.float32, 3)  # which engines add first or last
    if last:
        x = channels_last(x, len(kernel) - 2)
    before, results = ann.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            ann.set_num_threads(threads)
            y, pullback = ann.vjp(op, x, w, b, **options)
            results.append((y, *pullback(cotangent_of(y))[:2]))
    finally:
        ann.set_num_threads(before)
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_depthwise_infinity_reaches_what_sees_it(last: bool, stride: int) -> None:
    """Pixels behind a row's end, which vectors read too, must not."""
    x, w = values((2, 16, 6, 17), np.float32, 1), values((16, 1, 3, 3), np.float32, 2)
    x[:, :, 3, 0] = np.inf
    if last:
        x = channels_last(x, 2)
    options = dict(stride=stride, padding=1, groups=16)
    y, pullback = ann.vjp(ann.conv2d, x, w, **options)
    reference = ann.reference.conv2d(x, w, **options)
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(reference))
    dy = np.zeros_like(y)
    dy[..., -1] = 1  # these outputs see finite pixels alone
    _, dw, _ = pullback(dy)
    with np.errstate(invalid="ignore"):  # zero times infinity, where a tap meets it
        _, expected, _ = ann.vjp(ann.reference.conv2d, x, w, **options)[1](dy)
    assert np.isfinite(dw[np.isfinite(expected)]).all()
