"""The GPU benchmark, as far as it can be checked without a GPU: its cases, its time, its records, its files.

The cases' calls run here on the CPU, small, our own on NumPy's view of the tensors' memory.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import arraynn as ann
import pytest
import torch
from gpu_stand_ins import (
    BENCH,
    CASES,
    ROOFS,
    TINY,
    Arraynn,
    Host,
    gpu,
    gpu_cases,
    gpu_measure,
    gpu_phases,
    gpu_report,
)


@pytest.fixture
def tools() -> Any:
    return gpu_cases.ops.Tools(torch, Arraynn(), "cpu")


# The cases

PRODUCTS = (
    "conv2d",
    "conv3d",
    "conv_transpose2d",
    "linear",
    "lstm",
    "gru",
    "rnn",
    "lstm_cell",
    "gru_cell",
    "rnn_cell",
    "linear_cross_entropy",
    "scaled_dot_product_attention",
)


def test_cases_are_well_formed():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in [*CASES, *TINY]:
        assert case.bytes > 0, case.name
        assert case.flops >= 0, case.name
        assert case.tolerance > 0, case.name
        assert next(iter(case.peers)).startswith("torch"), case.name
        assert (case.flops > 0) == (case.op in PRODUCTS)
        assert case.precision in ROOFS["matrix_tflops"]
    assert {case.group for case in CASES} == set(gpu_cases.GROUPS)
    assert {case.op for case in TINY} == {case.op for case in CASES}


def test_every_op_is_measured():
    # planes of one row, and what the kernels of two axes do
    others = {op for op in ann.reference.__all__ if op.endswith("1d")} | {"conv_transpose3d"}
    assert {case.op for case in CASES} == set(ann.reference.__all__) - others


def test_groups_come_in_turn():
    first = [case.group for case in CASES[: len(gpu_cases.GROUPS)]]
    assert first == list(gpu_cases.GROUPS)


def test_points_are_over_groups_of_one_target():
    for names in gpu_cases.POINTS.values():
        assert len({gpu_cases.GROUPS[name].ratio for name in names}) == 1
        assert gpu_cases.GROUPS[names[0]].ratio is not None


def test_flops_and_bytes_of_a_convolution_and_a_layer():
    case = next(c for c in CASES if c.name == "conv2d forward 7x7/2 64x3x224x224->64 fp16 channels-last")
    assert case.flops == 2 * 64 * 64 * 112 * 112 * 3 * 49
    assert case.bytes == 2 * (64 * 3 * 224 * 224 + 64 * 3 * 49 + 64 * 64 * 112 * 112)
    case = next(c for c in CASES if c.name == "lstm T64 N64 H512 fp32")
    assert case.flops == 2 * 64 * 64 * 4 * 512 * 1024
    assert len({(layer, which) for layer in gpu_cases.RESNET50 for which in gpu_cases.PASSES}) == 69


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # of the CPU that stands in for the GPU
@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_calls_agree(case, tools):
    with gpu_measure.products(case, tools):
        inputs = case.make(tools)
        wrong, left_out = gpu_measure.check(case, tools, Host(), inputs)
        assert wrong == ""
        assert set(left_out) <= {"cupy", "triton"}
        if not case.in_place:  # the stand-in computes when it captures, which a device does not
            assert gpu_measure.captured(case, tools, Host(), case.ours, inputs) == ""


def test_wrong_dropout_and_cross_entropy_are_seen(tools):
    losses = importlib.import_module("gpu_ops.losses")
    x = torch.randn(64, 64)
    y = torch.nn.functional.dropout(x, 0.1)
    assert losses._dropped(tools, x, y) == ""
    assert "kept" in losses._dropped(tools, x, x)
    assert "off" in losses._dropped(tools, x, y * 1.1)
    case = next(c for c in TINY if c.name == "cross_entropy training 7x131 fp32")
    inputs = case.make(tools)
    loss, gradient = case.ours(tools, inputs)()
    small = gradient.abs() < gradient.abs().median()
    assert case.verify(tools, inputs, (loss, gradient)) == ""
    # far below what the comparison by the root mean square sees
    assert "float64" in case.verify(tools, inputs, (loss, torch.where(small, 0.0, gradient)))


# Checks and timing


def _double(ours: Callable[[torch.Tensor], Any], peer: Callable[[torch.Tensor], Any], **changed: Any) -> Any:
    """Return a case of one tensor that both engines should double."""
    case = replace(
        TINY[0],
        name="double",
        make=lambda t: torch.linspace(1, 2, 64),
        ours=lambda t, x: lambda: ours(x),
        peers={"torch": lambda t, x: lambda: peer(x)},
        bytes=512.0,
    )
    return replace(case, **changed)


SHORT = gpu_measure.Settings(rounds=3, fewest_rounds=3, block=0.0, budget=0.0, most_sets=4)


def test_record_of_a_case(tools):
    case = _double(lambda x: x * 2, lambda x: x + x, graph=True)
    record = gpu_measure.run_case(case, tools, Host(), ROOFS, SHORT)
    assert "failed" not in record
    assert record["rounds"] == 3
    assert record["sets"] == 4  # no more, though it takes 64 to fill twice the cache
    assert set(record["peers"]) == {"torch", "torch graph"}
    assert record["ratio"] == record["ratio_best"] > 0
    assert record["limit"] == "copy"
    assert record["floor_ms"] == pytest.approx(512 / 3000e9 * 1e3)
    assert record["percent"] == pytest.approx(100 * record["floor_ms"] / record["ms"])
    json.dumps(record)


def test_wrong_result_is_not_timed(tools):
    record = gpu_measure.run_case(_double(lambda x: x * 3, lambda x: x + x), tools, Host(), ROOFS, SHORT)
    assert "differs from float64" in record["failed"]
    assert "ms" not in record


def test_float64_decides_between_us_and_a_rounding_peer(tools):
    def rounds(x: torch.Tensor) -> torch.Tensor:
        return (x * 2).to(torch.bfloat16).to(x.dtype) if x.dtype == torch.float32 else x * 2

    wrong, left_out = gpu_measure.check(
        _double(lambda x: x * 2, rounds), tools, Host(), torch.linspace(1, 2, 64)
    )
    assert wrong == ""
    assert "ours agrees with float64" in left_out["note"]


def test_element_that_is_not_written_is_seen(tools):
    result = torch.empty(64)

    def forgets(x: torch.Tensor) -> torch.Tensor:
        result[:63] = x[:63] * 2
        return result

    case = _double(forgets, lambda x: x * 2)
    forgets(torch.linspace(1, 2, 64))
    result[63] = 4.0  # what was there happens to be right
    assert gpu_measure.check(case, tools, Host(), torch.linspace(1, 2, 64))[0]


def test_peer_that_fails_is_left_out_but_not_pytorch(tools):
    def breaks(x: torch.Tensor) -> None:
        raise RuntimeError("broken")

    case = _double(lambda x: x * 2, lambda x: x * 2)
    other = replace(case, peers={**case.peers, "cupy": lambda t, x: lambda: breaks(x)})
    record = gpu_measure.run_case(other, tools, Host(), ROOFS, SHORT)
    assert record["left_out"] == {"cupy": "RuntimeError: broken"}
    with pytest.raises(RuntimeError, match="broken"):
        gpu_measure.run_case(_double(lambda x: x, breaks), tools, Host(), ROOFS, SHORT)


def test_case_that_needs_too_much_memory_is_skipped(tools):
    record = gpu_measure.run_case(_double(lambda x: x, lambda x: x, bytes=1e12), tools, Host(), ROOFS, SHORT)
    assert "memory" in record["skipped"]


def test_order_of_engines_rotates():
    log: list[str] = []
    engines = {name: gpu_measure.Engine(lambda n, name=name: log.append(name)) for name in "abc"}
    times = gpu_measure.interleave(engines, Host(), SHORT)
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(log[9:]) == "abc" + "bca" + "cab"


def test_sets_are_rotated():
    log: list[int] = []
    engine = gpu_measure._eager([lambda i=i: log.append(i) for i in range(3)])
    engine.run(2)
    engine.run(2)
    assert log == [0, 1, 2, 0]


def test_faster_modes_are_compared():
    times = {
        "arraynn": [2e-3] * 3,
        "arraynn graph": [1e-3] * 3,
        "torch": [5e-3] * 3,
        "torch graph": [3e-3] * 3,
        "cupy": [1.5e-3] * 3,
    }
    case = next(c for c in CASES if c.group == "linear bf16")
    record = gpu_measure.summarise(case, times, ROOFS)
    assert (record["mode"], record["torch"], record["ratio"]) == ("graph", "torch graph", pytest.approx(3))
    assert (record["best_peer"], record["ratio_best"]) == ("cupy", pytest.approx(1.5))
    assert record["limit"] == "matrix"
    assert record["floor_ms"] == pytest.approx(1e3 * case.flops / 800e12)


# The time and the processes


def test_budget():
    now = [100.0]
    budget = gpu_phases.Budget(480.0, lambda: now[0])
    assert budget.limit("build") == pytest.approx(480 * gpu_phases.SHARES["build"])
    now[0] += 400
    assert budget.left == pytest.approx(80 - gpu_phases.RESERVE)
    assert budget.limit("tests") == budget.limit("cases") == budget.left
    now[0] += 100
    assert budget.limit("cases") == budget.left == 0
    # a fifth of the time is for the cases whatever the others take
    assert sum(share for name, share in gpu_phases.SHARES.items() if name != "cases") < 0.8


def test_command_is_ended_when_its_time_is_up(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_phases, "LOGS", tmp_path)
    script = "import time; print('begun', flush=True); time.sleep(60)"
    outcome = gpu_phases.run([sys.executable, "-c", script], "sleeps", 1.0)
    assert outcome.code is None
    assert outcome.seconds < 30
    assert "begun" in outcome.text
    assert gpu_phases.phase(outcome, "")["status"] == "out of time"
    assert gpu_phases.run([sys.executable, "-c", "import sys; sys.exit(3)"], "ends", 30.0).code == 3


_WORKER = """
import json, os, sys, time
job = json.load(sys.stdin)
say = lambda **what: print(json.dumps(what), flush=True)
print("a library greets")
say(machine={"multiprocessors": 1})
if job["roofs"] is None:
    say(start="roofs")
    say(roofs=ROOFS)
