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
LAG, WARMUP, EXPLORE, LEAST, EVERY, CLIP = 0.01, 1_000, 10_000, 0.02, 2, 10.0
TESTS = 100


class Learner:
    """The network, the copy that lags behind, and the best copy so far."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._model, self._lagging, self._best = (self._network(rng) for _ in range(3))
        self._lagging.eval().load_state_dict(self._model.state_dict())
        self._optimizer = ann.optim.Adam(self._model.parameters(), RATE)

    @staticmethod
    def _network(rng: np.random.Generator) -> Sequential:
        return Sequential(
            Linear(4, HIDDEN, rng=rng),
            ReLU(),
            Linear(HIDDEN, HIDDEN, rng=rng),
            ReLU(),
            Linear(HIDDEN, 2, rng=rng),
        )

    def act(self, states: np.ndarray) -> np.ndarray:
        return self._model.eval()(states).argmax(1)

    def act_lagging(self, states: np.ndarray) -> np.ndarray:
        return self._lagging(states).argmax(1)

    def learn(self, states, actions, rewards, after, fell) -> None:
        rows = np.arange(len(actions))
        goals = rewards + DISCOUNT * (1 - fell) * self._lagging(after)[rows, self.act(after)]
        worths = self._model.train()(states, input_grad=False)
        _, pull = ann.vjp(ann.huber_loss, worths[rows, actions], goals.astype(np.float32))
        gradient = np.zeros_like(worths)
        gradient[rows, actions] = pull(np.ones((), np.float32))[0]
        self._optimizer.zero_grad()
        self._model.backward(gradient)
        ann.optim.clip_grad_norm(self._model.parameters(), CLIP)
        self._optimizer.step()
        for slow, fast in zip(self._lagging.parameters(), self._model.parameters(), strict=True):
            slow.data += LAG * (fast.data - slow.data)

    def keep(self) -> None:
        self._best.load_state_dict(self._lagging.state_dict())

    def take_kept(self) -> None:
        self._lagging.load_state_dict(self._best.state_dict())


def torch_learner(seed: int):
    import torch
    from torch import nn

    class TorchLearner:
        def __init__(self) -> None:
            self._model, self._lagging, self._best = (self._network() for _ in range(3))
            self._lagging.load_state_dict(self._model.state_dict())
            self._optimizer = torch.optim.Adam(self._model.parameters(), RATE)

        @staticmethod
        def _network() -> nn.Sequential:
            layers = [nn.Linear(4, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(HIDDEN, 2))

        def act(self, states: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return self._model(torch.from_numpy(states)).argmax(1).numpy()

        def act_lagging(self, states: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return self._lagging(torch.from_numpy(states)).argmax(1).numpy()

        def learn(self, *batch) -> None:
            states, actions, rewards, after, fell = map(torch.from_numpy, batch)
            with torch.no_grad():
                best = self._model(after).argmax(1, keepdim=True)
                goals = rewards + DISCOUNT * (1 - fell) * self._lagging(after).gather(1, best)[:, 0]
            worths = self._model(states).gather(1, actions[:, None])[:, 0]
            self._optimizer.zero_grad()
            nn.functional.huber_loss(worths, goals).backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
            self._optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(self._lagging.parameters(), self._model.parameters(), strict=True):
                    slow += LAG * (fast - slow)

        def keep(self) -> None:
            self._best.load_state_dict(self._lagging.state_dict())

        def take_kept(self) -> None:
            self._lagging.load_state_dict(self._best.state_dict())

    torch.manual_seed(seed)
    torch.set_num_threads(ann.get_num_threads())
    return TorchLearner()


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


def evaluate(learner, episodes: int, seed: int) -> list[int]:
    """Return how long episodes last in which the lagging network decides."""
    games = gymnasium.make_vec("CartPole-v1", min(episodes, 20))
    states, _ = games.reset(seed=seed)
    lengths, running = [], np.zeros(games.num_envs, int)
    starting = np.zeros(games.num_envs, bool)
    while len(lengths) < episodes:
        states, _, ended, cut, _ = games.step(learner.act_lagging(states.astype(np.float32)))
        running += ~starting
        starting = ended | cut
        lengths += running[starting].tolist()
        running[starting] = 0
    return lengths[:episodes]


def run(learner, quick: bool, seed: int) -> tuple[list[int], list[int], common.Outcome]:
    """Learn; return the lengths of episodes meanwhile and afterwards, and the outcome."""
    from tqdm import tqdm

    rng = np.random.default_rng(seed)
    steps, warmup, tests = (300, 150, 4) if quick else (STEPS, WARMUP, TESTS)
    memory, lengths, most = Memory(MEMORY), [], -1.0
    game = gymnasium.make("CartPole-v1")
    state, _ = game.reset(seed=seed)
    length = 0
    start = time.perf_counter()
    with tqdm(range(steps), "learning") as bar:
        for step in bar:
            explore = 1 + (LEAST - 1) * min(step / EXPLORE, 1)
            action = int(rng.integers(2))
            if rng.random() >= explore:
                action = int(learner.act(state[None].astype(np.float32))[0])
            after, reward, fell, cut, _ = game.step(action)
            memory.add(state, action, reward, after, fell)
            state, length = after, length + 1
            if fell or cut:
                lengths.append(length)
                state, _ = game.reset()
                length = 0
                bar.set_postfix_str(f"return={np.mean(lengths[-20:]):.0f}")
            if step >= warmup and step % EVERY == 0:
                learner.learn(*memory.draw(BATCH, rng))
            if step % 2_000 == 1_999:  # the lagging network wanders less; keep it where it does best
                score = float(np.mean(evaluate(learner, 20, 1_000_000 + step)))
                if score >= most:
                    most = score
                    learner.keep()
    seconds = time.perf_counter() - start
    if most >= 0:
        learner.take_kept()
    found = evaluate(learner, tests, seed + 1)
    return lengths, found, common.Outcome(float(np.mean(found)), seconds)


def main() -> None:
    options = common.arguments(__doc__)
    if options.engine == "torch":
        return common.hand_over(run(torch_learner(options.seed), options.quick, options.seed)[2])
    lengths, found, outcome = run(Learner(options.seed), options.quick, options.seed)
    common.draw_returns(options.out, "Deep Q-learning on CartPole", lengths, found, TARGET, "episode")
    common.report(
        options,
        outcome,
        what="4-128-128-2, double Q-learning; an epoch is the whole run",
        data="CartPole-v1",
        measure=f"mean return over {len(found)} episodes",
        target=TARGET,
        form=".1f",
    )


if __name__ == "__main__":
    main()
