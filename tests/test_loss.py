"""Pointwise losses against the reference and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import check_bad, check_op, check_out, check_overlap, check_threads, cotangent_of
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from shapes import HALF, LAYOUTS, LENGTHS, WIDE, lay, seeds, values, wide_dtypes, widths
from tolerance import assert_close, largest

REDUCTIONS = ("mean", "sum", "none")
BCE = "binary_cross_entropy_with_logits"
LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("mse_loss", {}),
    ("l1_loss", {}),
    ("huber_loss", {}),
    ("huber_loss", {"delta": 0.3}),
    ("kl_div", {}),
    ("kl_div", {"log_target": True}),
    (BCE, {}),
]
WEIGHTED = ("mse_loss", "l1_loss", "huber_loss")  # by weights of the input's shape
losses = pytest.mark.parametrize(("name", "options"), LOSSES, ids=str)
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)


def target_of(name: str, options: Any, shape: Any, dtype: Any, seed: int) -> Any:
    """Return a target that the loss is meant for: with ties, zeros and ones."""
    t = values(shape, np.float64, seed)
    if name == BCE:
        t = np.clip(t + 0.5, 0, 1)
    if name == "kl_div":
        t = np.minimum(t, 0) if options.get("log_target") else np.maximum(t, 0)
    return np.asarray(t.astype(dtype))


def weights(shape: Any, dtype: Any, seed: int = 3) -> Any:
    return np.asarray((np.abs(values(shape, np.float64, seed)) + 0.5).astype(dtype))


def check(name: str, x: Any, t: Any, reduction: str = "mean", **options: Any) -> Any:
    """The bounds count roundings of the terms of one loss, which may cancel, and of their sum."""
    size = max(1, int(np.prod(np.broadcast_shapes(x.shape, t.shape))))
    w, p = options.get("weight"), options.get("pos_weight")
    heaviest = largest(w) if w is not None else 1
    both = largest(x) + largest(t)
    term, slope = {
        "mse_loss": (both**2, 2 * both),
        "l1_loss": (both, 1),
        "huber_loss": (both, 1),
        "kl_div": (2 + largest(t) * both, largest(t)),
        BCE: ((largest(x) + 1) * (1 + largest(t)) * (1 + largest(p)), (1 + largest(t)) * (1 + largest(p))),
    }[name]
    if options.get("log_target"):  # of probabilities, so at most 0
        term, slope = both, 1
    term, slope = term * heaviest, slope * heaviest
    if reduction in ("mean", "batchmean"):
        total: float = size
        if w is not None and name in ("mse_loss", "l1_loss"):
            total = abs(w.astype(np.float64).sum())
        if reduction == "batchmean":
            total = x.shape[0] if x.ndim else 1
        term *= max(1.0, size / total) if total else 1
        slope /= total or 1
    terms = size if reduction == "sum" else 8
    repeats = size / max(1, x.size)
    return check_op(
        name,
        x,
        t,
        reduction=reduction,
        **options,
        bounds={"out": (terms, term), "input": (4 + repeats, slope)},
    )


@given(st.data(), wide_dtypes, st.lists(st.integers(0, 5), max_size=2), widths, st.sampled_from(REDUCTIONS))
def test_losses(data: Any, dtype: Any, shape: list[int], last: int, reduction: str) -> None:
    shape = [*shape, last]
    seed, kind = data.draw(seeds), data.draw(st.sampled_from(("normal", "outliers")))
    x, target_layout, weight_layout = (data.draw(st.sampled_from(LAYOUTS)) for _ in range(3))
    for name, options in LOSSES:
        more = dict(options)
        if name in WEIGHTED and data.draw(st.booleans()):
            more["weight"] = lay(weights(shape, dtype), weight_layout)
        if name == BCE:
            some = st.sampled_from((None, shape, shape[-1:], [1]))
            for option in ("weight", "pos_weight"):
                its = data.draw(some)
                if its is not None:
                    more[option] = lay(weights(its, dtype), weight_layout)
        check(
            name,
            lay(values(shape, dtype, seed, kind), x),
            lay(target_of(name, options, shape, dtype, seed + 1), target_layout),
            reduction,
            **more,
        )


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@losses
@reductions
def test_every_length(reduction: str, name: str, options: Any, dtype: Any) -> None:
    for n in (*LENGTHS, 5003):
        check(name, values((n,), dtype, 1), target_of(name, options, (n,), dtype, 2), reduction, **options)


@losses
@reductions
@pytest.mark.parametrize(
    "shapes",
    [
        ((4,), (3, 4)),
        ((3, 1), (3, 4)),
        ((3, 4), (1,)),
        ((), (5,)),
        ((2, 1, 3), (4, 1)),
        ((1, 2, 1), (3, 2, 4)),
        ((), ()),
    ],
)
def test_broadcasting(shapes: Any, reduction: str, name: str, options: Any) -> None:
    x = np.asarray(values(shapes[0], np.float64, 0))
    t = target_of(name, options, shapes[1], np.float64, 1)
    if name == BCE and shapes[0] != shapes[1]:
        check_bad(name, ValueError, "target", x, t, reduction=reduction)
        return
    check(name, x, t, reduction, **options)
    if name in WEIGHTED:
        check(name, x, t, reduction, weight=weights(shapes[0], np.float64), **options)


@pytest.mark.parametrize("option", ["weight", "pos_weight"])
@reductions
def test_weights_of_logits_broadcast(reduction: str, option: str) -> None:
    x, t = values((4, 3, 5), np.float32, 1), target_of(BCE, {}, (4, 3, 5), np.float32, 2)
    for shape in ((5,), (3, 1), (1, 3, 5), (4, 1, 1), (4, 3, 5), ()):
        check(BCE, x, t, reduction, **{option: weights(shape, np.float32)})


@pytest.mark.parametrize("log_target", [False, True])
def test_batchmean(log_target: bool) -> None:
    options = {"log_target": log_target}
    some = [((6, 5), (6, 5)), ((3, 1), (3, 4)), ((4,), (3, 4)), ((), (3,)), ((7,), ()), ((0, 3), (0, 3))]
    for shapes in some:
        x = np.asarray(values(shapes[0], np.float32, 1))
        check("kl_div", x, target_of("kl_div", options, shapes[1], np.float32, 2), "batchmean", **options)


@losses
@reductions
def test_inf_and_nan(reduction: str, name: str, options: Any) -> None:
    x = values((37,), np.float32, 1, "nan")
    check(name, x, target_of(name, options, (37,), np.float32, 2), reduction, **options)
    if name != "kl_div":
        check(name, values((37,), np.float32, 2), x, reduction, **options)


def test_logits_of_any_size_keep_their_accuracy() -> None:
    """A sure answer has a small loss, not the rounding of large numbers."""
    for dtype in WIDE:
        x = np.array([-80, -20, -3, 3, 20, 80] * 3, dtype)
        right = np.where(x > 0, 1, 0).astype(dtype)
        loss, pullback = ann.vjp(getattr(ann, BCE), x, right, reduction="none")
        assert_close(loss, np.log1p(np.exp(-np.abs(x.astype(np.float64)))), ulps=4)
        expected = np.exp(-np.abs(x.astype(np.float64)))
        expected = -np.sign(x) * expected / (1 + expected)
        assert_close(pullback(np.ones_like(x))[0], expected, ulps=6)


def test_probabilities_down_to_zero() -> None:
    for dtype in WIDE:
        tiny = np.finfo(dtype).tiny
        t = np.array([0, tiny / 1024, tiny, 1e-20, 1, 3, np.inf, -1, np.nan] * 2, dtype)
        x = np.full_like(t, -0.5)
        with np.errstate(all="ignore"):
            check("kl_div", x[:12], t[:12], "none")
            check("kl_div", x, t, "none")


def test_huber_at_its_bend() -> None:
    d = np.array([-2, -0.5, -0.25, 0, 0.25, 0.5, 0.5000001, 2] * 3, np.float64)
    y, pullback = ann.vjp(ann.huber_loss, d, np.zeros_like(d), "none", 0.5)
    np.testing.assert_array_equal(y, np.where(np.abs(d) <= 0.5, d * d / 2, 0.5 * (np.abs(d) - 0.25)))
    np.testing.assert_array_equal(pullback(np.ones_like(d))[0], np.clip(d, -0.5, 0.5))


def test_the_mean_of_nothing_is_nan() -> None:
    x = np.zeros((0, 3), np.float32)
    loss, pullback = ann.vjp(ann.mse_loss, x, x)
    assert np.isnan(loss)
    assert type(loss) is np.ndarray
    assert pullback(np.ones((), np.float32))[0].shape == (0, 3)
    assert ann.mse_loss(x, x, reduction="sum") == 0
    assert ann.mse_loss(x, x, reduction="none").shape == (0, 3)


def test_outliers_do_not_drown_the_rest() -> None:
    """A float32 running sum would lose the ones behind 1e8."""
    x = np.ones(100_001, np.float32)
    x[0] = 1e4
    assert ann.mse_loss(x, np.zeros_like(x), reduction="sum") == pytest.approx(1e8 + 1e5, rel=1e-6)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@losses
@reductions
def test_half(reduction: str, name: str, options: Any, dtype: Any) -> None:
    x, t = values((5, 7), dtype, 1), target_of(name, options, (5, 7), dtype, 2)
    assert check(name, x, t, reduction, **options).dtype == dtype
    if name == BCE:
        check(name, x, t, reduction, weight=weights((7,), dtype), pos_weight=weights((5, 1), dtype))


def test_mixed_dtypes() -> None:
    x, t = values((5, 7), np.float32, 1), values((5, 7), np.float64, 2)
    assert check("mse_loss", x, t).dtype == np.float64
    assert check("mse_loss", x, x[::-1], weight=np.abs(t) + 0.5).dtype == np.float64
    t32 = target_of(BCE, {}, (5, 7), np.float32, 2)
    assert check(BCE, x, t32, pos_weight=np.abs(t) + 0.5).dtype == np.float64


@losses
@reductions
def test_out(reduction: str, name: str, options: Any) -> None:
    x, t = values((4, 5), np.float32, 1), target_of(name, options, (4, 5), np.float32, 2)
    check_out(name, x, t, reduction=reduction, **options)
    check_overlap(name, x, t, reduction=reduction, **options)


@pytest.mark.cpu_only
@losses
@reductions
def test_same_bits_for_any_number_of_threads(reduction: str, name: str, options: Any) -> None:
    for n in (1031, 200_003):
        x, t = values((n,), np.float32, 1), target_of(name, options, (n,), np.float32, 2)
        check_threads(name, x, t, reduction=reduction, **options)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@losses
@reductions
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # PyTorch's word on kl_div
def test_torch(weighted: bool, reduction: str, name: str, options: Any, dtype: Any) -> None:
    x, t = values((6, 19), dtype, 1), target_of(name, options, (6, 19), dtype, 2)
    more = {}
    if weighted and name in WEIGHTED:
        more["weight"] = weights((6, 19), dtype)
    if weighted and name == BCE:
        more = {"weight": weights((6, 1), dtype), "pos_weight": weights((19,), dtype)}
    loss, pullback = ann.vjp(getattr(ann, name), x, t, reduction=reduction, **options, **more)
    tx = torch.tensor(x, requires_grad=True)
    tmore = {k: torch.tensor(v) for k, v in more.items()}
    tloss = getattr(F, name)(tx, torch.tensor(t), reduction=reduction, **options, **tmore)
    assert_close(loss, tloss.detach().numpy(), terms=114, scale=9)
    dloss = cotangent_of(loss)
    tloss.backward(torch.tensor(dloss))
    assert_close(pullback(dloss)[0], tx.grad.numpy(), terms=4, scale=9)


def test_huber_options_by_position() -> None:
    x, t, w = values((3, 7), np.float64, 1), values((3, 7), np.float64, 2), weights((3, 7), np.float64)
    named, pull_named = ann.vjp(ann.huber_loss, x, t, reduction="sum", delta=0.3, weight=w)
    y, pull = ann.vjp(ann.huber_loss, x, t, "sum", 0.3, w)
    np.testing.assert_array_equal(y, named)
    np.testing.assert_array_equal(pull(y)[0], pull_named(y)[0])
    named, pull_named = ann.vjp(getattr(ann, BCE), x, t, weight=w)
    y, pull = ann.vjp(getattr(ann, BCE), x, t, w)
    np.testing.assert_array_equal(y, named)
    np.testing.assert_array_equal(pull(y)[0], pull_named(y)[0])


X = np.ones((3, 5), np.float32)


@pytest.mark.parametrize(
    ("error", "argument", "args", "options"),
    [
        (TypeError, "input", (X.tolist(), X), {}),
        (TypeError, "input", (X.astype(int), X), {}),
        (TypeError, "target", (X, X.tolist()), {}),
        (TypeError, "target", (X, X.astype(int)), {}),
        (TypeError, "target", (X, 1.0), {}),
        (ValueError, "target", (X, X[:, :4]), {}),
        (ValueError, "target", (X, X[:2]), {}),
        (ValueError, "reduction", (X, X), {"reduction": "avg"}),
        (ValueError, "reduction", (X, X), {"reduction": None}),
    ],
)
@pytest.mark.parametrize("name", sorted({name for name, _ in LOSSES}))
def test_bad(name: str, error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad(name, error, argument, *args, **options)


@pytest.mark.parametrize(
    ("name", "error", "argument", "options"),
    [
        *((name, TypeError, "weight", {"weight": X.tolist()}) for name in (*WEIGHTED, BCE)),
        *((name, TypeError, "weight", {"weight": X > 0}) for name in (*WEIGHTED, BCE)),
        *((name, ValueError, "weight", {"weight": X[0]}) for name in WEIGHTED),
        *((BCE, ValueError, name, {name: X[:2]}) for name in ("weight", "pos_weight")),
        *((BCE, ValueError, name, {name: X[None]}) for name in ("weight", "pos_weight")),
        (BCE, TypeError, "pos_weight", {"pos_weight": 2.0}),
        *(("huber_loss", ValueError, "delta", {"delta": delta}) for delta in (0.0, -1.0, np.nan)),
        *(("huber_loss", TypeError, "delta", {"delta": delta}) for delta in ("1", None, X)),
        *(("kl_div", TypeError, "log_target", {"log_target": flag}) for flag in (1, None, "yes")),
        *((name, ValueError, "reduction", {"reduction": "batchmean"}) for name in (*WEIGHTED, BCE)),
    ],
)
def test_bad_options(name: str, error: Any, argument: str, options: Any) -> None:
    check_bad(name, error, argument, X, X, **options)
