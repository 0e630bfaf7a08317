"""Proximal policy optimisation (Schulman et al. 2017): learn from actions that an older policy took, in small steps.

A policy acts for a while; the advantages say which actions turned out better than expected (:func:`gae`); then it is
trained on them for several epochs with a loss that stops pulling once the policy has moved away from the one that acted
(:func:`ppo_loss`). :func:`train_ppo` does so in gymnasium's environments, ``nextword.rlhf`` with a language model.

Shapes: T steps in each of N environments, B = T·N of them; S numbers in an observation; A that determine a distribution
of actions.

Used in: 2017_ppo, 2022_instructgpt.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

from nextword import runtime

__all__ = [
    "Experience",
    "PPOConfig",
    "PPOLoss",
    "PPOResult",
    "Policy",
    "RolloutCollector",
    "approx_kl",
    "explained_variance",
    "gae",
    "ppo_loss",
    "train_ppo",
    "whiten",
]

Array: TypeAlias = np.ndarray
Objective = Literal["clip", "kl", "adaptive_kl", "none"]


# --- Advantages and losses --------------------------------------------------------------------------------------------


def gae(
    rewards: Float[Tensor, "T N"],
    values: Float[Tensor, "T N"],
    dones: Bool[Tensor, "T N"] | Float[Tensor, "T N"],
    last_value: Float[Tensor, " N"],
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> tuple[Float[Tensor, "T N"], Float[Tensor, "T N"]]:
    """Return generalised advantage estimates A, and the returns A + V (Schulman et al. 2016, equation 16).

    Args:
        rewards: r_t. Where an episode was cut off by a time limit, the caller adds γ·V(last observation) to it.
        values: V_t, what the critic expected before step t.
        dones: whether the episode ended with step t, so that nothing after it counts.
        last_value: V_T, what it expected after the last step.
        gamma: how much a reward one step later is worth, from 0 to 1.
        lam: 0 trusts the critic after one step, 1 only the rewards.

    Raises:
        ValueError: the shapes differ, or ``gamma`` or ``lam`` is outside 0 … 1.

    Example:
        >>> rewards, values = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [0.5]])
        >>> advantages, returns = gae(rewards, values, torch.tensor([[0.0], [1.0]]), torch.zeros(1), gamma=1, lam=1)
        >>> advantages.flatten().tolist(), returns.flatten().tolist()
        ([0.5, 0.5], [1.0, 1.0])
    """
    check_same_shape(rewards=rewards, values=values, dones=dones)
    check_same_shape(rewards_of_a_step=rewards[0], last_value=last_value)
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma={gamma}, lam={lam}: give numbers from 0 to 1")
    nonterminal = 1 - dones.to(rewards.dtype)  # (T, N), 0 where an episode ends: what follows belongs to another
    next_values = torch.cat([values[1:], last_value[None]])  # (T, N), V_{t+1}
    delta = rewards + gamma * next_values * nonterminal - values  # (T, N), δ_t, the surprise after one step
    discount = gamma * lam * nonterminal  # (T, N), the weight of A_{t+1} in A_t
    # Written out A_t = Σ_l (γλ)^l δ_{t+l}, which is a weighted mean of the advantages seen after 1, 2, 3 … steps: few
    # steps lean on the critic, which may be wrong, many on sums of rewards, which vary by chance.
    last_advantage, backwards = torch.zeros_like(last_value), []
    for t in reversed(range(len(rewards))):  # from the end, where nothing comes later: A_t = δ_t + γλ A_{t+1}
        last_advantage = delta[t] + discount[t] * last_advantage  # (N,)
        backwards.append(last_advantage)
    advantages = torch.stack(backwards[::-1])  # (T, N)
    return advantages, advantages + values  # the second is what the critic should have said


class PPOLoss(NamedTuple):
    """What to minimise, and two measures of how far the policy has moved."""

    policy: Float[Tensor, ""]
    """The clipped surrogate, with a minus sign (equation 7)."""
    value: Float[Tensor, ""]
    """Half the squared error of the critic."""
    approx_kl: Float[Tensor, ""]
    """KL(old ‖ new) as estimated by k3 on the old policy's actions, in nats an action."""
    clip_fraction: Float[Tensor, ""]
    """Share of the actions whose ratio is outside 1 ± ``clip``."""


