"""Race PPO on CartPole against stable-baselines3, with the same settings.

Run ``python benchmarks/control.py``. Four environments of 128 steps, four epochs of four minibatches, networks of 64 and 64
units, on one thread. Beside it the ceiling: the environments alone, with actions drawn beforehand.
"""

from __future__ import annotations

import gymnasium
from gymnasium.vector import AutoresetMode
from racing import Row, begin, interleaved, rows, table
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from nextword.ppo import PPOConfig, train_ppo

STEPS = 40_960
CONFIG = PPOConfig(
    total_steps=STEPS,
    n_envs=4,
    n_steps=128,
    n_epochs=4,
    n_minibatches=4,
    learning_rate=2.5e-4,
    value_clip=0.2,
    entropy_coef=0.01,
    max_grad_norm=0.5,
)


def ours() -> None:
    train_ppo("CartPole-v1", CONFIG)


def theirs() -> None:
    """Train with stable-baselines3, whose loss of the critic lacks our factor of one half."""
    environments = make_vec_env("CartPole-v1", n_envs=CONFIG.n_envs, seed=0)
    model = PPO(
        "MlpPolicy",
        environments,
        learning_rate=CONFIG.learning_rate,
        n_steps=CONFIG.n_steps,
        batch_size=CONFIG.n_envs * CONFIG.n_steps // CONFIG.n_minibatches,
        n_epochs=CONFIG.n_epochs,
        clip_range_vf=CONFIG.value_clip,
        ent_coef=CONFIG.entropy_coef,
        vf_coef=CONFIG.vf_coef / 2,
        device="cpu",
    )
    model.learn(STEPS)


def environments_alone() -> None:
    how = {"autoreset_mode": AutoresetMode.SAME_STEP}
    envs = gymnasium.make_vec("CartPole-v1", CONFIG.n_envs, vectorization_mode="sync", vector_kwargs=how)
    envs.reset(seed=0)
    actions = [envs.action_space.sample() for _ in range(64)]
    for t in range(STEPS // CONFIG.n_envs):
        envs.step(actions[t % len(actions)])


def races() -> list[Row]:
    """Return the rows of this file."""
    sides = {"ours": ours, "stable-baselines3": theirs, "environments alone": environments_alone}
    seconds, name = interleaved(sides, 5), "PPO on CartPole, 4 × 128 steps, 4 epochs"
    ceiling = {"ours": seconds["ours"], "environments": seconds.pop("environments alone")}
    return rows(name, "steps/s", STEPS, seconds, {"stable-baselines3": 2.0}) + rows(name, "steps/s", STEPS, ceiling)


if __name__ == "__main__":
    begin()
    print(table(races()))
