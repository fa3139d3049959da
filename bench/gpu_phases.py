"""What ``gpu.py`` does beside measuring: its time, its processes, and the build, tests and memory checks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_cases
from run import FAMILIES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "gpu"
SITE = BUILD / "site"
LOGS = BUILD / "logs"
# What a phase may take at most of the whole time; what it leaves is for those after it.
SHARES = {"build": 0.40, "tests": 0.22, "memcheck": 0.07, "racecheck": 0.05, "cases": 1.0}
RESERVE = 12.0  # seconds for the last files
# The tests of a device are those of the families whose name says so. Others use the emulator whatever
# device is asked for, and would leave it in the place of the real kernels.
SELECTION = (
    *(f"tests/test_{name}.py" for name in (*FAMILIES, "rnn_extended") if name != "network"),
    "-k",
    "cuda",
)


class Budget:
    """The time of the whole run, and what is left of it for a phase."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock, self._start = seconds, clock, clock()

    @property
    def spent(self) -> float:
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds until the last files have to be written."""
        return max(0.0, self.seconds - RESERVE - self.spent)

    def limit(self, phase: str) -> float:
        """Return the seconds that a phase may take from now on."""
        return min(SHARES[phase] * self.seconds, self.left)


# Processes


@dataclass
class Outcome:
    """How a process ended; `code` is None if its time was up."""

    code: int | None
    seconds: float
    text: str


def stop(process: subprocess.Popen[Any], patience: float = 5.0) -> None:
    """End a process and those it started: first politely, so that pytest prints its summary."""
    for sign, wait in ((signal.SIGINT, patience), (signal.SIGKILL, patience)):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, sign)
            process.wait(wait)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def run(command: Sequence[str], log: str, seconds: float, **environment: str) -> Outcome:
    """Run a command for at most `seconds`; its output goes to a log and is returned."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path, start = LOGS / f"{log}.log", time.monotonic()
    with path.open("w") as file:
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all it starts can be ended with it
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            stop(process)
        except BaseException:
            stop(process)
            raise
    return Outcome(code, time.monotonic() - start, path.read_text(errors="replace"))


def tail(text: str, lines: int = 30, width: int = 300) -> list[str]:
    return [line[:width] for line in text.splitlines() if line.strip()][-lines:]


def paths(first: Path | None) -> str:
    """Return PYTHONPATH with a folder in front."""
    rest = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(part for part in (str(first) if first else "", rest) if part)


# What is needed


