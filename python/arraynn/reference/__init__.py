"""Every op in plain NumPy, float64 inside: the definition that the kernels are tested against.

Same names, arguments and errors as in `arraynn`; `arraynn.vjp` takes these ops too.
"""

from .activation import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus, tanh
from .attention import scaled_dot_product_attention
from .channel_norm import batch_norm, group_norm
from .conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from .cross_entropy import cross_entropy, linear_cross_entropy, nll_loss
from .dropout import dropout
from .embedding import embedding
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
from .pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from .rnn import gru, gru_cell, lstm, lstm_cell, rnn, rnn_cell
from .row_norm import layer_norm, rms_norm

__all__ = [
    "adagrad_step",
    "adam_step",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
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
    "embedding",
    "gelu",
    "group_norm",
    "gru",
    "gru_cell",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_cross_entropy",
    "log_softmax",
    "lstm",
    "lstm_cell",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mse_loss",
    "nll_loss",
    "relu",
    "rms_norm",
    "rmsprop_step",
    "rnn",
    "rnn_cell",
    "scaled_dot_product_attention",
    "sgd_step",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]
