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
HIDDEN, UPDATES, EPISODES, RATE, DISCOUNT, ENTROPY = 64, 250, 16, 1e-2, 0.99, 0.01
TESTS, GOOD = 100, 495.0


def network(outputs: int, rng: np.random.Generator) -> Sequential:
    return Sequential(Linear(4, HIDDEN, rng=rng), Tanh(), Linear(HIDDEN, outputs, rng=rng))


def play(
    policy, environments: gymnasium.vector.VectorEnv, episodes: int, rng: np.random.Generator, greedy: bool
):
    """Play whole episodes side by side; return observations, actions and rewards of each."""
    states, _ = environments.reset(seed=int(rng.integers(2**31)))
    running: list[list] = [[] for _ in range(environments.num_envs)]
    done: list[list] = []
    starting = np.zeros(environments.num_envs, bool)  # a step that only starts the next episode
    while len(done) < episodes:
        scores = policy(states.astype(np.float32))
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


def update(policy, value, optimizers, episodes: list[list]) -> None:
    """Take one step of both networks."""
    states = np.array([s for e in episodes for s, _, _ in e], np.float32)
    actions = np.array([a for e in episodes for _, a, _ in e])
    goals = np.concatenate([returns(np.array([r for _, _, r in e])) for e in episodes]).astype(np.float32)[
        :, None
    ]
    goals /= 1 / (1 - DISCOUNT)  # of the order of 1
    expected = value(states)
    advantage = (goals - expected)[:, 0]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

    # the loss is -advantage * log p(action) - ENTROPY * entropy; its gradient in the scores by hand
    scores = policy(states)
    log_p = ann.log_softmax(scores)
    p = np.exp(log_p)
    taken = np.zeros_like(p)
    taken[np.arange(len(actions)), actions] = 1
    entropy = -(p * log_p).sum(1, keepdims=True)
    d_scores = advantage[:, None].astype(np.float32) * (p - taken) + ENTROPY * p * (log_p + entropy)
    _, pull = ann.vjp(ann.mse_loss, expected, goals)
    for model, optimizer, gradient in zip(
        (policy, value), optimizers, (d_scores / len(actions), pull(np.ones((), np.float32))[0]), strict=True
    ):
        optimizer.zero_grad()
        model.backward(gradient)
        ann.optim.clip_grad_norm(model.parameters(), 0.5)
        optimizer.step()


def draw(path: object, lengths: list[float], tests: list[int]) -> None:
    figure = common.figure("REINFORCE on CartPole")
    left, right = figure.subplots(1, 2)
    left.plot(lengths, color=common.COLORS[0], linewidth=1.5)
    left.axhline(TARGET, color="black", linestyle="--", linewidth=1)
    left.set(title="Mean return while learning", xlabel="update", ylim=(0, 510))
    right.hist(tests, bins=25, range=(0, 500), color=common.COLORS[2])
    right.set(title=f"Return of {len(tests)} episodes afterwards", xlabel="return")
    common.tidy(left, right)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = common.arguments(__doc__)
    rng = np.random.default_rng(options.seed)
    policy, value = network(2, rng), network(1, rng)
    policy[2].weight.data *= 0.1  # begin undecided
    optimizers = [ann.optim.Adam(model.parameters(), RATE) for model in (policy, value)]
    updates, tests, environments = (2, 4, 4) if options.quick else (UPDATES, TESTS, EPISODES)
    games = gymnasium.make_vec("CartPole-v1", environments)
    lengths: list[float] = []
    start = time.perf_counter()
    from tqdm import tqdm

    with tqdm(range(updates), "learning") as bar:
        for _ in bar:
            episodes = play(policy, games, environments, rng, greedy=False)
            update(policy, value, optimizers, episodes)
            lengths.append(float(np.mean([len(e) for e in episodes])))
            bar.set_postfix_str(f"return={lengths[-1]:.0f}")
            if np.mean(lengths[-5:]) >= GOOD:
                break
    seconds = (time.perf_counter() - start) / len(lengths)
    policy.eval()
    found = [len(e) for e in play(policy, games, tests, rng, greedy=True)]
    draw(options.out, lengths, found)
    common.report(
        options,
        common.Outcome(float(np.mean(found)), seconds),
        what="4-64-2 policy, 4-64-1 value; an epoch is an update",
        data="CartPole-v1",
        measure=f"mean return over {tests} episodes",
        target=TARGET,
        form=".1f",
        twin=False,
    )


if __name__ == "__main__":
    main()
