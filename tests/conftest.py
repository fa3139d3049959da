"""Test settings, and the devices that the ops are tested on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import device
import emulator
import pytest
from hypothesis import HealthCheck, settings

# Derandomized: the same examples on every run and machine, so that a failure can be repeated.
_settings = settings(
    derandomize=True,
    deadline=None,
    max_examples=120,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,  # on_device is the same for all examples
    ],
)
settings.register_profile("cpu", _settings)
# The emulated device is slow.
settings.register_profile("cuda", _settings, max_examples=int(os.environ.get("ARRAYNN_CUDA_EXAMPLES", "25")))
settings.load_profile("cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=sorted(device.WAYS),
        default="emulated",
        help="whose arrays the CUDA tests use: cupy and torch need a GPU and a build with CUDA",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu_only: about threads, or about NumPy alone; not run on a device")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # The emulated back end would take the place of the one that works on the GPU.
    real = config.getoption("--device") != "emulated"
    return True if real and collection_path.name.startswith("test_device") else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.module.__name__.rpartition(".")[2].removeprefix("test_")
    if any(name == family or name.startswith(f"{family}_") for family in emulator.FAMILIES):
        once = metafunc.definition.get_closest_marker("cpu_only") is not None
        metafunc.parametrize("on_device", ["cpu"] if once else ["cpu", "cuda"], indirect=True)


@pytest.hookimpl(trylast=True)  # behind what -k leaves out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep at most ARRAYNN_CUDA_CASES of each test, evenly spread over its parameters."""
    most = int(os.environ.get("ARRAYNN_CUDA_CASES", "0"))
    if not most:
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: set[pytest.Item] = set()
    for of_test in cases.values():
        step = max(1, (len(of_test) - 1) / (most - 1))
        kept.update(of_test[round(i * step)] for i in range(min(most, len(of_test))))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@pytest.fixture(autouse=True)
def on_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test's ops on the device that its name says."""
    kind = getattr(request, "param", "cpu")
    settings.load_profile(kind)
    device.use(request.config.getoption("--device") if kind == "cuda" else None)
    yield
    device.use(None)
    settings.load_profile("cpu")


@pytest.fixture
def emulator_in_use() -> Iterator[None]:
    """Load the emulated back end, and see that no call keeps a capsule."""
    emulator.load()
    device.emulated.asked.clear()
    yield
    assert not device.capsules, "a call kept a DLPack capsule"
