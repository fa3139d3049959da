"""A layer beside PyTorch's module: the same parameters, outputs and gradients."""

from __future__ import annotations

import numpy as np

rng = np.random.default_rng(0)
F64 = {"dtype": np.float64}


def draw(*shape, dtype=np.float64):
    return rng.standard_normal(shape).astype(dtype)


def pair_with(torch, ours, theirs):
    """Load the PyTorch module's parameters into the layer."""
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], value.numpy())


def compare(torch, ours, theirs, *inputs):
    """Compare the output and every gradient for a random cotangent."""
    pair_with(torch, ours, theirs)
    tensors = [to_torch(torch, value) for value in inputs]
    out, expected = ours(*inputs), theirs(*tensors)
    cotangents = [draw(*leaf.shape) for leaf in leaves(out)]
    torch.autograd.backward(leaves(expected), [torch.from_numpy(c) for c in cotangents])
    gradients = ours.backward(rebuild(out, iter(cotangents)))
    for got, want in zip(leaves(out), leaves(expected), strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-9, atol=1e-11)
    for got, leaf in zip(leaves(gradients), leaves(tensors), strict=True):
        np.testing.assert_allclose(got, leaf.grad.numpy(), rtol=1e-9, atol=1e-11)
    for (name, parameter), (their_name, their_parameter) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == their_name
        np.testing.assert_allclose(parameter.grad, their_parameter.grad.numpy(), rtol=1e-9, atol=1e-11)


def leaves(value):
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple | list) else [value]


def rebuild(like, items):
    return tuple(rebuild(item, items) for item in like) if isinstance(like, tuple) else next(items)


def to_torch(torch, value):
    if isinstance(value, tuple):
        return tuple(to_torch(torch, item) for item in value)
    return torch.from_numpy(value.copy()).requires_grad_()
