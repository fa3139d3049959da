"""An LSTM in both directions tells whether a sentence about a film is kind.

The sentences, splits and seeds of text_cnn. Each sequence has its own length: what is behind its end is
neither read nor computed with.
"""

from __future__ import annotations

import arraynn as ann
import common
import numpy as np
import text
from arraynn.layers import LSTM, Dropout, Embedding, LastStep, Layer, Linear
from text_cnn import draw, over_seeds

TARGET = 0.74
EMBEDDED, HIDDEN, BATCH, EPOCHS, RATE, CLIP = 64, 64, 50, 3, 2e-3, 1.0


class Reader(Layer):
    """(N, T) words and (N,) lengths to (N, 2) scores."""

    def __init__(self, words: int, rng: np.random.Generator) -> None:
        self.embedding = Embedding(words, EMBEDDED, padding_idx=0, rng=rng)
        ann.init.uniform_(self.embedding.weight, -0.25, 0.25, rng=rng)
        self.embedding.weight.data[0] = 0
        self.before, self.after = Dropout(0.5, rng=rng), Dropout(0.5, rng=rng)
        self.lstm = LSTM(EMBEDDED, HIDDEN, batch_first=True, bidirectional=True, rng=rng)
        ann.init.forget_gate_bias_(self.lstm)
        self.last = LastStep()
        self.head = Linear(2 * HIDDEN, 2, rng=rng)

    def forward(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        vectors = self.before(self.embedding(ids))
        return self.head(self.after(self.last(self.lstm(vectors, lengths=lengths))))

    def backward(self, dy: np.ndarray) -> None:
        d_states = self.last.backward(self.after.backward(self.head.backward(dy)))
        self.embedding.backward(self.before.backward(self.lstm.backward(d_states)))


def train(data: text.Sentences, epochs: int, seed: int) -> tuple[ann.History, common.Outcome]:
    rng = np.random.default_rng(seed)
    learned, held_out = text.split(data.labels, seed)
    model = Reader(data.words, rng)
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        ann.optim.Adam(model.parameters(), RATE),
        ((data.ids[learned], data.lengths[learned]), data.labels[learned]),
        epochs=epochs,
        batch_size=BATCH,
        validation_data=((data.ids[held_out], data.lengths[held_out]), data.labels[held_out]),
        metrics="accuracy",
        clip_norm=CLIP,
        callbacks=[clock],
        rng=rng,
    )
    return history, common.Outcome(history["val_accuracy"][-1], clock.seconds)


def train_torch(data: text.Sentences, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    class Reader(nn.Module):
        def __init__(self, words: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(words, EMBEDDED, padding_idx=0)
            nn.init.uniform_(self.embedding.weight, -0.25, 0.25)
            self.lstm = nn.LSTM(EMBEDDED, HIDDEN, batch_first=True, bidirectional=True)
            self.head = nn.Linear(2 * HIDDEN, 2)
            with torch.no_grad():
                self.embedding.weight[0] = 0
                for name, bias in self.lstm.named_parameters():
                    if name.startswith("bias"):
                        bias[HIDDEN : 2 * HIDDEN] = 1.0 if "ih" in name else 0.0

        def forward(self, ids):
            lengths = (ids != 0).sum(1)
            vectors = nn.functional.dropout(self.embedding(ids), 0.5, self.training)
            packed = nn.utils.rnn.pack_padded_sequence(
                vectors, lengths, batch_first=True, enforce_sorted=False
            )
            _, (hidden, _) = self.lstm(packed)
            both = torch.cat([hidden[0], hidden[1]], 1)
            return self.head(nn.functional.dropout(both, 0.5, self.training))

    torch.manual_seed(seed)
    learned, held_out = text.split(data.labels, seed)
    model = Reader(data.words)
    return common.torch_fit(
        model,
        nn.functional.cross_entropy,
        torch.optim.Adam(model.parameters(), RATE),
        (data.ids[learned], data.labels[learned]),
        epochs=epochs,
        batch_size=BATCH,
        score=lambda: common.torch_accuracy(model, data.ids[held_out], data.labels[held_out]),
        clip_norm=CLIP,
        seed=seed,
    )


def main() -> None:
    options = common.arguments(__doc__, seeds=5)
    data = text.sentences(options)
    epochs, seeds = (1, 1) if options.quick else (EPOCHS, options.seeds)
    if options.engine == "torch":
        return common.hand_over(over_seeds(train_torch, data, epochs, options.seed, seeds)[1])
    runs, outcome = over_seeds(train, data, epochs, options.seed, seeds)
    draw(options.out, f"LSTM in both directions: {data.name}", [history for history, _ in runs])
    common.report(
        options,
        outcome,
        what="LSTM(64) in both directions, random vectors, dropout 0.5",
        data=f"{data.name}, {seeds} seeds",
        measure="mean accuracy",
        target=TARGET,
        form=".1%",
    )


if __name__ == "__main__":
    main()
