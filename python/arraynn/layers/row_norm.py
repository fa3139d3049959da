"""`LayerNorm` and `RMSNorm`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from ..row_norm import layer_norm, rms_norm
from .base import Layer, OpLayer, Parameter, size


class LayerNorm(OpLayer):
    """Normalization of the last dimensions, `arraynn.layer_norm`.

    Parameters
    ----------
    normalized_shape, eps, elementwise_affine, bias
        As in ``torch.nn.LayerNorm``.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    weight, bias : Parameter of shape normalized_shape, or None
        Ones and zeros at first.
    """

    op = staticmethod(layer_norm)
    arguments = ("weight", "bias")
    options = ("normalized_shape", "eps")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = _shape(self, normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(np.ones(shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape, dtype)) if elementwise_affine and bias else None

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(OpLayer):
    """Division of the last dimensions by their root mean square, `arraynn.rms_norm`.

    Parameters
    ----------
    normalized_shape, eps, elementwise_affine
        As in ``torch.nn.RMSNorm``.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    weight : Parameter of shape normalized_shape, or None
        Ones at first.
    """

    op = staticmethod(rms_norm)
    arguments = ("weight",)
    options = ("normalized_shape", "eps")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = _shape(self, normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


def _shape(layer: Layer, value: int | Sequence[int]) -> tuple[int, ...]:
    several = value if isinstance(value, tuple | list) else (value,)
    return tuple(size(layer, "normalized_shape", each) for each in several)