def ppo_loss(
    log_prob: Float[Tensor, "..."],
    old_log_prob: Float[Tensor, "..."],
    advantage: Float[Tensor, "..."],
    value: Float[Tensor, "..."],
    old_value: Float[Tensor, "..."],
    returns: Float[Tensor, "..."],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    clip: float | None = 0.2,
    value_clip: float | None = 0.2,
) -> PPOLoss:
    """Return -mean(min(ρ·A, clip(ρ, 1 - ε, 1 + ε)·A)) and the critic's loss (Schulman et al. 2017, equations 7 and 9).

    Args:
        log_prob: log-probabilities of the actions under the policy in training. All tensors have one shape.
        old_log_prob: the same under the policy that acted; ρ is their ratio.
        advantage: A; whiten it first.
        value: the critic's estimate now.
        old_value: its estimate when the action was taken.
        returns: what it should have been.
        mask: the actions that count; all, if None.
        clip: ε, or None for the surrogate without clipping (equation 6).
        value_clip: how far the critic may move; a habit of OpenAI's code that is not in the paper.

    Raises:
        ValueError: the shapes differ, a clip is not positive, or the mask is empty.

    Example:
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> ppo_loss(torch.tensor([0.5]), zero, one, zero, zero, zero).policy.item()  # ρ = 1.65, but counts as 1.2
        -1.2000000476837158
    """
    old = {"old_log_prob": old_log_prob, "old_value": old_value}
    check_same_shape(log_prob=log_prob, advantage=advantage, value=value, returns=returns, mask=mask, **old)
    for name, width in {"clip": clip, "value_clip": value_clip}.items():
        if width is not None and not width > 0:
            raise ValueError(f"{name}={width}: a positive number, or None for none")
    log_ratio = log_prob - old_log_prob  # a quotient of probabilities could be 0/0
    if mask is not None:
        log_ratio = log_ratio.masked_fill(~mask, 0)  # whatever stands at padding, exp must not overflow there
    ratio = log_ratio.exp()  # ρ: how much likelier the action has become, 1 for all before the first step
    # At ρ = 1 its gradient is A·∇log π, the policy gradient. Afterwards the actions are those of another policy than
    # the one in training: ρ weighs each by how much more often the new one would take it (equation 6).
    surrogate = ratio * advantage
    outside = torch.zeros_like(ratio)
    if clip is not None:
        # The clipped term is flat outside 1 ± ε, and the smaller of both counts: an action that has moved far enough no
        # longer pulls, while one that went the wrong way is still pulled back.
        surrogate = torch.minimum(surrogate, ratio.clamp(1 - clip, 1 + clip) * advantage)
        outside = ((ratio - 1).abs() > clip).to(ratio.dtype)
    error = (value - returns).square()  # of the critic
    if value_clip is not None:  # the larger error counts, so moving further than that cannot lower it
        clipped_value = old_value + (value - old_value).clamp(-value_clip, value_clip)
        error = torch.maximum(error, (clipped_value - returns).square())
    with torch.no_grad():  # these two are only looked at
        kl, clip_fraction = masked_mean(approx_kl(log_ratio, "k3"), mask), masked_mean(outside, mask)
    return PPOLoss(-masked_mean(surrogate, mask), masked_mean(error, mask) / 2, kl, clip_fraction)


def approx_kl(log_ratio: Float[Tensor, "..."], kind: Literal["k1", "k2", "k3"] = "k3") -> Float[Tensor, "..."]:
    """Return an estimate of KL(sampler ‖ other) from each sample, given log ρ = log(other / sampler).

    ``k1`` is unbiased, but negative for every sample that the other finds likelier; ``k2`` is never negative and
    biased, little where the two are close; ``k3`` is unbiased and never negative (J. Schulman's note of 2020).

    Example:
        >>> sampler, other = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
        >>> [round((sampler * approx_kl((other / sampler).log(), kind)).sum().item(), 3) for kind in ("k1", "k2", "k3")]
        [0.511, 0.734, 0.511]
    """
    if kind == "k1":
        return -log_ratio  # -log ρ
    if kind == "k2":
        return log_ratio.square() / 2  # ½(log ρ)²
    if kind != "k3":
        raise ValueError(f"kind={kind!r}: choose k1, k2 or k3")
    # ρ - 1 has a mean of 0 under the sampler, so that adding it keeps k1 unbiased. And since log ρ ≤ ρ - 1 the sum is
    # never negative. expm1 keeps the digits of a ρ near 1, which exp(…) - 1 would lose.
    return log_ratio.expm1() - log_ratio  # ρ - 1 - log ρ


