"""Every op in plain NumPy, float64 inside: the definition that the kernels are tested against.

Same names, arguments and errors as in `arraynn`; `arraynn.vjp` takes these ops too.
"""

from .activation import log_softmax, relu, sigmoid, softmax, tanh
from .conv import conv1d, conv2d
from .cross_entropy import cross_entropy
from .dropout import dropout
from .linear import linear
from .loss import mse_loss
from .optimizer import adam_step, clip_grad_norm, sgd_step
from .pool import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from .rnn import gru, gru_cell, lstm, lstm_cell, rnn, rnn_cell

__all__ = [
    "adam_step",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "clip_grad_norm",
    "conv1d",
    "conv2d",
    "cross_entropy",
    "dropout",
    "gru",
    "gru_cell",
    "linear",
    "log_softmax",
    "lstm",
    "lstm_cell",
    "max_pool2d",
    "mse_loss",
    "relu",
    "rnn",
    "rnn_cell",
    "sgd_step",
    "sigmoid",
    "softmax",
    "tanh",
]
