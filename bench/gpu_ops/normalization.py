"""Normalization and its gradients."""

from __future__ import annotations

from math import prod
from typing import Any

from .case import SHORT, SIZE, Call, Case, Inputs, Tools, changed_case, layout_name, text


def normalization(
    op: str,
    shape: tuple[int, ...],
    dtype: str,
    backward: bool,
    *,
    channels_last: bool = False,
    groups: int = 32,
    **changed: Any,
) -> Case:
    """Return a case of layer_norm, rms_norm, group_norm, or batch_norm with the batch's statistics."""
    rows = op in ("layer_norm", "rms_norm")
    before = {"batch_norm": (None, None), "group_norm": (groups,)}.get(op, (shape[-1:],))
    after = (True,) if op == "batch_norm" else ()
    affine = 1 if op == "rms_norm" else 2

    def make(t: Tools) -> Inputs:
        x, dy = (t.normal(*shape, dtype=dtype, channels_last=channels_last) for _ in range(2))
        return x, dy, *(t.normal(shape[-1 if rows else 1], dtype=dtype) for _ in range(affine))

    def ours(t: Tools, i: Inputs) -> Call:
        x, dy, *parameters = i
        function = getattr(t.ann, op)
        if not backward:
            return lambda: function(x, *before, *parameters, *after)
        _, pullback = t.ann.vjp(function, x, *before, *parameters, *after)
        return lambda: pullback(dy)

    def call(t: Tools, i: Inputs) -> Call:
        x, dy, *parameters = i
        function = getattr(t.torch.nn.functional, op)
        if not backward:
            return lambda: function(x, *before, *parameters, *after)
        leaves = [a.detach().requires_grad_() for a in (x, *parameters)]
        with t.torch.enable_grad():
            y = function(leaves[0], *before, *leaves[1:], *after)
        return lambda: t.torch.autograd.grad(y, leaves, dy, retain_graph=True)

    # A channel of all images is read for its statistics or sums, and again for the result.
    passes = (5 if backward else 3) if op == "batch_norm" else 3 if backward else 2
    layout = "" if rows else f" {layout_name(channels_last)}"
    case = Case(
        name=f"{op} {'backward ' if backward else ''}{text(shape)} {SHORT[dtype]}{layout}",
        group=f"normalization {'backward' if backward else 'forward'}",
        op=op,
        dtype=dtype,
        flops=0,
        bytes=passes * prod(shape) * SIZE[dtype],
        make=make,
        ours=ours,
        peers={"torch": call},
    )
    return changed_case(case, changed)