def explained_variance(
    value: Float[Tensor, "..."], returns: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, ""]:
    """Return 1 - Var(R - V) / Var(R): 1 if V knew R, 0 if a constant would have done; not finite if R hardly varies."""
    if mask is not None:
        value, returns = value[mask], returns[mask]
    return 1 - (returns - value).var(correction=0) / returns.var(correction=0)


def masked_mean(x: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None = None) -> Float[Tensor, ""]:
    """Return the mean of the numbers where the mask is true; of all without a mask.

    Raises:
        ValueError: the mask has another shape, or is true nowhere.
    """
    if mask is None:
        return x.mean()
    check_same_shape(x=x, mask=mask)
    count = mask.sum()
    if not count:
        raise ValueError("mask is true nowhere: there is nothing to average")
    return x.masked_fill(~mask, 0).sum() / count  # filled and not multiplied, for 0 times NaN is NaN


def whiten(
    x: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None = None, *, shift_mean: bool = True
) -> Float[Tensor, "..."]:
    """Return the numbers with mean 0 and variance 1; what the mask leaves out is 0.

    ``shift_mean=False`` keeps the mean, as OpenAI's code does with rewards.

    Raises:
        ValueError: fewer than two numbers count.

    Example:
        >>> whiten(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [-1.0, 0.0, 1.0]
    """
    count = x.numel() if mask is None else int(mask.sum())
    if count < 2:
        raise ValueError(f"{count} numbers have no variance: whiten needs two or more")
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean).square(), mask) * count / (count - 1)  # the mean was estimated from the same x
    white = (x - mean) / (variance + 1e-8).sqrt()  # numbers that are all alike become 0, not NaN
    white = white if shift_mean else white + mean
    return white if mask is None else white.masked_fill(~mask, 0)


def check_same_shape(**tensors: Tensor | None) -> None:
    """Raise an error that names the first of these tensors whose shape is not that of the first of all."""
    shapes = {name: tuple(x.shape) for name, x in tensors.items() if x is not None}
    first, expected = next(iter(shapes.items()))
    for name, shape in shapes.items():
        if shape != expected:
            raise ValueError(f"{name} is {shape}, {first} {expected}")


# --- Settings ---------------------------------------------------------------------------------------------------------


