"""Measures arraynn beside its peers: what a case is, how it is timed and compared, the machine's roof."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import peers
from peers import Call, Engine

OURS = "arraynn"
OVERHEAD_BOUND_US = 5.0

# rtol, and atol in units of the root mean square: engines add in different orders, and a 16-bit
# peer may round between the steps of an op where we round once
TOLERANCE = {"float64": 1e-9, "float32": 2e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    Attributes
    ----------
    name : str
        Unique; what ``--case`` looks into.
    family, group, op : str
        The chart, the line of the summary, and the op.
    make : callable
        ``make(rng)`` draws the inputs.
    ours : callable
        ``ours(inputs)`` returns the call to time.
    peers : dict
        Peer name to a function as `ours`; it may return an `Engine`. The name's first word is the package.
    flops : float
        Arithmetic of the product-like part (0 for ops that only move memory).
    elements : float
        Floating elements that must be read or written at least once.
    index_bytes : float
        The same for integer operands, in bytes.
    training : bool
        Gradients are part of the case, so PyTorch runs outside its inference mode.
    overhead : bool
        A tiny call that shows the cost of calling.
    compare : callable
        ``compare(ours, theirs, tolerance)`` returns what differs, or ''.
    """

    name: str
    family: str
    group: str
    op: str
    make: Callable[[Random], Any]
    ours: Callable[[Any], Call]
    peers: Mapping[str, Callable[[Any], Call | Engine]]
    flops: float
    elements: float
    index_bytes: float = 0.0
    training: bool = False
    overhead: bool = False
    compare: Callable[[list[np.ndarray], list[np.ndarray], float], str] = field(
        default_factory=lambda: difference
    )

    def bytes(self, dtype: str) -> float:
        """Return the memory traffic that no implementation can avoid."""
        return self.elements * itemsize(dtype) + self.index_bytes


@dataclass(frozen=True)
class Settings:
    """How long to measure: at most `rounds` rounds, blocks of `block` seconds, `budget` seconds per case.

    Before each block come `warm` seconds of the same calls: caches and memory of a core that slept in
    `settle` are slow for some 15 ms afterwards on some machines (products take twice as long, the FMA
    loop does not), which no training loop sees.
    """

    rounds: int = 15
    fewest_rounds: int = 5
    block: float = 0.006
    warm: float = 0.015
    budget: float = 3.0


QUICK = Settings(rounds=3, fewest_rounds=2, block=0.001, warm=0.0005, budget=0.5)


class Random:
    """Draws the inputs of a case in the dtype that is measured, the same ones in every run."""

    def __init__(self, dtype: str) -> None:
        self.dtype = numpy_dtype(dtype)
        self._rng = np.random.default_rng(0)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Return normal variates with standard deviation `scale`."""
        wide = np.float64 if self.dtype == np.float64 else np.float32
        drawn = self._rng.standard_normal(shape, dtype=wide)
        drawn *= wide(scale)
        return drawn.astype(self.dtype, copy=False)

    def labels(self, classes: int, *shape: int) -> np.ndarray:
        """Return int64 class indices."""
        return self._rng.integers(0, classes, shape)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype called `name`, bfloat16 included."""
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    return found


def itemsize(dtype: str) -> int:
    """Return the bytes of one element."""
    return {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[dtype]


# Results


def difference(ours: list[np.ndarray], theirs: list[np.ndarray], tolerance: float) -> str:
    """Say in what `theirs` differs from `ours`, or return ''."""
    if len(ours) != len(theirs):
        return f"{len(theirs)} arrays where ours are {len(ours)}"
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.shape != b.shape:
            return f"array {index}: shape {b.shape} where ours is {a.shape}"
        if a.size == 0:
            continue
        wide, expected = a.astype(np.float64), b.astype(np.float64)
        error = np.abs(wide - expected)
        bound = tolerance * (np.abs(expected) + math.sqrt(float(np.mean(np.square(expected)))))
        if not (error <= bound).all():  # written so that NaN fails
            return f"array {index} differs by {error.max():.3g}, values reach {np.abs(expected).max():.3g}"
    return ""


# Timing


def keep_freed_memory() -> str:
    """Tell glibc to keep what is freed, and say what was done.

    Otherwise every large result of a peer that allocates with malloc is mapped, zeroed page by page
    and unmapped again in each call, and the benchmark would measure the kernel's page faults.
    """
    if platform.libc_ver()[0] != "glibc":
        return "the system's own settings"
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt = ctypes.CDLL(None).mallopt
    # mmap_max = 0 because the mmap threshold cannot be raised beyond 32 MiB
    for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20)):
        if mallopt(option, value) != 1:
            raise RuntimeError(f"mallopt({option}, {value}) was refused")
    return "glibc told to keep freed memory (M_MMAP_MAX=0, M_TRIM_THRESHOLD=2 GiB, M_TOP_PAD=64 MiB)"


def settle(limit: float = 0.2) -> None:
    """Wait until the thread pool of the engine before has stopped spinning, so that it takes no core."""
    deadline = time.perf_counter() + limit
    while time.perf_counter() < deadline:
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(0.005)  # running threads are charged at scheduler ticks, 1 to 4 ms apart
        if time.process_time() - cpu < 0.2 * (time.perf_counter() - wall):
            return


def time_block(call: Call, count: int, warm: float) -> float:
    """Return the seconds per call over `count` calls, right behind a warm-up of at least one call."""
    clock = time.perf_counter
    until = clock() + warm
    call()
    while clock() < until:
        call()
    repeats = range(count)
    start = clock()
    for _ in repeats:
        call()
    return (clock() - start) / count


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def interleave(calls: Mapping[str, Call], settings: Settings) -> dict[str, list[float]]:
    """Return for each engine its seconds per call in each round; the order of the engines rotates."""
    names = list(calls)
    with _no_garbage_collection():
        counts = {}
        for name in names:
            settle()
            counts[name] = max(1, math.ceil(settings.block / time_block(calls[name], 1, settings.warm)))
        times: dict[str, list[float]] = {name: [] for name in names}
        end = time.perf_counter() + settings.budget
        for turn in range(settings.rounds):
            if turn >= settings.fewest_rounds and time.perf_counter() > end:
                break
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                settle()
                times[name].append(time_block(calls[name], counts[name], settings.warm))
    return times


