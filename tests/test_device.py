"""Arrays of a device: where results lie, and what a call asks of the library."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import arraynn as ann
import device
import emulator
import ml_dtypes
import numpy as np
import pytest
from checks import leaves, refuses
from device import EmulatedArray, EmulatedLibrary, emulated
from device_calls import LABELS, LISTS, ROWS, STATE, STEPS, B, OtherArray, W, X, copies, on, put
from shapes import channels_last, is_channels_last, lay, values
from tolerance import assert_close

pytestmark = pytest.mark.usefixtures("emulator_in_use")


# -- results ---------------------------------------------------------------------------------------

RESULTS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (ann.conv1d, (X[0], values((3, 6, 3), np.float32, 1), B), {}),
    (ann.conv2d, (X, W, B), dict(padding=1)),
    (ann.conv_transpose2d, (X, W.transpose(1, 0, 2, 3), B), dict(stride=2)),
    (ann.conv3d, (X[..., None], W[..., None], B), dict(padding=(1, 1, 0))),
    (ann.max_pool2d, (X, 2), dict(return_indices=True)),
    (ann.avg_pool2d, (X, 2), {}),
    (ann.adaptive_avg_pool2d, (X, 3), {}),
    (ann.linear, (ROWS, values((3, 7), np.float32, 1), B), {}),
    (ann.linear, (ROWS, ROWS[0], np.asarray(B[0])), {}),
    (
        ann.lstm_cell,
        (STEPS[0], (STATE[0], STATE[0]), values((12, 4), np.float32, 1), values((12, 3), np.float32, 2)),
        {},
    ),
    (
        ann.gru,
        (STEPS, STATE, [values((9, 4), np.float32, 1), values((9, 3), np.float32, 2)]),
        dict(lengths=np.array([3, 1])),
    ),
    (ann.cross_entropy, (ROWS, LABELS), {}),
    (ann.cross_entropy, (ROWS, LABELS.astype(np.int32)), dict(reduction="none")),
    (ann.mse_loss, (ROWS, ROWS[0]), {}),
    (ann.mse_loss, (ROWS[0], ROWS), dict(reduction="sum")),
    (ann.softmax, (ROWS,), {}),
    (ann.max_pool1d, (X[0], 2), {}),
    (ann.adaptive_max_pool2d, (X, 4), dict(return_indices=True)),
    (ann.embedding, (np.array([[0, 4], [4, 4]], np.int32), ROWS, 0), {}),
    (ann.dropout, (ROWS,), dict(rng=1)),
]


@pytest.mark.parametrize(("op", "args", "kwargs"), RESULTS)
def test_results_come_from_the_library_and_its_device(op: Any, args: Any, kwargs: Any) -> None:
    there = on(1)
    args, kwargs = there(args), {k: there(v) for k, v in kwargs.items()}
    out, pullback = ann.vjp(op, *args, **kwargs)
    gradients = [pullback(c) for c in (None, _ones(out))]
    asked = {what[-1] for what in emulated.asked if what[0] in ("stream", "empty")}
    assert asked == {1}, "another device was asked"
    assert ("stream", 1) in emulated.asked
    for a in leaves((op(*args, **kwargs), out, *gradients)):
        if a is None:
            continue
        assert type(a) is EmulatedArray
        assert a.device == 1
        assert a.fresh
        if a.dtype.kind == "f":
            assert np.isfinite(a.values).all()


@pytest.mark.parametrize(("op", "args", "kwargs"), RESULTS)
def test_a_library_of_c_order_alone(op: Any, args: Any, kwargs: Any, monkeypatch: Any) -> None:
    """From arguments in C order no result is asked for in another one, repeated axes or not."""

    def permute(self: EmulatedLibrary, x: EmulatedArray, axes: tuple[int, ...]) -> EmulatedArray:
        raise AssertionError(f"asked for the axes in order {axes}")

    monkeypatch.setattr(EmulatedLibrary, "permute", permute)
    out, pullback = ann.vjp(op, *put(args), **{k: put(v) for k, v in kwargs.items()})
    for a in leaves((out, *pullback(_ones(out)))):
        assert a is None or a.values.flags.c_contiguous


def _ones(out: Any) -> Any:
    if isinstance(out, tuple):
        return tuple(map(_ones, out))
    return None if out.dtype.kind == "i" else EmulatedArray(np.ones(out.shape, out.dtype), out.device)


def test_one_stream_is_asked_for_in_a_call() -> None:
    ann.linear(put(ROWS), put(values((3, 7), np.float32, 1)), put(B))
    assert [what for what in emulated.asked if what[0] == "stream"] == [("stream", 0)]


PROBE = """
#include <dlfcn.h>

