"""Arrays by name in safetensors files: `save` and `load`."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .layers import Layer
from .optim import Optimizer

__all__ = ["load", "save"]

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


def save(
    path: str | os.PathLike[str],
    state: Layer | Optimizer | Mapping[str, NDArray[Any]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays by name to a safetensors file, which PyTorch and others read as well.

    The file appears complete or not at all: it is written beside `path` and then renamed.

    Parameters
    ----------
    path : str or path
        Replaced if it exists.
    state : Layer, Optimizer or mapping of str to array
        A layer or an optimizer stands for its ``state_dict()``.
    metadata : mapping of str to str, optional
        Kept in the file's header.

    Raises
    ------
    TypeError
        `state` is none of these, or holds what is not an array of numbers.

    Examples
    --------
    >>> ann.save("model.safetensors", model)
    >>> model.load_state_dict(ann.load("model.safetensors"))
    """
    from safetensors.numpy import save as to_bytes

    arrays = state.state_dict() if isinstance(state, Layer | Optimizer) else state
    if not isinstance(arrays, Mapping):
        raise TypeError(f"save: state must be a layer or a mapping of arrays, got {type(state).__name__}")
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"save: a name must be a str, got {name!r}")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"save: {name} must be an array of numbers, got {type(array).__name__}")
        if array.dtype.newbyteorder("=") not in _DTYPES.values():
            raise TypeError(f"save: {name} must be an array of numbers, got dtype {array.dtype}")
    content = to_bytes(
        {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()},
        dict(metadata) if metadata else None,
    )
    target = Path(path)
    # no tempfile: its files are for the owner alone, and the rename would keep that
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def load(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read a safetensors file.

    Returns
    -------
    dict of str to array

    Raises
    ------
    FileNotFoundError
    ValueError
        The file is not a complete safetensors file, or holds a dtype that NumPy lacks.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(Path(path).read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ValueError(f"load: {path} is not a safetensors file: {error}") from error
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"load: {path}: {name} has the dtype {entry['dtype']}, for which NumPy has none")
        # not safetensors.numpy.load, which knows no bfloat16
        arrays[name] = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays
