"""Small data and models that tests of training share."""

from __future__ import annotations

import numpy as np
from arraynn.layers import Dropout, Linear, ReLU, Sequential


def two_moons(n=200, seed=0):
    """Two classes that no line separates."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    angle = rng.uniform(0, np.pi, n)
    x = np.stack([np.cos(angle) + y, np.sin(angle) * (1 - 2 * y) + 0.3 * y], axis=1)
    return (x + 0.05 * rng.standard_normal(x.shape)).astype(np.float32), y


def make_model(seed=0, p=0.0, outputs=2):
    rng = np.random.default_rng(seed)
    return Sequential(Linear(2, 16, rng=rng), ReLU(), Dropout(p, rng=rng), Linear(16, outputs, rng=rng))
