"""Check what is promised of our kernels by themselves: ``python bench/limits.py`` (see bench/README.md)."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import arraynn as ann
import harness
import numpy as np
from arraynn import _core

HERE = Path(__file__).resolve().parent
Call = Callable[[], Any]


class Found(NamedTuple):
    """What was measured, and the bound that it must keep: at least, or at most if it is a cost."""

    what: str
    value: float
    bound: float
    at_least: bool
    unit: str

    @property
    def kept(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _weights(*shape: int) -> np.ndarray:
    """Return weights that keep the size of what they are applied to."""
    return _normal(*shape, seed=1) * np.float32(np.prod(shape[1:]) ** -0.5)


def _lstm_params(inputs: int, hidden: int) -> list[np.ndarray]:
    rows = 4 * hidden
    return [_weights(rows, inputs), _weights(rows, hidden), *(np.zeros(rows, np.float32) for _ in range(2))]


def _pullback(op: Callable[..., Any], *arguments: Any, **options: Any) -> Call:
    out, pullback = ann.vjp(op, *arguments, **options)
    dy = np.ones_like(out)
    return lambda: pullback(dy)


def _ratio(base: Call, other: Call, rounds: int) -> float:
    """Return how many times as long `other` takes: the median over interleaved rounds."""
    settings = harness.Settings(rounds=rounds, fewest_rounds=rounds, block=0.02)
    times = harness.interleave({"base": base, "other": other}, settings)
    return harness.median_ratio(times["other"], times["base"])["ratio"]


def scaling(rounds: int) -> Iterator[Found]:
    """Two threads against one, on calls of milliseconds."""
    x, w = _normal(8, 128, 28, 28), _weights(128, 128, 3, 3)
    a, b = _normal(1024, 1024), _weights(1024, 1024)
    params, steps = _lstm_params(128, 256), _normal(50, 32, 128)
    q = _normal(4, 8, 512, 64)
    calls: dict[str, Call] = {
        "conv2d 3x3 128 channels": lambda: ann.conv2d(x, w, None, 1, 1),
        "conv2d 3x3 128 channels, gradients": _pullback(ann.conv2d, x, w, None, 1, 1),
        "linear 1024x1024x1024": lambda: ann.linear(a, b),
        "lstm T50 N32 I128 H256": lambda: ann.lstm(steps, None, params),
        "attention 4x8x512x64": lambda: ann.scaled_dot_product_attention(q, q, q),
    }

    def limited(threads: int, call: Call) -> Call:
        def run() -> Any:
            ann.set_num_threads(threads)
            return call()

        return run

    for what, call in calls.items():
        yield Found(
            f"2 threads, {what}",
            _ratio(limited(2, call), limited(1, call), rounds),
            1.8,
            True,
            "times as fast",
        )


def subnormals(rounds: int) -> Iterator[Found]:
    """Operands below 1.2e-38 against ordinary ones."""
    tiny = np.float32(1e-40)

    def both(build: Callable[[np.float32], Call]) -> float:
        return _ratio(build(np.float32(1)), build(tiny), rounds)

    x, w = _normal(8, 64, 28, 28), _weights(64, 64, 3, 3)
    a, b, steps = _normal(256, 512), _weights(512, 512), _normal(20, 32, 64)
    params = _lstm_params(64, 64)
    builds: dict[str, Callable[[np.float32], Call]] = {
        "conv2d, input": lambda s: partial(ann.conv2d, x * s, w, None, 1, 1),
        "conv2d, weights": lambda s: partial(ann.conv2d, x, w * s, None, 1, 1),
        "linear, input": lambda s: partial(ann.linear, a * s, b),
        "linear, weights": lambda s: partial(ann.linear, a, b * s),
        "lstm, input": lambda s: partial(ann.lstm, steps * s, None, params),
        "lstm, weights": lambda s: partial(ann.lstm, steps, None, [p * s for p in params]),
        "sigmoid": lambda s: partial(ann.sigmoid, x * s),
        "layer_norm": lambda s: partial(ann.layer_norm, a * s, 512),
        "adam_step": lambda s: _adam(x * s),
    }
    for what, build in builds.items():
        yield Found(f"subnormal {what}", both(build), 1.2, False, "times the time")


def _adam(gradient: np.ndarray) -> Call:
    state = [np.zeros_like(gradient) for _ in range(3)]

    def call() -> None:
        for array in state:
            array[...] = 0
        ann.adam_step([state[0]], [gradient], [state[1]], [state[2]], step=1)

    return call


def narrow(rounds: int) -> Iterator[Found]:
    """bfloat16 against float32."""
    import ml_dtypes

    a, b = _normal(512, 512), _weights(2048, 512)
    x, w = _normal(8, 64, 28, 28), _weights(64, 64, 3, 3)
    steps, params = _normal(20, 32, 128), _lstm_params(128, 128)
    builds: dict[str, Callable[[Any], Call]] = {
        "linear 512x512x2048": lambda d: partial(ann.linear, a.astype(d), b.astype(d)),
        "conv2d 3x3 64 channels": lambda d: partial(ann.conv2d, x.astype(d), w.astype(d), None, 1, 1),
        "lstm T20 N32 I128 H128": lambda d: partial(
            ann.lstm, steps.astype(d), None, [p.astype(d) for p in params]
        ),
    }
    bound = 1 / 1.5 if _core.multiplies_bfloat16() else 1.3
    for what, build in builds.items():
        ratio = _ratio(build(np.float32), build(ml_dtypes.bfloat16), rounds)
        yield Found(f"bfloat16 {what}", ratio, bound, False, "times the time of float32")


def random_shapes(rounds: int) -> Iterator[Found]:
    """Convolutions of many shapes in a row: memory stays flat, and no call is far slower than its like."""
    rng = np.random.default_rng(0)
    shapes = [
        (int(n), int(c), int(s), int(s), int(o), int(k))
        for n, c, s, o, k in zip(
            rng.integers(1, 5, 120),
            rng.integers(1, 65, 120),
            rng.integers(8, 40, 120),
            rng.integers(1, 65, 120),
            rng.choice([1, 3, 5], 120),
            strict=True,
        )
    ]

    calls = [
        partial(ann.conv2d, _normal(n, c, h, w), _weights(o, c, k, k), None, 1, k // 2)
        for n, c, h, w, o, k in shapes
    ]

    def seconds(call: Call) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def passed() -> list[float]:
        return [seconds(call) for call in calls]

    passed()
    before = _memory("VmRSS")
    in_a_row = list(zip(*(passed() for _ in range(rounds)), strict=True))
    grown = (_memory("VmRSS") - before) / 2**20
    ratios = [
        statistics.median(times) / statistics.median(seconds(call) for _ in range(rounds))
        for times, call in zip(in_a_row, calls, strict=True)
    ]
    yield Found("120 shapes in a row, growth of memory", grown, 16, False, "MiB")
    yield Found("120 shapes in a row, against the same again", max(ratios), 3, False, "times the time")


def convolution_memory(rounds: int) -> Iterator[Found]:
    """What a convolution needs at its peak beside its input and output."""
    for what, shape, out, kernel, options in (
        ("3x3", (8, 64, 112, 112), 64, 3, (1, 1)),
        ("3x3 wide", (2, 512, 64, 64), 512, 3, (1, 1)),
        ("1x1", (8, 256, 56, 56), 64, 1, (1, 0)),
        ("7x7/2", (8, 3, 224, 224), 64, 7, (2, 3)),
        ("5x5", (8, 64, 56, 56), 64, 5, (1, 2)),
    ):
        x, w = _normal(*shape), _weights(out, shape[1], kernel, kernel)
        size = x.nbytes + ann.conv2d(x, w, None, *options).nbytes
        backward = _pullback(ann.conv2d, x, w, None, *options)
        for kind, call in (("", lambda: ann.conv2d(x, w, None, *options)), (", gradients", backward)):  # noqa: B023
            _core.trim()
            before = _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            result = call()
            extra = (_memory("VmHWM") - before - size) / 2**20
            del result
            yield Found(f"conv2d {what}{kind}, beside input and output", max(extra, 0.0), 64, False, "MiB")


def _memory(name: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name + ":")))


CHECKS = (scaling, subnormals, narrow, random_shapes, convolution_memory)


def main() -> int:
    """Measure; return 1 if a bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [check.__name__ for check in CHECKS]
    parser.add_argument("--only", action="append", choices=names, help="only this one; repeatable")
    parser.add_argument("--rounds", type=int, default=11, help="interleaved rounds (%(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="DIR", help="where JSON goes")
    options = parser.parse_args()
    harness.keep_freed_memory()
    found = []
    for check in CHECKS:
        if options.only and check.__name__ not in options.only:
            continue
        for one in check(options.rounds):
            found.append(one)
            sign = ">=" if one.at_least else "<="
            verdict = "kept" if one.kept else "NOT KEPT"
            print(
                f"{one.what:50} {one.value:7.2f} {one.unit:26} {sign} {one.bound:<5.3g} {verdict}", flush=True
            )
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"cores": os.cpu_count(), "isa": _core.isa(), "found": [one._asdict() for one in found]}
    (options.out / "limits.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(one.kept for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
