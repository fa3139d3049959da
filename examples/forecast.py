"""Forecasts of Beijing's air: LSTM, GRU and 1-D CNN against persistence and linear autoregression.

From 48 hours of fine particles (PM2.5) and weather, the next 24 hours. The networks see what the linear model
sees, and say by how much each coming hour differs from now, in units of how much it usually does: a network
that says nothing is persistence. Learned on four years, measured on the fifth.
"""

from __future__ import annotations

import argparse
import csv
from typing import NamedTuple

import arraynn as ann
import common
import numpy as np
from arraynn.layers import GRU, LSTM, Conv1d, Dropout, LastStep, Layer, Linear, ReLU, Sequential

PAST, AHEAD = 48, 24
HIDDEN, EPOCHS, BATCH, RATE, CLIP = 48, 6, 256, 2e-3, 1.0


class Series(NamedTuple):
    """Windows (N, PAST, features), the change from now in the AHEAD hours after, standardized, its unit."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    unit: np.ndarray  # (AHEAD,), in micrograms per cubic meter


def beijing(path: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return PM2.5 with gaps, weather (hours, features), and the year of each hour."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    pm = np.array([np.nan if row["pm2.5"] == "NA" else float(row["pm2.5"]) for row in rows])
    weather = [[float(row[name]) for name in ("DEWP", "TEMP", "PRES", "Iws", "Is", "Ir")] for row in rows]
    wind = np.array([[row["cbwd"] == name for name in ("NW", "NE", "SE", "cv")] for row in rows])
    hour = np.array([2 * np.pi * int(row["hour"]) / 24 for row in rows])
    month = np.array([2 * np.pi * int(row["month"]) / 12 for row in rows])
    time = np.stack([np.sin(hour), np.cos(hour), np.sin(month), np.cos(month)], axis=1)
    features = np.concatenate([np.array(weather), wind, time], axis=1)
    features[:, 3:6] = np.log1p(features[:, 3:6])  # wind, snow and rain add up over hours
    return pm, features, np.array([int(row["year"]) for row in rows])


def made_up(hours: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a series of five equal years that wind sweeps clean, with daily waves."""
    rng = np.random.default_rng(0)
    time = np.arange(hours)
    wind = np.zeros(hours)
    pm = np.zeros(hours)
    for t in range(1, hours):
        wind[t] = 0.9 * wind[t - 1] + rng.standard_normal()
        calm = 1 / (1 + np.exp(2 * wind[t]))
        pm[t] = pm[t - 1] * (0.75 + 0.2 * calm) + 8 * calm + abs(rng.standard_normal())
    day = np.stack([np.sin(2 * np.pi * time / 24), np.cos(2 * np.pi * time / 24)], axis=1)
    return pm + 10 * (1 + day[:, 0]), np.concatenate([wind[:, None], day], axis=1), time * 5 // hours


def windows(options: argparse.Namespace) -> Series:
    if options.data:
        name, (pm, features, year) = "Beijing PM2.5", beijing(options.data / "pollution.csv")
    else:
        name, (pm, features, year) = "a made-up series", made_up(1500 if options.quick else 12000)
    years = np.unique(year)
    known = np.flatnonzero(~np.isnan(pm))
    filled = np.interp(np.arange(len(pm)), known, pm[known])  # inputs only; no target is filled in
    inputs = np.concatenate([np.sqrt(filled)[:, None], features], axis=1)
    first = year < years[-1]
    inputs = ((inputs - inputs[first].mean(0)) / inputs[first].std(0)).astype(np.float32)
    ends = np.arange(PAST - 1, len(pm) - AHEAD)
    coming = np.lib.stride_tricks.sliding_window_view(pm, AHEAD)[ends + 1]
    ends = ends[~np.isnan(coming).any(1) & ~np.isnan(pm[ends])]
    x = np.lib.stride_tricks.sliding_window_view(inputs, PAST, axis=0).transpose(0, 2, 1)[ends - PAST + 1]
    change = np.lib.stride_tricks.sliding_window_view(pm, AHEAD)[ends + 1] - pm[ends, None]
    last = year[ends + AHEAD]
    test, train = year[ends - PAST + 1] == years[-1], last < years[-1]
    unit = np.sqrt((change[train] ** 2).mean(0))
    y = (change / unit).astype(np.float32)
    cut = np.flatnonzero(train)[int(0.9 * train.sum())]
    order = np.arange(len(ends))
    parts = (train & (order < cut - PAST), train & (order >= cut), test)
    return Series(name, *((np.ascontiguousarray(x[part]), y[part]) for part in parts), unit)