def check_settings(config: Any, **fields: tuple[str, ...]) -> None:
    """Raise an error that names the first field out of its range. NaN is in none; None where the field's type has it."""
    tiny, huge = sys.float_info.min, sys.float_info.max
    ranges = {
        "whole": (1, huge, "a whole number of at least 1"),
        "positive": (tiny, huge, "a positive number"),
        "not_negative": (0, huge, "a number of at least 0"),
        "fraction": (0, 1, "a number from 0 to 1"),
        "finite": (-huge, huge, "a finite number"),
    }
    for kind, names in fields.items():
        low, high, words = ranges[kind]
        for name in names:
            value, optional = getattr(config, name), "None" in config.__annotations__[name]
            is_number = isinstance(value, Integral if kind == "whole" else Real)
            if not ((is_number and low <= value <= high) or (optional and value is None)):
                raise ValueError(f"{name}={value!r}: give {words}{', or None' if optional else ''}")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """How a policy is trained. Defaults of γ, λ, ε, epochs and network are the paper's (section 6.1); sizes suit CartPole.

    Example:
        >>> PPOConfig(n_envs=3, n_steps=5, n_minibatches=4)
        Traceback (most recent call last):
        ...
        ValueError: n_minibatches=4 does not divide the n_envs * n_steps = 15 steps of an update
    """

    total_steps: int = 100_000  #: Steps in all environments together; an update that would exceed them is left out.
    n_envs: int = 8  #: N, environments side by side.
    n_steps: int = 128  #: T, steps in each between two updates.
    n_epochs: int = 10  #: How often an update goes over its N·T steps.
    n_minibatches: int = 16  #: Parts into which each epoch cuts them at random.
    learning_rate: float = 1e-3  #: Adam's, with ε = 1e-5.
    anneal_lr: bool = False  #: Whether the rate falls to 0 in a straight line.
    gamma: float = 0.99  #: γ, how much a reward one step later is worth.
    lam: float = 0.95  #: λ of :func:`gae`.
    clip: float = 0.2  #: ε of the objective ``clip``.
    value_clip: float | None = None  #: The critic's ε, or None as in the paper.
    vf_coef: float = 0.5  #: c₁, weight of the critic's loss. With a network of its own and Adam it hardly matters.
    entropy_coef: float = 0.0  #: c₂, weight of the entropy bonus, which encourages exploration. Atari games need it.
    max_grad_norm: float | None = None  #: Largest norm of the gradient, or None as in the paper. OpenAI's code has 0.5.
    target_kl: float | None = None  #: An update ends after the epoch whose estimated KL exceeded it. None: never.
    seed: int = 0  #: Where the random numbers of environments, weights, actions and minibatches start.
    beta: float = 1.0  #: β of the objective ``kl``, and the first β of ``adaptive_kl``.
    kl_target: float = 0.01  #: d_targ, the KL an update that ``adaptive_kl`` steers to by its β. It ends no update.
    normalize_advantage: bool = True  #: Whether the advantages of each minibatch are whitened.
    normalize_obs: bool = False  #: Whether observations get mean 0 and variance 1 by running statistics.
    normalize_reward: bool = False  #: Whether rewards are divided by the standard deviation of their discounted sum.
    bootstrap_truncated: bool = True  #: Whether V(last observation) stands for rewards that a time limit cut off.
    orthogonal_init: bool = True  #: Whether weights start orthogonal, the actor's last layer near 0; else as in torch.

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained with."""
        check_settings(
            self,
            whole=("total_steps", "n_envs", "n_steps", "n_epochs", "n_minibatches"),
            positive=("learning_rate", "clip", "kl_target", "beta", "value_clip", "max_grad_norm", "target_kl"),
            not_negative=("vf_coef", "entropy_coef"),
            fraction=("gamma", "lam"),
        )
        batch = self.n_envs * self.n_steps
        words = f"n_envs * n_steps = {batch} steps"
        if batch % self.n_minibatches:
            raise ValueError(f"n_minibatches={self.n_minibatches} does not divide the {words} of an update")
        if self.total_steps < batch:
            raise ValueError(f"total_steps={self.total_steps} is less than one update of {words}")
        if batch == self.n_minibatches and self.normalize_advantage:
            raise ValueError(f"n_minibatches={batch} leaves single steps, which cannot be whitened")


# --- Acting -----------------------------------------------------------------------------------------------------------


class Policy(nn.Module):
    """An actor and a critic, each with two hidden layers of tanh units that they do not share (section 6.1).

    Args:
        n_inputs: S, numbers in an observation.
        n_actions: how many actions there are, or how many numbers an action has.
        continuous: whether actions are numbers, drawn from a normal distribution whose width does not depend on the
            observation; otherwise one of ``n_actions`` is drawn.
        hidden: units in a layer.
        orthogonal_init: see :class:`PPOConfig`.
    """

    def __init__(
        self, n_inputs: int, n_actions: int, *, continuous: bool = False, hidden: int = 64, orthogonal_init: bool = True
    ) -> None:
        super().__init__()
        # With a last layer near 0 a fresh policy takes all actions about equally often.
        self.actor = _network(n_inputs, hidden, n_actions, last_gain=0.01 if orthogonal_init else None)
        self.critic = _network(n_inputs, hidden, 1, last_gain=1.0 if orthogonal_init else None)
        self.log_std = nn.Parameter(torch.zeros(n_actions)) if continuous else None  # a width of 1 at first

    def forward(self, observations: Float[Tensor, "*B S"]) -> Float[Tensor, "*B A"]:
        """Return what determines the distribution of actions: scores, or means beside logarithms of widths."""
        scores: Tensor = self.actor(observations)
        return scores if self.log_std is None else torch.cat([scores, self.log_std.expand_as(scores)], -1)

    def distribution(self, outputs: Float[Tensor, "*B A"]) -> Distribution:
        """Return the distribution of actions for what ``forward`` returned."""
        if self.log_std is None:
            return Categorical(logits=outputs, validate_args=False)
        mean, log_std = outputs.chunk(2, -1)
        # An action is one vector: Independent adds up the log-probabilities of its numbers.
        return Independent(Normal(mean, log_std.exp(), validate_args=False), 1, validate_args=False)

    def value(self, observations: Float[Tensor, "*B S"]) -> Float[Tensor, "*B"]:
        """Return the critic's estimate of all discounted rewards to come."""
        values: Tensor = self.critic(observations)
        return values.squeeze(-1)


