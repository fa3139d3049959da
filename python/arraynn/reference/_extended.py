"""Steps of cells with projections, peepholes, recurrent dropout, zoneout and layer normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ._cells import Cell, State
from ._common import Array
from .activation import _sigmoid

EPS = 1e-5  # of layer normalization
Named = dict[str, Array]
Pull = Callable[[Array], Array]


class Extras(NamedTuple):
    """What a call asks for besides the plain cell."""

    peepholes: bool = False
    layer_norm: bool = False
    recurrent_dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0

    def any(self) -> bool:
        return self != Extras()


class Masks(NamedTuple):
    """One step's: the factor of h on its way into the recurrent product, and what stays of each state."""

    recurrent: Array | float = 1.0
    stay_h: Array | float = 0.0
    stay_c: Array | float = 0.0


def names_of(cell: Cell, extras: Extras, biases: bool, projects: bool) -> tuple[str, ...]:
    """Return the names of one layer and direction's parameters in their order."""
    names = ["w_ih", "w_hh"]
    names += ["b_ih", "b_hh"] if biases else []
    names += ["w_hr"] if projects else []
    names += ["peepholes"] if extras.peepholes else []
    if extras.layer_norm:
        names += ["gain_ih", "gain_hh"]
        names += ["gain_c"] if cell.states == 2 else []
        names += ["b_c"] if cell.states == 2 and biases else []
    return tuple(names)


def shapes_of(cell: Cell, features: int, hidden: int, width: int) -> dict[str, tuple[int, ...]]:
    rows = cell.gates * hidden
    vectors = dict.fromkeys(("b_ih", "b_hh", "gain_ih", "gain_hh"), (rows,))
    return {
        "w_ih": (rows, features),
        "w_hh": (rows, width),
        **vectors,
        "w_hr": (width, hidden),
        "peepholes": (3, hidden),
        "gain_c": (hidden,),
        "b_c": (hidden,),
    }


# -- pieces, each with its gradient -----------------------------------------------------------


def _normalized(a: Array) -> tuple[Array, Pull]:
    """(a - mean) / sqrt(variance + EPS), along the last axis (Ba, Kiros and Hinton 2016)."""
    centred = a - a.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
    y = centred * rstd

    def pull(dy: Array) -> Array:
        return np.asarray(rstd * (dy - dy.mean(-1, keepdims=True) - y * (dy * y).mean(-1, keepdims=True)))

    return y, pull


def _scaled(
    w: Named, name: str, a: Array, splits: list[int]
) -> tuple[Array, Callable[[Array], tuple[Array, Named]]]:
    """Normalize `a`, each part at `splits` by itself, times the gain of that name, if there is one."""
    if name not in w:
        return a, lambda da: (da, {})
    parts = [_normalized(part) for part in np.split(a, splits, axis=-1)]
    y = np.concatenate([part for part, _ in parts], axis=-1)

    def pull(dy: Array) -> tuple[Array, Named]:
        inner = np.split(dy * w[name], splits, axis=-1)
        da = [p(d) for (_, p), d in zip(parts, inner, strict=True)]
        return np.concatenate(da, axis=-1), {name: _over_rows(dy * y)}

    return y * w[name], pull


def _over_rows(a: Array) -> Array:
    return np.asarray(np.atleast_2d(a).sum(0))


def _outer(d: Array, v: Array) -> Array:
    product: Array = np.atleast_2d(d).T @ np.atleast_2d(v)
    return product


def _product(
    w: Named, side: str, v: Array, splits: list[int]
) -> tuple[Array, Callable[[Array], tuple[Array, Named]]]:
    """Return N(W v) + b with the arrays of that side, "ih" or "hh"."""
    weight = w[f"w_{side}"]
    a, pull_scaled = _scaled(w, f"gain_{side}", v @ weight.T, splits)
    bias = f"b_{side}"

    def pull(da: Array) -> tuple[Array, Named]:
        d, gradients = pull_scaled(da)
        gradients |= {f"w_{side}": _outer(d, v)}
        if bias in w:
            gradients[bias] = _over_rows(da)
        return d @ weight, gradients

    return (a + w[bias] if bias in w else a), pull