# -- networks -------------------------------------------------------------------------------


class TimeLast(Layer):
    """(N, T, C) to (N, C, T), which convolutions take."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(0, 2, 1)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy.transpose(0, 2, 1)


class LastTime(Layer):
    """The last step of (N, C, T)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self._shape = x.shape
        return x[:, :, -1]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dx = np.zeros(self._shape, dy.dtype)
        dx[:, :, -1] = dy
        return dx


def networks(features: int, rng: np.random.Generator) -> dict[str, Sequential]:
    def head(width: int) -> list[Layer]:
        last = Linear(width, AHEAD, rng=rng)
        last.weight.data *= 0.1  # begin near persistence
        return [Dropout(0.2, rng=rng), last]

    def convolutions() -> list[Layer]:
        layers: list[Layer] = [TimeLast()]
        for i, channels in enumerate((features, HIDDEN, HIDDEN, HIDDEN)):
            layers += [Conv1d(channels, HIDDEN, 3, dilation=2**i, rng=rng), ReLU()]
        return [*layers, LastTime()]

    return {
        "LSTM": Sequential(LSTM(features, HIDDEN, batch_first=True, rng=rng), LastStep(), *head(HIDDEN)),
        "GRU": Sequential(GRU(features, HIDDEN, batch_first=True, rng=rng), LastStep(), *head(HIDDEN)),
        "1-D CNN": Sequential(*convolutions(), *head(HIDDEN)),
    }


def train(series: Series, epochs: int, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """Return the errors of each network, (N, AHEAD), and the seconds per epoch of all three."""
    rng = np.random.default_rng(seed)
    errors, seconds = {}, 0.0
    for name, model in networks(series.train[0].shape[2], rng).items():
        print(f"{name}: {common.parameters(model)}")
        optimizer = ann.optim.AdamW(model.parameters(), RATE, weight_decay=1e-2)
        clock = common.Clock()
        ann.fit(
            model,
            ann.mse_loss,
            optimizer,
            series.train,
            epochs=epochs,
            batch_size=BATCH,
            validation_data=series.validation,
            schedule=ann.optim.CosineAnnealingLR(optimizer, epochs),
            early_stopping=ann.EarlyStopping(patience=epochs),
            clip_norm=CLIP,
            callbacks=[clock],
            rng=rng,
        )
        seconds += clock.seconds
        errors[name] = (ann.predict(model, series.test[0]) - series.test[1]) * series.unit
    return errors, seconds


def baselines(series: Series) -> dict[str, np.ndarray]:
    """Return the errors of persistence and of linear autoregression on the networks' own inputs."""
    from sklearn.linear_model import Ridge

    (x, y), (x_test, y_test) = series.train, series.test
    linear = Ridge(1.0).fit(x.reshape(len(x), -1), y)
    found = linear.predict(x_test.reshape(len(x_test), -1))
    return {
        "persistence": -y_test * series.unit,
        "linear autoregression": (found - y_test) * series.unit,
    }


def train_torch(series: Series, epochs: int, seed: int) -> common.Outcome:
    import torch
    from torch import nn

    features = series.train[0].shape[2]

    class Recurrent(nn.Module):
        def __init__(self, kind: type) -> None:
            super().__init__()
            self.net = kind(features, HIDDEN, batch_first=True)
            self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(HIDDEN, AHEAD))
            with torch.no_grad():
                self.head[1].weight *= 0.1

        def forward(self, x):
            return self.head(self.net(x)[0][:, -1])

    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (features, HIDDEN, HIDDEN, HIDDEN)
            convs = [nn.Conv1d(c, HIDDEN, 3, dilation=2**i) for i, c in enumerate(widths)]
            self.net = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())))
            self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(HIDDEN, AHEAD))
            with torch.no_grad():
                self.head[1].weight *= 0.1

        def forward(self, x):
            return self.head(self.net(x.transpose(1, 2))[:, :, -1])

    torch.manual_seed(seed)
    best_baseline = least_errors(baselines(series))
    seconds, ratios = 0.0, []
    for model in (Recurrent(nn.LSTM), Recurrent(nn.GRU), Convolutional()):
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-2)
        best: dict[str, object] = {"loss": np.inf}

        def loss_on(part, model=model):
            found = [model(torch.from_numpy(part[0][i : i + BATCH])) for i in range(0, len(part[0]), BATCH)]
            return torch.cat(found).numpy() - part[1]

        def score(model=model, best=best, loss_on=loss_on):
            loss = float((loss_on(series.validation) ** 2).mean())
            if loss < best["loss"]:
                best |= {"loss": loss, "state": {k: v.clone() for k, v in model.state_dict().items()}}
            return loss

        outcome = common.torch_fit(
            model,
            nn.functional.mse_loss,
            optimizer,
            series.train,
            epochs=epochs,
            batch_size=BATCH,
            score=score,
            clip_norm=CLIP,
            after_epoch=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs).step,
            seed=seed,
        )
        seconds += outcome.seconds
        model.load_state_dict(best["state"])
        with torch.inference_mode():
            ratios.append(worse_horizon(loss_on(series.test) * series.unit, best_baseline))
    return common.Outcome(float(min(ratios)), seconds)


