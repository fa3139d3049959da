"""`LSTM`, `GRU` and `RNN`, and what takes their output apart: `EachStep`, `LastStep`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..rnn import gru, lstm, rnn
from .base import Layer, Parameter, Seed, size, uniform
from .rnn_cells import check_nonlinearity


class _Recurrent(Layer):
    op: ClassVar[Callable[..., Any]]
    gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peepholes: bool = False,
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: Any = 0.0,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.input_size = size(self, "input_size", input_size)
        self.hidden_size = size(self, "hidden_size", hidden_size)
        self.num_layers = size(self, "num_layers", num_layers)
        self.bias = bias
        self.batch_first = batch_first
        for name, rates in (
            ("dropout", (dropout,)),
            ("recurrent_dropout", (recurrent_dropout,)),
            ("zoneout", zoneout if isinstance(zoneout, tuple | list) else (zoneout,)),
        ):
            for rate in rates:
                if not 0 <= rate <= 1:
                    raise ValueError(f"{type(self).__name__}: {name} must be between 0 and 1, got {rate}")
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = size(self, "proj_size", proj_size) if proj_size else 0
        self.peepholes, self.layer_norm = peepholes, layer_norm
        self.recurrent_dropout, self.zoneout = recurrent_dropout, zoneout
        self.rng = np.random.default_rng(rng)
        self._with_hx = False

        bound = 1 / math.sqrt(hidden_size)
        width = self.proj_size or hidden_size
        self._names: list[str] = []  # in the order that the op takes them
        for layer in range(num_layers):
            features = input_size if layer == 0 else width * (2 if bidirectional else 1)
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 2 if bidirectional else 1]:
                for name, shape in self._shapes(features, width).items():
                    if name.startswith("gain"):
                        value = Parameter(np.ones(shape, dtype))
                    elif name == "bias_cell":
                        value = Parameter(np.zeros(shape, dtype))
                    else:
                        value = uniform(self.rng, bound, shape, dtype)
                    setattr(self, name + suffix, value)
                    self._names.append(name + suffix)

    def _shapes(self, features: int, width: int) -> dict[str, tuple[int, ...]]:
        """Return those of one layer and direction's parameters, in the order that the op takes them."""
        hidden, lstm = self.hidden_size, self.gates == 4
        rows = self.gates * hidden
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, features), "weight_hh": (rows, width)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes |= {"weight_hr": (width, hidden)}
        if self.peepholes:
            shapes |= {"weight_peephole": (3, hidden)}
        if self.layer_norm:
            shapes |= {"gain_ih": (rows,), "gain_hh": (rows,)}
            shapes |= {"gain_cell": (hidden,)} if lstm else {}
            shapes |= {"bias_cell": (hidden,)} if lstm and self.bias else {}
        return shapes

    def forward(
        self,
        x: NDArray[Any],
        hx: Any = None,
        lengths: NDArray[Any] | None = None,
        reset: NDArray[Any] | None = None,
    ) -> Any:
        self._with_hx = hx is not None
        return self._run(
            self.op,
            x,
            hx,
            [getattr(self, name).data for name in self._names],
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            dropout=self.dropout,
            training=self.training,
            lengths=lengths,
            rng=self.rng,
            reset=reset,
            recurrent_dropout=self.recurrent_dropout,
            zoneout=self.zoneout,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        """Return what the op takes besides."""
        return {}

    def _wants(self, name: str) -> bool:
        return self._learns() if name == "params" else super()._wants(name)

    def backward(self, dy: Any) -> Any:
        dx, dhx, gradients = self._take_pullback()(dy)
        if gradients is None:  # all parameters are frozen
            gradients = [None] * len(self._names)
        for name, gradient in zip(self._names, gradients, strict=True):
            getattr(self, name).accumulate(gradient)
        return (dx, dhx) if self._with_hx else dx

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size:
            text += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if not self.bias:
            text += ", bias=False"
        if self.batch_first:
            text += ", batch_first=True"
        if self.dropout:
            text += f", dropout={self.dropout}"
        if self.bidirectional:
            text += ", bidirectional=True"
        if self.peepholes:
            text += ", peepholes=True"
        if self.recurrent_dropout:
            text += f", recurrent_dropout={self.recurrent_dropout}"
        if self.zoneout and self.zoneout != (0.0, 0.0):
            text += f", zoneout={self.zoneout}"
        return text + (", layer_norm=True" if self.layer_norm else "")


class LSTM(_Recurrent):
    """Layers of LSTM over a sequence, `arraynn.lstm`.

    ``output, (h_n, c_n) = layer(x, hx=None, lengths=None, reset=None)``. `backward` takes
    ``(doutput, (dh_n, dc_n))``, any part of it None, and returns ``dx``, or ``(dx, (dh_0, dc_0))``
    if the call was given `hx`.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size
        As in ``torch.nn.LSTM``.
    peepholes, layer_norm, recurrent_dropout, zoneout : keyword-only
        As in `arraynn.lstm`.
    rng : None, int or numpy.random.Generator, keyword-only
        Source of the initial values and of all masks.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, … : Parameter
        Gates in the order i, f, g, o. All drawn from U(-k, k) with k = 1/sqrt(hidden_size). So are
        weight_hr_l0, … with `proj_size` and weight_peephole_l0, … with `peepholes`.
    gain_ih_l0, gain_hh_l0, gain_cell_l0, bias_cell_l0, … : Parameter
        With `layer_norm`: ones, and the bias zeros.
    """

    op = staticmethod(lstm)
    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peepholes: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: tuple[float, float] = (0.0, 0.0),
        layer_norm: bool = False,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            peepholes=peepholes,
            layer_norm=layer_norm,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            rng=rng,
            dtype=dtype,
        )

    def _options(self) -> dict[str, Any]:
        return {"peepholes": self.peepholes, "layer_norm": self.layer_norm}


