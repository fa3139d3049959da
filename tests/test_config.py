"""The machine: instruction sets, threads from the environment, what show_config says, import time."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import arraynn as ann
import pytest
from arraynn import _core
from test_threads import run_python

SUPPORTED = [name for name, supported in _core.isas() if supported]
LACKING = [name for name, supported in _core.isas() if not supported]

WORK = """
import numpy as np
from arraynn import _core
from checks import check_op
from shapes import values
for dtype in (np.float32, np.float64):
    x, w = values((2, 5, 9, 11), dtype, 1), values((7, 5, 3, 3), dtype, 2)
    check_op("conv2d", x, w, bounds={"all": (200, 10)})
    check_op("max_pool2d", x, 2)
    check_op("tanh", x, bounds={"input": (4, 1)})
    p = [values((64, n), dtype, 3) / 4 for n in (11, 16)]
    check_op("lstm", x[:, 0], None, p, bounds={"all": (400, 10)})
    check_op("cross_entropy", x[:, :, 0, 0], np.array([0, 4]), bounds={"all": (40, 10)})
print(_core.isa())
"""


@pytest.mark.parametrize("isa", SUPPORTED)
def test_each_instruction_set_can_be_forced(isa: str) -> None:
    result = run_python(WORK, ARRAYNN_ISA=isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{isa}\n"


def test_the_best_instruction_set_is_chosen() -> None:
    assert "baseline" in SUPPORTED
    for environment in ({}, {"ARRAYNN_ISA": ""}):
        result = run_python(
            "from arraynn import _core; print(_core.isa())", **{"ARRAYNN_ISA": "", **environment}
        )
        assert result.stdout == f"{SUPPORTED[-1]}\n", result.stderr


@pytest.mark.parametrize("isa", ["avx", "AVX2", "sse 4", *LACKING])
def test_an_instruction_set_that_is_not_there(isa: str) -> None:
    result = run_python("import arraynn", ARRAYNN_ISA=isa)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(("ImportError: ", "ValueError: "))
    assert "ARRAYNN_ISA" in last
    assert isa in last
    assert all(name in last for name in SUPPORTED)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_threads_from_the_environment(n: int) -> None:
    result = run_python("import arraynn as ann; print(ann.get_num_threads())", ARRAYNN_NUM_THREADS=str(n))
    assert result.stdout == f"{n}\n", result.stderr


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "99999999999999"])
def test_bad_threads_from_the_environment(text: str) -> None:
    result = run_python("import arraynn", ARRAYNN_NUM_THREADS=text)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "ARRAYNN_NUM_THREADS" in last
    assert text in last


def test_default_threads_follow_the_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "import arraynn as ann; print(ann.get_num_threads())"
    result = run_python(code, ARRAYNN_NUM_THREADS="", OMP_NUM_THREADS="")
    assert result.stdout == "1\n", result.stderr


def test_show_config() -> None:
    text = io.StringIO()
    with redirect_stdout(text):
        assert ann.show_config() is None
    shown = text.getvalue()
    assert ann.__version__ in shown
    for name, _ in _core.isas():
        assert name in shown
    assert _core.isa() in shown
    assert str(ann.get_num_threads()) in shown
    for word in ("ARRAYNN_ISA", "ARRAYNN_NUM_THREADS", "CUDA"):
        assert word in shown


def test_import_adds_little_to_numpy() -> None:
    """40 ms are promised; the best of five, so that a busy machine does not fail it."""
    code = "import numpy, time; t = time.perf_counter(); import arraynn; print(time.perf_counter() - t)"
    seconds = min(float(run_python(code).stdout) for _ in range(5))
    assert seconds < 0.040, f"{1000 * seconds:.0f} ms"


def test_import_brings_no_heavy_modules() -> None:
    heavy = (
        "torch",
        "cupy",
        "scipy",
        "sklearn",
        "matplotlib",
        "tqdm",
        "safetensors",
        "arraynn.layers",
        "arraynn.reference",
    )
    code = f"import arraynn, sys; print([m for m in {heavy!r} if m in sys.modules])"
    result = run_python(code)
    assert result.stdout == "[]\n", result.stderr


def test_cuda_is_reached_from_the_package() -> None:
    assert ann.cuda.is_available() in (True, False)
