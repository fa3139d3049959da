"""Draws the times of the peers over ours, by family and in all, and how far from the roof we are."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

_COLORS = {
    "torch": "#d1603d",
    "torch channels-last": "#eba583",
    "torch foreach": "#eba583",
    "torch fused": "#f4cfbb",
    "onnxruntime": "#4a7a9c",
    "jax": "#8f6bb0",
    "numpy": "#8a9a5b",
    "scipy": "#b3bf8c",
}
_FAMILY_COLORS = (
    "#d1603d",
    "#4a7a9c",
    "#8a9a5b",
    "#8f6bb0",
    "#e0a030",
    "#4f9a94",
    "#b0506e",
    "#7a6a53",
    "#2b5fa8",
    "#c2b13c",
    "#6c8f3a",
    "#a8a8a8",
    "#c77fb5",
    "#333333",
)
_INK, _FAINT = "#2b2b2b", "#dddddd"


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write a chart of every family in `results`; return their paths, none without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    records = [record for record in results["cases"] if record.get("peers")]
    families = dict.fromkeys(record["family"] for record in records)
    charts = [
        _chart(family, [r for r in records if r["family"] == family], results["machine"], folder)
        for family in families
    ]
    return [_overview(records, results["machine"], folder), _roofline(results, folder), *charts]


def _machine(machine: dict[str, Any]) -> str:
    return f"{machine['dtype']}, {machine['threads']} threads, {machine['cpu']} ({machine['isa']})"


def _finish(
    axes: Any, low: float, high: float, bottom: float, ticks: Sequence[float], labels: list[str]
) -> None:
    """Give a chart of ratios its line at 1, its scale and its names."""
    axes.axvline(1.0, color=_INK, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, -1)
    marks = [mark for mark in (2.0**power for power in range(-4, 12)) if low <= mark <= high]
    axes.set_xticks(marks, [f"{mark:g}x" for mark in marks])
    axes.minorticks_off()
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.set_xlabel("time of the peer / time of arraynn (right of the line: arraynn is faster)", fontsize=8)


def _overview(records: list[dict[str, Any]], machine: dict[str, Any], folder: Path) -> Path:
    """Draw the geometric mean of each group of cases, against PyTorch and against the best peer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    groups: dict[str, list[dict[str, Any]]] = {"all cases": records}
    for record in records:
        groups.setdefault(record["group"], []).append(record)
    against = {
        "PyTorch as its users call it": ("ratio_torch", _COLORS["torch"]),
        "the best of all peers, case by case": ("ratio_best", _COLORS["onnxruntime"]),
    }
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(groups)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    means: list[float] = []
    for position, members in enumerate(groups.values()):
        for row, (key, color) in enumerate(against.values()):
            ratios = [record[key] for record in members if record.get(key)]
            if not ratios:
                continue
            mean = geometric_mean(ratios)
            means.append(mean)
            at = position + 0.4 * row - 0.2
            axes.barh(at, mean - 1, left=1.0, height=0.38, color=color)
            axes.text(1.02 * max(1.0, mean), at, f"{mean:.2f}", va="center", fontsize=7, color=_INK)
    low, high = min(0.7, *means) / 1.1, max(2.0, *means) * 1.3
    labels = [f"{group} ({len(members)})" for group, members in groups.items()]
    _finish(axes, low, high, len(groups) - 0.3, range(len(groups)), labels)
    axes.set_title(
        f"geometric means, {_machine(machine)}",
        loc="left",
        fontsize=10,
        color=_INK,
    )
    handles = [Patch(color=color, label=f"against {name}") for name, (_, color) in against.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    path = folder / "overview.png"
    figure.savefig(path)
    return path


def _roofline(results: dict[str, Any], folder: Path) -> Path:
    """Draw what each case reaches below the FMA peak and the copy bandwidth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    machine = results["machine"]
    peak = machine["peak_gflops"]
    copy = {float(size): speed for size, speed in machine["copy_gb_per_s"].items()}
    records = [r for r in results["cases"] if "ms" in r and not r["overhead"]]
    figure = Figure(figsize=(11, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    families = dict.fromkeys(r["family"] for r in records)
    colors = dict(zip(families, _FAMILY_COLORS, strict=False))
    for record in records:
        dot = {"color": colors[record["family"]], "s": 22, "alpha": 0.85, "linewidths": 0}
        if record["flops"]:
            intensity = record["flops"] / record["bytes"]
            left.scatter(intensity, record["flops"] / record["ms"] / 1e6, **dot)
        else:
            right.scatter(record["bytes"], record["bytes"] / record["ms"] / 1e6, **dot)
    for family, color in colors.items():
        left.scatter([], [], color=color, s=22, label=family)
    reach = [0.05, 2000.0]
    for (size, speed), style in zip(copy.items(), (":", "-.", "--", "-"), strict=True):
        xs = [reach[0], peak / speed, reach[1]]
        left.plot(xs, [min(peak, x * speed) for x in xs], style, color=_INK, linewidth=1)
        label = f"copy in {size / 2**20:.0f} MiB"
        right.axhline(speed, linestyle=style, color=_INK, linewidth=1, label=label)
    left.set(xlabel="floating-point operations per byte", ylabel="GFLOP/s", xlim=reach)
    left.set_title("Products, below the FMA peak and the bandwidths", loc="left", fontsize=10)
    right.set(xlabel="bytes that must move", ylabel="GB/s")
    right.set_title("Memory-bound ops, and what a copy reaches", loc="left", fontsize=10)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(color=_FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=7)
    found = left.get_legend_handles_labels()
    figure.legend(*found, loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    figure.suptitle(_machine(machine), fontsize=10)
    path = folder / "roofline.png"
    figure.savefig(path)
    return path


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
    _finish(axes, low, high, position - 0.5, ticks, labels)
    axes.set_title(
        f"{family}, {_machine(machine)}",
        loc="left",
        fontsize=10,
        color=_INK,
    )
    figure.legend(loc="outside lower center", ncols=len(named), frameon=False, fontsize=8)
    path = folder / f"{family}.png"
    figure.savefig(path)
    return path
