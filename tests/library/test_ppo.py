"""PPO's parts against closed forms, enumeration and stable-baselines3; then a policy that must learn."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import explained_variance as explained_variance_there

from nextword import ppo
from nextword.ppo import (
    Policy,
    PPOConfig,
    RolloutCollector,
    approx_kl,
    explained_variance,
    gae,
    masked_mean,
    ppo_loss,
    train_ppo,
    whiten,
)

# --- Advantages -------------------------------------------------------------------------------------------------------


def trajectory(T: int = 11, N: int = 3) -> tuple[torch.Tensor, ...]:
    dones = torch.rand(T, N, dtype=torch.float64) < 0.2
    rewards, values = torch.randn(2, T, N, dtype=torch.float64)
    return rewards, values, dones, torch.randn(N, dtype=torch.float64)


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
def test_advantages_are_those_of_stable_baselines(gamma: float, lam: float) -> None:
    rewards, values, dones, last = trajectory()
    advantages, returns = gae(rewards, values, dones, last, gamma=gamma, lam=lam)
    T, N = rewards.shape
    box = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(T, box, box, gamma=gamma, gae_lambda=lam, n_envs=N)
    buffer.rewards, buffer.values = rewards.numpy(), values.numpy()
    buffer.episode_starts[1:] = dones[:-1].numpy()
    buffer.advantages = np.zeros((T, N))
    buffer.compute_returns_and_advantage(last, dones[-1].numpy())
    np.testing.assert_allclose(advantages, buffer.advantages, rtol=1e-5, atol=1e-6)  # theirs are partly float32
    np.testing.assert_allclose(returns, buffer.returns, rtol=1e-6)


def test_advantages_are_the_sum_of_the_definition() -> None:
    rewards, values, dones, last = trajectory()
    gamma, lam = 0.9, 0.8
    after = torch.cat([values[1:], last[None]])
    delta = rewards + gamma * after * ~dones - values
    expected = torch.zeros_like(rewards)
    for n in range(rewards.shape[1]):
        for t in range(len(rewards)):
            weight = 1.0
            for later in range(t, len(rewards)):
                expected[t, n] += weight * delta[later, n]
                weight *= gamma * lam
                if dones[later, n]:
                    break
    found, _ = gae(rewards, values, dones, last, gamma=gamma, lam=lam)
    torch.testing.assert_close(found, expected)


def test_lambda_0_is_one_step_and_lambda_1_the_whole_return() -> None:
    rewards, values, _, last = trajectory()
    never = torch.zeros_like(rewards)
    one_step, _ = gae(rewards, values, never, last, gamma=0.9, lam=0)
    torch.testing.assert_close(one_step, rewards + 0.9 * torch.cat([values[1:], last[None]]) - values)
    _, returns = gae(rewards, values, never, last, gamma=1, lam=1)
    torch.testing.assert_close(returns, rewards.flip(0).cumsum(0).flip(0) + last)


@pytest.mark.parametrize("gamma", [1.0, 0.99])
@pytest.mark.parametrize("lam", [1.0, 0.9])
def test_one_reward_at_the_end_of_an_episode(gamma: float, lam: float) -> None:
    T, v = 6, 0.3
    rewards, dones = torch.zeros(T, 1, dtype=torch.float64), torch.zeros(T, 1, dtype=torch.float64)
    rewards[-1] = dones[-1] = 1
    values = torch.full_like(rewards, v)
    found, _ = gae(rewards, values, dones, torch.full((1,), 99.0, dtype=torch.float64), gamma=gamma, lam=lam)
    for t in range(T):
        left = T - 1 - t
        inner = sum((gamma * lam) ** i * (gamma - 1) * v for i in range(left))
        assert found[t].item() == pytest.approx(inner + (gamma * lam) ** left * (1 - v))


def test_nothing_after_the_end_of_an_episode_counts() -> None:
    rewards, values, _, last = trajectory()
    dones = torch.zeros_like(rewards)
    dones[4] = 1
    found, _ = gae(rewards, values, dones, last)
    rewards[5:], values[5:] = 1e6, -1e6
    again, _ = gae(rewards, values, dones, last + 1e6)
    torch.testing.assert_close(found[:5], again[:5], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.zeros(3, 2)}, r"values is \(3, 2\), rewards \(4, 2\)"),
        ({"dones": torch.zeros(4, 1)}, r"dones is \(4, 1\), rewards \(4, 2\)"),
        ({"last_value": torch.zeros(3)}, r"last_value is \(3,\), rewards_of_a_step \(2,\)"),
        ({"gamma": 1.1}, r"gamma=1.1, lam=0.95: give numbers from 0 to 1"),
        ({"lam": math.nan}, r"gamma=0.99, lam=nan: give numbers from 0 to 1"),
    ],
)
def test_what_makes_no_advantage_is_refused(change: dict[str, Any], message: str) -> None:
    fits = {name: torch.zeros(4, 2) for name in ("rewards", "values", "dones")}
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        gae(**{**fits, "last_value": torch.zeros(2), **change})


# --- The loss ---------------------------------------------------------------------------------------------------------


def loss_of(ratio: float, advantage: float, **clips: Any) -> tuple[float, float]:
    """Return the policy's loss for one action, and its derivative by the log-probability."""
    log_prob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    loss = ppo_loss(log_prob, zero, torch.full_like(zero, advantage), zero, zero, zero, **clips)
    loss.policy.backward()
    assert log_prob.grad is not None
    return loss.policy.item(), log_prob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "counts_as", "pulls"),
    [
        (1.1, 1, 1.1, True),
        (1.3, 1, 1.2, False),  # good, and likely enough already
        (0.7, 1, 0.7, True),  # good, and less likely: pulled back
        (0.9, -1, 0.9, True),
        (0.7, -1, 0.8, False),  # bad, and unlikely enough already
        (1.3, -1, 1.3, True),  # bad, and likelier: no limit to the pull
        (30.0, -1, 30.0, True),
    ],
)
def test_the_clip_takes_away_the_pull_on_one_side_only(
    ratio: float, advantage: float, counts_as: float, pulls: bool
) -> None:
    loss, gradient = loss_of(ratio, advantage)
    assert loss == pytest.approx(-counts_as * advantage)
    assert gradient == pytest.approx(-ratio * advantage if pulls else 0)


