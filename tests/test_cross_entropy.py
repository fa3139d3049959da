"""cross_entropy, nll_loss and linear_cross_entropy against the reference and PyTorch."""

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
from shapes import HALF, LENGTHS, WIDE, arrays, lay, seeds, values, wide_dtypes, widths
from tolerance import assert_close, largest

REDUCTIONS = ("mean", "sum", "none")


def check(x: Any, target: Any, weight: Any = None, **options: Any) -> Any:
    """A loss is as large as the spread of its row; a sum adds one for each label and class."""
    spread = 2 * largest(x) + 10
    count = max(x.size, 1) if options.get("reduction", "mean") != "none" else x.shape[0 if x.ndim == 1 else 1]
    heavy = largest(weight) if weight is not None else 1.0
    if target.dtype.kind not in "iu":
        heavy *= largest(target) * x.shape[0 if x.ndim == 1 else 1]
    depth = min(spread, 104 if x.dtype != np.float64 else 746)
    bounds = {
        "out": (count + 4, spread * heavy),
        "input": (x.shape[0 if x.ndim == 1 else 1] + depth, 2 * heavy, depth),
    }
    if options.get("reduction", "mean") == "mean" and target.size:
        bounds["out"] = (x.shape[0 if x.ndim == 1 else 1] + 8, spread * max(heavy, 1))
    return check_op("cross_entropy", x, target, weight, bounds=bounds, **options)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Any, Any, Any, dict[str, Any]]:
    classes = draw(widths)
    space = draw(st.sampled_from([(), (), (), (3,), (2, 5)]))
    batch = (
        draw(st.sampled_from([(), (0,), (1,), (2,), (5,), (17,)]))
        if not space
        else (draw(st.integers(0, 3)),)
    )
    dtype, axis = draw(wide_dtypes), len(batch)
    shape = (*batch, classes, *space)
    x = draw(arrays(shape, dtype, ("normal", "outliers", "ties")))
    rng = np.random.default_rng(draw(seeds))
    options: dict[str, Any] = dict(reduction=draw(st.sampled_from(REDUCTIONS)))
    options["label_smoothing"] = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    weight = np.asarray(rng.uniform(0.5, 2, classes).astype(dtype)) if draw(st.booleans()) else None
    if draw(st.integers(0, 3)) == 0:
        target = np.asarray(rng.uniform(0, 1, shape).astype(dtype))
        return x, lay(target, draw(st.sampled_from(["c", "fortran", "reversed"]))), weight, options
    target = np.asarray(rng.integers(0, classes, (*batch, *space)))
    target = np.asarray(
        np.where(rng.random(target.shape) < 0.3, classes - 1, target)
    )  # the last class, often
    kind = draw(st.sampled_from(["all", "default", "a class"]))
    if kind == "default":
        target = np.asarray(np.where(rng.random(target.shape) < 0.4, -100, target))
    elif kind == "a class":
        options["ignore_index"] = draw(st.integers(0, classes - 1))
    target = target.astype(draw(st.sampled_from([np.int64, np.int32, np.int16])))
    assert axis <= 1
    return (
        x,
        lay(target, draw(st.sampled_from(["c", "fortran", "reversed", "strided", "misaligned"]))),
        weight,
        options,
    )


@given(labelled())
def test_cross_entropy(case: Any) -> None:
    x, target, weight, options = case
    check(x, target, weight, **options)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_every_number_of_classes(dtype: Any) -> None:
    for classes in LENGTHS[1:]:
        x, weight = (
            values((4, classes), dtype, classes, "outliers"),
            np.linspace(0.5, 2, classes).astype(dtype),
        )
        target = np.array([0, classes - 1, classes // 2, classes - 1])
        for smoothing in (0.0, 0.2):
            for reduction in REDUCTIONS:
                check(x, target, weight, reduction=reduction, label_smoothing=smoothing)
        check(x, target)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint64, ">i4"])
