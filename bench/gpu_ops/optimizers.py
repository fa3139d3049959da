"""Optimizer steps over lists of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from math import prod
from typing import Any

from .case import Build, Call, Case, Inputs, Tools, changed_case

# The learning rate is large, so that a wrong step is far outside the tolerance.
_LR, _BETAS, _EPS, _MOMENTUM = 0.1, (0.9, 0.999), 1e-8, 0.9


def _falling_bounds() -> Callable[[], float]:
    """Return the bounds of clipping from call to call: each is below the last, so that every call scales."""
    bounds = count()
    return lambda: 0.9995 ** next(bounds)


def _ours_step(op: str) -> Build:
    def build(t: Tools, i: Inputs) -> Call:
        params, grads = [p.clone() for p in i[0]], [g.clone() for g in i[1]]
        zeros = [[t.torch.zeros_like(p) for p in params] for _ in range(2)]
        if op == "adam_step":
            steps = count(1)

            def adam() -> Any:
                t.ann.adam_step(params, grads, *zeros, step=next(steps), lr=_LR, betas=_BETAS, eps=_EPS)
                return params

            return adam
        if op == "sgd_step":

            def sgd() -> Any:
                # PyTorch's buffers start as the first gradient, which zeros do too without dampening
                t.ann.sgd_step(params, grads, zeros[0], lr=_LR, momentum=_MOMENTUM)
                return params

            return sgd
        if op == "rmsprop_step":

            def rmsprop() -> Any:
                t.ann.rmsprop_step(params, grads, zeros[0], lr=_LR, eps=_EPS)
                return params

            return rmsprop
        if op == "adagrad_step":

            def adagrad() -> Any:
                # the same step number in every call is no decay of the rate, as with PyTorch's default
                t.ann.adagrad_step(params, grads, zeros[0], step=1, lr=_LR, eps=_EPS)
                return params

            return adagrad
        bound = _falling_bounds()
        if op == "clip_grad_value":
            return lambda: (t.ann.clip_grad_value(grads, bound()), grads)
        return lambda: (t.ann.clip_grad_norm(grads, bound()), grads)

    return build


def _torch_step(op: str, **mode: bool) -> Build:
    def build(t: Tools, i: Inputs) -> Call:
        params = [p.clone().requires_grad_() for p in i[0]]
        for p, g in zip(params, i[1], strict=True):
            p.grad = g.clone()
        if op.startswith("clip_grad"):
            bound, grads = _falling_bounds(), [p.grad for p in params]
            clip = getattr(t.torch.nn.utils, f"{op}_")
            return lambda: (clip(params, bound(), **mode), grads)
        if op == "adam_step":
            capturable = {"capturable": True} if mode.get("fused") and t.device != "cpu" else {}
            optimizer = t.torch.optim.Adam(params, lr=_LR, betas=_BETAS, eps=_EPS, **mode, **capturable)
        elif op == "rmsprop_step":
            optimizer = t.torch.optim.RMSprop(params, lr=_LR, eps=_EPS, **mode)
        elif op == "adagrad_step":
            optimizer = t.torch.optim.Adagrad(params, lr=_LR, eps=_EPS, **mode)
        else:
            optimizer = t.torch.optim.SGD(params, lr=_LR, momentum=_MOMENTUM, **mode)

        def step() -> Any:
            optimizer.step()
            return params

        return step

    return build


def optimizer(op: str, what: str, shapes: Sequence[tuple[int, ...]], group: str, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        return tuple([t.normal(*shape, dtype="float32") for shape in shapes] for _ in range(2))

    # PyTorch has these not fused on a GPU
    if op.startswith("clip_grad") or op in ("rmsprop_step", "adagrad_step"):
        peers = {"torch foreach": _torch_step(op, foreach=True)}
    else:
        peers = {"torch fused": _torch_step(op, fused=True), "torch foreach": _torch_step(op, foreach=True)}
    # adam reads p g m v and writes p m v; the others read p g and one more and write p and that one;
    # clipping reads for the norm, where it needs one, reads and writes to change
    passes = {"adam_step": 7, "clip_grad_norm": 3, "clip_grad_value": 2}.get(op, 5)
    case = Case(
        name=f"{op} {what}",
        group=group,
        op=op,
        dtype="float32",
        flops=0,
        bytes=4.0 * passes * sum(prod(shape) for shape in shapes),
        make=make,
        ours=_ours_step(op),
        peers=peers,
        in_place=True,
        graph_peers=("torch fused",),
    )
    return changed_case(case, changed)
