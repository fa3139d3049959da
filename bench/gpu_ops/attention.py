"""Attention and its gradients."""

from __future__ import annotations

from typing import Any

from .case import SHORT, SIZE, Call, Case, Inputs, Tools, changed_case


def attention(
    batch: int, heads: int, length: int, depth: int, dtype: str, causal: bool, training: bool, **changed: Any
) -> Case:
    shape = (batch, heads, length, depth)

    def make(t: Tools) -> Inputs:
        return tuple(t.normal(*shape, dtype=dtype) for _ in range(4))

    def ours(t: Tools, i: Inputs) -> Call:
        *qkv, dy = i
        op = t.ann.scaled_dot_product_attention

        def step() -> Any:
            out, pullback = t.ann.vjp(op, *qkv, is_causal=causal)
            return out, *pullback(dy)

        return step if training else lambda: op(*qkv, is_causal=causal)

    def call(t: Tools, i: Inputs) -> Call:
        op, dy = t.torch.nn.functional.scaled_dot_product_attention, i[3]
        leaves = [a.detach().requires_grad_(training) for a in i[:3]]

        def step() -> Any:
            with t.torch.enable_grad():
                out = op(*leaves, is_causal=causal)
            return out.detach(), *t.torch.autograd.grad(out, leaves, dy)

        return step if training else lambda: op(*leaves, is_causal=causal)

    pairs = batch * heads * length * ((length + 1) / 2 if causal else length)
    case = Case(
        name=f"attention {'training ' if training else ''}{'causal ' if causal else ''}"
        f"{'x'.join(map(str, shape))} {SHORT[dtype]}",
        group=f"attention {'training' if training else 'forward'}",
        op="scaled_dot_product_attention",
        dtype=dtype,
        # Two products forward; backward computes the weights again and has four of its own.
        flops=pairs * depth * 2.0 * (7 if training else 2),
        # of query, key, value and output; and each once more, and their gradients
        bytes=(12 if training else 4) * batch * heads * length * depth * SIZE[dtype],
        make=make,
        ours=ours,
        peers={"torch": call},
    )
    return changed_case(case, changed)