def test_without_a_clip_every_action_pulls() -> None:
    for ratio, advantage in ((30.0, 1.0), (0.01, -1.0)):
        assert loss_of(ratio, advantage, clip=None) == (
            pytest.approx(-ratio * advantage),
            pytest.approx(-ratio * advantage),
        )


def sample(shape: tuple[int, ...] = (4, 5)) -> dict[str, torch.Tensor]:
    names = ("log_prob", "old_log_prob", "advantage", "value", "old_value", "returns")
    return {name: torch.randn(shape, dtype=torch.float64) for name in names}


def test_at_the_first_step_it_is_the_policy_gradient() -> None:
    given = sample()
    given["log_prob"] = given["old_log_prob"].clone().requires_grad_()
    loss = ppo_loss(**given)
    loss.policy.backward()
    torch.testing.assert_close(given["log_prob"].grad, -given["advantage"] / given["advantage"].numel())
    assert loss.approx_kl == 0
    assert loss.clip_fraction == 0


def test_the_losses_are_the_equations() -> None:
    given = sample()
    x = {name: tensor.numpy() for name, tensor in given.items()}
    mask = torch.rand(4, 5) < 0.6
    ratio = np.exp(x["log_prob"] - x["old_log_prob"])
    surrogate = np.minimum(ratio * x["advantage"], np.clip(ratio, 0.8, 1.2) * x["advantage"])
    near = x["old_value"] + np.clip(x["value"] - x["old_value"], -0.3, 0.3)
    error = np.maximum((x["value"] - x["returns"]) ** 2, (near - x["returns"]) ** 2)
    keep = mask.numpy()
    loss = ppo_loss(**given, mask=mask, value_clip=0.3)
    assert loss.policy.item() == pytest.approx(-surrogate[keep].mean())
    assert loss.value.item() == pytest.approx(error[keep].mean() / 2)
    assert loss.approx_kl.item() == pytest.approx((ratio - 1 - np.log(ratio))[keep].mean())
    assert loss.clip_fraction.item() == pytest.approx((np.abs(ratio - 1) > 0.2)[keep].mean())
    plain = ppo_loss(**given, value_clip=None).value.item()
    assert plain == pytest.approx(((x["value"] - x["returns"]) ** 2).mean() / 2)


