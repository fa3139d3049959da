"""Build, test and measure on a GPU machine: ``python bench/gpu.py`` (see bench/README.md).

This process only keeps the time and the records. Whatever touches the GPU runs in processes of its
own, so that a crash or a hang costs a phase or a case, never what has been measured before.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import importlib.util
import json
import os
import platform
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_cases
import gpu_phases
import gpu_report
from gpu_phases import HERE, LOGS, ROOT, SITE, Budget, Phase

CASE_LIMIT = 45.0  # seconds until a case, or the measurement of the roofs, counts as hanging
START_LIMIT = 120.0  # seconds for a process to import the libraries
UNHEALTHY = 75  # status of a measuring process whose device answers nothing any more


# Cases


@dataclass
class Measurement:
    """What the measuring processes have said so far.

    Attributes
    ----------
    left : list of str
        The cases that have not run.
    on_step : callable
        Called behind every message.
    """

    left: list[str]
    on_step: Callable[[], None]
    roofs: dict[str, Any] | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def take(self, said: Mapping[str, Any]) -> None:
        """Take in a message of a process."""
        if "machine" in said:
            self.machine = dict(said["machine"])
        if "roofs" in said:
            self.roofs = dict(said["roofs"])
        if "case" in said:
            record = dict(said["case"])
            self.records.append(record)
            self.left.remove(record["name"])
        self.on_step()

    def lose(self, name: str, why: str) -> None:
        """Record that a case ended its process."""
        facts = next((c for c in gpu_cases.cases() if c.name == name), None)
        known = {key: getattr(facts, key) for key in ("group", "op", "dtype")} if facts else {}
        self.take({"case": {"name": name, **known, "failed": why}})


def _listen(stream: Any, said: queue.Queue[Any]) -> None:
    """Put the messages of a process into a queue, and None at its end; libraries may print in between."""
    for line in stream:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict):
            said.put(message)
    said.put(None)


def measure_once(
    command: Sequence[str], found: Measurement, seconds: float, left: Callable[[], float], **environment: str
) -> bool:
    """Start a measuring process and listen until it ends, hangs or the time is up; tell whether to go on.

    Parameters
    ----------
    seconds : float
        What a case may spend on timing.
    left : callable
        Returns the seconds that are left for all cases.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    job = {"cases": found.left, "roofs": found.roofs, "seconds": seconds}
    with (LOGS / "cases.log").open("a") as log:
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        said: queue.Queue[Any] = queue.Queue()
        listener = threading.Thread(target=_listen, args=(process.stdout, said), daemon=True)
        listener.start()
        current, deadline = "", time.monotonic() + START_LIMIT
        try:
            try:
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            except BrokenPipeError:
                pass  # it is dead already, which the end of its output tells too
            while True:
                until = min(deadline - time.monotonic(), left())
                try:
                    message = said.get(timeout=max(until, 0.0))
                except queue.Empty:
                    if left() <= 0:
                        return False
                    why = f"no answer within {CASE_LIMIT if current else START_LIMIT:.0f} s"
                    break
                if message is None:
                    code = process.wait()
                    if code == 0:
                        return False
                    why = f"the process ended with status {code}"
                    break
                if "start" in message:
                    current = message["start"]
                    deadline = time.monotonic() + CASE_LIMIT
                else:
                    found.take(message)
                    if "case" in message or "roofs" in message:
                        current = ""
                        # between cases it frees memory and, where it is broken, ends
                        deadline = time.monotonic() + CASE_LIMIT
        finally:
            gpu_phases.stop(process, 2.0)
            listener.join(5.0)
            if not listener.is_alive():  # else a process that cannot be ended holds the other end
                process.stdout.close()
    if current in found.left:
        found.lose(current, why)
        return bool(found.left)
    if process.returncode == UNHEALTHY and found.records:
        return bool(found.left)
    # It died outside of a case: at the start, or over the roofs. A second time it would again.
    last = " ".join(gpu_phases.tail((LOGS / "cases.log").read_text(errors="replace"), 4))
    found.trouble.append(f"{current or 'start'}: {why}: {last}")
    return len(found.trouble) < 2 and bool(found.left)


def measure(found: Measurement, budget: Budget, command: Sequence[str], site: Path | None) -> Phase:
    """Run all cases, in as many processes as it takes."""
    start, planned = time.monotonic(), len(found.left)
    (LOGS / "cases.log").unlink(missing_ok=True)
    # what checking and the start of a process take is not the timing's
    seconds = min(1.0, max(0.05, 0.5 * budget.left / max(planned, 1)))
    environment = {"PYTHONPATH": gpu_phases.paths(site), "PYTHONUNBUFFERED": "1"}
    while found.left and budget.left > 0:
        if not measure_once(command, found, seconds, lambda: budget.left, **environment):
            break
    ran = planned - len(found.left)
    failed = sum("failed" in record for record in found.records)
    detail = f"{ran} of {planned} cases, {failed} failed"
    if found.left and not found.trouble:
        detail += "; the time was up before the rest"
    status = "failed" if failed or found.trouble else "passed"
    took = round(time.monotonic() - start, 1)
    return {"status": status, "seconds": took, "detail": detail, "failures": found.trouble}