def test_any_integer_dtype(dtype: Any) -> None:
    x, target = values((5, 7), np.float32, 1), np.array([0, 6, 3, 6, 1])
    np.testing.assert_array_equal(ann.cross_entropy(x, target.astype(dtype)), ann.cross_entropy(x, target))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_outliers(reduction: str, smoothing: float, dtype: Any) -> None:
    x = np.zeros((7, 37), dtype)
    x[0, 36], x[1, 0], x[2, 17], x[3, :] = 1e4, -1e4, 1e30, 1e4
    x[4, 5], x[5, 36], x[6, :] = -np.inf, np.nan, -np.inf
    for rows in ([0], [1], [2], [3], [0, 1, 3], [4], [5], [6]):
        for label in (0, 5, 36):
            target = np.full(len(rows), label)
            check(x[rows], target, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_no_label(weighted: bool, smoothing: float, dtype: Any) -> None:
    weight = np.ones(5, dtype) if weighted else None
    for n in (0, 3):
        x, target = values((n, 5), dtype, 1), np.full(n, 2)
        options = dict(ignore_index=2, label_smoothing=smoothing)
        loss, pullback = ann.vjp(ann.cross_entropy, x, target, weight, **options)
        assert np.isnan(loss)
        np.testing.assert_array_equal(pullback(np.ones((), dtype))[0], np.zeros((n, 5)))
        assert ann.cross_entropy(x, target, weight, reduction="sum", **options) == 0
        np.testing.assert_array_equal(
            ann.cross_entropy(x, target, weight, reduction="none", **options), np.zeros(n)
        )


def test_ignored_rows_do_not_matter() -> None:
    """Neither their loss nor their gradient, not even when they hold NaN, nor their labels' range."""
    x = values((4, 5), np.float32, 1)
    x[1] = np.nan
    target = np.array([4, -7, 0, 2])
    loss, pullback = ann.vjp(ann.cross_entropy, x, target, ignore_index=-7)
    kept = [0, 2, 3]
    expected, expected_pullback = ann.vjp(ann.cross_entropy, x[kept], target[kept])
    assert_close(loss, expected)
    (dx,) = pullback(np.ones((), np.float32))
    np.testing.assert_array_equal(dx[1], 0)
    assert_close(dx[kept], expected_pullback(np.ones((), np.float32))[0], terms=2)


def test_reduced_loss_is_an_array() -> None:
    x, target = values((4, 5), np.float32, 1), np.zeros(4, int)
    for loss in (ann.cross_entropy(x, target), ann.cross_entropy(x[0], target[0, ...])):
        assert type(loss) is np.ndarray
        assert loss.shape == ()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_half(reduction: str, dtype: Any) -> None:
    x, target = values((6, 19), dtype, 1), np.array([0, 18, 3, 18, -100, 7])
    assert check(x, target, reduction=reduction, label_smoothing=0.1).dtype == dtype
    probabilities = np.random.default_rng(1).dirichlet(np.ones(19), 6).astype(dtype)
    assert check(x, probabilities, reduction=reduction).dtype == dtype


def test_mixed_dtypes() -> None:
    x, target, weight = values((6, 5), np.float32, 1), np.arange(6) % 5, np.linspace(1, 2, 5)
    assert check(x, target, weight).dtype == np.float64
    assert check(x.astype(np.float16), target, weight.astype(np.float32)).dtype == np.float32
    assert check(x, np.full((6, 5), 0.2)).dtype == np.float64


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shapes", [((4, 5), (4,)), ((4, 5, 3), (4, 3)), ((5,), ()), ((0, 5), (0,))])
def test_out(reduction: str, shapes: Any) -> None:
    x, target = values(shapes[0], np.float32, 1), np.full(shapes[1], 4)
    if shapes[0][0] or reduction != "mean":
        check_out("cross_entropy", x, target, reduction=reduction)
    check_overlap("cross_entropy", x, target, np.ones(5, np.float32), reduction=reduction)


@pytest.mark.cpu_only
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_same_bits_for_any_number_of_threads(reduction: str) -> None:
    rng = np.random.default_rng(1)
    for shape in ((700, 111), (9, 30011), (5, 13, 40, 41)):
        x, weight = values(shape, np.float32, 1), rng.uniform(0.5, 2, shape[1]).astype(np.float32)
        target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        check_threads("cross_entropy", x, target, weight, reduction=reduction, label_smoothing=0.1)
        check_threads("cross_entropy", x, np.abs(values(shape, np.float32, 2)), reduction=reduction)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(6, 19), (2, 5, 3, 4)])
