"""Initial values of parameters, in place, by the names of ``torch.nn.init``.

``init.kaiming_normal_(layer.weight, nonlinearity="relu", rng=0)`` fills a layer's parameter; an array
takes its place as well, and is returned. Values are drawn in float64 and rounded to the parameter's
dtype. The fans of a weight (out, in, ...) are in * prod(...) and out * prod(...).
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from .layers import LSTM, LSTMCell, Parameter

__all__ = [
    "calculate_gain",
    "constant_",
    "forget_gate_bias_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

Target = TypeVar("Target", Parameter, NDArray[Any])
Recurrent = TypeVar("Recurrent", LSTM, LSTMCell)
Rng = int | np.random.Generator | None
Mode = Literal["fan_in", "fan_out"]


def constant_(tensor: Target, val: float) -> Target:
    """Fill with `val`."""
    return _fill(tensor, val, "constant_")


def zeros_(tensor: Target) -> Target:
    """Fill with zeros."""
    return _fill(tensor, 0.0, "zeros_")


def ones_(tensor: Target) -> Target:
    """Fill with ones."""
    return _fill(tensor, 1.0, "ones_")


def uniform_(tensor: Target, a: float = 0.0, b: float = 1.0, *, rng: Rng = None) -> Target:
    """Draw from the uniform distribution on ``[a, b)``."""
    values = _values(tensor, "uniform_")
    values[...] = np.random.default_rng(rng).uniform(a, b, values.shape)
    return tensor


def normal_(tensor: Target, mean: float = 0.0, std: float = 1.0, *, rng: Rng = None) -> Target:
    """Draw from the normal distribution."""
    values = _values(tensor, "normal_")
    values[...] = np.random.default_rng(rng).normal(mean, std, values.shape)
    return tensor


def xavier_uniform_(tensor: Target, gain: float = 1.0, *, rng: Rng = None) -> Target:
    """Draw uniformly with the standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` [1]_.

    For layers before tanh, sigmoid or nothing; `calculate_gain` gives the gain.

    References
    ----------
    .. [1] Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
       networks", AISTATS 2010.
    """
    bound = math.sqrt(3) * gain * _xavier_std(tensor, "xavier_uniform_")
    return uniform_(tensor, -bound, bound, rng=rng)


def xavier_normal_(tensor: Target, gain: float = 1.0, *, rng: Rng = None) -> Target:
    """Draw normally, otherwise as `xavier_uniform_`."""
    return normal_(tensor, 0.0, gain * _xavier_std(tensor, "xavier_normal_"), rng=rng)


def kaiming_uniform_(
    tensor: Target,
    a: float = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    rng: Rng = None,
) -> Target:
    """Draw uniformly with the standard deviation ``calculate_gain(nonlinearity, a) / sqrt(fan)`` [1]_.

    For layers before ReLU and its like.

    Parameters
    ----------
    tensor : Parameter or array
        Of at least 2 axes.
    a : float, default 0
        Slope of `leaky_relu` below zero.
    mode : "fan_in" or "fan_out"
        Whether variances are kept on the way forward or on the way back.
    nonlinearity : str
        See `calculate_gain`.

    References
    ----------
    .. [1] He, Zhang, Ren and Sun, "Delving Deep into Rectifiers", ICCV 2015.
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity, "kaiming_uniform_")
    return uniform_(tensor, -bound, bound, rng=rng)


def kaiming_normal_(
    tensor: Target,
    a: float = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    rng: Rng = None,
) -> Target:
    """Draw normally, otherwise as `kaiming_uniform_`."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity, "kaiming_normal_"), rng=rng)


def orthogonal_(tensor: Target, gain: float = 1.0, *, rng: Rng = None) -> Target:
    """Draw a matrix with orthonormal rows or columns, whichever are fewer, times `gain` [1]_.

    Axes after the first count as one. For recurrent weights: powers of such a matrix neither explode
    nor vanish.

    References
    ----------
    .. [1] Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
       linear neural networks", ICLR 2014.
    """
    values = _values(tensor, "orthogonal_", 2)
    if values.size:
        rows = values.shape[0]
        columns = values.size // rows
        drawn = np.random.default_rng(rng).standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(drawn)
        q *= np.sign(np.diagonal(r))  # uniform over the orthogonal matrices (Mezzadri 2007)
        values[...] = gain * (q if rows >= columns else q.T).reshape(values.shape)
    return tensor


def forget_gate_bias_(layer: Recurrent, value: float = 1.0) -> Recurrent:
    """Set the bias of an LSTM's forget gates, in all its layers and directions, and return the layer.

    A bias above zero lets the cell remember while training begins [1]_. Of the two biases that are
    added, the input's gets `value` and the recurrent one zero.

    Parameters
    ----------
    layer : LSTM or LSTMCell
        With biases.
    value : float, default 1

    References
    ----------
    .. [1] Gers, Schmidhuber and Cummins, "Learning to Forget: Continual Prediction with LSTM", 2000.
    """
    if not isinstance(layer, LSTM | LSTMCell):
        raise TypeError(f"forget_gate_bias_: layer must be an LSTM or LSTMCell, got {type(layer).__name__}")
    biases = {name: p.data for name, p in layer.named_parameters() if name.startswith(("bias_ih", "bias_hh"))}
    if not biases:
        raise ValueError("forget_gate_bias_: layer has no biases")
    for name, bias in biases.items():
        gate = len(bias) // 4  # the gates are i, f, g, o
        bias[gate : 2 * gate] = value if name.startswith("bias_ih") else 0.0
    return layer


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the gain that keeps the variance through an activation, as ``torch.nn.init.calculate_gain``.

    Parameters
    ----------
    nonlinearity : str
        "linear", "conv1d" to "conv3d" (and transposed), "sigmoid": 1; "tanh": 5/3; "relu": sqrt(2);
        "leaky_relu": ``sqrt(2 / (1 + param**2))``; "selu": 3/4.
    param : float, default 0.01
        Slope of "leaky_relu" below zero.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        known = ", ".join(map(repr, (*_GAINS, "leaky_relu")))
        raise ValueError(f"calculate_gain: nonlinearity must be one of {known}, got {nonlinearity!r}")
    return _GAINS[nonlinearity]


_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_GAINS = dict.fromkeys((*_LINEAR, "sigmoid"), 1.0) | {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def _fill(tensor: Target, val: float, op: str) -> Target:
    _values(tensor, op)[...] = val
    return tensor


def _values(tensor: Any, op: str, ndim: int = 0) -> NDArray[Any]:
    values = tensor.data if isinstance(tensor, Parameter) else tensor
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{op}: tensor must be a Parameter or an array, got {type(tensor).__name__}")
    if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
        raise TypeError(f"{op}: tensor has dtype {values.dtype}, expected a floating one")
    if values.ndim < ndim:
        raise ValueError(f"{op}: tensor has shape {values.shape}, expected at least {ndim} axes")
    return values


def _fans(tensor: Any, op: str) -> tuple[int, int]:
    shape = _values(tensor, op, 2).shape
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _xavier_std(tensor: Any, op: str) -> float:
    fans = sum(_fans(tensor, op))
    return math.sqrt(2 / fans) if fans else 0.0


def _kaiming_std(tensor: Any, a: float, mode: str, nonlinearity: str, op: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{op}: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(tensor, op)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0
