"""The recycling of results' memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import arraynn as ann
import numpy as np
import pytest

MEGABYTE = 1 << 20


@pytest.fixture
def bound() -> Iterator[int]:
    """Return how many bytes may be idle, with none of them so, before and afterwards."""
    ann._core.trim()
    yield min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") // 8, 1 << 30)
    ann._core.trim()


def test_a_result_is_made_of_what_was_idle(bound: int) -> None:
    x = np.zeros(MEGABYTE, np.float32)
    y = ann.relu(x)
    assert ann._core.idle_bytes() == 0
    address = y.ctypes.data
    del y
    assert ann._core.idle_bytes() == 4 * MEGABYTE
    assert ann.relu(x).ctypes.data == address


def test_a_full_pool_lets_go_of_the_longest_idle(bound: int) -> None:
    """A program that changes its shapes does not allocate every result anew from then on."""
    old, new = np.zeros(16 * MEGABYTE, np.float32), np.zeros(10 * MEGABYTE, np.float32)
    kept = [ann.relu(old) for _ in range(bound // old.nbytes)]
    kept.clear()
    full = ann._core.idle_bytes()
    assert bound - old.nbytes < full <= bound
    for _ in range(2):
        before = ann._core.idle_bytes()
        y = ann.relu(new)
        during = ann._core.idle_bytes()
        del y
        assert full - old.nbytes <= ann._core.idle_bytes() <= bound
    assert before - during == new.nbytes  # the second was made of the first
