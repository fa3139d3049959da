"""A two-layer LSTM that writes text character by character.

It learns to tell the next character from those before, on pieces of a text; then it writes on its own, each
character drawn from what it expects, at three temperatures: low ones take the likely, high ones the unlikely.
"""

from __future__ import annotations

import arraynn as ann
import common
import numpy as np
import text
from arraynn.layers import LSTM, Dropout, Embedding, Layer, Linear

TARGET = 1.60
EMBEDDED, HIDDEN, LENGTH, BATCH, EPOCHS, RATE, CLIP = 64, 256, 128, 32, 8, 4e-3, 1.0


class Writer(Layer):
    """(N, T) characters to (N, characters, T) scores of the next one."""

    def __init__(self, characters: int, rng: np.random.Generator) -> None:
        self.embedding = Embedding(characters, EMBEDDED, rng=rng)
        self.lstm = LSTM(EMBEDDED, HIDDEN, num_layers=2, batch_first=True, dropout=0.2, rng=rng)
        self.dropout = Dropout(0.2, rng=rng)
        self.head = Linear(HIDDEN, characters, rng=rng)
        ann.init.forget_gate_bias_(self.lstm, 1.0)

    def forward(self, x: np.ndarray) -> np.ndarray:
        output, _ = self.lstm(self.embedding(x))
        return self.head(self.dropout(output)).transpose(0, 2, 1)

    def backward(self, dy: np.ndarray) -> None:
        dh = self.dropout.backward(self.head.backward(dy.transpose(0, 2, 1)))
        self.embedding.backward(self.lstm.backward((dh, None)))

    def write(
        self, first: np.ndarray, count: int, temperature: float, rng: np.random.Generator
    ) -> np.ndarray:
        """Return `count` characters that follow `first`; the state goes along from one to the next."""
        self.eval()
        found, state, given = [], None, first[None]
        for _ in range(count):
            output, state = self.lstm(self.embedding(given), state)
            scores = self.head(output[:, -1])[0].astype(np.float64) / temperature
            p = np.exp(scores - scores.max())
            found.append(rng.choice(len(p), p=p / p.sum()))
            given = np.array([[found[-1]]])
        return np.array(found)


def train(data: text.Characters, epochs: int, seed: int) -> tuple[Writer, ann.History, common.Outcome]:
    rng = np.random.default_rng(seed)
    model = Writer(len(data.alphabet), rng)
    print(common.parameters(model))
    optimizer = ann.optim.Adam(model.parameters(), RATE)
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        optimizer,
        lambda epoch: text.batches(data.train, LENGTH, BATCH, seed, epoch),
        epochs=epochs,
        batch_size=None,
        validation_data=text.windows(data.validation, 2 * LENGTH),
        schedule=ann.optim.CosineAnnealingLR(optimizer, epochs),
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
            self.embedding = nn.Embedding(characters, EMBEDDED)
            self.lstm = nn.LSTM(EMBEDDED, HIDDEN, num_layers=2, batch_first=True, dropout=0.2)
            self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(HIDDEN, characters))
            with torch.no_grad():
                for name, bias in self.lstm.named_parameters():
                    if name.startswith("bias"):
                        bias[HIDDEN : 2 * HIDDEN] = 1.0 if "ih" in name else 0.0

        def forward(self, x):
            return self.head(self.lstm(self.embedding(x))[0]).transpose(1, 2)

    torch.manual_seed(seed)
    model = Writer(len(data.alphabet))
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    return common.torch_fit(
        model,
        nn.functional.cross_entropy,
        optimizer,
        lambda epoch: text.batches(data.train, LENGTH, BATCH, seed, epoch),
        epochs=epochs,
        score=text.torch_score(model, *text.windows(data.validation, 2 * LENGTH)),
        clip_norm=CLIP,
        after_epoch=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs).step,
    )


def main() -> None:
    text.run(
        common.arguments(__doc__),
        train,
        train_torch,
        EPOCHS,
        title="Two-layer LSTM that writes",
        what=f"two LSTM({HIDDEN})",
        target=TARGET,
        length=LENGTH,
    )


if __name__ == "__main__":
    main()
