"""Proximal policy optimisation (Schulman et al. 2017): learn from actions that an older policy took, in small steps.

A policy acts for a while; the advantages say which actions turned out better than expected (``gae``); then it is trained
on them for several epochs with a loss that stops to pull once the policy has moved away from the one that acted
(``ppo_loss``). ``train_ppo`` does so in gymnasium's environments, ``nextword.rlhf`` with a language model. Tensors are
(T, N): T steps in N environments side by side.

Used in: 2017_ppo, 2022_instructgpt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

from nextword import runtime
from nextword.layers import check_sizes

__all__ = [
    "PPOConfig",
    "PPOLoss",
    "PPOResult",
    "Policy",
    "approx_kl",
    "gae",
    "masked_mean",
    "ppo_loss",
    "train_ppo",
    "whiten",
]

Array: TypeAlias = np.ndarray
Objective = Literal["clip", "kl", "adaptive_kl", "none"]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_share(**values: float) -> None:
    for name, value in values.items():
        _check(0 <= value <= 1, f"{name}={value} is outside 0 … 1")


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
    """Return generalised advantage estimates and the returns they imply (Schulman et al. 2016, equation 16).

    With δ_t = r_t + γ V_{t+1} - V_t the estimate is A_t = δ_t + γλ A_{t+1}. ``lam=0`` trusts the values after one step,
    ``lam=1`` only the rewards. The returns are A + V.

    Args:
        rewards: r_t. Where an episode was cut off by a time limit, the caller adds γ·V(last observation) to it.
        values: V_t, what the critic expected before step t.
        dones: whether the episode ended with step t, so that nothing after it counts.
        last_value: V_T, what it expected after the last step.
        gamma: how much a reward one step later is worth, from 0 to 1.
        lam: from 0 to 1.

    Raises:
        ValueError: the shapes differ, or ``gamma`` or ``lam`` is outside 0 … 1.

    Example:
        >>> rewards, values = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [0.5]])
        >>> advantages, returns = gae(rewards, values, torch.tensor([[0.0], [1.0]]), torch.zeros(1), gamma=1, lam=1)
        >>> advantages.flatten().tolist(), returns.flatten().tolist()
        ([0.5, 0.5], [1.0, 1.0])
    """
    for name, tensor in {"values": values, "dones": dones}.items():
        _check(tensor.shape == rewards.shape, f"{name} is {tuple(tensor.shape)}, rewards {tuple(rewards.shape)}")
    _check(last_value.shape == rewards.shape[1:], f"last_value is {tuple(last_value.shape)}: one number a column fits")
    _check_share(gamma=gamma, lam=lam)
    goes_on = 1 - dones.to(rewards.dtype)
    delta = rewards + gamma * torch.cat([values[1:], last_value[None]]) * goes_on - values
    later, backwards = torch.zeros_like(last_value), []
    for surprise, keeps in zip(reversed(delta.unbind()), reversed((gamma * lam * goes_on).unbind()), strict=True):
        later = surprise + keeps * later
        backwards.append(later)
    advantages = torch.stack(backwards[::-1])
    return advantages, advantages + values


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
    log_prob: Float[Tensor, ...],
    old_log_prob: Float[Tensor, ...],
    advantage: Float[Tensor, ...],
    value: Float[Tensor, ...],
    old_value: Float[Tensor, ...],
    returns: Float[Tensor, ...],
    *,
    mask: Bool[Tensor, ...] | None = None,
    clip: float | None = 0.2,
    value_clip: float | None = 0.2,
) -> PPOLoss:
    """Return the losses of policy and critic (Schulman et al. 2017, equations 7 and 9), each a mean over the actions.

    With the ratio r = exp(log_prob - old_log_prob) the policy's is -mean(min(r·A, clip(r, 1 - ε, 1 + ε)·A)): an action is
    pushed no further once its ratio has left the range on the side to which its advantage pushes it. The critic's is
    ½·mean(max((V - R)², (V_clipped - R)²)), where V may move from the old value by at most ``value_clip``.

    Args:
        log_prob: log-probabilities of the actions under the policy in training. All arguments have one shape.
        old_log_prob: the same under the policy that acted.
        advantage: A; whiten it first.
        value: the critic's estimate now.
        old_value: its estimate when the action was taken.
        returns: what it should have been.
        mask: the actions that count; all, if None.
        clip: ε, or None for the surrogate without clipping (equation 6).
        value_clip: the same for the critic; a habit of OpenAI's code that is not in the paper.

    Raises:
        ValueError: the shapes differ, a clip is not positive, or the mask is empty.

    Example:
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> ppo_loss(torch.tensor([0.5]), zero, one, zero, zero, zero).policy.item()  # r = 1.65, but counts as 1.2
        -1.2000000476837158
    """
    names = ("old_log_prob", "advantage", "value", "old_value", "returns", "mask")
    for name, tensor in zip(names, (old_log_prob, advantage, value, old_value, returns, mask), strict=True):
        if tensor is not None:
            _check(tensor.shape == log_prob.shape, f"{name} is {tuple(tensor.shape)}, log_prob {tuple(log_prob.shape)}")
    for name, width in {"clip": clip, "value_clip": value_clip}.items():
        _check(width is None or width > 0, f"{name}={width}: a positive number, or None for none")
    log_ratio = log_prob - old_log_prob
    if mask is not None:
        log_ratio = log_ratio.masked_fill(~mask, 0)  # whatever stands there, exp must not overflow
    ratio = log_ratio.exp()
    surrogate = ratio * advantage
    outside = torch.zeros_like(ratio)
    if clip is not None:
        surrogate = torch.minimum(surrogate, ratio.clamp(1 - clip, 1 + clip) * advantage)
        outside = ((ratio - 1).abs() > clip).to(ratio.dtype)
    error = (value - returns).square()
    if value_clip is not None:
        near = old_value + (value - old_value).clamp(-value_clip, value_clip)
        error = torch.maximum(error, (near - returns).square())
    with torch.no_grad():
        kl, share = masked_mean(approx_kl(log_ratio, "k3"), mask), masked_mean(outside, mask)
    return PPOLoss(-masked_mean(surrogate, mask), masked_mean(error, mask) / 2, kl, share)


def approx_kl(log_ratio: Float[Tensor, ...], kind: Literal["k1", "k2", "k3"] = "k3") -> Float[Tensor, ...]:
    """Return an estimate of KL(sampler ‖ other) from each sample of the sampler (J. Schulman's note of 2020).

    ``k1`` is -log r: unbiased, but negative for every sample that the other finds likelier. ``k2`` is ½(log r)²: never
    negative, a little biased. ``k3`` is r - 1 - log r: unbiased and never negative.

    Args:
        log_ratio: log r = log(other / sampler) at what the sampler drew.
        kind: which.

    Raises:
        ValueError: another kind.

    Example:
        >>> sampler, other = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
        >>> [round((sampler * approx_kl((other / sampler).log(), kind)).sum().item(), 3) for kind in ("k1", "k2", "k3")]
        [0.511, 0.734, 0.511]
    """
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    _check(kind == "k3", f"kind={kind!r}: choose k1, k2 or k3")
    return log_ratio.expm1() - log_ratio


def masked_mean(x: Float[Tensor, ...], mask: Bool[Tensor, ...] | None = None) -> Float[Tensor, ""]:
    """Return the mean of the numbers where the mask is true; of all without a mask.

    Raises:
        ValueError: the mask has another shape, or is true nowhere.
    """
    if mask is None:
        return x.mean()
    _check(mask.shape == x.shape, f"mask is {tuple(mask.shape)}, x {tuple(x.shape)}")
    count = mask.sum()
    _check(bool(count > 0), "mask is true nowhere: there is nothing to average")
    return x.masked_fill(~mask, 0).sum() / count


def whiten(
    x: Float[Tensor, ...], mask: Bool[Tensor, ...] | None = None, *, shift_mean: bool = True
) -> Float[Tensor, ...]:
    """Return the numbers with mean 0 and variance 1; what the mask leaves out is 0.

    Args:
        x: numbers of any shape, at least two that count.
        mask: those that count.
        shift_mean: False keeps the mean, as OpenAI's code does with rewards.

    Raises:
        ValueError: fewer than two numbers count.

    Example:
        >>> whiten(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [-1.0, 0.0, 1.0]
    """
    count = x.numel() if mask is None else int(mask.sum())
    _check(count > 1, f"{count} numbers have no variance: whiten needs two or more")
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean).square(), mask) * count / (count - 1)
    white = (x - mean) / (variance + 1e-8).sqrt()
    white = white if shift_mean else white + mean
    return white if mask is None else white.masked_fill(~mask, 0)


# --- Control ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PPOConfig:
    """How a policy is trained. The defaults are those of the paper's section 6.1, with the sizes that suit CartPole.

    Example:
        >>> PPOConfig(n_envs=3, n_steps=5, n_minibatches=4)
        Traceback (most recent call last):
        ...
        ValueError: n_minibatches=4 does not divide the n_envs * n_steps = 15 steps of an update
    """

    total_steps: int = 100_000
    """Steps in all environments together; an update that would exceed them is left out."""
    n_envs: int = 8
    """N, environments side by side."""
    n_steps: int = 128
    """T, steps in each between two updates."""
    n_epochs: int = 10
    """How often an update goes over its N·T steps."""
    n_minibatches: int = 16
    """Parts into which each epoch cuts them at random."""
    learning_rate: float = 1e-3
    """Adam's, with ε = 1e-5."""
    anneal: bool = False
    """Whether the rate falls to 0 in a straight line."""
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    """ε of the objective ``clip``."""
    value_clip: float | None = None
    """The critic's ε, or None as in the paper."""
    value_coef: float = 0.5
    """c₁, weight of the critic's loss. It has a network of its own."""
    entropy_coef: float = 0.0
    """c₂, weight of the entropy, which keeps the policy trying. Games need it."""
    max_grad_norm: float | None = None
    """Largest norm of the whole gradient, or None as in the paper. OpenAI's code has 0.5."""
    target_kl: float | None = None
    """An update ends after the epoch in which the estimated KL exceeded it. None: never."""
    seed: int = 0
    beta: float = 1.0
    """β of the objective ``kl``, and the first β of ``adaptive_kl``."""
    kl_goal: float = 0.01
    """d_targ of the objective ``adaptive_kl``: nats an action and update."""
    normalize_advantage: bool = True
    """Whether the advantages of each minibatch are whitened."""
    normalize: bool = False
    """Whether observations are normalised and rewards scaled by running statistics, as continuous tasks need it."""
    bootstrap: bool = True
    """Whether an episode cut off by a time limit counts as one that would have gone on."""
    orthogonal: bool = True
    """Whether the weights start orthogonal, those of the policy's last layer near 0; else as torch has it."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained with."""
        check_sizes(self, "total_steps", "n_envs", "n_steps", "n_epochs", "n_minibatches")
        for name in ("learning_rate", "clip", "value_clip", "max_grad_norm", "target_kl", "kl_goal", "beta"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"{name}={value} is not positive")
        _check_share(gamma=self.gamma, lam=self.lam)
        batch = self.n_envs * self.n_steps
        words = f"n_envs * n_steps = {batch} steps"
        _check(
            batch % self.n_minibatches == 0,
            f"n_minibatches={self.n_minibatches} does not divide the {words} of an update",
        )
        _check(self.total_steps >= batch, f"total_steps={self.total_steps} is less than one update of {words}")
        _check(
            batch // self.n_minibatches > 1 or not self.normalize_advantage,
            f"n_minibatches={self.n_minibatches} leaves single steps, which cannot be whitened",
        )


class Policy(nn.Module):
    """An actor and a critic, each with two hidden layers of tanh units that they do not share (section 6.1).

    Args:
        n_inputs: numbers in an observation.
        n_actions: how many actions there are, or how many numbers an action has.
        continuous: whether actions are numbers, drawn from a normal distribution whose width does not depend on the
            observation; otherwise one of ``n_actions`` is drawn.
        hidden: units in a layer.
        orthogonal: the initial weights (:class:`PPOConfig`).
    """

    def __init__(
        self, n_inputs: int, n_actions: int, *, continuous: bool = False, hidden: int = 64, orthogonal: bool = True
    ) -> None:
        super().__init__()
        self.actor = _network(n_inputs, hidden, n_actions, last_gain=0.01 if orthogonal else None)
        self.critic = _network(n_inputs, hidden, 1, last_gain=1.0 if orthogonal else None)
        self.log_std = nn.Parameter(torch.zeros(n_actions)) if continuous else None

    def forward(self, observations: Float[Tensor, "*B S"]) -> Float[Tensor, "*B A"]:
        """Return what determines the distribution of actions: scores, or means beside logarithms of widths."""
        scores: Tensor = self.actor(observations)
        return scores if self.log_std is None else torch.cat([scores, self.log_std.expand_as(scores)], -1)

    def distribution(self, outputs: Float[Tensor, "*B A"]) -> Distribution:
        """Return the distribution of actions for what ``forward`` returned."""
        if self.log_std is None:
            return Categorical(logits=outputs, validate_args=False)
        mean, log_std = outputs.chunk(2, -1)
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
            nn.init.orthogonal_(linear.weight, gain)
            nn.init.zeros_(linear.bias)
    return nn.Sequential(linears[0], nn.Tanh(), linears[1], nn.Tanh(), linears[2])


class PPOResult(NamedTuple):
    """A trained policy, and how it went: one number an episode, or one an update."""

    policy: Policy
    steps: Array
    """Steps taken in all environments when each episode ended."""
    returns: Array
    """The sum of an episode's rewards, as the environment gave them."""
    kl: Array
    """KL(before ‖ after) of each update, exact for every observation and averaged over them, in nats."""
    clip_fraction: Array
    """Share of ratios outside the clip range, mean over an update's minibatches; 0 for objectives that do not clip."""

    def score(self, last: int = 100) -> float:
        """Return the mean return of the last episodes (section 6.1 of the paper)."""
        return float(self.returns[-last:].mean())


def train_ppo(env_id: str, config: PPOConfig = PPOConfig(), *, objective: Objective = "clip", **env: Any) -> PPOResult:
    """Train a policy in environments of gymnasium (Schulman et al. 2017, algorithm 1).

    Actions may be one of several or vectors of numbers; the latter are clipped on their way to the environment.

    Args:
        env_id: the name of a registered environment, such as ``CartPole-v1``.
        config: all settings.
        objective: ``clip`` (equation 7), ``kl`` with a fixed β or ``adaptive_kl`` with one that follows the measured KL
            (equation 8), or ``none``: no limit to a step (equation 6).
        env: further arguments of the environment.

    Raises:
        ValueError: an unknown objective, or an environment whose observations are not a vector of numbers or whose
            actions are neither one of several nor a vector.
        ImportError: gymnasium is not installed.
    """
    _check(objective in get_args(Objective), f"objective={objective!r}: choose {', '.join(get_args(Objective))}")
    torch.manual_seed(config.seed)
    play = _Environments(env_id, config, env)
    policy = play.policy
    adam = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
    updates, beta = config.total_steps // (config.n_envs * config.n_steps), config.beta
    kls, fractions = [], []
    for update in runtime.progress(range(updates), desc=env_id, unit="update"):
        if config.anneal:
            adam.param_groups[0]["lr"] = config.learning_rate * (1 - update / updates)
        batch = play.rollout()
        fractions.append(_improve(policy, adam, batch, config, objective, beta))
        with torch.inference_mode():
            before, after = (policy.distribution(x) for x in (batch.outputs, policy(batch.observations)))
            kls.append(kl_divergence(before, after).mean().item())
        if objective == "adaptive_kl":
            beta *= 0.5 if kls[-1] < config.kl_goal / 1.5 else 2.0 if kls[-1] > config.kl_goal * 1.5 else 1.0
    play.envs.close()
    return PPOResult(policy, *(np.array(x) for x in (play.ends, play.returns, kls, fractions)))


class _Batch(NamedTuple):
    """What N·T steps left behind, one row a step."""

    observations: Float[Tensor, "B S"]
    actions: Tensor
    outputs: Float[Tensor, "B A"]
    log_prob: Float[Tensor, " B"]
    value: Float[Tensor, " B"]
    advantage: Float[Tensor, " B"]
    returns: Float[Tensor, " B"]


def _improve(
    policy: Policy, adam: torch.optim.Optimizer, batch: _Batch, config: PPOConfig, objective: Objective, beta: float
) -> float:
    """Train on one batch for the epochs of an update; return the mean share of clipped ratios."""
    size, fractions = len(batch.value) // config.n_minibatches, []
    for _ in range(config.n_epochs):
        kls = []
        for rows in torch.randperm(len(batch.value)).view(-1, size):
            part = _Batch(*(x[rows] for x in batch))
            outputs = policy(part.observations)
            actions = policy.distribution(outputs)
            advantage = whiten(part.advantage) if config.normalize_advantage else part.advantage
            loss = ppo_loss(
                actions.log_prob(part.actions),
                part.log_prob,
                advantage,
                policy.value(part.observations),
                part.value,
                part.returns,
                clip=config.clip if objective == "clip" else None,
                value_clip=config.value_clip,
            )
            total = loss.policy + config.value_coef * loss.value
            if config.entropy_coef:
                total = total - config.entropy_coef * actions.entropy().mean()
            if objective in ("kl", "adaptive_kl"):
                total = total + beta * kl_divergence(policy.distribution(part.outputs), actions).mean()
            adam.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            if config.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            adam.step()
            kls.append(loss.approx_kl)
            fractions.append(loss.clip_fraction)
        if config.target_kl is not None and torch.stack(kls).mean() > config.target_kl:
            break
    return torch.stack(fractions).mean().item()


class _Environments:
    """N environments side by side, the policy that acts in them, and a record of the episodes."""

    def __init__(self, env_id: str, config: PPOConfig, settings: dict[str, Any]) -> None:
        import gymnasium
        from gymnasium import spaces
        from gymnasium.vector import AutoresetMode

        self.config = config
        self.envs = gymnasium.make_vec(
            env_id,
            num_envs=config.n_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP, "copy": False},  # _scaled copies
            **settings,
        )
        seen, acts = self.envs.single_observation_space, self.envs.single_action_space
        _check(isinstance(seen, spaces.Box) and len(seen.shape) == 1, f"{env_id}: observations are {seen}, no vector")
        one_of_several = isinstance(acts, spaces.Discrete) and int(acts.start) == 0
        fits = one_of_several or (isinstance(acts, spaces.Box) and len(acts.shape) == 1)
        _check(fits, f"{env_id}: actions are {acts}; Discrete from 0, or a Box of one dimension, fits")
        self.low, self.high = getattr(acts, "low", None), getattr(acts, "high", None)
        n_inputs, n_actions = spaces.flatdim(seen), spaces.flatdim(acts)
        self.policy = Policy(n_inputs, n_actions, continuous=not one_of_several, orthogonal=config.orthogonal)
        self.scale, self.reward_scale = _Running((n_inputs,)), _Running(())
        self.discounted = np.zeros(config.n_envs)  # returns so far, as the reward's scale wants them
        self.so_far = np.zeros(config.n_envs)
        self.steps = 0
        self.ends: list[int] = []
        self.returns: list[float] = []
        self.now = self._observed(self.envs.reset(seed=config.seed)[0])

    @torch.no_grad()
    def rollout(self) -> _Batch:
        """Act for T steps in each environment, and judge what was done."""
        config = self.config
        shape = config.n_steps, config.n_envs
        observations, actions, outputs = [], [], []
        rewards, dones = np.zeros(shape, np.float32), np.zeros(shape, bool)
        cut_off: list[tuple[int, int, Tensor]] = []  # step, environment and last observation
        for t in range(config.n_steps):
            observations.append(self.now)
            with torch.inference_mode():
                outputs.append(self.policy(self.now))
                actions.append(self.policy.distribution(outputs[-1]).sample())
            seen, rewards[t], ended, truncated, info = self._act(actions[-1].numpy())
            dones[t] = ended | truncated
            if config.bootstrap and truncated.any():
                last = {n: info["final_obs"][n] for n in np.flatnonzero(truncated & ~ended)}
                cut_off += [(t, int(n), self._scaled(x)) for n, x in last.items()]
            self.now = self._observed(seen)
        every = torch.stack([*observations, self.now])  # (T + 1, N, S)
        values = self.policy.value(every)
        if cut_off:
            worth = self.policy.value(torch.stack([x for *_, x in cut_off])).numpy()
            for (t, n, _), v in zip(cut_off, worth, strict=True):
                rewards[t, n] += config.gamma * v
        how = {"gamma": config.gamma, "lam": config.lam}
        found = gae(torch.from_numpy(rewards), values[:-1], torch.from_numpy(dones), values[-1], **how)
        taken, heads = torch.stack(actions), torch.stack(outputs)
        log_prob = self.policy.distribution(heads).log_prob(taken)
        return _Batch(*(x.flatten(0, 1).clone() for x in (every[:-1], taken, heads, log_prob, values[:-1], *found)))

    def _act(self, actions: Array) -> tuple[Any, ...]:
        """Take one step in each environment, note the episodes that end, and return its reward as it is learned from."""
        if self.low is not None:
            actions = np.clip(actions, self.low, self.high)
        seen, rewards, ended, truncated, info = self.envs.step(actions)
        self.steps += len(rewards)
        self.so_far += rewards
        for n in np.flatnonzero(ended | truncated):
            self.ends.append(self.steps)
            self.returns.append(float(self.so_far[n]))
            self.so_far[n] = 0
        if self.config.normalize:
            self.discounted = self.discounted * self.config.gamma + rewards
            self.reward_scale.update(self.discounted)
            self.discounted[ended | truncated] = 0
            rewards = np.clip(rewards / self.reward_scale.std, -10, 10)
        return seen, rewards, ended, truncated, info

    def _observed(self, seen: Array) -> Float[Tensor, "N S"]:
        if self.config.normalize:
            self.scale.update(seen)
        return self._scaled(seen)

    def _scaled(self, seen: Array) -> Float[Tensor, ...]:
        if self.config.normalize:
            seen = np.clip((seen - self.scale.mean) / self.scale.std, -10, 10)
        return torch.from_numpy(seen.astype(np.float32))  # a copy: environments use their arrays again


class _Running:
    """Mean and standard deviation of all rows so far (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(shape), np.zeros(shape)

    def update(self, rows: Array) -> None:
        mean, count = rows.mean(0), self.count + len(rows)
        gap = mean - self.mean
        self.squares = self.squares + ((rows - mean) ** 2).sum(0) + gap**2 * self.count * len(rows) / count
        self.mean, self.count = self.mean + gap * len(rows) / count, count

    @property
    def std(self) -> Array:
        return np.asarray(np.sqrt(self.squares / self.count + 1e-8))
