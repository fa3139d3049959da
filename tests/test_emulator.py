"""What the emulator is for: a mistake in a kernel, made on purpose, fails a test on a machine without a GPU.

Each mistake is made in a copy of the sources; the one file that it concerns is compiled anew and
takes its place in the library, which a process of its own loads to run an op against its reference.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import emulator
import pytest

TESTS = Path(__file__).resolve().parent
CUDA = emulator.ROOT / "cuda"
FILES = (*emulator.FAMILIES, "rnn_extended")


class Mistake(NamedTuple):
    what: str
    file: str  # where it is made, below cuda/
    right: str
    wrong: str
    unit: str  # the source that has it compiled in
    call: str  # what shows it
    sanitized: bool = False
    says: str = "AssertionError"


MISTAKES = [
    Mistake(
        "a barrier removed",
        "device/reduce.h",
        "  if (lane == 0) room[warp] = value;\n  __syncthreads();\n",
        "  if (lane == 0) room[warp] = value;\n",
        "cross_entropy/cross_entropy.cu",
        "check_op('cross_entropy', values((300, 10), np.float32, 1), np.arange(300) % 10)",
    ),
    Mistake(
        "a barrier that some threads leave out",
        "device/reduce.h",
        "  if (lane == 0) room[warp] = value;\n  __syncthreads();\n",
        "  if (lane == 0) room[warp] = value;\n  if (threadIdx.x != 7) __syncthreads();\n",
        "cross_entropy/cross_entropy.cu",
        "check_op('cross_entropy', values((300, 10), np.float32, 1), np.arange(300) % 10)",
        says="wait for each other in vain",
    ),
    Mistake(
        "an index one too far, in the arrays",
        "device/extent.h",
        "int64_t edges() const { return size - packs * width; }",
        "int64_t edges() const { return size - packs * width + 1; }",
        "activation/pointwise.cu",
        "check_op('relu', values((1031,), np.float32, 1))",
        sanitized=True,
        says="heap-buffer-overflow",
    ),
    Mistake(
        "an index one too low, in the arrays",
        "device/extent.h",
        "int64_t at(int64_t pack) const { return head + pack * width; }",
        "int64_t at(int64_t pack) const { return head + pack * width - width; }",
        "activation/pointwise.cu",
        "check_op('relu', values((1031,), np.float32, 1))",
        sanitized=True,
        says="heap-buffer-overflow",
    ),
    Mistake(
        "too little shared memory",
        "copy.cu",
        "sizeof(Word) * tile * (tile + 1), place",
        "sizeof(Word) * tile * tile, place",
        "copy.cu",
        "check_op('softmax', np.asfortranarray(values((70, 40), np.float32, 1)), bounds=wide)",
        sanitized=True,
        says="use-after-poison",
    ),
]

PROGRAM = """
import numpy as np
import device
from checks import check_op
from shapes import values

device.use("emulated")
wide = {"all": (1000, 100)}
"""


def _broken(mistake: Mistake, folder: Path) -> Path:
    """Build the library with the mistake in it."""
    emulator.build()
    sources = folder / "cuda"
    shutil.copytree(CUDA, sources)
    (folder / "csrc").symlink_to(emulator.ROOT / "csrc")
    path = sources / mistake.file
    text = path.read_text()
    assert text.count(mistake.right) == 1, (
        f"{mistake.file} has changed: it no longer holds what is broken here"
    )
    path.write_text(text.replace(mistake.right, mistake.wrong))

    units = {mistake.unit} | ({"emulate/fibers.cpp"} if mistake.sanitized else set())
    flags = ["-fsanitize=address", "-fno-omit-frame-pointer"] if mistake.sanitized else []
    objects = []
    for entry in json.loads((emulator.BUILD / "compile_commands.json").read_text()):
        source = Path(entry["file"])
        made = Path(entry["directory"]) / entry["output"]
        if source.is_relative_to(CUDA) and str(source.relative_to(CUDA)) in units:
            new = folder / made.name
            command = [word.replace(str(CUDA), str(sources)) for word in shlex.split(entry["command"])]
            command[command.index("-o") + 1] = str(new)
            subprocess.run([*command, *flags], check=True, cwd=entry["directory"])
            made = new
            units.remove(str(source.relative_to(CUDA)))
        objects.append(made)
    assert not units, f"not among the sources: {units}"
    library = folder / "libbroken.so"
    subprocess.run(["g++", "-shared", *flags, "-o", library, *objects], check=True)
    return library


def _preload() -> str:
    """Return what has to be loaded before all else: AddressSanitizer, and the C++ library, for it to find."""
    paths = []
    for name in ("libasan.so", "libstdc++.so.6"):
        asked = ["g++", f"-print-file-name={name}"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True)
        paths.append(str(Path(found.stdout.strip()).resolve()))
    return " ".join(paths)


def _environment(library: Path, sanitized: bool = False, **variables: str) -> dict[str, str]:
    environment = dict(os.environ, ARRAYNN_EMULATED_LIBRARY=str(library), PYTHONPATH=str(TESTS), **variables)
    environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    if sanitized:
        # Python frees little at its end; and a leak is not what is looked for.
        environment.update(
            LD_PRELOAD=_preload(), ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0"
        )
    return environment


def _run(program: str, library: Path, sanitized: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    environment = _environment(library, sanitized)
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.what)
def test_a_mistake_shows(mistake: Mistake, tmp_path: Path) -> None:
    program = PROGRAM + mistake.call
    right = _run(program, emulator.build())
    assert right.returncode == 0, right.stderr
    wrong = _run(program, _broken(mistake, tmp_path), mistake.sanitized)
    assert wrong.returncode != 0, "the mistake went unseen"
    assert mistake.says in wrong.stderr, wrong.stderr


# Every op test of the device once more, with few of its cases, each way in a process of its own.
PRODUCTS = ("conv", "linear", "rnn", "rnn_extended", "attention")  # what has two ways to run
OTHERS = tuple(name for name in FILES if name not in PRODUCTS)
WAYS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {  # the tests, and the environment
    "products under AddressSanitizer": (PRODUCTS, {}),
    "others under AddressSanitizer": (OTHERS, {}),
    "on a chip without these tensor cores": (PRODUCTS, {"ARRAYNN_EMULATE_CAPABILITY": "75"}),
    "in another order of threads": (FILES, {"ARRAYNN_EMULATE_SEED": "2"}),
}


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Start the ways that are asked for side by side: each keeps one core busy for minutes."""
    asked = {item.callspec.params.get("way") for item in request.session.items if hasattr(item, "callspec")}
    started = {}
    for way, (names, variables) in WAYS.items():
        if way not in asked:
            continue
        sanitized = "Sanitizer" in way
        library = emulator.build(sanitize="address" if sanitized else "")
        files = [str(TESTS / f"test_{name}.py") for name in names]
        options = ["-m", "pytest", "-q", "-x", "-k", "cuda", "-p", "no:cacheprovider"]
        few = {"ARRAYNN_CUDA_EXAMPLES": "4", "ARRAYNN_CUDA_CASES": "3"}
        environment = _environment(library, sanitized, **few, **variables)
        log = tmp_path_factory.mktemp("runs") / "log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                [sys.executable, *options, *files], env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        started[way] = (process, log)
    yield started
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("way", WAYS)
def test_op_tests(way: str, runs: dict[str, Any]) -> None:
    process, log = runs[way]
    assert process.wait() == 0, log.read_text()[-8000:]
    assert " passed" in log.read_text()