#include "core/backend.h"

using namespace arraynn;

Place seen[2];  // of the last copy, and of the last activation
static const CudaBackend* real;

static void copy(const Array& from, const Array& to) {
  seen[0] = to.place;
  real->copy(from, to);
}
static void activation(const ActivationParams& p, const void* x, void* y) {
  seen[1] = p.place;
  real->kernels->activation_forward(p, x, y);
}

extern "C" const CudaBackend* arraynn_cuda_backend() {
  using Entry = const CudaBackend* (*)();
  real = reinterpret_cast<Entry>(dlsym(dlopen(EMULATOR, RTLD_NOW | RTLD_LOCAL), "arraynn_cuda_backend"))();
  static KernelTable kernels = *real->kernels;
  static CudaBackend backend = *real;
  kernels.activation_forward = activation;
  backend.kernels = &kernels;
  backend.copy = copy;
  return &backend;
}
extern "C" int device_of(int i) { return seen[i].device; }
extern "C" void* stream_of(int i) { return seen[i].stream; }
extern "C" int tf32_of(int i) { return seen[i].tf32; }
"""

PROGRAM = """
import ctypes, sys
import numpy as np
import arraynn as ann, device
ann._core.load_cuda_backend({library!r})
probe = ctypes.CDLL({library!r})
probe.stream_of.restype = ctypes.c_void_p
for number in (0, 1):
    ann.cuda.allow_tf32(bool(number))
    x = device.EmulatedArray(np.ones((4, 6), np.float32)[:, ::2], number)  # a copy makes it dense
    ann.relu(x)
    for i in (0, 1):
        assert probe.device_of(i) == number
        assert probe.stream_of(i) == device.emulated.stream(number)
        assert probe.tf32_of(i) == number
"""


def test_work_is_queued_on_the_stream_of_the_library(tmp_path: Path) -> None:
    """A back end in front of the emulated one sees what place it is given."""
    source, library = tmp_path / "probe.cpp", tmp_path / "libprobe.so"
    source.write_text(PROBE)
    real = os.environ.get("ARRAYNN_EMULATED_LIBRARY") or emulator.build()
    options = [f"-I{emulator.ROOT / 'csrc'}", f'-DEMULATOR="{real}"']
    subprocess.run(
        ["g++", "-std=c++17", "-shared", "-fPIC", *options, source, "-o", library, "-ldl"], check=True
    )
    paths = [os.path.dirname(__file__), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    subprocess.run(
        [sys.executable, "-c", PROGRAM.format(library=str(library))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        check=True,
    )


def test_numpy_stays_with_numpy() -> None:
    y, pullback = ann.vjp(ann.conv2d, X, W, B)
    assert type(y) is np.ndarray
    assert all(type(d) is np.ndarray for d in pullback(y))
    assert not emulated.asked


def test_a_library_without_a_stream_is_waited_for(monkeypatch: Any) -> None:
    monkeypatch.setattr(EmulatedLibrary, "waits", True)
    y, pullback = ann.vjp(ann.linear, put(ROWS), put(values((3, 7), np.float32, 1)), put(B))
    assert np.isfinite(pullback(y)[0].values).all()


def test_layouts_are_kept() -> None:
    x = put(channels_last(X))
    for op, args in (
        (ann.conv2d, (put(W),)),
        (ann.max_pool2d, (2,)),
        (ann.avg_pool2d, (2,)),
        (ann.relu, ()),
        (ann.dropout, ()),
    ):
        y, pullback = ann.vjp(op, x, *args)
        assert is_channels_last(y.values)
        dx = pullback(y)[0]
        assert is_channels_last(dx.values)
    y, pullback = ann.vjp(ann.relu, put(np.asfortranarray(ROWS)))
    assert y.values.flags.f_contiguous
    assert pullback(put(ROWS))[0].values.flags.f_contiguous


@pytest.mark.parametrize("there", [put, lambda a: a], ids=["device", "numpy"])
def test_repeated_axes_have_no_say_in_the_layout(there: Any) -> None:
    """As in NumPy, whose sum of a row and a matrix has the matrix's memory order."""
    for a, b in (
        (ROWS[0], ROWS),
        (ROWS[:, :1], ROWS),
        (X[:1], X),
        (X[:, :1], X),
        (np.asfortranarray(ROWS)[:1], ROWS),
        (np.broadcast_to(ROWS[0], ROWS.shape), ROWS),
    ):
        loss = ann.mse_loss(there(a), there(b), reduction="none")
        assert getattr(loss, "values", loss).flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=str)
