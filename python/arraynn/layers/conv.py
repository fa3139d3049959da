"""Convolutions, `Conv1d` to `Conv3d`, and transposed ones, `ConvTranspose1d` to `ConvTranspose3d`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from .base import OpLayer, Parameter, Seed, size, uniform

Window = int | tuple[int, ...]


class _Kernels(OpLayer):
    """What a convolution and a transposed one have in common."""

    arguments = ("weight", "bias")
    dims: ClassVar[int]
    padding: tuple[int, ...] | str
    output_padding: tuple[int, ...] = ()

    def _set_sizes(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Window,
        stride: Window,
        dilation: Window,
        groups: int,
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
        self.dilation = self._window("dilation", dilation)

    def _draw(self, outer: int, inner: int, bias: bool, rng: Seed, dtype: DTypeLike) -> None:
        """Draw the weight (outer, inner // groups, kernel...) and the bias."""
        # PyTorch's kaiming_uniform_(a=sqrt(5)) comes out as this bound
        shape = (outer, inner // self.groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        rng = np.random.default_rng(rng)
        self.weight = uniform(rng, bound, shape, dtype)
        self.bias: Parameter | None = uniform(rng, bound, (self.out_channels,), dtype) if bias else None

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
        if any(self.output_padding):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text + ("" if self.bias is not None else ", bias=False")


class _Conv(_Kernels):
    options = ("stride", "padding", "dilation", "groups")

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
        self._set_sizes(in_channels, out_channels, kernel_size, stride, dilation, groups)
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(
                f"{type(self).__name__}: padding must be sizes, 'same' or 'valid', got {padding!r}"
            )
        self.padding = padding if isinstance(padding, str) else self._window("padding", padding, least=0)
        self._draw(self.out_channels, self.in_channels, bias, rng, dtype)


class _ConvTranspose(_Kernels):
    options = ("stride", "padding", "output_padding", "groups", "dilation")
    padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Window,
        stride: Window = 1,
        padding: Window = 0,
        output_padding: Window = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Window = 1,
        *,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self._set_sizes(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.padding = self._window("padding", padding, least=0)
        self.output_padding = self._window("output_padding", output_padding, least=0)
        self._draw(self.in_channels, self.out_channels, bias, rng, dtype)

    def forward(self, x: NDArray[Any], output_size: Window | None = None) -> Any:
        """Return the layer's output, of the spatial sizes `output_size` if that is given."""
        options = {name: getattr(self, name) for name in self.options}
        if output_size is not None:
            options["output_padding"] = self._padding_up_to(x.shape[-self.dims :], output_size)
        bias = None if self.bias is None else self.bias.data
        return self._run(self.op, x, self.weight.data, bias, **options)

    def _padding_up_to(self, lengths: tuple[int, ...], output_size: Window) -> tuple[int, ...]:
        """Return the output padding, below the stride, with which these lengths become `output_size`."""
        wanted = self._window("output_size", output_size)
        axes = zip(lengths, self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        least = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in axes)
        more = tuple(w - n for w, n in zip(wanted, least, strict=True))
        if any(not 0 <= m < s for m, s in zip(more, self.stride, strict=True)):
            most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
            raise ValueError(
                f"{type(self).__name__}: output_size must be between {least} and {most}, got {wanted}"
            )
        return more


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


class ConvTranspose1d(_ConvTranspose):
    """1-D transposed convolution, `arraynn.conv_transpose1d`: (N, C_in, L) to (N, C_out, L_out).

    ``layer(x, output_size=...)`` chooses the output padding, as in PyTorch.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation
        As in ``torch.nn.ConvTranspose1d``.
    rng, dtype
        As in `Conv1d`.

    Attributes
    ----------
    weight : Parameter of shape (in_channels, out_channels // groups, kernel)
    bias : Parameter of shape (out_channels,), or None
        Both drawn from U(-k, k) with k = 1/sqrt(out_channels // groups * kernel).
    """

    op = staticmethod(conv_transpose1d)
    dims = 1


class ConvTranspose2d(_ConvTranspose):
    """2-D transposed convolution, `arraynn.conv_transpose2d`: (N, C_in, H, W) to (N, C_out, H_out, W_out).

    ``layer(x, output_size=...)`` chooses the output padding, as in PyTorch.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation
        As in ``torch.nn.ConvTranspose2d``.
    rng, dtype
        As in `Conv1d`.

    Attributes
    ----------
    weight : Parameter of shape (in_channels, out_channels // groups, kernel_h, kernel_w)
    bias : Parameter of shape (out_channels,), or None
        Both drawn from U(-k, k) with k = 1/sqrt(out_channels // groups * kernel_h * kernel_w).
    """

    op = staticmethod(conv_transpose2d)
    dims = 2


class ConvTranspose3d(_ConvTranspose):
    """3-D transposed convolution, `arraynn.conv_transpose3d`: (N, C_in, D, H, W) to (N, C_out, D_out, ...).

    ``layer(x, output_size=...)`` chooses the output padding, as in PyTorch.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation
        As in ``torch.nn.ConvTranspose3d``.
    rng, dtype
        As in `Conv1d`.

    Attributes
    ----------
    weight : Parameter of shape (in_channels, out_channels // groups, kernel_d, kernel_h, kernel_w)
    bias : Parameter of shape (out_channels,), or None
        Both drawn from U(-k, k) with k = 1/sqrt(out_channels // groups * kernel_d * kernel_h * kernel_w).
    """

    op = staticmethod(conv_transpose3d)
    dims = 3
