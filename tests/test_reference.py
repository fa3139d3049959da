"""The reference against its second witness, PyTorch, and its gradients against central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arraynn as ann
import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arraynn.reference.dropout import philox
from checks import cotangent_of
from parity import check, check_gradient, check_parity, rand
from tolerance import assert_close

ref = ann.reference

# -- convolution ------------------------------------------------------------------------------

CONVS = [
    dict(),
    dict(stride=2),
    dict(stride=(3,), padding=2),
    dict(padding="same"),
    dict(padding="same", dilation=3),
    dict(padding="valid", stride=2),
    dict(dilation=2, padding=1),
    dict(groups=2),
    dict(groups=4, padding=1, stride=2),
]


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_conv1d(options: dict[str, Any], kernel: int) -> None:
    w = rand(8, 4 // options.get("groups", 1), kernel)
    check(ref.conv1d, F.conv1d, rand(3, 4, 11), w, rand(8), **options)
    check(ref.conv1d, F.conv1d, rand(4, 11), w, None, **options)


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (2, 4)])
def test_conv2d(options: dict[str, Any], kernel: tuple[int, int]) -> None:
    w = rand(8, 4 // options.get("groups", 1), *kernel)
    check(ref.conv2d, F.conv2d, rand(2, 4, 9, 10), w, rand(8), **options)
    check(ref.conv2d, F.conv2d, rand(4, 9, 10), w, None, **options)


def test_conv2d_with_an_option_per_axis() -> None:
    options = dict(stride=(2, 1), padding=(0, 3), dilation=(1, 2), groups=2)
    check(ref.conv2d, F.conv2d, rand(2, 4, 7, 6), rand(6, 2, 3, 2), rand(6), **options)
    check(ref.conv2d, F.conv2d, rand(0, 4, 7, 6), rand(6, 2, 3, 2), rand(6), **options)


@pytest.mark.parametrize("options", CONVS[1::2], ids=str)
def test_conv3d(options: dict[str, Any]) -> None:
    w = rand(4, 4 // options.get("groups", 1), 2, 3, 1)
    check(ref.conv3d, F.conv3d, rand(2, 4, 7, 8, 6), w, rand(4), **options)
    check(ref.conv3d, F.conv3d, rand(4, 7, 8, 6), w, None, **options)


TRANSPOSED = [
    dict(),
    dict(stride=2, padding=1, output_padding=1),
    dict(stride=3, groups=2, dilation=2, output_padding=2),
    dict(padding=(1,), dilation=3, output_padding=2, groups=4),
]


@pytest.mark.parametrize("options", TRANSPOSED, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv_transpose(axes: int, options: dict[str, Any]) -> None:
    name, groups = f"conv_transpose{axes}d", options.get("groups", 1)
    size, w = (3, 4, 2)[:axes], rand(4, 8 // groups, *(3, 2, 3)[:axes])
    check(getattr(ref, name), getattr(F, name), rand(2, 4, *size), w, rand(8), **options)
    check(getattr(ref, name), getattr(F, name), rand(4, *size), w, None, **options)


# -- pooling ----------------------------------------------------------------------------------

POOLS = [
    dict(kernel_size=2),
    dict(kernel_size=3, stride=1, padding=1),
    dict(kernel_size=(2, 3), stride=(1, 2), padding=(1, 0)),
    dict(kernel_size=3, stride=2, ceil_mode=True),
    dict(kernel_size=3, stride=2, padding=1, ceil_mode=True),
    dict(kernel_size=(4, 2), stride=(3, 5), padding=(2, 1), ceil_mode=True),
    dict(kernel_size=2, stride=3, ceil_mode=True),
    dict(kernel_size=1),
]


@pytest.mark.parametrize(
    "options",
    [*POOLS, dict(kernel_size=2, dilation=3), dict(kernel_size=3, dilation=2, padding=1, ceil_mode=True)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (3, 10, 9), (0, 2, 7, 7)])
def test_max_pool2d(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    check(ref.max_pool2d, F.max_pool2d, rand(*shape), **options)
    check_parity(ref.max_pool2d, F.max_pool2d, rand(*shape).round(), return_indices=True, **options)


@pytest.mark.parametrize("kernel", [2, 3, (3, 7)])
def test_max_pool2d_takes_the_last_nan_and_the_first_of_equals(kernel: Any) -> None:
    x = rand(1, 20, 9, 11).round()
    x[:, :10][rand(1, 10, 9, 11) > 1] = np.nan
    x[:, 5:][rand(1, 15, 9, 11) > 1] = -np.inf
    x[:, 15:][rand(1, 5, 9, 11) > 1] = np.inf
    y, index = ref.max_pool2d(x, kernel, 2, 1, return_indices=True)
    ty, tindex = F.max_pool2d(torch.tensor(x), kernel, 2, 1, return_indices=True)
    np.testing.assert_array_equal(y, ty.numpy())
    np.testing.assert_array_equal(index, tindex.numpy())


def test_max_pool2d_of_nothing_but_padding() -> None:
    y, index = ref.max_pool2d(np.ones((1, 1, 1)), 2, 1, 1, 2, return_indices=True)
    assert y.item() == -np.inf
    assert index.item() == -1
    assert ann.vjp(ref.max_pool2d, np.ones((1, 1, 1)), 2, 1, 1, 2)[1](np.ones((1, 1, 1)))[0].item() == 0


@pytest.mark.parametrize("options", POOLS, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (3, 10, 9), (0, 2, 7, 7)])
@pytest.mark.parametrize(
    "more", [{}, dict(count_include_pad=False), dict(divisor_override=3), dict(divisor_override=-2)], ids=str
)
def test_avg_pool2d(options: dict[str, Any], shape: tuple[int, ...], more: dict[str, Any]) -> None:
    check(ref.avg_pool2d, F.avg_pool2d, rand(*shape), **options, **more)


@pytest.mark.parametrize("size", [1, 3, 7, (1, 5), (None, 4), (9, None), (20, 11), (None, None)])
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (3, 10, 9), (0, 2, 7, 7)])
def test_adaptive_avg_pool2d(size: Any, shape: tuple[int, ...]) -> None:
    check(ref.adaptive_avg_pool2d, F.adaptive_avg_pool2d, rand(*shape), size)


LINES = [
    dict(kernel_size=2),
    dict(kernel_size=(3,), stride=1, padding=1),
    dict(kernel_size=3, stride=2, padding=1, ceil_mode=True),
    dict(kernel_size=2, stride=3, ceil_mode=True),
]
VOLUMES = [
    dict(kernel_size=2),
    dict(kernel_size=3, stride=1, padding=1),
    dict(kernel_size=(1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1), ceil_mode=True),
    dict(kernel_size=(2, 4, 2), stride=(3, 1, 5), padding=(1, 2, 1), ceil_mode=True),
]
# Each dimension with its options, and shapes with a batch, without, and with an empty one.
OTHERS: list[tuple[int, dict[str, Any], tuple[int, ...]]] = [
    *((1, options, shape) for options in LINES for shape in [(2, 3, 8), (3, 9), (0, 2, 7)]),
    *(
        (3, options, shape)
        for options in VOLUMES
        for shape in [(2, 2, 4, 5, 6), (2, 5, 4, 7), (0, 2, 4, 4, 4)]
    ),
]


@pytest.mark.parametrize(("dims", "options", "shape"), OTHERS, ids=str)
def test_pools_of_other_dimensions(dims: int, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    op, peer = getattr(ref, f"max_pool{dims}d"), getattr(F, f"max_pool{dims}d")
    for more in ({}, {"dilation": 2}) if options["kernel_size"] == 2 else ({},):
        check(op, peer, rand(*shape), **options, **more)
        check_parity(op, peer, rand(*shape).round(), return_indices=True, **options, **more)
    op, peer = getattr(ref, f"avg_pool{dims}d"), getattr(F, f"avg_pool{dims}d")
    for more in ({}, {"count_include_pad": False}, *([{"divisor_override": -3}] if dims == 3 else [])):
        check(op, peer, rand(*shape), **options, **more)


@pytest.mark.parametrize("size", [1, 3, 4, 7])
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 7, 5), (2, 2, 4, 5, 6), (0, 2, 7, 7)])
def test_adaptive_pools(size: int, shape: tuple[int, ...]) -> None:
    dims = len(shape) - 2
    avg, best = f"adaptive_avg_pool{dims}d", f"adaptive_max_pool{dims}d"
    check(getattr(ref, avg), getattr(F, avg), rand(*shape), size)
    check(getattr(ref, best), getattr(F, best), rand(*shape), size)
    if dims > 1:
        sizes = (None, 2, 3)[:dims]
        check(getattr(ref, avg), getattr(F, avg), rand(*shape), sizes)
        check(getattr(ref, best), getattr(F, best), rand(*shape), sizes)
    x = rand(*shape).round()
    x[rand(*shape, seed=1) > 1.5] = np.nan
    check_parity(getattr(ref, best), getattr(F, best), x, size, return_indices=True)
    unbatched = x[0] if len(x) else x
    check_parity(getattr(ref, best), getattr(F, best), unbatched, size, return_indices=True)


def test_adaptive_avg_pool2d_to_nothing() -> None:
    y, pullback = ann.vjp(ref.adaptive_avg_pool2d, rand(2, 3, 7, 8), (0, 4))
    assert y.shape == (2, 3, 0, 4)
    assert not pullback(y)[0].any()


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3)])
@pytest.mark.parametrize("padding", [None, 0, -2])
def test_embedding(shape: tuple[int, ...], padding: int | None) -> None:
    index = np.asarray(np.random.default_rng(0).integers(0, 4, shape))
    check_parity(ref.embedding, F.embedding, index, rand(4, 3), padding)
    if padding is None:
        check_gradient(ref.embedding, index, rand(4, 3))


# -- dense, activations, losses ---------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5), (2, 0, 5)])
def test_linear(shape: tuple[int, ...]) -> None:
    check(ref.linear, F.linear, rand(*shape), rand(4, 5), rand(4))
    check(ref.linear, F.linear, rand(*shape), rand(4, 5), None)


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 5), (0, 3, 5), (2, 3, 1)])
def test_layer_norm_and_rms_norm(shape: tuple[int, ...]) -> None:
    for last in (shape[-1:], shape[-2:]):
        w, b = rand(*last, seed=1), rand(*last, seed=2)
        for options in ({}, {"eps": 0.1}):
            check(ref.layer_norm, F.layer_norm, rand(*shape), last, w, b, **options)
            check(ref.rms_norm, F.rms_norm, rand(*shape), last, w, **options)
        check(ref.layer_norm, F.layer_norm, rand(*shape), last, None, b)
        check(ref.layer_norm, F.layer_norm, rand(*shape), last, w)
        check(ref.rms_norm, F.rms_norm, rand(*shape), last)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 2, 4), (2, 3, 1, 2, 3)])
def test_batch_norm(shape: tuple[int, ...]) -> None:
    x, w, b = rand(*shape), rand(3, seed=1), rand(3, seed=2)
    for options in ({}, {"momentum": 0.7, "eps": 0.1}):
        check(ref.batch_norm, F.batch_norm, x, None, None, w, b, True, **options)
        stats = [rand(3, seed=3), np.abs(rand(3, seed=4))]
        tensors = [torch.tensor(a) for a in stats]
        expected = F.batch_norm(torch.tensor(x), *tensors, torch.tensor(w), None, True, **options)
        assert_close(ref.batch_norm(x, *stats, w, None, True, **options), expected.numpy(), terms=64)
        for ours, theirs in zip(stats, tensors, strict=True):
            assert_close(ours, theirs.numpy(), terms=64)
    check(ref.batch_norm, F.batch_norm, x, None, None, training=True)

    def peer(input: Any, mean: Any, var: Any, *affine: Any, **options: Any) -> Any:
        return F.batch_norm(input, mean.detach(), var.detach(), *affine, **options)

    check(ref.batch_norm, peer, x, *stats, w, b, eps=0.1)
    check(ref.batch_norm, peer, x, *stats, None, b)


@pytest.mark.parametrize("shape", [(4, 6), (2, 6, 5), (2, 6, 2, 4), (0, 6, 3)])
def test_group_norm(shape: tuple[int, ...]) -> None:
    x, w, b = rand(*shape), rand(6, seed=1), rand(6, seed=2)
    for groups in (1, 2, 3, 6) if len(shape) > 2 else (1, 2):
        check(ref.group_norm, F.group_norm, x, groups, w, b)
        check(ref.group_norm, F.group_norm, x, groups, w, None, eps=0.1)
        check(ref.group_norm, F.group_norm, x, groups)


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": -0.5}),
    ("elu", {}),
    ("elu", {"alpha": -1.5}),
    ("elu", {"alpha": 0.0}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("softplus", {}),
    ("softplus", {"beta": 0.5, "threshold": 1.0}),
    ("softplus", {"beta": -2.0, "threshold": -1.0}),
]


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4, 5)])
def test_activations(shape: tuple[int, ...]) -> None:
    scaled = np.asarray(3 * rand(*shape))
    for name in ("relu", "sigmoid", "tanh"):
        check(getattr(ref, name), getattr(torch, name), scaled)
    for name, options in ACTIVATIONS:
        check(getattr(ref, name), getattr(F, name), scaled, **options)
    for axis in range(-max(len(shape), 1), max(len(shape), 1)):
        check(ref.softmax, F.softmax, scaled, axis)
        check(ref.log_softmax, F.log_softmax, scaled, axis)


def test_activations_at_the_ends() -> None:
    x = np.array([0.0, -0.0, 1e-300, 40.0, -40.0, 800.0, -800.0, np.inf, -np.inf, np.nan])
    for name in ("relu", "sigmoid", "tanh"):
        check_parity(getattr(ref, name), getattr(torch, name), x)
    for name, options in ACTIVATIONS:
        # PyTorch's scalar loop alone has a gradient of 1 for elu of NaN.
        check_parity(getattr(ref, name), getattr(F, name), x[:-1] if name == "elu" else x, **options)
    rows = np.array([[0.0, 1e4, -1e4], [-np.inf, 2, 3], [-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1]])
    check_parity(ref.softmax, F.softmax, rows, -1)
    check_parity(ref.log_softmax, F.log_softmax, rows, -1)


PAIRS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 4), (3, 4)),
    ((4,), (3, 4)),
    ((3, 1), (3, 4)),
    ((3, 4), (1,)),
    ((), ()),
    ((0, 3), (0, 3)),
]


def constant_target(op: Callable[..., Any]) -> Callable[..., Any]:
    """Return PyTorch's loss without a gradient of its target, which some of them have."""
    return lambda x, target, **options: op(x, target.detach(), **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shapes", PAIRS)
def test_mse_loss(reduction: str, shapes: Any) -> None:
    x, t = rand(*shapes[0]), rand(*shapes[1], seed=1)
    peer = constant_target(F.mse_loss)
    check_parity(ref.mse_loss, peer, x, t, reduction=reduction)
    w = np.asarray(np.abs(rand(*shapes[0], seed=2)))
    check_parity(ref.mse_loss, peer, x, t, reduction=reduction, weight=w)
    if x.size:
        check_gradient(ref.mse_loss, x, t, reduction=reduction, weight=w)


LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("l1_loss", {}),
    ("huber_loss", {}),
    ("huber_loss", {"delta": 0.3}),
    ("kl_div", {}),
    ("kl_div", {"log_target": True}),
    ("binary_cross_entropy_with_logits", {}),
]


