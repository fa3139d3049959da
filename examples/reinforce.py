"""Policy gradient on CartPole: a network that balances a pole, by trying (REINFORCE, Williams 1992).

The network says how likely it pushes left or right. After some episodes every action taken is made more
likely by how much better it turned out than expected, and less likely if worse; a second network learns what
to expect.
"""

from __future__ import annotations

import time

import arraynn as ann
import common
import gymnasium
import numpy as np
from arraynn.layers import Linear, Sequential, Tanh

TARGET = 475.0
HIDDEN, UPDATES, EPISODES, RATE, DISCOUNT, ENTROPY, CLIP = 64, 250, 16, 1e-2, 0.99, 0.01, 0.5
TESTS, GOOD = 100, 495.0


class Learner:
    """Both networks: what it would do, and how it gets better at it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.policy, self.value = self._network(2, rng), self._network(1, rng)
        self.policy[2].weight.data *= 0.1  # begin undecided
        self._optimizers = [ann.optim.Adam(m.parameters(), RATE) for m in (self.policy, self.value)]

    @staticmethod
    def _network(outputs: int, rng: np.random.Generator) -> Sequential:
        return Sequential(Linear(4, HIDDEN, rng=rng), Tanh(), Linear(HIDDEN, outputs, rng=rng))

    def scores(self, states: np.ndarray) -> np.ndarray:
        return self.policy.eval()(states)

    def learn(self, states: np.ndarray, actions: np.ndarray, goals: np.ndarray) -> None:
        """Take one step of both networks."""
        self.policy.train()
        expected = self.value(states, input_grad=False)
        advantage = normalized(goals - expected[:, 0])
        # the loss is -advantage * log p(action) - ENTROPY * entropy; its gradient in the scores by hand
        log_p = ann.log_softmax(self.policy(states, input_grad=False))
        p = np.exp(log_p)
        taken = np.zeros_like(p)
        taken[np.arange(len(actions)), actions] = 1
        entropy = -(p * log_p).sum(1, keepdims=True)
        d_scores = advantage[:, None] * (p - taken) + ENTROPY * p * (log_p + entropy)
        _, pull = ann.vjp(ann.mse_loss, expected, goals[:, None])
        d_expected = pull(np.ones((), np.float32))[0]
        for model, optimizer, gradient in zip(
            (self.policy, self.value), self._optimizers, (d_scores / len(actions), d_expected), strict=True
        ):
            optimizer.zero_grad()
            model.backward(gradient)
            ann.optim.clip_grad_norm(model.parameters(), CLIP)
            optimizer.step()


def torch_learner(seed: int):
    import torch
    from torch import nn

    class TorchLearner:
        def __init__(self) -> None:
            def network(outputs: int) -> nn.Sequential:
                return nn.Sequential(nn.Linear(4, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs))

            self.policy, self.value = network(2), network(1)
            with torch.no_grad():
                self.policy[2].weight *= 0.1
            self._optimizers = [torch.optim.Adam(m.parameters(), RATE) for m in (self.policy, self.value)]

        def scores(self, states: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return self.policy(torch.from_numpy(states)).numpy()

        def learn(self, states: np.ndarray, actions: np.ndarray, goals: np.ndarray) -> None:
            x, y = torch.from_numpy(states), torch.from_numpy(goals)
            expected = self.value(x)[:, 0]
            advantage = torch.from_numpy(normalized(goals - expected.detach().numpy()))
            log_p = self.policy(x).log_softmax(1)
            taken = log_p.gather(1, torch.from_numpy(actions)[:, None])[:, 0]
            entropy = -(log_p.exp() * log_p).sum(1)
            losses = (
                -(advantage * taken + ENTROPY * entropy).mean(),
                nn.functional.mse_loss(expected, y),
            )
            for model, optimizer, loss in zip(
                (self.policy, self.value), self._optimizers, losses, strict=True
            ):
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()

    torch.manual_seed(seed)
    torch.set_num_threads(ann.get_num_threads())
    return TorchLearner()


def normalized(advantage: np.ndarray) -> np.ndarray:
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def play(
    learner, environments: gymnasium.vector.VectorEnv, episodes: int, rng: np.random.Generator, greedy: bool
):
    """Play whole episodes side by side; return observations, actions and rewards of each."""
    states, _ = environments.reset(seed=int(rng.integers(2**31)))
    running: list[list] = [[] for _ in range(environments.num_envs)]
    done: list[list] = []
    starting = np.zeros(environments.num_envs, bool)  # a step that only starts the next episode
    while len(done) < episodes:
        scores = learner.scores(states.astype(np.float32))
        if not greedy:
            scores = scores + rng.gumbel(size=scores.shape)  # the largest is then a draw from the softmax
        actions = scores.argmax(1)
        after, rewards, ended, cut, _ = environments.step(actions)
        for i in np.flatnonzero(~starting):
            running[i].append((states[i], actions[i], rewards[i]))
            if ended[i] or cut[i]:
                done.append(running[i])
                running[i] = []
        starting, states = ended | cut, after
    return done[:episodes]


def returns(rewards: np.ndarray) -> np.ndarray:
    """Return what followed each step, later rewards counting less."""
    found = np.zeros(len(rewards) + 1)
    for t in range(len(rewards) - 1, -1, -1):
        found[t] = rewards[t] + DISCOUNT * found[t + 1]
    return found[:-1]


def batch_of(episodes: list[list]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return states, actions, and what followed, of the order of 1, of all steps."""
    states = np.array([s for e in episodes for s, _, _ in e], np.float32)
    actions = np.array([a for e in episodes for _, a, _ in e])
    goals = np.concatenate([returns(np.array([r for _, _, r in e])) for e in episodes])
    return states, actions, (goals * (1 - DISCOUNT)).astype(np.float32)


def run(learner, quick: bool, seed: int) -> tuple[list[float], list[int], common.Outcome]:
    """Learn until it is good; return the lengths of episodes meanwhile and afterwards, and the outcome."""
    from tqdm import tqdm

    updates, tests, environments = (2, 4, 4) if quick else (UPDATES, TESTS, EPISODES)
    rng = np.random.default_rng(seed)
    games = gymnasium.make_vec("CartPole-v1", environments)
    lengths: list[float] = []
    steps, start = 0, time.perf_counter()
    with tqdm(range(updates), "learning") as bar:
        for _ in bar:
            batch = batch_of(play(learner, games, environments, rng, greedy=False))
            learner.learn(*batch)
            steps += len(batch[0])
            lengths.append(len(batch[0]) / environments)
            bar.set_postfix_str(f"return={lengths[-1]:.0f}")
            if np.mean(lengths[-5:]) >= GOOD:
                break
    seconds = (time.perf_counter() - start) / steps * 1000
    found = [len(e) for e in play(learner, games, tests, rng, greedy=True)]
    return lengths, found, common.Outcome(float(np.mean(found)), seconds)


def main() -> None:
    options = common.arguments(__doc__)
    if options.engine == "torch":
        return common.hand_over(run(torch_learner(options.seed), options.quick, options.seed)[2])
    lengths, found, outcome = run(Learner(options.seed), options.quick, options.seed)
    common.draw_returns(options.out, "REINFORCE on CartPole", lengths, found, TARGET, "update")
    common.report(
        options,
        outcome,
        what="4-64-2 policy, 4-64-1 value; an epoch is 1000 steps of the game",
        data="CartPole-v1",
        measure=f"mean return over {len(found)} episodes",
        target=TARGET,
        form=".1f",
    )


if __name__ == "__main__":
    main()
