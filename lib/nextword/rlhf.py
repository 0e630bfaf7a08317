"""Reinforcement learning from human feedback: PPO on a language model (Ziegler et al. 2019; Ouyang et al. 2022).

An action is a token, an episode the response to a prompt. The reward model scores the whole response at its end; at every
token the policy pays for what it has moved away from the reference. Prompts are padded on the left, responses on the
right, so that all responses begin in one column. Shapes: B texts of S = P + T tokens, P of the prompt and T of the
response.

Used in: 2022_instructgpt.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from nextword import runtime
from nextword.attention import pad
from nextword.decoder import Decoder
from nextword.generation import stop_tokens
from nextword.layers import check_config, check_ids, eval_mode
from nextword.ppo import (
    approx_kl,
    check_finite,
    check_same_shape,
    check_settings,
    explained_variance,
    gae,
    masked_mean,
    ppo_loss,
    whiten,
)
from nextword.reward_model import RewardModel, check_encoded
from nextword.training import by_name, check_evaluate, due, linear

__all__ = [
    "AdaptiveKL",
    "Prompts",
    "RLHFConfig",
    "RLHFResult",
    "Reward",
    "Rollout",
    "best_of_n",
    "log_probs",
    "response_log_probs",
    "rollout",
    "shape_rewards",
    "train_rlhf",
]

Prompts: TypeAlias = Int64[Tensor, "B P"] | Sequence[Sequence[int]]
"""What responses begin with: rows of ids of any lengths, such as ``[tokenizer.encode(text) for text in texts]``, which are
then padded; or a tensor (B, P) of int64 that is padded on the left, beside a ``mask`` (B, P) that is True at the prompts'
tokens."""


@runtime_checkable
class Reward(Protocol):
    """Whatever gives texts a number: a :class:`~nextword.reward_model.RewardModel`, or a function.

    It is called as ``reward(ids, mask=mask)`` with prompts and responses, ``ids`` of shape (B, S) in int64, and ``mask`` (B, S),
    which is True at their tokens and False at padding on either side. It returns (B,) finite floats, where ``ids`` lie.

    All responses begin in one column, that of the longest prompt's length P, since shorter prompts are padded on the left. Of
    lists of prompts P is ``max(map(len, prompts))``, and of a tensor ``prompts.shape[1]``: ``ids[:, P:]`` are responses alone.

    A response that was cut off at ``max_new_tokens`` gets ``missing_eos_penalty`` *in place of* its reward. The default of -1
    suits a reward model that was normalised to a mean of 0 (:meth:`~nextword.reward_model.RewardModel.normalize`). Where rewards
    lie below -1, as in the example, it would pay for never ending: give a penalty below them all, or None.

    Example:
        >>> prompts = [[5, 6], [7]]
        >>> P = max(map(len, prompts))
        >>> def short(ids, *, mask):
        ...     return -mask[:, P:].sum(1).float()  # (B, S) to (B,): each token of the response costs 1
        >>> config = RLHFConfig(missing_eos_penalty=None)  # a token costs 1, whether the response ends or not
        >>> ids, mask = torch.tensor([[5, 6, 8, 1], [0, 7, 1, 1]]), torch.tensor([[True] * 4, [False, True, True, False]])
        >>> short(ids, mask=mask)
        tensor([-2., -1.])
    """

    def __call__(self, ids: Int64[Tensor, "B S"], *, mask: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
        """Return a finite number for each text; ``mask`` is True at its tokens."""
        ...


# --- Responses --------------------------------------------------------------------------------------------------------


class Rollout(NamedTuple):
    """Responses to prompts, with what learning from them needs."""

    ids: Int64[Tensor, "B S"]
    """Prompt and response."""
    mask: Bool[Tensor, "B S"]
    """True at their tokens; False at padding on the left, and after the response's end."""
    response_mask: Bool[Tensor, "B T"]
    """True at the response's tokens, its stop token included."""
    log_prob: Float[Tensor, "B T"]
    """Their log-probabilities under the policy that wrote them; 0 after the end."""
    has_eos: Bool[Tensor, " B"]
    """Whether a stop token was written in time."""

    def texts(self) -> list[list[int]]:
        """Return prompts with their responses as rows of ids, without padding."""
        return [ids[mask].tolist() for ids, mask in zip(self.ids, self.mask, strict=True)]

    def responses(self) -> list[list[int]]:
        """Return the responses alone as rows of ids, without padding."""
        ids = self.ids[:, -self.response_mask.shape[1] :]
        return [row[mask].tolist() for row, mask in zip(ids, self.response_mask, strict=True)]


