"""The linear op, embedding, and their gradients."""

from __future__ import annotations

from typing import Any

from .case import (
    SHORT,
    SIZE,
    Build,
    Call,
    Case,
    Inputs,
    Tools,
    Unavailable,
    changed_case,
    cupy_array,
    triton_kernels,
)


def linear(
    rows: int,
    inputs: int,
    outputs: int,
    dtype: str,
    *,
    tf32: bool = False,
    backward: bool = False,
    **changed: Any,
) -> Case:
    def make(t: Tools) -> Inputs:
        return (
            t.normal(rows, inputs, dtype=dtype),
            t.normal(outputs, inputs, dtype=dtype, scale=inputs**-0.5),
            t.normal(outputs, dtype=dtype),
            t.normal(rows, outputs, dtype=dtype),
        )

    def ours(t: Tools, i: Inputs) -> Call:
        x, w, b, dy = i
        if not backward:
            return lambda: t.ann.linear(x, w, b)
        _, pullback = t.ann.vjp(t.ann.linear, x, w, b)
        return lambda: pullback(dy)

    def call(t: Tools, i: Inputs) -> Call:
        x, w, b, dy = i
        if not backward:
            op = t.torch.nn.functional.linear
            return lambda: op(x, w, b)
        return lambda: (dy @ w, dy.t() @ x, dy.sum(0))

    def cupy(t: Tools, i: Inputs) -> Call:
        if tf32:
            raise Unavailable("no TF32 unless its environment asks for it")
        x, w, b = (cupy_array(t, a) for a in i[:3])
        return lambda: x @ w.T + b

    def triton(t: Tools, i: Inputs) -> Call:
        if dtype == "float32":
            raise Unavailable("not written")
        linear = triton_kernels(t).linear
        return lambda: linear(*i[:3])

    peers: dict[str, Build] = {"torch": call} if backward else {"torch": call, "cupy": cupy, "triton": triton}
    kind = "tf32" if tf32 else SHORT[dtype]
    product = rows * inputs + inputs * outputs + rows * outputs
    case = Case(
        name=f"linear {'backward ' if backward else ''}{rows}x{inputs}->{outputs} {kind}",
        group=f"linear {kind}",
        op="linear",
        dtype=dtype,
        flops=(4.0 if backward else 2.0) * rows * inputs * outputs,
        # backward reads x, w and dy and writes dx and dw
        bytes=(2 * product - rows * outputs if backward else product) * SIZE[dtype],
        make=make,
        ours=ours,
        peers=peers,
        tf32=tf32,
    )
    return changed_case(case, changed)


def embedding(tokens: int, rows: int, width: int, dtype: str, backward: bool, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        index, weight = t.labels(rows, tokens), t.normal(rows, width, dtype=dtype)
        return index, weight, t.normal(tokens, width, dtype=dtype)

    def ours(t: Tools, i: Inputs) -> Call:
        index, weight, dy = i
        if not backward:
            return lambda: t.ann.embedding(index, weight)
        _, pullback = t.ann.vjp(t.ann.embedding, index, weight)
        return lambda: pullback(dy)[0]

    def call(t: Tools, i: Inputs) -> Call:
        index, weight, dy = i
        if not backward:
            op = t.torch.nn.functional.embedding
            return lambda: op(index, weight)
        return lambda: t.torch.ops.aten.embedding_dense_backward(dy, index, rows, -1, False)

    case = Case(
        name=f"embedding {'backward ' if backward else ''}{tokens} of {rows}x{width} {SHORT[dtype]}",
        group="embedding",
        op="embedding",
        dtype=dtype,
        flops=0,
        bytes=(tokens + (rows if backward else tokens)) * width * SIZE[dtype] + 8 * tokens,
        make=make,
        ours=ours,
        peers={"torch": call},
    )
    return changed_case(case, changed)
