"""Libraries of CUDA arrays, and what is asked of them beside DLPack.

The compiled side reads an array through its DLPack capsule and asks its library's adapter for the
current stream and for the memory of results. A library is known by its arrays' type and is never
imported before an array of it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np


class Library(Protocol):
    """What is asked of a library of CUDA arrays."""

    name: str
    # The library has no current stream: its outputs must be complete when a call returns.
    waits: bool

    def where(self, x: Any) -> tuple[int, int]:
        """Return the DLPack device type and the device's number."""

    def dlpack(self, x: Any) -> Any:
        """Return a DLPack capsule, without waiting."""

    def stream(self, device: int) -> int:
        """Return the current stream, a ``cudaStream_t``, of a device."""

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        """Return a C-contiguous array, at an address that 256 divides."""

    def zeros(self, shape: tuple[int, ...], dtype: Any, device: int) -> Any:
        """Return an array of zeros, the dtype being one of the library's."""

    def permute(self, x: Any, axes: tuple[int, ...]) -> Any:
        """Return a view with the axes in another order."""

    def astype(self, x: Any, dtype: Any) -> Any:
        """Return a copy of another dtype, one of the library's, in the same memory order."""

    def sum(self, x: Any, axes: tuple[int, ...]) -> Any:
        """Return the sum over axes, which stay with size 1, in float64, rounded to the array's dtype."""

    def dtype_name(self, x: Any) -> str:
        """Return the name that NumPy gives the dtype."""

    def strides(self, x: Any) -> tuple[int, ...]:
        """Return the strides, in elements."""

    def writable(self, x: Any) -> bool:
        """Tell whether an array may be written."""


class _CuPy:
    name = "cupy"
    waits = False

    def __init__(self) -> None:
        self._cupy: Any = import_module("cupy")

    def _dtype(self, name: str) -> Any:
        return np.dtype(import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)

    def where(self, x: Any) -> tuple[int, int]:
        kind, device = x.__dlpack_device__()
        return int(kind), int(device)

    def dlpack(self, x: Any) -> Any:
        return x.__dlpack__(stream=-1)

    def stream(self, device: int) -> int:
        return int(self._cupy.cuda.get_current_stream(device).ptr)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.empty(shape, self._dtype(dtype))

    def zeros(self, shape: tuple[int, ...], dtype: Any, device: int) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.zeros(shape, dtype)

    def permute(self, x: Any, axes: tuple[int, ...]) -> Any:
        return x.transpose(axes)

    def astype(self, x: Any, dtype: Any) -> Any:
        with x.device:
            return x.astype(dtype)

    def sum(self, x: Any, axes: tuple[int, ...]) -> Any:
        with x.device:
            return x.astype(np.float64).sum(axes, keepdims=True).astype(x.dtype)

    def dtype_name(self, x: Any) -> str:
        return str(x.dtype)

    def strides(self, x: Any) -> tuple[int, ...]:
        return tuple(step // x.itemsize for step in x.strides)

    def writable(self, x: Any) -> bool:
        return True


class _PyTorch:
    name = "torch"
    waits = False

    def __init__(self) -> None:
        self._torch: Any = import_module("torch")
        self._to_dlpack = self._torch.utils.dlpack.to_dlpack
        self._cuda = 2 if self._torch.version.hip is None else 10

    def where(self, x: Any) -> tuple[int, int]:
        if x.is_cuda:
            return self._cuda, x.get_device()
        kind, device = x.__dlpack_device__()
        return int(kind), int(device)

    def dlpack(self, x: Any) -> Any:
        # Gradients are vjp's business: torch's own graph ends here. The tensor's __dlpack__ would want
        # its device to be the current one.
        return self._to_dlpack(x.detach() if x.requires_grad else x)

    def stream(self, device: int) -> int:
        return int(self._torch.cuda.current_stream(device).cuda_stream)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=f"cuda:{device}")

    def zeros(self, shape: tuple[int, ...], dtype: Any, device: int) -> Any:
        return self._torch.zeros(shape, dtype=dtype, device=f"cuda:{device}")

    def permute(self, x: Any, axes: tuple[int, ...]) -> Any:
        return x.permute(axes)

    def astype(self, x: Any, dtype: Any) -> Any:
        return x.to(dtype)

    def sum(self, x: Any, axes: tuple[int, ...]) -> Any:
        return x.sum(axes, keepdim=True, dtype=self._torch.float64).to(x.dtype)

    def dtype_name(self, x: Any) -> str:
        return str(x.dtype).removeprefix("torch.")

    def strides(self, x: Any) -> tuple[int, ...]:
        return tuple(x.stride())

    def writable(self, x: Any) -> bool:
        return True


