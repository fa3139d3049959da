"""Pooling and its gradients."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from .case import SHORT, SIZE, Call, Case, Inputs, Tools, changed_case, layout_name, text


class Window(NamedTuple):
    """A pooling op on an input shape; `size` is the kernel's, or the output's of adaptive pooling."""

    op: str
    shape: tuple[int, ...]
    size: int
    stride: int = 1
    padding: int = 0

    @property
    def is_adaptive(self) -> bool:
        return self.op.startswith("adaptive")

    @property
    def out_shape(self) -> tuple[int, ...]:
        if self.is_adaptive:
            return (*self.shape[:2], *(self.size for _ in self.shape[2:]))
        planes = ((extent + 2 * self.padding - self.size) // self.stride + 1 for extent in self.shape[2:])
        return (*self.shape[:2], *planes)

    @property
    def arguments(self) -> tuple[int, ...]:
        return (self.size,) if self.is_adaptive else (self.size, self.stride, self.padding)

    @property
    def label(self) -> str:
        sides = "x".join(str(self.size) for _ in self.shape[2:])
        kind = f"->{self.size}" if self.is_adaptive else f"{sides}/{self.stride}"
        return f"{self.op} {kind} {text(self.shape)}"


def pool(w: Window, dtype: str, channels_last: bool, **changed: Any) -> Case:
    def ours(t: Tools, x: Any) -> Call:
        function = getattr(t.ann, w.op)
        return lambda: function(x, *w.arguments)

    def call(t: Tools, x: Any) -> Call:
        function = getattr(t.torch.nn.functional, w.op)
        return lambda: function(x, *w.arguments)

    case = Case(
        name=f"{w.label} {SHORT[dtype]} {layout_name(channels_last)}",
        group="pool forward",
        op=w.op,
        dtype=dtype,
        flops=0,
        bytes=(prod(w.shape) + prod(w.out_shape)) * SIZE[dtype],
        make=lambda t: t.normal(*w.shape, dtype=dtype, channels_last=channels_last),
        ours=ours,
        peers={"torch": call},
    )
    return changed_case(case, changed)


def pool_backward(w: Window, dtype: str, channels_last: bool, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        return tuple(t.normal(*s, dtype=dtype, channels_last=channels_last) for s in (w.shape, w.out_shape))

    def ours(t: Tools, i: Inputs) -> Call:
        _, pullback = t.ann.vjp(getattr(t.ann, w.op), i[0], *w.arguments)
        return lambda: pullback(i[1])[0]

    def call(t: Tools, i: Inputs) -> Call:
        x, dy = i
        aten = t.torch.ops.aten
        if w.op == "adaptive_avg_pool2d" and w.size == 1:
            # what PyTorch's autograd does for the global mean, and faster than the kernel below
            return lambda: dy.expand(x.shape) / prod(w.shape[2:])
        if w.op == "adaptive_avg_pool2d":
            return lambda: aten._adaptive_avg_pool2d_backward(dy, x)
        if w.is_adaptive or len(w.shape) != 4:
            x = x.detach().requires_grad_()
            with t.torch.enable_grad():
                y = getattr(t.torch.nn.functional, w.op)(x, *w.arguments)
            return lambda: t.torch.autograd.grad(y, x, dy, retain_graph=True)[0]
        kernel, stride, padding = ([n, n] for n in w.arguments)
        if w.op == "avg_pool2d":
            return lambda: aten.avg_pool2d_backward(dy, x, kernel, stride, padding, False, True, None)
        _, where = aten.max_pool2d_with_indices(x, kernel, stride, padding)
        backward = aten.max_pool2d_with_indices_backward
        return lambda: backward(dy, x, kernel, stride, padding, [1, 1], False, where)

    # where the maximum lay takes a byte at least
    extra = prod(w.out_shape) if "max" in w.op else 0
    case = Case(
        name=f"{w.label} backward {SHORT[dtype]} {layout_name(channels_last)}",
        group="pool backward",
        op=w.op,
        dtype=dtype,
        flops=0,
        bytes=(prod(w.shape) + prod(w.out_shape)) * SIZE[dtype] + extra,
        make=make,
        ours=ours,
        peers={"torch": call},
    )
    return changed_case(case, changed)