def test_16_bit_arguments_are_taken_as_they_are(dtype: Any) -> None:
    """No memory is asked for but the result's; a recurrent layer alone works on copies."""
    x = put(ROWS.astype(dtype))
    emulated.asked.clear()
    y = ann.relu(x)
    assert y.dtype == dtype
    assert [what for what in emulated.asked if what[0] == "empty"] == [
        ("empty", (5, 7), np.dtype(dtype).name, 0)
    ]
    params = [put(values(s, dtype, i)) for i, s in enumerate([(9, 4), (9, 3)])]
    output, h = ann.gru(put(STEPS.astype(dtype)), None, params)
    assert output.dtype == h.dtype == dtype


def test_mixed_dtypes_promote() -> None:
    x, w = put(ROWS.astype(np.float16)), put(values((3, 7), np.float64, 1))
    y, pullback = ann.vjp(ann.linear, x, w)
    assert y.dtype == np.float64
    dx, dw, _ = pullback(y)
    assert (dx.dtype, dw.dtype) == (np.float16, np.float64)
    assert_close(y.values, ann.reference.linear(x.values, w.values), terms=8, scale=9)


# -- cotangents ------------------------------------------------------------------------------------


def test_cotangents_are_refused_by_name() -> None:
    y, pullback = ann.vjp(ann.relu, put(ROWS))
    for bad, error, words in (
        (ROWS, TypeError, "cotangent must be a emulated array as the output is, got ndarray"),
        (OtherArray(ROWS), TypeError, "cotangent must be a emulated array as the output is, got OtherArray"),
        (on(1)(ROWS), ValueError, "cotangent is on device 1, but the output is on CUDA device 0"),
        (put(ROWS.astype(np.float64)), TypeError, "cotangent has dtype float64, but the output has float32"),
        (put(ROWS[:4]), ValueError, r"cotangent has shape \(4, 7\), but the output has \(5, 7\)"),
    ):
        refuses(error, f"^pullback: {words}", pullback, bad)
    _, pullback = ann.vjp(ann.relu, ROWS)
    refuses(TypeError, "^pullback: cotangent must be an array, got EmulatedArray", pullback, put(ROWS))
    assert y.shape == ROWS.shape


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
@pytest.mark.parametrize("name", ["cross_entropy", "mse_loss"])
def test_the_gradient_of_a_reduced_loss(name: str, dtype: Any) -> None:
    """The one saved for a cotangent of one is handed out at most once, whatever the cotangents are."""
    x = ROWS.astype(dtype)
    args = (x, LABELS) if name == "cross_entropy" else (x, x[:1] + dtype(1))
    op = getattr(ann, name)
    for cotangents in ((1, 1, 2), (2, 1, 1), (0.5, 2, 1)):
        out, pullback = ann.vjp(op, *put(args))
        found = []
        for c in cotangents:
            (dx,) = pullback(put(np.asarray(c, dtype)))
            expected = ann.vjp(getattr(ann.reference, name), *args)[1](np.asarray(c, dtype))[0]
            assert_close(dx.values, expected, terms=8, scale=4)
            found.append(dx.values)
        assert not any(np.shares_memory(a, b) for a, b in itertools.pairwise(found))
        assert out.shape == ()


