"""What training measured: `History`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class History(dict[str, list[float]]):
    """What `fit` measured: ``history["loss"][i]`` is the loss of epoch ``i``.

    Attributes
    ----------
    stopped : None or str
        Why the run ended before its last epoch: "interrupt", "callback" or "early stopping".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stopped: str | None = None

    @property
    def epochs(self) -> int:
        """The number of complete epochs."""
        return len(self.get("loss", ()))

    def record(self, values: Mapping[str, float]) -> None:
        """Append one epoch."""
        for name, value in values.items():
            self.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        head = f"History of {self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        head += f", stopped by {self.stopped}" if self.stopped else ""
        if not self.epochs:
            return head
        width = max(map(len, self))
        rows = [f"  {'':{width}}  {'first':>10}  {'last':>10}  {'least':>10}  {'most':>10}"]
        for name, values in self.items():
            cells = "  ".join(f"{v:10.4g}" for v in (values[0], values[-1], min(values), max(values)))
            rows.append(f"  {name:{width}}  {cells}")
        return "\n".join([head, *rows])
