"""Running the op tests on a device.

`ann` stands for `arraynn` in the tests of the families: its ops take NumPy arrays and give NumPy
arrays, but work in between on the device that `use` chose. Arrays keep their strides on the way, and
arrays that share memory share it there too; what was written there is brought back.

Devices are libraries of arrays. The emulated one is for machines without a GPU: its arrays lie in
NumPy's memory and say, through DLPack, that they lie on a CUDA device; the kernels that work on them
are the CUDA kernels, compiled for the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import arraynn
import emulator
import ml_dtypes
import numpy as np
from arraynn import _device
from numpy.typing import NDArray

# -- an array library that plays a device --------------------------------------------------------


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype = ctypes.c_char_p
_capsule_name.argtypes = (ctypes.c_void_p,)

# What living capsules point to, by address: a call must leave none behind.
capsules: dict[int, Any] = {}


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _drop_capsule(capsule: int) -> None:
    del capsules[_capsule_pointer(capsule, _capsule_name(capsule))]


_codes = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class EmulatedArray:
    """A NumPy array that says it lies on a CUDA device."""

    device_type = 2
    versioned = False

    def __init__(self, values: NDArray[Any], device: int = 0, fresh: bool = False) -> None:
        self.values, self.device = values, device
        self.fresh = fresh  # made by the library's allocator

    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)
    ndim = property(lambda self: self.values.ndim)
    strides = property(lambda self: self.values.strides)

    def _like(self, values: Any) -> EmulatedArray:
        return type(self)(np.asarray(values), self.device, self.fresh)

    def __getitem__(self, key: Any) -> EmulatedArray:
        return self._like(self.values[key])

    def reshape(self, shape: Any) -> EmulatedArray:
        return self._like(self.values.reshape(shape))

    def swapaxes(self, a: int, b: int) -> EmulatedArray:
        return self._like(self.values.swapaxes(a, b))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device_type, self.device

    def __dlpack__(self, *, stream: Any = None) -> Any:
        a = self.values
        sizes = (ctypes.c_int64 * a.ndim)(*a.shape)
        steps = (ctypes.c_int64 * a.ndim)(*(s // a.itemsize for s in a.strides))
        code = 4 if a.dtype == ml_dtypes.bfloat16 else _codes[a.dtype.kind]
        managed = _DLManagedTensorVersioned(1, 0) if self.versioned else _DLManagedTensor()
        # An address behind an offset, and none at all for nothing, as DLPack has it.
        offset = 64 if a.size else 0
        managed.tensor = _DLTensor(
            a.__array_interface__["data"][0] - offset if a.size else None,
            *self.__dlpack_device__(),
            a.ndim,
            code,
            8 * a.itemsize,
            1,
            ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64)),
            ctypes.cast(steps, ctypes.POINTER(ctypes.c_int64)) if not a.flags.c_contiguous else None,
            offset,
        )
        address = ctypes.addressof(managed)
        capsules[address] = (managed, sizes, steps, a)
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return _new_capsule(address, name, ctypes.cast(_drop_capsule, ctypes.c_void_p))


_libc = ctypes.CDLL(None)


class _Memory:
    """A block of exactly the bytes asked for, so that AddressSanitizer knows where it begins and ends."""

    def __init__(self, count: int) -> None:
        self.address = ctypes.c_void_p()
        if _libc.posix_memalign(ctypes.byref(self.address), 256, ctypes.c_size_t(count)):
            raise MemoryError(f"no {count} bytes for the emulated device")
        self.__array_interface__ = {
            "data": (self.address.value, False),
            "shape": (count,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        _libc.free(self.address)


def _allocate(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return memory as a device gives it: aligned to 256 bytes, full of what happens to be there."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if count == 0:
        return np.empty(shape, dtype)
    block = np.asarray(_Memory(count))
    block[...] = 0xFF
    return block.view(dtype).reshape(shape)


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


class EmulatedLibrary:
    """The adapter of `EmulatedArray`, with a record of what it was asked."""

    name = "emulated"
    waits = False

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def where(self, x: EmulatedArray) -> tuple[int, int]:
        return x.__dlpack_device__()

    def dlpack(self, x: EmulatedArray) -> Any:
        return x.__dlpack__(stream=-1)

    def stream(self, device: int) -> int:
        self.asked.append(("stream", device))
        return 0x1000 * (device + 1)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> EmulatedArray:
        self.asked.append(("empty", shape, dtype, device))
        return EmulatedArray(_allocate(shape, _dtype(dtype)), device, fresh=True)

    def zeros(self, shape: tuple[int, ...], dtype: Any, device: int) -> EmulatedArray:
        made = self.empty(shape, np.dtype(dtype).name, device)
        made.values[...] = 0
        return made

    def permute(self, x: EmulatedArray, axes: tuple[int, ...]) -> EmulatedArray:
        return x._like(x.values.transpose(axes))

    def astype(self, x: EmulatedArray, dtype: Any) -> EmulatedArray:
        return x._like(x.values.astype(dtype))

    def sum(self, x: EmulatedArray, axes: tuple[int, ...]) -> EmulatedArray:
        return x._like(x.values.sum(axes, np.float64, keepdims=True).astype(x.dtype))

    def dtype_name(self, x: EmulatedArray) -> str:
        return str(x.dtype)

    def strides(self, x: EmulatedArray) -> tuple[int, ...]:
        return tuple(s // x.values.itemsize for s in x.strides)

    def writable(self, x: EmulatedArray) -> bool:
        return x.values.flags.writeable


emulated = EmulatedLibrary()
_device.register_library(EmulatedArray.__module__, emulated)


# -- ways to a library of arrays ----------------------------------------------------------------


class Emulated:
    """Arrays of the emulated device."""

    def __init__(self) -> None:
        emulator.load()

    def buffer(self, data: NDArray[np.uint8]) -> EmulatedArray:
        memory = _allocate(data.shape, np.uint8)
        memory[...] = data
        return EmulatedArray(memory)

    def view(self, buffer: Any, offset: int, like: NDArray[Any]) -> EmulatedArray:
        values = np.ndarray(like.shape, like.dtype, buffer.values.data, offset, like.strides)
        values.flags.writeable = like.flags.writeable
        return EmulatedArray(values)

    def can_view(self, a: NDArray[Any]) -> bool:
        return True

    def to_host(self, x: Any) -> NDArray[Any]:
        return np.array(x.values, order="K")

    def finish(self) -> None:
        assert not capsules, "a call kept a DLPack capsule"


class _Marked:
    """Real libraries have no read-only arrays: their adapter is told which ones play one."""

    def __init__(self, name: str) -> None:
        self.read_only: dict[int, Any] = {}
        self.library = _device._made.setdefault(name, _device._makers[name]())
        self.library.writable = lambda x: id(x) not in self.read_only  # type: ignore[method-assign]

    def mark(self, x: Any, like: NDArray[Any]) -> Any:
        if not like.flags.writeable:
            self.read_only[id(x)] = x
        return x

    def finish(self) -> None:
        self.read_only.clear()


class CuPy(_Marked):
    """Arrays of CuPy on the first GPU."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.cupy: Any = import_module("cupy")

    def buffer(self, data: NDArray[np.uint8]) -> Any:
        return self.cupy.asarray(data)

    def view(self, buffer: Any, offset: int, like: NDArray[Any]) -> Any:
        memory = buffer.data + offset
        return self.mark(self.cupy.ndarray(like.shape, like.dtype, memory, like.strides), like)

    def can_view(self, a: NDArray[Any]) -> bool:
        return True

    def to_host(self, x: Any) -> NDArray[Any]:
        axes = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
        return np.transpose(self.cupy.asnumpy(x.transpose(axes)), np.argsort(axes))


