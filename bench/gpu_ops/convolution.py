"""Convolution and its gradients."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from .case import SHORT, SIZE, Call, Case, Inputs, Tools, changed_case, layout_name, text


class Conv(NamedTuple):
    """A convolution: input channels and size of each axis; output channels; kernel; options."""

    channels: int
    size: int
    out_channels: int
    kernel: int
    stride: int = 1
    groups: int = 1
    batch: int = 64
    axes: int = 2
    transposed: bool = False

    @property
    def op(self) -> str:
        return f"conv{'_transpose' if self.transposed else ''}{self.axes}d"

    @property
    def options(self) -> tuple[int, ...]:
        """What follows the bias in a call."""
        if self.transposed:
            return self.stride, self.padding, 0, self.groups, 1
        return self.stride, self.padding, 1, self.groups

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, *(self.size,) * self.axes)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        outer, inner = self.out_channels, self.channels
        if self.transposed:
            outer, inner = inner, outer
        return (outer, inner // self.groups, *(self.kernel,) * self.axes)

    @property
    def out_shape(self) -> tuple[int, ...]:
        size = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        if self.transposed:
            size = (self.size - 1) * self.stride + self.kernel - 2 * self.padding
        return (self.batch, self.out_channels, *(size,) * self.axes)

    @property
    def flops(self) -> float:
        return 2.0 * prod(self.shape if self.transposed else self.out_shape) * prod(self.weight_shape[1:])

    @property
    def label(self) -> str:
        kernel = text((self.kernel,) * self.axes) + (f"/{self.stride}" if self.stride > 1 else "")
        kind = " depthwise" if self.groups > 1 else ""
        return f"{kernel}{kind} {text(self.shape)}->{self.out_channels}"


def conv(c: Conv, which: str, dtype: str, channels_last: bool, group: str, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        fan_in = prod(c.weight_shape[1:])
        return (
            t.normal(*c.shape, dtype=dtype, channels_last=channels_last),
            t.normal(*c.weight_shape, dtype=dtype, channels_last=channels_last, scale=fan_in**-0.5),
            t.normal(*c.out_shape, dtype=dtype, channels_last=channels_last),
        )

    def ours(t: Tools, i: Inputs) -> Call:
        x, w, dy = i
        op = getattr(t.ann, c.op)
        if which == "forward":
            return lambda: op(x, w, None, *c.options)
        wrt, place = ("input", 0) if which == "dinput" else ("weight", 1)
        _, pullback = t.ann.vjp(op, x, w, None, *c.options, wrt=wrt)
        return lambda: pullback(dy)[place]

    def call(t: Tools, i: Inputs) -> Call:
        x, w, dy = i
        if which == "forward":
            op = getattr(t.torch.nn.functional, c.op)
            return lambda: op(x, w, None, *c.options)
        backward, place = t.torch.ops.aten.convolution_backward, 0 if which == "dinput" else 1
        mask = [place == 0, place == 1, False]
        stride, padding, dilation, more = ([n] * c.axes for n in (c.stride, c.padding, 1, 0))
        options = (stride, padding, dilation, c.transposed, more, c.groups, mask)
        return lambda: backward(dy, x, w, None, *options)[place]

    elements = prod(c.shape) + prod(c.weight_shape) + prod(c.out_shape)
    case = Case(
        name=f"{c.op} {which} {c.label} {SHORT[dtype]} {layout_name(channels_last)}",
        group=group,
        op=c.op,
        dtype=dtype,
        flops=c.flops,
        bytes=elements * SIZE[dtype],
        make=make,
        ours=ours,
        peers={"torch": call},
    )
    return changed_case(case, changed)
