"""`Linear`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from ..linear import linear
from .base import OpLayer, Parameter, Seed, size, uniform


class Linear(OpLayer):
    """Affine map of the last axis, `arraynn.linear`: ``x @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features, bias
        As in ``torch.nn.Linear``.
    rng, dtype
        As in `Conv1d`.

    Attributes
    ----------
    weight : Parameter of shape (out_features, in_features)
    bias : Parameter of shape (out_features,), or None
        Both drawn from U(-k, k) with k = 1/sqrt(in_features).
    """

    op = staticmethod(linear)
    arguments = ("weight", "bias")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.in_features = size(self, "in_features", in_features)
        self.out_features = size(self, "out_features", out_features)
        bound = 1 / math.sqrt(self.in_features)
        rng = np.random.default_rng(rng)
        self.weight = uniform(rng, bound, (self.out_features, self.in_features), dtype)
        self.bias: Parameter | None = uniform(rng, bound, (self.out_features,), dtype) if bias else None

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )
