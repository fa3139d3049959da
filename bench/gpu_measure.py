"""Checks and times cases on the GPU: the process that ``gpu.py`` starts, and starts again where one dies.

It reads a job from its standard input as JSON and writes one line of JSON per step to its standard
output, so that nothing measured is lost with the process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gpu_cases
from gpu_ops import Build, Call, Case, Inputs, Tools, Unavailable
from harness import median_ratio, timing

OURS = "arraynn"
UNHEALTHY = 75  # exit status: the device answers nothing any more, a new process is needed


@dataclass(frozen=True)
class Settings:
    """How long to measure: up to `rounds` rounds of `block` seconds per engine, `budget` seconds per case."""

    rounds: int = 11
    fewest_rounds: int = 5
    block: float = 0.004
    budget: float = 0.4
    most_sets: int = 16


class Cuda:
    """The device as the harness needs it."""

    name = "cuda"
    # Cycles that the device idles before a block, so that the first calls are queued when it begins.
    _head_start = 300_000

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.cache: int = torch.cuda.get_device_properties(0).L2_cache_size

    def synchronize(self) -> None:
        self.torch.cuda.synchronize()

    def free_memory(self) -> int:
        """Return the bytes that can still be allocated."""
        cuda = self.torch.cuda
        return int(cuda.mem_get_info()[0] + cuda.memory_reserved() - cuda.memory_allocated())

    def release(self) -> None:
        """Give back what dead cases held."""
        gc.collect()
        self.torch.cuda.empty_cache()

    def block(self, run: Call) -> float:
        """Return the seconds that the device takes for what `run` queues."""
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.torch.cuda._sleep(self._head_start)
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def capture(self, calls: Iterable[Call]) -> tuple[Call, Any]:
        """Return the replay of a CUDA graph of `calls`, and the last result, which it writes again."""
        cuda, result = self.torch.cuda, None
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for call in calls:
                result = call()
        return graph.replay, result

    @contextlib.contextmanager
    def poisoned(self) -> Iterator[None]:
        """Let fresh memory hold NaN, so that an element that is never written shows."""
        torch = self.torch
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


# Results


def leaves(torch: Any, result: Any) -> list[Any]:
    """Flatten a nest of tensors, other libraries' arrays and numbers into a list of tensors."""
    if result is None:
        return []
    if isinstance(result, tuple | list):
        return [leaf for part in result for leaf in leaves(torch, part)]
    if isinstance(result, torch.Tensor):
        return [result.detach()]
    if hasattr(result, "__dlpack__"):
        return [torch.from_dlpack(result)]
    return [torch.tensor(float(result), dtype=torch.float64)]


def difference(torch: Any, ours: Any, theirs: Any, tolerance: float) -> str:
    """Say in what our result differs from the other, or return ''.

    The bound is `tolerance` times the value plus the root mean square of the other's. Large tensors
    are compared in pieces, since both are there in a wider dtype too.
    """
    a, b = leaves(torch, ours), leaves(torch, theirs)
    if len(a) != len(b):
        return f"{len(a)} arrays where {len(b)} were expected"
    for index, (x, y) in enumerate(zip(a, b, strict=True)):
        if x.shape != y.shape:
            return f"array {index}: shape {tuple(x.shape)} where {tuple(y.shape)} was expected"
        if x.numel() == 0:
            continue
        wide = torch.float64 if torch.float64 in (x.dtype, y.dtype) or y.numel() < 1 << 24 else torch.float32
        flat = [v.to(y.device).contiguous().view(-1).split(1 << 26) for v in (x, y)]
        squares = sum(float(piece.to(torch.float64).square().sum()) for piece in flat[1])
        scale = math.sqrt(squares / y.numel())
        for u, v in zip(*flat, strict=True):
            expected = v.to(wide)
            error = (u.to(wide) - expected).abs()
            within = error <= tolerance * (expected.abs() + scale)  # false for NaN
            if not bool(within.all()):
                worst, size = float(error.max()), float(expected.abs().max())
                wrong = int((~within).sum())
                return f"array {index}: {wrong} values differ, by up to {worst:.3g}; values reach {size:.3g}"
    return ""


def doubled(torch: Any, inputs: Inputs) -> Inputs:
    """Return inputs in float64."""
    if isinstance(inputs, tuple | list):
        return type(inputs)(doubled(torch, part) for part in inputs)
    return inputs.double() if inputs.is_floating_point() else inputs


def message(error: BaseException) -> str:
    """Return an error in one line of moderate length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"


# One case


@contextlib.contextmanager
def products(case: Case, tools: Tools) -> Iterator[None]:
    """Let PyTorch and arraynn compute float32 products as the case says."""
    backends = tools.torch.backends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer names for the same switches
        backends.cuda.matmul.allow_tf32 = case.tf32
        backends.cudnn.allow_tf32 = case.tf32
    tools.ann.cuda.allow_tf32(case.tf32)
    try:
        with tools.torch.no_grad():
            yield
    finally:
        tools.ann.cuda.allow_tf32(False)


def _poisoned_result(case: Case, tools: Tools, device: Any, inputs: Inputs) -> Any:
    """Compute our result in memory full of NaN."""
    call = case.ours(tools, inputs)
    if case.in_place:
        return call()
    # what the last call returned is where the next one writes
    for leaf in leaves(tools.torch, call()):
        if leaf.is_floating_point() and leaf.device.type == device.name:
            leaf.fill_(math.nan)
    with device.poisoned():
        return call()


def check(case: Case, tools: Tools, device: Any, inputs: Inputs) -> tuple[str, dict[str, str]]:
    """Compare our result with the peers'; return what is wrong with it, and which peers are left out."""
    torch, left_out = tools.torch, {}
    result = _poisoned_result(case, tools, device, inputs)
    if case.verify is not None:
        wrong = case.verify(tools, inputs, result)
        if wrong:
            return wrong, {}
    first, *_ = case.peers
    for name, build in case.peers.items():
        try:
            theirs = build(tools, inputs)()
            wrong = difference(torch, result, theirs, case.tolerance) if case.compared else ""
        except Unavailable as reason:
            left_out[name] = str(reason)
            continue
        except Exception as error:
            # trouble of a peer is not ours, unless there is nothing else to compare with
            if name == first:
                raise
            left_out[name] = message(error)
            continue
        del theirs
        if wrong and name != first:
            left_out[name] = f"computes something else: {wrong}"
        elif wrong:
            # the peer may be the one that rounds more: float64 decides
            try:
                exact = build(tools, doubled(torch, inputs))()
                against = difference(torch, result, exact, case.tolerance)
            except Exception as error:
                return f"differs from {name}: {wrong} (float64: {message(error)})", left_out
            if against:
                return f"differs from float64: {against}", left_out
            left_out["note"] = f"{name} is off, ours agrees with float64: {wrong}"
    return "", left_out


def captured(case: Case, tools: Tools, device: Any, build: Build, inputs: Inputs) -> str:
    """Say in what the replay of a graph of one call differs from the call, or return ''."""
    torch = tools.torch
    call, plain = build(tools, inputs), build(tools, inputs)
    call()
    replay, result = device.capture([call])
    if not case.in_place:
        for leaf in leaves(torch, result):
            if leaf.is_floating_point():
                leaf.fill_(math.nan)
    replay()
    plain()
    if not case.compared:
        device.synchronize()
        return ""
    return difference(torch, result, plain(), case.tolerance)


@dataclass
class Engine:
    """One way to compute a case: ``run(n)`` queues n units of `unit` calls each."""

    run: Callable[[int], None]
    unit: int = 1


def _eager(calls: Sequence[Call]) -> Engine:
    size, at = len(calls), 0

    def run(n: int) -> None:
        nonlocal at
        for _ in range(n):
            calls[at]()
            at = (at + 1) % size

    return Engine(run)


def _graph(device: Any, calls: Sequence[Call]) -> Engine:
    once = device.block(calls[0])
    # enough calls that the launch of the graph itself is lost among them
    fewest = min(max(1, round(1e-3 / max(once, 1e-7))), 20)
    repeated = [call for _ in range(math.ceil(fewest / len(calls))) for call in calls]
    replay, _ = device.capture(repeated)

    def run(n: int) -> None:
        for _ in range(n):
            replay()

    return Engine(run, len(repeated))


def interleave(engines: Mapping[str, Engine], device: Any, settings: Settings) -> dict[str, list[float]]:
    """Return for each engine its seconds per call in each round; the order of the engines rotates."""
    names, counts = list(engines), {}
    for name in names:
        run = engines[name].run
        device.block(lambda run=run: run(1))
        once = device.block(lambda run=run: run(1))
        counts[name] = min(max(1, round(settings.block / max(once, 1e-7))), 400)
        device.block(lambda run=run, name=name: run(counts[name]))
    times: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + settings.budget
    gc.collect()
    gc.disable()
    try:
        for turn in range(settings.rounds):
            if turn >= settings.fewest_rounds and time.perf_counter() > end:
                break
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                engine, n = engines[name], counts[name]
                seconds = device.block(lambda engine=engine, n=n: engine.run(n))
                times[name].append(seconds / (n * engine.unit))
    finally:
        gc.enable()
    return times


def floor(case: Case, roofs: Mapping[str, Any]) -> tuple[float, str]:
    """Return the least seconds that the case can take, and whether 'matrix' or 'copy' sets it."""
    memory = case.bytes / (roofs["copy_gb_per_s"] * 1e9)
    peak = roofs["matrix_tflops"].get(case.precision)
    compute = case.flops / (peak * 1e12) if peak and case.flops else 0.0
    return (compute, "matrix") if compute > memory else (memory, "copy")


