"""adam_step, sgd_step and clip_grad_norm against the reference and PyTorch.

Results are compared as updates (new minus old), which are far smaller than the parameters.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_same_bits, check_bad
from device import ann
from hypothesis import given
from hypothesis import strategies as st
from shapes import HALF, LENGTHS, WIDE, lay, values, wide_dtypes, widths
from tolerance import assert_close, eps, largest

ADAM = dict(lr=0.03, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, grad_scale=4.0)
SGD = dict(lr=0.03, momentum=0.7, weight_decay=0.1)


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
    for name, options in (("adam_step", dict(step=2, **ADAM)), ("sgd_step", SGD)):
        lists = adam_lists([(37,)], np.float32, False)
        if name == "sgd_step":
            lists = {
                "params": lists["params"],
                "grads": lists["grads"],
                "momentum_buffers": lists["exp_avgs"],
            }
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
    given_lists = {"params": lists["params"], "grads": lists["grads"]}
    if options:
        given_lists["momentum_buffers"] = lists["exp_avgs"]
    check_step("sgd_step", given_lists, lr=0.03, weight_decay=decay, **options)


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
    check_step(
        "sgd_step",
        {"params": lists["params"], "grads": lists["grads"], "momentum_buffers": lists["exp_avgs"]},
        **SGD,
    )
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
            adam, sgd = copy.deepcopy(lists), copy.deepcopy(lists)
            ann.adam_step(**adam, step=3, **ADAM)
            ann.sgd_step(sgd["params"], sgd["grads"], sgd["exp_avgs"], **SGD)
            norm = ann.clip_grad_norm(sgd["grads"], 1.0)
            results.append((*adam.values(), *sgd.values(), np.array(norm)))
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


def test_bad_clip_grad_norm() -> None:
    read_only = np.ones(5, np.float32)
    read_only.flags.writeable = False
    check_bad("clip_grad_norm", TypeError, "grads", np.ones(5, np.float32), 1.0)
    check_bad("clip_grad_norm", TypeError, "grads", [np.ones(5, np.float32), [1.0]], 1.0)
    check_bad("clip_grad_norm", TypeError, "grads", [np.ones(5, np.float32), np.ones(5, int)], 1.0)
    check_bad("clip_grad_norm", ValueError, "grads", [np.ones(5, np.float32), read_only], 0.1)
    check_bad("clip_grad_norm", TypeError, "max_norm", [np.ones(5, np.float32)], "a")
