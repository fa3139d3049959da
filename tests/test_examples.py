"""Every example runs, draws its picture, and writes its line of the table."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import arraynn as ann
import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SHARED = {"common", "text"}
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run an example in this process, which has imported scikit-learn and PyTorch already."""
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = ann.get_num_threads(), torch.get_num_threads()
    ann.set_num_threads(1)  # of calls this small, threads would only wait for each other
    torch.set_num_threads(1)

    def run(name, *arguments):
        picture = tmp_path / f"{name}.png"
        argv = [str(FOLDER / f"{name}.py"), "--out", str(picture), *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(argv[0], run_name="__main__")
        return picture

    yield run
    ann.set_num_threads(threads[0])
    torch.set_num_threads(threads[1])


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, run, capsys):
    picture = run(name, "--quick")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert re.search(r": [\d.e+-]+%? \(to reach: ", capsys.readouterr().out)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_twin_in_pytorch_runs(name, run, capsys):
    if "twin=False" in (FOLDER / f"{name}.py").read_text():  # vanishing_gradients alone: it is about a plot
        assert name == "vanishing_gradients"
        return
    run(name, "--quick", "--engine", "torch")
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert json.loads(line.removeprefix("twin ")).keys() == {"score", "seconds"}


def test_results_go_into_the_table(run, monkeypatch, tmp_path, capsys):
    import importlib

    monkeypatch.syspath_prepend(str(FOLDER))
    common = importlib.import_module("common")
    monkeypatch.setattr(common, "FOLDER", tmp_path)
    monkeypatch.setattr(common.Twin, "finish", lambda _: common.Outcome(0.98, 3.0))
    (tmp_path / "README.md").write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["mnist_mlp.py"])
    options = common.arguments("An example.")
    for score, least, mark in ((0.97, False, " *"), (0.99, True, "")):
        options.twin.took_turns = not mark
        common.report(
            options,
            common.Outcome(score, 2.0),
            what="a network",
            data="digits",
            measure="accuracy",
            target=0.975,
            least=least,
        )
        text = (tmp_path / "README.md").read_text()
        bound = "at most" if least else "at least"
        assert (
            f"accuracy {bound} 97.50% | {score:.2%} (not reached) | 98.00% | 2.00 | 3.00 | 1.50x{mark} |"
            in text
        )
        assert ("one after the other" in text) is bool(mark)
        assert "Geometric mean of the ratios: 1.50x." in text
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text


TURNS = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import common
options = common.arguments("Two epochs.")
clock = common.Clock()
for _ in range({epochs} if options.engine == "torch" else 2):
    with open({diary!r}, "a") as diary:
        diary.write(options.engine[0])
    clock()
if options.engine == "torch":
    if {epochs} == 0:
        sys.exit(3)
    common.hand_over(common.Outcome(0.5, clock.seconds))
else:
    with open({diary!r}, "a") as diary:
        diary.write("|")
    print(options.twin.finish())
"""


@pytest.mark.parametrize(("epochs", "diary"), [(2, "atat|"), (1, "ata|"), (4, "atat|tt")])
def test_both_networks_take_turns(tmp_path, epochs, diary):
    done = two_epochs(tmp_path, epochs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Outcome(score=0.5")
    assert (tmp_path / "diary").read_text() == diary


def test_a_twin_that_fails_is_told(tmp_path):
    done = two_epochs(tmp_path, 0)
    assert done.returncode == 1
    assert "ended without a result" in done.stderr


def two_epochs(tmp_path, epochs):
    """Run a made-up example of two epochs, in PyTorch of so many."""
    text = TURNS.format(folder=str(FOLDER), diary=str(tmp_path / "diary"), epochs=epochs)
    (tmp_path / "made_up.py").write_text(text)
    command = [sys.executable, str(tmp_path / "made_up.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
