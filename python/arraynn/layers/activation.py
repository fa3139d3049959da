"""Activations: the pointwise ones, `Softmax` and `LogSoftmax`."""

from __future__ import annotations

from ..activation import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus, tanh
from .base import OpLayer


class ReLU(OpLayer):
    """``max(x, 0)``, `arraynn.relu`."""

    op = staticmethod(relu)


class LeakyReLU(OpLayer):
    """``x`` where it is positive, else ``negative_slope x``, `arraynn.leaky_relu`."""

    op = staticmethod(leaky_relu)
    options = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(OpLayer):
    """``x`` where it is positive, else ``alpha (exp(x) - 1)``, `arraynn.elu`."""

    op = staticmethod(elu)
    options = ("alpha",)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class GELU(OpLayer):
    """``x Phi(x)``, `arraynn.gelu`."""

    op = staticmethod(gelu)
    options = ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(OpLayer):
    """``x sigmoid(x)``, `arraynn.silu`."""

    op = staticmethod(silu)


class Softplus(OpLayer):
    """``log(1 + exp(beta x)) / beta``, `arraynn.softplus`."""

    op = staticmethod(softplus)
    options = ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta = beta
        self.threshold = threshold

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


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
