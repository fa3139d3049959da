"""Arrays of a device: what is refused, by which words, before anything is computed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import arraynn as ann
import ml_dtypes
import numpy as np
import pytest
import torch
from checks import refuses
from device import EmulatedArray
from device_calls import (
    CALLS,
    PAIRS,
    PARAMS,
    ROWS,
    STEPS,
    ManagedArray,
    OtherArray,
    ROCmArray,
    Stranger,
    VersionedArray,
    X,
    label,
    on,
    put,
)
from shapes import lay, values

pytestmark = pytest.mark.usefixtures("emulator_in_use")


# -- refusals --------------------------------------------------------------------------------------


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


def test_a_volume_whose_positions_take_too_many_bits() -> None:
    x, w = values((1, 2, 2, 2, 2), np.float32, 1), values((3, 2, 1, 1, 1), np.float32, 2)
    options = dict(stride=(80000, 80000, 1), padding=(40000, 40000, 0))
    message = "^conv: on CUDA, depth and height .* fewer than 2\\^28 elements, got 80002 x 80002"
    refuses(ValueError, message, ann.conv3d, put(x), put(w), None, **options)
    y = ann.conv3d(x, w, None, **options)  # which a CPU computes
    assert y.shape == (1, 3, 2, 2, 2)
    assert not y.any()


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
    labelled = (ann.cross_entropy, ann.nll_loss, ann.linear_cross_entropy)
    for name, a in args.items():
        if name == "target" and dtype is np.int32 and op in labelled:
            continue
        if name == "attn_mask" and dtype is np.bool_:
            continue
        if name == "input" and dtype is np.int32 and op is ann.embedding:
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


# -- out -------------------------------------------------------------------------------------------


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