class GRU(_Recurrent):
    """Layers of GRU over a sequence, `arraynn.gru`.

    ``output, h_n = layer(x, hx=None, lengths=None, reset=None)``. `backward` takes
    ``(doutput, dh_n)``, either of them None, and returns ``dx``, or ``(dx, dh_0)`` if the call was given
    `hx`. Parameters and attributes as in `LSTM`, with the gates in the order r, z, n, and besides

    Parameters
    ----------
    reset_after : bool, keyword-only, default True
        Whether the reset gate is behind the product with the state, as in ``torch.nn.GRU``, or before it.
    recurrent_dropout, zoneout, layer_norm : keyword-only
        As in `arraynn.gru`.
    """

    op = staticmethod(gru)
    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        layer_norm: bool = False,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            layer_norm=layer_norm,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            rng=rng,
            dtype=dtype,
        )
        self.reset_after = reset_after

    def _options(self) -> dict[str, Any]:
        return {"reset_after": self.reset_after, "layer_norm": self.layer_norm}

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")


class RNN(_Recurrent):
    """Layers of a plain recurrent network over a sequence, `arraynn.rnn`.

    ``output, h_n = layer(x, hx=None, lengths=None, reset=None)``; `backward`, parameters and attributes
    as in `GRU`, but for the gates, of which there are none.

    Parameters
    ----------
    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional
        As in ``torch.nn.RNN``; `nonlinearity` is 'tanh' or 'relu'.
    recurrent_dropout, zoneout : keyword-only
        As in `arraynn.rnn`.
    rng, dtype
        As in `LSTM`.
    """

    op = staticmethod(rnn)
    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            rng=rng,
            dtype=dtype,
        )
        self.nonlinearity = check_nonlinearity(self, nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}


class EachStep(Layer):
    """Of what `LSTM`, `GRU` or `RNN` returns, the output at every step: its first item."""

    def forward(self, output_and_state: tuple[Any, Any]) -> NDArray[Any]:
        output: NDArray[Any] = _pair(self, output_and_state)[0]
        return output

    def backward(self, dy: NDArray[Any]) -> tuple[Any, Any]:
        return dy, None


class LastStep(Layer):
    """Of what `LSTM`, `GRU` or `RNN` returns, the last layer's hidden state at each sequence's end.

    Of shape (N, H). With two directions (N, 2 H): where each of them ends, the reverse one at the
    sequence's first step.
    """

    def __init__(self) -> None:
        self._like: NDArray[Any] | None = None
        self._in_tuple = False

    def forward(self, output_and_state: tuple[Any, Any]) -> NDArray[Any]:
        output, state = _pair(self, output_and_state)
        self._in_tuple = isinstance(state, tuple)
        hidden = state[0] if self._in_tuple else state
        directions = output.shape[-1] // hidden.shape[-1]
        self._like = hidden if self.training else None
        last: NDArray[Any] = np.concatenate(list(hidden[-directions:]), axis=-1)
        return last

    def backward(self, dy: NDArray[Any]) -> tuple[Any, Any]:
        like, self._like = self._like, None
        if like is None:
            raise self._no_call()
        dhidden = np.zeros_like(like)
        last = dhidden[-(dy.shape[-1] // like.shape[-1]) :]
        last[...] = np.stack(np.split(dy, len(last), axis=-1))
        return None, ((dhidden, None) if self._in_tuple else dhidden)

    def train(self, mode: bool = True) -> Self:
        self._like = None
        return super().train(mode)


def _pair(layer: Layer, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(
            f"{type(layer).__name__}: input must be (output, state) as LSTM and GRU return it, "
            f"got {type(value).__name__}"
        )
    return value