def _network(n_inputs: int, hidden: int, n_outputs: int, last_gain: float | None) -> nn.Sequential:
    sizes = (n_inputs, hidden, hidden, n_outputs)
    linears = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    if last_gain is not None:
        for linear, gain in zip(linears, (math.sqrt(2), math.sqrt(2), last_gain), strict=True):
            nn.init.orthogonal_(linear.weight, gain)  # equal singular values: no direction is favoured
            nn.init.zeros_(linear.bias)
    return nn.Sequential(linears[0], nn.Tanh(), linears[1], nn.Tanh(), linears[2])


class Experience(NamedTuple):
    """What T steps in each of N environments left behind."""

    observations: Float[Tensor, "T N S"]
    """What the policy saw before each action."""
    actions: Tensor
    """(T, N), or (T, N, numbers of an action)."""
    outputs: Float[Tensor, "T N A"]
    """What the policy that acted returned: the distributions that the actions were drawn from."""
    log_prob: Float[Tensor, "T N"]
    """Log-probabilities of the actions under that policy, nats."""
    values: Float[Tensor, "T N"]
    """What the critic expected before each action."""
    rewards: Float[Tensor, "T N"]
    """Scaled, where the settings say so, and with γ·V(last observation) added where a time limit ended the episode."""
    dones: Bool[Tensor, "T N"]
    """Whether the episode ended with the step."""
    last_value: Float[Tensor, " N"]
    """What the critic expects after the last step."""


