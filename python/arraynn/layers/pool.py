"""`MaxPool2d`, `AvgPool2d` and `AdaptiveAvgPool2d`."""

from __future__ import annotations

from ..pool import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from .base import OpLayer

Window = int | tuple[int, ...]


class MaxPool2d(OpLayer):
    """Maximum over windows, `arraynn.max_pool2d`. Parameters as in ``torch.nn.MaxPool2d``.

    With ``return_indices=True`` a call returns ``(output, indices)`` and `backward` takes
    ``(dy, None)``.
    """

    op = staticmethod(max_pool2d)
    options = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")

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


class AvgPool2d(OpLayer):
    """Mean over windows, `arraynn.avg_pool2d`. Parameters as in ``torch.nn.AvgPool2d``."""

    op = staticmethod(avg_pool2d)
    options = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

    def __init__(
        self,
        kernel_size: Window,
        stride: Window | None = None,
        padding: Window = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(OpLayer):
    """Mean over as many windows as `output_size` asks for, `arraynn.adaptive_avg_pool2d`.

    Parameters as in ``torch.nn.AdaptiveAvgPool2d``.
    """

    op = staticmethod(adaptive_avg_pool2d)
    options = ("output_size",)

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