def test_torch(shape: Any, smoothing: float, reduction: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    x, weight = values(shape, dtype, 1, "outliers"), rng.uniform(0.5, 2, shape[1]).astype(dtype)
    target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    target.ravel()[1] = 3
    for t in (target, rng.uniform(0, 1, shape).astype(dtype)):
        options = dict(reduction=reduction, label_smoothing=smoothing)
        if t.dtype == np.int64:
            options["ignore_index"] = 3
        loss, pullback = ann.vjp(ann.cross_entropy, x, t, weight, **options)
        tx = torch.tensor(x, requires_grad=True)
        tloss = F.cross_entropy(tx, torch.tensor(t), torch.tensor(weight), **options)
        assert_close(loss, tloss.detach().numpy(), terms=x.size, scale=50)
        dloss = cotangent_of(loss)
        tloss.backward(torch.tensor(dloss))
        assert_close(pullback(dloss)[0], tx.grad.numpy(), terms=200, scale=4, ulps=400)


X, T, W = np.ones((3, 5), np.float32), np.array([0, 4, 2]), np.ones(5, np.float32)
P = np.full((3, 5), 0.2, np.float32)

BAD: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
    (TypeError, "input", (X.tolist(), T), {}),
    (TypeError, "input", (X.astype(int), T), {}),
    (ValueError, "input", (np.asarray(1.0), T), {}),
    (ValueError, "input", (X[:, :0], T), {}),
    (TypeError, "target", (X, T.tolist()), {}),
    (TypeError, "target", (X, T > 0), {}),
    (TypeError, "target", (X, T.astype(object)), {}),
    (TypeError, "target", (X, P.astype(complex)), {}),
    (TypeError, "target", (X, None), {}),
    (ValueError, "target", (X, T[:2]), {}),
    (ValueError, "target", (X, T[:, None]), {}),
    (ValueError, "target", (X[0], T), {}),
    (ValueError, "target", (X, np.zeros((3, 5), int)), {}),
    (ValueError, "target", (X, P[:, :4]), {}),
    (ValueError, "target", (X, P[0]), {}),
    (ValueError, "target", (X, T.astype(np.float32)), {}),
    (ValueError, "target", (X, T + 1), {}),
    (ValueError, "target", (X, T - 1), {}),
    (ValueError, "target", (X, np.array([0, 1, -100])), dict(ignore_index=2)),
    (ValueError, "target", (X, np.array([0, 1, 2**63], np.uint64)), {}),
    (ValueError, "target", (X, np.array([0, 1, 2**40])), {}),
    (TypeError, "weight", (X, T, W.tolist()), {}),
    (TypeError, "weight", (X, T, W.astype(int)), {}),
    (ValueError, "weight", (X, T, W[:4]), {}),
    (ValueError, "weight", (X, T, W[None]), {}),
    (TypeError, "ignore_index", (X, T), dict(ignore_index=1.0)),
    (TypeError, "ignore_index", (X, T), dict(ignore_index=None)),
    (ValueError, "ignore_index", (X, P), dict(ignore_index=2)),
    (ValueError, "reduction", (X, T), dict(reduction="avg")),
    (ValueError, "label_smoothing", (X, T), dict(label_smoothing=1.5)),
    (ValueError, "label_smoothing", (X, T), dict(label_smoothing=-0.1)),
    (ValueError, "label_smoothing", (X, T), dict(label_smoothing=float("nan"))),
    (TypeError, "label_smoothing", (X, T), dict(label_smoothing="a")),
]


