"""A reward model: a decoder that reads a text and gives it a number, learned from rankings by people.

InstructGPT's second step (Ouyang et al. 2022, section 3.5). The number has no unit and no zero; only differences between
answers to one prompt are learned, so it is normalised afterwards.

Used in: 2022_instructgpt.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int64, Real
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from nextword import runtime
from nextword.attention import pad
from nextword.decoder import Decoder

__all__ = ["Ranking", "RewardModel", "loss_on_rankings", "ranking_loss", "ranks_of", "train_reward_model"]

Ranking: TypeAlias = Sequence[tuple[Sequence[int], float]]
"""Texts that were compared with each other: the ids of each, its prompt included, and a rating, higher for the better."""


class RewardModel(nn.Module):
    """A decoder with a head that gives a number at every token; a text's reward is the number at its last one.

    The head's weights start with a variance of 1 / (C + 1), its bias at 0 (Stiennon et al. 2020).

    Args:
        decoder: the body, usually a copy of the supervised model. It is used, not copied.

    Example:
        >>> from nextword.decoder import DecoderConfig
        >>> sizes = {"vocab_size": 50, "context_length": 16, "d_model": 8, "n_layers": 1, "n_heads": 2}
        >>> model = RewardModel(Decoder(DecoderConfig(**sizes))).eval()
        >>> model(torch.zeros(3, 5, dtype=torch.int64)).shape
        torch.Size([3])
    """

    gain: Tensor
    bias: Tensor

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        C = decoder.config.d_model
        like = decoder.embedding.weight
        self.head = nn.Linear(C, 1, device=like.device, dtype=like.dtype)
        nn.init.normal_(self.head.weight, std=(C + 1) ** -0.5)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("gain", torch.ones((), device=like.device))
        self.register_buffer("bias", torch.zeros((), device=like.device))

    def forward(self, ids: Int64[Tensor, "B T"], *, mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, " B"]:
        """Return the reward of each text.

        Args:
            ids: texts, filled up on either side, or on both.
            mask: True at real tokens; all, if None.

        Raises:
            ValueError: a row of the mask is False everywhere.
        """
        if mask is None:
            return self.at_every_token(ids)[:, -1]
        if not mask.any(1).all():
            raise ValueError(
                f"mask is False in all of row {int(mask.any(1).int().argmin())}: an empty text has no reward"
            )
        last = mask.shape[1] - 1 - mask.int().flip(1).argmax(1)  # of equal ones argmax takes the first
        return self.at_every_token(ids, mask=mask).gather(1, last[:, None]).squeeze(1)

    def at_every_token(
        self, ids: Int64[Tensor, "B T"], *, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Return the number at every token: the reward if the text ended there, or a critic's estimate."""
        hidden = self.decoder.hidden(ids, mask=mask)
        scores: Tensor = self.head(hidden).squeeze(-1)
        return scores * self.gain + self.bias  # of bfloat16, float32

    @torch.inference_mode()
    def score(self, texts: Sequence[Sequence[int]], *, batch_size: int = 256) -> Float[Tensor, " N"]:
        """Return the rewards of N texts, each a row of ids, read ``batch_size`` at a time; they lie on the CPU.

        Raises:
            ValueError: there is no text, or one is empty.
        """
        parts = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)] or [texts]
        rewards = []
        for part in parts:
            ids, mask = pad(part, device=self.bias.device)
            with runtime.autocast():
                rewards.append(self(ids, mask=mask).float().cpu())
        return torch.cat(rewards)

    @torch.no_grad()
    def normalize(
        self, ids: Int64[Tensor, "B T"], *, mask: Bool[Tensor, "B T"] | None = None, scale: bool = True
    ) -> None:
        """Shift the rewards so that these texts have a mean of 0, as InstructGPT does with its demonstrations.

        Args:
            ids: at least two texts that represent what the reward is to be compared with.
            mask: as for a call.
            scale: whether to give them a standard deviation of 1, too (Ziegler et al. 2019).

        Raises:
            ValueError: fewer than two texts, or all rewards equal.
        """
        if len(ids) < 2:
            raise ValueError(f"ids holds {len(ids)} texts; give two or more")
        rewards = self(ids, mask=mask)
        std = rewards.std()
        if scale and not std > 1e-8:
            raise ValueError("ids: all texts have the same reward, so it cannot be scaled")
        factor = 1 / std if scale else torch.ones_like(std)
        self.gain *= factor
        self.bias.copy_((self.bias - rewards.mean()) * factor)


