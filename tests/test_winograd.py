"""Winograd's algorithm for convolutions: its error, its edges, and the switch that turns it off."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import arraynn as ann
import numpy as np
import pytest
from checks import assert_same_bits, cotangent_of
from conv_calls import check
from shapes import channels_last, values

STATED_ERROR = 1e-5  # relative, in L2, of float32: as docs/performance.md says


def _error(found: Any, exact: Any) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


Kernel = tuple[int, int]
kernels = pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 3), (1, 5)], ids=str)


@kernels
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "out", "options"),
    [
        ((4, 16, 28, 28), 16, dict(padding=1)),
        ((2, 32, 29, 30), 64, dict(padding=1)),  # tails of one and two pixels
        ((1, 64, 56, 56), 64, dict(padding=0)),
        ((8, 128, 14, 14), 96, dict(padding=1)),
        ((16, 256, 7, 7), 256, dict(padding=2)),
        ((3, 66, 31, 19), 34, dict(padding=(2, 1), groups=2)),  # 33 and 17 channels of a group
        ((3, 322, 8, 9), 290, dict(padding=(2, 1), groups=2)),  # few tiles: a task has a panel of the kernel
    ],
    ids=str,
)
def test_error(shape: tuple[int, ...], out: int, options: dict[str, Any], last: bool, kernel: Kernel) -> None:
    groups = options.get("groups", 1)
    x, w = values(shape, np.float32, 1), values((out, shape[1] // groups, *kernel), np.float32, 2)
    b = values((out,), np.float32, 3)
    x = channels_last(x) if last else x
    y, pullback = ann.vjp(ann.conv2d, x, w, b, **options)
    exact, exact_pullback = ann.vjp(ann.reference.conv2d, *(a.astype(float) for a in (x, w, b)), **options)
    dy = cotangent_of(y)
    assert _error(y, exact) <= STATED_ERROR
    for found, right in zip(pullback(dy), exact_pullback(dy.astype(float)), strict=True):
        assert _error(found, right) <= STATED_ERROR


@kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("size", [4, 5, 6, 7, 9, 18])
def test_edges_of_tiles(size: int, dtype: Any, kernel: Kernel) -> None:
    """Every size modulo the tile, with channels that fill a vector and that do not."""
    for channels, out in ((16, 16), (19, 35)):
        x = values((24, channels, size, size + 1), dtype, 1)
        w = values((out, channels, *kernel), dtype, 2)
        check("conv2d", x, w, values((out,), dtype, 3), padding=kernel[1] // 2)
        check("conv_transpose2d", x, w.transpose(1, 0, 2, 3).copy(), padding=1)


@kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_few_tiles_of_a_large_kernel(dtype: Any, kernel: Kernel) -> None:
    x, w = values((4, 130, 7, 6), dtype, 1), values((258, 130, *kernel), dtype, 2)
    check("conv2d", x, w, values((258,), dtype, 3), padding=kernel[1] // 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("size", [3, 5])
def test_signals(size: int, dtype: Any) -> None:
    """One axis: every length modulo the tile, and a kernel so large that a task has a panel of it."""
    for channels, out, length in ((16, 16, 40), (19, 35, 41), (33, 17, 42), (16, 48, 43), (352, 258, 11)):
        x, w = values((3, channels, length), dtype, 1), values((out, channels, size), dtype, 2)
        check("conv1d", x, w, values((out,), dtype, 3), padding=size // 2)
        check("conv1d", x.transpose(0, 2, 1).copy().transpose(0, 2, 1), w)
        check("conv_transpose1d", x, w.transpose(1, 0, 2).copy(), padding=1)


@kernels
def test_weights_in_any_layout(kernel: Kernel) -> None:
    x, w = values((4, 32, 20, 20), np.float32, 1), values((32, 32, *kernel), np.float32, 2)
    y, pullback = ann.vjp(ann.conv2d, x, w, padding=1)
    dy = cotangent_of(y)
    gradients = pullback(dy)
    for other in (channels_last(w), w.transpose(1, 0, 2, 3).copy().transpose(1, 0, 2, 3)):
        z, other_pullback = ann.vjp(ann.conv2d, x, other, padding=1)
        assert_same_bits(z, y)
        for found, right in zip(other_pullback(dy), gradients, strict=True):
            if right is not None:
                np.testing.assert_array_equal(found, right)


@kernels
@pytest.mark.parametrize(
    ("shape", "out"), [((64, 32, 28, 28), 72), ((2, 200, 14, 14), 72), ((2, 200, 10, 10), 264)], ids=str
)
def test_same_bits_for_any_number_of_threads(shape: tuple[int, ...], out: int, kernel: Kernel) -> None:
    x, w = values(shape, np.float32, 1), values((out, shape[1], *kernel), np.float32, 2)
    before, results = ann.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            ann.set_num_threads(threads)
            y, pullback = ann.vjp(ann.conv2d, x, w, padding=1)
            results.append((y, *pullback(cotangent_of(y))[:2]))
    finally:
        ann.set_num_threads(before)
    for other in results[1:]:
        assert_same_bits(other, results[0])


PROGRAM = """
import numpy as np, arraynn as ann
rng = np.random.default_rng(0)
for k in (3, 5):
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 64, 28, 28), (64, 64, k, k)))
    y, pullback = ann.vjp(ann.conv2d, x, w, padding=1)
    exact, exact_pullback = ann.vjp(ann.conv2d, x.astype(float), w.astype(float), padding=1)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    found = (y, *pullback(dy)[:2])
    right = (exact, *exact_pullback(dy.astype(float))[:2])
    print(*(np.linalg.norm(f - r) / np.linalg.norm(r) for f, r in zip(found, right)))
"""


def _run(winograd: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ARRAYNN_WINOGRAD": winograd}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_switch() -> None:
    errors = {on: [float(e) for e in _run(on).stdout.split()] for on in ("0", "1", "")}
    assert len(errors["0"]) == 6
    assert errors["1"] == errors[""]  # it is on unless turned off
    for i, (without, with_it) in enumerate(zip(errors["0"], errors["1"], strict=True)):
        assert without < (6e-7 if i < 3 else 1e-6) < with_it < STATED_ERROR  # a sum of 5x5 taps is longer


def test_the_switch_refuses_what_it_does_not_know() -> None:
    done = _run("off")
    assert done.returncode
    assert done.stderr.splitlines()[-1] == "ValueError: ARRAYNN_WINOGRAD: got 'off', expected 0 or 1"