def summarise(case: Case, times: Mapping[str, Sequence[float]], roofs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a case: our faster mode beside the fastest of PyTorch's and of all peers'."""
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    mine = [name for name in times if name.startswith(OURS)]
    ours = min(mine, key=medians.__getitem__)
    peers = {name: timing(s) | median_ratio(s, times[ours]) for name, s in times.items() if name not in mine}
    torch = min((name for name in peers if name.startswith("torch")), key=medians.__getitem__, default=None)
    best = min(peers, key=medians.__getitem__, default=None)
    least, limit = floor(case, roofs)
    return {
        **timing(times[ours]),
        "rounds": len(times[ours]),
        "modes": {name: 1e3 * medians[name] for name in mine},
        "mode": "graph" if ours.endswith("graph") else "eager",
        "floor_ms": least * 1e3,
        "limit": limit,
        "percent": 100 * least / medians[ours],
        "gb_per_s": case.bytes / medians[ours] / 1e9,
        "tflops": case.flops / medians[ours] / 1e12,
        "peers": peers,
        "torch": torch,
        "ratio": peers[torch]["ratio"] if torch else None,
        "best_peer": best,
        "ratio_best": peers[best]["ratio"] if best else None,
    }


def describe(case: Case) -> dict[str, Any]:
    """Return what is known of a case before it runs."""
    facts = ("name", "group", "op", "dtype", "precision", "flops", "bytes")
    return {name: getattr(case, name) for name in facts}


def run_case(
    case: Case, tools: Tools, device: Any, roofs: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """Check and time one case; return its record, with 'skipped' or 'failed' where there is no time."""
    record = describe(case)
    # inputs, results and PyTorch's intermediates, some of them in a wider dtype while they are drawn
    need = 6 * case.bytes
    if need > device.free_memory():
        return record | {"skipped": f"needs about {need / 1e9:.0f} GB of memory"}
    with products(case, tools):
        inputs = case.make(tools)
        wrong, left_out = check(case, tools, device, inputs)
        record["left_out"] = left_out
        if wrong:
            return record | {"failed": f"wrong result: {wrong}"}
        sets = [inputs]
        if case.rotates:
            # A single set is enough where its own traffic is beyond the cache.
            wanted = min(math.ceil(2 * device.cache / case.bytes), settings.most_sets)
            sets += [case.make(tools) for _ in range(wanted - 1)]
        record["sets"] = len(sets)
        builds = {OURS: case.ours, **{n: b for n, b in case.peers.items() if n not in left_out}}
        calls = {name: [build(tools, i) for i in sets] for name, build in builds.items()}
        engines = {}
        for name, list_of_calls in calls.items():
            for call in list_of_calls:
                call()
            engines[name] = _eager(list_of_calls)
        if case.graph:
            for name in (OURS, *case.graph_peers):
                if name not in builds:
                    continue
                try:
                    wrong = captured(case, tools, device, builds[name], inputs)
                    if wrong:
                        raise RuntimeError(f"the replay computes something else: {wrong}")
                    engines[f"{name} graph"] = _graph(device, calls[name])
                except Exception as error:
                    device.synchronize()
                    left_out[f"{name} graph"] = message(error)
                    if name == OURS:
                        record["failed"] = f"CUDA graph: {message(error)}"
        device.synchronize()
        times = interleave(engines, device, settings)
    return record | summarise(case, times, roofs)


# The device's roofs


def measure_roofs(torch: Any, device: Cuda) -> dict[str, Any]:
    """Measure the copy bandwidth, read and written bytes counted, and the peak of matrix products."""

    def median(run: Call, count: int) -> float:
        for _ in range(3):
            run()
        seconds = [device.block(lambda: [run() for _ in range(count)]) / count for _ in range(7)]
        return statistics.median(seconds)

    size = min(1 << 30, device.free_memory() // 8)
    pair = torch.randint(0, 255, (2, size), dtype=torch.uint8, device="cuda")
    copy = 2 * size / median(lambda pair=pair: pair[0].copy_(pair[1]), 10) / 1e9
    del pair
    device.release()
    n = 8192 if device.free_memory() > 4 << 30 else 4096
    matrix = {}
    # random values: zeros switch fewer transistors and run faster than any real product
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        matrix[name] = 2 * n**3 / median(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 3) / 1e12
        del a, b, out
    torch.backends.cuda.matmul.allow_tf32 = False
    device.release()
    return {"copy_gb_per_s": copy, "copy_bytes": size, "matrix_tflops": matrix, "matrix_size": n}


# The process


def _optional(name: str) -> Any:
    """Import a module that a peer needs, or return None."""
    if importlib.util.find_spec(name.removeprefix("gpu_")) is None:
        return None
    try:
        return importlib.import_module(name)
    except Exception as error:
        print(f"{name} is left out: {message(error)}", file=sys.stderr)
        return None


def _tools() -> tuple[Tools, Cuda]:
    import arraynn
    import torch

    torch.backends.cudnn.benchmark = True
    warnings.filterwarnings("ignore", module="torch")
    cupy, kernels = _optional("cupy"), _optional("gpu_triton")
    return Tools(torch, arraynn, "cuda", cupy, kernels), Cuda(torch)


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _machine(torch: Any, cupy: Any) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    found = {
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    if cupy is not None:
        found["cupy_cuda"] = cupy.cuda.runtime.runtimeGetVersion()
    return found


def serve(job: Mapping[str, Any]) -> int:
    """Measure the roofs if asked, then the cases named, and say each step on the standard output."""
    tools, device = _tools()
    _say(machine=_machine(tools.torch, tools.cupy))
    roofs = job["roofs"]
    if roofs is None:
        _say(start="roofs")
        roofs = measure_roofs(tools.torch, device)
        _say(roofs=roofs)
    settings = Settings(budget=job["seconds"])
    gc.freeze()  # what the libraries hold need not be looked through between cases
    known = {case.name: case for case in gpu_cases.cases()}
    for name in job["cases"]:
        _say(start=name)
        try:
            record = run_case(known[name], tools, device, roofs, settings)
        except Exception as error:  # one broken case must not cost the others; it fails the run
            record = describe(known[name]) | {"failed": message(error)}
            del error
        try:
            device.synchronize()
            device.release()
        except Exception as error:  # an error of a kernel stays with the process
            record["failed"] = record.get("failed", message(error))
            _say(case=record)
            return UNHEALTHY
        _say(case=record)
    return 0


def touch() -> int:
    """Compute every tiny case once; for compute-sanitizer, which looks at what the kernels do."""
    import arraynn
    import torch

    tools = Tools(torch, arraynn, "cuda")
    for case in gpu_cases.tiny():
        with torch.no_grad():
            result = case.ours(tools, case.make(tools))()
            torch.cuda.synchronize()
        del result
        print(f"ran {case.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(touch() if sys.argv[1:] == ["touch"] else serve(json.load(sys.stdin)))
