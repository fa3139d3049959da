"""What the recurrent ops share: the spelling of a call, and the rules of `vjp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import _core
from ._common import Array, as_flags, flag, generator, gradient_like, integer, ndim, rng_key
from ._vjp import defvjp

State: TypeAlias = tuple[Array, Array]
Pull: TypeAlias = Callable[[Any], tuple[Any, ...]]
# An op's own options, to whether its layers are of the other form that the kernels know (relu, say).
Form: TypeAlias = Callable[..., bool]
# A layer's own options, to that, layer_norm and peepholes.
LayerForm: TypeAlias = Callable[..., tuple[bool, bool, bool]]


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


# ---- spelling -------------------------------------------------------------------------------------


def states(op: str, hx: Any) -> tuple[Any, Any]:
    """Return an LSTM's (h, c), or (None, None)."""
    if hx is None:
        return None, None
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        raise TypeError(f"{op}: hx is {_kind(hx)}, expected a tuple (h, c)")
    if hx[0] is None or hx[1] is None:
        raise TypeError(f"{op}: hx holds None, expected a tuple (h, c) of arrays")
    return hx[0], hx[1]


def required(op: str, hx: Any) -> Any:
    if hx is None:
        raise TypeError(f"{op}: hx is None, expected the state before the step")
    return hx


def is_relu(op: str, nonlinearity: Any) -> bool:
    """Tell the two nonlinearities of a plain recurrent layer apart."""
    if not isinstance(nonlinearity, str) or nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{op}: nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
    return nonlinearity == "relu"


def is_reset_first(op: str, reset_after: Any) -> bool:
    """Tell the two places of a GRU's reset gate apart."""
    return not flag(op, "reset_after", reset_after)


def _rate(op: str, name: str, value: Any) -> float:
    if not isinstance(value, int | float | np.floating):
        raise TypeError(f"{op}: {name} is {value!r}, expected a float from 0 to 1")
    if not 0 <= value <= 1:
        raise ValueError(f"{op}: {name} is {value}, expected 0 to 1")
    return float(value)


class Extras(NamedTuple):
    """What a layer has besides: options as the user gave them."""

    pair: bool  # of states, as an LSTM has
    recurrent_dropout: Any
    zoneout: Any  # of each state
    layer_norm: Any
    peepholes: Any

    def spelled(self, op: str, training: bool, rng: Any, runs: int) -> tuple[Any, ...]:
        """Return what the binding takes: the options and the masks' keys."""
        several = isinstance(self.zoneout, tuple | list)
        if self.pair and (not several or len(self.zoneout) != 2):
            raise TypeError(
                f"{op}: zoneout is {self.zoneout!r}, expected a tuple of two floats, of h and of c"
            )
        if several and not self.pair:
            raise TypeError(f"{op}: zoneout is {self.zoneout!r}, expected a float from 0 to 1")
        peepholes, layer_norm = flag(op, "peepholes", self.peepholes), flag(op, "layer_norm", self.layer_norm)
        rates = self.zoneout if self.pair else (self.zoneout, 0.0)
        stay_h, stay_c = (_rate(op, "zoneout", rate) for rate in rates)
        dropped = _rate(op, "recurrent_dropout", self.recurrent_dropout)
        dropped = dropped if training else 0.0
        drawn = [training and rate > 0 for rate in (dropped, stay_h, stay_c)]
        source = generator(op, rng) if any(drawn) else None
        keys = [[rng_key(op, source) for _ in range(runs)] if draws else [] for draws in drawn]
        return peepholes, layer_norm, training, dropped, stay_h, stay_c, *keys


_no_zoneout = (0.0, (0.0, 0.0))


def extras_of(
    pair: bool, recurrent_dropout: Any, zoneout: Any, layer_norm: Any = False, peepholes: Any = False
) -> Extras | None:
    """Return what a layer has besides; None, which costs nothing, where that is nothing."""
    if (
        recurrent_dropout == 0.0
        and zoneout == _no_zoneout[pair]
        and layer_norm is False
        and peepholes is False
    ):
        return None
    return Extras(pair, recurrent_dropout, zoneout, layer_norm, peepholes)


class Call:
    """A call of a recurrent layer, its options spelled as the binding takes them."""

    def __init__(
        self,
        op: str,
        input: Array,
        params: Sequence[Array],
        num_layers: int,
        bidirectional: bool,
        batch_first: bool,
        dropout: float,
        training: bool,
        lengths: Array | None,
        rng: Any,
        reset: Array | None,
        other: bool,
        extras: Extras | None,
    ) -> None:
        if isinstance(params, np.ndarray) or not isinstance(params, Sequence):
            raise TypeError(f"{op}: params is {_kind(params)}, expected a flat sequence of arrays")
        layers = integer(op, "num_layers", num_layers)
        if layers < 1:
            raise ValueError(f"{op}: num_layers is {layers}, expected at least 1")
        rate = dropout if type(dropout) is float and 0 <= dropout <= 1 else _rate(op, "dropout", dropout)
        if not flag(op, "training", training) or layers == 1:
            rate = 0.0
        keys: list[int] = []
        if rate > 0 and len(params) >= 2 * layers:  # else the call is refused
            rng = generator(op, rng)
            keys = [rng_key(op, rng) for _ in range(layers - 1)]
        both, batch_first = flag(op, "bidirectional", bidirectional), flag(op, "batch_first", batch_first)
        self.swap = batch_first and ndim(input) == 3
        self.input = input.swapaxes(0, 1) if self.swap else input
        self.params = list(params)
        marks = None if reset is None else as_flags(reset)
        more = extras and extras.spelled(op, training, rng, min(layers * (1 + both), len(params)))
        self.options = (other, layers, both, batch_first, lengths, marks, rate, keys, more)


# ---- rules ----------------------------------------------------------------------------------------


def _chosen(wanted: tuple[bool, ...], dx: Any, d_state: Any, d_params: list[Any]) -> tuple[Any, ...]:
    gradients = (dx, d_state, *d_params)
    return tuple(g if want else None for g, want in zip(gradients, wanted, strict=True))


def _like(gradients: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    return [
        None if argument is None else gradient_like(gradient, argument)
        for gradient, argument in zip(gradients, arguments, strict=True)
    ]


def _sequence_gradients(
    wanted: tuple[bool, ...], call: Call, dx: Any, d_state: Any, d_params: list[Any]
) -> tuple[Any, ...]:
    if wanted[0]:
        dx = gradient_like(dx.swapaxes(0, 1) if call.swap else dx, call.input)
    return dx, d_state, _like(d_params, call.params) if wanted[2] else None


def define_lstm_cell_vjp(op: Callable[..., State]) -> None:
    """Give `lstm_cell` its rule."""

    @defvjp(op, "input", "hx", "w_ih", "w_hh", "b_ih", "b_hh", optional=("peepholes",))
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        hx: State,
        w_ih: Array,
        w_hh: Array,
        b_ih: Array | None = None,
        b_hh: Array | None = None,
        *,
        peepholes: Array | None = None,
    ) -> tuple[State, Pull]:
        params: tuple[Any, ...] = (w_ih, w_hh, b_ih, b_hh)
        if peepholes is not None:
            params += (peepholes,)
        h0, c0 = states("lstm_cell", required("lstm_cell", hx))
        _, h, c, saved = _core.lstm_cell(input, h0, c0, params, True)

        def pull(cotangent: State) -> tuple[Any, ...]:
            dx, dh, dc, d_params = _core.lstm_cell_backward(
                input, params, False, saved, cotangent[0], cotangent[1], wanted[0], any(wanted[2:])
            )
            state = (gradient_like(dh, h0), gradient_like(dc, c0))
            return _chosen(wanted, gradient_like(dx, input), state, _like(d_params, params))

        return (h, c), pull


def define_cell_vjp(op: Callable[..., Array], form: Form) -> None:
    """Give a cell with one state its rule."""
    name = form.__name__ = form.__qualname__ = op.__name__  # for Python's own words on wrong arguments
    forward, backward = getattr(_core, name), getattr(_core, f"{name}_backward")

    @defvjp(op, "input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        hx: Array,
        w_ih: Array,
        w_hh: Array,
        b_ih: Array | None = None,
        b_hh: Array | None = None,
        **options: Any,
    ) -> tuple[Array, Pull]:
        params, other = (w_ih, w_hh, b_ih, b_hh), form(**options)
        h, saved = forward(input, required(name, hx), params, other, True, None)

        def pull(cotangent: Array) -> tuple[Any, ...]:
            dx, dh, _, d_params = backward(
                input, params, other, saved, cotangent, None, wanted[0], any(wanted[2:])
            )
            return _chosen(wanted, gradient_like(dx, input), gradient_like(dh, hx), _like(d_params, params))

        return h, pull


def define_layer_vjp(op: Callable[..., Any], form: LayerForm, *, pair: bool = False) -> None:
    """Give a recurrent layer its rule; the state of an LSTM is a `pair`."""
    name = form.__name__ = form.__qualname__ = op.__name__  # for Python's own words on wrong arguments
    forward, backward = getattr(_core, name), getattr(_core, f"{name}_backward")

    still: Any = (0.0, 0.0) if pair else 0.0

    @defvjp(op, "input", "hx", "params")
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        hx: Any,
        params: Sequence[Array],
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        training: bool = False,
        lengths: Array | None = None,
        rng: Any = None,
        reset: Array | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: Any = still,
        **options: Any,
    ) -> tuple[Any, Pull]:
        h, c = states(name, hx) if pair else (hx, None)
        other, layer_norm, peepholes = form(**options)
        call = Call(
            name,
            input,
            params,
            num_layers,
            bidirectional,
            batch_first,
            dropout,
            training,
            lengths,
            rng,
            reset,
            other,
            extras_of(pair, recurrent_dropout, zoneout, layer_norm, peepholes),
        )
        output, h_n, c_n, saved = forward(call.input, h, c, call.params, *call.options, True)

        def pull(cotangent: Any) -> tuple[Any, ...]:
            d_h_n, d_c_n = cotangent[1] if pair else (cotangent[1], None)
            dx, dh, dc, d_params = backward(
                call.input,
                call.params,
                *call.options,
                saved,
                cotangent[0],
                d_h_n,
                d_c_n,
                wanted[0],
                wanted[2],
            )
            state: Any = None
            if wanted[1] and hx is not None:
                state = (
                    (gradient_like(dh, hx[0]), gradient_like(dc, hx[1])) if pair else gradient_like(dh, hx)
                )
            return _sequence_gradients(wanted, call, dx, state, d_params)

        return (output, (h_n, c_n) if pair else h_n), pull