@pytest.mark.parametrize(("error", "argument", "args", "options"), BAD)
def test_bad(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad("cross_entropy", error, argument, *args, **options)


# ---- nll_loss ----


def check_nll(x: Any, target: Any, weight: Any = None, **options: Any) -> Any:
    """A product for each label, and a sum of them."""
    term = largest(x) * (largest(weight) if weight is not None else 1)
    heavy = largest(weight) if weight is not None else 1
    return check_op(
        "nll_loss",
        x,
        target,
        weight,
        bounds={"out": (max(target.size, 1) + 8, max(term, 1)), "input": (4, heavy)},
        **options,
    )


@given(labelled())
def test_nll_loss(case: Any) -> None:
    x, target, weight, options = case
    del options["label_smoothing"]
    if target.dtype.kind in "iu":
        check_nll(x, target, weight, **options)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_of_many_labels(reduction: str, dtype: Any) -> None:
    """Enough for several blocks, rows and columns of them, and an odd edge."""
    for shape in ((1031, 7), (3, 5, 1031), (2, 33, 17, 19), (3, 20011)):
        rng = np.random.default_rng(1)
        target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        target.ravel()[::7] = -100
        x, weight = values(shape, dtype, 1), rng.uniform(0.5, 2, shape[1]).astype(dtype)
        check_nll(x, target, weight, reduction=reduction)
        rows = x.transpose(0, *range(2, x.ndim), 1)
        check_nll(np.ascontiguousarray(rows).transpose(0, x.ndim - 1, *range(1, x.ndim - 1)), target, None)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_picks_what_is_not_finite(reduction: str, dtype: Any) -> None:
    """Only where it is the label's own element, which is not ignored."""
    x = np.zeros((4, 5), dtype)
    x[0, 1], x[1, 2], x[2, 3], x[3, 0] = -np.inf, np.nan, np.inf, np.nan
    for target in ([0, 0, 0, 1], [1, 0, 0, -100], [0, 2, 0, 1], [1, 0, 3, 1], [0, 0, 3, -100]):
        check_nll(x, np.array(target), reduction=reduction)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_nll_loss_of_no_label(weighted: bool, dtype: Any) -> None:
    weight = np.ones(5, dtype) if weighted else None
    for n in (0, 3):
        x, target = values((n, 5), dtype, 1), np.full(n, 2)
        loss, pullback = ann.vjp(ann.nll_loss, x, target, weight, ignore_index=2)
        assert np.isnan(loss)
        np.testing.assert_array_equal(pullback(np.ones((), dtype))[0], np.zeros((n, 5)))
        assert ann.nll_loss(x, target, weight, reduction="sum", ignore_index=2) == 0


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_half(reduction: str, dtype: Any) -> None:
    x, target = values((6, 19), dtype, 1), np.array([0, 18, 3, 18, -100, 7])
    assert check_nll(x, target, reduction=reduction).dtype == dtype
    wide = check_nll(x, target, np.linspace(1, 2, 19).astype(np.float32), reduction=reduction)
    assert wide.dtype == np.float32


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shapes", [((4, 5), (4,)), ((4, 5, 3), (4, 3)), ((5,), ()), ((0, 5), (0,))])
def test_nll_loss_out(reduction: str, shapes: Any) -> None:
    x, target = values(shapes[0], np.float32, 1), np.full(shapes[1], 4)
    if shapes[0][0] or reduction != "mean":
        check_out("nll_loss", x, target, reduction=reduction)
    check_overlap("nll_loss", x, target, np.ones(5, np.float32), reduction=reduction)


@pytest.mark.cpu_only
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_same_bits_for_any_number_of_threads(reduction: str) -> None:
    rng = np.random.default_rng(1)
    for shape in ((70_000, 11), (5, 13, 40, 41)):
        target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        weight = rng.uniform(0.5, 2, shape[1]).astype(np.float32)
        check_threads("nll_loss", values(shape, np.float32, 1), target, weight, reduction=reduction)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(6, 19), (2, 5, 3, 4), (5,)])
