"""`Flatten`."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from .base import Layer


class Flatten(Layer):
    """Join the axes from `start_dim` to `end_dim` into one. Parameters as in ``torch.nn.Flatten``."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim
        self._shape: tuple[int, ...] | None = None

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        first, last = self.start_dim % max(x.ndim, 1), self.end_dim % max(x.ndim, 1)
        if not (-x.ndim <= self.start_dim < x.ndim and -x.ndim <= self.end_dim < x.ndim and first <= last):
            raise ValueError(
                f"Flatten: input has {x.ndim} axes, but start_dim={self.start_dim} and "
                f"end_dim={self.end_dim} must name two of them in order"
            )
        self._shape = x.shape if self.training else None
        return x.reshape(*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        shape, self._shape = self._shape, None
        if shape is None:
            raise self._no_call()
        return dy.reshape(shape)

    def train(self, mode: bool = True) -> Flatten:
        self._shape = None
        return super().train(mode)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
