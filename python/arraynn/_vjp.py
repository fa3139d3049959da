"""``vjp``: an op's output together with the function that pulls a cotangent back through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ._device import Library, library_of


class _Rule(NamedTuple):
    names: tuple[str, ...]  # the op's differentiable arguments, in signature order
    forward: Callable[..., tuple[Any, Callable[..., tuple[Any, ...]]]]
    optional: tuple[str, ...]  # keyword-only ones that follow where they are given


_rules: dict[Callable[..., Any], _Rule] = {}


def defvjp(
    op: Callable[..., Any], *names: str, optional: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the rule of `op`, differentiable in `names`.

    `optional` are keyword-only arguments that are differentiable too, but have no place among the
    gradients of a call that does not give them.

    A rule has the op's own parameters (without ``out``) behind a leading `wanted`, one bool per
    name, and returns ``(out, pull)``; ``pull(cotangent)`` gets a cotangent complete and checked
    and returns one gradient per name, None where it was not wanted or the argument is None.
    """

    def register(rule: Callable[..., Any]) -> Callable[..., Any]:
        rule.__name__ = rule.__qualname__ = op.__name__  # for Python's own words on wrong arguments
        _rules[op] = _Rule(names, rule, optional)
        return rule

    return register


def differentiable(op: Callable[..., Any], keywords: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Return the names of the arguments that `vjp` differentiates `op` in, in a call with such keywords."""
    rule = _rule_of(op)
    if not rule.optional or not keywords:
        return rule.names
    return rule.names + tuple(name for name in rule.optional if keywords.get(name) is not None)


def _rule_of(op: Callable[..., Any]) -> _Rule:
    try:
        return _rules[op]
    except (KeyError, TypeError):
        name = getattr(op, "__name__", repr(op))
        raise TypeError(f"vjp: op must be a differentiable arraynn op, got {name}") from None


def _wanted(names: tuple[str, ...], wrt: str | Iterable[str] | None) -> tuple[bool, ...]:
    if wrt is None:
        return (True,) * len(names)
    asked = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in asked:
        if name not in names:
            raise ValueError(f"vjp: wrt names {name!r}, but the op is differentiable in {', '.join(names)}")
    return tuple(name in asked for name in names)


class _Spec(NamedTuple):
    """What a cotangent must look like: remembered instead of the output, which may then be freed."""

    shape: tuple[int, ...]
    dtype: Any  # the library's
    library: Library | None = None  # None: NumPy
    device: int = -1

    def is_integer(self) -> bool:
        return self.dtype.kind in "iu" if self.library is None else "int" in str(self.dtype)


def _spec(out: Any) -> Any:
    if isinstance(out, np.ndarray):
        return _Spec(out.shape, out.dtype)
    if isinstance(out, tuple):
        return tuple(map(_spec, out))
    library = library_of(out)
    assert library is not None
    return _Spec(tuple(out.shape), out.dtype, library, library.where(out)[1])


def _complete(spec: Any, cotangent: Any, where: str) -> Any:
    """Check `cotangent` against `spec` and put zeros where it says None."""
    if not isinstance(spec, _Spec):
        if cotangent is None:
            cotangent = (None,) * len(spec)
        if not isinstance(cotangent, tuple | list) or len(cotangent) != len(spec):
            raise ValueError(f"pullback: {where} must be None or a tuple of {len(spec)}, as the output is")
        return tuple(
            _complete(s, c, f"{where}[{i}]") for i, (s, c) in enumerate(zip(spec, cotangent, strict=True))
        )
    if spec.is_integer():  # an integer output carries no gradient
        return None
    if cotangent is None:
        if spec.library is not None:
            return spec.library.zeros(spec.shape, spec.dtype, spec.device)
        return np.zeros(spec.shape, spec.dtype)
    if spec.library is not None:
        _check_place(spec.library, spec.device, cotangent, where)
    else:
        if isinstance(cotangent, np.generic):  # a 0-d output's cotangent after arithmetic
            cotangent = np.asarray(cotangent)
        if not isinstance(cotangent, np.ndarray):
            raise TypeError(f"pullback: {where} must be an array, got {type(cotangent).__name__}")
    if cotangent.dtype != spec.dtype:
        raise TypeError(f"pullback: {where} has dtype {cotangent.dtype}, but the output has {spec.dtype}")
    if cotangent.shape != spec.shape:
        raise ValueError(
            f"pullback: {where} has shape {tuple(cotangent.shape)}, but the output has {spec.shape}"
        )
    return cotangent


def _check_place(library: Library, device: int, cotangent: Any, where: str) -> None:
    if library_of(cotangent) is not library:
        raise TypeError(
            f"pullback: {where} must be a {library.name} array as the output is, "
            f"got {type(cotangent).__name__}"
        )
    its = library.where(cotangent)[1]
    if its != device:
        raise ValueError(f"pullback: {where} is on device {its}, but the output is on CUDA device {device}")


def vjp(
    op: Callable[..., Any], *args: Any, wrt: str | Iterable[str] | None = None, **kwargs: Any
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Apply `op` and return its output and its pullback (vector-Jacobian product).

    Parameters
    ----------
    op : callable
        An op of `arraynn` or of `arraynn.reference`.
    *args, **kwargs
        The op's arguments.
    wrt : str or iterable of str, optional
        The differentiable arguments whose gradients are wanted; all by default. Work for the
        others is skipped.

    Returns
    -------
    out : array or tuple of arrays
        ``op(*args, **kwargs)``.
    pullback : callable
        ``pullback(cotangent)`` takes what has the structure, shapes and dtypes of `out` (None
        stands for zero at any level, and for integer outputs) and returns a tuple with one
        gradient per differentiable argument, in signature order; None where the argument was
        omitted or `wrt` left it out (an optional array that is keyword-only, as an LSTM cell's
        peepholes, has a place only where it is given). It may be called again. Arguments and output
        must not be changed before, since it may look at them again.

    Raises
    ------
    TypeError
        `op` is not a differentiable op.
    ValueError
        `wrt` names what is not a differentiable argument of `op`.

    Examples
    --------
    >>> y, pullback = ann.vjp(ann.linear, x, weight, bias)
    >>> dx, dweight, dbias = pullback(dy)
    """
    rule = _rule_of(op)
    if "out" in kwargs:
        raise TypeError("vjp: out is not taken; the pullback may need the output as it is")
    out, pull = rule.forward(_wanted(differentiable(op, kwargs), wrt), *args, **kwargs)
    spec = _spec(out)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        gradients: tuple[Any, ...] = pull(_complete(spec, cotangent, "cotangent"))
        return gradients

    return out, pullback
