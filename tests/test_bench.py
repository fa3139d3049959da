"""The benchmark: its statistics, its roof, its files, and that every engine computes the same."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

harness = importlib.import_module("harness")
report = importlib.import_module("report")
run = importlib.import_module("run")

CASES = [case for family in run.FAMILIES for case in importlib.import_module(f"bench_{family}").cases()]
SMALL = [case for case in CASES if case.flops <= 1.2e9 and case.elements <= 8e6]
SHORT = harness.Settings(rounds=3, fewest_rounds=3, block=0.0, warm=0.0, budget=0.0)
ROOF = harness.Roof(gflops=100.0, copy=((1e6, 50.0), (1e9, 10.0)))


def _case(call: Callable[[np.ndarray], Any], peers: dict[str, Callable[[np.ndarray], Any]]) -> Any:
    """Return a case of one array, whose engines apply these functions to it."""

    def engine(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Callable[[], Any]]:
        return lambda x: lambda: function(x)

    return harness.Case(
        name="double",
        family="toy",
        group="toy",
        op="double",
        make=lambda rng: rng.normal(8),
        ours=engine(call),
        peers={name: engine(function) for name, function in peers.items()},
        flops=8,
        elements=16,
        training=True,
    )


def test_ratio_is_taken_within_a_round():
    # the machine slows down tenfold in the last round, for both alike
    ratio = harness.median_ratio([2.0, 2.2, 20.0], [1.0, 1.0, 10.0])
    assert ratio == {"ratio": 2.0, "ratio_q1": 2.0, "ratio_q3": pytest.approx(2.1)}


def test_timing_is_median_and_spread_in_milliseconds():
    assert harness.timing([0.001, 0.002, 0.003]) == {"ms": pytest.approx(2), "iqr_ms": pytest.approx(1)}
    assert harness.timing([0.004]) == {"ms": pytest.approx(4), "iqr_ms": 0}


def test_geometric_mean():
    assert harness.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    assert math.isnan(harness.geometric_mean([]))


def test_floor_is_the_larger_of_arithmetic_and_memory():
    assert ROOF.floor(flops=1e9, traffic=1e6) == (pytest.approx(0.01), "fma")
    assert ROOF.floor(flops=0, traffic=1e6) == (pytest.approx(2e-5), "copy")
    assert ROOF.floor(flops=0, traffic=1e8) == (pytest.approx(1e-2), "copy")
    assert ROOF.bandwidth(1e12) == 10.0


def test_measured_roof_is_positive_and_ascending_in_size():
    core = importlib.import_module("arraynn")._core
    roof = harness.measure_roof(core, "float32", 0.01)
    assert roof.gflops > 0
    assert all(speed > 0 for _, speed in roof.copy)
    assert [size for size, _ in roof.copy] == sorted(size for size, _ in roof.copy)


def test_the_higher_roof_counts():
    low = harness.Roof(gflops=90.0, copy=((1e6, 60.0), (1e9, 8.0)))
    assert ROOF.higher(low) == harness.Roof(gflops=100.0, copy=((1e6, 60.0), (1e9, 10.0)))
    record = {"flops": 1e9, "bytes": 1e6, "ms": 20.0}
    ROOF.judge(record)
    assert record["limit"] == "fma"
    assert record["roof_percent"] == pytest.approx(50)


def test_difference():
    x = np.linspace(1, 2, 5)
    assert harness.difference([x], [x + 1e-6], 1e-4) == ""
    assert "differs" in harness.difference([x], [x + 1e-2], 1e-4)
    assert "differs" in harness.difference([x], [np.where(x > 1.5, np.nan, x)], 1e-4)
    assert "shape" in harness.difference([x], [x[:4]], 1e-4)
    assert "2 arrays" in harness.difference([x], [x, x], 1e-4)


def test_order_of_engines_rotates():
    log: list[str] = []
    calls = {name: lambda name=name: log.append(name) for name in "abc"}
    times = harness.interleave(calls, SHORT)
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}
    # a block is one warm-up and one timed call; the first three blocks find the number of calls
    assert "".join(log[::2]) == "abc" + "abc" + "bca" + "cab"


def test_record_of_a_case():
    record = harness.run_case(_case(lambda x: x * 2, {"numpy": lambda x: x + x}), "float32", ROOF, SHORT)
    assert record["rounds"] == 3
    assert record["bytes"] == 64
    assert record["best_peer"] == "numpy"
    assert record["ratio_torch"] is None
    assert record["ratio_best"] == record["peers"]["numpy"]["ratio"] > 0
    assert record["roof_percent"] == pytest.approx(100 * record["floor_ms"] / record["ms"])


def test_missing_peer_is_named():
    record = harness.run_case(_case(lambda x: x, {"no_such_package": lambda x: x}), "float32", ROOF, SHORT)
    assert record["missing"] == {"no_such_package": "not installed"}
    assert record["best_peer"] is None


def test_mismatch_and_error_fail_the_run_and_the_rest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "keep_freed_memory", lambda: "as it was")
    monkeypatch.setattr(harness, "measure_roof", lambda *_: ROOF)
    # leave the threads of the test session alone
    monkeypatch.setattr(report.peers, "set_num_threads", lambda _: None)
    monkeypatch.setattr(report.ann, "set_num_threads", lambda _: None)

    def broken(x: np.ndarray) -> np.ndarray:
        raise ValueError("broken")

    good = _case(lambda x: x * 2, {"numpy": lambda x: x + x})
    cases = [
        replace(_case(lambda x: x * 2, {"numpy": lambda x: x * 3}), name="wrong"),
        replace(_case(broken, {}), name="broken"),
        good,
    ]
    results = report.run(cases, "float32", 1, tmp_path, SHORT)
    assert [record["name"] for record in report.failures(results)] == ["wrong", "broken"]
    assert "numpy" in results["cases"][0]["mismatch"]
    assert "broken" in results["cases"][1]["error"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert [record["name"] for record in written["cases"]] == ["wrong", "broken", "double"]
    assert written["machine"]["threads"] == 1
    text = report.summary(results)
    assert "wrong: MISMATCH" in text
    assert "all cases" in text


def test_cases_are_well_formed():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert {case.family for case in CASES} == set(run.FAMILIES)
    for case in CASES:
        assert case.elements > 0, case.name
        assert case.flops >= 0, case.name
        assert "torch" in case.peers, case.name
    # the large cases are not run here, so every op needs a small one
    assert {case.op for case in SMALL} == {case.op for case in CASES}


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_engines_agree(case):
    with harness.mode(case):
        built, missing = harness.engines(case, "float32")
        assert set(built) | set(missing) == {harness.OURS, *case.peers}
        assert harness.check(case, built, "float32") == {}


def test_command_writes_results_and_charts(tmp_path):
    command = [sys.executable, str(BENCH / "run.py"), "--quick", "--threads", "1", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--case", "relu overhead"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [record["name"] for record in results["cases"]] == ["relu overhead 1x1x4x4"]
    assert results["machine"]["peak_gflops"] > 0
    assert (tmp_path / "activation.png").read_bytes().startswith(b"\x89PNG")
    assert "tiny calls" in done.stdout


def test_unknown_case_and_threads_are_refused(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))  # main sets the threads of what it would load
    assert run.main(["--case", "no such case"]) == 1
    with pytest.raises(SystemExit):
        run.parse(["--threads", "0"])
