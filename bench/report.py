"""Runs cases one after the other, keeps their records in a JSON file, and sums them up as text."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import io
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import arraynn as ann
import harness
import peers

Results = dict[str, Any]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("arraynn", "numpy", "scipy", "torch", "onnxruntime", "jax", "jaxlib"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _configuration() -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ann.show_config()
    return printed.getvalue()


def roof_of_machine(roof: harness.Roof) -> Results:
    """Return the speeds that cases are held against."""
    return {"peak_gflops": roof.gflops, "copy_gb_per_s": {int(size): speed for size, speed in roof.copy}}


def describe_machine(dtype: str, threads: int, roof: harness.Roof, allocator: str) -> Results:
    """Return what a figure depends on besides the code."""
    return {
        "cpu": _cpu_model(),
        "system": platform.platform(),
        "threads": threads,
        "isa": ann._core.isa(),
        "config": _configuration(),
        "dtype": dtype,
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
        "allocator": allocator,
        **roof_of_machine(roof),
    }


def write(results: Results, folder: Path) -> None:
    """Replace ``results.json`` in `folder` in one step, so that it is whole at any time."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "results.json.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(folder / "results.json")


def run(
    cases: Sequence[harness.Case], dtype: str, threads: int, folder: Path, settings: harness.Settings
) -> Results:
    """Measure the roof, before and behind, and all `cases`; write the JSON behind each of them."""
    allocator = harness.keep_freed_memory()
    peers.set_num_threads(threads)
    ann.set_num_threads(threads)
    if os.getloadavg()[0] > 0.5:
        print(f"the machine is busy (load {os.getloadavg()[0]:.1f}): figures will be off", file=sys.stderr)
    start = time.perf_counter()
    roof = harness.measure_roof(ann._core, dtype, 0.5)
    results: Results = {"machine": describe_machine(dtype, threads, roof, allocator), "cases": []}
    for number, case in enumerate(cases, 1):
        try:
            record = harness.run_case(case, dtype, roof, settings)
        except Exception as error:  # one broken case must not cost the others; it fails the run
            record = {"name": case.name, "family": case.family, "group": case.group, "error": repr(error)}
        results["cases"].append(record)
        results["seconds"] = round(time.perf_counter() - start, 1)
        write(results, folder)
        print(
            f"[{number}/{len(cases)} {results['seconds']:5.0f} s] {line(record)}", file=sys.stderr, flush=True
        )
    raise_roof(results, roof.higher(harness.measure_roof(ann._core, dtype, 0.5)))
    write(results, folder)
    return results


def raise_roof(results: Results, roof: harness.Roof) -> None:
    """Hold all cases against another roof."""
    results["machine"] |= roof_of_machine(roof)
    for record in results["cases"]:
        if "ms" in record:
            roof.judge(record)


# Text


def failures(results: Results) -> list[Results]:
    """Return the records of cases that failed or where a peer's result is not ours."""
    return [record for record in results["cases"] if "ms" not in record]


def _duration(ms: float) -> str:
    return f"{ms * 1e3:.2f} us" if ms < 0.1 else f"{ms:.3f} ms" if ms < 10 else f"{ms:.1f} ms"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None or math.isnan(ratio) else f"{ratio:.2f}x"


def line(record: Results) -> str:
    """Return one case as a line of text."""
    if "error" in record:
        return f"{record['name']}: FAILED {record['error']}"
    if "mismatch" in record:
        return f"{record['name']}: MISMATCH " + "; ".join(
            f"{peer}: {what}" for peer, what in record["mismatch"].items()
        )
    text = f"{record['name']}: {_duration(record['ms'])}"
    if not record["overhead"]:
        text += f", {record['roof_percent']:.0f}% of {record['limit']}"
    return "; ".join([text, *(f"{peer} {_times(data['ratio'])}" for peer, data in record["peers"].items())])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def joined(cells: Sequence[str]) -> str:
        first, *rest = (
            f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([joined(lines[0]), "-" * len(joined(lines[0])), *map(joined, lines[1:])])


def _better_torch(record: Results) -> float | None:
    """Return the ratio to PyTorch in the faster of its memory formats and modes."""
    ratios = [peer["ratio"] for name, peer in record["peers"].items() if name.split()[0] == "torch"]
    return min(ratios, default=None)


def _mean_row(name: str, records: Sequence[Results]) -> tuple[str, ...]:
    torch = [r["ratio_torch"] for r in records if r["ratio_torch"] is not None]
    better = [ratio for r in records if (ratio := _better_torch(r)) is not None]
    best = [r["ratio_best"] for r in records if r["ratio_best"] is not None]
    roof = [r["roof_percent"] for r in records if not r["overhead"]]
    slower = sum(ratio < 1 for ratio in best)
    return (
        name,
        str(len(records)),
        _times(harness.geometric_mean(torch)),
        _times(harness.geometric_mean(better)),
        _times(harness.geometric_mean(best)),
        _times(min(best, default=None)),
        str(slower),
        f"{harness.geometric_mean(roof):.0f}%" if roof else "-",
    )


def _mean_rows(records: Sequence[Results]) -> list[tuple[str, ...]]:
    def of(key: str) -> Callable[[str], list[Results]]:
        return lambda value: [record for record in records if record[key] == value]

    rows = []
    for family in dict.fromkeys(record["family"] for record in records):
        work = [record for record in of("family")(family) if not record["overhead"]]
        groups = dict.fromkeys(record["group"] for record in work)
        if work:
            rows.append(_mean_row(family, work))
        if len(groups) > 1:
            rows += [_mean_row(f"  {group}", of("group")(group)) for group in groups]
    tiny = [record for record in records if record["overhead"]]
    if tiny:
        rows.append(_mean_row("overhead", tiny))
    return [*rows, _mean_row("all cases", records)]


def summary(results: Results) -> str:
    """Return the cases, their means by family and group, the overhead of a call, and what failed."""
    machine, good = results["machine"], [record for record in results["cases"] if "ms" in record]
    *_, copy = machine["copy_gb_per_s"].values()
    parts = [
        f"{machine['cpu']}, {machine['threads']} threads, {machine['isa']}, {machine['dtype']}: "
        f"{machine['peak_gflops']:.0f} GFLOP/s FMA peak, {copy:.0f} GB/s copy"
    ]
    if good:
        header = ("case", "arraynn", "vs torch", "vs best", "best peer", "of roof")
        rows = [
            (
                r["name"],
                _duration(r["ms"]),
                _times(r["ratio_torch"]),
                _times(r["ratio_best"]),
                r["best_peer"] or "-",
                "-" if r["overhead"] else f"{r['roof_percent']:.0f}% {r['limit']}",
            )
            for r in good
        ]
        parts.append(_table(header, rows))
        means = (
            "geometric means",
            "cases",
            "vs torch",
            "at its best",
            "vs best",
            "worst",
            "slower",
            "of roof",
        )
        parts.append(_table(means, _mean_rows(good)))
    bound = harness.OVERHEAD_BOUND_US
    tiny = [(r["name"], r["ms"] * 1e3) for r in good if r["overhead"]]
    if tiny:
        verdicts = [(name, f"{us:.2f} us", "within" if us <= bound else "OVER") for name, us in tiny]
        parts.append(_table(("tiny calls", "per call", f"{bound:g} us"), verdicts))
    parts += [line(record) for record in failures(results)]
    return "\n\n".join(parts)
