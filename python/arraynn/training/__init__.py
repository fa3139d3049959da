"""Training: `fit`, `evaluate`, `predict`, `History`, `EarlyStopping`."""

from .evaluation import evaluate, predict
from .history import History
from .loop import fit
from .stopping import EarlyStopping

__all__ = ["EarlyStopping", "History", "evaluate", "fit", "predict"]
