"""One step of each kind of cell, with its gradient: what cells and layers are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ._common import Array, wide
from .activation import _sigmoid

State = tuple[Array, ...]  # (h, c) of an LSTM, else (h,)
Weights = tuple[Array, Array, Array, Array]  # w_ih, w_hh, b_ih, b_hh; zeros for biases left out
StepPull = Callable[[State], tuple[Array, State, Weights]]
Step = Callable[[Array, State, Weights], tuple[State, StepPull]]


class Cell(NamedTuple):
    name: str
    gates: int
    states: int
    step: Step


def _lstm_step(x: Array, state: State, weights: Weights) -> tuple[State, StepPull]:
    h, c = state
    w_ih, w_hh, b_ih, b_hh = weights
    i, f, g, o = np.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, axis=-1)
    i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
    c_new = f * c + i * g
    t = np.tanh(c_new)

    def pull(dstate: State) -> tuple[Array, State, Weights]:
        dh, dc = dstate
        dc = dc + dh * o * (1 - t**2)
        da = np.concatenate(
            [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * t * o * (1 - o)], axis=-1
        )
        return _products(da, da, x, h, w_ih, w_hh, (), (dc * f,))

    return (o * t, c_new), pull


def _gru_step(x: Array, state: State, weights: Weights) -> tuple[State, StepPull]:
    (h,) = state
    w_ih, w_hh, b_ih, b_hh = weights
    xr, xz, xn = np.split(x @ w_ih.T + b_ih, 3, axis=-1)
    hr, hz, hn = np.split(h @ w_hh.T + b_hh, 3, axis=-1)
    r, z = _sigmoid(xr + hr), _sigmoid(xz + hz)
    n = np.tanh(xn + r * hn)

    def pull(dstate: State) -> tuple[Array, State, Weights]:
        (dh,) = dstate
        dn = dh * (1 - z) * (1 - n**2)
        dr = dn * hn * r * (1 - r)
        dz = dh * (h - n) * z * (1 - z)
        da_x = np.concatenate([dr, dz, dn], axis=-1)
        da_h = np.concatenate([dr, dz, dn * r], axis=-1)
        return _products(da_x, da_h, x, h, w_ih, w_hh, (dh * z,), ())

    return ((1 - z) * n + z * h,), pull


def _gru_reset_first_step(x: Array, state: State, weights: Weights) -> tuple[State, StepPull]:
    (h,) = state
    w_ih, w_hh, b_ih, b_hh = weights
    hidden = h.shape[-1]
    xr, xz, xn = np.split(x @ w_ih.T + b_ih, 3, axis=-1)
    hr, hz = np.split(h @ w_hh[: 2 * hidden].T + b_hh[: 2 * hidden], 2, axis=-1)
    r, z = _sigmoid(xr + hr), _sigmoid(xz + hz)
    n = np.tanh(xn + (r * h) @ w_hh[2 * hidden :].T + b_hh[2 * hidden :])

    def pull(dstate: State) -> tuple[Array, State, Weights]:
        (dh,) = dstate
        dn = dh * (1 - z) * (1 - n**2)
        dz = dh * (h - n) * z * (1 - z)
        drh = dn @ w_hh[2 * hidden :]
        dr = drh * h * r * (1 - r)
        da, through = np.concatenate([dr, dz, dn], axis=-1), dh * z + drh * r
        # r and z's part of the products is _products'; n's part saw r h
        gates = np.concatenate([dr, dz, np.zeros_like(dn)], axis=-1)
        _, dstates, (_, dw_hh, _, _) = _products(gates, gates, x, h, w_ih, w_hh, (through,), ())
        rows = np.atleast_2d(da)
        dw_hh[2 * hidden :] = np.atleast_2d(dn).T @ np.atleast_2d(r * h)
        return da @ w_ih, dstates, (rows.T @ np.atleast_2d(x), dw_hh, rows.sum(0), rows.sum(0))

    return ((1 - z) * n + z * h,), pull


def _rnn_step(x: Array, state: State, weights: Weights) -> tuple[State, StepPull]:
    (h,) = state
    w_ih, w_hh, b_ih, b_hh = weights
    new = np.tanh(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)

    def pull(dstate: State) -> tuple[Array, State, Weights]:
        da = dstate[0] * (1 - new**2)
        return _products(da, da, x, h, w_ih, w_hh, (), ())

    return (new,), pull


def _rnn_relu_step(x: Array, state: State, weights: Weights) -> tuple[State, StepPull]:
    (h,) = state
    w_ih, w_hh, b_ih, b_hh = weights
    new = np.maximum(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 0.0)

    def pull(dstate: State) -> tuple[Array, State, Weights]:
        da = np.where(new <= 0, 0.0, dstate[0])
        return _products(da, da, x, h, w_ih, w_hh, (), ())

    return (new,), pull


def _products(
    da_x: Array, da_h: Array, x: Array, h: Array, w_ih: Array, w_hh: Array, direct: State, others: State
) -> tuple[Array, State, Weights]:
    """Take the gradients of the gates before activation through a_x = W_ih x + b_ih, a_h = W_hh h + b_hh.

    `direct` is what reaches h around the products, `others` the gradients of the other states.
    """
    dh = da_h @ w_hh + sum(direct)
    rows_x, rows_h = np.atleast_2d(da_x), np.atleast_2d(da_h)
    dweights = (rows_x.T @ np.atleast_2d(x), rows_h.T @ np.atleast_2d(h), rows_x.sum(0), rows_h.sum(0))
    return da_x @ w_ih, (dh, *others), dweights


LSTM = Cell("lstm", 4, 2, _lstm_step)
GRU = {  # by reset_after
    True: Cell("gru", 3, 1, _gru_step),
    False: Cell("gru_reset_first", 3, 1, _gru_reset_first_step),
}
RNN = {"tanh": Cell("rnn", 1, 1, _rnn_step), "relu": Cell("rnn_relu", 1, 1, _rnn_relu_step)}


def weights_of(w_ih: Array, w_hh: Array, b_ih: Array | None, b_hh: Array | None) -> Weights:
    zeros = np.zeros(w_ih.shape[0])
    return (
        wide(w_ih),
        wide(w_hh),
        zeros if b_ih is None else wide(b_ih),
        zeros if b_hh is None else wide(b_hh),
    )