def test_what_the_mask_leaves_out_changes_nothing() -> None:
    given, mask = sample(), torch.tensor([True, True, False, True, False]).expand(4, 5)
    expected = ppo_loss(**given, mask=mask)
    for name in given:
        given[name] = torch.where(mask, given[name], 1e4).requires_grad_()
    found = ppo_loss(**given, mask=mask)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    (found.policy + found.value).backward()
    for name in ("log_prob", "value"):
        gradient = given[name].grad
        assert gradient is not None
        assert not gradient[~mask].any()
        assert gradient[mask].any()


def test_gradients_away_from_the_kinks() -> None:
    given = sample()
    given["log_prob"] = given["old_log_prob"] + 0.05 * torch.randn(4, 5, dtype=torch.float64)
    leaves = [given[name].requires_grad_() for name in ("log_prob", "value")]

    def total(log_prob: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        loss = ppo_loss(**{**given, "log_prob": log_prob, "value": value}, value_clip=10.0)
        return loss.policy + loss.value

    assert torch.autograd.gradcheck(total, leaves)


@pytest.mark.parametrize(("name", "value"), [("clip", 0.0), ("value_clip", -1.0)])
def test_a_clip_is_a_positive_number(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}: a positive number, or None for none"):
        ppo_loss(**sample(), **{name: value})


def test_tensors_of_other_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"returns is \(4,\), log_prob \(4, 5\)"):
        ppo_loss(**{**sample(), "returns": torch.zeros(4, dtype=torch.float64)})


# --- KL, means, whitening ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(0, 1000))
def test_estimators_of_the_kl_by_enumeration(n: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, n, dtype=torch.float64, generator=draw).softmax(-1)
    kl = (p * (p / q).log()).sum()
    log_ratio = (q / p).log()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((p * approx_kl(log_ratio, kind)).sum(), kl)
    assert (approx_kl(log_ratio, "k3") >= 0).all()
    assert (approx_kl(log_ratio, "k2") >= 0).all()
    assert (approx_kl(log_ratio, "k1") < 0).any()  # some action is likelier under the other


def test_other_estimators_are_refused() -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="kind='k4': choose k1, k2 or k3"):
        approx_kl(torch.zeros(2), "k4")  # type: ignore[arg-type]


def test_whitened_numbers() -> None:
    x, mask = torch.randn(6, 7, dtype=torch.float64) * 5 + 3, torch.rand(6, 7) < 0.5
    for keep in (None, mask):
        white = whiten(x, keep)
        counted = white if keep is None else white[keep]
        assert counted.mean().item() == pytest.approx(0, abs=1e-12)
        assert counted.var().item() == pytest.approx(1)
        unshifted = whiten(x, keep, shift_mean=False)
        kept = unshifted if keep is None else unshifted[keep]
        assert kept.mean().item() == pytest.approx((x if keep is None else x[keep]).mean().item())
    assert not whiten(x, mask)[~mask].any()
    with pytest.raises(ValueError, match="1 numbers have no variance: whiten needs two or more"):
        whiten(torch.zeros(1))


