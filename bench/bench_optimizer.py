"""Optimizer steps over the tensors of a network, and over very many small ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
import peers
import xla
from harness import Case, Random
from peers import Call, tensor

_LR, _BETAS, _EPS, _MOMENTUM = 1e-3, (0.9, 0.999), 1e-8, 0.9

# 60 tensors and 8.3 million parameters, in the proportions of a residual network
_RESNET: list[tuple[int, ...]] = [
    shape
    for channels in (64, 128, 256, 432)
    for _ in range(3)
    for shape in ((channels, channels, 3, 3), (channels,), (channels,), (channels, channels), (channels,))
]
_TINY: list[tuple[int, ...]] = [(32,)] * 1000


class Inputs(NamedTuple):
    params: list[np.ndarray]
    grads: list[np.ndarray]


def _copies(values: list[np.ndarray]) -> list[np.ndarray]:
    """Return copies, for every engine changes its own."""
    return [value.copy() for value in values]


def _torch_params(i: Inputs) -> list[Any]:
    params = [tensor(param).clone().requires_grad_() for param in i.params]
    for param, grad in zip(params, i.grads, strict=True):
        param.grad = tensor(grad).clone()
    return params


# Adam


def _ours_adam(i: Inputs) -> Call:
    params, grads, steps = _copies(i.params), i.grads, count(1)
    averages, squares = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]

    def call() -> Any:
        ann.adam_step(params, grads, averages, squares, step=next(steps), lr=_LR, betas=_BETAS, eps=_EPS)
        return params

    return call


def _torch_adam(**mode: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        params = _torch_params(i)
        optimizer = peers.torch.optim.Adam(params, lr=_LR, betas=_BETAS, eps=_EPS, **mode)

        def call() -> Any:
            optimizer.step()
            return params

        return call

    return build


def _numpy_adam(i: Inputs) -> Call:
    params, grads, steps = _copies(i.params), i.grads, count(1)
    averages, squares = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    beta1, beta2 = _BETAS

    def call() -> Any:
        step = next(steps)
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        for p, g, m, v in zip(params, grads, averages, squares, strict=True):
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g * g - v)
            p -= (_LR / correction1) * m / (np.sqrt(v / correction2) + _EPS)
        return params

    return call


# SGD


def _ours_sgd(i: Inputs) -> Call:
    params, grads = _copies(i.params), i.grads
    # PyTorch's buffers start as the first gradient, which zeros do too without dampening
    buffers = [np.zeros_like(p) for p in params]

    def call() -> Any:
        ann.sgd_step(params, grads, buffers, lr=_LR, momentum=_MOMENTUM)
        return params

    return call


def _torch_sgd(**mode: bool) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        params = _torch_params(i)
        optimizer = peers.torch.optim.SGD(params, lr=_LR, momentum=_MOMENTUM, **mode)

        def call() -> Any:
            optimizer.step()
            return params

        return call

    return build


# RMSprop, Adagrad


def _ours_rmsprop(i: Inputs) -> Call:
    params, grads = _copies(i.params), i.grads
    squares = [np.zeros_like(p) for p in params]

    def call() -> Any:
        ann.rmsprop_step(params, grads, squares, lr=_LR, alpha=0.99, eps=_EPS)
        return params

    return call


def _ours_adagrad(i: Inputs) -> Call:
    params, grads, steps = _copies(i.params), i.grads, count(1)
    sums = [np.zeros_like(p) for p in params]

    def call() -> Any:
        ann.adagrad_step(params, grads, sums, step=next(steps), lr=_LR, eps=_EPS)
        return params

    return call


def _torch_optimizer(name: str, **options: Any) -> Callable[[Inputs], Call]:
    def build(i: Inputs) -> Call:
        params = _torch_params(i)
        optimizer = getattr(peers.torch.optim, name)(params, lr=_LR, eps=_EPS, **options)

        def call() -> Any:
            optimizer.step()
            return params

        return call

    return build


# Clipping: the bound falls from call to call, so that every call scales


def _falling_bounds() -> Callable[[], float]:
    bounds = count()
    return lambda: 0.9995 ** next(bounds)


def _ours_clip(i: Inputs) -> Call:
    grads, bound = _copies(i.grads), _falling_bounds()
    return lambda: (ann.clip_grad_norm(grads, bound()), grads)


def _torch_clip(i: Inputs) -> Call:
    params, bound, clip = _torch_params(i), _falling_bounds(), peers.torch.nn.utils.clip_grad_norm_
    grads = [param.grad for param in params]
    return lambda: (clip(params, bound()), grads)


def _numpy_clip(i: Inputs) -> Call:
    grads, bound = _copies(i.grads), _falling_bounds()

    def call() -> Any:
        norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in grads)))
        scale = min(1.0, bound() / (norm + 1e-6))
        for g in grads:
            g *= scale
        return norm, grads

    return call


def _case(
    op: str,
    what: str,
    shapes: list[tuple[int, ...]],
    ours: Callable[[Inputs], Call],
    engines: Mapping[str, Callable[[Inputs], Call]],
    passes: int,
) -> Case:
    def make(rng: Random) -> Inputs:
        return Inputs([rng.normal(*shape) for shape in shapes], [rng.normal(*shape) for shape in shapes])

    return Case(
        name=f"{op} {what}",
        family="optimizer",
        group="optimizer",
        op=op,
        make=make,
        ours=ours,
        peers=engines,
        flops=0.0,
        elements=float(passes * sum(np.prod(shape) for shape in shapes)),
        training=True,
    )


def cases() -> list[Case]:
    """Return the optimizer cases."""
    adam = {
        "torch": _torch_adam(),
        "torch foreach": _torch_adam(foreach=True),
        "torch fused": _torch_adam(fused=True),
        "jax": lambda i: xla.optimizer("adam", i.params, i.grads, {"lr": _LR, "betas": _BETAS, "eps": _EPS}),
        "numpy": _numpy_adam,
    }
    sgd = {
        "torch": _torch_sgd(),
        "torch foreach": _torch_sgd(foreach=True),
        "torch fused": _torch_sgd(fused=True),
        "jax": lambda i: xla.optimizer("sgd", i.params, i.grads, {"lr": _LR, "momentum": _MOMENTUM}),
    }
    modes: dict[str, dict[str, bool]] = {"torch": {}, "torch foreach": {"foreach": True}}
    rmsprop = {mode: _torch_optimizer("RMSprop", **option) for mode, option in modes.items()}
    modes["torch fused"] = {"fused": True}
    adagrad = {mode: _torch_optimizer("Adagrad", **option) for mode, option in modes.items()}
    clip = {"torch": _torch_clip, "numpy": _numpy_clip}
    found = []
    for what, shapes in (("8M in 60 tensors", _RESNET), ("1000 tensors of 32", _TINY)):
        found += [
            _case("adam_step", what, shapes, _ours_adam, adam, 7),  # reads p g m v, writes p m v
            _case("sgd_step", what, shapes, _ours_sgd, sgd, 5),  # reads p g b, writes p b
            _case("rmsprop_step", what, shapes, _ours_rmsprop, rmsprop, 5),  # reads p g s, writes p s
            _case("adagrad_step", what, shapes, _ours_adagrad, adagrad, 5),
            _case(
                "clip_grad_norm", what, shapes, _ours_clip, clip, 3
            ),  # reads for the norm, reads and writes to scale
        ]
    return found
