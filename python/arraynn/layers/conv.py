"""`Conv1d`, `Conv2d` and `Conv3d`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from ..conv import conv1d, conv2d, conv3d
from .base import OpLayer, Parameter, Seed, size, uniform

Window = int | tuple[int, ...]


class _Conv(OpLayer):
    arguments = ("weight", "bias")
    options = ("stride", "padding", "dilation", "groups")
    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Window,
        stride: Window = 1,
        padding: Window | str = 0,
        dilation: Window = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.in_channels = size(self, "in_channels", in_channels)
        self.out_channels = size(self, "out_channels", out_channels)
        self.groups = size(self, "groups", groups)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % groups:
                raise ValueError(
                    f"{type(self).__name__}: {name} must be divisible by groups, "
                    f"got {getattr(self, name)} and {groups}"
                )
        self.kernel_size = self._window("kernel_size", kernel_size)
        self.stride = self._window("stride", stride)
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(
                f"{type(self).__name__}: padding must be sizes, 'same' or 'valid', got {padding!r}"
            )
        self.padding = padding if isinstance(padding, str) else self._window("padding", padding, least=0)
        self.dilation = self._window("dilation", dilation)
        # PyTorch's kaiming_uniform_(a=sqrt(5)) comes out as this bound
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        rng = np.random.default_rng(rng)
        self.weight = uniform(rng, bound, shape, dtype)
        self.bias: Parameter | None = uniform(rng, bound, shape[:1], dtype) if bias else None

    def _window(self, name: str, value: Any, least: int = 1) -> tuple[int, ...]:
        sizes = tuple(value) if isinstance(value, tuple | list) else (value,) * self.dims
        if len(sizes) == 1:
            sizes *= self.dims
        if len(sizes) != self.dims:
            raise ValueError(f"{type(self).__name__}: {name} must be {self.dims} integers, got {value!r}")
        return tuple(size(self, name, item, least) for item in sizes)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        if self.padding != (0,) * self.dims:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self.dims:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text + ("" if self.bias is not None else ", bias=False")


class Conv1d(_Conv):
    """1-D convolution, `arraynn.conv1d`: (N, C_in, L) to (N, C_out, L_out).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        As in ``torch.nn.Conv1d``.
    rng : None, int or numpy.random.Generator, keyword-only
        Source of the initial values. Give the layers of a model one generator: the same seed in
        two layers gives them the same numbers.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    weight : Parameter of shape (out_channels, in_channels // groups, kernel)
    bias : Parameter of shape (out_channels,), or None
        Both drawn from U(-k, k) with k = 1/sqrt(in_channels // groups * kernel).
    """

    op = staticmethod(conv1d)
    dims = 1


class Conv2d(_Conv):
    """2-D convolution, `arraynn.conv2d`: (N, C_in, H, W) to (N, C_out, H_out, W_out).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        As in ``torch.nn.Conv2d``.
    rng, dtype
        As in `Conv1d`.

    Attributes
    ----------
    weight : Parameter of shape (out_channels, in_channels // groups, kernel_h, kernel_w)
    bias : Parameter of shape (out_channels,), or None
        Both drawn from U(-k, k) with k = 1/sqrt(in_channels // groups * kernel_h * kernel_w).
    """

    op = staticmethod(conv2d)
    dims = 2


class Conv3d(_Conv):
    """3-D convolution, `arraynn.conv3d`: (N, C_in, D, H, W) to (N, C_out, D_out, H_out, W_out).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        As in ``torch.nn.Conv3d``.
    rng, dtype
        As in `Conv1d`.

    Attributes
    ----------
    weight : Parameter of shape (out_channels, in_channels // groups, kernel_d, kernel_h, kernel_w)
    bias : Parameter of shape (out_channels,), or None
        Both drawn from U(-k, k) with k = 1/sqrt(in_channels // groups * kernel_d * kernel_h * kernel_w).
    """

    op = staticmethod(conv3d)
    dims = 3