def test_nll_loss_torch(shape: Any, reduction: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    classes = shape[0 if len(shape) == 1 else 1]
    x, weight = values(shape, dtype, 1), rng.uniform(0.5, 2, classes).astype(dtype)
    target = np.asarray(rng.integers(0, classes, (*shape[:1], *shape[2:]) if len(shape) > 1 else ()))
    target.ravel()[:1] = 3
    for ignored in (3, -100):
        options = dict(reduction=reduction, ignore_index=ignored)
        loss, pullback = ann.vjp(ann.nll_loss, x, target, weight, **options)
        tx = torch.tensor(x, requires_grad=True)
        tloss = F.nll_loss(tx, torch.tensor(target), torch.tensor(weight), **options)
        assert_close(loss, tloss.detach().numpy(), terms=x.size, scale=4)
        dloss = cotangent_of(loss)
        tloss.backward(torch.tensor(dloss))
        assert_close(pullback(dloss)[0], tx.grad.numpy(), terms=4)


@pytest.mark.parametrize(
    ("error", "argument", "args", "options"),
    [
        *(
            case
            for case in BAD
            if not {"label_smoothing", "ignore_index"} & set(case[3]) and case[2][1] is not P
        ),
        (TypeError, "target", (X, P), {}),
        (TypeError, "ignore_index", (X, T), dict(ignore_index=1.0)),
        (ValueError, "target", (X, np.array([0, 1, -100])), dict(ignore_index=2)),
    ],
)
def test_nll_loss_bad(error: Any, argument: str, args: Any, options: Any) -> None:
    if isinstance(args[1], np.ndarray) and args[1].dtype.kind == "f":
        error = TypeError  # probabilities of any shape
    check_bad("nll_loss", error, argument, *args, **options)


# ---- linear_cross_entropy ----


def check_linear(x: Any, w: Any, target: Any, bias: Any = None, weight: Any = None, **options: Any) -> Any:
    """The bounds of a product in front of those of `cross_entropy`."""
    features, classes, rows = x.shape[-1], w.shape[0], max(1, x.size // max(1, x.shape[-1]))
    logit = max(features, 1) ** 0.5 * largest(x) * largest(w) + (largest(bias) if bias is not None else 0) + 1
    heavy = largest(weight) if weight is not None else 1.0
    if target.dtype.kind not in "iu":
        heavy *= largest(target) * classes
    terms = classes + features + 2 * logit + 16
    summed = rows if options.get("reduction", "mean") == "sum" else 1
    return check_op(
        "linear_cross_entropy",
        x,
        w,
        target,
        linear_bias=bias,
        weight=weight,
        **options,
        bounds={
            "out": (terms * summed, 2 * logit * max(heavy, 1)),
            "input": (terms + classes, 4 * heavy * largest(w)),
            "linear_weight": (terms + rows, 4 * heavy * largest(x)),
            "linear_bias": (terms + rows, 4 * heavy),
        },
    )


def layer_of(rows: tuple[int, ...], features: int, classes: int, dtype: Any, seed: int = 0) -> Any:
    """Return an input, a linear layer's weight and bias, class indices and class weights."""
    rng = np.random.default_rng(seed)
    return (
        values((*rows, features), dtype, seed + 1),
        np.asarray(
            (values((classes, features), np.float64, seed + 2) / max(features, 1) ** 0.5).astype(dtype)
        ),
        values((classes,), dtype, seed + 3),
        np.asarray(rng.integers(0, classes, rows)),
        rng.uniform(0.5, 2, classes).astype(dtype),
    )


@given(st.data(), wide_dtypes, st.sampled_from([(), (0,), (1,), (5,), (17,)]), widths, st.integers(0, 9))
def test_linear_cross_entropy(data: Any, dtype: Any, rows: Any, classes: int, features: int) -> None:
    x, w, bias, target, weight = layer_of(rows, features, classes, dtype, data.draw(seeds))
    layout = st.sampled_from(("c", "fortran", "reversed", "strided", "misaligned", "read-only"))
    options: dict[str, Any] = dict(reduction=data.draw(st.sampled_from(REDUCTIONS)))
    options["label_smoothing"] = data.draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    if data.draw(st.integers(0, 3)) == 0:
        target = np.asarray(np.abs(values((*rows, classes), dtype, 5)))
    elif data.draw(st.booleans()):
        options["ignore_index"] = data.draw(st.integers(0, classes - 1))
    check_linear(
        lay(x, data.draw(layout)),
        lay(w, data.draw(layout)),
        lay(target, data.draw(layout)),
        lay(bias, data.draw(layout)) if data.draw(st.booleans()) else None,
        weight if data.draw(st.booleans()) else None,
        **options,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["plain", "ignored", "weighted", "smooth", "probabilities"])
def test_linear_cross_entropy_in_tiles(kind: str, reduction: str) -> None:
    """Two tiles, the second with an odd rest."""
    x, w, bias, target, weight = layer_of((1024 + 37,), 3, 5, np.float64)
    options: dict[str, Any] = dict(reduction=reduction)
    if kind == "ignored":
        target[1000:1050] = options["ignore_index"] = -7
    if kind == "smooth":
        options["label_smoothing"] = 0.2
    if kind == "probabilities":
        target = np.abs(values((len(x), 5), np.float64, 9))
    check_linear(x, w, target, bias, weight if kind == "weighted" else None, **options)


def test_linear_cross_entropy_is_cross_entropy_of_linear() -> None:
    for rows in ((6,), ()):
        x, w, bias, target, weight = layer_of(rows, 7, 19, np.float32)
        for options in (dict(), dict(reduction="sum", label_smoothing=0.1), dict(reduction="none")):
            loss = ann.linear_cross_entropy(x, w, target, linear_bias=bias, weight=weight, **options)
            expected = ann.cross_entropy(ann.linear(x, w, bias), target, weight, **options)
            assert_close(loss, expected, terms=64, scale=4)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_linear_cross_entropy_half(reduction: str, dtype: Any) -> None:
    """Sums over tiles do not lose what 16 bits cannot hold."""
    for rows in (6, 1024 + 37):
        x, w, bias, target, weight = layer_of((rows,), 5, 7, dtype)
        assert check_linear(x, w, target, bias, weight, reduction=reduction).dtype == dtype


def test_linear_cross_entropy_mixed_dtypes() -> None:
    x, w, bias, target, weight = layer_of((6,), 5, 7, np.float32)
    assert check_linear(x, w, target, bias.astype(np.float64), weight).dtype == np.float64
    assert check_linear(x.astype(np.float16), w, target).dtype == np.float32


def test_linear_cross_entropy_of_no_label() -> None:
    for rows in (0, 3):
        x, w, bias, _, _ = layer_of((rows,), 5, 7, np.float32)
        target = np.full(rows, 2)
        loss, pullback = ann.vjp(ann.linear_cross_entropy, x, w, target, linear_bias=bias, ignore_index=2)
        assert np.isnan(loss)
        for gradient, of in zip(pullback(np.ones((), np.float32)), (x, w, bias), strict=True):
            np.testing.assert_array_equal(gradient, np.zeros_like(of))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_linear_cross_entropy_out(reduction: str) -> None:
    x, w, bias, target, weight = layer_of((4,), 5, 7, np.float32)
    check_out("linear_cross_entropy", x, w, target, linear_bias=bias, weight=weight, reduction=reduction)
    check_overlap("linear_cross_entropy", x, w, target, reduction=reduction)


@pytest.mark.cpu_only
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_linear_cross_entropy_same_bits_for_any_number_of_threads(reduction: str) -> None:
    for rows, classes in ((2100, 33), (9, 30011)):
        x, w, bias, target, weight = layer_of((rows,), 17, classes, np.float32)
        options = dict(linear_bias=bias, weight=weight, reduction=reduction)
        check_threads("linear_cross_entropy", x, w, target, **options)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_linear_cross_entropy_torch(smoothing: float, reduction: str, dtype: Any) -> None:
    x, w, bias, target, weight = layer_of((11,), 5, 19, dtype)
    target[3] = 4
    options = dict(reduction=reduction, label_smoothing=smoothing)
    for t, more in ((target, {"ignore_index": 4}), (np.abs(values((11, 19), dtype, 7)), {})):
        loss, pullback = ann.vjp(
            ann.linear_cross_entropy, x, w, t, linear_bias=bias, weight=weight, **options, **more
        )
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, bias)]
        # in two ops, which older versions than the one that fused them have too
        logits = F.linear(*leaves)
        tloss = F.cross_entropy(logits, torch.tensor(t), torch.tensor(weight), **options, **more)
        assert_close(loss, tloss.detach().numpy(), terms=200, scale=20)
        dloss = cotangent_of(loss)
        tloss.backward(torch.tensor(dloss))
        for gradient, leaf in zip(pullback(dloss), leaves, strict=True):
            assert_close(gradient, leaf.grad.numpy(), terms=200, scale=20)


