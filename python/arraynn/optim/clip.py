"""Bounds on the gradients of layers' parameters: `clip_grad_norm`, `clip_grad_value`."""

from __future__ import annotations

from collections.abc import Iterable

from .. import optimizer
from ..layers import Parameter


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale the gradients of `parameters` in place so that their joint norm is at most `max_norm`.

    Returns
    -------
    float
        The norm before.
    """
    norm: float = optimizer.clip_grad_norm([p.grad for p in parameters if p.grad is not None], max_norm)
    return norm


def clip_grad_value(parameters: Iterable[Parameter], clip_value: float) -> None:
    """Bound the gradients' elements by ``-clip_value`` and ``clip_value``, in place."""
    optimizer.clip_grad_value([p.grad for p in parameters if p.grad is not None], clip_value)