# -- values on a device ----------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_labels_out_of_range(reduction: str) -> None:
    x, target = put(ROWS), put(np.array([0, 7, 3, 6, 1]))
    loss, pullback = ann.vjp(ann.cross_entropy, x, target, reduction=reduction)
    assert np.isnan(loss.values)
    assert np.isnan(pullback(put(np.ones((), np.float32)))[0].values).any()
    with device.checked():
        refuses(
            ValueError,
            "^cross_entropy: target holds 7, expected 0 to 6",
            ann.cross_entropy,
            x,
            target,
            reduction=reduction,
        )


def test_embedding_of_indices_out_of_range() -> None:
    """They pick rows of NaN, and take no part in the gradient."""
    index, weight = put(np.array([0, 9, 3, -1])), put(np.ones((4, 2), np.float32))
    y, pullback = ann.vjp(ann.embedding, index, weight)
    np.testing.assert_array_equal(y.values[:, 0], [1, np.nan, 1, np.nan])
    gradient = pullback(put(np.ones((4, 2), np.float32)))[0].values
    np.testing.assert_array_equal(gradient[:, 1], [1, 0, 0, 1])
    with device.checked():
        refuses(ValueError, "^embedding: input holds 9, expected 0 to 3", ann.embedding, index, weight)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8], ids=str)
def test_lengths_may_lie_on_either_side(dtype: Any) -> None:
    lengths = np.array([3, 1], dtype)
    params = [values(s, np.float32, i) for i, s in enumerate([(9, 4), (9, 3)])]
    expected = ann.reference.gru(STEPS, STATE, params, lengths=lengths)
    for given in (lengths, put(lengths), lengths[::-1].copy()[::-1], put(lengths[::-1].copy()[::-1])):
        output, h = ann.gru(put(STEPS), put(STATE), put(params), lengths=given)
        assert_close(output.values, expected[0], terms=30, scale=2)
        assert_close(h.values, expected[1], terms=30, scale=2)
    refuses(
        TypeError, "^gru: lengths is a emulated array", ann.gru, STEPS, STATE, params, lengths=put(lengths)
    )


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.uint8], ids=str)
@pytest.mark.parametrize("first", [False, True])
def test_reset_may_lie_on_either_side(dtype: Any, first: bool) -> None:
    reset = np.array([[0, 1], [1, 1], [0, 1]]).astype(dtype)
    params = [values(s, np.float32, i) for i, s in enumerate([(9, 4), (9, 3)])]
    lay_out = (lambda a: a.swapaxes(0, 1)) if first else (lambda a: a)
    (y, h), pullback = ann.vjp(ann.reference.gru, STEPS, STATE, params, reset=reset)
    right = pullback((np.ones_like(y), np.ones_like(h)))
    for given in (lay_out(reset), put(lay_out(reset)), put(lay_out(reset[::-1].copy()[::-1]))):
        args = put(lay_out(STEPS)), put(STATE), put(params)
        (output, last), pull = ann.vjp(ann.gru, *args, batch_first=first, reset=given)
        dx, dh, _ = pull((put(np.ones_like(output.values)), put(np.ones_like(last.values))))
        for actual, expected in (
            (lay_out(output.values), y),
            (last.values, h),
            (lay_out(dx.values), right[0]),
            (dh.values, right[1]),
        ):
            assert_close(actual, expected, terms=60, scale=2)
    refuses(TypeError, "^gru: reset is a emulated array", ann.gru, STEPS, STATE, params, reset=put(reset))
    refuses(TypeError, "^gru: reset has dtype", ann.gru, *args, batch_first=first, reset=put(reset * 1.0))


