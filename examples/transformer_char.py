"""A small transformer that writes text: causal attention on the pieces of text that char_rnn learns from.

Blocks of masked self-attention and a two-layer network, each behind a layer normalization and beside a path
that goes straight through (Vaswani et al. 2017, with the normalization in front).
"""

from __future__ import annotations

import arraynn as ann
import common
import numpy as np
import text
from arraynn.layers import GELU, Dropout, Embedding, Layer, LayerNorm, Linear, MultiheadAttention, Sequential

TARGET = 1.75
WIDTH, HEADS, BLOCKS, LENGTH, BATCH, DROP = 128, 4, 3, 128, 32, 0.1
EPOCHS, RATE, WARMUP, CLIP = 8, 2e-3, 100, 1.0


class Block(Layer):
    """x + attention(norm(x)), and then x + network(norm(x)): (N, T, WIDTH) to the same."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.norm1 = LayerNorm(WIDTH)
        self.attention = MultiheadAttention(WIDTH, HEADS, batch_first=True, rng=rng)
        self.drop1 = Dropout(DROP, rng=rng)
        self.network = Sequential(
            LayerNorm(WIDTH),
            Linear(WIDTH, 4 * WIDTH, rng=rng),
            GELU(),
            Linear(4 * WIDTH, WIDTH, rng=rng),
            Dropout(DROP, rng=rng),
        )

    def forward(self, x: np.ndarray) -> np.ndarray:
        h = self.norm1(x)
        x = x + self.drop1(self.attention(h, h, h, is_causal=True))
        return x + self.network(x)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dy = dy + self.network.backward(dy)
        dh = sum(self.attention.backward(self.drop1.backward(dy)))
        return dy + self.norm1.backward(dh)


class Writer(Layer):
    """(N, T) characters to (N, characters, T) scores of the next one."""

    def __init__(self, characters: int, rng: np.random.Generator) -> None:
        self.embedding = Embedding(characters, WIDTH, rng=rng)
        self.places = Embedding(LENGTH, WIDTH, rng=rng)
        for embedding in (self.embedding, self.places):
            ann.init.normal_(embedding.weight, 0.0, 0.02, rng=rng)
        self.blocks = Sequential(*(Block(rng) for _ in range(BLOCKS)), LayerNorm(WIDTH))
        self.head = Linear(WIDTH, characters, rng=rng)

    def forward(self, x: np.ndarray) -> np.ndarray:
        h = self.embedding(x) + self.places(np.arange(x.shape[1]))
        return self.head(self.blocks(h)).transpose(0, 2, 1)

    def backward(self, dy: np.ndarray) -> None:
        dh = self.blocks.backward(self.head.backward(dy.transpose(0, 2, 1)))
        self.embedding.backward(dh)
        self.places.backward(dh.sum(0))

    def write(
        self, first: np.ndarray, count: int, temperature: float, rng: np.random.Generator
    ) -> np.ndarray:
        """Return `count` characters that follow `first`."""
        self.eval()
        found = list(first)
        for _ in range(count):
            scores = self(np.array([found[-LENGTH:]]))[0, :, -1].astype(np.float64) / temperature
            p = np.exp(scores - scores.max())
            found.append(rng.choice(len(p), p=p / p.sum()))
        return np.array(found[len(first) :])


def train(data: text.Characters, epochs: int, seed: int) -> tuple[Writer, ann.History, common.Outcome]:
    rng = np.random.default_rng(seed)
    model = Writer(len(data.alphabet), rng)
    print(common.parameters(model))
    optimizer = ann.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.1)
    steps = epochs * sum(1 for _ in text.batches(data.train, LENGTH, BATCH, seed, 0))
    cosine = ann.optim.CosineAnnealingLR(optimizer, max(steps - WARMUP, 1), 0.1 * RATE, every="step")
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        lambda epoch: text.batches(data.train, LENGTH, BATCH, seed, epoch),
        epochs=epochs,
        batch_size=None,
        validation_data=text.windows(data.validation, LENGTH),
        schedule=ann.optim.LinearWarmup(optimizer, WARMUP, then=cosine),
        early_stopping=ann.EarlyStopping(patience=epochs),
        clip_norm=CLIP,
        callbacks=[clock],
    )
    return model, history, common.Outcome(min(history["val_loss"]), clock.seconds)


def train_torch(data: text.Characters, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    class Writer(nn.Module):
        def __init__(self, characters: int) -> None:
            super().__init__()
            self.embedding, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(LENGTH, WIDTH)
            for embedding in (self.embedding, self.places):
                nn.init.normal_(embedding.weight, 0.0, 0.02)
            block = nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, DROP, nn.functional.gelu, batch_first=True, norm_first=True
            )
            block.self_attn.dropout = block.dropout.p = 0.0  # dropout where Block has it, and nowhere else
            self.blocks = nn.TransformerEncoder(
                block, BLOCKS, nn.LayerNorm(WIDTH), enable_nested_tensor=False
            )
            self.head = nn.Linear(WIDTH, characters)

        def forward(self, x):
            length = x.shape[1]
            h = self.embedding(x) + self.places(torch.arange(length))
            mask = nn.Transformer.generate_square_subsequent_mask(length)
            return self.head(self.blocks(h, mask, is_causal=True)).transpose(1, 2)

    torch.manual_seed(seed)
    model = Writer(len(data.alphabet))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.1)
    steps = epochs * sum(1 for _ in text.batches(data.train, LENGTH, BATCH, seed, 0))

    def rate(step: int) -> float:
        if step < WARMUP:
            return (step + 1) / WARMUP
        return 0.1 + 0.45 * (1 + np.cos(np.pi * min((step + 1 - WARMUP) / max(steps - WARMUP, 1), 1)))

    return common.torch_fit(
        model,
        nn.functional.cross_entropy,
        optimizer,
        lambda epoch: text.batches(data.train, LENGTH, BATCH, seed, epoch),
        epochs=epochs,
        score=text.torch_score(model, *text.windows(data.validation, LENGTH)),
        clip_norm=CLIP,
        after_step=torch.optim.lr_scheduler.LambdaLR(optimizer, rate).step,
    )


def main() -> None:
    text.run(
        common.arguments(__doc__),
        train,
        train_torch,
        EPOCHS,
        title="Transformer that writes",
        what=f"{BLOCKS} blocks of {HEADS} heads, width {WIDTH}",
        target=TARGET,
        length=LENGTH,
    )


if __name__ == "__main__":
    main()