def test_the_explained_variance_is_that_of_stable_baselines() -> None:
    value, returns = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.rand(5, 6) < 0.5
    for keep in (torch.ones_like(mask), mask):
        expected = explained_variance_there(value[keep].numpy(), returns[keep].numpy())
        assert explained_variance(value, returns, keep).item() == pytest.approx(expected)
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])) == 0
    assert explained_variance(torch.zeros(3), torch.ones(3)).isnan(), "a constant has nothing to explain"


def test_means_under_a_mask() -> None:
    x = torch.tensor([[1.0, math.nan], [3.0, math.inf]])
    assert masked_mean(x, torch.tensor([[True, False], [True, False]])) == 2
    with pytest.raises(ValueError, match="mask is true nowhere"):
        masked_mean(x, torch.zeros(2, 2, dtype=torch.bool))


# --- Training ---------------------------------------------------------------------------------------------------------


class Echo(gymnasium.Env[Any, Any]):
    """Shows one of ``n`` signs and rewards its repetition; with a box, the distance to a number."""

    def __init__(self, continuous: bool = False, length: int = 10, flat: bool = True) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,) if flat else (3, 1))
        self.action_space = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(3)
        self.continuous, self.length, self.time = continuous, length, 0

    def _show(self) -> np.ndarray[Any, Any]:
        self.sign = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.sign]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        right = (self.sign - 1) * 0.5
        reward = -abs(float(action[0]) - right) if self.continuous else float(action == self.sign)
        return self._show(), reward, False, self.time >= self.length, {}


