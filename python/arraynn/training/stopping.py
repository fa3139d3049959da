"""Early stopping: `EarlyStopping`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from ..layers import Layer


@dataclass(frozen=True)
class EarlyStopping:
    """When `fit` ends a run that no longer gets better; the best weights are put back then.

    Attributes
    ----------
    monitor : str, default "val_loss"
        The entry of the history to watch.
    patience : int, default 5
        Epochs in a row without improvement after which the run ends.
    mode : "min" or "max"
        Whether smaller or larger is better.
    min_delta : float, default 0
        A smaller change is no improvement.
    restore_best : bool, default True
        Give the model the weights of its best epoch, also when the run ends for another reason.
    """

    monitor: str = "val_loss"
    patience: int = 5
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"EarlyStopping: mode must be 'min' or 'max', got {self.mode!r}")
        for name, least in (("patience", 1), ("min_delta", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"EarlyStopping: {name} must be at least {least}, got {getattr(self, name)}")


class Best:
    """The best epoch so far, by an `EarlyStopping`."""

    def __init__(self, rule: EarlyStopping) -> None:
        self._rule = rule
        self.value = math.inf if rule.mode == "min" else -math.inf
        self.waited = 0  # epochs since
        self.weights: dict[str, NDArray[Any]] = {}

    def see(self, values: Mapping[str, float], model: Layer) -> None:
        """Take notice of an epoch."""
        value = values[self._rule.monitor]
        gain = self.value - value if self._rule.mode == "min" else value - self.value
        if gain > self._rule.min_delta:
            self.value, self.waited = value, 0
            if self._rule.restore_best:
                self.weights = model.state_dict()
        else:
            self.waited += 1

    @property
    def stops(self) -> bool:
        return self.waited >= self._rule.patience

    def restore(self, model: Layer) -> None:
        """Give the model its best weights."""
        if self.weights:
            model.load_state_dict(self.weights)

    def facts(self) -> dict[str, Any]:
        return {"value": self.value, "waited": self.waited}

    def go_on(self, facts: Mapping[str, Any], weights: dict[str, NDArray[Any]]) -> None:
        self.value, self.waited, self.weights = facts["value"], facts["waited"], weights
