"""Dropout and losses, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from .case import SHORT, SIZE, Call, Case, Inputs, Tools, changed_case, text

_P = 0.1


def _dropped(t: Tools, x: Any, y: Any) -> str:
    """Say in what `y` is no dropout of `x`, or return ''."""
    torch = t.torch
    kept = y != 0
    share, size = float(kept.double().mean()), x.numel()
    # x is zero next to never; the bound is five standard deviations
    if abs(share - (1 - _P)) > 5 * (_P * (1 - _P) / size) ** 0.5 + 1e-3:
        return f"kept {share:.4f} of the values where {1 - _P} was asked"
    expected = torch.where(kept, x.float() / (1 - _P), 0.0)
    worst = float((y.float() - expected).abs().max())
    return "" if worst <= 0.02 * float(expected.abs().max()) else f"values are off by {worst:.3g}"


def dropout(shape: tuple[int, ...], dtype: str, backward: bool, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        return t.normal(*shape, dtype=dtype), t.normal(*shape, dtype=dtype)

    def ours(t: Tools, i: Inputs) -> Call:
        x, dy = i
        if not backward:
            return lambda: t.ann.dropout(x, _P, True, rng=7)
        _, pullback = t.ann.vjp(t.ann.dropout, x, _P, True, rng=7)
        return lambda: pullback(dy)[0]

    def call(t: Tools, i: Inputs) -> Call:
        x, dy = i
        aten = t.torch.ops.aten
        if not backward:
            return lambda: aten.native_dropout(x, _P, True)
        _, mask = aten.native_dropout(x, _P, True)
        return lambda: aten.native_dropout_backward(dy, mask, 1 / (1 - _P))

    case = Case(
        name=f"dropout {'backward ' if backward else ''}{text(shape)} {SHORT[dtype]}",
        group="dropout, mse",
        op="dropout",
        dtype=dtype,
        flops=0,
        bytes=2 * prod(shape) * SIZE[dtype],
        make=make,
        ours=ours,
        peers={"torch": call},
        verify=lambda t, i, result: _dropped(t, i[1] if backward else i[0], result),
        compared=False,
    )
    return changed_case(case, changed)


def _gradient(t: Tools, forward: Callable[[Any], Any], leaf: Any) -> Call:
    """Return a call that computes a loss and its gradient."""
    leaf = leaf.detach().requires_grad_()

    def step() -> Any:
        with t.torch.enable_grad():
            loss = forward(leaf)
        return loss.detach(), t.torch.autograd.grad(loss, leaf)[0]

    return step


def _ours_loss(t: Tools, op: Any, x: Any, target: Any, **options: Any) -> Call:
    one = t.torch.ones((), dtype=x.dtype, device=x.device)

    def step() -> Any:
        loss, pullback = t.ann.vjp(op, x, target, **options)
        return loss, pullback(one)[0]

    return step


# 'mean' of kl_div makes PyTorch warn.
_OPTIONS: dict[str, dict[str, Any]] = {"kl_div": {"reduction": "batchmean"}}


def pointwise_loss(op: str, shape: tuple[int, ...], dtype: str, training: bool, **changed: Any) -> Case:
    options = _OPTIONS.get(op, {})

    def make(t: Tools) -> Inputs:
        target = t.normal(*shape, dtype=dtype)
        probabilities = op in ("kl_div", "binary_cross_entropy_with_logits")
        return t.normal(*shape, dtype=dtype), target.sigmoid() if probabilities else target

    def ours(t: Tools, i: Inputs) -> Call:
        function = partial(getattr(t.ann, op), **options)
        if not training:
            return lambda: function(*i)
        return _ours_loss(t, getattr(t.ann, op), *i, **options)

    def call(t: Tools, i: Inputs) -> Call:
        function = partial(getattr(t.torch.nn.functional, op), **options)
        return _gradient(t, lambda x: function(x, i[1]), i[0]) if training else lambda: function(*i)

    case = Case(
        name=f"{op} {'training ' if training else ''}{text(shape)} {SHORT[dtype]}",
        group="dropout, mse",
        op=op,
        dtype=dtype,
        flops=0,
        bytes=(3 if training else 2) * prod(shape) * SIZE[dtype],
        make=make,
        ours=ours,
        peers={"torch": call},
    )
    return changed_case(case, changed)


def nll(rows: int, classes: int, dtype: str, training: bool) -> Case:
    def ours(t: Tools, i: Inputs) -> Call:
        return _ours_loss(t, t.ann.nll_loss, *i) if training else lambda: t.ann.nll_loss(*i)

    def call(t: Tools, i: Inputs) -> Call:
        op = t.torch.nn.functional.nll_loss
        return _gradient(t, lambda x: op(x, i[1]), i[0]) if training else lambda: op(*i)

    return Case(
        name=f"nll_loss {'training ' if training else ''}{rows}x{classes} {SHORT[dtype]}",
        group="cross-entropy",
        op="nll_loss",
        dtype=dtype,
        flops=0,
        bytes=(rows * classes if training else rows) * SIZE[dtype] + 8 * rows,
        make=lambda t: (t.normal(rows, classes, dtype=dtype), t.labels(classes, rows)),
        ours=ours,
        peers={"torch": call},
    )


def linear_cross_entropy(rows: int, features: int, classes: int, dtype: str) -> Case:
    """Training: the loss and the gradients of input and weight."""

    def ours(t: Tools, i: Inputs) -> Call:
        one = t.torch.ones((), dtype=i[0].dtype, device=i[0].device)

        def step() -> Any:
            loss, pullback = t.ann.vjp(t.ann.linear_cross_entropy, *i)
            return loss, *pullback(one)[:2]

        return step

    def call(t: Tools, i: Inputs) -> Call:
        functional = t.torch.nn.functional
        leaves = [a.detach().requires_grad_() for a in i[:2]]

        def step() -> Any:
            with t.torch.enable_grad():
                loss = functional.cross_entropy(functional.linear(*leaves), i[2])
            return loss.detach(), *t.torch.autograd.grad(loss, leaves)

        return step

    def make(t: Tools) -> Inputs:
        weight = t.normal(classes, features, dtype=dtype, scale=features**-0.5)
        return t.normal(rows, features, dtype=dtype), weight, t.labels(classes, rows)

    return Case(
        name=f"linear_cross_entropy training {rows}x{features} to {classes} {SHORT[dtype]}",
        group="cross-entropy",
        op="linear_cross_entropy",
        dtype=dtype,
        flops=6 * rows * features * classes,
        bytes=2 * features * (rows + classes) * SIZE[dtype],
        make=make,
        ours=ours,
        peers={"torch": call},
    )


def _exact_rows(t: Tools, i: Inputs, result: Any) -> str:
    """Compare rows of cross-entropy's gradient with float64, element by element.

    Most of them are far below the root mean square, which the labels' own elements make, so that the
    comparison with the peer does not look at them.
    """
    torch, (x, target) = t.torch, i
    gradient, size = result[1], x.shape[0]
    rows = torch.linspace(0, size - 1, min(size, 32), device=x.device).long()
    expected = torch.softmax(x[rows].double(), -1)
    expected[torch.arange(len(rows), device=x.device), target[rows]] -= 1
    expected /= size
    bound = {torch.float32: 2e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}[x.dtype]
    error = ((gradient[rows].double() - expected).abs() / (expected.abs() + 1e-3 / size / x.shape[1])).max()
    return "" if float(error) <= bound else f"gradient is off by {float(error):.3g} of itself from float64"


def cross_entropy(rows: int, classes: int, dtype: str, training: bool, **changed: Any) -> Case:
    def ours(t: Tools, i: Inputs) -> Call:
        return _ours_loss(t, t.ann.cross_entropy, *i) if training else lambda: t.ann.cross_entropy(*i)

    def call(t: Tools, i: Inputs) -> Call:
        op = t.torch.nn.functional.cross_entropy
        return _gradient(t, lambda x: op(x, i[1]), i[0]) if training else lambda: op(*i)

    case = Case(
        name=f"cross_entropy {'training ' if training else ''}{rows}x{classes} {SHORT[dtype]}",
        group="cross-entropy",
        op="cross_entropy",
        dtype=dtype,
        flops=0,
        bytes=(2 if training else 1) * rows * classes * SIZE[dtype] + 8 * rows,
        make=lambda t: (t.normal(rows, classes, dtype=dtype, scale=2.0), t.labels(classes, rows)),
        ours=ours,
        peers={"torch": call},
        verify=_exact_rows if training else None,
    )
    return changed_case(case, changed)