def imported(module: str, folders: Sequence[str]) -> bool:
    """Tell whether a Python file below the folders imports a module."""
    pattern = re.compile(rf"^\s*(import|from) {module}\b", re.MULTILINE)
    files = (file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return any(pattern.search(file.read_text()) for file in files)


def missing(build: bool, tests: bool) -> list[str]:
    """Return what is needed and not there, a line each."""
    # module, the name it is installed by, and why it is needed
    needed = [("torch", "torch", "the arrays and the peer"), ("numpy", "numpy", "arraynn")]
    for module, package in (
        ("ml_dtypes", "ml_dtypes"),
        ("array_api_compat", "array-api-compat"),
        ("safetensors", "safetensors"),
    ):
        if imported(module, ["python/arraynn"]):
            needed.append((module, package, "arraynn"))
    if build:
        needed.append(("pybind11", "pybind11", "the build"))
    if tests:
        needed += [("pytest", "pytest", "the tests"), ("hypothesis", "hypothesis", "the tests")]
    found = [
        f"Python package {package} (for {why}); without a network, carry its wheel here: "
        f"python -m pip install --no-index --no-deps {package.replace('-', '_')}-*.whl"
        for module, package, why in needed
        if importlib.util.find_spec(module) is None
    ]
    if build:
        tools = [name for name in ("cmake", "ninja") if program(name) is None]
        found += [f"{name}: on the PATH (for the build)" for name in tools]
        if nvcc() is None:
            found.append("nvcc: on the PATH, or in CUDA_HOME or /usr/local/cuda (for the build)")
    return found


def program(name: str) -> str | None:
    """Return a program from the PATH, or from beside this Python, where pip puts them."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def cuda_tool(name: str) -> str | None:
    """Return a program of the CUDA toolkit."""
    homes = [os.environ.get(key) for key in ("CUDA_HOME", "CUDA_PATH")]
    folders = [Path(home) for home in homes if home] + [Path("/usr/local/cuda")]
    folders += sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    places = [program(name)]
    places += [str(f / sub / name) for f in folders for sub in ("bin", "compute-sanitizer")]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def nvcc() -> str | None:
    return cuda_tool("nvcc")


def architecture(capability: str) -> str:
    """Return CMake's name for the machine code of a compute capability.

    Hopper's own instructions need its 'a' target.
    """
    number = capability.replace(".", "")
    return f"{number}a-real" if number == "90" else f"{number}-real"


def query_gpu() -> dict[str, str] | None:
    """Return name, driver and capability of the first GPU, from nvidia-smi or else PyTorch."""
    fields = ("name", "driver_version", "compute_cap")
    try:
        printed = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        name, driver, capability = (part.strip() for part in printed.strip().splitlines()[0].split(","))
        if re.fullmatch(r"\d+\.\d+", capability):
            return {"name": name, "driver": driver, "capability": capability}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        pass
    script = (
        "import torch; print(torch.cuda.get_device_name(0)); "
        "print(*torch.cuda.get_device_capability(0), sep='.')"
    )
    try:
        printed = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    name, capability = printed.strip().splitlines()[-2:]
    return {"name": name, "driver": "unknown", "capability": capability}


def commit() -> str:
    """Return the state of the source, or ''."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    compiler = nvcc()
    if compiler:
        printed = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
        release = re.search(r"release ([\d.]+)", printed)
        found["nvcc"] = release[1] if release else "unknown"
    return found


# The phases: each returns its record, whose status is 'passed', 'failed', 'out of time' or 'skipped'

Phase = dict[str, Any]


def phase(outcome: Outcome, detail: str, failures: Sequence[str] = (), passed: bool | None = None) -> Phase:
    """Return the record of a process."""
    good = outcome.code == 0 if passed is None else passed
    status = "out of time" if outcome.code is None else "passed" if good else "failed"
    return {
        "status": status,
        "seconds": round(outcome.seconds, 1),
        "detail": detail,
        "failures": list(failures),
    }


def skipped(why: str) -> Phase:
    return {"status": "skipped", "seconds": 0.0, "detail": why, "failures": []}


def build_commands(capability: str) -> list[list[str]]:
    """Return the commands that build the extension, with nothing fetched."""
    pybind11 = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True
    ).stdout.strip()
    cmake, ninja = program("cmake") or "cmake", program("ninja") or "ninja"
    configure = [cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=Release"]
    configure += [
        "-DARRAYNN_CUDA=ON",
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture(capability)}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11}",
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
    ]
    return [configure, [ninja, "-C", str(BUILD)]]


def install(site: Path = SITE) -> None:
    """Put the package with its new extension into a folder of its own."""
    package = site / "arraynn"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(
        ROOT / "python" / "arraynn", package, ignore=shutil.ignore_patterns("_core*.so", "__pycache__")
    )
    for module in (BUILD / "python" / "bindings").glob("_core*.so"):
        shutil.copy2(module, package)


def build(budget: Budget, capability: str) -> Phase:
    """Build for the GPU present and look whether the extension finds it."""
    seconds, start = budget.limit("build"), time.monotonic()
    compiler = nvcc()
    assert compiler is not None  # `missing` has looked
    path = os.pathsep.join((str(Path(compiler).parent), os.environ.get("PATH", "")))
    for number, command in enumerate(build_commands(capability)):
        left = seconds - (time.monotonic() - start)
        outcome = run(command, f"build{number}", left, CUDACXX=compiler, PATH=path)
        outcome.seconds = time.monotonic() - start
        if outcome.code != 0:
            lines = outcome.text.splitlines() if number else []  # CMake says why behind the word
            errors = [line[:300] for line in lines if re.search(r"\berror\b|FAILED", line, re.IGNORECASE)]
            return phase(outcome, " ".join(command[:3]), errors[:15] or tail(outcome.text, 15))
    install()
    script = "import arraynn, sys; arraynn.show_config(); sys.exit(not arraynn.cuda.is_available())"
    outcome = run([sys.executable, "-c", script], "import", 60, PYTHONPATH=paths(SITE))
    outcome.seconds = time.monotonic() - start
    shown = tail(outcome.text, 20)
    if outcome.code != 0:
        return phase(outcome, "the module does not find the GPU", shown)
    return phase(outcome, f"for {architecture(capability)}; {shown[-1].strip()}")