def test_lengths_out_of_range() -> None:
    params = put([values(s, np.float32, i) for i, s in enumerate([(9, 4), (9, 3)])])
    args = (put(STEPS), put(STATE), params)
    bad = np.array([4, 1])
    words = "^gru: lengths holds 4, expected 0 to 3"
    refuses(ValueError, words, ann.gru, *args, lengths=bad)
    output, _ = ann.gru(*args, lengths=put(bad))  # taken as 3
    np.testing.assert_array_equal(output.values, ann.gru(*args, lengths=put(np.array([3, 1])))[0].values)
    with device.checked():
        refuses(ValueError, words, ann.gru, *args, lengths=put(bad))


# -- optimizer steps -------------------------------------------------------------------------------


def test_lists_are_checked_before_anything_is_written() -> None:
    def step(**change: Any) -> None:
        lists = dict(zip(("params", "grads", "exp_avgs", "exp_avg_sqs"), put(copies(LISTS)), strict=True))
        saved = {k: [a.values.copy() for a in v] for k, v in lists.items()}
        try:
            ann.adam_step(**{**lists, **change}, step=1)
        finally:
            for k, arrays in lists.items():
                for a, b in zip(arrays, saved[k], strict=True):
                    np.testing.assert_array_equal(a.values, b)

    read_only, room = np.ones(6, np.float32), np.ones(9, np.float32)
    read_only.flags.writeable = False
    for name, bad, error, words in (
        ("params", put([read_only]), ValueError, r"params\[0\] is read-only, expected a writable array"),
        (
            "params",
            put([np.broadcast_to(np.ones(1, np.float32), 6)]),
            ValueError,
            r"params\[0\] (is read-only|has elem)",
        ),
        ("grads", put([np.ones(5, np.float32)]), ValueError, r"grads\[0\] has shape \(5,\), expected \(6,\)"),
        ("exp_avgs", put([np.ones(6)]), TypeError, r"exp_avgs\[0\] has dtype float64, expected float32"),
        (
            "exp_avgs",
            put([np.ones(6, bool)]),
            TypeError,
            r"exp_avgs\[0\] has dtype bool, expected a floating",
        ),
        ("exp_avgs", [], ValueError, r"exp_avgs has 0 arrays, expected 1"),
        ("exp_avgs", put(np.ones(6, np.float32)), TypeError, "exp_avgs must be a list of arrays, got Emul"),
    ):
        refuses(error, f"^adam_step: {words}", step, **{name: bad})
    refuses(ValueError, r"overlaps", step, params=put([room[:6]]), exp_avgs=put([room[3:]]))


@pytest.mark.parametrize("layout", ["c", "fortran", "strided", "reversed"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
def test_steps_write_where_the_arrays_lie(layout: str, dtype: Any) -> None:
    arrays = [lay(np.abs(values((3, 4), dtype, i)), layout, 0) for i in range(4)]
    expected = [[a.copy()] for a in arrays]
    ann.reference.adam_step(*expected, step=2, lr=0.1)
    ann.adam_step(*([put(a)] for a in arrays), step=2, lr=0.1)
    for a, (e,) in zip(arrays, expected, strict=True):
        assert_close(a, e, terms=2, ulps=8)


def test_clip_grad_norm_waits_and_returns_a_float() -> None:
    grads = [np.full(5, 3, np.float32), np.full((2, 2), 4, np.float32)]
    norm = ann.clip_grad_norm(put(grads), 1.0)
    assert type(norm) is float
    assert norm == pytest.approx(np.sqrt(5 * 9 + 4 * 16))
    assert sum(float((g**2).sum()) for g in grads) == pytest.approx(1)