def ranking_loss(rewards: Float[Tensor, "P K"], ranks: Int64[Tensor, "P K"]) -> Float[Tensor, ""]:
    """Return how badly rewards agree with people's rankings (Ouyang et al. 2022, equation 1).

    -mean over the pairs of a prompt of log σ(r_better - r_worse), then the mean over the prompts. All pairs of a prompt
    are in it at once, so each completion is read once.

    Args:
        rewards: of K completions for each of P prompts.
        ranks: 1 is best; equal ranks make no pair, and 0 marks a missing completion. A prompt without a pair does not
            count.

    Raises:
        ValueError: shapes differ, a rank is negative, or no prompt has a pair.

    Example:
        >>> round(ranking_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 2]])).item(), 4)  # log(1 + e^-2)
        0.1269
    """
    if rewards.shape != ranks.shape:
        raise ValueError(f"rewards is {tuple(rewards.shape)}, ranks {tuple(ranks.shape)}")
    if (ranks < 0).any():
        raise ValueError(f"ranks holds {int(ranks.min())}; 1 is best, 0 marks what is missing")
    known = ranks > 0
    pairs = (ranks[:, :, None] < ranks[:, None, :]) & known[:, :, None] & known[:, None, :]  # (P, K, K), better first
    count = pairs.sum((1, 2))
    if not count.any():
        raise ValueError("ranks: all are equal or missing, so there is no pair to learn from")
    gaps = rewards[:, :, None] - rewards[:, None, :]
    losses = (-F.logsigmoid(gaps) * pairs).sum((1, 2)) / count.clamp(min=1)
    return losses[count > 0].mean()


def ranks_of(ratings: Real[Tensor, "P K"]) -> Int64[Tensor, "P K"]:
    """Return the places that ratings give to K texts: 1 for the highest, equal ones share a place, and NaN becomes 0.

    Used in: 2022_instructgpt.

    Example:
        >>> ranks_of(torch.tensor([[3, 1, -2, 1]]))
        tensor([[1, 2, 4, 2]])
    """
    ranks = 1 + (ratings[:, None] > ratings[:, :, None]).sum(-1)  # (P, K): how many are better
    return ranks.masked_fill(ratings.isnan(), 0)


def loss_on_rankings(model: RewardModel, rankings: Sequence[Ranking]) -> Float[Tensor, ""]:
    """Return :func:`ranking_loss` of a model on rankings, which may differ in size; each text is read once.

    Raises:
        ValueError: there is no ranking, or none with two ratings that differ.

    Source: Ouyang et al. 2022, section 3.5. Used in: 2022_instructgpt.
    """
    if not rankings:
        raise ValueError("rankings is empty; give one at least")
    ids, mask = pad([ids for ranking in rankings for ids, _ in ranking], device=model.bias.device)
    ratings = [torch.tensor([float(rating) for _, rating in ranking]) for ranking in rankings]
    ranks = ranks_of(pad_sequence(ratings, batch_first=True, padding_value=torch.nan)).to(ids.device)
    with runtime.autocast():
        rewards = model(ids, mask=mask).float()
    return ranking_loss(rewards.new_zeros(ranks.shape).masked_scatter(ranks > 0, rewards), ranks)


def train_reward_model(
    decoder: Decoder,
    batches: Sequence[Sequence[Ranking]],
    *,
    learning_rate: float = 8e-4,
    warmup: int = 10,
    weight_decay: float = 0.05,
    max_grad_norm: float = 1.0,
) -> tuple[RewardModel, list[float]]:
    """Train a reward model that begins with a copy of a language model; return it and the loss of every update.

    One update of AdamW a batch. The paper makes a single pass, since a second begins to overfit.

    Args:
        decoder: the language model. The head's first weights are drawn from torch's own random numbers.
        batches: lists of rankings.
        learning_rate: the highest; it rises over ``warmup`` updates while it falls in a straight line towards 0.
        weight_decay: AdamW's.
        max_grad_norm: longer gradients are cut to it.

    Raises:
        ValueError: ``batches`` is empty, or a batch has no pair to learn from.

    Source: Ouyang et al. 2022, section 3.5 and appendix C.2. Used in: 2022_instructgpt.
    """
    if not batches:
        raise ValueError("batches is empty; give lists of rankings")
    model, losses = RewardModel(copy.deepcopy(decoder)).train(), []
    adam = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    for i, rankings in enumerate(runtime.progress(batches, desc="reward model")):
        rate = min(1, (i + 1) / warmup) * (1 - i / len(batches))
        adam.param_groups[0]["lr"] = learning_rate * rate
        adam.zero_grad()
        loss = loss_on_rankings(model, rankings)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        adam.step()
        losses.append(loss.item())
    return model.eval(), losses