def test_command(device: str | None, workers: int) -> list[str]:
    """Return the command that runs the tests of a device; None is the emulated one."""
    command = [sys.executable, "-m", "pytest", *SELECTION, "--tb=short"]
    if device is None:
        return command
    # One module that cannot be imported must not cost the others, and a warning of a library in
    # another version than the tests know is no error of ours.
    command += ["--device", device, "-v", "--continue-on-collection-errors", "-W", "default"]
    command += ["-p", "no:cacheprovider"]
    return command + (["-n", str(workers)] if workers > 1 else [])


def read_tests(text: str) -> tuple[dict[str, int], list[str]]:
    """Return how often each outcome occurs in pytest's output, and the names of what failed.

    The last line counts; where it is missing since the time was up, the lines of the tests do.
    """
    counts: dict[str, int] = {}
    summary = re.findall(r"^=+ (.*?) in [\d.]+s.*=+$", text, re.MULTILINE)
    if summary:
        for number, word in re.findall(r"(\d+) (passed|failed|error|skipped|xfailed)", summary[-1]):
            counts[word] = int(number)
    if not counts:
        for word in re.findall(r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b(?= |$)", text, re.MULTILINE):
            counts[word.lower()] = counts.get(word.lower(), 0) + 1
    failed = re.findall(r"^(?:FAILED|ERROR) (tests\S.*)$", text, re.MULTILINE)
    if not failed:
        failed = re.findall(r"^(tests/\S+) (?:FAILED|ERROR)", text, re.MULTILINE)
        failed += re.findall(r"\] (?:FAILED|ERROR) (tests/\S+)", text)
    return counts, list(dict.fromkeys(line[:300] for line in failed))


def tests(seconds: float, device: str, site: Path | None) -> Phase:
    """Run the tests on the arrays of a library."""
    workers = min(8, len(os.sched_getaffinity(0))) if importlib.util.find_spec("xdist") else 1
    # unbuffered, so that the log tells how far it came
    environment = {"PYTHONPATH": paths(site), "PYTHONUNBUFFERED": "1"}
    outcome = run(test_command(device, workers), "tests", seconds, **environment)
    counts, failed = read_tests(outcome.text)
    what = ", ".join(f"{number} {word}" for word, number in counts.items()) or "no test ran"
    passed = outcome.code == 0 and counts.get("passed", 0) > 0
    details = failed[:40] if passed or failed else tail(outcome.text, 15)
    return phase(outcome, f"with {device} arrays: {what}", details, passed)


def sanitizer(budget: Budget, tool: str) -> Phase:
    """Run every op once, on small arrays, under a tool of compute-sanitizer."""
    checker = cuda_tool("compute-sanitizer")
    if checker is None:
        return skipped("compute-sanitizer is not there")
    # Errors that PyTorch provokes and handles when it starts are none of ours; a failure of our own
    # calls is an exception.
    options = ["--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no", "--print-limit", "20"]
    command = [checker, *options, sys.executable, str(HERE / "gpu_measure.py"), "touch"]
    # Without its pool every array is an allocation of its own, whose ends the tool knows.
    environment = {"PYTHONPATH": paths(SITE), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONUNBUFFERED": "1"}
    outcome = run(command, tool, budget.limit(tool), **environment)
    count = len(re.findall(r"^ran ", outcome.text, re.MULTILINE))
    total = len(gpu_cases.tiny())
    errors = [line[:300] for line in outcome.text.splitlines() if line.startswith("=========")]
    if outcome.code == 0:
        return phase(outcome, f"{count} calls, no error")
    if "not supported" in outcome.text and not count:
        return {**skipped("compute-sanitizer does not work here"), "failures": tail(outcome.text, 3)}
    if outcome.code is None and not any(re.search(r"Invalid|Race|hazard", line) for line in errors):
        # It slows kernels down by an unknown factor, so what it saw in its time is all that is asked.
        return {**phase(outcome, f"{count} of {total} calls in its time, no error"), "status": "passed"}
    return phase(outcome, f"{count} of {total} calls", errors[:25] or tail(outcome.text, 15))
