"""Every op in plain NumPy, float64 inside: the definition that the kernels are tested against.

Same names, arguments and errors as in `arraynn`; `arraynn.vjp` takes these ops too.
"""

from .activation import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus, tanh
from .conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from .cross_entropy import cross_entropy, linear_cross_entropy, nll_loss
from .dropout import dropout
from .linear import linear
from .loss import binary_cross_entropy_with_logits, huber_loss, kl_div, l1_loss, mse_loss
from .optimizer import (
    adagrad_step,
    adam_step,
    clip_grad_norm,
    clip_grad_value,
    rmsprop_step,
    sgd_step,
)
from .pool import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from .rnn import gru, gru_cell, lstm, lstm_cell, rnn, rnn_cell

__all__ = [
    "adagrad_step",
    "adam_step",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "binary_cross_entropy_with_logits",
    "clip_grad_norm",
    "clip_grad_value",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "dropout",
    "elu",
    "gelu",
    "gru",
    "gru_cell",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "leaky_relu",
    "linear",
    "linear_cross_entropy",
    "log_softmax",
    "lstm",
    "lstm_cell",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "relu",
    "rmsprop_step",
    "rnn",
    "rnn_cell",
    "sgd_step",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]
