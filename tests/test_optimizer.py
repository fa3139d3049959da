"""The optimizer steps and the clipping of gradients against the reference and PyTorch.

Results are compared as updates (new minus old), which are far smaller than the parameters.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_same_bits, check_bad, refuses
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from shapes import HALF, LENGTHS, WIDE, lay, values, wide_dtypes, widths
from tolerance import assert_close, eps, largest

ADAM = dict(lr=0.03, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, grad_scale=4.0)
SGD = dict(lr=0.03, momentum=0.7, weight_decay=0.1)
RMSPROP = dict(lr=0.03, alpha=0.8, eps=1e-3, weight_decay=0.1)
ADAGRAD = dict(lr=0.03, lr_decay=0.2, eps=1e-3, weight_decay=0.1)


def adam_lists(shapes: Any, dtype: Any, amsgrad: bool, layout: str = "c") -> dict[str, list[Any]]:
    """Return parameters, gradients and moments; the moments are not zero, the second ones not negative."""
    names = ["params", "grads", "exp_avgs", "exp_avg_sqs"] + (["amsgrad_maxes"] if amsgrad else [])
    lists = {}
    for i, name in enumerate(names):
        arrays = [values(s, np.float64, 10 * i + j + 1) for j, s in enumerate(shapes)]
        if i >= 3:
            arrays = [np.abs(a) * 0.1 for a in arrays]
        lists[name] = [writable(np.asarray(a).astype(dtype), layout) for a in arrays]
    return lists


def other_lists(op: str, lists: dict[str, list[Any]], buffers: bool = True) -> dict[str, list[Any]]:
    """Return what `op` takes of the lists of `adam_lists`; `buffers` adds the lists that may be left out."""
    renamed = {"params": "params", "grads": "grads"}
    if op == "sgd_step":
        optional = {"momentum_buffers": "exp_avgs"}
    elif op == "rmsprop_step":
        renamed["square_avgs"] = "exp_avg_sqs"
        optional = {"momentum_buffers": "exp_avgs", "grad_avgs": "amsgrad_maxes"}
    else:
        renamed["state_sums"] = "exp_avg_sqs"
        optional = {}
    return {name: lists[of] for name, of in (renamed | (optional if buffers else {})).items() if of in lists}


def writable(a: Any, layout: str) -> Any:
    return lay(np.asarray(a), layout, 0)


def check_step(name: str, lists: dict[str, Any], extra: float = 0, **options: Any) -> None:
    """Run op and reference on copies; compare the updates of everything they write."""
    mine, right = relaid(lists), copy.deepcopy(lists)
    with np.errstate(all="ignore"):
        result = getattr(ann.reference, name)(**right, **options)
    assert getattr(ann, name)(**mine, **options) is None is result
    for label, before in lists.items():
        for a, e, old in zip(mine[label], right[label], before, strict=True):
            assert a.dtype == old.dtype
            if label == "grads":
                assert_same_bits(a, old, "a gradient changed")
                continue
            old, a, e = (np.asarray(v.astype(np.float64)) for v in (old, a, e))
            unit = eps(lists[label][0].dtype) / eps(np.float64)
            assert_close(
                a - old, e - old, terms=unit * (2 + extra), scale=largest(old, e), ulps=8 * unit, what=label
            )


def relaid(lists: dict[str, Any]) -> dict[str, Any]:
    """Copy arrays with their strides."""

    def clone(a: Any) -> Any:
        if a.flags.c_contiguous:
            return a.copy()
        if a.ndim and a.strides[0] < 0:
            return writable(a, "reversed")
        return writable(a, "fortran" if a.flags.f_contiguous else "strided")

    return {name: [clone(a) for a in arrays] for name, arrays in lists.items()}


@given(
    st.lists(st.tuples(st.integers(0, 4), widths), max_size=4),
    wide_dtypes,
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2, 10, 100_000]),
    st.sampled_from(["c", "fortran", "reversed", "strided"]),
)
def test_adam_step(shapes: Any, dtype: Any, decoupled: bool, amsgrad: bool, step: int, layout: str) -> None:
    lists = adam_lists(shapes, dtype, amsgrad, layout)
    check_step("adam_step", lists, step=step, decoupled=decoupled, **ADAM)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_every_length(amsgrad: bool, dtype: Any) -> None:
    lists = adam_lists([(n,) for n in (*LENGTHS, 5003)], dtype, amsgrad)
    for decoupled in (False, True):
        check_step("adam_step", lists, step=3, decoupled=decoupled, **ADAM)


@pytest.mark.parametrize(
    "change",
    [
        dict(lr=0.1),
        dict(betas=(0.5, 0.95)),
        dict(betas=(0.8, 0.5)),
        dict(eps=0.5),
        dict(weight_decay=0.0),
        dict(grad_scale=1.0),
        dict(decoupled=True),
        dict(step=7),
    ],
    ids=str,
)
def test_every_adam_argument_counts(change: dict[str, Any]) -> None:
    """Each argument, changed alone, changes the update, and as it does in the reference."""
    lists = adam_lists([(33,)], np.float64, False)
    base, other = copy.deepcopy(lists), copy.deepcopy(lists)
    ann.adam_step(**base, step=2, **ADAM)
    ann.adam_step(**other, **{"step": 2, **ADAM, **change})
    assert (np.abs(base["params"][0] - other["params"][0]) > 1e-6).any()
    check_step("adam_step", lists, **{"step": 2, **ADAM, **change})


def test_adam_defaults() -> None:
    lists = adam_lists([(33,)], np.float64, False)
    explicit = copy.deepcopy(lists)
    ann.adam_step(**lists, step=5)
    ann.adam_step(
        **explicit,
        step=5,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
        amsgrad_maxes=None,
        grad_scale=1.0,
    )
    for a, b in zip(lists.values(), explicit.values(), strict=True):
        assert_same_bits(a, b)


def test_the_maximum_of_amsgrad_stays() -> None:
    lists = adam_lists([(40,)], np.float64, True)
    lists["amsgrad_maxes"][0][:20] = 100.0
    check_step("adam_step", lists, step=2, **ADAM)
    ann.adam_step(**lists, step=2, **ADAM)
    assert (lists["amsgrad_maxes"][0][:20] == 100).all()


def test_nan_and_inf_stay_in_their_element() -> None:
    for name, options in (
        ("adam_step", dict(step=2, **ADAM)),
        ("sgd_step", SGD),
        ("rmsprop_step", RMSPROP),
        ("adagrad_step", dict(step=2, **ADAGRAD)),
    ):
        lists = adam_lists([(37,)], np.float32, name != "adam_step")
        if name != "adam_step":
            lists = other_lists(name, lists)
        lists["grads"][0][[3, 36]] = np.nan
        getattr(ann, name)(**lists, **options)
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(lists["params"][0])), [3, 36])


@given(
    st.lists(st.tuples(st.integers(0, 4), widths), max_size=4),
    wide_dtypes,
    st.sampled_from(
        [dict(), dict(momentum=0.7), dict(momentum=0.7, dampening=0.3), dict(momentum=0.7, nesterov=True)]
    ),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(["c", "fortran", "reversed", "strided"]),
)
def test_sgd_step(shapes: Any, dtype: Any, options: dict[str, Any], decay: float, layout: str) -> None:
    lists = adam_lists(shapes, dtype, False, layout)
    check_step(
        "sgd_step", other_lists("sgd_step", lists, bool(options)), lr=0.03, weight_decay=decay, **options
    )


@given(
    st.lists(st.tuples(st.integers(0, 4), widths), max_size=4),
    wide_dtypes,
    st.booleans(),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from(["c", "fortran", "reversed", "strided"]),
)
def test_rmsprop_step(
    shapes: Any, dtype: Any, centered: bool, momentum: float, l1: float, layout: str
) -> None:
    lists = other_lists("rmsprop_step", adam_lists(shapes, dtype, True, layout))
    if not centered:
        del lists["grad_avgs"]
    if not momentum:
        del lists["momentum_buffers"]
    check_step("rmsprop_step", lists, momentum=momentum, l1=l1, **RMSPROP)


@given(
    st.lists(st.tuples(st.integers(0, 4), widths), max_size=4),
    wide_dtypes,
    st.sampled_from([1, 2, 100_000]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from(["c", "fortran", "reversed", "strided"]),
)
def test_adagrad_step(shapes: Any, dtype: Any, step: int, l1: float, layout: str) -> None:
    lists = other_lists("adagrad_step", adam_lists(shapes, dtype, False, layout))
    check_step("adagrad_step", lists, step=step, l1=l1, **ADAGRAD)


@pytest.mark.parametrize(
    ("name", "base", "change"),
    [
        ("rmsprop_step", RMSPROP, change)
        for change in (
            dict(lr=0.1),
            dict(alpha=0.3),
            dict(eps=0.5),
            dict(weight_decay=0.0),
            dict(momentum=0.5),
            dict(l1=0.2),
            dict(grad_avgs=None),
        )
    ]
    + [
        ("adagrad_step", ADAGRAD, change)
        for change in (
            dict(lr=0.1),
            dict(lr_decay=0.0),
            dict(eps=0.5),
            dict(weight_decay=0.0),
            dict(step=7),
            dict(l1=0.2),
        )
    ],
    ids=str,
)
def test_every_argument_counts(name: str, base: dict[str, Any], change: dict[str, Any]) -> None:
    lists = other_lists(name, adam_lists([(33,)], np.float64, True))
    step = dict(step=2) if name == "adagrad_step" else {}
    mine, other = copy.deepcopy(lists), copy.deepcopy(lists)
    getattr(ann, name)(**mine, **base, **step)
    getattr(ann, name)(**{**other, **base, **step, **change})
    assert (np.abs(mine["params"][0] - other["params"][0]) > 1e-6).any()


def test_a_centered_variance_is_not_negative() -> None:
    """Rounding takes square - mean**2 below zero where the gradient has long been constant."""
    grads = [np.full(37, 0.1, np.float32)]
    lists = dict(params=[np.ones(37, np.float32)], square_avgs=[np.full(37, 0.01, np.float32)])
    lists["grad_avgs"] = [np.full(37, np.nextafter(np.float32(0.1), np.float32(1)), np.float32)]
    check_step("rmsprop_step", {"params": lists["params"], "grads": grads, **lists}, extra=1e3, eps=0.5)
    assert np.isfinite(lists["params"][0]).all()


@pytest.mark.parametrize("op", ["adam_step", "sgd_step", "rmsprop_step", "adagrad_step"])
def test_penalties(op: str) -> None:
    """L1, L2 and both are the step for the gradient with theirs added; the gradient of |0| is 0."""
    lists = adam_lists([(37,), (3, 5)], np.float64, False)
    lists["params"][0][[0, 36]] = [0.0, -0.0]
    if op != "adam_step":
        lists = other_lists(op, lists, buffers=False)
    needs_step = dict(step=2) if op in ("adam_step", "adagrad_step") else {}
    for l1, l2 in ((0.3, 0.0), (0.0, 0.3), (0.2, 0.3)):
        mine, plain = copy.deepcopy(lists), copy.deepcopy(lists)
        plain["grads"] = [
            g + l1 * np.sign(p) + l2 * p for g, p in zip(plain["grads"], plain["params"], strict=True)
        ]
        getattr(ann, op)(**mine, lr=0.1, l1=l1, weight_decay=l2, **needs_step)
        getattr(ann, op)(**plain, lr=0.1, **needs_step)
        for a, e in zip(mine["params"], plain["params"], strict=True):
            assert_close(a, e, terms=4)
        check_step(op, lists, lr=0.1, l1=l1, weight_decay=l2, **needs_step)


@pytest.mark.parametrize("dtype", [*WIDE, *HALF], ids=str)
def test_clip_grad_value(dtype: Any) -> None:
    for bound in (0.5, 0.0, np.inf):
        mine = [np.asarray(values((n,), dtype, n)) for n in (*LENGTHS, 100_003)]
        mine += [np.asfortranarray(values((3, 4), dtype, 2)).T[::-1], np.asarray(values((), dtype, 3))]
        mine.append(np.array([np.inf, -np.inf, -0.0, bound, np.nan], dtype))
        right = copy.deepcopy(mine)
        assert ann.clip_grad_value(mine, bound) is None
        ann.reference.clip_grad_value(right, bound)
        assert np.isnan(mine[-1][-1].astype(np.float32))  # of which bits does not matter
        mine[-1], right[-1] = mine[-1][:-1], right[-1][:-1]
        assert_same_bits(mine, right)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_grad_norm(max_norm: float, dtype: Any) -> None:
    for shapes in ([(n,) for n in LENGTHS], [(3, 4)], [()], [], [(0,)], [(100_003,)]):
        mine = [np.asarray(values(s, dtype, i)) for i, s in enumerate(shapes)]
        right = copy.deepcopy(mine)
        norm, expected = ann.clip_grad_norm(mine, max_norm), ann.reference.clip_grad_norm(right, max_norm)
        assert type(norm) is float
        assert norm == pytest.approx(expected, rel=4 * eps(dtype), abs=0)
        for a, e in zip(mine, right, strict=True):
            assert_close(a, e, ulps=8)


def test_clip_grad_norm_at_the_ends() -> None:
    for grads, max_norm in (
        ([np.array([np.nan, 1, 2], np.float32)], 1.0),
        ([np.array([np.inf, 1, 2], np.float32)], 1.0),
        ([np.full(1000, 1e30, np.float32)], 1.0),  # the sum of squares is beyond float32
        ([np.full(1000, 1e-30, np.float32)], 1e-40),
        ([np.zeros(5, np.float32)], 0.0),
        ([np.ones(5, np.float32)], 0.0),
    ):
        mine, right = copy.deepcopy(grads), copy.deepcopy(grads)
        with np.errstate(all="ignore"):
            expected = ann.reference.clip_grad_norm(right, max_norm)
        np.testing.assert_allclose(ann.clip_grad_norm(mine, max_norm), expected, rtol=1e-6)
        for a, e in zip(mine, right, strict=True):
            assert_close(a, e, ulps=8)


def test_clip_grad_norm_leaves_small_gradients_alone() -> None:
    grads = [values((5,), np.float32, 1), np.asfortranarray(values((3, 4), np.float32, 2)).T[::-1]]
    before = copy.deepcopy(grads)
    ann.clip_grad_norm(grads, 1e3)
    assert_same_bits(grads, before)
    ann.clip_grad_norm(grads, 1.0)
    right = before
    ann.reference.clip_grad_norm(right, 1.0)
    for a, e in zip(grads, right, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half(dtype: Any) -> None:
    lists = adam_lists([(37,), (3, 5)], dtype, True)
    check_step("adam_step", lists, step=3, **ADAM)
    check_step("sgd_step", other_lists("sgd_step", lists), **SGD)
    check_step("rmsprop_step", other_lists("rmsprop_step", lists), momentum=0.7, **RMSPROP)
    check_step("adagrad_step", other_lists("adagrad_step", lists), step=3, **ADAGRAD)
    mine, right = copy.deepcopy(lists["grads"]), copy.deepcopy(lists["grads"])
    assert ann.clip_grad_norm(mine, 1.0) == pytest.approx(ann.reference.clip_grad_norm(right, 1.0), rel=1e-5)
    for a, e in zip(mine, right, strict=True):
        assert_close(a, e)


def test_mixed_dtypes() -> None:
    """Each tensor has its own dtype."""
    lists = {
        name: [*a, *b]
        for (name, a), b in zip(
            adam_lists([(9,)], np.float32, False).items(),
            adam_lists([(7,)], np.float64, False).values(),
            strict=True,
        )
    }
    mine, right = copy.deepcopy(lists), copy.deepcopy(lists)
    ann.adam_step(**mine, step=2, **ADAM)
    ann.reference.adam_step(**right, step=2, **ADAM)
    for a, e in zip(mine["params"], right["params"], strict=True):
        assert a.dtype == e.dtype
        assert_close(a, e, terms=4)


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads() -> None:
    lists = adam_lists([(70_001,), (3,), (257, 300)], np.float32, True)
    results = []
    threads = ann.get_num_threads()
    try:
        for n in (1, 2, 3, 2):
            ann.set_num_threads(n)
            adam, sgd, rms, ada = (copy.deepcopy(lists) for _ in range(4))
            ann.adam_step(**adam, step=3, **ADAM)
            ann.sgd_step(sgd["params"], sgd["grads"], sgd["exp_avgs"], **SGD)
            ann.rmsprop_step(**other_lists("rmsprop_step", rms), momentum=0.7, **RMSPROP)
            ann.adagrad_step(**other_lists("adagrad_step", ada), step=3, **ADAGRAD)
            norm = ann.clip_grad_norm(sgd["grads"], 1.0)
            results.append((*adam.values(), *sgd.values(), *rms.values(), *ada.values(), np.array(norm)))
    finally:
        ann.set_num_threads(threads)
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_torch_adam(amsgrad: bool, decoupled: bool, dtype: Any) -> None:
    shapes = [(3, 4), (37,)]
    options = dict(lr=0.03, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    params = [values(s, dtype, i + 1) for i, s in enumerate(shapes)]
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    peer = (torch.optim.AdamW if decoupled else torch.optim.Adam)(tensors, amsgrad=amsgrad, **options)
    m, v, largest_v = ([np.zeros(s, dtype) for s in shapes] for _ in range(3))
    for step in range(1, 5):
        grads = [np.asarray(values(s, dtype, 10 * step + i) / dtype.type(step)) for i, s in enumerate(shapes)]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        peer.step()
        maxes = dict(amsgrad_maxes=largest_v) if amsgrad else {}
        ann.adam_step(params, grads, m, v, step=step, decoupled=decoupled, **options, **maxes)
        for p, t in zip(params, tensors, strict=True):
            assert_close(p, t.detach().numpy(), terms=4 * step)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(
    "options",
    [dict(), dict(momentum=0.7), dict(momentum=0.7, dampening=0.3), dict(momentum=0.7, nesterov=True)],
    ids=str,
)
def test_torch_sgd(options: dict[str, Any], dtype: Any) -> None:
    params, buffers = [values((37,), dtype, 1)], [values((37,), dtype, 2)]
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    peer = torch.optim.SGD(tensors, lr=0.03, weight_decay=0.1, **options)
    peer.state[tensors[0]]["momentum_buffer"] = torch.tensor(buffers[0])
    for step in range(3):
        grads = [values((37,), dtype, step + 3)]
        tensors[0].grad = torch.tensor(grads[0])
        peer.step()
        ann.sgd_step(params, grads, buffers if options else None, lr=0.03, weight_decay=0.1, **options)
        assert_close(params[0], tensors[0].detach().numpy(), terms=4 * (step + 1))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_torch_rmsprop(momentum: float, centered: bool, dtype: Any) -> None:
    options = dict(momentum=momentum, **RMSPROP)
    params, squares, buffers, means = ([np.zeros(37, dtype)] for _ in range(4))
    params[0][:] = values((37,), dtype, 1)
    tensors = [torch.nn.Parameter(torch.tensor(params[0]))]
    peer = torch.optim.RMSprop(tensors, centered=centered, **options)
    for step in range(1, 5):
        grads = [values((37,), dtype, step + 1)]
        tensors[0].grad = torch.tensor(grads[0])
        peer.step()
        ann.rmsprop_step(
            params, grads, squares, buffers if momentum else None, means if centered else None, **options
        )
        assert_close(params[0], tensors[0].detach().numpy(), terms=8 * step)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_torch_adagrad(dtype: Any) -> None:
    params, sums = [values((37,), dtype, 1)], [np.full(37, 0.5, dtype)]
    tensors = [torch.nn.Parameter(torch.tensor(params[0]))]
    peer = torch.optim.Adagrad(tensors, initial_accumulator_value=0.5, **ADAGRAD)
    for step in range(1, 5):
        grads = [values((37,), dtype, step + 1)]
        tensors[0].grad = torch.tensor(grads[0])
        peer.step()
        ann.adagrad_step(params, grads, sums, step=step, **ADAGRAD)
        assert_close(params[0], tensors[0].detach().numpy(), terms=8 * step)


def test_bad_adam_step() -> None:
    def fresh() -> dict[str, Any]:
        return adam_lists([(5,), (2, 3)], np.float32, True)

    read_only = np.ones((2, 3), np.float32)
    read_only.flags.writeable = False
    for name in fresh():
        for wrong, error in (
            (np.ones(5, np.float32), TypeError),
            (np.ones((2, 3), np.float32), TypeError),
            ([np.ones(5, np.float32), [1.0]], TypeError),
            ([np.ones(5, np.float32), np.ones((2, 3), int)], TypeError),
            ([np.ones(5, np.float32)], ValueError),
            ([np.ones(5, np.float32), np.ones((3, 2), np.float32)], ValueError),
        ):
            if name != "params":
                check_bad("adam_step", error, name, **{**fresh(), name: wrong, "step": 1})
        if name != "grads":
            check_bad(
                "adam_step",
                ValueError,
                name,
                **{**fresh(), name: [np.ones(5, np.float32), read_only], "step": 1},
            )
    check_bad("adam_step", TypeError, "params", **{**fresh(), "params": None, "step": 1})
    check_bad(
        "adam_step",
        TypeError,
        "params",
        **{**fresh(), "params": [np.ones(5, np.float32), np.ones((2, 3), int)], "step": 1},
    )
    for option, value, error in (
        ("step", 0, ValueError),
        ("step", -1, ValueError),
        ("step", 1.5, TypeError),
        ("lr", "a", TypeError),
        ("lr", None, TypeError),
        ("betas", 0.9, (TypeError, ValueError)),
        ("betas", (0.9,), ValueError),
        ("betas", (0.9, 1.0), ValueError),
        ("betas", (-0.1, 0.9), ValueError),
        ("eps", "a", TypeError),
        ("weight_decay", None, TypeError),
        ("grad_scale", "a", TypeError),
    ):
        check_bad("adam_step", error, option, **{"step": 1, **fresh(), option: value})


def test_bad_sgd_step() -> None:
    p, g, b = ([np.ones(5, np.float32)] for _ in range(3))
    check_bad("sgd_step", ValueError, "momentum_buffers", p, g, lr=1, momentum=0.5)
    check_bad("sgd_step", ValueError, "nesterov", p, g, b, lr=1, nesterov=True)
    check_bad("sgd_step", ValueError, "nesterov", p, g, b, lr=1, momentum=0.5, dampening=0.1, nesterov=True)
    check_bad("sgd_step", ValueError, "grads", p, [], lr=1)
    check_bad("sgd_step", ValueError, "grads", p, [np.ones(4, np.float32)], lr=1)
    check_bad("sgd_step", ValueError, "momentum_buffers", p, g, [np.ones(4, np.float32)], lr=1, momentum=0.5)
    check_bad("sgd_step", TypeError, "momentum_buffers", p, g, b[0], lr=1, momentum=0.5)
    check_bad("sgd_step", TypeError, "params", p[0], g, lr=1)
    check_bad("sgd_step", TypeError, "lr", p, g, lr="a")
    check_bad("sgd_step", TypeError, "momentum", p, g, b, lr=1, momentum=None)
    with pytest.raises(TypeError):
        ann.sgd_step(p, g)


def test_bad_rmsprop_step() -> None:
    p, g, s, b = ([np.ones(5, np.float32)] for _ in range(4))
    for name, bad in (("alpha", -0.1), ("alpha", 1.1), ("alpha", np.nan)):
        check_bad("rmsprop_step", ValueError, name, p, g, s, **{name: bad})
    for name in ("lr", "alpha", "eps", "weight_decay", "momentum", "l1"):
        check_bad("rmsprop_step", TypeError, name, p, g, s, b, **{name: "a"})
    check_bad("rmsprop_step", ValueError, "momentum_buffers", p, g, s, momentum=0.5)
    check_bad("rmsprop_step", ValueError, "grad_avgs", p, g, s, None, [])
    check_bad("rmsprop_step", ValueError, "grad_avgs", p, g, s, None, [np.ones(4, np.float32)])
    check_bad("rmsprop_step", TypeError, "square_avgs", p, g, None)
    refuses(TypeError, r"square_avgs\[0\]", ann.rmsprop_step, p, g, [np.ones(5, np.float64)])
    refuses(ValueError, "grad_avgs.*overlaps", ann.rmsprop_step, p, g, s, None, [s[0]])


def test_bad_adagrad_step() -> None:
    p, g, s = ([np.ones(5, np.float32)] for _ in range(3))
    check_bad("adagrad_step", ValueError, "step", p, g, s, step=0)
    check_bad("adagrad_step", TypeError, "step", p, g, s, step=1.5)
    for name in ("lr", "lr_decay", "eps", "weight_decay", "l1"):
        check_bad("adagrad_step", TypeError, name, p, g, s, step=1, **{name: None})
    check_bad("adagrad_step", ValueError, "state_sums", p, g, [], step=1)
    check_bad("adagrad_step", TypeError, "state_sums", p, g, s[0], step=1)
    for op, lists in (("adam_step", (p, g, s, [s[0].copy()])), ("sgd_step", (p, g))):
        check_bad(op, TypeError, "l1", *lists, lr=1, l1="a", **({"step": 1} if op == "adam_step" else {}))


def test_bad_clip_grad_value() -> None:
    read_only = np.ones(5, np.float32)
    read_only.flags.writeable = False
    check_bad("clip_grad_value", TypeError, "grads", np.ones(5, np.float32), 1.0)
    check_bad("clip_grad_value", TypeError, "grads", [np.ones(5, int)], 1.0)
    check_bad("clip_grad_value", ValueError, "grads", [np.ones(5, np.float32), read_only], 0.1)
    for bound, error in ((-1.0, ValueError), (np.nan, ValueError), ("a", TypeError), (None, TypeError)):
        check_bad("clip_grad_value", error, "clip_value", [np.ones(5, np.float32)], bound)


def test_bad_clip_grad_norm() -> None:
    read_only = np.ones(5, np.float32)
    read_only.flags.writeable = False
    check_bad("clip_grad_norm", TypeError, "grads", np.ones(5, np.float32), 1.0)
    check_bad("clip_grad_norm", TypeError, "grads", [np.ones(5, np.float32), [1.0]], 1.0)
    check_bad("clip_grad_norm", TypeError, "grads", [np.ones(5, np.float32), np.ones(5, int)], 1.0)
    check_bad("clip_grad_norm", ValueError, "grads", [np.ones(5, np.float32), read_only], 0.1)
    check_bad("clip_grad_norm", TypeError, "max_norm", [np.ones(5, np.float32)], "a")
