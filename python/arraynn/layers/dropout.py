"""`Dropout`."""

from __future__ import annotations

import numpy as np

from ..dropout import dropout
from .base import OpLayer, Seed


class Dropout(OpLayer):
    """In `train` mode, zero each element with probability `p` and scale the rest by 1/(1-p).

    `arraynn.dropout`; in `eval` mode the input comes through as it is.

    Parameters
    ----------
    p : float, default 0.5
        Probability of an element to be zeroed.
    rng : None, int or numpy.random.Generator, keyword-only
        Source of the masks. It may be the generator that the layers' parameters are drawn from.
    """

    op = staticmethod(dropout)
    options = ("p", "training", "rng")

    def __init__(self, p: float = 0.5, *, rng: Seed = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be between 0 and 1, got {p}")
        self.p = p
        self.rng = np.random.default_rng(rng)

    def extra_repr(self) -> str:
        return f"p={self.p}"
