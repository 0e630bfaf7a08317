"""Reinforcement learning from human feedback: PPO on a language model (Ziegler et al. 2019; Ouyang et al. 2022).

An action is a token, an episode the answer to a prompt. The reward model scores the whole answer at its end; at every token
the policy pays for what it has moved away from the reference. Prompts are filled up on the left, answers on the right, so
that all answers begin at one place. Shapes: B texts of P + T tokens, P of the prompt and T of the answer.

Used in: 2022_instructgpt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from nextword import runtime
from nextword.decoder import Decoder
from nextword.layers import check_sizes, eval_mode
from nextword.ppo import approx_kl, gae, ppo_loss, whiten
from nextword.reward_model import RewardModel
from nextword.training import linear

__all__ = [
    "AdaptiveKL",
    "RLHFConfig",
    "RLHFResult",
    "Reward",
    "Rollout",
    "answer_log_probs",
    "best_of_n",
    "log_probs",
    "rollout",
    "shape_rewards",
    "train_rlhf",
]


@runtime_checkable
class Reward(Protocol):
    """Whatever gives a text a number: a :class:`~nextword.reward_model.RewardModel`, or a function."""

    def __call__(self, ids: Int64[Tensor, "B S"], *, mask: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
        """Return a number for each text; ``mask`` is True at its tokens."""
        ...


# --- Writing answers --------------------------------------------------------------------------------------------------


class Rollout(NamedTuple):
    """Answers to prompts."""

    ids: Int64[Tensor, "B S"]
    """Prompt and answer, S = P + T."""
    mask: Bool[Tensor, "B S"]
    """True at their tokens; False at filling on the left, and after the answer's end."""
    answer: Bool[Tensor, "B T"]
    """True at the answer's tokens, its stop token included."""
    log_prob: Float[Tensor, "B T"]
    """Their log-probabilities under the policy that wrote them."""
    finished: Bool[Tensor, " B"]
    """Whether a stop token was written in time."""

    def texts(self) -> list[list[int]]:
        """Return prompts with their answers as rows of ids, without filling."""
        return [ids[mask].tolist() for ids, mask in zip(self.ids, self.mask, strict=True)]

    def answers(self) -> list[list[int]]:
        """Return the answers alone as rows of ids, without filling."""
        ids = self.ids[:, -self.answer.shape[1] :]
        return [row[mask].tolist() for row, mask in zip(ids, self.answer, strict=True)]


@torch.no_grad()
def rollout(
    policy: Decoder,
    prompts: Int64[Tensor, "B P"],
    *,
    mask: Bool[Tensor, "B P"] | None = None,
    max_new_tokens: int,
    stop: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Let the policy answer, and keep what learning from the answers needs.

    The log-probabilities are computed again in one pass over the whole text. Those from writing token by token differ in
    their last digits, and then no ratio would begin at 1.

    Args:
        policy: used without dropout.
        prompts: filled up on the left.
        mask: True at the prompts' tokens; all, if None.
        max_new_tokens: T, the length at which an unfinished answer is cut off.
        stop: the token that ends an answer.
        temperature: of sampling, above 0; the log-probabilities are those at this temperature.
        generator: random numbers of the answers.

    Raises:
        ValueError: prompt and answer do not fit the context, or ``temperature`` is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} is not positive: an answer must be drawn to have a probability")
    P, limit = prompts.shape[1], policy.config.context_length
    if P + max_new_tokens > limit:
        raise ValueError(f"prompts of {P} tokens and max_new_tokens={max_new_tokens} exceed context_length={limit}")
    mask = torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask
    how: dict[str, Any] = {"temperature": temperature, "stop": stop, "generator": generator}
    ids = policy.generate(prompts, max_new_tokens, mask=mask, **how).clone()  # (B, P + T), less if all have stopped
    written = ids[:, P:]
    ended = (written == stop).cumsum(1)
    answer = (ended == 0) | ((ended == 1) & (written == stop))
    mask = torch.cat([mask, answer], 1)
    with eval_mode(policy):
        log_prob = log_probs(policy, ids, mask, written.shape[1], temperature=temperature)
    return Rollout(ids, mask, answer, log_prob.masked_fill(~answer, 0), ended[:, -1] > 0)


def log_probs(
    model: Decoder, ids: Int64[Tensor, "B S"], mask: Bool[Tensor, "B S"], n: int, *, temperature: float = 1.0
) -> Float[Tensor, "B n"]:
    """Return the log-probability of each of the last ``n`` tokens after those before it.

    Args:
        model: a decoder.
        ids: texts.
        mask: True at their tokens.
        n: at least one token must stand before the last ``n``.
        temperature: divides the logits.
    """
    with runtime.autocast():
        hidden = model.hidden(ids[:, :-1], mask=mask[:, :-1])[:, -n:]
        logits = model.output(hidden)  # (B, n, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature  # of bfloat16, float32
    found: Tensor = logits.log_softmax(-1).gather(-1, ids[:, -n:, None])
    return found.squeeze(-1)


