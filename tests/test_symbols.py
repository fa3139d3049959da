"""No code compiled for one instruction set may be linked where another one runs.

A helper that two ISA builds of a source share by name (an inline function, a template, anything
weak) is merged by the linker into one copy: that copy may hold AVX-512 and be called on a machine
without it. So whatever an object file under csrc/cpu defines for the linker to see lies in
the namespace of its ISA. Installed packages hold no object files: set ARRAYNN_BUILD_DIR to a
build folder to check them all; without it the extension module itself is read, whose symbol table
shows where each function ended up.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import arraynn._core

ISAS = ("baseline", "avx2", "avx512")


def symbols(path: Path, *options: str) -> list[tuple[str, str]]:
    """Return (kind, name) of what `path` defines."""
    nm = shutil.which("nm")
    assert nm, "nm is part of binutils, which every compiler brings along"
    out = subprocess.run(
        [nm, "-C", "--defined-only", *options, str(path)], check=True, capture_output=True, text=True
    )
    found = []
    for line in out.stdout.splitlines():
        parts = line.split(maxsplit=2)
        if len(parts) == 3:
            found.append((parts[1], parts[2]))
    return found


def own_namespace(isa: str, name: str) -> bool:
    return re.search(rf"\barraynn::cpu::{isa}::", name) is not None or name.endswith(f"arraynn::table_{isa}")


def test_objects_of_an_isa_define_nothing_outside_its_namespace() -> None:
    folder = os.environ.get("ARRAYNN_BUILD_DIR")
    objects = [p for isa in ISAS for p in Path(folder).rglob(f"arraynn_{isa}.dir/**/*.o")] if folder else []
    assert objects or not folder, f"no object files below {folder}"
    for path in objects:
        isa = next(i for i in ISAS if f"arraynn_{i}.dir" in path.parts)
        for kind, name in symbols(path, "--extern-only"):
            assert own_namespace(isa, name), f"{path.name} for {isa} defines {kind} {name}"


def test_module_exports_nothing_of_ours_but_its_init_function() -> None:
    found = [name for _, name in symbols(Path(arraynn._core.__file__), "--dynamic", "--extern-only")]
    assert "PyInit__core" in found
    assert not [name for name in found if "arraynn" in name]


def test_module_has_no_weak_code_from_an_isa() -> None:
    """Holds for a stripped module too, in which nothing is left to find."""
    for kind, name in symbols(Path(arraynn._core.__file__)):
        if "arraynn::cpu::" in name:
            assert kind not in "WVu", f"{kind} {name}"
            assert any(own_namespace(isa, name) for isa in ISAS), f"{kind} {name}"
