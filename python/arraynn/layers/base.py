"""What every layer is made of: `Parameter`, `Layer`, `OpLayer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._vjp import differentiable, vjp

Seed = int | np.random.Generator | None


class Parameter:
    """An array that is learned, and its gradient.

    Attributes
    ----------
    data : ndarray
        The values. Optimizers and `Layer.load_state_dict` write into this array.
    grad : ndarray or None
        The gradient added up since `Layer.zero_grad`; None before the first.
    requires_grad : bool
        False freezes the parameter: calls from then on compute no gradient for it, and optimizers leave it.
    """

    __slots__ = ("data", "grad", "requires_grad")

    def __init__(self, data: NDArray[Any]) -> None:
        self.data = data
        self.grad: NDArray[Any] | None = None
        self.requires_grad = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def accumulate(self, gradient: NDArray[Any] | None) -> None:
        """Add `gradient` to `grad`, unless frozen. The first one becomes `grad` itself, without a copy."""
        if gradient is None or not self.requires_grad:
            return
        if self.grad is None:
            self.grad = gradient
        else:
            self.grad += gradient

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.data.dtype})"


class Layer:
    """The base of all layers, and of a model of one's own.

    ``y = layer(x)`` runs `forward`; ``dx = layer.backward(dy)`` goes back through the last call
    and adds to the gradients of the parameters. A call in `train` mode, the initial one, keeps
    what its backward needs until that has run; a call in `eval` mode keeps nothing.

    A layer of one's own assigns its parameters and sub-layers to attributes, which is how they
    are found and named, and defines `forward` and `backward`::

        class Residual(Layer):
            def __init__(self, body):
                self.body = body

            def forward(self, x):
                return x + self.body(x)

            def backward(self, dy):
                return dy + self.body.backward(dy)

    Attributes
    ----------
    buffers : tuple of str
        Of the class: names of the attributes that hold arrays, or None, which calls change and which
        are not learned. They are part of the state, behind the layer's own parameters.
    training : bool
        Whether the layer is in `train` mode.
    input_grad : bool
        Whether the last call promised a gradient for the layer's input (see `__call__`).
    """

    training: bool = True
    input_grad: bool = True
    buffers: ClassVar[tuple[str, ...]] = ()
    _pullback: Callable[[Any], tuple[Any, ...]] | None = None

    def __call__(self, *inputs: Any, input_grad: bool = True, **options: Any) -> Any:
        """Apply the layer.

        Parameters
        ----------
        *inputs, **options
            What `forward` takes.
        input_grad : bool, default True
            False skips the work of the gradient with respect to the input, and `backward` then
            returns None: right for the first layer of a model, whose input is data.
        """
        self.input_grad = input_grad
        return self.forward(*inputs, **options)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return the layer's output."""
        raise NotImplementedError(f"{type(self).__name__}: forward is not defined")

    def backward(self, dy: Any) -> Any:
        """Add to the parameters' gradients and return the gradient with respect to the input.

        Parameters
        ----------
        dy : array or tuple
            The gradient of the loss with respect to the output: of its structure, shapes and
            dtypes; None stands for zero at any level.

        Raises
        ------
        RuntimeError
            There is no call in `train` mode that has not been gone back through.
        """
        raise NotImplementedError(f"{type(self).__name__}: backward is not defined")

    # -- calling the op ---------------------------------------------------------------------

    def _run(self, op: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if not self.training:
            self._pullback = None
            return op(*args, **options)
        wrt = tuple(name for name in differentiable(op, options) if self._wants(name))
        out, self._pullback = vjp(op, *args, wrt=wrt, **options)
        return out

    def _wants(self, name: str) -> bool:
        """Return whether the gradient of the op's argument `name` is of use."""
        if name == "input":
            return self.input_grad
        parameter = getattr(self, name, None)
        return not isinstance(parameter, Parameter) or parameter.requires_grad

    def _take_pullback(self) -> Callable[[Any], tuple[Any, ...]]:
        """Hand over the pullback and forget it, so that what it saved is freed with it."""
        pullback, self._pullback = self._pullback, None
        if pullback is None:
            raise self._no_call()
        return pullback

    def _no_call(self) -> RuntimeError:
        text = (
            f"{type(self).__name__}: backward needs a call in train() mode before it, one for each backward"
        )
        return RuntimeError(text + ("" if self.training else ", and the layer is in eval() mode"))

    # -- parameters -------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        """Yield ``(name, layer)`` for each direct sub-layer."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Layer))

    def _slots(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield every place that holds a parameter: a shared one comes once for each place."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child._slots(f"{prefix}{name}.")

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield ``(name, parameter)``, named as in PyTorch; a shared parameter once."""
        seen: set[int] = set()
        for name, parameter in self._slots():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of the layer and its sub-layers."""
        return (parameter for _, parameter in self.named_parameters())

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze all parameters (False), or let them learn again; see `Parameter.requires_grad`."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def _learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def _state(self, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the arrays of parameters and buffers, in PyTorch's order."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value.data
        for name in self.buffers:
            if getattr(self, name) is not None:
                yield prefix + name, getattr(self, name)
        for name, child in self.named_children():
            yield from child._state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of every parameter's and buffer's values by name."""
        return {name: array.copy() for name, array in self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Write the values of `state` into the parameters and buffers.

        Parameters
        ----------
        state : mapping of str to array
            One entry per name in `state_dict`, of its shape: what `state_dict` or `arraynn.load`
            returned, or a PyTorch ``state_dict`` as it is. Values are cast to the dtype that
            the parameter or buffer has.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape differs. Nothing has been written then.
        TypeError
            A value is not an array of real numbers. Nothing has been written then.
        """
        slots = dict(self._state())
        missing, unknown = slots.keys() - state.keys(), state.keys() - slots.keys()
        if missing or unknown:
            raise ValueError(
                f"load_state_dict: state must name {type(self).__name__}'s parameters"
                + (f", missing: {', '.join(sorted(missing))}" if missing else "")
                + (f", unknown: {', '.join(sorted(unknown))}" if unknown else "")
            )
        values = {name: _as_array(name, state[name]) for name in slots}
        for name, array in slots.items():
            if values[name].shape != array.shape:
                raise ValueError(
                    f"load_state_dict: {name} has shape {values[name].shape}, expected {array.shape}"
                )
        for name, array in slots.items():
            array[...] = values[name].astype(array.dtype, copy=False)

    # -- mode -------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set `train` mode (or `eval` mode if `mode` is False) here and in all sub-layers.

        Calls not yet gone back through are forgotten.
        """
        self.training = mode
        self._pullback = None
        for _, child in self.named_children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set the mode for predictions: dropout is off, nothing is kept for `backward`."""
        return self.train(False)

    # -- text -------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return what `repr` shows between the parentheses, before the sub-layers."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}" for name, child in self.named_children()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        body = "\n".join(([self.extra_repr()] if self.extra_repr() else []) + lines)
        return f"{type(self).__name__}(\n  " + body.replace("\n", "\n  ") + "\n)"


class OpLayer(Layer):
    """One op, the attributes that are its parameters, and the attributes that are its options."""

    op: ClassVar[Callable[..., Any]]
    # The names of parameters, or None, that are the differentiable arguments behind the input.
    arguments: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()

    def forward(self, x: NDArray[Any]) -> Any:
        parameters = {name: getattr(self, name) for name in self.arguments}
        values = {name: None if p is None else p.data for name, p in parameters.items()}
        return self._run(self.op, x, **values, **{name: getattr(self, name) for name in self.options})

    def backward(self, dy: Any) -> Any:
        dx, *gradients = self._take_pullback()(dy)
        for name, gradient in zip(self.arguments, gradients, strict=True):
            parameter: Parameter | None = getattr(self, name)
            if parameter is not None:
                parameter.accumulate(gradient)
        return dx


def uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...], dtype: DTypeLike) -> Parameter:
    """Return a parameter drawn from the uniform distribution on ``[-bound, bound)``."""
    return Parameter(rng.uniform(-bound, bound, shape).astype(dtype))


def size(layer: Layer, name: str, value: Any, least: int = 1) -> int:
    """Return `value` if it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{type(layer).__name__}: {name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{type(layer).__name__}: {name} must be at least {least}, got {value}")
    return int(value)


def _as_array(name: str, value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a PyTorch tensor
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has no name for it; float32 holds it exactly
            value = value.float()
    elif isinstance(value, list | tuple):
        raise TypeError(f"load_state_dict: {name} must be an array, got {type(value).__name__}")
    elif hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        value = np.from_dlpack(value)
    array = np.asarray(value)
    if not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise TypeError(f"load_state_dict: {name} must be an array of real numbers, got dtype {array.dtype}")
    return array