# The command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Build, test and measure arraynn on this machine's GPU, in minutes, without a network."
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, metavar="N", help="the whole run ends in this time (8)"
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="PATTERN",
        help="only cases whose name has this in it or matches it with * and ?; repeatable",
    )
    parser.add_argument("--skip-tests", action="store_true", help="neither tests nor compute-sanitizer")
    parser.add_argument("--skip-build", action="store_true", help="take what the last run built")
    parser.add_argument(
        "--output", type=Path, default=HERE / "results", metavar="DIR", help="where the files go"
    )
    parser.add_argument(
        "--emulate", action="store_true", help="run the same tests on the emulator, and measure nothing"
    )
    parser.add_argument("--list", action="store_true", help="print the cases' names and end")
    options = parser.parse_args(argv)
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {options.minutes}")
    return options


def chosen(patterns: Sequence[str] | None) -> list[str]:
    """Return the names of the cases that are asked for."""
    return [
        case.name
        for case in gpu_cases.cases()
        if not patterns or any(p in case.name or fnmatch.fnmatchcase(case.name, p) for p in patterns)
    ]


def tell(name: str, record: Phase) -> None:
    print(f"{name}: {record['status']} in {record['seconds']:.0f} s: {record['detail']}", flush=True)
    for failure in record["failures"]:
        print(f"  {failure}", flush=True)


def emulate() -> int:
    """Run the tests of the device on the emulator."""
    lacking = gpu_phases.missing(build=False, tests=True)
    if lacking:
        print("not there:\n  " + "\n  ".join(lacking), file=sys.stderr)
        return 2
    in_place = any((ROOT / "python" / "arraynn").glob("_core*.so"))
    path = gpu_phases.paths(ROOT / "python" if in_place else None)
    command = gpu_phases.test_command(None, 1)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Run the phases; return 1 if anything failed, 2 if there is nothing to run on."""
    options = parse(argv)
    budget = Budget(60 * options.minutes)
    names = chosen(options.case)
    if options.list:
        print("\n".join(names))
        return 0
    if options.emulate:
        return emulate()
    if not names:
        print("no case has such a name; --list shows them all", file=sys.stderr)
        return 2
    lacking = gpu_phases.missing(not options.skip_build, not options.skip_tests)
    if lacking:
        print("not there:\n  " + "\n  ".join(lacking), file=sys.stderr)
        return 2
    gpu = gpu_phases.query_gpu()
    if gpu is None:
        print("no CUDA GPU is there; --emulate runs the tests without one", file=sys.stderr)
        return 2
    return run_phases(options, names, gpu, budget)


def run_phases(options: argparse.Namespace, names: list[str], gpu: Mapping[str, str], budget: Budget) -> int:
    """Run the phases on a GPU, and write what is known behind each step."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {
        "system": platform.platform(),
        "versions": gpu_phases.versions(),
        "commit": gpu_phases.commit(),
        "date": date,
    }
    results: gpu_report.Results = {
        "machine": {**gpu, **facts},
        "minutes": options.minutes,
        "planned": len(names),
        "phases": {},
        "cases": [],
        "seconds": 0.0,
        "chart": False,
    }

    def save() -> Path:
        results["seconds"] = round(budget.spent, 1)
        return gpu_report.write(results, options.output)

    def finish(name: str, record: Phase) -> bool:
        results["phases"][name] = record
        tell(name, record)
        save()
        return bool(record["status"] == "passed")

    site: Path | None = SITE
    if options.skip_build:
        site = SITE if (SITE / "arraynn").is_dir() else None
        finish("build", gpu_phases.skipped("as asked"))
    built = options.skip_build or finish("build", gpu_phases.build(budget, gpu["capability"]))
    if options.skip_tests or not built:
        why = "as asked" if options.skip_tests else "nothing was built"
        for name in ("tests", "memcheck", "racecheck"):
            finish(name, gpu_phases.skipped(why))
    else:
        device = "cupy" if importlib.util.find_spec("cupy") else "torch"
        finish("tests", gpu_phases.tests(budget.limit("tests"), device, site))
        for tool in ("memcheck", "racecheck"):
            finish(tool, gpu_phases.sanitizer(budget, tool))
    if built:
        shown = 0

        def step() -> None:
            nonlocal shown
            for record in found.records[shown:]:
                print(
                    f"[{len(found.records)}/{len(names)} {budget.spent:4.0f} s] {gpu_report.line(record)}",
                    flush=True,
                )
            shown = len(found.records)
            results["cases"] = found.records
            results["machine"] |= found.machine
            if found.roofs:
                results["roofs"] = found.roofs
            save()

        found = Measurement(list(names), step)
        finish("cases", measure(found, budget, [sys.executable, str(HERE / "gpu_measure.py")], site))
    else:
        finish("cases", gpu_phases.skipped("nothing was built"))
    try:
        results["chart"] = gpu_report.draw(results, options.output) is not None
    except Exception as error:  # the figures matter more than their picture
        print(f"chart not drawn: {error!r}", file=sys.stderr)
    path = save()
    print(gpu_report.summary(results))
    print(f"{path}, and JSON{' and a chart' if results['chart'] else ''} beside it; {budget.spent:.0f} s")
    return 1 if gpu_report.failures(results) else 0


if __name__ == "__main__":
    sys.exit(main())
