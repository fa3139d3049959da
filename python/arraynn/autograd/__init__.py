"""The ops as primitives of HIPS autograd, so that any NumPy program that calls them differentiates.

``pip install "arraynn[autograd]"``, then ``import arraynn.autograd as ann`` beside
``import autograd.numpy as np``: every differentiable op has its name, arguments and results here, and
all else in `arraynn` is found here too. Gradients are those of `arraynn.vjp`: the same kernels run, once
forward and once back.

Second derivatives (a Hessian-vector product, a penalty on a gradient) go through ops that are products,
means, element-wise, softmax, a recurrent cell or layer, or a squared or cross-entropy loss:
`second_derivatives` lists them. For the others autograd raises NotImplementedError.

Examples
--------
>>> import autograd.numpy as np
>>> from autograd import grad
>>> import arraynn.autograd as ann
>>> def loss(weight, x, y):
...     return ann.mse_loss(np.tanh(ann.linear(x, weight)), y)
>>> d_weight = grad(loss)(weight, x, y)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

try:
    from autograd.extend import defvjp_argnums, primitive
    from autograd.tracer import isbox
except ImportError as error:
    raise ImportError('arraynn.autograd needs HIPS autograd: pip install "arraynn[autograd]"') from error

import numpy as np

import arraynn

from .._vjp import _rules, differentiable, vjp
from ._recurrent import RECURRENT
from ._second import SECOND, as_dtype

SECOND = {**SECOND, **RECURRENT}

Nested = Any  # an array, None, or a tuple or list of such


class _Call:
    """One call of an op: what is not differentiated, and afterwards its pullback."""

    def __init__(self, op: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self.op, self.arguments = op, arguments
        self.names = [name for name in differentiable(op, arguments) if name in arguments]
        self.leaves: list[Any] = []
        # which of the leaves each argument consists of
        self.structure = {name: self._put(arguments[name]) for name in self.names}
        self.wrt = tuple(
            n for n in self.names if any(isbox(self.leaves[i]) for i in _flat(self.structure[n]))
        )
        self._out: Nested = None
        self._pullback: Callable[[Any], tuple[Any, ...]] | None = None

    def _put(self, value: Any) -> Nested:
        # autograd hands a sequence over in a box of its own
        if isinstance(value, tuple | list) or (isbox(value) and isinstance(value._value, tuple | list)):
            return [self._put(value[i]) for i in range(len(value))]
        if value is None:
            return None
        self.leaves.append(value)
        return len(self.leaves) - 1

    def options(self) -> dict[str, Any]:
        """Return the arguments that are not differentiated."""
        return {name: value for name, value in self.arguments.items() if name not in self.names}

    def run(self, *leaves: Any) -> Any:
        """Apply the op to arrays, and return its outputs, in one tuple if there are several."""
        arguments = {name: _filled(self.structure[name], leaves) for name in self.names}
        out, self._pullback = vjp(self.op, **self.options(), **arguments, wrt=self.wrt)
        outputs = list(_flat(out))
        self._out = _numbered(out, iter(range(len(outputs))))
        return tuple(outputs) if isinstance(out, tuple) else out

    @staticmethod
    def filled(structure: Nested, leaves: Any) -> Nested:
        """Put arrays where `structure` has their numbers."""
        return _filled(structure, leaves)

    def result(self, outputs: Any) -> Any:
        """Return the outputs in the op's own structure."""
        return _filled(self._out, outputs) if isinstance(self._out, tuple) else outputs

    def gradients(self, outputs: Any, cotangent: Any) -> list[Any]:
        """Return a gradient for each leaf."""
        assert self._pullback is not None
        if isinstance(self._out, tuple):
            parts = [_like(c, out) for c, out in zip(cotangent, outputs, strict=True)]
            found = self._pullback(_filled(self._out, parts))
        else:
            found = self._pullback(_like(cotangent, outputs))
        gradients: list[Any] = [None] * len(self.leaves)
        named = dict(zip(differentiable(self.op, self.arguments), found, strict=True))
        for name in self.wrt:
            for i, gradient in zip(_flat(self.structure[name]), _flat(named[name]), strict=True):
                gradients[i] = gradient
        return gradients


def _like(cotangent: Any, out: Any) -> Any:
    """Return what autograd hands back in the dtype of the output, None for an integer one."""
    return None if out.dtype.kind in "iu" else np.asarray(cotangent).astype(out.dtype, copy=False)


def _flat(value: Nested) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _flat(item)
    elif value is not None:
        yield value


def _numbered(value: Nested, numbers: Iterator[int]) -> Nested:
    return tuple(_numbered(v, numbers) for v in value) if isinstance(value, tuple) else next(numbers)


def _filled(structure: Nested, leaves: Any) -> Nested:
    if isinstance(structure, tuple | list):
        return type(structure)(_filled(item, leaves) for item in structure)
    return None if structure is None else leaves[structure]


def _each_as_dtype(cotangent: Any, out: Any) -> Any:
    if not isinstance(out, tuple) and not isinstance(getattr(out, "_value", None), tuple):
        return as_dtype(cotangent, out)
    return [as_dtype(cotangent[i], out[i]) for i in range(len(out))]


# autograd has no types, hence the comment behind every `primitive`
@primitive  # type: ignore[untyped-decorator]
def _apply(*leaves: Any, call: _Call) -> Any:
    return call.run(*leaves)


def _pull(
    argnums: tuple[int, ...], out: Any, leaves: tuple[Any, ...], options: dict[str, Any]
) -> Callable[[Any], tuple[Any, ...]]:
    call: _Call = options["call"]

    def pull(cotangent: Any) -> tuple[Any, ...]:
        if isbox(cotangent) or any(map(isbox, leaves)):  # the gradient is itself differentiated
            if call.op.__name__ not in SECOND:
                raise NotImplementedError(
                    f"{call.op.__name__} has no second derivative here; "
                    f"those that have one: {', '.join(sorted(second_derivatives))}"
                )
            gradients = SECOND[call.op.__name__](call, leaves, _each_as_dtype(cotangent, out))
        else:
            gradients = call.gradients(out, cotangent)
        return tuple(gradients[i] for i in argnums)

    return pull


defvjp_argnums(_apply, _pull)


def _traced(op: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(op)

    @functools.wraps(op)
    def call_op(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        call = _Call(op, given)
        if not call.wrt:
            return op(*args, **kwargs)
        if "out" in given:
            raise TypeError(f"{op.__name__}: out is not taken where gradients are asked for")
        return call.result(_apply(*call.leaves, call=call))

    return call_op


_ops = {name: getattr(arraynn, name) for name in arraynn.__all__ if name in arraynn.reference.__all__}
_ops = {name: op for name, op in _ops.items() if op in _rules}
globals().update({name: _traced(op) for name, op in _ops.items()})
_rules.update({globals()[name]: _rules[op] for name, op in _ops.items()})  # so that vjp and fit take them
second_derivatives = frozenset(SECOND) & frozenset(_ops)

__all__ = [*sorted(_ops), "second_derivatives"]  # of the ops there are


def __getattr__(name: str) -> Any:
    return getattr(arraynn, name)
