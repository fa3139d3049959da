"""Arrays of a device: what is taken and refused, where results lie, what a call asks of the library."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arraynn as ann
import device
import emulator
import ml_dtypes
import numpy as np
import pytest
import torch
from arraynn import _core, _device
from checks import cotangent_of, leaves, refuses
from device import EmulatedArray, EmulatedLibrary, capsules, emulated
from shapes import channels_last, is_channels_last, lay, values
from tolerance import assert_close


class OtherArray(EmulatedArray):
    """An array of another library."""

    __module__ = "another_library"


class OtherLibrary(EmulatedLibrary):
    name = "other"


class ROCmArray(EmulatedArray):
    device_type = 10


class ManagedArray(EmulatedArray):
    device_type = 13


class VersionedArray(EmulatedArray):
    versioned = True


class Stranger:
    """It speaks DLPack, but nothing is known of its library."""

    __module__ = "an_unknown_library"

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("never asked")


_device.register_library("another_library", OtherLibrary())


@pytest.fixture(autouse=True)
def emulator_in_use() -> Iterator[None]:
    emulator.load()
    emulated.asked.clear()
    yield
    assert not capsules, "a call kept a DLPack capsule"


def on(device: int = 0, kind: type[EmulatedArray] = EmulatedArray) -> Callable[[Any], Any]:
    """Return a function that puts arrays, nested or not, on a device."""

    def put(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(put, value))
        return kind(value, device) if isinstance(value, np.ndarray) else value

    return put


put = on()
X = values((2, 4, 6, 5), np.float32, 1)
W, B = values((3, 4, 3, 3), np.float32, 2), values((3,), np.float32, 3)
ROWS, LABELS = values((5, 7), np.float32, 4), np.array([0, 6, 3, 6, 1])
STEPS, PARAMS = (
    values((3, 2, 4), np.float32, 5),
    [values(s, np.float32, i) for i, s in enumerate([(9, 4), (9, 3)])],
)
STATE = values((1, 2, 3), np.float32, 6)
LISTS = [[values((6,), np.float32, i)] for i in range(4)]


def copies(lists: list[list[Any]]) -> list[list[Any]]:
    return [[np.abs(a) for a in arrays] for arrays in lists]


# Calls with two array arguments or more: the function, and the arguments by the names that errors use.
CALLS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (ann.conv2d, {"input": X, "weight": W, "bias": B}),
    (ann.linear, {"input": ROWS, "weight": values((3, 7), np.float32, 1), "bias": B}),
    (ann.cross_entropy, {"input": ROWS, "target": LABELS, "weight": np.ones(7, np.float32)}),
    (ann.cross_entropy, {"input": ROWS, "target": np.abs(ROWS)}),
    (ann.mse_loss, {"input": ROWS, "target": ROWS + 1}),
    (ann.relu, {"input": ROWS, "out": np.zeros_like(ROWS)}),
    (
        lambda input, hx, p0, p1: ann.gru(input, hx, [p0, p1]),
        dict(input=STEPS, hx=STATE, p0=PARAMS[0], p1=PARAMS[1]),
    ),
    (
        lambda p, g, m, v: ann.adam_step([p], [g], [m], [v], step=1),
        dict(zip("pgmv", (a[0] for a in LISTS), strict=True)),
    ),
    (
        lambda p, g, b: ann.sgd_step([p], [g], [b], lr=1.0),
        dict(zip("pgb", (a[0] for a in LISTS), strict=False)),
    ),
]
LABEL = {"p0": r"params\[0\]", "p1": r"params\[1\]", "p": r"params\[0\]", "g": r"grads\[0\]"}
LABEL |= {"m": r"exp_avgs\[0\]", "v": r"exp_avg_sqs\[0\]", "b": r"momentum_buffers\[0\]"}
PAIRS = [(op, args, name) for op, args in CALLS for name in list(args)[1:]]


def label(name: str) -> str:
    return LABEL.get(name, name)


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "args", "name"), PAIRS)
def test_numpy_and_a_device_do_not_mix(op: Any, args: dict[str, Any], name: str) -> None:
    first, which = label(next(iter(args))), label(name)
    there = {k: put(a) for k, a in args.items()}
    refuses(
        TypeError,
        rf": {which} is a numpy array, but {first} is a emulated array on CUDA device 0; expected all on one",
        op,
        **{**there, name: args[name]},
    )
    refuses(
        TypeError,
        rf": {which} is a emulated array on CUDA device 0, but {first} is a numpy array; expected all on one",
        op,
        **{**args, name: there[name]},
    )


@pytest.mark.parametrize(("op", "args", "name"), PAIRS)
def test_two_devices_are_refused(op: Any, args: dict[str, Any], name: str) -> None:
    there = {k: on(1)(a) for k, a in args.items()}
    first, which = label(next(iter(args))), label(name)
    refuses(
        ValueError,
        rf": {which} is on CUDA device 0, but {first} is on CUDA device 1; expected all on one",
        op,
        **{**there, name: put(args[name])},
    )


@pytest.mark.parametrize(("op", "args", "name"), PAIRS)
def test_two_libraries_are_refused(op: Any, args: dict[str, Any], name: str) -> None:
    there = {k: put(a) for k, a in args.items()}
    first, which = label(next(iter(args))), label(name)
    refuses(
        TypeError,
        rf": {which} is a other array, but {first} is a emulated array; expected arrays of one library",
        op,
        **{**there, name: OtherArray(args[name])},
    )


@pytest.mark.parametrize(("op", "args"), CALLS)
def test_other_devices_and_libraries_are_refused(op: Any, args: dict[str, Any]) -> None:
    for name in args:
        for bad, error in (
            (torch.zeros(3), r"is on DLPack device type 1 \(CPU\), expected a NumPy array or a CUDA array"),
            (ROCmArray(X), r"is on DLPack device type 10 \(ROCm\), expected a NumPy array or a CUDA array"),
            (Stranger(), "is a Stranger, expected a NumPy array, or a CUDA array of CuPy, PyTorch or JAX"),
            ([1.0], "must be an"),
            (np.float32(1), "must be an"),
        ):
            for base in (args, {k: put(a) for k, a in args.items()}):
                refuses(TypeError, f": {label(name)} {error}", op, **{**base, name: bad})


@pytest.mark.parametrize(("op", "args"), CALLS)
@pytest.mark.parametrize("dtype", [np.complex64, np.bool_, np.int32, np.longdouble], ids=str)
def test_dtypes_without_a_kernel_are_refused(op: Any, args: dict[str, Any], dtype: Any) -> None:
    there = {k: put(a) for k, a in args.items()}
    for name, a in args.items():
        if name == "target" and dtype is np.int32 and op is ann.cross_entropy:
            continue
        refuses(
            TypeError,
            f": {label(name)} has dtype {np.dtype(dtype)}, expected",
            op,
            **{**there, name: put(a.astype(dtype))},
        )


def test_16_bit_dtypes_do_not_mix() -> None:
    x, w = ROWS.astype(np.float16), values((3, 7), ml_dtypes.bfloat16, 1)
    for place in (put, lambda a: a):
        refuses(
            TypeError,
            "weight has dtype bfloat16, which does not promote with float16",
            ann.linear,
            place(x),
            place(w),
        )


@pytest.mark.parametrize("kind", [OtherArray, VersionedArray, ManagedArray])
def test_capsules_of_every_kind(kind: Any) -> None:
    y = ann.relu(kind(ROWS, 1))
    np.testing.assert_array_equal(y.values, np.maximum(ROWS, 0))


def test_a_capsule_that_is_none() -> None:
    class Broken(EmulatedArray):
        def __dlpack__(self, *, stream: Any = None) -> Any:
            raise BufferError("not today")

    class Sharded(EmulatedArray):
        def __dlpack_device__(self) -> tuple[int, int]:
            raise BufferError("it lies in two places")

    class Odd(EmulatedArray):
        def __dlpack__(self, *, stream: Any = None) -> Any:
            return "capsule"

    refuses(TypeError, "^relu: input cannot be read: BufferError: not today$", ann.relu, Broken(ROWS))
    refuses(TypeError, "^relu: input cannot be read: BufferError: it lies in", ann.relu, Sharded(ROWS))
    refuses(TypeError, "^relu: input gave no DLPack capsule", ann.relu, Odd(ROWS))


def test_too_many_dimensions() -> None:
    refuses(ValueError, "^relu: input has 9 dimensions, expected at most 8", ann.relu, put(np.ones((1,) * 9)))


def test_without_a_cuda_back_end() -> None:
    """Where none was compiled in, the first array of a device is refused by name."""
    code = """