# Each loss with the shapes and reductions that it takes.
LOSS_CALLS = [
    (name, options, shapes, reduction)
    for name, options in LOSSES
    for shapes in PAIRS
    if name != "binary_cross_entropy_with_logits" or shapes[0] == shapes[1]
    for reduction in ("mean", "sum", "none", *(["batchmean"] if name == "kl_div" else []))
]


@pytest.mark.parametrize(("name", "options", "shapes", "reduction"), LOSS_CALLS, ids=str)
def test_losses(name: str, options: dict[str, Any], shapes: Any, reduction: str) -> None:
    logits = name == "binary_cross_entropy_with_logits"
    x, t = rand(*shapes[0]), np.asarray(np.abs(rand(*shapes[1], seed=1)))
    w = np.asarray(np.abs(rand(*shapes[0], seed=2)))
    more = [{}, {"weight": w}] if name in ("l1_loss", "huber_loss") else [{}]
    if logits:
        few = np.asarray(np.abs(rand(*shapes[0][-1:], seed=3)))
        more = [{}, {"weight": w}, {"pos_weight": few}, {"weight": few, "pos_weight": w}]
    peer = constant_target(getattr(F, name))
    for each in more:
        check_parity(getattr(ref, name), peer, x, t, reduction=reduction, **options, **each)
        if x.size:
            check_gradient(getattr(ref, name), x, t, reduction=reduction, **options, **each)


