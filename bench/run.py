"""Run the benchmark: ``python bench/run.py`` (see bench/README.md)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
FAMILIES = (
    "conv",
    "pool",
    "linear",
    "rnn",
    "cross_entropy",
    "loss",
    "activation",
    "dropout",
    "row_norm",
    "channel_norm",
    "attention",
    "embedding",
    "optimizer",
    "network",
)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Time arraynn beside PyTorch, ONNX Runtime, XLA, NumPy and SciPy."
    )
    parser.add_argument(
        "--case", action="append", metavar="SUBSTRING", help="only cases whose name has it; repeatable"
    )
    parser.add_argument("--family", action="append", choices=FAMILIES, help="only this family; repeatable")
    parser.add_argument(
        "--threads", type=int, default=min(2, _usable_cores()), help="threads of every engine"
    )
    parser.add_argument("--isa", metavar="NAME", help="force our instruction set (baseline, avx2, avx512)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "float16", "bfloat16"))
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", metavar="DIR", help="where JSON and charts go"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few short rounds: checks the cases, measures roughly"
    )
    parser.add_argument("--list", action="store_true", help="print the cases' names and end")
    options = parser.parse_args(argv)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases that are asked for; return 1 if any engine disagreed or failed."""
    options = parse(argv)
    # libraries read these when they are loaded
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARRAYNN_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    os.environ["NPROC"] = str(options.threads)  # the same of XLA
    if options.isa:
        os.environ["ARRAYNN_ISA"] = options.isa
    harness, report = import_module("harness"), import_module("report")
    cases = [
        case
        for family in FAMILIES
        if not options.family or family in options.family
        for case in import_module(f"bench_{family}").cases()
        if not options.case or any(part in case.name for part in options.case)
    ]
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not cases:
        print("no case has such a name; --list shows them all", file=sys.stderr)
        return 1
    settings = harness.QUICK if options.quick else harness.Settings()
    results = report.run(cases, options.dtype, options.threads, options.out, settings)
    print(report.summary(results))
    if not import_module("plot").draw(results, options.out):
        print("charts not drawn: matplotlib is not installed", file=sys.stderr)
    return 1 if report.failures(results) else 0


if __name__ == "__main__":
    sys.exit(main())