class RolloutCollector:
    """N environments side by side in which a policy acts, and a record of the episodes that end.

    Args:
        env_id: the name of a registered environment.
        config: of it, sizes, seed, and what is normalised.
        settings: further arguments of the environment.

    Raises:
        ValueError: observations are no vector of numbers, or actions neither one of several nor a vector.
        ImportError: gymnasium is not installed.
    """

    def __init__(self, env_id: str, config: PPOConfig, settings: dict[str, Any]) -> None:
        import gymnasium
        from gymnasium import spaces
        from gymnasium.vector import AutoresetMode

        self.env_id, self.config = env_id, config
        # SAME_STEP: where an episode ends the next one begins at once; by default that takes a step without an action.
        sync = {"autoreset_mode": AutoresetMode.SAME_STEP, "copy": False}  # _scaled copies
        sizes: dict[str, Any] = {"num_envs": config.n_envs, "vectorization_mode": "sync", "vector_kwargs": sync}
        self.envs = gymnasium.make_vec(env_id, **sizes, **settings)
        obs, action = self.envs.single_observation_space, self.envs.single_action_space
        if not (isinstance(obs, spaces.Box) and len(obs.shape) == 1):
            raise ValueError(f"{env_id}: observations are {obs}, no vector")
        self.continuous = isinstance(action, spaces.Box) and len(action.shape) == 1
        if not (self.continuous or (isinstance(action, spaces.Discrete) and int(action.start) == 0)):
            raise ValueError(f"{env_id}: actions are {action}; Discrete from 0, or a Box of one dimension, fits")
        self.n_inputs, self.n_actions = spaces.flatdim(obs), spaces.flatdim(action)
        self.obs_stats, self.return_stats = RunningMeanStd((self.n_inputs,)), RunningMeanStd(())
        self.discounted, self.so_far = np.zeros((2, config.n_envs))  # sums of the rewards of episodes that are running
        self.steps = 0
        self.episode_ends: list[int] = []
        self.episode_returns: list[float] = []
        self.observation = self._scaled(self.envs.reset(seed=config.seed)[0], update=True)  # (N, S)

    @torch.no_grad()
    def collect(self, policy: Policy) -> Experience:
        """Let the policy act for T steps in each environment, from where the last call ended.

        Raises:
            ValueError: an observation or a reward is not finite.
        """
        config, observations, actions, outputs = self.config, [], [], []
        cut_off: dict[tuple[int, Any], Tensor] = {}  # by step and environment, what was seen last
        rewards = np.zeros((config.n_steps, config.n_envs), np.float32)
        dones = np.zeros(rewards.shape, bool)
        for t in range(config.n_steps):
            observations.append(self.observation)  # (N, S)
            with torch.inference_mode():
                outputs.append(policy(self.observation))  # (N, A)
                actions.append(policy.distribution(outputs[-1]).sample())
            obs, rewards[t], terminated, truncated, info = self._step(actions[-1].numpy())
            dones[t] = terminated | truncated  # either way step t + 1 belongs to another episode
            if config.bootstrap_truncated:  # more rewards would have come, had there been no time limit
                # obs is the next episode's first one already; what this one saw last stands in info.
                late = np.flatnonzero(truncated & ~terminated)
                cut_off |= {(t, n): self._scaled(info["final_obs"][n]) for n in late}
            self.observation = self._scaled(obs, update=True)
        all_obs = torch.stack([*observations, self.observation])  # (T + 1, N, S)
        # The policy has not changed meanwhile, so that the critic can wait until all has been seen.
        values = policy.value(all_obs)  # (T + 1, N), in one pass
        if cut_off:  # γ·V(last observation) stands for them
            later = policy.value(torch.stack([*cut_off.values()])).numpy()
            rewards[tuple(np.transpose([*cut_off]))] += config.gamma * later
        action, output = torch.stack(actions), torch.stack(outputs)
        log_prob = policy.distribution(output).log_prob(action)  # (T, N), as it is computed when learning
        feedback = torch.from_numpy(rewards), torch.from_numpy(dones)
        return Experience(all_obs[:-1], action, output, log_prob, values[:-1], *feedback, values[-1])

    def _step(self, actions: Array) -> tuple[Any, ...]:
        """Take one step in each environment, note the episodes that end, and scale the rewards that are learned from."""
        # What is learned from stays the number that was drawn, for its density under the policy is known.
        if self.continuous:  # a normal distribution also draws numbers that the environment does not take
            box: Any = self.envs.single_action_space
            actions = np.clip(actions, box.low, box.high)
        obs, rewards, terminated, truncated, info = self.envs.step(actions)
        if not (np.isfinite(rewards).all() and np.isfinite(obs).all()):
            raise ValueError(f"{self.env_id} gave a reward or an observation that is no finite number")
        ended = terminated | truncated
        self.steps += len(rewards)
        self.so_far += rewards  # unscaled: what an episode earned is reported as the environment gave it
        self.episode_ends += [self.steps] * int(ended.sum())
        self.episode_returns += self.so_far[ended].tolist()
        self.so_far[ended] = 0
        if self.config.normalize_reward:  # not shifted: another mean would change what a longer episode is worth
            self.discounted = self.discounted * self.config.gamma + rewards
            self.return_stats.update(self.discounted)
            self.discounted[ended] = 0
            rewards = np.clip(rewards / self.return_stats.std, -10, 10)
        return obs, rewards, terminated, truncated, info

    def _scaled(self, obs: Array, *, update: bool = False) -> Float[Tensor, "..."]:
        if self.config.normalize_obs:
            if update:
                self.obs_stats.update(obs)
            obs = np.clip((obs - self.obs_stats.mean) / self.obs_stats.std, -10, 10)
        return torch.from_numpy(obs.astype(np.float32))  # a copy: environments use their arrays again


