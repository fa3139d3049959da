"""All of a run's state in one safetensors file, from which it goes on bit for bit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io import load, save
from ..layers import Layer

State = dict[str, NDArray[Any]]
_KEY = "arraynn.fit"


def generators(model: Layer) -> list[np.random.Generator]:
    """Return the random generators of the layers, in the order of the layers, a shared one once."""
    found: dict[int, np.random.Generator] = {}

    def visit(layer: Layer) -> None:
        for value in vars(layer).values():
            if isinstance(value, np.random.Generator):
                found.setdefault(id(value.bit_generator), value)
        for _, child in layer.named_children():
            visit(child)

    visit(model)
    return list(found.values())


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, Mapping[str, NDArray[Any]]], facts: Mapping[str, Any]
) -> None:
    """Write groups of arrays and what is not an array; the file appears complete or not at all."""
    flat = {f"{group}.{name}": a for group, named in arrays.items() for name, a in named.items()}
    save(path, flat, metadata={_KEY: json.dumps(facts, default=_to_json)})


def read(path: str | os.PathLike[str]) -> tuple[dict[str, State], dict[str, Any]]:
    """Return what `write` wrote.

    Raises
    ------
    ValueError
        The file is not a checkpoint of `fit`.
    """
    from safetensors import safe_open

    flat = load(path)
    with safe_open(Path(path), framework="numpy") as file:
        text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise ValueError(f"fit: {path} is not a checkpoint of fit")
    groups: dict[str, State] = {}
    for name, array in flat.items():
        group, rest = name.split(".", 1)
        groups.setdefault(group, {})[rest] = array
    return groups, json.loads(text, object_hook=_from_json)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what two descriptions of a run differ in."""
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield f"{name} is {ours.get(name)}, in the checkpoint {theirs.get(name)}"


# The states of generators hold arrays, and integers that JSON has no bound for.


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "values": value.tolist()}
    raise TypeError(f"fit: a checkpoint cannot hold a {type(value).__name__}")


def _from_json(value: dict[str, Any]) -> Any:
    if value.keys() == {"dtype", "values"}:
        return np.array(value["values"], value["dtype"])
    return value
