"""Neural-network kernels for plain arrays.

Ops are plain functions on NumPy arrays with the names and semantics of ``torch.nn.functional``;
`vjp` differentiates them; `reference` holds the same ops in readable NumPy; `layers`, `optim` and
`fit` train networks with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._config import get_num_threads, set_num_threads, show_config
from ._vjp import vjp
from .activation import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus, tanh
from .attention import scaled_dot_product_attention
from .channel_norm import batch_norm, group_norm
from .conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from .cross_entropy import cross_entropy, linear_cross_entropy, nll_loss
from .dropout import dropout
from .embedding import embedding
from .linear import linear
from .loss import binary_cross_entropy_with_logits, huber_loss, kl_div, l1_loss, mse_loss
from .optimizer import adagrad_step, adam_step, clip_grad_norm, clip_grad_value, rmsprop_step, sgd_step
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

if TYPE_CHECKING:
    from . import convert, cuda, init, layers, optim, reference
    from .io import load, save
    from .training import EarlyStopping, History, evaluate, fit, predict

__version__ = "0.1.0"

__all__ = [
    "EarlyStopping",
    "History",
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
    "convert",
    "cross_entropy",
    "cuda",
    "dropout",
    "elu",
    "embedding",
    "evaluate",
    "fit",
    "gelu",
    "get_num_threads",
    "group_norm",
    "gru",
    "gru_cell",
    "huber_loss",
    "init",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "layers",
    "leaky_relu",
    "linear",
    "linear_cross_entropy",
    "load",
    "log_softmax",
    "lstm",
    "lstm_cell",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mse_loss",
    "nll_loss",
    "optim",
    "predict",
    "reference",
    "relu",
    "rms_norm",
    "rmsprop_step",
    "rnn",
    "rnn_cell",
    "save",
    "scaled_dot_product_attention",
    "set_num_threads",
    "sgd_step",
    "show_config",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
    "vjp",
]

# Imported at first use: a program that only calls ops does not pay for them.
_lazy = {
    "EarlyStopping": "training",
    "History": "training",
    "evaluate": "training",
    "fit": "training",
    "predict": "training",
    "load": "io",
    "save": "io",
}
_lazy_modules = {"convert", "cuda", "init", "layers", "optim", "reference"}


def __getattr__(name: str) -> Any:
    if name in _lazy_modules:
        return importlib.import_module(f".{name}", __name__)
    if name in _lazy:
        value = getattr(importlib.import_module(f".{_lazy[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