class RunningMeanStd:
    """Mean and standard deviation of all rows so far (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(shape), np.zeros(shape)

    def update(self, batch: Array) -> None:
        """Take in the rows of a batch."""
        mean, count = batch.mean(0), self.count + len(batch)
        delta = mean - self.mean
        # Squares about the joint mean: those within the old rows and within the new ones, and the distance of their
        # means. Σx² - n·mean² would lose its digits where the mean is far from 0.
        self.squares = self.squares + ((batch - mean) ** 2).sum(0) + delta**2 * self.count * len(batch) / count
        self.mean, self.count = self.mean + delta * len(batch) / count, count

    @property
    def std(self) -> Array:
        """The standard deviation, never quite 0."""
        return np.asarray(np.sqrt(self.squares / self.count + 1e-8))


# --- Learning ---------------------------------------------------------------------------------------------------------


class PPOResult(NamedTuple):
    """A trained policy, and how it went: one number an episode, or one an update.

    ``policy_loss``, ``value_loss``, ``approx_kl`` and ``clip_fraction`` are means over an update's minibatches.
    """

    policy: Policy
    """The trained actor and critic."""
    steps: Array
    """Steps taken in all environments when each episode ended."""
    returns: Array
    """The sum of an episode's rewards, as the environment gave them."""
    policy_loss: Array
    """Healthy: near 0, mostly below. Far from it: the advantages are not whitened, or the ratios have run away."""
    value_loss: Array
    """Healthy: rises as rewards are found, then falls. Rising without end: the rewards are too large, or ``dones`` stand one
    step too early or late, so that returns reach over the ends of episodes."""
    approx_kl: Array
    """KL from the policy that acted, as k3 estimates it from the actions. Healthy: below ``kl``, since it is a
    mean over an update that begins at 0. With one epoch of one minibatch it must be 0; else acting and learning compute different probabilities."""
    clip_fraction: Array
    """Share of ratios outside the clip range; 0 for objectives that do not clip. Healthy: 0.02 to 0.3. Exactly 0 over many
    epochs: the old log-probabilities are computed anew by the policy in training."""
    kl: Array
    """KL(before ‖ after) of each update, exact for every observation, mean in nats. Healthy: 0.001 to 0.03. Above 0.1: too
    many epochs or too high a rate, and the next experience is that of a bad policy. Near 0: nothing is learned."""
    entropy: Array
    """Of the policy after the update, mean over the observations, nats. Healthy: falls slowly. Low early: it has stopped
    trying, for want of ``entropy_coef``. Never falling: the advantages are noise, or stand in the wrong rows."""
    explained_variance: Array
    """What the critic knew of the returns (:func:`explained_variance`). Healthy: climbs towards 1. At or below 0 for long: it
    learns nothing, from observations that are not normalised or returns that are not those of its states."""

    def score(self, last: int = 100) -> float:
        """Return the mean return of the last episodes (section 6.1 of the paper)."""
        return float(self.returns[-last:].mean())


def train_ppo(env_id: str, config: PPOConfig = PPOConfig(), *, objective: Objective = "clip", **env: Any) -> PPOResult:
    """Train a policy in environments of gymnasium (Schulman et al. 2017, algorithm 1).

    Actions may be one of several or vectors of numbers; the latter are clipped on their way to the environment. Random
    numbers start at ``config.seed``; those of the caller go on afterwards as if there had been no training.

    Args:
        env_id: the name of a registered environment, such as ``CartPole-v1``.
        config: all settings.
        objective: ``clip`` (equation 7), ``kl`` with a fixed β or ``adaptive_kl`` with one that follows the measured KL
            (equation 8), or ``none``: no limit to a step (equation 6).
        env: further arguments of the environment.

    Raises:
        ValueError: an unknown objective, or an environment that :class:`RolloutCollector` refuses.
        ImportError: gymnasium is not installed.
        FloatingPointError: a loss is not finite.
    """
    if objective not in get_args(Objective):
        raise ValueError(f"objective={objective!r}: choose {', '.join(get_args(Objective))}")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are put back
        torch.default_generator.manual_seed(config.seed)
        collector = RolloutCollector(env_id, config, env)
        kind = {"continuous": collector.continuous, "orthogonal_init": config.orthogonal_init}
        policy = Policy(collector.n_inputs, collector.n_actions, **kind)
        # With an ε above the usual 1e-8 a weight whose gradient is next to 0 takes a small step, not a full one.
        adam = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
        n_updates = config.total_steps // (config.n_envs * config.n_steps)
        beta, history = config.beta, []
        for update in runtime.progress(range(n_updates), desc=env_id, unit="update"):
            if config.anneal_lr:
                adam.param_groups[0]["lr"] = config.learning_rate * (1 - update / n_updates)
            # Act: T steps in each of N environments, by the policy as it is now.
            experience = collector.collect(policy)
            # Judge: which actions turned out better than the critic had expected?
            *_, values, rewards, dones, last_value = experience
            advantage, returns = gae(rewards, values, dones, last_value, gamma=config.gamma, lam=config.lam)
            # Learn: several epochs over the same steps. Then they are thrown away, since another policy took them.
            history.append(ppo_update(policy, adam, experience, advantage, returns, config, objective, beta))
            if objective == "adaptive_kl":  # halve or double β where the update went too near or too far (section 4)
                kl = history[-1]["kl"]
                beta *= 0.5 if kl < config.kl_target / 1.5 else 2.0 if kl > config.kl_target * 1.5 else 1.0
        collector.envs.close()
    columns = {name: np.array([row[name] for row in history]) for name in history[0]}
    return PPOResult(policy, np.array(collector.episode_ends), np.array(collector.episode_returns), **columns)


