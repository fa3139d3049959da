"""An op against PyTorch, and its gradients against central differences, in float64."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import arraynn as ann
import numpy as np
import torch
from checks import cotangent_of, leaves
from tolerance import assert_close


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape))


def tensor(value: Any) -> Any:
    """Turn arrays, nested or not, into leaves of a PyTorch graph."""
    if isinstance(value, tuple | list):
        return type(value)(tensor(v) for v in value)
    if not isinstance(value, np.ndarray):
        return value
    t = torch.tensor(value)
    return t.requires_grad_() if t.is_floating_point() else t


def flat(value: Any) -> list[Any]:
    return [v for v in leaves(value) if v is not None]


def check_parity(op: Callable[..., Any], peer: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Compare output and gradients of all differentiable arguments with PyTorch's."""
    out, pullback = ann.vjp(op, *args, **kwargs)
    for a, b in zip(flat(op(*args, **kwargs)), flat(out), strict=True):
        np.testing.assert_array_equal(a, b)
    targs = tensor(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns where input and target broadcast
        tout = peer(
            *targs, **{k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
        )
    for a, b in zip(flat(out), flat(tout), strict=True):
        if a.dtype.kind == "i":
            np.testing.assert_array_equal(a, b.numpy())
        else:
            assert_close(a, b.detach().numpy(), terms=64, scale=4)
    dout = cotangent_of(out)
    pairs = [(t, d) for t, d in zip(flat(tout), flat_none(dout), strict=True) if d is not None]
    torch.autograd.backward([t for t, _ in pairs], [torch.tensor(d) for _, d in pairs])
    places = places_of(op)
    for name, gradient in zip(ann._vjp.differentiable(op), pullback(dout), strict=True):
        if places[name] >= len(args):
            continue  # omitted, or given by name
        for g, t in zip(flat(gradient), flat(targs[places[name]]), strict=True):
            expected = np.zeros(t.shape) if t.grad is None else t.grad.numpy()
            assert_close(g, expected, terms=256, scale=8, what=f"gradient of {name}")


def places_of(op: Callable[..., Any]) -> dict[str, int]:
    """Return where each argument of an op stands."""
    return {name: i for i, name in enumerate(inspect.signature(op).parameters)}


def flat_none(value: Any) -> list[Any]:
    return list(leaves(value))


def check_gradient(op: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Compare each gradient, along a random direction, with a central difference."""
    out, pullback = ann.vjp(op, *args, **kwargs)
    dout = cotangent_of(out)
    gradients = pullback(dout)
    step = 1e-5
    places = places_of(op)
    for name, gradient in zip(ann._vjp.differentiable(op), gradients, strict=True):
        i = places[name]
        if gradient is None or i >= len(args):
            continue
        moves = [np.random.default_rng(i).standard_normal(g.shape) for g in flat(gradient)]

        def moved(by: float, i: int = i, moves: list[np.ndarray] = moves) -> float:
            new = nest(args[i], [np.asarray(a + by * m) for a, m in zip(flat(args[i]), moves, strict=True)])
            result = op(*args[:i], new, *args[i + 1 :], **kwargs)
            pairs = zip(leaves(result), leaves(dout), strict=True)
            return float(sum(np.sum(a * d) for a, d in pairs if d is not None))

        slope = sum(np.sum(g * m) for g, m in zip(flat(gradient), moves, strict=True))
        difference = (moved(step) - moved(-step)) / (2 * step)
        assert abs(slope - difference) <= 1e-7 * (1 + abs(slope)), f"gradient of {name}"


def nest(shape: Any, items: list[Any]) -> Any:
    """Arrange `items` in the nesting of `shape`."""
    if not isinstance(shape, tuple | list):
        return items.pop(0)
    return type(shape)(nest(s, items) for s in shape)


def check(op: Callable[..., Any], peer: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    check_parity(op, peer, *args, **kwargs)
    check_gradient(op, *args, **kwargs)


def torch_layers(mode: str, options: dict[str, Any], lengths: np.ndarray | None) -> Callable[..., Any]:
    """Return PyTorch's lstm, gru, rnn_tanh or rnn_relu with our arguments; `lengths` packs the sequences."""
    function = getattr(torch._VF, mode)

    def call(x: Any, hx: Any, params: Any) -> Any:
        first = options["batch_first"]
        layers, both = options["num_layers"], options["bidirectional"]
        unbatched = x.ndim == 2
        x = x.unsqueeze(0 if first else 1) if unbatched else x
        n, hidden = x.shape[0 if first else 1], params[1].shape[1]
        if hx is None:
            zeros = torch.zeros(layers * (2 if both else 1), n, hidden, dtype=x.dtype)
            hx = (zeros, zeros) if mode == "lstm" else zeros
        elif unbatched:
            hx = tuple(s[:, None] for s in hx) if mode == "lstm" else hx[:, None]
        bias = len(params) == 4 * layers * (2 if both else 1)
        if lengths is None:
            out = function(x, hx, params, bias, layers, 0.0, False, both, first)
        else:
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                x, torch.tensor(lengths), first, enforce_sorted=False
            )
            order = packed.sorted_indices
            hx = tuple(s[:, order] for s in hx) if mode == "lstm" else hx[:, order]
            data, *states = function(
                packed.data, packed.batch_sizes, hx, params, bias, layers, 0.0, False, both
            )
            repacked = torch.nn.utils.rnn.PackedSequence(
                data, packed.batch_sizes, order, packed.unsorted_indices
            )
            total = x.shape[1 if first else 0]
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(repacked, first, total_length=total)
            out = (y, *(s[:, packed.unsorted_indices] for s in states))
        y, *states = out
        if unbatched:
            y, states = y.squeeze(0 if first else 1), [s[:, 0] for s in states]
        return (y, tuple(states)) if mode == "lstm" else (y, states[0])

    return call