@torch.no_grad()
def answer_log_probs(model: Decoder, answers: Rollout, *, temperature: float = 1.0) -> Float[Tensor, "B T"]:
    """Return the log-probabilities that a model gives to the tokens of answers; 0 after an answer's end.

    ``answers.log_prob`` minus them, summed over T, is k1's estimate of the writer's KL from the model (see
    :func:`~nextword.ppo.approx_kl`).

    Args:
        model: a decoder, such as the reference.
        answers: what :func:`rollout` returned.
        temperature: divides the logits.
    """
    found = log_probs(model, answers.ids, answers.mask, answers.answer.shape[1], temperature=temperature)
    return found.masked_fill(~answers.answer, 0)


def best_of_n(
    policy: Decoder, reward: Reward, prompts: Int64[Tensor, "B P"], n: int, *, mask: Bool[Tensor, "B P"], **how: Any
) -> Rollout:
    """Let the policy answer each prompt ``n`` times, and keep the answer with the highest reward.

    No training: the plain alternative to PPO. Its KL from the policy is at most log n - (n - 1) / n (Stiennon et al.
    2020, section 4.3).

    Args:
        policy: writes.
        reward: judges.
        prompts: filled up on the left.
        n: answers a prompt.
        mask: True at the prompts' tokens.
        how: further arguments of :func:`rollout`.

    Raises:
        ValueError: ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"n={n} is below 1")
    tried = rollout(policy, prompts.repeat_interleave(n, 0), mask=mask.repeat_interleave(n, 0), **how)
    with torch.no_grad():
        scores = reward(tried.ids, mask=tried.mask).view(-1, n)  # (B, n)
    best = scores.argmax(1) + n * torch.arange(len(prompts), device=scores.device)
    return Rollout(*(x[best] for x in tried))


# --- Rewards ----------------------------------------------------------------------------------------------------------


def shape_rewards(
    score: Float[Tensor, " B"],
    log_prob: Float[Tensor, "B T"],
    ref_log_prob: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
) -> Float[Tensor, "B T"]:
    """Return the reward of each token: -β·log(policy / reference), and at the last one the score of the whole answer.

    Their sum over an answer is score - β·KL, its KL estimated by k1 (Ouyang et al. 2022, equation 2).

    Args:
        score: of each answer.
        log_prob: of its tokens under the policy that wrote it.
        ref_log_prob: the same under the reference.
        mask: True at the answer's tokens, without a gap.
        beta: the price of a nat.

    Raises:
        ValueError: an answer has no token.
    """
    if not mask.any(1).all():
        raise ValueError(
            f"mask is False in all of row {int(mask.any(1).int().argmin())}: an answer has a token at least"
        )
    rewards = (beta * (ref_log_prob - log_prob)).masked_fill(~mask, 0)
    return rewards + _last(mask) * score[:, None]


def _last(mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Return True at the last token of each row."""
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