def ppo_update(
    policy: Policy,
    adam: torch.optim.Optimizer,
    experience: Experience,
    advantage: Float[Tensor, "T N"],
    returns: Float[Tensor, "T N"],
    config: PPOConfig,
    objective: Objective,
    beta: float,
) -> dict[str, float]:
    """Train on an experience for several epochs; return what :class:`PPOResult` keeps of an update."""
    # From here on each step stands alone: what came after it is in its advantage and its return.
    columns = [x.flatten(0, 1) for x in (*experience[:5], advantage, returns)]  # (T, N, …) to (B, …)
    losses: list[list[Tensor]] = []
    for _ in range(config.n_epochs):
        for rows in torch.randperm(len(columns[0])).view(config.n_minibatches, -1):  # each step once, at random
            obs, action, old_outputs, old_log_prob, old_value, A, R = (column[rows] for column in columns)
            actions = policy.distribution(policy(obs))
            # With a mean of 0 some actions become likelier and others less so, and the scale of the rewards does not matter.
            A = whiten(A) if config.normalize_advantage else A
            tensors = actions.log_prob(action), old_log_prob, A, policy.value(obs), old_value, R
            clip = config.clip if objective == "clip" else None
            loss = ppo_loss(*tensors, clip=clip, value_clip=config.value_clip)
            total = loss.policy + config.vf_coef * loss.value  # equation 9 with its signs turned, to be minimised
            if config.entropy_coef:
                total = total - config.entropy_coef * actions.entropy().mean()
            if objective in ("kl", "adaptive_kl"):  # equation 8: no clip, but each nat of KL costs β
                total = total + beta * kl_divergence(policy.distribution(old_outputs), actions).mean()
            adam.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            if config.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            adam.step()
            losses.append([x.detach() for x in loss])
        kls = [kl for _, _, kl, _ in losses[-config.n_minibatches :]]  # of this epoch
        # Further away the policy does other things than those that were tried, of which these advantages say nothing.
        if config.target_kl is not None and torch.stack(kls).mean() > config.target_kl:
            break
    return _measured(policy, columns, losses)


def _measured(policy: Policy, columns: list[Tensor], losses: list[list[Tensor]]) -> dict[str, float]:
    """Return the row of the history; nothing in it is learned from."""
    obs, _, outputs, _, old_value, _, returns = columns
    names = ("policy_loss", "value_loss", "approx_kl", "clip_fraction")
    row = {name: torch.stack(x).mean().item() for name, x in zip(names, zip(*losses, strict=True), strict=True)}
    check_finite(row)
    with torch.inference_mode():
        before, after = (policy.distribution(x) for x in (outputs, policy(obs)))
        row |= {"kl": kl_divergence(before, after).mean().item(), "entropy": after.entropy().mean().item()}
    return row | {"explained_variance": explained_variance(old_value, returns).item()}


def check_finite(row: dict[str, float]) -> None:
    """Raise an error where a loss of an update is NaN or infinite, for then the weights are as well."""
    for name in ("policy_loss", "value_loss"):
        if not math.isfinite(row[name]):
            raise FloatingPointError(f"{name} has become {row[name]}; lower learning_rate, or look at the rewards")
