"""Ctrl-C and the progress bar."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that no step is left half done."""
    pressed = False

    def note(signum: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one raises

    # a handler of the caller's own is left alone, and only the main thread may set one
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Bar:
    """A tqdm bar, or nothing."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def show(self, **values: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_text(values), refresh=False)
            self._bar.update()

    def finish(self, values: Mapping[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_text(values), refresh=True)


def _text(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.4f}" for name, value in values.items())


@contextlib.contextmanager
def progress_bar(progress: bool, title: str, total: int | None) -> Iterator[Bar]:
    if not progress:
        yield Bar(None)
        return
    from tqdm import tqdm  # here, because it takes longer to import than the rest of this package

    form = "{desc} |{bar:16}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    if total is None:
        form = "{desc} {n_fmt} [{elapsed}{postfix}]"
    with tqdm(total=total, desc=title, bar_format=form, dynamic_ncols=True) as bar:
        yield Bar(bar)