def test_losses_at_the_ends() -> None:
    x = np.array([-800.0, -40, -1e-300, 0, 1e-300, 40, 800] * 2)
    for t in (np.zeros(14), np.ones(14), np.repeat([0.25, 2.0], 7)):
        for name, options in LOSSES:
            check_parity(
                getattr(ref, name), constant_target(getattr(F, name)), x, t, reduction="none", **options
            )


LABELS = [
    ((5, 4), (5,)),
    ((4,), ()),
    ((2, 4, 3), (2, 3)),
    ((2, 4, 2, 3), (2, 2, 3)),
    ((0, 4), (0,)),
    ((6, 1), (6,)),
]


@pytest.mark.parametrize("shapes", LABELS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(shapes: Any, reduction: str, smoothing: float, weighted: bool) -> None:
    x, rng = 3 * rand(*shapes[0]), np.random.default_rng(1)
    classes = shapes[0][0] if len(shapes[0]) == 1 else shapes[0][1]
    weight = rng.uniform(0.5, 2, classes) if weighted else None
    options = dict(reduction=reduction, label_smoothing=smoothing, weight=weight)
    labels = rng.integers(0, classes, shapes[1])
    ignored = np.where(rng.random(shapes[1]) < 0.4, -100, labels)
    for target, ignore_index in ((labels, -100), (ignored, -100), (labels, 0)):
        check_parity(ref.cross_entropy, F.cross_entropy, x, target, ignore_index=ignore_index, **options)
        if (target != ignore_index).any():
            check_gradient(ref.cross_entropy, x, target, ignore_index=ignore_index, **options)
    probabilities = rng.uniform(0, 1, shapes[0])
    check_parity(ref.cross_entropy, constant_target(F.cross_entropy), x, probabilities, **options)
    if x.size:
        check_gradient(ref.cross_entropy, x, probabilities, **options)


@pytest.mark.parametrize("shapes", LABELS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nll_loss(shapes: Any, reduction: str, weighted: bool) -> None:
    x, rng = rand(*shapes[0]), np.random.default_rng(1)
    classes = shapes[0][0] if len(shapes[0]) == 1 else shapes[0][1]
    options = dict(reduction=reduction, weight=rng.uniform(0.5, 2, classes) if weighted else None)
    labels = rng.integers(0, classes, shapes[1])
    ignored = np.where(rng.random(shapes[1]) < 0.4, -100, labels)
    for target, ignore_index in ((labels, -100), (ignored, -100), (labels, 0)):
        check_parity(ref.nll_loss, F.nll_loss, x, target, ignore_index=ignore_index, **options)
        if (target != ignore_index).any():
            check_gradient(ref.nll_loss, x, target, ignore_index=ignore_index, **options)


@pytest.mark.parametrize("rows", [(6,), (), (0,)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_linear_cross_entropy(rows: tuple[int, ...], reduction: str, smoothing: float) -> None:
    x, w, b, rng = rand(*rows, 5), rand(4, 5), rand(4), np.random.default_rng(1)
    options = dict(reduction=reduction, label_smoothing=smoothing)
    for target in (np.asarray(rng.integers(0, 4, rows)), np.asarray(rng.uniform(0, 1, (*rows, 4)))):
        loss, pullback = ann.vjp(ref.linear_cross_entropy, x, w, target, linear_bias=b, **options)
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
        peer = F.linear_cross_entropy(*leaves[:2], torch.tensor(target), linear_bias=leaves[2], **options)
        assert_close(loss, peer.detach().numpy(), terms=64, scale=4)
        dloss = cotangent_of(loss)
        peer.backward(torch.tensor(dloss))
        for gradient, leaf in zip(pullback(dloss), leaves, strict=True):
            assert_close(gradient, leaf.grad.numpy(), terms=256, scale=8)
        if x.size:
            check_gradient(ref.linear_cross_entropy, x, w, target, **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_without_a_label(smoothing: float, weighted: bool) -> None:
    x, target = rand(3, 4), np.full(3, 2)
    options = dict(ignore_index=2, label_smoothing=smoothing, weight=np.ones(4) if weighted else None)
    check_parity(ref.cross_entropy, F.cross_entropy, x, target, **options)
    loss, pullback = ann.vjp(ref.cross_entropy, x, target, **options)
    assert np.isnan(loss)
    assert not pullback(np.ones(()))[0].any()


def test_cross_entropy_with_a_total_weight_of_zero() -> None:
    weight = np.array([0.0, 1, 1, 1])
    check_parity(ref.cross_entropy, F.cross_entropy, rand(3, 4), np.zeros(3, int), weight=weight)


def test_cross_entropy_of_outliers() -> None:
    x = np.array([[0, 1e4, -1e4, 3], [-np.inf, 0, 1, 2], [np.inf, 0, 1, 2], [np.nan, 0, 1, 2], [-np.inf] * 4])
    for label in range(4):
        for reduction in ("mean", "none"):
            check_parity(ref.cross_entropy, F.cross_entropy, x, np.full(5, label), reduction=reduction)


# -- dropout ----------------------------------------------------------------------------------


def test_philox_known_answers() -> None:
    """The two vectors of Random123's kat_vectors whose counter fits in 64 bits, or is made to."""
    zero = philox(np.zeros(1, np.uint64), 0)[0]
    assert [hex(w) for w in zero] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


def test_dropout() -> None:
    x = rand(40, 50)
    for p in (0.0, 0.25, 0.5, 0.9, 1.0):
        y, pullback = ann.vjp(ref.dropout, x, p, rng=3)
        np.testing.assert_array_equal(y, ref.dropout(x, p, rng=3))
        stays = y != 0
        assert abs(stays.mean() - (1 - p)) < 0.05
        if p < 1:
            assert_close(y, np.where(stays, x / (1 - p), 0))
        dy = rand(40, 50, seed=1)
        assert_close(pullback(dy)[0], np.where(stays, dy / max(1 - p, 1e-9), 0))
    np.testing.assert_array_equal(ref.dropout(x, 0.5, False), x)
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(ref.dropout(x, rng=generator), ref.dropout(x, rng=3))
    assert (ref.dropout(x, rng=generator) != ref.dropout(x, rng=3)).any()


# -- dtypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_results_are_rounded_once(dtype: Any) -> None:
    x, w = rand(3, 5).astype(dtype), rand(4, 5).astype(dtype)
    expected = (x.astype(np.float64) @ w.astype(np.float64).T).astype(dtype)
    y, pullback = ann.vjp(ref.linear, x, w)
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == dtype
    assert [g.dtype for g in pullback(y)[:2]] == [dtype, dtype]
    mixed, pullback = ann.vjp(ref.linear, x, w.astype(np.float64))
    assert mixed.dtype == np.float64
    assert [g.dtype for g in pullback(mixed)[:2]] == [dtype, np.float64]
