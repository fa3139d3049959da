"""A convolutional network tells whether a sentence about a film is kind.

The network of Kim (2014): words become vectors, convolutions 3, 4 and 5 words wide look for phrases, the
strongest answer of each anywhere in the sentence is kept. Its published accuracy with random word vectors is
76.1 %. Here each of five seeds draws its own tenth of the sentences to test with.
"""

from __future__ import annotations

import arraynn as ann
import common
import numpy as np
import text
from arraynn.layers import Conv1d, Dropout, Embedding, Layer, Linear, ReLU

PUBLISHED, WITHIN = 0.761, 0.01
EMBEDDED, FILTERS, WIDTHS, BATCH, EPOCHS, RATE, MAX_NORM = 128, 100, (3, 4, 5), 50, 5, 1e-3, 3.0


class Phrases(Layer):
    """(N, T) words to (N, 2) scores."""

    def __init__(self, words: int, rng: np.random.Generator) -> None:
        self.embedding = Embedding(words, EMBEDDED, padding_idx=0, rng=rng)
        ann.init.uniform_(self.embedding.weight, -0.25, 0.25, rng=rng)
        self.embedding.weight.data[0] = 0
        for width in WIDTHS:
            setattr(self, f"conv{width}", Conv1d(EMBEDDED, FILTERS, width, rng=rng))
        self.relus = [ReLU() for _ in WIDTHS]
        self.dropout = Dropout(0.5, rng=rng)
        self.head = Linear(FILTERS * len(WIDTHS), 2, rng=rng)
        self._pullbacks: list = []

    def forward(self, ids: np.ndarray) -> np.ndarray:
        vectors = self.embedding(ids).transpose(0, 2, 1)
        found, self._pullbacks = [], []
        for width in WIDTHS:
            # the largest of a row before ReLU is the largest after it
            answers = getattr(self, f"conv{width}")(vectors)
            best, pull = ann.vjp(ann.max_pool1d, answers, answers.shape[2])
            found.append(best[:, :, 0])
            self._pullbacks.append(pull)
        strongest = [relu(best) for relu, best in zip(self.relus, found, strict=True)]
        return self.head(self.dropout(np.concatenate(strongest, axis=1)))

    def backward(self, dy: np.ndarray) -> None:
        dh = np.split(self.dropout.backward(self.head.backward(dy)), len(WIDTHS), axis=1)
        total = 0
        for width, relu, pull, part in zip(WIDTHS, self.relus, self._pullbacks, dh, strict=True):
            (answers,) = pull(relu.backward(np.ascontiguousarray(part))[:, :, None])
            total = total + getattr(self, f"conv{width}").backward(answers)
        self.embedding.backward(total.transpose(0, 2, 1))

    def named_children(self):
        yield from super().named_children()
        yield from ((f"relu{width}", relu) for width, relu in zip(WIDTHS, self.relus, strict=True))


class WithMaxNorm(ann.optim.Adam):
    """Adam that keeps each class's weights of the last layer within a norm."""

    def __init__(self, model: Phrases) -> None:
        super().__init__(model.parameters(), RATE)
        self._bounded = model.head.weight.data

    def step(self) -> None:
        super().step()
        norms = np.linalg.norm(self._bounded, axis=1, keepdims=True)
        self._bounded *= np.minimum(1, MAX_NORM / np.maximum(norms, 1e-12))


def train(data: text.Sentences, epochs: int, seed: int) -> tuple[ann.History, common.Outcome]:
    rng = np.random.default_rng(seed)
    learned, held_out = text.split(data.labels, seed)
    model = Phrases(data.words, rng)
    clock = common.Clock()
    history = ann.fit(
        model,
        ann.cross_entropy,
        WithMaxNorm(model),
        (data.ids[learned], data.labels[learned]),
        epochs=epochs,
        batch_size=BATCH,
        validation_data=(data.ids[held_out], data.labels[held_out]),
        metrics="accuracy",
        callbacks=[clock],
        rng=rng,
    )
    return history, common.Outcome(history["val_accuracy"][-1], clock.seconds)


def train_torch(data: text.Sentences, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    class Phrases(nn.Module):
        def __init__(self, words: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(words, EMBEDDED, padding_idx=0)
            nn.init.uniform_(self.embedding.weight, -0.25, 0.25)
            self.convs = nn.ModuleList(nn.Conv1d(EMBEDDED, FILTERS, width) for width in WIDTHS)
            self.head = nn.Linear(FILTERS * len(WIDTHS), 2)
            with torch.no_grad():
                self.embedding.weight[0] = 0

        def forward(self, ids):
            vectors = self.embedding(ids).transpose(1, 2)
            found = [conv(vectors).amax(2).relu() for conv in self.convs]
            return self.head(nn.functional.dropout(torch.cat(found, 1), 0.5, self.training))

    torch.manual_seed(seed)
    learned, held_out = text.split(data.labels, seed)
    model = Phrases(data.words)
    optimizer = torch.optim.Adam(model.parameters(), RATE)

    def bound() -> None:
        with torch.no_grad():
            model.head.weight.renorm_(2, 0, MAX_NORM)

    return common.torch_fit(
        model,
        nn.functional.cross_entropy,
        optimizer,
        (data.ids[learned], data.labels[learned]),
        epochs=epochs,
        batch_size=BATCH,
        score=lambda: common.torch_accuracy(model, data.ids[held_out], data.labels[held_out]),
        after_step=bound,
        seed=seed,
    )


def over_seeds(
    train_once, data: text.Sentences, epochs: int, first: int, count: int
) -> tuple[list, common.Outcome]:
    """Train with several seeds; return what each gave, and the means."""
    runs = [train_once(data, epochs, first + i) for i in range(count)]
    outcomes = [run if isinstance(run, common.Outcome) else run[1] for run in runs]
    scores = ", ".join(f"{outcome.score:.1%}" for outcome in outcomes)
    print(f"accuracy with each seed: {scores}")
    return runs, common.Outcome(*(float(np.mean(values)) for values in zip(*outcomes, strict=True)))


def draw(path: object, title: str, histories: list[ann.History]) -> None:
    figure = common.figure(title, width=9)
    axis = figure.subplots()
    for i, (history, color) in enumerate(zip(histories, common.COLORS, strict=False)):
        epochs = range(1, history.epochs + 1)
        axis.plot(epochs, history["accuracy"], "--", color=color, linewidth=1)
        axis.plot(epochs, history["val_accuracy"], color=color, linewidth=2, label=f"seed {i}")
    axis.set(title="Accuracy on held-out sentences (dashed: while learning)", xlabel="epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    common.tidy(axis)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = common.arguments(__doc__, seeds=5)
    data = text.sentences(options)
    epochs, seeds = (1, 1) if options.quick else (EPOCHS, options.seeds)
    if options.engine == "torch":
        return common.hand_over(over_seeds(train_torch, data, epochs, options.seed, seeds)[1])
    runs, outcome = over_seeds(train, data, epochs, options.seed, seeds)
    draw(options.out, f"Phrases by convolution: {data.name}", [history for history, _ in runs])
    common.report(
        options,
        outcome,
        what="convolutions of 3, 4, 5 words x 100, random vectors, dropout 0.5, max-norm 3",
        data=f"{data.name}, {seeds} seeds",
        measure="mean accuracy",
        target=PUBLISHED - WITHIN,
        form=".1%",
    )


if __name__ == "__main__":
    main()