class PyTorch(_Marked):
    """Tensors of PyTorch on the first GPU."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.torch: Any = import_module("torch")

    def buffer(self, data: NDArray[np.uint8]) -> Any:
        return self.torch.from_numpy(data).to("cuda:0")

    def view(self, buffer: Any, offset: int, like: NDArray[Any]) -> Any:
        size = like.itemsize
        steps = [s // size for s in like.strides]
        typed = buffer[: len(buffer) // size * size].view(getattr(self.torch, str(like.dtype)))
        return self.mark(typed.as_strided(like.shape, steps, offset // size), like)

    def can_view(self, a: NDArray[Any]) -> bool:
        return all(s >= 0 for s in a.strides)

    def to_host(self, x: Any) -> NDArray[Any]:
        x = x.cpu()
        if x.dtype == self.torch.bfloat16:
            return np.asarray(x.view(self.torch.int16).numpy().view(ml_dtypes.bfloat16))
        return np.asarray(x.numpy())


WAYS: dict[str, Callable[[], Any]] = {
    "emulated": functools.cache(Emulated),
    "cupy": functools.cache(CuPy),
    "torch": functools.cache(PyTorch),
}
_way: Any = None


def use(name: str | None) -> None:
    """Run the ops of `ann` on the device named, or with None on the host."""
    global _way
    _way = None if name is None else WAYS[name]()


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Let calls look at labels and lengths that lie on a device."""
    before = arraynn._core.cuda_checks()
    arraynn.cuda.set_checks(True)
    try:
        yield
    finally:
        arraynn.cuda.set_checks(before)


# -- there and back -----------------------------------------------------------------------------


def _extent(a: NDArray[Any]) -> tuple[int, int]:
    """Return the addresses of the first byte and behind the last one."""
    begin = a.__array_interface__["data"][0]
    reaches = [(n - 1) * s for n, s in zip(a.shape, a.strides, strict=True)]
    return begin + sum(r for r in reaches if r < 0), begin + sum(r for r in reaches if r > 0) + a.itemsize


def _bytes_at(begin: int, end: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * (end - begin)).from_address(begin))


def _owner(a: NDArray[Any]) -> NDArray[Any]:
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