def _zoned(stay: Array | float, new: Array, old: Array) -> Array:
    """Zoneout (Krueger et al. 2017): what stays as it was; in evaluation, its mean."""
    return np.asarray(stay * old + (1 - stay) * new)


# -- cells ------------------------------------------------------------------------------------

NamedPull = Callable[[State], tuple[Array, State, Named]]


def _lstm(x: Array, state: State, w: Named, masks: Masks) -> tuple[State, NamedPull]:
    h, c = state
    hidden = c.shape[-1]
    p_i, p_f, p_o = w.get("peepholes", np.zeros((3, hidden)))
    a_x, pull_x = _product(w, "ih", x, [])
    a_h, pull_h = _product(w, "hh", masks.recurrent * h, [])
    a_i, a_f, a_g, a_o = np.split(a_x + a_h, 4, axis=-1)
    i, f, g = _sigmoid(a_i + p_i * c), _sigmoid(a_f + p_f * c), np.tanh(a_g)
    fresh = f * c + i * g
    o = _sigmoid(a_o + p_o * fresh)
    y, pull_y = _scaled(w, "gain_c", fresh, [])
    t = np.tanh(y + w.get("b_c", np.zeros(hidden)))
    inner = o * t
    new = inner @ w["w_hr"].T if "w_hr" in w else inner

    def pull(dstate: State) -> tuple[Array, State, Named]:
        dh, dc = dstate
        dnew, d = dh * (1 - masks.stay_h), {}
        dinner = dnew
        if "w_hr" in w:
            d["w_hr"], dinner = _outer(dnew, inner), dnew @ w["w_hr"]
        da_o = dinner * t * o * (1 - o)
        dy = dinner * o * (1 - t**2)
        dfresh, d_gain = pull_y(dy)
        dfresh = dfresh + da_o * p_o + dc * (1 - masks.stay_c)
        da_i, da_f, da_g = dfresh * g * i * (1 - i), dfresh * c * f * (1 - f), dfresh * i * (1 - g**2)
        da = np.concatenate([da_i, da_f, da_g, da_o], axis=-1)
        (dx, d_x), (dmasked, d_h) = pull_x(da), pull_h(da)
        d |= {**d_gain, **d_x, **d_h, "b_c": _over_rows(dy)}
        d["peepholes"] = np.stack([_over_rows(v) for v in (da_i * c, da_f * c, da_o * fresh)])
        dc_before = dc * masks.stay_c + dfresh * f + da_i * p_i + da_f * p_f
        return dx, (dh * masks.stay_h + masks.recurrent * dmasked, dc_before), d

    return (_zoned(masks.stay_h, new, h), _zoned(masks.stay_c, fresh, c)), pull


def _gru(x: Array, state: State, w: Named, masks: Masks) -> tuple[State, NamedPull]:
    (h,) = state
    splits = [2 * h.shape[-1]]
    a_x, pull_x = _product(w, "ih", x, splits)
    a_h, pull_h = _product(w, "hh", masks.recurrent * h, splits)
    (xr, xz, xn), (hr, hz, hn) = np.split(a_x, 3, axis=-1), np.split(a_h, 3, axis=-1)
    r, z = _sigmoid(xr + hr), _sigmoid(xz + hz)
    n = np.tanh(xn + r * hn)

    def pull(dstate: State) -> tuple[Array, State, Named]:
        (dh,) = dstate
        dnew = dh * (1 - masks.stay_h)
        dn = dnew * (1 - z) * (1 - n**2)
        dr, dz = dn * hn * r * (1 - r), dnew * (h - n) * z * (1 - z)
        dx, d_x = pull_x(np.concatenate([dr, dz, dn], axis=-1))
        dmasked, d_h = pull_h(np.concatenate([dr, dz, dn * r], axis=-1))
        return dx, (dh * masks.stay_h + dnew * z + masks.recurrent * dmasked,), {**d_x, **d_h}

    return (_zoned(masks.stay_h, (1 - z) * n + z * h, h),), pull


def _gru_reset_first(x: Array, state: State, w: Named, masks: Masks) -> tuple[State, NamedPull]:
    (h,) = state
    hidden = h.shape[-1]
    masked = masks.recurrent * h
    gates = {name: a[: 2 * hidden] for name, a in w.items()}
    candidate = {name: a[2 * hidden :] for name, a in w.items()}
    a_x, pull_x = _product(w, "ih", x, [])
    a_h, pull_h = _product(gates, "hh", masked, [])
    (xr, xz, xn), (hr, hz) = np.split(a_x, 3, axis=-1), np.split(a_h, 2, axis=-1)
    r, z = _sigmoid(xr + hr), _sigmoid(xz + hz)
    hn, pull_n = _product(candidate, "hh", r * masked, [])
    n = np.tanh(xn + hn)

    def pull(dstate: State) -> tuple[Array, State, Named]:
        (dh,) = dstate
        dnew = dh * (1 - masks.stay_h)
        dn, dz = dnew * (1 - z) * (1 - n**2), dnew * (h - n) * z * (1 - z)
        drm, d_n = pull_n(dn)
        dr = drm * masked * r * (1 - r)
        dx, d_x = pull_x(np.concatenate([dr, dz, dn], axis=-1))
        dmasked, d_h = pull_h(np.concatenate([dr, dz], axis=-1))
        both = {name: np.concatenate([d_h[name], d_n[name]]) for name in d_n}
        dbefore = dh * masks.stay_h + dnew * z + masks.recurrent * (dmasked + drm * r)
        return dx, (dbefore,), {**d_x, **both}

    return (_zoned(masks.stay_h, (1 - z) * n + z * h, h),), pull


def _rnn(relu: bool, x: Array, state: State, w: Named, masks: Masks) -> tuple[State, NamedPull]:
    (h,) = state
    a_x, pull_x = _product(w, "ih", x, [])
    a_h, pull_h = _product(w, "hh", masks.recurrent * h, [])
    new = np.maximum(a_x + a_h, 0.0) if relu else np.tanh(a_x + a_h)

    def pull(dstate: State) -> tuple[Array, State, Named]:
        (dh,) = dstate
        dnew = dh * (1 - masks.stay_h)
        da = np.where(new <= 0, 0.0, dnew) if relu else dnew * (1 - new**2)
        (dx, d_x), (dmasked, d_h) = pull_x(da), pull_h(da)
        return dx, (dh * masks.stay_h + masks.recurrent * dmasked,), {**d_x, **d_h}

    return (_zoned(masks.stay_h, new, h),), pull


_steps: dict[str, Callable[[Array, State, Named, Masks], tuple[State, NamedPull]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "gru_reset_first": _gru_reset_first,
    "rnn": lambda *args: _rnn(False, *args),
    "rnn_relu": lambda *args: _rnn(True, *args),
}


def step(
    cell: Cell, names: tuple[str, ...], x: Array, state: State, weights: tuple[Array, ...], masks: Masks
) -> tuple[State, Callable[[State], tuple[Array, State, tuple[Any, ...]]]]:
    """Take one step; `names` are those of the weights."""
    w = dict(zip(names, weights, strict=True))
    new, named_pull = _steps[cell.name](x, state, w, masks)

    def pull(dstate: State) -> tuple[Array, State, tuple[Any, ...]]:
        dx, dprevious, d = named_pull(dstate)
        return dx, dprevious, tuple(d[name] for name in names)

    return new, pull
