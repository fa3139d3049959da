"""The recurrent cells' formulas in `autograd.numpy`, for where their gradient is itself differentiated.

A loop of cells has second derivatives by them; a layer, which is one op over all steps, has not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import autograd.numpy as anp
from autograd.builtins import tuple as boxed_tuple
from autograd.core import make_vjp

from ._second import sigmoid


def _product(v: Any, weight: Any, bias: Any) -> Any:
    a = anp.dot(v, weight.T)
    return a if bias is None else a + bias


def _parts(a: Any, count: int) -> list[Any]:
    size = a.shape[-1] // count
    return [a[..., k * size : (k + 1) * size] for k in range(count)]


def _lstm(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, peepholes: Any) -> Any:
    h, c = hx
    i, f, g, o = _parts(_product(input, w_ih, b_ih) + _product(h, w_hh, b_hh), 4)
    if peepholes is not None:
        i, f = i + peepholes[0] * c, f + peepholes[1] * c
    c = sigmoid(f) * c + sigmoid(i) * anp.tanh(g)
    if peepholes is not None:
        o = o + peepholes[2] * c
    return boxed_tuple((sigmoid(o) * anp.tanh(c), c))


def _gru(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reset_after: bool) -> Any:
    xr, xz, xn = _parts(_product(input, w_ih, b_ih), 3)
    hr, hz, hn = _parts(_product(hx, w_hh, b_hh), 3)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    if reset_after:
        inner = r * hn
    else:
        first = 2 * hx.shape[-1]
        inner = _product(r * hx, w_hh[first:], None if b_hh is None else b_hh[first:])
    return z * hx + (1 - z) * anp.tanh(xn + inner)


def _rnn(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, nonlinearity: str) -> Any:
    a = _product(input, w_ih, b_ih) + _product(hx, w_hh, b_hh)
    return anp.where(a > 0, a, 0.0 * a) if nonlinearity == "relu" else anp.tanh(a)


def _by(formula: Callable[..., Any]) -> Callable[..., list[Any]]:
    def rule(call: Any, leaves: tuple[Any, ...], cotangent: Any) -> list[Any]:
        given = inspect.signature(call.op).bind(**call.arguments)
        given.apply_defaults()
        options = {k: v for k, v in given.arguments.items() if k not in call.structure and k != "out"}

        def out(arrays: Any) -> Any:
            return formula(**{k: call.filled(v, arrays) for k, v in call.structure.items()}, **options)

        pull, _ = make_vjp(out, boxed_tuple(leaves))
        gradients = pull(boxed_tuple(cotangent) if isinstance(cotangent, tuple | list) else cotangent)
        return [gradients[i] for i in range(len(leaves))]

    return rule


CELLS = {"lstm_cell": _by(_lstm), "gru_cell": _by(_gru), "rnn_cell": _by(_rnn)}
