"""`BatchNorm1d`, `BatchNorm2d`, `BatchNorm3d` and `GroupNorm`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..channel_norm import batch_norm, group_norm
from .base import OpLayer, Parameter, size


class _BatchNorm(OpLayer):
    op = staticmethod(batch_norm)
    arguments = ("weight", "bias")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    dims: ClassVar[tuple[int, ...]]  # that an input may have

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_features = size(self, "num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        n = self.num_features
        self.weight = Parameter(np.ones(n, dtype)) if affine else None
        self.bias = Parameter(np.zeros(n, dtype)) if affine and bias else None
        self.running_mean = np.zeros(n, dtype) if track_running_stats else None
        self.running_var = np.ones(n, dtype) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def forward(self, x: NDArray[Any]) -> Any:
        if np.ndim(x) not in self.dims:
            expected = " or ".join(map(str, self.dims))
            raise ValueError(f"{type(self).__name__}: input has {np.ndim(x)} dimensions, expected {expected}")
        tracked = self.num_batches_tracked if self.training else None
        batches = 0 if tracked is None else int(tracked) + 1
        out = self._run(
            self.op,
            x,
            self.running_mean,
            self.running_var,
            weight=None if self.weight is None else self.weight.data,
            bias=None if self.bias is None else self.bias.data,
            training=self.training or self.running_mean is None,
            momentum=self._share(batches),
            eps=self.eps,
        )
        if tracked is not None:
            tracked[...] = batches
        return out

    def _share(self, batches: int) -> float:
        """Return the share of a batch in the running statistics: all batches' is the same with None."""
        if self.momentum is not None:
            return self.momentum
        return 1 / batches if batches else 0.0

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


_doc = """Normalization of the channels of {input}, `arraynn.batch_norm`.

    In `train` mode with the statistics of the batch, which move the running ones; in `eval` mode with
    those.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, bias
        As in ``torch.nn.{name}``: `momentum` None averages over all batches; without
        `track_running_stats` the statistics are the batch's in `eval` mode too.
    dtype : dtype, default float32
        Of the parameters and the running statistics.

    Attributes
    ----------
    weight, bias : Parameter of shape (num_features,), or None
        Ones and zeros at first.
    running_mean, running_var : ndarray of shape (num_features,), or None
        Zeros and ones at first.
    num_batches_tracked : ndarray of int64 of shape (), or None
    """


class BatchNorm1d(_BatchNorm):
    __doc__ = _doc.format(name="BatchNorm1d", input="(N, C) or (N, C, L)")
    dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _doc.format(name="BatchNorm2d", input="(N, C, H, W)")
    dims = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = _doc.format(name="BatchNorm3d", input="(N, C, D, H, W)")
    dims = (5,)


class GroupNorm(OpLayer):
    """Normalization of groups of channels of each image, `arraynn.group_norm`.

    Parameters
    ----------
    num_groups, num_channels, eps, affine, bias
        As in ``torch.nn.GroupNorm``.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    weight, bias : Parameter of shape (num_channels,), or None
        Ones and zeros at first.
    """

    op = staticmethod(group_norm)
    arguments = ("weight", "bias")
    options = ("num_groups", "eps")

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_groups = size(self, "num_groups", num_groups)
        self.num_channels = size(self, "num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError(f"GroupNorm: num_groups is {num_groups}, expected a divisor of {num_channels}")
        self.eps = eps
        self.affine = affine
        self.weight = Parameter(np.ones(num_channels, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, dtype)) if affine and bias else None

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )
