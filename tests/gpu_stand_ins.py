"""The GPU benchmark's modules, and what stands for a GPU and for arraynn on it: CPU tensors."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arraynn as ann
import ml_dtypes
import numpy as np
import torch

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

gpu = importlib.import_module("gpu")
gpu_cases = importlib.import_module("gpu_cases")
gpu_measure = importlib.import_module("gpu_measure")
gpu_phases = importlib.import_module("gpu_phases")
gpu_report = importlib.import_module("gpu_report")

CASES = gpu_cases.cases()
TINY = gpu_cases.tiny()
ROOFS = {
    "copy_gb_per_s": 3000.0,
    "copy_bytes": 1 << 30,
    "matrix_tflops": {"bfloat16": 800.0, "float16": 800.0, "tf32": 400.0, "float32": 50.0},
    "matrix_size": 8192,
}


def _numpy(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_numpy, value))
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.detach().numpy()


def _torch(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_torch, value))
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


class Arraynn:
    """Stands for arraynn on a GPU: its ops on tensors."""

    cuda = SimpleNamespace(allow_tf32=lambda allow=None: False)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        op = getattr(ann, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return _torch(op(*_numpy(args), **kwargs))

        call.op = op  # type: ignore[attr-defined]
        return call

    def vjp(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        out, pullback = ann.vjp(call.op, *_numpy(args), **kwargs)
        return _torch(out), lambda cotangent: _torch(pullback(_numpy(cotangent)))


class Host:
    """Stands for the device; its graphs call again what was captured."""

    name = "cpu"
    cache = 1 << 14

    def synchronize(self) -> None:
        pass

    def free_memory(self) -> int:
        return 1 << 30

    def release(self) -> None:
        pass

    def block(self, run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def capture(self, calls: Iterable[Callable[[], Any]]) -> tuple[Callable[[], Any], Any]:
        kept = list(calls)
        result: Any = None
        for call in kept:
            result = call()

        def replay() -> None:
            for call in kept:
                again = call()
            leaves = gpu_measure.leaves
            for old, new in zip(leaves(torch, result), leaves(torch, again), strict=True):
                old.copy_(new)

        return replay, result

    def poisoned(self) -> Any:
        return nullcontext()
