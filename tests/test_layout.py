"""The laws of the house that a test can keep: one name in every folder, one signature in every layer."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import arraynn as ann
import pytest

ROOT = Path(__file__).resolve().parent.parent
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
PLACES = (
    "csrc/ops/{}.h",
    "csrc/ops/{}.cpp",
    "csrc/cpu/{}.cpp",
    "cuda/{}.cu",
    "python/bindings/{}.cpp",
    "python/arraynn/{}.py",
    "python/arraynn/reference/{}.py",
    "tests/test_{}.py",
    "bench/bench_{}.py",
)
OPS = sorted(ann.reference.__all__)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_every_family_is_in_every_folder(family: str, place: str) -> None:
    path = ROOT / place.format(family)
    assert path.exists() or path.with_suffix("").is_dir(), f"{path.relative_to(ROOT)} is missing"


def test_the_build_knows_the_same_families() -> None:
    found = re.search(r"set\(ARRAYNN_FAMILIES ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert found is not None
    assert sorted(found[1].split()) == sorted(FAMILIES)


@pytest.mark.parametrize("name", OPS)
def test_op_and_reference_have_the_same_signature(name: str) -> None:
    op, reference = (inspect.signature(getattr(m, name)) for m in (ann, ann.reference))
    assert [(p.name, p.kind, p.default) for p in op.parameters.values()] == [
        (p.name, p.kind, p.default) for p in reference.parameters.values()
    ]


@pytest.mark.parametrize("name", OPS)
def test_op_and_reference_are_in_the_same_family(name: str) -> None:
    families = [getattr(m, name).__module__.rsplit(".", 1)[1] for m in (ann, ann.reference)]
    assert families[0] == families[1]
    assert families[0] in FAMILIES


@pytest.mark.parametrize("name", OPS)
def test_only_ops_with_one_array_have_out(name: str) -> None:
    several = ("lstm", "gru", "rnn", "lstm_cell")
    in_place = name.endswith("_step") or name.startswith("clip_grad")
    assert ("out" in inspect.signature(getattr(ann, name)).parameters) == (
        name not in several and not in_place
    )


def test_every_exported_name_exists_and_is_documented() -> None:
    assert sorted(set(ann.__all__)) == sorted(ann.__all__)
    for name in ann.__all__:
        value = getattr(ann, name)
        assert inspect.getdoc(value), f"arraynn.{name} has no docstring"


@pytest.mark.parametrize("name", OPS)
def test_every_argument_of_an_op_is_documented(name: str) -> None:
    op = getattr(ann, name)
    doc = inspect.getdoc(op) or ""
    assert "Parameters\n----------" in doc
    for argument in inspect.signature(op).parameters:
        assert re.search(rf"^(\w+, )*{argument}(, \w+)* : ", doc, re.MULTILINE), (
            f"{name}: {argument} is not documented"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_public_functions_of_a_family_are_exported(family: str) -> None:
    module = importlib.import_module(f"arraynn.{family}")
    for name, value in vars(module).items():
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
            assert name in ann.__all__, f"{family}.{name}"
            assert name in ann.reference.__all__, f"{family}.{name} has no reference"