class Steady(gymnasium.Env[Any, Any]):
    """Gives a reward of 1 at each step, forever; a time limit cuts it off. Observations count the steps."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.full(1, self.time / 5, np.float32), 1.0, False, self.time == 5, {}


class Spoiled(Steady):
    """Gives NaN in place of one reward, or of one observation."""

    def __init__(self, what: str) -> None:
        self.what = what

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *rest = super().step(action)
        bad = self.time == 3
        return obs * np.nan if bad and self.what == "obs" else obs, math.nan if bad else reward, *rest


for name, env in (("Echo-v0", Echo), ("Steady-v0", Steady), ("Spoiled-v0", Spoiled)):
    gymnasium.register(name, entry_point=env)

QUICK = PPOConfig(
    total_steps=4000,
    n_envs=4,
    n_steps=50,
    n_epochs=8,
    n_minibatches=4,
    learning_rate=3e-3,
    anneal_lr=True,
    gamma=0.5,
    value_clip=0.2,
    max_grad_norm=0.5,
)


@pytest.mark.parametrize("objective", ["clip", "kl", "adaptive_kl", "none"])
def test_every_objective_learns_to_repeat_a_sign(objective: Any) -> None:
    result = train_ppo("Echo-v0", QUICK, objective=objective)
    assert result.score(20) > 9  # of 10
    assert result.returns[:8].mean() < 6
    assert len(result.kl) == len(result.clip_fraction) == 20
    assert result.steps[-1] == 4000
    assert (result.kl > -1e-6).all()
    assert result.kl.max() > 1e-3
    assert result.clip_fraction.any() == (objective == "clip")
    for column in (result.policy_loss, result.value_loss, result.approx_kl, result.entropy):
        assert len(column) == 20 and np.isfinite(column).all()
    assert 0 < result.entropy[-1] < result.entropy[0] < math.log(3) + 1e-6
    assert (result.approx_kl > -1e-6).all() and result.approx_kl.max() > 1e-4
    assert len(result.explained_variance) == 20  # in the end all returns are alike, and nothing is left to explain
    assert np.nanmax(result.explained_variance) < 1


@pytest.mark.parametrize("normalize", [False, True])
def test_a_continuous_policy_finds_the_number(normalize: bool) -> None:
    both = {"normalize_obs": normalize, "normalize_reward": normalize}
    config = PPOConfig(**{**vars(QUICK), **both, "total_steps": 12_000})
    result = train_ppo("Echo-v0", config, continuous=True)
    assert result.returns[:8].mean() < -5
    assert result.score(20) > -3.5  # 0.35 a step away, most of it the noise that it still adds
    means = [result.policy.actor(torch.eye(3)).flatten()]
    assert normalize or torch.diff(means[0]).min() > 0.2


def test_the_same_seed_gives_the_same_policy_and_another_another() -> None:
    config = PPOConfig(**{**vars(QUICK), "total_steps": 400})
    one, two, other = (train_ppo("Echo-v0", PPOConfig(**{**vars(config), "seed": s})) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.returns, two.returns)
    for a, b in zip(one.policy.parameters(), two.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not np.array_equal(one.returns, other.returns)


def test_the_random_numbers_of_the_caller_go_on_as_if_there_had_been_no_training() -> None:
    torch.manual_seed(3)
    before, expected = torch.get_rng_state(), torch.rand(2)
    torch.set_rng_state(before)
    train_ppo("Echo-v0", PPOConfig(**{**vars(QUICK), "total_steps": 400}))
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)


def test_the_policy_that_acted_has_a_ratio_of_1() -> None:
    policy, config = Policy(4, 2), PPOConfig(n_steps=64)
    acted = RolloutCollector("CartPole-v1", config, {}).collect(policy)
    advantage, returns = gae(acted.rewards, acted.values, acted.dones, acted.last_value)
    log_prob = policy.distribution(policy(acted.observations)).log_prob(acted.actions)
    value = policy.value(acted.observations)
    loss = ppo_loss(log_prob, acted.log_prob, advantage, value, acted.values, returns)
    assert loss.approx_kl.item() == pytest.approx(0, abs=1e-9)
    assert loss.clip_fraction == 0
    assert loss.policy.item() == pytest.approx(-advantage.mean().item(), rel=1e-5)


def test_before_the_first_step_the_estimated_kl_is_0() -> None:
    config = PPOConfig(**{**vars(QUICK), "total_steps": 800, "n_epochs": 1, "n_minibatches": 1})
    result = train_ppo("Echo-v0", config)
    np.testing.assert_allclose(result.approx_kl, 0, atol=1e-9)
    np.testing.assert_allclose(result.policy_loss, 0, atol=1e-6)  # of whitened advantages
    assert (result.kl > 1e-7).all(), "the policy moves after it was measured"


@pytest.mark.parametrize("bootstrap", [True, False])
def test_a_time_limit_is_no_end(bootstrap: bool) -> None:
    config = PPOConfig(n_envs=2, n_steps=10, n_minibatches=1, bootstrap_truncated=bootstrap, gamma=0.5)
    policy, collector = Policy(1, 2), RolloutCollector("Steady-v0", config, {})
    final = policy.value(torch.ones(1, 1)).item()  # after five steps
    acted = collector.collect(policy)
    _, returns = gae(acted.rewards, acted.values, acted.dones, acted.last_value, gamma=0.5, lam=1)
    expected = []
    for _ in range(2):
        to_come = final if bootstrap else 0.0
        expected += [sum(0.5**i for i in range(left)) + 0.5**left * to_come for left in (5, 4, 3, 2, 1)]
    torch.testing.assert_close(returns, torch.tensor(expected)[:, None].expand(10, 2))
    counted = acted.observations[:, 0, 0].tolist()
    assert counted == pytest.approx([0, 0.2, 0.4, 0.6, 0.8] * 2)  # the first of an episode follows its end at once
    assert collector.episode_returns == [5.0] * 4
    assert collector.episode_ends == [10, 10, 20, 20]


@pytest.mark.parametrize("what", ["reward", "obs"])
def test_a_number_that_is_not_finite_is_not_learned_from(what: str) -> None:
    config = PPOConfig(**{**vars(QUICK), "normalize_obs": True})
    with pytest.raises(ValueError, match="Spoiled-v0 gave a reward or an observation that is no finite number"):
        train_ppo("Spoiled-v0", config, what=what)


def test_weights_that_run_away_are_noticed() -> None:
    config = PPOConfig(**{**vars(QUICK), "learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match=r"_loss has become (nan|inf|-inf); lower learning_rate"):
        train_ppo("Echo-v0", config)


def test_running_statistics_are_those_of_stable_baselines() -> None:
    running, theirs = ppo.RunningMeanStd((3,)), RunningMeanStd(epsilon=0, shape=(3,))
    for rows in np.split(np.random.default_rng(0).normal(3, 5, (60, 3)), [1, 7, 30]):
        running.update(rows)
        theirs.update(rows)
    np.testing.assert_allclose(running.mean, theirs.mean)
    np.testing.assert_allclose(running.std, np.sqrt(theirs.var))


def test_unlimited_steps_go_further() -> None:
    config = PPOConfig(**{**vars(QUICK), "total_steps": 2000, "n_epochs": 20, "learning_rate": 1e-2})
    far, near = (train_ppo("Echo-v0", config, objective=objective).kl.mean() for objective in ("none", "clip"))
    assert far > 1.5 * near


def test_an_update_ends_when_it_has_gone_too_far() -> None:
    loose = PPOConfig(**{**vars(QUICK), "total_steps": 400, "n_epochs": 30})
    tight = PPOConfig(**{**vars(loose), "target_kl": 1e-3})
    near, far = (train_ppo("Echo-v0", config, objective="none").kl.mean() for config in (tight, loose))
    assert near < far / 3


def test_environments_it_cannot_read_are_named() -> None:
    with pytest.raises(ValueError, match=r"Echo-v0: observations are Box.*, no vector"):
        train_ppo("Echo-v0", QUICK, flat=False)
    with pytest.raises(ValueError, match=r"FrozenLake-v1: observations are Discrete\(16\), no vector"):
        train_ppo("FrozenLake-v1", QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_minibatches": 3}, "n_minibatches=3 does not divide the n_envs \\* n_steps = 1024 steps of an update"),
        ({"total_steps": 100}, "total_steps=100 is less than one update of n_envs \\* n_steps = 1024 steps"),
        ({"n_minibatches": 1024}, "n_minibatches=1024 leaves single steps, which cannot be whitened"),
        ({"n_epochs": 0}, "n_epochs=0: give a whole number of at least 1"),
        ({"n_envs": 2.5}, "n_envs=2.5: give a whole number of at least 1"),
        ({"clip": 0.0}, "clip=0.0: give a positive number"),
        ({"value_clip": -1}, "value_clip=-1: give a positive number, or None"),
        ({"learning_rate": None}, "learning_rate=None: give a positive number$"),
        ({"kl_target": math.inf}, "kl_target=inf: give a positive number"),
        ({"entropy_coef": math.nan}, "entropy_coef=nan: give a number of at least 0"),
        ({"vf_coef": "1"}, "vf_coef='1': give a number of at least 0"),
        ({"gamma": 2.0}, "gamma=2.0: give a number from 0 to 1"),
    ],
)
def test_settings_that_cannot_be_trained_with(change: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        PPOConfig(**change)


def test_an_unknown_objective_is_refused() -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="objective='trpo': choose clip, kl, adaptive_kl, none"):
        train_ppo("Echo-v0", QUICK, objective="trpo")  # type: ignore[arg-type]


def test_a_fresh_policy_hardly_prefers_an_action() -> None:
    policy = Policy(4, 2)
    assert (policy(torch.randn(50, 4)).softmax(-1) - 0.5).abs().max() < 0.02
    plain = Policy(4, 2, orthogonal_init=False)
    assert (plain(torch.randn(50, 4)).softmax(-1) - 0.5).abs().max() > 0.02
    normal = Policy(4, 2, continuous=True).distribution(Policy(4, 2, continuous=True)(torch.randn(5, 4)))
    action = torch.zeros(5, 2)
    assert normal.log_prob(action).shape == normal.entropy().shape == (5,)
    torch.testing.assert_close(normal.entropy(), torch.full((5,), math.log(2 * math.pi * math.e)))
