"""`Sequential`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, overload

from .base import Layer


class Sequential(Layer):
    """Layers applied one after the other.

    Parameters
    ----------
    *layers : Layer, or one mapping of str to Layer
        They are named "0", "1", … in `state_dict` ("0.weight"), or as the mapping names them.

    Notes
    -----
    `LSTM` and `GRU` return a pair ``(output, state)``: follow them by `EachStep` or `LastStep`.

    Examples
    --------
    >>> model = Sequential(Linear(784, 128), ReLU(), Linear(128, 10))
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = dict(layers[0])
        else:
            named = {str(i): layer for i, layer in enumerate(layers)}  # type: ignore[misc]
        for name, layer in named.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential: layer {name} must be a Layer, got {type(layer).__name__}")
        self._layers: dict[str, Layer] = named

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        return iter(self._layers.items())

    def forward(self, x: Any) -> Any:
        needed = self.input_grad
        for layer in self:
            x = layer(x, input_grad=needed)
            # what comes out depends on what is learned from the first layer that learns
            needed = needed or layer._learns()
        return x

    def backward(self, dy: Any) -> Any:
        for layer in reversed(self._layers.values()):
            dy = layer.backward(dy)
            if not layer.input_grad:  # no layer before this one learns
                break
        return dy if self.input_grad else None

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequential:
        items = list(self._layers.items())[index]
        return Sequential(dict(items)) if isinstance(items, list) else items[1]
