"""How a case on the GPU is made: an op's inputs, our call and the peers', its bytes and operations.

Nothing is computed when these files are imported: a case only says how its inputs are drawn and how each
engine computes it, given the libraries as `Tools`. One file per family of ops.
"""

from .activations import activation, activation_backward
from .attention import attention
from .case import Build, Call, Case, Inputs, Tools, Unavailable, text
from .convolution import Conv, conv
from .dense import embedding, linear
from .losses import cross_entropy, dropout, linear_cross_entropy, nll, pointwise_loss
from .normalization import normalization
from .optimizers import optimizer
from .pooling import Window, pool, pool_backward
from .recurrent import Net, cell, rnn

__all__ = [
    "Build",
    "Call",
    "Case",
    "Conv",
    "Inputs",
    "Net",
    "Tools",
    "Unavailable",
    "Window",
    "activation",
    "activation_backward",
    "attention",
    "cell",
    "conv",
    "cross_entropy",
    "dropout",
    "embedding",
    "linear",
    "linear_cross_entropy",
    "nll",
    "normalization",
    "optimizer",
    "pointwise_loss",
    "pool",
    "pool_backward",
    "rnn",
    "text",
]