for name in job["cases"]:
    say(start=name)
    if name == "crashes":
        os._exit(11)
    if name == "hangs":
        time.sleep(60)
    say(case={"name": name, "group": "linear fp32", "seconds": job["seconds"]})
    if name == "poisons":
        sys.exit(75)
"""


def test_measuring_goes_on_behind_a_crash_and_a_hang(tmp_path, monkeypatch):
    for module in (gpu, gpu_phases):
        monkeypatch.setattr(module, "LOGS", tmp_path)
    monkeypatch.setattr(gpu, "CASE_LIMIT", 2.0)
    steps: list[int] = []
    found = gpu.Measurement(["a", "crashes", "b", "hangs", "poisons", "c"], lambda: steps.append(1))
    command = [sys.executable, "-c", f"ROOFS = {ROOFS!r}\n{_WORKER}"]
    record = gpu.measure(found, gpu_phases.Budget(300.0), command, None)
    assert [r["name"] for r in found.records] == ["a", "crashes", "b", "hangs", "poisons", "c"]
    assert [r["name"] for r in found.records if "failed" in r] == ["crashes", "hangs"]
    assert "status 11" in found.records[1]["failed"]
    assert "no answer" in found.records[3]["failed"]
    assert found.roofs == ROOFS
    assert found.left == []
    assert record["status"] == "failed"
    assert record["detail"] == "6 of 6 cases, 2 failed"
    assert len(steps) >= len(found.records)


def test_measuring_gives_up_where_nothing_starts(tmp_path, monkeypatch):
    for module in (gpu, gpu_phases):
        monkeypatch.setattr(module, "LOGS", tmp_path)
    found = gpu.Measurement(["a"], lambda: None)
    command = [sys.executable, "-c", "raise SystemExit('no module named this')"]
    record = gpu.measure(found, gpu_phases.Budget(300.0), command, None)
    assert record["status"] == "failed"
    assert len(record["failures"]) == 2
    assert "no module named this" in record["failures"][0]


def test_measuring_ends_with_the_time(tmp_path, monkeypatch):
    for module in (gpu, gpu_phases):
        monkeypatch.setattr(module, "LOGS", tmp_path)
    found = gpu.Measurement(["a", "hangs", "b"], lambda: None)
    command = [sys.executable, "-c", f"ROOFS = {ROOFS!r}\n{_WORKER}"]
    record = gpu.measure(found, gpu_phases.Budget(gpu_phases.RESERVE + 2.0), command, None)
    assert [r["name"] for r in found.records] == ["a"]
    assert record["status"] == "passed"
    assert record["detail"] == "1 of 3 cases, 0 failed; the time was up before the rest"


def test_measuring_process_says_what_it_measures(tools, monkeypatch, capsys):
    names = ["relu 64x1024 fp32", "cross_entropy training 128x1000 fp32", "lstm_cell N32 H256 fp32", "broken"]
    broken = replace(TINY[0], name="broken", make=lambda t: t.no_such_thing)
    chosen = [case for case in CASES if case.name in names] + [broken]
    monkeypatch.setattr(gpu_measure, "_tools", lambda: (tools, Host()))
    monkeypatch.setattr(gpu_measure, "_machine", lambda torch, cupy: {"multiprocessors": 1})
    monkeypatch.setattr(gpu_measure, "measure_roofs", lambda torch, device: ROOFS)
    monkeypatch.setattr(gpu_measure.gc, "freeze", lambda: None)
    monkeypatch.setattr(gpu_cases, "cases", lambda: chosen)
    assert gpu_measure.serve({"roofs": None, "cases": names, "seconds": 0.0}) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [m["start"] for m in said if "start" in m] == ["roofs", *names]
    *good, bad = [m["case"] for m in said if "case" in m]
    assert [record["name"] for record in good] == names[:3]
    assert all(record["ratio"] > 0 and "failed" not in record for record in good)
    assert "no_such_thing" in bad["failed"]


def test_run_writes_its_files_and_fails_with_its_tests(tmp_path, monkeypatch, capsys):
    def phase(status: str, *failures: str) -> dict[str, Any]:
        return {"status": status, "seconds": 1.0, "detail": "", "failures": list(failures)}

    def measure(found: Any, *_: Any) -> dict[str, Any]:
        found.take({"roofs": ROOFS})
        for record in _results()["cases"][:1]:
            found.take({"case": record})
        return phase("passed")

    monkeypatch.setattr(gpu_phases, "missing", lambda *_: [])
    monkeypatch.setattr(
        gpu_phases, "query_gpu", lambda: {"name": "Toy GPU", "driver": "1", "capability": "9.0"}
    )
    monkeypatch.setattr(gpu_phases, "build", lambda *_: phase("passed"))
    monkeypatch.setattr(gpu_phases, "sanitizer", lambda *_: phase("skipped"))
    monkeypatch.setattr(gpu_phases, "tests", lambda *_: phase("failed", "tests/test_pool.py::test_a"))
    monkeypatch.setattr(gpu, "measure", measure)
    command = ["--output", str(tmp_path), "--case", CASES[0].name]
    assert gpu.main(command) == 1
    assert "test_pool.py::test_a" in capsys.readouterr().out
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".png"]
    (written,) = tmp_path.glob("gpu-toy-gpu-*.json")
    results = json.loads(written.read_text())
    assert list(results["phases"]) == ["build", "tests", "memcheck", "racecheck", "cases"]
    assert results["cases"][0]["name"] == CASES[0].name
    assert gpu.main([*command, "--skip-tests"]) == 0
    monkeypatch.setattr(gpu_phases, "build", lambda *_: phase("failed"))
    assert gpu.main(command) == 1
    monkeypatch.setattr(gpu_phases, "query_gpu", lambda: None)
    assert gpu.main(command) == 2


# What it reads and needs


def test_architecture_and_slug():
    assert gpu_phases.architecture("9.0") == "90a-real"
    assert gpu_phases.architecture("8.6") == "86-real"
    assert gpu_phases.architecture("12.0") == "120-real"
    assert gpu_report.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert gpu_report.slug("GeForce RTX 4090 (Laptop)") == "geforce-rtx-4090-laptop"


def test_pytest_output_is_read():
    text = (
        "tests/test_pool.py::test_a[cuda] PASSED [ 10%]\n"
        "[gw1] [ 20%] FAILED tests/test_pool.py::test_b[cuda] \n"
        "FAILED tests/test_pool.py::test_b[cuda] - AssertionError: out\n"
        "===== 1 failed, 1 passed, 3 deselected, 1 error in 2.50s =====\n"
    )
    counts, failed = gpu_phases.read_tests(text)
    assert counts == {"failed": 1, "passed": 1, "error": 1}
    assert failed == ["tests/test_pool.py::test_b[cuda] - AssertionError: out"]
    counts, failed = gpu_phases.read_tests("".join(text.splitlines(keepends=True)[:2]))
    assert counts == {"failed": 1, "passed": 1}
    assert failed == ["tests/test_pool.py::test_b[cuda]"]
    assert gpu_phases.read_tests("")[0] == {}


def test_missing_package_is_named(monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        gpu_phases.importlib.util, "find_spec", lambda name: None if name == "hypothesis" else there(name)
    )
    lacking = gpu_phases.missing(build=False, tests=True)
    assert len(lacking) == 1
    assert "hypothesis" in lacking[0]
    assert "hypothesis-*.whl" in lacking[0]
    assert gpu_phases.imported("ml_dtypes", ["python/arraynn"])
    assert not gpu_phases.imported("no_such_module", ["python/arraynn"])


def test_test_command_names_the_device():
    command = gpu_phases.test_command("torch", 4)
    assert command[command.index("--device") + 1] == "torch"
    assert command[command.index("-n") + 1] == "4"
    emulated = gpu_phases.test_command(None, 1)
    assert "--device" not in emulated
    files = {f"tests/{path.name}" for path in (BENCH.parent / "tests").glob("test_*.py")}
    listed = [part for part in emulated if part.startswith("tests/")]
    assert listed == [part for part in command if part.startswith("tests/")]
    assert set(listed) <= files


def test_cases_are_chosen_by_name(capsys):
    assert gpu.chosen(None) == [case.name for case in CASES]
    assert all("lstm" in name for name in gpu.chosen(["lstm"]))
    assert gpu.chosen(["relu * fp32", "nothing"])
    assert gpu.main(["--list", "--case", "gru training"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(gpu.chosen(["gru training"]))
    assert gpu.main(["--case", "no such case"]) == 2
    with pytest.raises(SystemExit):
        gpu.parse(["--minutes", "0"])


# The report


def _results() -> dict[str, Any]:
    """Return the results of a run in which one case of every group was measured, and some went wrong."""
    cases = []
    for number, case in enumerate(CASES[: len(gpu_cases.GROUPS)]):
        times = {"arraynn": [1e-3] * 5, "torch": [1e-3 * (0.8 + 0.1 * number)] * 5}
        record = gpu_measure.describe(case) | {"left_out": {"cupy": "no bfloat16"}}
        cases.append(record | gpu_measure.summarise(case, times, ROOFS))
    name = CASES[30].name
    cases.append({"name": name, "group": CASES[30].group, "failed": "wrong result: a | b"})
    cases.append(
        {"name": CASES[31].name, "group": CASES[31].group, "skipped": "needs about 100 GB of memory"}
    )
    return {
        "machine": {
            "name": "NVIDIA H100 80GB HBM3",
            "capability": "9.0",
            "driver": "580.1",
            "system": "Linux",
            "versions": {"python": "3.12", "torch": "2.11"},
            "commit": "abc",
            "date": "2026-11-24T10:00:00+00:00",
        },
        "minutes": 8.0,
        "planned": len(CASES),
        "phases": {
            "build": {"status": "passed", "seconds": 60.0, "detail": "for 90a-real", "failures": []},
            "tests": {"status": "failed", "seconds": 9.0, "detail": "1 failed", "failures": ["tests/a"]},
        },
        "cases": cases,
        "seconds": 470.0,
        "chart": True,
        "roofs": ROOFS,
    }


def test_report(tmp_path):
    results = _results()
    path = gpu_report.write(results, tmp_path)
    assert path.name == "gpu-nvidia-h100-80gb-hbm3-2026-11-24.md"
    assert json.loads(path.with_suffix(".json").read_text())["cases"] == results["cases"]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".md"]
    text = path.read_text()
    assert "the time was up before the rest" in text
    assert "FAILED" in text
    assert "a \\| b" in text
    assert "needs about 100 GB" in text
    for record in gpu_report.measured(results):
        assert record["name"] in text
    # every row of a table has as many cells as its header
    rows = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(rows) <= {3, 5, 8, 9}
    assert len(gpu_report.failures(results)) == 3
    summary = gpu_report.summary(results)
    assert "tests: failed" in summary
    assert "16-bit convolution, ResNet-50" in summary


def test_targets_are_judged():
    results = _results()
    verdicts = {(p["point"], p["target"]): p["verdict"] for p in gpu_report.points(results)}
    assert verdicts["16-bit convolution, ResNet-50", "at least 0.9x PyTorch"] == "met"
    assert verdicts["softmax-cross-entropy", "at least 1.5x PyTorch"] == "not met"
    results["cases"] = []
    assert {p["verdict"] for p in gpu_report.points(results)} == {"not measured"}
    assert gpu_report.markdown(results)


def test_report_before_anything_is_measured():
    results = _results() | {"cases": [], "phases": {}, "chart": False}
    del results["roofs"]
    assert "None." in gpu_report.markdown(results)
    assert gpu_report.failures(results) == []


def test_chart_shows_every_case(tmp_path):
    results = _results()
    path = gpu_report.draw(results, tmp_path)
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stem == gpu_report.stem(results)
    columns = gpu_report._columns(gpu_report.measured(results))
    dealt = [record["name"] for column in columns for _, record in column if record and "name" in record]
    assert dealt == [record["name"] for record in gpu_report.measured(results)]
    results["cases"] = []
    assert gpu_report.draw(results, tmp_path) is None
