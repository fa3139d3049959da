"""`MultiheadAttention`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._vjp import vjp
from ..attention import scaled_dot_product_attention
from ..linear import linear
from .base import Layer, Parameter, Seed, size, uniform
from .linear import Linear


class MultiheadAttention(Layer):
    """Attention of several heads, `arraynn.scaled_dot_product_attention`, between projections.

    ``y = layer(query, key=None, value=None, key_padding_mask=None, attn_mask=None, is_causal=False)``.
    `key` is `query` where it is left out, and `value` is `key`: ``layer(x)`` is self-attention. `backward`
    returns a gradient for each of the three that the call was given, in their order: one array for
    ``layer(x)``, three for ``layer(x, x, x)``, each that of one use.

    As in ``torch.nn.MultiheadAttention``, True in a mask of this layer stands for what is left out, and a
    floating mask is added: `key_padding_mask` is (N, S), or (S,) without a batch; `attn_mask` is (L, S) or
    (N * num_heads, L, S). `is_causal` leaves out the keys behind a query by itself, besides them. The
    weights are never there as a whole, so that they are not returned, as with PyTorch's
    ``need_weights=False``. A query without a key, which gives NaN there, gives ``out_proj``'s bias.

    Parameters
    ----------
    embed_dim, num_heads, dropout, bias, batch_first
        As in ``torch.nn.MultiheadAttention``.
    rng : None, int or numpy.random.Generator, keyword-only
        Source of the initial values and of the dropout masks of the weights.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    in_proj_weight : Parameter of shape (3 * embed_dim, embed_dim)
        Those of query, key and value. Drawn from U(-k, k) with k = sqrt(6 / (4 * embed_dim)).
    in_proj_bias : Parameter of shape (3 * embed_dim,), or None
        Zero at first, as is ``out_proj.bias``.
    out_proj : Linear
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        batch_first: bool = False,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.embed_dim = size(self, "embed_dim", embed_dim)
        self.num_heads = size(self, "num_heads", num_heads)
        if self.embed_dim % self.num_heads:
            raise ValueError(
                "MultiheadAttention: embed_dim must be a multiple of num_heads, "
                f"got {embed_dim} and {num_heads}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiheadAttention: dropout must be between 0 and 1, got {dropout}")
        self.dropout = dropout
        self.batch_first = batch_first
        self.rng = np.random.default_rng(rng)
        bound = math.sqrt(6 / (4 * self.embed_dim))
        self.in_proj_weight = uniform(self.rng, bound, (3 * self.embed_dim, self.embed_dim), dtype)
        self.in_proj_bias = Parameter(np.zeros(3 * self.embed_dim, dtype)) if bias else None
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias, rng=self.rng, dtype=dtype)
        if self.out_proj.bias is not None:
            self.out_proj.bias.data[...] = 0
        self._given = (False, False)

    def forward(
        self,
        query: NDArray[Any],
        key: NDArray[Any] | None = None,
        value: NDArray[Any] | None = None,
        key_padding_mask: NDArray[Any] | None = None,
        attn_mask: NDArray[Any] | None = None,
        is_causal: bool = False,
    ) -> NDArray[Any]:
        self._given = (key is not None, value is not None)
        key = query if key is None else key
        value = key if value is None else value
        self._check(query, key, value)
        mask = self._mask(query, key, key_padding_mask, attn_mask)
        pulls, heads = [], []
        for i, x in enumerate((query, key, value)):
            part = slice(i * self.embed_dim, (i + 1) * self.embed_dim)
            bias = None if self.in_proj_bias is None else self.in_proj_bias.data[part]
            projected, pull = self._apply(linear, x, self.in_proj_weight.data[part], bias, skip="input")
            heads.append(self._split(projected))
            pulls.append(pull)
        chance = self.dropout if self.training else 0.0
        attended, pull = self._apply(
            scaled_dot_product_attention, *heads, mask, chance, is_causal, rng=self.rng
        )
        self._pullback = (lambda dheads: (pulls, pull(dheads))) if self.training else None
        output: NDArray[Any] = self.out_proj(self._join(attended))
        return output

    def backward(self, dy: Any) -> Any:
        pullback = self._take_pullback()
        pulls, dheads = pullback(self._split(self.out_proj.backward(dy)))
        dinputs, dweights, dbiases = zip(
            *(pull(self._join(d)) for pull, d in zip(pulls, dheads, strict=True)), strict=True
        )
        self.in_proj_weight.accumulate(np.concatenate(dweights))
        if self.in_proj_bias is not None:
            self.in_proj_bias.accumulate(np.concatenate(dbiases))
        if not self.input_grad:
            return None
        dquery, dkey, dvalue = dinputs
        with_key, with_value = self._given
        if not with_value:
            dkey = dkey + dvalue
        if not with_key:
            dquery = dquery + dkey
        given = (dquery, *(dkey,) * with_key, *(dvalue,) * with_value)
        return given if len(given) > 1 else dquery

    def _apply(self, op: Any, *args: Any, skip: str = "", **options: Any) -> Any:
        if not self.training:
            return op(*args, **options), None
        if skip and not self.input_grad:
            return vjp(op, *args, wrt=("weight", "bias"), **options)
        return vjp(op, *args, **options)

    def _split(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return (N, heads, L, E / heads), without N where there is no batch."""
        heads = x.reshape(*x.shape[:-1], self.num_heads, -1)
        if x.ndim == 2:
            return heads.swapaxes(0, 1)
        return heads.transpose(0, 2, 1, 3) if self.batch_first else heads.transpose(1, 2, 0, 3)

    def _join(self, heads: NDArray[Any]) -> NDArray[Any]:
        """Undo `_split`."""
        if heads.ndim == 3:
            x = heads.swapaxes(0, 1)
        else:
            x = heads.transpose(0, 2, 1, 3) if self.batch_first else heads.transpose(2, 0, 1, 3)
        return x.reshape(*x.shape[:-2], self.embed_dim)

    def _check(self, *inputs: NDArray[Any]) -> None:
        batch = 0 if self.batch_first else 1
        for name, x in zip(("query", "key", "value"), inputs, strict=True):
            if not isinstance(x, np.ndarray):
                raise TypeError(f"MultiheadAttention: {name} must be an array, got {type(x).__name__}")
            fits = x.ndim == inputs[0].ndim and x.ndim in (2, 3) and x.shape[-1] == self.embed_dim
            if not fits or (x.ndim == 3 and x.shape[batch] != inputs[0].shape[batch]):
                order = "(N, L, E)" if self.batch_first else "(L, N, E)"
                raise ValueError(
                    f"MultiheadAttention: {name} has shape {x.shape}, expected {order}, or (L, E) without a "
                    f"batch, with E = {self.embed_dim} and the N of query, of shape {inputs[0].shape}"
                )

    def _mask(self, query: Any, key: Any, padding: Any, attn_mask: Any) -> Any:
        """Return the mask as `scaled_dot_product_attention` takes it, in which True says yes."""
        lengths = [x.shape[1 if self.batch_first and x.ndim == 3 else 0] for x in (query, key)]
        batch = () if query.ndim == 2 else (query.shape[0 if self.batch_first else 1],)
        masks = []
        if padding is not None:
            _expect("key_padding_mask", padding, (*batch, lengths[1]))
            masks.append(padding.reshape(*batch, 1, 1, lengths[1]))
        if attn_mask is not None:
            each = (*batch, self.num_heads, *lengths)
            _expect("attn_mask", attn_mask, tuple(lengths), (math.prod(each[:-2]), *lengths))
            masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.reshape(each))
        if all(mask.dtype == bool for mask in masks):
            return np.logical_not(np.logical_or(*masks) if len(masks) == 2 else masks[0]) if masks else None
        dtype = self.in_proj_weight.data.dtype
        biases = [
            np.where(mask, -np.inf, 0.0).astype(dtype) if mask.dtype == bool else mask for mask in masks
        ]
        return biases[0] + biases[1] if len(biases) == 2 else biases[0]

    def extra_repr(self) -> str:
        text = f"{self.embed_dim}, {self.num_heads}"
        if self.dropout:
            text += f", dropout={self.dropout}"
        if self.in_proj_bias is None:
            text += ", bias=False"
        return text + (", batch_first=True" if self.batch_first else "")


def _expect(name: str, mask: Any, *shapes: tuple[int, ...]) -> None:
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"MultiheadAttention: {name} must be an array, got {type(mask).__name__}")
    if mask.dtype != bool and mask.dtype.kind != "f" and mask.dtype.name != "bfloat16":
        raise TypeError(f"MultiheadAttention: {name} must be boolean or floating, got dtype {mask.dtype}")
    if mask.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"MultiheadAttention: {name} has shape {mask.shape}, expected {expected}")