@torch.no_grad()
def rollout(
    policy: Decoder,
    prompts: Prompts,
    *,
    mask: Bool[Tensor, "B P"] | None = None,
    max_new_tokens: int,
    stop: int | Collection[int],
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Let the policy, without dropout, write a response to each prompt.

    Args:
        policy: writes.
        prompts: see :data:`Prompts`.
        mask: True at the prompts' tokens. Needed for a tensor of prompts, unless none of them is
            padded; lists are padded for you.
        max_new_tokens: T, the length at which a response without an end is cut off.
        stop: the token that ends a response, or several of which each does.
        temperature: of sampling, above 0; the log-probabilities are those at this temperature.
        generator: random numbers of the responses; None for torch's own.

    Raises:
        TypeError, ValueError: no such prompts, no stop token, a number that is not positive, or more tokens than the context
            holds.
    """
    stops = stop_tokens(stop)
    if not stops:
        raise ValueError(f"stop={stop!r} holds no token; give the id of the one that ends a response, or of several")
    if not (temperature > 0 and max_new_tokens >= 1):
        fits = "both must be positive, for a response must be drawn to have a probability"
        raise ValueError(f"temperature={temperature}, max_new_tokens={max_new_tokens}: {fits}")
    prompts, mask = _left_padded(prompts, mask, policy)
    P, limit = prompts.shape[1], policy.config.context_length
    if P + max_new_tokens > limit:
        raise ValueError(f"prompts of {P} tokens and max_new_tokens={max_new_tokens} exceed context_length={limit}")
    sampling: dict[str, Any] = {"temperature": temperature, "stop": stops, "generator": generator}
    ids = policy.generate(prompts, max_new_tokens, mask=mask, **sampling)  # (B, P + T), T less if all have stopped
    response = ids[:, P:]  # (B, T)
    is_stop = torch.isin(response, torch.tensor(stops, device=ids.device))  # (B, T)
    n_stops = is_stop.cumsum(1)  # (B, T)
    response_mask = (n_stops == 0) | ((n_stops == 1) & is_stop)  # up to the first stop token and with it
    mask = torch.cat([mask, response_mask], 1)  # (B, P + T): what a row repeats after its end is read by nobody
    # Computed again, in one pass as when learning. The log-probabilities from writing token by token differ in their last
    # digits, and then no ratio would begin at 1.
    with eval_mode(policy):
        log_prob = log_probs(policy, ids, mask, response.shape[1], temperature=temperature)
    return Rollout(ids, mask, response_mask, log_prob.masked_fill(~response_mask, 0), n_stops[:, -1] > 0)


def log_probs(
    model: Decoder, ids: Int64[Tensor, "B S"], mask: Bool[Tensor, "B S"], n: int, *, temperature: float = 1.0
) -> Float[Tensor, "B n"]:
    """Return the log-probability of each of the last ``n`` tokens given those before it, in nats.

    Args:
        model: scores; it is left in the mode, training or evaluation, in which it is.
        ids: texts, with at least one token before the last ``n``: n ≤ S - 1.
        mask: True at the texts' tokens, False at padding.
        n: how many tokens are scored.
        temperature: divides the logits.
    """
    with runtime.autocast():
        # The last token has nothing to predict, and only n positions need a row of V scores, the largest tensor here.
        hidden = model.hidden(ids[:, :-1], mask=mask[:, :-1])[:, -n:]  # (B, n, C), each one before what it predicts
        logits = model.output(hidden)  # (B, n, V)
    # A log-softmax in bfloat16 would round a log-probability of -5 to steps of 1/32 nat, too coarse for ratios that should
    # stay near 1; only the logits keep their rounding. The temperature is part of the policy: without it these would be
    # the probabilities of another one.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature  # of bfloat16, float32
    chosen: Tensor = logits.log_softmax(-1).gather(-1, ids[:, -n:, None])  # (B, n, 1)
    return chosen.squeeze(-1)


@torch.no_grad()
def response_log_probs(model: Decoder, rollouts: Rollout, *, temperature: float = 1.0) -> Float[Tensor, "B T"]:
    """Return the log-probabilities that a model, such as the reference, gives to responses; 0 after their ends.

    ``rollouts.log_prob`` minus them, summed over T, is k1's estimate of the writer's KL from the model (see
    :func:`~nextword.ppo.approx_kl`).
    """
    log_prob = log_probs(model, rollouts.ids, rollouts.mask, rollouts.response_mask.shape[1], temperature=temperature)
    return log_prob.masked_fill(~rollouts.response_mask, 0)  # so that a sum over T is that of the response


def best_of_n(
    policy: Decoder,
    reward_model: Reward,
    prompts: Prompts,
    n: int,
    *,
    mask: Bool[Tensor, "B P"] | None = None,
    max_new_tokens: int,
    stop: int | Collection[int],
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Let the policy write ``n`` responses to each prompt, and keep the one with the highest reward; no training.

    The KL from the policy is at most log n - (n - 1) / n: Stiennon et al. 2020 give it as the value (section 4.3), Beirami
    et al. 2024 prove that it is a bound.

    Args:
        policy: writes.
        reward_model: see :class:`Reward`.
        prompts: see :data:`Prompts`.
        n: responses to each prompt, of which one is kept.
        mask, max_new_tokens, stop, temperature, generator: as for :func:`rollout`.

    Raises:
        TypeError, ValueError: ``n`` is below 1, a reward is not finite, or what :func:`rollout` refuses.
    """
    if n < 1:
        raise ValueError(f"n={n} is below 1")
    prompts, mask = _left_padded(prompts, mask, policy)
    # The n tries at one prompt are neighbouring rows, B · n in all.
    prompts, mask = prompts.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
    sampling: dict[str, Any] = {"temperature": temperature, "stop": stop, "generator": generator}
    tries = rollout(policy, prompts, mask=mask, max_new_tokens=max_new_tokens, **sampling)
    with torch.no_grad():
        scores = _checked(reward_model(tries.ids, mask=tries.mask), len(tries.ids)).view(-1, n)  # (B, n)
    best = scores.argmax(1) + n * torch.arange(len(scores), device=scores.device)  # (B,), rows of `tries`
    return Rollout(*(x[best] for x in tries))


def _left_padded(prompts: Any, mask: Tensor | None, policy: Decoder) -> tuple[Tensor, Tensor]:
    """Return prompts as a tensor and its mask. A tensor does not show what is padding, so one of unlike rows needs a mask."""
    if not isinstance(prompts, Tensor):
        check_encoded("prompts", prompts)
        return pad(prompts, side="left", device=policy.embedding.weight.device)
    check_ids("prompts", prompts)
    if mask is not None:
        check_same_shape(prompts=prompts, mask=mask)
        return prompts, mask
    if prompts.shape[1] > 1 and (prompts != prompts[:1]).any():
        fits = "give mask, True at the prompts' tokens and False at padding on their left, or give lists of ids"
        raise ValueError(f"prompts is a tensor of unlike rows without a mask; {fits}")
    return prompts, torch.ones_like(prompts, dtype=torch.bool)


def _checked(score: Any, n: int) -> Tensor:
    """Return what a reward model gave to ``n`` texts if it can be learned from; a single NaN would spoil every weight."""
    if not (isinstance(score, Tensor) and score.is_floating_point() and score.shape == (n,)):
        came = f"{score.dtype} of shape {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(f"reward_model gave {came}; a tensor of {n} floats fits, one for each text")
    if not score.isfinite().all():
        i = int((~score.isfinite()).int().argmax())
        raise ValueError(f"reward_model gave {score[i].item()} to text {i}; a reward is a finite number")
    return score


# --- Rewards ----------------------------------------------------------------------------------------------------------


def shape_rewards(
    score: Float[Tensor, " B"],
    log_prob: Float[Tensor, "B T"],
    ref_log_prob: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    kl_coef: float,
) -> Float[Tensor, "B T"]:
    """Return the reward of each token: -β·log(policy / reference), and at the last one the score of the whole response.

    Their sum over a response is score - β·KL, its KL estimated by k1 (Ouyang et al. 2022, equation 2).

    Args:
        score: of each response.
        log_prob: of its tokens under the policy that wrote it.
        ref_log_prob: the same under the reference.
        mask: True at the response's tokens, without a gap.
        kl_coef: β, the price of a nat.

    Raises:
        ValueError: the shapes differ, or a response has no token.
    """
    check_same_shape(mask=mask, log_prob=log_prob, ref_log_prob=ref_log_prob)
    check_same_shape(responses=mask[:, 0], score=score)  # (1,) or (B, 1) would silently score other responses
    if not mask.any(1).all():
        empty = int(mask.any(1).int().argmin())
        raise ValueError(f"mask is False in all of row {empty}: a response has a token at least")
    # Without this price the policy would drift to texts that the reward model has never seen and rates too high. On
    # average over what the policy writes, log(policy / reference) is the KL: one sample stands for a sum over V words.
    minus_kl = ref_log_prob - log_prob  # (B, T), of the tokens that were drawn: single ones may have either sign
    rewards = (kl_coef * minus_kl).masked_fill(~mask, 0)  # the price is paid at each token, where it falls due
    return rewards + last_token(mask) * score[:, None]  # the score at the end, for only whole responses were compared


def last_token(mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Return True at the last token of each row."""
    # Counted from the end: how many of the response's tokens are still to come, this one included.
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


class AdaptiveKL:
    """A controller of β, the price of a nat, that follows the measured KL (Ziegler et al. 2019, section 2.2).

    Args:
        initial: the first β.
        target: the KL that is wanted, in nats a response.
        horizon: responses after which β has changed by a factor of about 1.2, or 1/1.2, if the KL is far off all the time.

    Example:
        >>> kl_controller = AdaptiveKL(0.2, target=6, horizon=10_000)
        >>> round(kl_controller.update(kl=12, n=1000), 4)  # twice the target: the error is cut off at 0.2
        0.204
    """

    def __init__(self, initial: float, target: float, horizon: float) -> None:
        for name, value in {"initial": initial, "target": target, "horizon": horizon}.items():
            if not value > 0:
                raise ValueError(f"{name}={value} is not positive")
        self.value, self.target, self.horizon = initial, target, horizon

    def update(self, kl: float, n: int) -> float:
        """Return the new β after ``n`` responses with a mean KL of ``kl``."""
        if n >= 5 * self.horizon:
            raise ValueError(
                f"n={n} is 5 · horizon={self.horizon} or more, so that β could fall to 0; choose a longer horizon"
            )
        error = min(max(kl / self.target - 1, -0.2), 0.2)  # cut off, so that no single batch moves β far
        # By factors, not by sums: nobody knows the right β beforehand, not even its order of magnitude.
        self.value *= 1 + error * n / self.horizon  # KL above the target: a nat becomes dearer
        return self.value


# --- Training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RLHFConfig:
    """How a language model is trained on a reward.

    The clip, γ, β and temperature are InstructGPT's (Ouyang et al. 2022, appendix C.4); λ is that of Stiennon et al. 2020.
    """

    iterations: int = 100  #: Times that responses are written and learned from.
    batch_size: int = 128  #: B, responses an iteration, to as many prompts.
    max_new_tokens: int = 48  #: T, tokens of a response at most.
    n_epochs: int = 1  #: How often an iteration goes over its responses.
    n_minibatches: int = 2  #: Parts into which each epoch cuts them. An update learns from one part.
    learning_rate: float = 1e-3  #: Adam's highest rate; it falls in a straight line to a tenth of that.
    warmup: int = 5  #: Iterations in which it rises; all of them where there are fewer.
    kl_coef: float = 0.02  #: β, what a nat of KL from the reference costs, in units of the reward.
    #: KL in nats a response that β is to lead to (:class:`AdaptiveKL`). It gets there slowly, see ``kl_horizon``: in a short run
    #: ``kl_coef`` decides. None: β stays.
    kl_target: float | None = None
    #: Responses after which ``kl_target`` has changed β by a factor of about 1.2 at most. The default is that of Ziegler et al.
    #: and too long for a short run, whose β would stay: a tenth of iterations · batch_size lets it move by a factor of 7.
    kl_horizon: float = 10_000
    ptx: float = 0.0  #: γ of PPO-ptx: the weight of the pre-training loss, mean over its tokens. 0: PPO alone.
    clip: float = 0.2  #: ε: a token whose ratio has left 1 ± ε pulls no further.
    value_clip: float | None = 0.2  #: The critic's ε, in units of the reward. None: it may move freely.
    vf_coef: float = 0.1  #: Weight of the critic's loss. With a network and Adam of its own it hardly matters.
    gamma: float = 1.0  #: Discount of a token. 1: none, so a reward counts the same however long the response.
    lam: float = 0.95  #: λ of :func:`~nextword.ppo.gae`: 0 trusts the critic after one token, 1 the reward alone.
    temperature: float = 1.0  #: Of sampling, and of all probabilities that are learned from.
    max_grad_norm: float | None = 1.0  #: Largest norm of the policy's gradient, and of the critic's. None: any.
    #: The score of a response without a stop token, in units of the reward. It replaces what the reward model says, so it must
    #: lie below the rewards of responses that end, or none will. None: what the reward model says of it.
    missing_eos_penalty: float | None = -1.0
    seed: int = 0  #: Where the random numbers start that draw prompts, responses and minibatches.

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained with."""
        check_settings(
            self,
            whole=("iterations", "batch_size", "max_new_tokens", "n_epochs", "n_minibatches"),
            positive=("learning_rate", "kl_target", "kl_horizon", "clip", "value_clip", "temperature", "max_grad_norm"),
            not_negative=("warmup", "kl_coef", "ptx", "vf_coef"),
            fraction=("gamma", "lam"),
            finite=("missing_eos_penalty",),
        )
        if self.batch_size % self.n_minibatches:
            raise ValueError(f"n_minibatches={self.n_minibatches} does not divide batch_size={self.batch_size}")
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError(f"kl_coef=0 cannot follow kl_target={self.kl_target}: it grows by factors")
        if self.kl_target is not None and self.batch_size >= 5 * self.kl_horizon:
            least = self.batch_size // 5 + 1
            raise ValueError(
                f"kl_horizon={self.kl_horizon} is too short for batch_size={self.batch_size}; {least} is the least"
            )


@dataclass
class RLHFResult:
    """A trained policy and its critic, and how it went."""

    policy: Decoder
    """The trained copy, in evaluation mode."""
    critic: RewardModel
    """What told, at every token, how much reward was to be expected."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row an iteration; ``result["reward"]`` is one key over the rows that have it, all but for what ``evaluate`` gave:
    ``[(row["iteration"], row["value"]) for row in result.history if "value" in row]`` says when that was.
    Means over the responses written in the iteration:

    - ``iteration``, counted from 1.
    - ``reward``: what the reward model said, whether a response ended or not. Healthy: rises, and then levels off. Rising
      while the responses read worse: the policy has found what the reward model rates too high; raise ``kl_coef``.
    - ``score``: the same with ``missing_eos_penalty`` for a response without an end, before the price of the KL: what is
      learned from. Far from ``reward``: few responses end; give more ``max_new_tokens``.
    - ``kl``: k1's estimate of the KL from the reference, nats a response. Healthy: begins at 0, rises and levels off. Rising
      without end: raise ``kl_coef``. Below 0 for long: as for ``first_ratio``.
    - ``kl_k3``: k3's estimate of the same, which is never negative.
    - ``kl_coef``: β in this iteration; it moves only with ``kl_target``.
    - ``length``, in tokens, the stop token included. At ``max_new_tokens``: the responses do not end.
    - ``has_eos``: the share that ended in time. Healthy: rises towards 1.
    - ``entropy``, nats a token, estimated by -log π of those drawn. Healthy: falls slowly. Near 0: all responses are alike;
      raise ``kl_coef``. Rising: the policy becomes random, mostly by too high a rate.

    Of the updates that followed:

    - ``first_ratio``: largest distance of a ratio from 1 before the first one. Healthy: rounding. Above: writing and learning
      compute different probabilities, by dropout, a mask or a temperature.
    - ``policy_loss``. Healthy: near 0. Large: the advantages are not whitened.
    - ``value_loss``. Healthy: falls. Far above the variance of the scores: the critic does not know the reward's scale.
    - ``approx_kl``: k3's estimate of the KL from the policy that wrote, nats a token. Healthy: below 0.02. Above: too many
      epochs, or too high a rate.
    - ``clip_fraction``: share of ratios outside 1 ± ``clip``. Healthy: up to 0.2. Exactly 0 over several epochs: the old
      log-probabilities are computed anew.
    - ``explained_variance`` of the returns by the critic. Healthy: climbs towards 1. Below 0 for long: it is one token off,
      or reads padding.
    - ``ptx_loss``, nats a token, with ``ptx`` only. Healthy: level. Rising: what the policy could do before is being forgotten.

    And where ``evaluate`` was called, what it returned; a name of this list then holds its number.
    """

    def __getitem__(self, name: str) -> list[float]:
        """Return one quantity over the iterations that have it.

        Raises:
            KeyError: none has it.
        """
        values = [row[name] for row in self.history if name in row]
        if not values:
            known = dict.fromkeys(key for row in self.history for key in row)
            raise KeyError(f"{name!r}: the history holds {', '.join(known)}")
        return values


def train_rlhf(
    policy: Decoder,
    reference: Decoder,
    reward_model: Reward,
    prompts: Prompts,
    config: RLHFConfig,
    *,
    stop: int | Collection[int],
    mask: Bool[Tensor, "N P"] | None = None,
    critic: RewardModel | None = None,
    pretrain_batches: Iterable[tuple[Tensor, Tensor]] | None = None,
    evaluate: Callable[[Decoder], float | Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
) -> RLHFResult:
    """Train a copy of the policy to earn more reward: PPO, and with ``config.ptx`` PPO-ptx (Ouyang et al. 2022, 3.5).

    All models are used without dropout, so that a ratio differs from 1 only because the policy has changed. You are warned once
    where ``config.missing_eos_penalty`` is above the mean reward of the first responses, so that not ending pays. There are no
    checkpoints: a training that was broken off begins anew, but ``evaluate`` may save the policy that it is called with.

    Args:
        policy: the model to begin with, usually the supervised one. It is left as it is.
        reference: the model from which the KL is measured; may be the same.
        reward_model: gives prompt and response a number; see :class:`Reward`.
        prompts: see :data:`Prompts`; each iteration draws ``config.batch_size`` of them.
        stop: the token that ends a response, or several of which each does.
        mask: True at the prompts' tokens. Needed for a tensor of prompts, unless none of them is
            padded; lists are padded for you.
        critic: the first critic, left as it is. None: the reward model, or if that is a mere function, the policy with a
            head that says 0.
        pretrain_batches: inputs and targets, each (B, T), one pair for each minibatch; needed for ``config.ptx``. Where they
            end, they are started again.
        evaluate: called as ``evaluate(policy)`` in evaluation mode; its number, as ``value``, or its dictionary goes into the
            row of that iteration.
        evaluate_every: iterations between two calls of ``evaluate``. 0: only at the end.

    Raises:
        TypeError, ValueError: ``config`` is no :class:`RLHFConfig`, ``config.ptx`` without batches or with too few, fewer
            prompts than ``config.batch_size``, no such prompts, ``evaluate_every`` without ``evaluate``, or a reward that is
            not finite.
        FloatingPointError: a loss is not finite.
    """
    check_config(config, RLHFConfig)
    check_evaluate(evaluate)
    if evaluate_every and evaluate is None:
        raise ValueError(f"evaluate_every={evaluate_every} does nothing without evaluate=…, a function of the policy")
    prompts, mask = _left_padded(prompts, mask, policy)
    if len(prompts) < config.batch_size:
        need, n = f"batch_size={config.batch_size} needs as many at least", -(-config.batch_size // len(prompts))
        raise ValueError(f"prompts holds {len(prompts)}; {need}: a list is repeated by prompts * {n}")
    if config.ptx and pretrain_batches is None:
        raise ValueError(f"ptx={config.ptx} needs pretrain_batches, the text that is not to be forgotten")
    # A copy: where the reference is the very same model, it must not move along with the policy.
    policy, critic = copy.deepcopy(policy).eval(), _first_critic(critic, reward_model, policy)
    # One optimiser for both networks, which share no weight. With an ε above the usual 1e-8 a weight whose gradient is
    # next to 0 takes a small step, where the usual one would blow it up to a full one.
    adam = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=config.learning_rate, eps=1e-5)
    # Two streams: how many numbers the writing used up does not change which prompts come next.
    batch_generator = torch.Generator().manual_seed(config.seed)  # which prompts, and in which minibatches
    sampling_generator = torch.Generator(prompts.device).manual_seed(config.seed)  # what is written
    kl_controller = AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon) if config.kl_target else None
    kl_coef, pretrain_iterator = config.kl_coef, _endless(pretrain_batches or ())
    sampling: dict[str, Any] = {"max_new_tokens": config.max_new_tokens, "temperature": config.temperature}
    frozen = nn.ModuleList(x for x in (reference, reward_model) if isinstance(x, nn.Module))
    warmup, result = min(config.warmup, config.iterations), RLHFResult(policy, critic)
    bar = runtime.progress(range(1, config.iterations + 1), desc="RLHF", unit="iteration")
    for i in bar:
        rate = linear(i, learning_rate=config.learning_rate, warmup=warmup, steps=config.iterations, min_lr_ratio=0.1)
        adam.param_groups[0]["lr"] = rate
        # Act: the policy as it is now responds to some of the prompts.
        rows = torch.randperm(len(prompts), generator=batch_generator)[: config.batch_size].to(prompts.device)
        rollouts = rollout(policy, prompts[rows], mask=mask[rows], stop=stop, generator=sampling_generator, **sampling)
        # Judge: the score, the price of KL, and which tokens did better than the critic had expected.
        with eval_mode(frozen):
            columns, row = score_rollout(rollouts, reference, reward_model, critic, config, kl_coef)
        if i == 1:
            _warn_of_penalty(config.missing_eos_penalty, row["reward"])
        # Learn: a few epochs over these responses. Then they are thrown away, since another policy wrote them.
        row |= ppo_update(policy, critic, adam, columns, config, pretrain_iterator, batch_generator)
        if kl_controller is not None:
            kl_coef = kl_controller.update(row["kl"], config.batch_size)
        bar.set_postfix_str(f"reward {row['reward']:.2f}, KL {row['kl']:.1f}", refresh=False)
        result.history.append({"iteration": i, **row})
        if evaluate is not None and due(i, evaluate_every, config.iterations):
            result.history[-1] |= by_name(evaluate(policy))
    return result


def _warn_of_penalty(penalty: float | None, reward: float) -> None:
    """Warn where a response without an end is scored above the mean response: the policy would learn not to end."""
    if penalty is not None and penalty > reward:
        message = f"missing_eos_penalty={penalty} is above the first responses' mean reward of {reward:.2f}"
        fix = "choose a lower one, or None, which leaves the reward as it is, or normalise the reward model"
        warnings.warn(f"{message}, so that a response earns more without an end: {fix}", stacklevel=3)


@torch.no_grad()
def score_rollout(
    rollouts: Rollout, reference: Decoder, reward_model: Reward, critic: RewardModel, config: RLHFConfig, kl_coef: float
) -> tuple[list[Tensor], dict[str, float]]:
    """Return the columns that :func:`ppo_update` takes, with advantages and returns, and what the history keeps of them."""
    ids, mask, response_mask, log_prob, has_eos = rollouts
    ref_log_prob = response_log_probs(reference, rollouts, temperature=config.temperature)  # (B, T)
    value = token_values(critic, ids, mask, response_mask.shape[1]).masked_fill(~response_mask, 0)  # (B, T)
    with runtime.autocast():
        reward = _checked(reward_model(ids, mask=mask), len(ids))  # (B,)
    score = reward
    if config.missing_eos_penalty is not None:  # the reward model has only read texts that end
        score = torch.where(has_eos, reward, config.missing_eos_penalty)
    rewards = shape_rewards(score, log_prob, ref_log_prob, response_mask, kl_coef)  # (B, T)
    # A response that was cut off at T ends there too: it has been scored as it stands, and nothing follows.
    done = last_token(response_mask)  # (B, T): nothing after it is worth anything
    discounts = {"gamma": config.gamma, "lam": config.lam}
    estimates = gae(rewards.T, value.T, done.T, torch.zeros_like(score), **discounts)  # it wants time first
    advantage, returns = (x.T for x in estimates)  # (B, T)
    log_ratio = ref_log_prob - log_prob  # (B, T), 0 at padding. The policy drew, so this gives KL(policy ‖ reference)
    row = {
        "reward": reward.mean(),
        "score": score.mean(),
        "kl": approx_kl(log_ratio, "k1").sum(1).mean(),  # nats a response
        "kl_k3": approx_kl(log_ratio, "k3").sum(1).mean(),
        "length": response_mask.float().sum(1).mean(),
        "has_eos": has_eos.float().mean(),
        "entropy": -masked_mean(log_prob, response_mask),  # nats a token, from those that were drawn
        "explained_variance": explained_variance(value, returns, response_mask),
    }
    # Whitened over all tokens, so that the scale of the rewards does not set the size of a step. The returns stay as
    # they are: the critic has to learn that scale.
    columns = [ids, mask, response_mask, log_prob, value, whiten(advantage, response_mask), returns]
    return columns, {"kl_coef": kl_coef, **{name: x.item() for name, x in row.items()}}


def token_values(critic: RewardModel, ids: Tensor, mask: Tensor, n: int) -> Float[Tensor, "B n"]:
    """Return the critic's estimate before each of the last ``n`` tokens: what it says where the token is not yet seen."""
    # One position earlier: a critic that had read the token would judge the action and not the state it was taken in.
    with runtime.autocast():
        return critic.token_values(ids[:, :-1], mask=mask[:, :-1])[:, -n:]


def ppo_update(
    policy: Decoder,
    critic: RewardModel,
    adam: torch.optim.Optimizer,
    columns: list[Tensor],
    config: RLHFConfig,
    pretrain_iterator: Iterator[tuple[Tensor, Tensor]],
    generator: torch.Generator,
) -> dict[str, float]:
    """Train on responses for several epochs; return what the history keeps of the updates."""
    measured: list[dict[str, Tensor]] = []
    for _ in range(config.n_epochs):
        order = torch.randperm(len(columns[0]), generator=generator).to(columns[0].device)
        for rows in order.view(config.n_minibatches, -1):  # each response once, at random
            ids, mask, response_mask, old_log_prob, old_value, A, R = (column[rows] for column in columns)
            log_prob = log_probs(policy, ids, mask, response_mask.shape[1], temperature=config.temperature)  # (b, T)
            log_prob = log_prob.masked_fill(~response_mask, 0)  # as the old ones are there: padding gets a ratio of 1
            value = token_values(critic, ids, mask, response_mask.shape[1])  # (b, T)
            tensors = log_prob, old_log_prob, A, value, old_value, R
            loss = ppo_loss(*tensors, mask=response_mask, clip=config.clip, value_clip=config.value_clip)
            # The networks share no weight: one backward pass gives each the gradient of its own term.
            total = loss.policy + config.vf_coef * loss.value
            row = dict(zip(("policy_loss", "value_loss", "approx_kl", "clip_fraction"), loss, strict=True))
            if not measured:  # before any step writing and learning must agree
                row["first_ratio"] = (log_prob - old_log_prob).expm1().abs().max()
            if config.ptx:  # the third term of equation 2: what it knew of other text shall not be forgotten
                text, targets = (x.to(ids.device) for x in next(pretrain_iterator))
                with runtime.autocast():
                    row["ptx_loss"] = policy(text, targets).loss  # nats a token
                total = total + config.ptx * row["ptx_loss"]
            adam.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            if config.max_grad_norm is not None:  # each network by itself, for their gradients differ in size
                for network in (policy, critic):
                    nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
            adam.step()
            measured.append({name: x.detach() for name, x in row.items()})
    means = {}
    for name in measured[0]:
        values = [row[name].item() for row in measured if name in row]  # first_ratio is in the first row alone
        means[name] = sum(values) / len(values)
    check_finite(means)
    return means


def _first_critic(critic: RewardModel | None, reward_model: Reward, policy: Decoder) -> RewardModel:
    """Return a copy of the critic; without one, of the reward model, or of the policy with a head that says 0."""
    if critic is None and isinstance(reward_model, RewardModel):
        critic = reward_model  # which already tells, at every token, how good the text is so far
    if critic is None:
        with torch.random.fork_rng(devices=[]):  # the head is drawn, and then set to 0
            critic = RewardModel(policy)
        nn.init.zeros_(critic.head.weight)
    return copy.deepcopy(critic).eval()  # training it must change neither the reward model nor the policy


def _endless(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches, and start again where they end, as :func:`~nextword.training.fit` does."""
    any_left = True
    while any_left:
        any_left = False
        for batch in batches:
            any_left = True
            yield batch
    raise ValueError("pretrain_batches ran out; give a list or a DataLoader, which can start again")