# Statistics


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean, NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def median_ratio(times: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Return the median over the rounds of ``times / base`` with its quartiles.

    The ratio is taken within a round, where both engines saw the same machine.
    """
    low, middle, high = quartiles([a / b for a, b in zip(times, base, strict=True)])
    return {"ratio": middle, "ratio_q1": low, "ratio_q3": high}


def timing(times: Sequence[float]) -> dict[str, float]:
    """Return the median of `times` and its interquartile range, in milliseconds."""
    low, middle, high = quartiles(times)
    return {"ms": middle * 1e3, "iqr_ms": (high - low) * 1e3}


# The machine's roof


@dataclass(frozen=True)
class Roof:
    """What this machine can do with the threads that are measured.

    Attributes
    ----------
    gflops : float
        FMA peak in the compute dtype.
    copy : tuple of (bytes, GB/s)
        Copy bandwidth, read and written bytes counted, by size of the working set, ascending.
    """

    gflops: float
    copy: tuple[tuple[float, float], ...]

    def bandwidth(self, traffic: float) -> float:
        """Return the GB/s for a working set of `traffic` bytes: a small one lives in a cache."""
        return next((speed for size, speed in self.copy if traffic <= size), self.copy[-1][1])

    def floor(self, flops: float, traffic: float) -> tuple[float, str]:
        """Return the least seconds that work can take, and whether 'fma' or 'copy' sets it."""
        compute = flops / (self.gflops * 1e9)
        memory = traffic / (self.bandwidth(traffic) * 1e9)
        return (compute, "fma") if compute >= memory else (memory, "copy")

    def judge(self, record: dict[str, Any]) -> None:
        """Set what limits a measured case, and how near it came to that."""
        least, record["limit"] = self.floor(record["flops"], record["bytes"])
        record["floor_ms"] = least * 1e3
        record["roof_percent"] = 100 * record["floor_ms"] / record["ms"]

    def higher(self, other: Roof) -> Roof:
        """Return the better of two measurements of one machine: what disturbs them only lowers them."""
        copy = ((size, max(a, b)) for (size, a), (_, b) in zip(self.copy, other.copy, strict=True))
        return Roof(max(self.gflops, other.gflops), tuple(copy))


def measure_roof(core: Any, dtype: str, seconds: float) -> Roof:
    """Measure the roof with the extension's own loops; 16-bit floats are computed in float32."""
    gflops = core.measure_fma_peak("float64" if dtype == "float64" else "float32", seconds)
    rungs = [1 << 20, 4 << 20, 16 << 20, 512 << 20]
    # half of a rung is the source of the copy, half its destination
    speeds = [core.measure_copy_bandwidth(rung // 2, seconds / 2) for rung in rungs]
    return Roof(gflops, tuple(zip(map(float, rungs), speeds, strict=True)))


# One case


def installed(peer: str) -> bool:
    """Return whether the packages of a peer are there."""
    package = peer.split()[0]
    needed = ("onnxruntime", "onnx") if package == "onnxruntime" else (package,)
    return all(importlib.util.find_spec(name) is not None for name in needed)


def engines(case: Case, dtype: str) -> tuple[dict[str, Engine], dict[str, str]]:
    """Build ours and every installed peer; return them, and why others are missing."""
    inputs = case.make(Random(dtype))
    built, missing = {OURS: Engine(case.ours(inputs))}, {}
    for name, build in case.peers.items():
        if not installed(name):
            missing[name] = "not installed"
            continue
        if itemsize(dtype) == 2 and name in ("numpy", "scipy"):
            missing[name] = "no 16-bit arithmetic worth the name"
            continue
        try:
            made = build(inputs)
        except peers.Unsupported as reason:
            missing[name] = str(reason)
            continue
        built[name] = made if isinstance(made, Engine) else Engine(made)
    return built, missing


def check(case: Case, built: Mapping[str, Engine], dtype: str) -> dict[str, str]:
    """Compute every engine once and return the peers whose result is not ours."""
    result = {name: engine.finish(engine.call()) for name, engine in built.items()}
    ours = result.pop(OURS)
    found = {name: case.compare(ours, theirs, TOLERANCE[dtype]) for name, theirs in result.items()}
    return {name: what for name, what in found.items() if what}


def mode(case: Case) -> AbstractContextManager[Any]:
    """Return the context of a case: PyTorch's inference mode where it takes no gradients."""
    inference: bool = installed("torch") and not case.training
    return peers.torch.inference_mode() if inference else nullcontext()


def run_case(case: Case, dtype: str, roof: Roof, settings: Settings) -> dict[str, Any]:
    """Check and time one case; return its record."""
    record: dict[str, Any] = {
        "name": case.name,
        "family": case.family,
        "group": case.group,
        "op": case.op,
        "overhead": case.overhead,
        "flops": case.flops,
        "bytes": case.bytes(dtype),
    }
    with mode(case):
        built, missing = engines(case, dtype)
        record["missing"] = missing
        wrong = check(case, built, dtype)
        if wrong:
            return record | {"mismatch": wrong}
        times = interleave({name: engine.call for name, engine in built.items()}, settings)
    ours = times.pop(OURS)
    record |= timing(ours) | {"rounds": len(ours)}
    roof.judge(record)
    record["peers"] = {name: timing(theirs) | median_ratio(theirs, ours) for name, theirs in times.items()}
    record["ratio_torch"] = record["peers"].get("torch", {}).get("ratio")
    best = min(record["peers"], key=lambda name: record["peers"][name]["ratio"], default=None)
    record["best_peer"] = best
    record["ratio_best"] = record["peers"][best]["ratio"] if best else None
    return record