def least_errors(errors: dict[str, np.ndarray]) -> np.ndarray:
    """Return the best baseline's error at each hour."""
    return np.minimum(rmse(errors["persistence"]), rmse(errors["linear autoregression"]))


def worse_horizon(errors: np.ndarray, baseline: np.ndarray) -> float:
    """Return a network's error over the best baseline's, at one hour or at 24, whichever is worse."""
    return float((rmse(errors) / baseline)[[0, -1]].max())


def rmse(errors: np.ndarray) -> np.ndarray:
    return np.sqrt((errors.astype(np.float64) ** 2).mean(0))


def draw(path: object, series: Series, errors: dict[str, np.ndarray]) -> None:
    figure = common.figure(f"Forecasts of {series.name}", width=12)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    colors = dict(zip(errors, ("#7a7a7a", "black", *common.COLORS), strict=False))
    for name, found in errors.items():
        dashes = "--" if name in ("persistence", "linear autoregression") else "-"
        left.plot(range(1, AHEAD + 1), rmse(found), dashes, color=colors[name], label=name, linewidth=2)
    left.set(title="Error on the last year", xlabel="hours ahead", ylabel="RMSE, µg/m³")
    truth = series.test[1][:, -1] * series.unit[-1]
    shown = slice(0, 24 * 14)
    right.plot(truth[shown], color="black", linewidth=1.2, label="what came")
    for name in ("linear autoregression", min(list(errors)[2:], key=lambda n: rmse(errors[n])[-1])):
        style = {"color": colors[name] if name in list(errors)[2:] else "#7a7a7a", "linewidth": 1.5}
        right.plot((truth + errors[name][:, -1])[shown], label=name, **style)
    right.set(title="Change over 24 hours, two weeks", xlabel="hour", ylabel="µg/m³")
    common.tidy(left, right)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = common.arguments(__doc__)
    series = windows(options)
    epochs = 1 if options.quick else EPOCHS
    if options.engine == "torch":
        return common.hand_over(train_torch(series, epochs, options.seed))
    print(f"{series.name}: {len(series.train[0]):,} windows, {len(series.test[0]):,} more to test")
    errors, seconds = train(series, epochs, options.seed)
    errors = baselines(series) | errors
    print(f"\n{'RMSE, µg/m³':24} {'next hour':>10} {'24 hours':>10}")
    for name, found in errors.items():
        print(f"{name:24} {rmse(found)[0]:10.2f} {rmse(found)[-1]:10.2f}")
    draw(options.out, series, errors)
    ratios = [worse_horizon(errors[name], least_errors(errors)) for name in list(errors)[2:]]
    common.report(
        options,
        common.Outcome(float(min(ratios)), seconds),
        what="LSTM, GRU, 1-D CNN: next hour and 24 hours",
        data=series.name,
        measure="RMSE, the best network's over the best baseline's, the worse of both horizons,",
        target=1.0,
        form=".3f",
        least=True,
    )


if __name__ == "__main__":
    main()