import sys
sys.path[:0] = [{tests!r}]
import numpy as np, arraynn as ann
if ann._core.cuda_status() == (False, "built without a CUDA compiler"):
    import device
    x = device.EmulatedArray(np.ones((2, 3), np.float32))
    try:
        ann.relu(x)
    except TypeError as error:
        assert str(error) == (
            "relu: input is a emulated array on CUDA device 0, but arraynn was built without CUDA"
        ), error
    else:
        raise AssertionError("taken")
"""
    code = code.format(tests=os.path.dirname(__file__))
    subprocess.run([sys.executable, "-c", code], check=True)


# -- out ----------------------------------------------------------------------------------------


def test_out_is_written_and_returned() -> None:
    expected = np.maximum(ROWS, 0)
    for layout in ("c", "fortran", "strided", "reversed"):
        out = put(lay(np.full_like(ROWS, 7), layout, 0))
        assert ann.relu(put(ROWS), out=out) is out
        np.testing.assert_array_equal(out.values, expected)
    half = put(np.zeros((4, 3), ml_dtypes.bfloat16))
    ann.gru_cell(
        *map(put, (a.astype(half.dtype) for a in (STEPS[0].repeat(2, 0), half.values, *PARAMS))), out=half
    )
    assert np.isfinite(half.values.astype(np.float32)).all()


def test_out_that_does_not_fit() -> None:
    x = put(ROWS)
    read_only = np.full_like(ROWS, 7)
    read_only.flags.writeable = False
    for out, error, words in (
        (read_only, ValueError, "out is read-only, expected a writable array"),
        (np.full(ROWS.shape, 7.0), TypeError, "out has dtype float64, expected float32"),
        (np.full(ROWS.shape, 7), TypeError, "out has dtype int64, expected float32"),
        (np.full((7, 5), 7, np.float32), ValueError, r"out has shape \(7, 5\), expected \(5, 7\)"),
    ):
        before = out.copy()
        refuses(error, f"^relu: {words}", ann.relu, x, out=put(out))
        np.testing.assert_array_equal(out, before)


def test_out_that_overlaps() -> None:
    room = np.zeros(20, np.float32)
    for first, second, overlap in (
        (room[:10], room[9:19], True),
        (room[:10], room[10:], False),
        (room[:10], room[9::-1], True),
        (room[::2], room[1::2], False),
        (room[::2], room[::-2], False),
        (room[::2], room[10:], True),
        (room[:16].reshape(4, 4)[:, :2], room[:16].reshape(4, 4)[:, 2:], False),
        (np.broadcast_to(room[:1], (3,)), room[1:4], False),
    ):
        x, out = put(first), put(second)
        if overlap:
            refuses(ValueError, "^relu: out overlaps input, expected memory of its own", ann.relu, x, out=out)
        else:
            assert ann.relu(x, out=out) is out
    empty = put(room[:0])
    assert ann.relu(empty, out=put(room[:0])).shape == (0,)


# -- results ------------------------------------------------------------------------------------


RESULTS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (ann.conv1d, (X[0], values((3, 6, 3), np.float32, 1), B), {}),
    (ann.conv2d, (X, W, B), dict(padding=1)),
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


# -- cotangents ---------------------------------------------------------------------------------


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


# -- values on a device -------------------------------------------------------------------------


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


# -- optimizer steps ----------------------------------------------------------------------------


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


# -- settings, and the adapters' own arithmetic -----------------------------------------------------


def test_settings() -> None:
    assert ann.cuda.allow_tf32() is False
    try:
        assert ann.cuda.allow_tf32(True) is True
        assert ann.cuda.allow_tf32() is True
    finally:
        ann.cuda.allow_tf32(False)
    for setting in (ann.cuda.allow_tf32, ann.cuda.set_checks):
        refuses(TypeError, "expected True or False", setting, 1)
    code = "import arraynn._core as c; print(c.cuda_checks())"
    for text, shown in (("1", "True"), ("0", "False"), ("", "False")):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "ARRAYNN_CUDA_CHECKS": text},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == shown
    bad = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ARRAYNN_CUDA_CHECKS": "yes"},
        capture_output=True,
        text=True,
    )
    assert "ARRAYNN_CUDA_CHECKS: got 'yes', expected 0 or 1" in bad.stderr


def test_a_back_end_that_is_none() -> None:
    with pytest.raises(RuntimeError, match="no-such-file"):
        _core.load_cuda_backend("/no-such-file.so")
    with pytest.raises(RuntimeError, match="is not a CUDA back end of this version of arraynn"):
        _core.load_cuda_backend(_core.__file__)


def test_channels_last_by_strides() -> None:
    for shape in ((2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (2, 3, 4), (0, 3, 4, 5)):
        for a in (np.ones(shape), channels_last(np.ones(shape))):
            c_order = a.ndim == 4 and not a.flags.c_contiguous and a.transpose(0, 2, 3, 1).flags.c_contiguous
            steps = tuple(s // 8 for s in a.strides)
            assert _device.is_channels_last(a.shape, steps) == c_order, shape


def test_the_adapter_of_pytorch() -> None:
    """What of it needs no GPU."""
    x = torch.arange(6.0).reshape(2, 3)
    library = _device.library_of(x)
    assert library is not None
    assert library is _device.library_of(torch.nn.Parameter(x))
    assert (library.name, library.where(x), library.dtype_name(x)) == ("torch", (1, 0), "float32")
    assert library.strides(x.T) == (1, 3)
    assert library.permute(x, (1, 0)).shape == (3, 2)
    assert library.astype(x.T, torch.float64).stride() == (1, 3)
    total = library.sum(x, (0,))
    assert total.dtype == torch.float32
    np.testing.assert_array_equal(total.numpy(), [[3, 5, 7]])
    assert library.writable(x)
    assert "dltensor" in repr(library.dlpack(x.requires_grad_()))


def test_cotangents_of_the_harness_cover_every_leaf() -> None:
    """`ann` of the harness gives NumPy back, with the memory order of the device's result."""
    device.use("emulated")
    try:
        y, pullback = device.ann.vjp(device.ann.conv2d, channels_last(X), W, B)
        assert is_channels_last(y)
        assert all(type(g) is np.ndarray for g in pullback(cotangent_of(y)))
        out = np.empty_like(y)
        assert device.ann.conv2d(channels_last(X), W, B, out=out) is out
        np.testing.assert_array_equal(out, y)
    finally:
        device.use(None)
