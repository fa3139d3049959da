"""What the examples share: the command line, data, the twin in PyTorch, pictures, the table of results."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import arraynn as ann
import numpy as np
from arraynn.demo import Digits, bundled, mnist
from arraynn.training.data import read_ahead

FOLDER = Path(__file__).resolve().parent
COLORS = ("#2a6fdb", "#e8743b", "#1a7f4b", "#8a4fbf", "#c8322b", "#7a7a7a")


class Outcome(NamedTuple):
    """What a training run is judged by."""

    score: float
    seconds: float  # of an epoch, with what is measured after it: the median, since machines are shared


def arguments(text: str, **more: Any) -> argparse.Namespace:
    """Read the command line; `more` are further options, by name, with their defaults."""
    parser = argparse.ArgumentParser(description=text.split("\n\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the real data (see README.md)")
    parser.add_argument(
        "--quick", action="store_true", help="little data, few epochs: only to see that it runs"
    )
    parser.add_argument("--out", type=Path, help="the picture (default: beside the example)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (%(default)s)")
    parser.add_argument("--engine", choices=("arraynn", "torch"), default="arraynn", help=argparse.SUPPRESS)
    parser.add_argument("--in-turns", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-twin", action="store_true", help="do not train the same network in PyTorch")
    for name, default in more.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help="(%(default)s)"
        )
    options = parser.parse_args()
    options.name = Path(sys.argv[0]).stem
    folder = Path(tempfile.gettempdir()) if options.quick else FOLDER
    options.out = options.out or folder / f"{options.name}.png"
    options.twin = None
    if options.in_turns:
        Clock.after_epoch = _wait_for_turn
    elif options.engine == "arraynn" and not (options.no_twin or options.quick):
        options.twin = Twin()
        Clock.after_epoch = options.twin.turn
    return options


def digits(options: argparse.Namespace) -> Digits:
    """Return MNIST from ``--data``, else scikit-learn's 8x8 digits."""
    found = mnist(options.data) if options.data else bundled()
    if options.quick:
        (x, y), (x_test, y_test) = found.train, found.test
        found = Digits(found.name, (x[:400], y[:400]), (x_test[:200], y_test[:200]))
    print(f"{found.name}: {len(found.train[0]):,} training and {len(found.test[0]):,} test images")
    return found


def parameters(model: ann.layers.Layer) -> str:
    return f"{sum(p.data.size for p in model.parameters()):,} parameters"


class Clock:
    """Seconds of the epochs of a run that it is a callback of."""

    after_epoch: Callable[[], object] = staticmethod(lambda: None)  # not counted: here the twin has its turn

    def __init__(self) -> None:
        self._epochs: list[float] = []
        self._start = time.perf_counter()

    def __call__(self, *_: Any) -> None:
        self._epochs.append(time.perf_counter() - self._start)
        Clock.after_epoch()
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return float(np.median(self._epochs))


# -- PyTorch --------------------------------------------------------------------------------


def torch_fit(
    model: Any,
    loss: Callable[..., Any],
    optimizer: Any,
    data: tuple[Any, Any] | Callable[[int], Iterable[tuple[Any, Any]]],
    *,
    epochs: int,
    batch_size: int = 0,
    score: Callable[[], float],
    clip_norm: float | None = None,
    after_step: Callable[[], Any] = lambda: None,
    after_epoch: Callable[[], Any] = lambda: None,
    seed: int = 0,
) -> Outcome:
    """Train as `arraynn.fit` does, in PyTorch: batches of that size, the score after every epoch, no more."""
    import torch

    torch.set_num_threads(ann.get_num_threads())
    batches = data if callable(data) else _torch_batches(*data, batch_size, seed)
    clock = Clock()
    for epoch in range(epochs):
        model.train()
        found = iter(batches(epoch))
        # as in fit a thread fetches what is made on the way; a DataLoader would need processes for that
        for x, y in read_ahead(found) if callable(data) else found:
            optimizer.zero_grad()
            loss(model(x if isinstance(x, tuple) else torch.as_tensor(x)), torch.as_tensor(y)).backward()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            after_step()
        after_epoch()
        model.eval()
        with torch.inference_mode():
            result = score()
        clock()
    return Outcome(result, clock.seconds)


