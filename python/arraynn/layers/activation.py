"""`ReLU`, `Sigmoid`, `Tanh`, `Softmax` and `LogSoftmax`."""

from __future__ import annotations

from ..activation import log_softmax, relu, sigmoid, softmax, tanh
from .base import OpLayer


class ReLU(OpLayer):
    """``max(x, 0)``, `arraynn.relu`."""

    op = staticmethod(relu)


class Sigmoid(OpLayer):
    """``1 / (1 + exp(-x))``, `arraynn.sigmoid`."""

    op = staticmethod(sigmoid)


class Tanh(OpLayer):
    """Hyperbolic tangent, `arraynn.tanh`."""

    op = staticmethod(tanh)


class _AlongAxis(OpLayer):
    options = ("axis",)

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class Softmax(_AlongAxis):
    """``exp(x) / sum(exp(x))`` along `axis`, `arraynn.softmax`.

    Not for use before `arraynn.cross_entropy`, which takes the scores themselves.
    """

    op = staticmethod(softmax)


class LogSoftmax(_AlongAxis):
    """``x - log(sum(exp(x)))`` along `axis`, `arraynn.log_softmax`."""

    op = staticmethod(log_softmax)