B = np.ones(5, np.float32)
LINEAR_BAD: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
    (TypeError, "input", (X.tolist(), X, T), {}),
    (TypeError, "input", (X.astype(int), X, T), {}),
    (ValueError, "input", (X[None], X, T), {}),
    (ValueError, "input", (X[:, :4], np.ones((5, 5), np.float32), T), {}),
    (TypeError, "linear_weight", (X, X.tolist(), T), {}),
    (ValueError, "linear_weight", (X, X[0], T), {}),
    (ValueError, "class", (X, X[:0], T), {}),
    (TypeError, "target", (X, np.ones((5, 5), np.float32), None), {}),
    (ValueError, "target", (X, np.ones((5, 5), np.float32), T[:2]), {}),
    (ValueError, "target", (X, np.ones((5, 5), np.float32), T + 1), {}),
    (ValueError, "target", (X, np.ones((5, 5), np.float32), P[:, :4]), {}),
    (TypeError, "linear_bias", (X, np.ones((5, 5), np.float32), T), dict(linear_bias=B.tolist())),
    (ValueError, "linear_bias", (X, np.ones((5, 5), np.float32), T), dict(linear_bias=B[:4])),
    (ValueError, "weight", (X, np.ones((5, 5), np.float32), T), dict(weight=B[:4])),
    (TypeError, "ignore_index", (X, np.ones((5, 5), np.float32), T), dict(ignore_index=1.0)),
    (ValueError, "ignore_index", (X, np.ones((5, 5), np.float32), P), dict(ignore_index=2)),
    (ValueError, "reduction", (X, np.ones((5, 5), np.float32), T), dict(reduction="avg")),
    (ValueError, "label_smoothing", (X, np.ones((5, 5), np.float32), T), dict(label_smoothing=1.5)),
]


@pytest.mark.parametrize(("error", "argument", "args", "options"), LINEAR_BAD)
def test_linear_cross_entropy_bad(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad("linear_cross_entropy", error, argument, *args, **options)