def _torch_batches(x: Any, y: Any, batch_size: int, seed: int) -> Callable[[int], Iterator[tuple[Any, Any]]]:
    import torch

    x, y = (torch.from_numpy(np.ascontiguousarray(a)) for a in (x, y))
    rng = np.random.default_rng(seed)

    def batches(epoch: int) -> Iterator[tuple[Any, Any]]:
        order = torch.from_numpy(rng.permutation(len(x)))
        for i in range(0, len(x), batch_size):
            chosen = order[i : i + batch_size]
            yield x[chosen], y[chosen]

    return batches


def torch_accuracy(model: Any, x: Any, y: Any, batch_size: int = 256) -> float:
    """Return the share of right classes."""
    import torch

    found = [model(torch.from_numpy(x[i : i + batch_size])).argmax(1) for i in range(0, len(x), batch_size)]
    return float((torch.cat(found).numpy() == y).mean())


def hand_over(outcome: Outcome) -> None:
    """Tell the process that asked for the twin what came out."""
    print("twin " + json.dumps(outcome._asdict()), flush=True)


class Twin:
    """The same network in PyTorch, trained in a process of its own: two thread pools disturb each other.

    Both take turns, an epoch each, since a machine that others share has slow minutes.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.took_turns = False
        self._outcome: Outcome | None = None

    def turn(self) -> None:
        """Let it train for an epoch."""
        if self._process is None:
            self._start()
        else:
            self._tell("on")
        self._wait(for_epoch=True)
        self.took_turns = True

    def finish(self) -> Outcome | None:
        """Return what came out, or None without PyTorch."""
        if self._process is None:
            self._start()
        self._tell("to the end")
        self._wait(for_epoch=False)
        return self._outcome

    def _start(self) -> None:
        if importlib.util.find_spec("torch") is not None:
            command = [sys.executable, *sys.argv, "--engine", "torch", "--in-turns"]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def _tell(self, word: str) -> None:
        if self._process and self._process.stdin and self._process.poll() is None:
            print(word, file=self._process.stdin, flush=True)

    def _wait(self, for_epoch: bool) -> None:
        if self._process is None or self._process.stdout is None or self._outcome is not None:
            return
        for line in self._process.stdout:
            if line.startswith("twin "):
                self._outcome = Outcome(**json.loads(line.removeprefix("twin ")))
            if for_epoch and line == _EPOCH_DONE + "\n":
                return
        if self._process.wait() or self._outcome is None:
            raise RuntimeError("the network in PyTorch ended without a result")


_EPOCH_DONE = "epoch done"


def _wait_for_turn() -> None:
    """Let the process that asked for the twin train for an epoch."""
    print(_EPOCH_DONE, flush=True)
    word = sys.stdin.readline().strip()
    if word == "to the end":
        Clock.after_epoch = lambda: None
    elif not word:
        sys.exit("the process that asked for this network is gone")


# -- results --------------------------------------------------------------------------------


def report(
    options: argparse.Namespace,
    outcome: Outcome,
    *,
    what: str,
    data: str,
    measure: str,
    target: float,
    form: str = ".2%",
    least: bool = False,
    twin: bool = True,
) -> None:
    """Print what came out, train the twin, and, unless ``--quick``, keep both in the table.

    `what` says in a few words what the network is, `measure` what its score is; `target` must be
    reached: at least, or at most if the `least` is best.
    """
    reached = outcome.score <= target if least else outcome.score >= target
    print(
        f"{measure}: {outcome.score:{form}} (to reach: {target:{form}}{'' if reached else ', not reached'}), "
        f"{outcome.seconds:.2f} s per epoch"
    )
    other = options.twin.finish() if twin and options.twin else None
    if other:
        print(f"PyTorch: {other.score:{form}}, {other.seconds:.2f} s per epoch")
    print(f"picture: {options.out}")
    if options.quick:
        return
    entry = {
        "what": what,
        "data": data,
        "measure": measure,
        "score": f"{outcome.score:{form}}",
        "target": f"{'at most' if least else 'at least'} {target:{form}}",
        "reached": bool(reached),
        "seconds": outcome.seconds,
        "torch_score": f"{other.score:{form}}" if other else None,
        "torch_seconds": other.seconds if other else None,
        "in_turns": bool(options.twin and options.twin.took_turns),
        "date": date.today().isoformat(),
        "machine": f"{_processor()}, {ann.get_num_threads()} threads",
    }
    path = FOLDER / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[options.name] = entry
    path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    write_table(results)


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


def write_table(results: dict[str, dict[str, Any]]) -> None:
    """Put the table between its marks in README.md."""
    lines = [
        "| example | what | data | must reach | reached | PyTorch | s per epoch | PyTorch | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for name, r in sorted(results.items()):
        theirs, ratio = "-", "-"
        if r["torch_seconds"]:
            ratios.append(r["torch_seconds"] / r["seconds"])
            theirs = f"{r['torch_seconds']:.2f}"
            ratio = f"{ratios[-1]:.2f}x{'' if r['in_turns'] else ' *'}"
        score = r["score"] if r["reached"] else f"{r['score']} (not reached)"
        lines.append(
            f"| [{name}]({name}.py) | {r['what']} | {r['data']} | {r['measure']} {r['target']} | {score} "
            f"| {r['torch_score'] or '-'} | {r['seconds']:.2f} | {theirs} | {ratio} |"
        )
    if ratios:
        lines += ["", f"Geometric mean of the ratios: {float(np.exp(np.mean(np.log(ratios)))):.2f}x."]
    if any(r["torch_seconds"] and not r["in_turns"] for r in results.values()):
        lines += ["\\* one after the other instead of in turns."]
    days = sorted({r["date"] for r in results.values()})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    lines += ["", f"{when}; {'; '.join(sorted({r['machine'] for r in results.values()}))}; float32."]
    path = FOLDER / "README.md"
    begin, end = "<!-- results -->", "<!-- end of results -->"
    before, rest = path.read_text().split(begin)
    after = rest.split(end)[1]
    path.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after)


# -- pictures -------------------------------------------------------------------------------


def figure(title: str, width: float = 11, height: float = 4.5) -> Any:
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    made.suptitle(title, fontsize=14, fontweight="bold")
    return made


def tidy(*axes: Any) -> None:
    """Give axes a light grid and no box."""
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)


def draw_history(axis: Any, history: ann.History, names: Sequence[str], title: str) -> None:
    """Draw entries of a history over the epochs."""
    epochs = range(1, history.epochs + 1)
    for name, color in zip(names, COLORS, strict=False):
        axis.plot(epochs, history[name], marker="o", markersize=3, linewidth=2, color=color, label=name)
    axis.set(title=title, xlabel="epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    tidy(axis)


def draw_returns(
    path: object, title: str, lengths: Sequence[float], tests: Sequence[int], target: float, xlabel: str
) -> None:
    """Draw the returns of a game while learning, with their running mean if they are many, and afterwards."""
    made = figure(title)
    left, right = made.subplots(1, 2)
    many = len(lengths) > 200
    left.plot(lengths, color=COLORS[0], linewidth=0.7 if many else 1.5, alpha=0.5 if many else 1)
    if many:
        left.plot(np.convolve(lengths, np.ones(20) / 20, "valid"), color=COLORS[0], linewidth=2)
    left.axhline(target, color="black", linestyle="--", linewidth=1)
    left.set(title="Return while learning", xlabel=xlabel, ylim=(0, 510))
    right.hist(tests, bins=25, range=(0, 500), color=COLORS[2])
    right.set(title=f"Return of {len(tests)} episodes afterwards", xlabel="return")
    tidy(left, right)
    made.savefig(path, dpi=120)


def draw_images(axes: Any, images: Any, titles: Sequence[str], wrong: Sequence[bool] | None = None) -> None:
    """Draw gray images with titles; those marked wrong in red."""
    for i, axis in enumerate(axes):
        axis.set(xticks=[], yticks=[])
        if i < len(images):
            axis.imshow(images[i], cmap="gray_r", interpolation="nearest")
            color = "#c8322b" if wrong is not None and wrong[i] else "black"
            axis.set_title(titles[i], fontsize=9, color=color, pad=3)
        else:
            axis.set_visible(False)