class _Moved:
    """The arrays of one call: on the device while it runs, what it wrote brought back at its end."""

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        self.there: dict[int, Any] = {}  # by the id of the host's array
        self.here: dict[int, NDArray[Any]] = {}  # by the id of the device's
        self.groups: list[tuple[int, int, int, Any, NDArray[np.uint8], bool]] = []
        self.copies: list[tuple[NDArray[Any], Any]] = []
        arrays = list({id(a): a for a in arrays}.values())
        self.kept = arrays
        plain = [a for a in arrays if a.size and a.flags.aligned and a.dtype.isnative and _way.can_view(a)]
        for group in _groups(plain):
            self._move(group)
        for a in arrays:
            if id(a) not in self.there:  # a layout that a device cannot have: a copy in its order
                copy = np.array(a, a.dtype.newbyteorder("="), order="K")
                flat = np.ascontiguousarray(copy.ravel(order="K")).view(np.uint8)
                copy.flags.writeable = a.flags.writeable
                self._add(a, _way.view(_way.buffer(flat), 0, copy))
                self.copies.append((a, self.there[id(a)]))

    def _add(self, a: NDArray[Any], x: Any) -> None:
        self.there[id(a)], self.here[id(x)] = x, a

    def _move(self, group: list[NDArray[Any]]) -> None:
        begin, end = min(_extent(a)[0] for a in group), max(_extent(a)[1] for a in group)
        # A part of an array is as badly aligned there as it is within its array.
        pad = (begin - _extent(_owner(group[0]))[0]) % 64
        before = np.array(_bytes_at(begin, end))
        buffer = _way.buffer(np.concatenate([np.zeros(pad, np.uint8), before]))
        for a in group:
            self._add(a, _way.view(buffer, pad + a.__array_interface__["data"][0] - begin, a))
        self.groups.append((begin, end, pad, buffer, before, any(a.flags.writeable for a in group)))

    def bring_back(self) -> None:
        for begin, end, pad, buffer, before, writable in self.groups:
            after = _way.to_host(buffer)[pad:]
            if (after != before).any():
                assert writable, "a read-only array was written"
                _bytes_at(begin, end)[...] = after
        for a, x in self.copies:
            if a.flags.writeable and a.size:
                a[...] = _way.to_host(x)


def _groups(arrays: list[NDArray[Any]]) -> list[list[NDArray[Any]]]:
    """Put together the arrays whose memory overlaps."""
    found: list[list[NDArray[Any]]] = []
    reach = -1
    for a in sorted(arrays, key=_extent):
        begin, end = _extent(a)
        if begin >= reach:
            found.append([])
        found[-1].append(a)
        reach = max(reach, end)
    return found


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_map(v, change) for v in value)
    if isinstance(value, dict):
        return {k: _map(v, change) for k, v in value.items()}
    return change(value)


def _movable(value: Any) -> bool:
    """Tell whether a device can have such an array."""
    return isinstance(value, np.ndarray) and (
        value.dtype == ml_dtypes.bfloat16 or (value.dtype.kind in "iufcb" and value.dtype.itemsize <= 16)
    )


def _on_device(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call with arrays of the device, and return what came of it with arrays of the host."""
    found: list[NDArray[Any]] = []
    _map([args, kwargs], lambda v: found.append(v) if _movable(v) else None)
    moved = _Moved(found)

    def there(value: Any) -> Any:
        return moved.there[id(value)] if _movable(value) else value

    def here(value: Any) -> Any:
        if id(value) in moved.here:
            return moved.here[id(value)]
        assert not isinstance(value, np.ndarray), "a result is of NumPy, not of the arguments' library"
        return _way.to_host(value) if _device.library_of(value) is not None else value

    try:
        result = call(*_map(args, there), **_map(kwargs, there))
    finally:
        moved.bring_back()
        _way.finish()
    return _map(result, here)


class _Op:
    """An op, run where `use` says; equal to the op itself, so that it is found in its place."""

    def __init__(self, op: Callable[..., Any]) -> None:
        functools.update_wrapper(self, op)
        self.op = op

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.op(*args, **kwargs) if _way is None else _on_device(self.op, args, kwargs)

    def __eq__(self, other: object) -> bool:
        return other is self.op or (isinstance(other, _Op) and other.op is self.op)

    def __hash__(self) -> int:
        return hash(self.op)


def _vjp(op: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(op, _Op):
        return arraynn.vjp(op, *args, **kwargs)
    if _way is None:
        return arraynn.vjp(op.op, *args, **kwargs)
    pullbacks: list[Callable[..., Any]] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        out, pullback = arraynn.vjp(op.op, *args, **kwargs)
        pullbacks.append(pullback)
        return out

    out = _on_device(forward, args, kwargs)

    def pull(cotangent: Any) -> Any:
        cotangent = _map(cotangent, lambda v: np.asarray(v) if isinstance(v, np.generic) else v)
        return _on_device(pullbacks[0], (cotangent,), {})

    return out, pull


class _Module:
    """`arraynn` with its ops run where `use` says."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(arraynn, name)
        if name == "vjp":
            return _vjp
        return _Op(value) if name in arraynn.reference.__all__ else value


ann: Any = _Module()
