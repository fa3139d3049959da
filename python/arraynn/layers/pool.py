"""`MaxPool`, `AvgPool`, `AdaptiveAvgPool` and `AdaptiveMaxPool` of one, two and three dimensions."""

from __future__ import annotations

from typing import ClassVar

from .. import pool as ops
from .base import OpLayer

Window = int | tuple[int, ...]
OutputSize = int | tuple[int | None, ...]


class _MaxPool(OpLayer):
    options: ClassVar[tuple[str, ...]] = (
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "ceil_mode",
        "return_indices",
    )

    def __init__(
        self,
        kernel_size: Window,
        stride: Window | None = None,
        padding: Window = 0,
        dilation: Window = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """Maximum over windows, `arraynn.max_pool1d`. Parameters as in ``torch.nn.MaxPool1d``.

    With ``return_indices=True`` a call returns ``(output, indices)`` and `backward` takes
    ``(dy, None)``.
    """

    op = staticmethod(ops.max_pool1d)


class MaxPool2d(_MaxPool):
    """Maximum over windows, `arraynn.max_pool2d`. Parameters as in ``torch.nn.MaxPool2d``.

    With ``return_indices=True`` a call returns ``(output, indices)`` and `backward` takes
    ``(dy, None)``.
    """

    op = staticmethod(ops.max_pool2d)


class MaxPool3d(_MaxPool):
    """Maximum over windows, `arraynn.max_pool3d`. Parameters as in ``torch.nn.MaxPool3d``.

    With ``return_indices=True`` a call returns ``(output, indices)`` and `backward` takes
    ``(dy, None)``.
    """

    op = staticmethod(ops.max_pool3d)


class _AvgPool(OpLayer):
    options: ClassVar[tuple[str, ...]] = (
        "kernel_size",
        "stride",
        "padding",
        "ceil_mode",
        "count_include_pad",
    )

    def __init__(
        self,
        kernel_size: Window,
        stride: Window | None = None,
        padding: Window = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """Mean over windows, `arraynn.avg_pool1d`. Parameters as in ``torch.nn.AvgPool1d``."""

    op = staticmethod(ops.avg_pool1d)


class _DividedAvgPool(_AvgPool):
    options: ClassVar[tuple[str, ...]] = (*_AvgPool.options, "divisor_override")

    def __init__(
        self,
        kernel_size: Window,
        stride: Window | None = None,
        padding: Window = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.divisor_override = divisor_override


class AvgPool2d(_DividedAvgPool):
    """Mean over windows, `arraynn.avg_pool2d`. Parameters as in ``torch.nn.AvgPool2d``."""

    op = staticmethod(ops.avg_pool2d)


class AvgPool3d(_DividedAvgPool):
    """Mean over windows, `arraynn.avg_pool3d`. Parameters as in ``torch.nn.AvgPool3d``."""

    op = staticmethod(ops.avg_pool3d)


class _AdaptivePool(OpLayer):
    options: ClassVar[tuple[str, ...]] = ("output_size",)

    def __init__(self, output_size: OutputSize) -> None:
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptivePool):
    """Mean over as many windows as `output_size` asks for, `arraynn.adaptive_avg_pool1d`.

    Parameters as in ``torch.nn.AdaptiveAvgPool1d``.
    """

    op = staticmethod(ops.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptivePool):
    """Mean over as many windows as `output_size` asks for, `arraynn.adaptive_avg_pool2d`.

    Parameters as in ``torch.nn.AdaptiveAvgPool2d``.
    """

    op = staticmethod(ops.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptivePool):
    """Mean over as many windows as `output_size` asks for, `arraynn.adaptive_avg_pool3d`.

    Parameters as in ``torch.nn.AdaptiveAvgPool3d``.
    """

    op = staticmethod(ops.adaptive_avg_pool3d)


class _AdaptiveMaxPool(_AdaptivePool):
    options: ClassVar[tuple[str, ...]] = ("output_size", "return_indices")

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maximum over as many windows as `output_size` asks for, `arraynn.adaptive_max_pool1d`.

    Parameters as in ``torch.nn.AdaptiveMaxPool1d``; indices as in `MaxPool1d`.
    """

    op = staticmethod(ops.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Maximum over as many windows as `output_size` asks for, `arraynn.adaptive_max_pool2d`.

    Parameters as in ``torch.nn.AdaptiveMaxPool2d``; indices as in `MaxPool2d`.
    """

    op = staticmethod(ops.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Maximum over as many windows as `output_size` asks for, `arraynn.adaptive_max_pool3d`.

    Parameters as in ``torch.nn.AdaptiveMaxPool3d``; indices as in `MaxPool3d`.
    """

    op = staticmethod(ops.adaptive_max_pool3d)
