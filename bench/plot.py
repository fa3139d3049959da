"""Draws one bar chart per family: how many times as long each peer takes as arraynn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

_COLORS = {
    "torch": "#d1603d",
    "torch channels-last": "#eba583",
    "torch foreach": "#eba583",
    "torch fused": "#f4cfbb",
    "onnxruntime": "#4a7a9c",
    "numpy": "#8a9a5b",
    "scipy": "#b3bf8c",
}
_INK, _FAINT = "#2b2b2b", "#dddddd"


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write a chart of every family in `results`; return their paths, none without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    records = [record for record in results["cases"] if record.get("peers")]
    families = dict.fromkeys(record["family"] for record in records)
    return [
        _chart(family, [r for r in records if r["family"] == family], results["machine"], folder)
        for family in families
    ]


def _chart(family: str, records: list[dict[str, Any]], machine: dict[str, Any], folder: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # one slot per bar and a gap of one between cases
    slots = sum(len(record["peers"]) + 1 for record in records)
    figure = Figure(figsize=(10, 1.3 + 0.19 * slots), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ratios = [data["ratio"] for record in records for data in record["peers"].values()]
    low, high = min(0.5, *ratios) / 1.1, max(2.0, *ratios) * 1.25
    position, ticks, labels, named = 0.0, [], [], set()
    for record in records:
        start = position
        for peer, data in record["peers"].items():
            ratio = data["ratio"]
            label = None if peer in named else peer
            named.add(peer)
            # bars grow from 1.0, to the right where arraynn is faster
            axes.barh(
                position, ratio - 1, left=1.0, height=0.86, color=_COLORS.get(peer, "#999999"), label=label
            )
            axes.plot([data["ratio_q1"], data["ratio_q3"]], [position] * 2, color=_INK, linewidth=0.8)
            side = max(1.0, ratio, data["ratio_q3"])
            axes.text(1.02 * side, position, f"{ratio:.2f}", va="center", fontsize=7, color=_INK)
            position += 1
        ticks.append((start + position - 1) / 2)
        labels.append(record["name"])
        position += 1
    axes.axvline(1.0, color=_INK, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    axes.set_ylim(position - 0.5, -1)
    marks = [mark for mark in (2.0**power for power in range(-4, 12)) if low <= mark <= high]
    axes.set_xticks(marks, [f"{mark:g}x" for mark in marks])
    axes.minorticks_off()
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.set_xlabel("time of the peer / time of arraynn (right of the line: arraynn is faster)", fontsize=8)
    axes.set_title(
        f"{family}, {machine['dtype']}, {machine['threads']} threads, {machine['cpu']} ({machine['isa']})",
        loc="left",
        fontsize=10,
        color=_INK,
    )
    figure.legend(loc="outside lower center", ncols=len(named), frameon=False, fontsize=8)
    path = folder / f"{family}.png"
    figure.savefig(path)
    return path
