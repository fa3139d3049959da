"""The files of a run on a GPU: JSON as it goes, a Markdown table, a chart; and what of the targets is met."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from gpu_cases import GROUPS, POINTS

Record = dict[str, Any]
Results = dict[str, Any]
_INK, _FAINT, _FASTER, _SLOWER, _FLOOR = "#2b2b2b", "#dddddd", "#4a7a9c", "#d1603d", "#8a9a5b"


def slug(name: str) -> str:
    """Return a device's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def stem(results: Results) -> str:
    """Return the name that the files of a run have in common."""
    return f"gpu-{slug(results['machine']['name'])}-{results['machine']['date'][:10]}"


def write(results: Results, folder: Path) -> Path:
    """Write JSON and Markdown, each in one step, so that both are whole at any time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem(results)}.md"
    for target, content in (
        (path.with_suffix(".json"), json.dumps(results, indent=1) + "\n"),
        (path, markdown(results)),
    ):
        partial = target.with_name(target.name + ".partial")
        partial.write_text(content)
        os.replace(partial, target)
    return path


# What a run says


def measured(results: Results) -> list[Record]:
    return [record for record in results["cases"] if "ms" in record]


def failures(results: Results) -> list[str]:
    """Return all that makes the run a failure, a line each."""
    found = []
    for name, phase in results["phases"].items():
        if phase["status"] in ("failed", "out of time"):
            found.append(f"{name}: {phase['status']}: {phase['detail']}")
            found += [f"{name}: {line}" for line in phase.get("failures", [])]
    return found + [f"{r['name']}: {r['failed']}" for r in results["cases"] if "failed" in r]


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return geometric_mean(known) if known else None


def verdict(value: float | None, target: float | None) -> str:
    """Say whether a mean reaches its target."""
    if target is None:
        return ""
    return "not measured" if value is None else "met" if value >= target else "not met"


def group_row(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """Return the means of a group beside its targets."""
    target = GROUPS[name]
    ratio, percent = mean(r.get("ratio") for r in records), mean(r["percent"] for r in records)
    return {
        "group": name,
        "cases": len(records),
        "ratio": ratio,
        "least": min((r["ratio"] for r in records if r.get("ratio")), default=None),
        "ratio_best": mean(r.get("ratio_best") for r in records),
        "percent": percent,
        "ratio_verdict": verdict(ratio, target.ratio),
        "percent_verdict": verdict(percent, target.percent),
    }


def points(results: Results) -> list[dict[str, str]]:
    """Return for every promise its target, what was measured, and whether it is met."""
    good, rows = measured(results), []
    for point, names in POINTS.items():
        records = [r for r in good if r["group"] in names]
        ratio_target = GROUPS[names[0]].ratio
        ratio = mean(r.get("ratio") for r in records)
        rows.append(
            {
                "point": point,
                "target": f"at least {ratio_target:g}x PyTorch",
                "measured": _times(ratio),
                "verdict": verdict(ratio, ratio_target),
            }
        )
        bounded = [name for name in names if GROUPS[name].percent is not None]
        if bounded:
            percent_target = GROUPS[bounded[0]].percent
            percent = mean(r["percent"] for r in records if r["group"] in bounded)
            rows.append(
                {
                    "point": point,
                    "target": f"at least {percent_target:g}% of the copy bandwidth",
                    "measured": _percent(percent),
                    "verdict": verdict(percent, percent_target),
                }
            )
    return rows


# Markdown


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}%"


def duration(ms: float) -> str:
    return f"{ms * 1e3:.1f} us" if ms < 1 else f"{ms:.2f} ms" if ms < 100 else f"{ms:.0f} ms"


def _cell(value: str) -> str:
    return " ".join(value.replace("|", "\\|").split())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return [*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)]


def _machine_lines(results: Results) -> list[str]:
    machine, roofs = results["machine"], results.get("roofs")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rows = [
        ("GPU", machine["name"]),
        ("compute capability", machine["capability"]),
        ("driver", machine["driver"]),
        ("system", machine["system"]),
        ("versions", versions),
        ("commit", machine["commit"] or "unknown"),
        ("date", machine["date"]),
    ]
    if roofs:
        rows.append(("copy bandwidth", f"{roofs['copy_gb_per_s']:.0f} GB/s, read and written bytes counted"))
        peaks = ", ".join(f"{name} {value:.0f}" for name, value in roofs["matrix_tflops"].items())
        rows.append((f"matrix product of {roofs['matrix_size']}, TFLOP/s", peaks))
    return _table(("machine", ""), rows)


def _phase_lines(results: Results) -> list[str]:
    rows = [
        (name, phase["status"], f"{phase['seconds']:.0f} s", phase["detail"])
        for name, phase in results["phases"].items()
    ]
    return _table(("phase", "outcome", "time", ""), rows)


def _summary_lines(results: Results) -> list[str]:
    rows = []
    for name, target in GROUPS.items():
        records = [r for r in measured(results) if r["group"] == name]
        if not records:
            continue
        row = group_row(name, records)
        rows.append(
            (
                name,
                str(row["cases"]),
                _times(row["ratio"]),
                "-" if target.ratio is None else f"{target.ratio:g}x {row['ratio_verdict']}",
                _times(row["least"]),
                _times(row["ratio_best"]),
                _percent(row["percent"]),
                "-" if target.percent is None else f"{target.percent:g}% {row['percent_verdict']}",
            )
        )
    header = ("group", "cases", "vs PyTorch", "target", "least", "vs best peer", "of floor", "target")
    return _table(header, rows)


def _others(record: Record) -> str:
    """Return the peers beside PyTorch."""
    return ", ".join(
        f"{name} {_times(peer['ratio'])}"
        for name, peer in record["peers"].items()
        if not name.startswith("torch")
    )


def _case_lines(results: Results) -> list[str]:
    lines: list[str] = []
    for group in GROUPS:
        records = [r for r in measured(results) if r["group"] == group]
        if not records:
            continue
        lines += ["", f"### {group}", ""]
        rows = [
            (
                r["name"],
                duration(r["ms"]) + (" (graph)" if r["mode"] == "graph" else ""),
                _times(r.get("ratio")),
                r["torch"] or "-",
                _others(r) or "-",
                f"{_percent(r['percent'])} {r['limit']}",
                f"{r['tflops']:.1f} TFLOP/s" if r["limit"] == "matrix" else f"{r['gb_per_s']:.0f} GB/s",
            )
            for r in records
        ]
        header = ("case", "arraynn", "vs PyTorch", "its fastest", "other peers", "of floor", "rate")
        lines += _table(header, rows)
    return lines


def markdown(results: Results) -> str:
    """Return the whole report."""
    machine = results["machine"]
    name = stem(results)
    done, planned = len(results["cases"]), results["planned"]
    lines = [
        f"# arraynn on {machine['name']}, {machine['date'][:10]}",
        "",
        f"Made by `python bench/gpu.py` in {results['seconds'] / 60:.1f} minutes; {done} of {planned} "
        + ("cases ran, the time was up before the rest." if done < planned else "cases ran."),
        "A ratio is the peer's time over ours, above 1 we are faster; means are geometric. PyTorch, with",
        "`cudnn.benchmark`, counts in its fastest mode, and so do we: eager, or on small cases replayed",
        "from a CUDA graph. The floor is the larger of bytes / copy bandwidth and operations / matrix peak.",
        "",
        *_machine_lines(results),
        "",
        "## Outcome",
        "",
        *_phase_lines(results),
        "",
        *_table(
            ("point", "target", "measured", ""),
            [(p["point"], p["target"], p["measured"], p["verdict"]) for p in points(results)],
        ),
        "",
        "## By group",
        "",
        *_summary_lines(results),
        "",
    ]
    if results.get("chart"):
        lines += [f"![Ratio to PyTorch and share of the floor, case by case]({name}.png)", ""]
    failed = failures(results)
    lines += ["## Failures", "", *([f"- FAILED {_cell(line)}" for line in failed] or ["None."])]
    skipped = [f"- {r['name']}: {r['skipped']}" for r in results["cases"] if "skipped" in r]
    if skipped:
        lines += ["", "## Skipped", "", *skipped]
    notes = [
        f"- {r['name']}: {peer}: {_cell(why)}"
        for r in results["cases"]
        for peer, why in r.get("left_out", {}).items()
        if why not in ("not written", "not installed")
    ]
    lines += ["", "## Cases", *_case_lines(results)]
    if notes:
        lines += ["", "## Peers left out, and other notes", "", *notes]
    return "\n".join(lines) + "\n"


# The chart


def draw(results: Results, folder: Path) -> Path | None:
    """Draw every case: its ratio to PyTorch, and its share of the floor. None without matplotlib."""
    records = [r for r in measured(results) if r.get("ratio")]
    if importlib.util.find_spec("matplotlib") is None or not records:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    columns = _columns(records)
    height = max(len(rows) for rows in columns)
    size = (max(6.0 * len(columns), 9.0), 1.2 + 0.18 * height)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, 2 * len(columns), width_ratios=[2, 1] * len(columns), squeeze=False)[0]
    ratios = [r["ratio"] for r in records]
    low, high = min(0.5, *ratios) / 1.2, max(2.0, *ratios) * 1.8
    for index, rows in enumerate(columns):
        _draw_ratios(grid[2 * index], rows, low, high, height)
        _draw_floors(grid[2 * index + 1], rows, height)
    machine = results["machine"]
    figure.suptitle(
        f"arraynn on {machine['name']}, {machine['date'][:10]}\n"
        "left: time of PyTorch's fastest mode / time of arraynn (beyond 1x arraynn is faster; | target)\n"
        "right: the floor's share of arraynn's time",
        fontsize=11,
        color=_INK,
    )
    path = folder / f"{stem(results)}.png"
    figure.savefig(path)
    with Image.open(path) as image:  # a few flat colours: a palette makes the file several times smaller
        few = image.convert("RGB").quantize(32)
    few.save(path, optimize=True)
    return path


Row = tuple[str, Record | None]  # a heading has no record


def _label(record: Record) -> str:
    """Return a case's name without what its group's heading says."""
    name: str = record["name"]
    if not record["group"].startswith("conv"):
        return name
    return re.sub(r" (fp|bf)\d+ (NCHW|channels-last)$", "", name.removeprefix("conv2d "))


def _columns(records: Sequence[Record]) -> list[list[Row]]:
    """Deal the means and then the cases, by group, out to at most four columns of the same height."""
    rows: list[Row] = [("geometric means", None)]
    members = {group: [r for r in records if r["group"] == group] for group in GROUPS}
    members = {group: found for group, found in members.items() if found}
    for group, found in members.items():
        means = {"ratio": mean(r["ratio"] for r in found), "percent": mean(r["percent"] for r in found)}
        rows.append((f"{group} ({len(found)})", means | {"target": GROUPS[group].ratio}))
    for group, found in members.items():
        rows += [("", None), (group, None), *((_label(r), r) for r in found)]
    height = max(50, -(-(len(rows) + 8) // 4))  # with room for headings that are said again
    columns: list[list[Row]] = []
    while rows:
        part, rows = rows[:height], rows[height:]
        while len(part) > 1 and rows and part[-1][1] is None:  # no heading at the foot
            rows.insert(0, part.pop())
        while rows and rows[0] == ("", None):
            rows.pop(0)
        columns.append(part)
        if rows and rows[0][1] is not None:
            group = next(name for name, record in reversed(part) if record is None)
            rows.insert(0, (f"{group.removesuffix(', continued')}, continued", None))
    return columns


def _style(axes: Any, height: int) -> None:
    axes.set_ylim(height - 0.5, -1)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=_FAINT, linewidth=0.7)
    axes.tick_params(length=0, labelsize=7)
    axes.tick_params(axis="x", labeltop=True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _draw_ratios(axes: Any, rows: Sequence[Row], low: float, high: float, height: int) -> None:
    for at, (_, record) in enumerate(rows):
        if record is None:
            continue
        ratio = record["ratio"]
        axes.barh(at, ratio - 1, left=1.0, height=0.8, color=_FASTER if ratio >= 1 else _SLOWER)
        target = record.get("target")
        if target is not None:
            axes.plot([target, target], [at - 0.4, at + 0.4], color=_INK, linewidth=1.6)
        axes.text(
            1.03 * max(1.0, ratio, target or 0.0), at, f"{ratio:.2f}", va="center", fontsize=7, color=_INK
        )
    axes.axvline(1.0, color=_INK, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    _style(axes, height)
    powers = [power for power in range(-6, 12) if low <= 2.0**power <= high]
    apart = -(-len(powers) // 6)  # so that the labels do not touch
    marks = [2.0**power for power in powers if power % apart == 0]
    axes.set_xticks(marks, [f"{mark:g}x" for mark in marks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=7)
    for tick, (_, record) in zip(axes.get_yticklabels(), rows, strict=True):
        if record is None:
            tick.set_fontweight("bold")


def _draw_floors(axes: Any, rows: Sequence[Row], height: int) -> None:
    for at, (_, record) in enumerate(rows):
        if record is None:
            continue
        percent = record["percent"]
        axes.barh(at, min(percent, 130), height=0.8, color=_FLOOR)
        axes.text(min(percent, 130) + 2, at, f"{percent:.0f}%", va="center", fontsize=7, color=_INK)
    axes.axvline(100, color=_INK, linewidth=0.8)
    axes.set_xlim(0, 170)
    _style(axes, height)
    axes.set_xticks([0, 50, 100], ["0", "50", "100%"])
    axes.set_yticks([])


# The terminal


def line(record: Mapping[str, Any]) -> str:
    """Return a case in one line."""
    if "failed" in record:
        return f"{record['name']}: FAILED {record['failed']}"
    if "skipped" in record:
        return f"{record['name']}: skipped, {record['skipped']}"
    return (
        f"{record['name']}: {duration(record['ms'])}, {_percent(record['percent'])} of {record['limit']}, "
        f"{_times(record.get('ratio'))} PyTorch"
    )


def summary(results: Results) -> str:
    """Return the groups, the targets and the failures as text."""
    good = measured(results)
    lines = [f"{'group':30} cases  vs PyTorch  of floor"]
    for name in GROUPS:
        records = [r for r in good if r["group"] == name]
        if records:
            row = group_row(name, records)
            lines.append(
                f"{name:30} {row['cases']:5}  {_times(row['ratio']):>10}  {_percent(row['percent']):>8}"
            )
    lines.append("")
    for point in points(results):
        lines.append(
            f"{point['verdict']:12} {point['point']}: {point['target']}, measured {point['measured']}"
        )
    lines += [f"FAILED {failure}" for failure in failures(results)]
    return "\n".join(lines)
