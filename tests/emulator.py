"""The CUDA back end compiled for the host, as a library: built where needed, loaded once."""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
import sys
from pathlib import Path

from arraynn import _core

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "emulated"

# The families whose tests run on the host and again on a device.
FAMILIES = (
    "conv",
    "pool",
    "linear",
    "rnn",
    "cross_entropy",
    "loss",
    "optimizer",
    "activation",
    "dropout",
    "row_norm",
    "channel_norm",
    "attention",
    "embedding",
)


@functools.cache
def build(sanitize: str = "") -> Path:
    """Compile what has changed and return the library's path; what the compiler says is shown.

    `sanitize` names a sanitizer that every access of a kernel is compiled with.
    """
    folder = BUILD.with_name(f"{BUILD.name}-{sanitize}") if sanitize else BUILD
    options = [
        "-DARRAYNN_CUDA=EMULATE",
        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        f"-DARRAYNN_SANITIZE={sanitize}",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at a time must not build in one folder
        for command in (
            ["cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, *options],
            ["cmake", "--build", folder, "--target", "arraynn_emulated"],
        ):
            print("+", *command, file=sys.stderr)
            done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode:
                raise RuntimeError(f"the emulated CUDA back end does not build:\n{done.stdout}")
    found = sorted(folder.rglob("libarraynn_emulated.so"))
    if not found:
        raise RuntimeError(f"the build left no libarraynn_emulated.so below {folder}")
    return found[0]


@functools.cache
def _load() -> Exception | None:
    try:
        _core.load_cuda_backend(os.environ.get("ARRAYNN_EMULATED_LIBRARY") or str(build()))
    except Exception as error:
        return error
    return None


def load() -> None:
    """Make the emulated back end the one in use: ARRAYNN_EMULATED_LIBRARY, or else what `build` makes.

    A build that failed once fails every time, at once.
    """
    error = _load()
    if error is not None:
        raise error
