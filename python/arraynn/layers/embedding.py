"""`Embedding`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..embedding import embedding
from .base import OpLayer, Parameter, Seed, size


class Embedding(OpLayer):
    """Rows of a table, `arraynn.embedding`. Integers have no gradient: `backward` returns None.

    Parameters
    ----------
    num_embeddings, embedding_dim, padding_idx
        As in ``torch.nn.Embedding``.
    rng, dtype
        As in `Conv1d`.

    Attributes
    ----------
    weight : Parameter of shape (num_embeddings, embedding_dim)
        Drawn from the standard normal distribution; row `padding_idx` is zero and stays so.
    """

    op = staticmethod(embedding)
    arguments = ("weight",)
    options = ("padding_idx",)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_embeddings = size(self, "num_embeddings", num_embeddings)
        self.embedding_dim = size(self, "embedding_dim", embedding_dim)
        rng = np.random.default_rng(rng)
        table = rng.standard_normal((self.num_embeddings, self.embedding_dim)).astype(dtype)
        self.padding_idx = padding_idx
        if padding_idx is not None:
            row = size(self, "padding_idx", padding_idx, -self.num_embeddings)
            if row >= self.num_embeddings:
                raise ValueError(
                    f"Embedding: padding_idx must be below num_embeddings={self.num_embeddings}, "
                    f"got {padding_idx}"
                )
            self.padding_idx = row % self.num_embeddings
            table[self.padding_idx] = 0
        self.weight = Parameter(table)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"

    def backward(self, dy: Any) -> None:
        self.weight.accumulate(self._take_pullback()(dy)[0])