class _JAX:
    """JAX queues its work on streams of its own and shows none of them.

    So a call waits for JAX on the legacy default stream (`dlpack`), works there, and is over when
    its results are (`waits`).
    """

    name = "jax"
    waits = True

    def __init__(self) -> None:
        self._jax: Any = import_module("jax")
        self._numpy: Any = import_module("jax.numpy")

    def where(self, x: Any) -> tuple[int, int]:
        kind, device = x.__dlpack_device__()
        return int(kind), int(device)

    def dlpack(self, x: Any) -> Any:
        return x.__dlpack__(stream=1)

    def stream(self, device: int) -> int:
        return 1

    def _device(self, number: int) -> Any:
        return next(d for d in self._jax.local_devices(backend="gpu") if d.local_hardware_id == number)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        if dtype in ("float64", "int64") and not self._jax.config.jax_enable_x64:
            raise TypeError(f"jax has no {dtype} arrays unless jax_enable_x64 is set")
        return self._numpy.empty(shape, dtype, device=self._device(device))

    def zeros(self, shape: tuple[int, ...], dtype: Any, device: int) -> Any:
        return self._numpy.zeros(shape, dtype, device=self._device(device))

    def permute(self, x: Any, axes: tuple[int, ...]) -> Any:
        # Results lie as their arguments do, and those of JAX lie in C order unless a layout was asked for.
        raise TypeError("jax makes arrays in C order alone, and an argument lies in another order")

    def astype(self, x: Any, dtype: Any) -> Any:
        return x.astype(dtype)

    def sum(self, x: Any, axes: tuple[int, ...]) -> Any:
        # float64 is there only where it is switched on; XLA sums in pairs, which keeps float32 close.
        wide = "float64" if self._jax.config.jax_enable_x64 else "float32"
        return x.astype(wide).sum(axes, keepdims=True).astype(x.dtype)

    def dtype_name(self, x: Any) -> str:
        return str(x.dtype)

    def strides(self, x: Any) -> tuple[int, ...]:
        return contiguous_strides(x.shape)

    def writable(self, x: Any) -> bool:
        return False


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a C-contiguous array, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_channels_last(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Tell whether (N, C, H, W) lies densely as (N, H, W, C), and not as (N, C, H, W) too."""

    def dense(axes: Sequence[int]) -> bool:
        steps = contiguous_strides([shape[axis] for axis in axes])
        return all(shape[axis] == 1 or strides[axis] == step for axis, step in zip(axes, steps, strict=True))

    return len(shape) == 4 and 0 not in shape and dense((0, 2, 3, 1)) and not dense((0, 1, 2, 3))


_makers: dict[str, Callable[[], Library]] = {"cupy": _CuPy, "torch": _PyTorch, "jax": _JAX}
_modules = {"cupy": "cupy", "torch": "torch", "jax": "jax", "jaxlib": "jax"}
_made: dict[str, Library] = {}
_of_type: dict[type, Library | None] = {}


def register_library(module: str, library: Library) -> None:
    """Let arrays whose type comes from the root module named be those of `library`."""
    _modules[module] = library.name
    _made[library.name] = library
    _of_type.clear()


def library_of(x: Any) -> Library | None:
    """Return the library of an array, or None for what is no array of a known one."""
    kind = type(x)
    try:
        return _of_type[kind]
    except KeyError:
        pass
    library = None
    for base in kind.__mro__:
        name = _modules.get(base.__module__.partition(".")[0])
        if name is not None:
            library = _made.get(name) or _made.setdefault(name, _makers[name]())
            break
    _of_type[kind] = library
    return library


def shares_memory(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Tell whether two arrays, each ``(address, shape, strides in bytes, itemsize)``, share an element.

    NumPy decides, on arrays that it makes of the numbers alone; no memory is looked at.
    """
    return bool(np.shares_memory(_stand_in(*a), _stand_in(*b)))


def _stand_in(address: int, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Any:
    class Memory:
        __array_interface__ = {  # noqa: RUF012
            "version": 3,
            "data": (address, True),
            "shape": shape,
            "strides": strides,
            "typestr": f"|V{itemsize}",
        }

    return np.asarray(Memory())
