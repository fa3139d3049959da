"""Value learning on CartPole: a network that says what each push is worth (Mnih et al. 2015).

What happened is kept, and learned from in random batches: the worth of an action is its reward and what the
best next one is worth, as judged by a copy of the network that lags behind; which one is best, by the network
itself (double Q-learning, van Hasselt et al. 2016).
"""

from __future__ import annotations

import time

import arraynn as ann
import common
import gymnasium
import numpy as np
from arraynn.layers import Linear, ReLU, Sequential

TARGET = 475.0
HIDDEN, STEPS, MEMORY, BATCH, RATE, DISCOUNT = 128, 60_000, 50_000, 128, 5e-4, 0.99
LAG, WARMUP, EXPLORE, LEAST, EVERY = 0.01, 1_000, 10_000, 0.02, 2
TESTS = 100


def network(rng: np.random.Generator) -> Sequential:
    return Sequential(
        Linear(4, HIDDEN, rng=rng),
        ReLU(),
        Linear(HIDDEN, HIDDEN, rng=rng),
        ReLU(),
        Linear(HIDDEN, 2, rng=rng),
    )


class Memory:
    """The last steps: state, action, reward, next state, and whether the pole fell."""

    def __init__(self, size: int) -> None:
        self._states, self._next = (np.zeros((size, 4), np.float32) for _ in range(2))
        self._actions = np.zeros(size, np.int64)
        self._rewards, self._fell = (np.zeros(size, np.float32) for _ in range(2))
        self._count = 0

    def add(self, state, action, reward, after, fell) -> None:
        i = self._count % len(self._actions)
        self._states[i], self._actions[i], self._rewards[i] = state, action, reward
        self._next[i], self._fell[i] = after, fell
        self._count += 1

    def draw(self, count: int, rng: np.random.Generator):
        chosen = rng.integers(0, min(self._count, len(self._actions)), count)
        arrays = (self._states, self._actions, self._rewards, self._next, self._fell)
        return tuple(a[chosen] for a in arrays)


def learn(model: Sequential, lagging: Sequential, optimizer: ann.optim.Optimizer, batch) -> None:
    states, actions, rewards, after, fell = batch
    rows = np.arange(len(actions))
    model.eval()
    best = model(after).argmax(1)
    model.train()
    goals = rewards + DISCOUNT * (1 - fell) * lagging(after)[rows, best]
    worths = model(states, input_grad=False)
    _, pull = ann.vjp(ann.huber_loss, worths[rows, actions], goals.astype(np.float32))
    gradient = np.zeros_like(worths)
    gradient[rows, actions] = pull(np.ones((), np.float32))[0]
    optimizer.zero_grad()
    model.backward(gradient)
    ann.optim.clip_grad_norm(model.parameters(), 10.0)
    optimizer.step()
    for slow, fast in zip(lagging.parameters(), model.parameters(), strict=True):
        slow.data += LAG * (fast.data - slow.data)


def evaluate(model: Sequential, episodes: int, seed: int) -> list[int]:
    games = gymnasium.make_vec("CartPole-v1", min(episodes, 20))
    states, _ = games.reset(seed=seed)
    lengths, running = [], np.zeros(games.num_envs, int)
    starting = np.zeros(games.num_envs, bool)
    while len(lengths) < episodes:
        states, _, ended, cut, _ = games.step(model(states.astype(np.float32)).argmax(1))
        running += ~starting
        starting = ended | cut
        lengths += running[starting].tolist()
        running[starting] = 0
    return lengths[:episodes]


def draw(path: object, lengths: list[int], tests: list[int]) -> None:
    figure = common.figure("Deep Q-learning on CartPole")
    left, right = figure.subplots(1, 2)
    left.plot(lengths, color=common.COLORS[0], linewidth=0.7, alpha=0.5)
    if len(lengths) > 20:
        left.plot(np.convolve(lengths, np.ones(20) / 20, "valid"), color=common.COLORS[0], linewidth=2)
    left.axhline(TARGET, color="black", linestyle="--", linewidth=1)
    left.set(title="Return while learning", xlabel="episode", ylim=(0, 510))
    right.hist(tests, bins=25, range=(0, 500), color=common.COLORS[2])
    right.set(title=f"Return of {len(tests)} episodes afterwards", xlabel="return")
    common.tidy(left, right)
    figure.savefig(path, dpi=120)


def main() -> None:
    from tqdm import tqdm

    options = common.arguments(__doc__)
    rng = np.random.default_rng(options.seed)
    steps, warmup, tests = (300, 150, 4) if options.quick else (STEPS, WARMUP, TESTS)
    model, lagging, best = network(rng), network(rng).eval(), network(rng).eval()
    lagging.load_state_dict(model.state_dict())
    optimizer = ann.optim.Adam(model.parameters(), RATE)
    memory, lengths, most = Memory(MEMORY), [], -1.0
    game = gymnasium.make("CartPole-v1")
    state, _ = game.reset(seed=options.seed)
    length = 0
    start = time.perf_counter()
    with tqdm(range(steps), "learning") as bar:
        for step in bar:
            model.eval()
            explore = 1 + (LEAST - 1) * min(step / EXPLORE, 1)
            action = int(rng.integers(2))
            if rng.random() >= explore:
                action = int(model(state[None].astype(np.float32)).argmax())
            after, reward, fell, cut, _ = game.step(action)
            memory.add(state, action, reward, after, fell)
            state, length = after, length + 1
            if fell or cut:
                lengths.append(length)
                state, _ = game.reset()
                length = 0
                bar.set_postfix_str(f"return={np.mean(lengths[-20:]):.0f}")
            if step >= warmup and step % EVERY == 0:
                learn(model, lagging, optimizer, memory.draw(BATCH, rng))
            if step % 2_000 == 1_999:  # the lagging network wanders less; keep it where it does best
                score = float(np.mean(evaluate(lagging, 20, 1_000_000 + step)))
                if score >= most:
                    most = score
                    best.load_state_dict(lagging.state_dict())
    seconds = time.perf_counter() - start
    found = evaluate(best if most >= 0 else lagging, tests, options.seed + 1)
    draw(options.out, lengths, found)
    common.report(
        options,
        common.Outcome(float(np.mean(found)), seconds),
        what="4-128-128-2, double Q-learning; an epoch is the whole run",
        data="CartPole-v1",
        measure=f"mean return over {tests} episodes",
        target=TARGET,
        form=".1f",
        twin=False,
    )


if __name__ == "__main__":
    main()