class AdaptiveKL:
    """A price β of a nat that follows the measured KL (Ziegler et al. 2019, section 2.2).

    Args:
        initial: the first β.
        target: the KL that is wanted, in nats an answer.
        horizon: answers after which β has changed by a factor e, if the KL is far off all the time.

    Example:
        >>> beta = AdaptiveKL(0.2, target=6, horizon=10_000)
        >>> round(beta.update(kl=12, n=1000), 4)  # twice the target: the error is cut off at 0.2
        0.204
    """

    def __init__(self, initial: float, target: float, horizon: float) -> None:
        for name, value in {"initial": initial, "target": target, "horizon": horizon}.items():
            if value <= 0:
                raise ValueError(f"{name}={value} is not positive")
        self.value, self.target, self.horizon = initial, target, horizon

    def update(self, kl: float, n: int) -> float:
        """Return the new β after ``n`` answers with a mean KL of ``kl``."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * n / self.horizon
        return self.value


# --- Training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RLHFConfig:
    """How a language model is trained on a reward. The clip, λ, γ and temperature are InstructGPT's (appendix C.4)."""

    iterations: int = 100
    """Times that answers are written and learned from."""
    batch_size: int = 128
    """B, answers an iteration."""
    max_new_tokens: int = 48
    """T, tokens of an answer at most."""
    n_epochs: int = 1
    """How often an iteration goes over its answers."""
    n_minibatches: int = 2
    """Parts into which each epoch cuts them."""
    learning_rate: float = 1e-3
    """Adam's highest rate; it rises over ``warmup`` iterations and falls in a straight line to a tenth."""
    warmup: int = 5
    beta: float = 0.02
    """β, the price of a nat of KL from the reference."""
    kl_target: float | None = None
    """If given, β follows the measured KL towards it (:class:`AdaptiveKL`)."""
    kl_horizon: float = 10_000
    ptx: float = 0.0
    """γ of PPO-ptx: the weight of the pre-training loss, mean over its tokens."""
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    temperature: float = 1.0
    max_grad_norm: float | None = 1.0
    """Largest norm of the gradient of the policy, and of that of the critic."""
    unfinished: float | None = -1.0
    """The score of an answer without a stop token, whatever the reward model says. None: what it says."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained with."""
        check_sizes(self, "iterations", "batch_size", "max_new_tokens", "n_epochs", "n_minibatches")
        if self.batch_size % self.n_minibatches:
            raise ValueError(f"n_minibatches={self.n_minibatches} does not divide batch_size={self.batch_size}")
        for name in ("beta", "ptx"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative")
        if self.kl_target is not None and not self.beta:
            raise ValueError(f"beta=0 cannot follow kl_target={self.kl_target}: it grows by factors, so begin above 0")


@dataclass
class RLHFResult:
    """A trained policy and its critic, and how it went."""

    policy: Decoder
    critic: RewardModel
    history: list[dict[str, float]] = field(default_factory=list)
    """For each iteration: ``score``, ``kl`` (k1, nats an answer), ``kl_k3``, ``beta``, ``length``, ``finished``, and of
    its updates ``clip_fraction``, ``first_ratio`` (largest distance of the first minibatch's ratios from 1), ``value_loss``
    and ``ptx_loss``; and what ``evaluate`` returned."""

    def __getitem__(self, name: str) -> list[float]:
        """Return one quantity over the iterations."""
        return [row[name] for row in self.history if name in row]


def train_rlhf(
    policy: Decoder,
    reference: Decoder,
    reward_model: Reward,
    prompts: Int64[Tensor, "N P"],
    config: RLHFConfig,
    *,
    stop: int,
    mask: Bool[Tensor, "N P"] | None = None,
    critic: RewardModel | None = None,
    pretrain_batches: Iterable[tuple[Tensor, Tensor]] | None = None,
    evaluate: Any = None,
    evaluate_every: int = 0,
) -> RLHFResult:
    """Train a copy of the policy to earn more reward: PPO, and with ``config.ptx`` PPO-ptx (Ouyang et al. 2022, 3.5).

    All models are used without dropout, so that a ratio differs from 1 only because the policy has changed.

    Args:
        policy: the model to begin with, usually the supervised one. It is left as it is.
        reference: the model from which the KL is measured; may be the same.
        reward_model: gives prompt and answer a number.
        prompts: filled up on the left; each iteration draws ``config.batch_size`` of them.
        stop: the token that ends an answer.
        mask: True at the prompts' tokens; all, if None.
        critic: the first critic, left as it is. None: the reward model, or if that is a mere function, the policy with a
            head that says 0.
        pretrain_batches: inputs and targets, as many as there are minibatches; needed for ``config.ptx``.
        evaluate: called with the policy every ``evaluate_every`` iterations; returns numbers for the history.

    Raises:
        ValueError: ``config.ptx`` without batches, or fewer prompts than ``config.batch_size``.
    """
    if config.ptx and pretrain_batches is None:
        raise ValueError(f"ptx={config.ptx} needs pretrain_batches, the text that is not to be forgotten")
    if len(prompts) < config.batch_size:
        raise ValueError(f"prompts holds {len(prompts)}; batch_size={config.batch_size} needs as many at least")
    policy = copy.deepcopy(policy).eval()
    if critic is None and isinstance(reward_model, RewardModel):
        critic = reward_model
    if critic is None:
        critic = RewardModel(policy)
        nn.init.zeros_(critic.head.weight)
    critic = copy.deepcopy(critic).eval()
    mask = torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask
    parameters = [*policy.parameters(), *critic.parameters()]
    adam = torch.optim.Adam(parameters, lr=config.learning_rate, eps=1e-5)
    draw = torch.Generator().manual_seed(config.seed)
    writing = torch.Generator(prompts.device).manual_seed(config.seed)
    price = AdaptiveKL(config.beta, config.kl_target, config.kl_horizon) if config.kl_target else None
    beta, more_text = config.beta, iter(pretrain_batches or ())
    judges = nn.ModuleList(x for x in (reference, reward_model) if isinstance(x, nn.Module))
    result = RLHFResult(policy, critic)
    for i in runtime.progress(range(1, config.iterations + 1), desc="RLHF", unit="iteration"):
        how = {"learning_rate": config.learning_rate, "warmup": min(config.warmup, config.iterations)}
        adam.param_groups[0]["lr"] = linear(i, steps=config.iterations, min_lr_ratio=0.1, **how)  # type: ignore[arg-type]
        rows = torch.randperm(len(prompts), generator=draw)[: config.batch_size].to(prompts.device)
        answers = rollout(
            policy,
            prompts[rows],
            mask=mask[rows],
            max_new_tokens=config.max_new_tokens,
            stop=stop,
            temperature=config.temperature,
            generator=writing,
        )
        with eval_mode(judges):
            batch, row = _judge(answers, reference, reward_model, critic, config, beta)
        row |= _improve(policy, critic, adam, batch, config, more_text, draw)
        if price is not None:
            beta = price.update(row["kl"], config.batch_size)
        if evaluate is not None and evaluate_every and (i % evaluate_every == 0 or i == config.iterations):
            row |= {"iteration": i, **evaluate(policy)}
        result.history.append(row)
    return result


class _Batch(NamedTuple):
    """Answers with what is learned from them; advantages and returns are (B, T)."""

    ids: Tensor
    mask: Tensor
    answer: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    returns: Tensor


@torch.no_grad()
def _judge(
    answers: Rollout, reference: Decoder, reward: Reward, critic: RewardModel, config: RLHFConfig, beta: float
) -> tuple[_Batch, dict[str, float]]:
    """Return advantages and returns of all tokens, and what to note of the answers."""
    ids, mask, answer, log_prob, finished = answers
    T = answer.shape[1]
    ref_log_prob = answer_log_probs(reference, answers, temperature=config.temperature)
    value = _values(critic, ids, mask, T).masked_fill(~answer, 0)
    with runtime.autocast():
        score = reward(ids, mask=mask)
    if config.unfinished is not None:
        score = torch.where(finished, score, config.unfinished)
    rewards = shape_rewards(score, log_prob, ref_log_prob, answer, beta)
    nothing = torch.zeros_like(score)
    how = {"gamma": config.gamma, "lam": config.lam}
    found = gae(rewards.T, value.T, _last(answer).T, nothing, **how)  # it wants time first
    advantage, returns = (x.T for x in found)
    log_ratio = ref_log_prob - log_prob
    noted = {
        "score": score.mean(),
        "kl": approx_kl(log_ratio, "k1").sum(1).mean(),
        "kl_k3": approx_kl(log_ratio, "k3").sum(1).mean(),
        "length": answer.float().sum(1).mean(),
        "finished": finished.float().mean(),
    }
    batch = _Batch(ids, mask, answer, log_prob, value, whiten(advantage, answer), returns)
    return batch, {"beta": beta, **{name: x.item() for name, x in noted.items()}}


def _values(critic: RewardModel, ids: Tensor, mask: Tensor, n: int) -> Tensor:
    """Return the critic's estimate before each of the last n tokens."""
    with runtime.autocast():
        return critic.at_every_token(ids[:, :-1], mask=mask[:, :-1])[:, -n:]


def _improve(
    policy: Decoder,
    critic: RewardModel,
    adam: torch.optim.Optimizer,
    batch: _Batch,
    config: RLHFConfig,
    more_text: Iterator[tuple[Tensor, Tensor]],
    draw: torch.Generator,
) -> dict[str, float]:
    """Train on one batch; return what to note of the updates."""
    noted: dict[str, list[float]] = {"clip_fraction": [], "value_loss": [], "ptx_loss": []}
    first_ratio = 0.0
    for epoch in range(config.n_epochs):
        order = torch.randperm(len(batch.ids), generator=draw).to(batch.ids.device)
        for k, rows in enumerate(order.view(config.n_minibatches, -1)):
            part = _Batch(*(x[rows] for x in batch))
            n = part.answer.shape[1]
            log_prob = log_probs(policy, part.ids, part.mask, n, temperature=config.temperature)
            log_prob = log_prob.masked_fill(~part.answer, 0)
            value = _values(critic, part.ids, part.mask, n)
            given = part.log_prob, part.advantage, value, part.value, part.returns
            loss = ppo_loss(log_prob, *given, mask=part.answer, clip=config.clip, value_clip=config.value_clip)
            total = loss.policy + config.value_coef * loss.value
            if epoch == k == 0:
                first_ratio = (log_prob - part.log_prob).expm1().abs().max().item()
            if config.ptx:
                ids, targets = next(more_text)
                with runtime.autocast():
                    text_loss = policy.training_loss(ids, targets)
                total = total + config.ptx * text_loss
                noted["ptx_loss"].append(text_loss.item())
            adam.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            if config.max_grad_norm is not None:
                for network in (policy, critic):
                    nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
            adam.step()
            noted["clip_fraction"].append(loss.clip_fraction.item())
            noted["value_loss"].append(loss.value.item())
    return {"first_ratio": first_ratio, **{name: sum(x) / len(x) for name, x in noted.items() if x}}
