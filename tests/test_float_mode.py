"""Subnormal numbers count as zero inside sums of products, in all threads, and nowhere else."""

from __future__ import annotations

import arraynn as ann
import numpy as np
import pytest
from checks import assert_same_bits

TINY = np.float32(1e-40)


def calls():
    x = np.ones((4, 32, 24, 24), np.float32)
    rows, steps = np.ones((512, 512), np.float32), np.ones((6, 40, 64), np.float32)
    params = [np.full(shape, TINY) for shape in ((256, 64), (256, 64), (256,), (256,))]
    return {
        "linear": lambda: ann.linear(rows, rows * TINY),
        "conv2d": lambda: ann.conv2d(x, np.full((32, 32, 3, 3), TINY), None, 1, 1),
        "conv2d depthwise": lambda: ann.conv2d(
            x * TINY, np.ones((32, 1, 3, 3), np.float32), None, 1, 1, 1, 32
        ),
        "lstm": lambda: ann.lstm(steps, None, params)[0],
        "layer_norm": lambda: ann.layer_norm(rows * TINY, 512),
    }


@pytest.mark.parametrize("name", calls())
def test_subnormal_operands_are_zero_for_any_number_of_threads(name):
    before, results = ann.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            ann.set_num_threads(threads)
            results.append(calls()[name]())
    finally:
        ann.set_num_threads(before)
    assert_same_bits(results[0], np.zeros_like(results[0]))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("name", calls())
def test_the_caller_keeps_its_mode(name):
    calls()[name]()
    assert (np.full(100, TINY) * np.float32(2) == np.float32(2 * float(TINY))).all()


def test_the_caller_keeps_its_mode_when_an_op_refuses():
    with pytest.raises(ValueError, match="linear"):
        ann.linear(np.ones((2, 3), np.float32), np.ones((2, 4), np.float32))
    assert np.full(1, TINY)[0] != 0
