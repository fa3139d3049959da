"""Activations and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from .case import (
    SHORT,
    SIZE,
    Call,
    Case,
    Inputs,
    Tools,
    Unavailable,
    changed_case,
    cupy_array,
    text,
    triton_kernels,
)

# PyTorch's gradients of the ops that go back from their input, with the default options.
_FROM_INPUT: dict[str, Callable[[Any, Any, Any], Call]] = {
    "leaky_relu": lambda aten, x, dy: lambda: aten.leaky_relu_backward(dy, x, 0.01, False),
    "elu": lambda aten, x, dy: lambda: aten.elu_backward(dy, 1, 1, 1, False, x),
    "gelu": lambda aten, x, dy: lambda: aten.gelu_backward(dy, x),
    "silu": lambda aten, x, dy: lambda: aten.silu_backward(dy, x),
    "softplus": lambda aten, x, dy: lambda: aten.softplus_backward(dy, x, 1, 20),
}


def activation(op: str, shape: tuple[int, ...], dtype: str, **changed: Any) -> Case:
    def call(t: Tools, x: Any) -> Call:
        if op.endswith("softmax"):
            function = getattr(t.torch.nn.functional, op)
            return lambda: function(x, -1)
        function = getattr(t.torch, op, None) or getattr(t.torch.nn.functional, op)
        return lambda: function(x)

    def ours(t: Tools, x: Any) -> Call:
        function = getattr(t.ann, op)
        return lambda: function(x)

    def cupy(t: Tools, x: Any) -> Call:
        a, xp = cupy_array(t, x), t.cupy
        if op == "relu":
            return lambda: xp.maximum(a, 0)
        if op == "tanh":
            return lambda: xp.tanh(a)
        if op not in ("sigmoid", "softmax", "log_softmax"):
            raise Unavailable("not in CuPy")
        from cupyx.scipy import special

        if op == "sigmoid":
            return lambda: special.expit(a)
        function = getattr(special, op)
        return lambda: function(a, axis=-1)

    def triton(t: Tools, x: Any) -> Call:
        function = getattr(triton_kernels(t), op, None)
        if function is None:
            raise Unavailable("not written")
        return lambda: function(x)

    case = Case(
        name=f"{op} {text(shape)} {SHORT[dtype]}",
        group="activation forward",
        op=op,
        dtype=dtype,
        flops=0,
        bytes=2 * prod(shape) * SIZE[dtype],
        make=lambda t: t.normal(*shape, dtype=dtype),
        ours=ours,
        peers={"torch": call, "cupy": cupy, "triton": triton},
    )
    return changed_case(case, changed)


def activation_backward(op: str, shape: tuple[int, ...], dtype: str) -> Case:
    def ours(t: Tools, i: Inputs) -> Call:
        _, pullback = t.ann.vjp(getattr(t.ann, op), i[0])
        return lambda: pullback(i[1])[0]

    def call(t: Tools, i: Inputs) -> Call:
        x, dy = i
        aten = t.torch.ops.aten
        if op == "relu":
            y = t.torch.relu(x)
            return lambda: aten.threshold_backward(dy, y, 0)
        if op.endswith("softmax"):
            y = getattr(t.torch.nn.functional, op)(x, -1)
            backward = aten._softmax_backward_data if op == "softmax" else aten._log_softmax_backward_data
            return lambda: backward(dy, y, -1, y.dtype)
        if op in _FROM_INPUT:
            return _FROM_INPUT[op](aten, x, dy)
        y = getattr(t.torch, op)(x)
        backward = getattr(aten, f"{op}_backward")
        return lambda: backward(dy, y)

    return Case(
        name=f"{op} backward {text(shape)} {SHORT[dtype]}",
        group="activation backward",
        op=op,
        dtype=dtype,
        flops=0,
        bytes=3 * prod(shape) * SIZE[dtype],
        make=lambda t: (t.normal(*shape, dtype=dtype), t.normal(*shape, dtype=dtype)),
        ours=ours,
        peers={"torch": call},
    )
