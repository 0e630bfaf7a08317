"""A reward model: a decoder that reads a text and gives it a number, learned from what people liked better.

InstructGPT's second step (Ouyang et al. 2022, section 3.5). The number has no unit and no zero; only differences between
responses to one prompt are learned, so it is normalised afterwards. Shapes: B texts of T tokens; P prompts with K
completions each.

Used in: 2022_instructgpt.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from itertools import combinations
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int64, Real
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from nextword import checkpoints, runtime
from nextword.attention import pad
from nextword.decoder import Decoder, DecoderConfig
from nextword.layers import eval_mode

__all__ = [
    "Comparison",
    "RewardModel",
    "comparison_accuracy",
    "comparison_loss",
    "ranking_loss",
    "ranks",
    "train_reward_model",
]

Comparison: TypeAlias = Sequence[tuple[Sequence[int], float]]
"""Texts that were compared with each other: a list of (ids, rating), the ids of a whole text, its prompt included, as a row, and
any number, higher for the better. ``[([5, 6, 7], 1), ([5, 8], 0)]`` says that the first is liked better; three or more
texts may be compared at once, and equal ratings say nothing of two texts."""


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
        self.head = nn.Linear(C, 1, device=like.device, dtype=like.dtype)  # one number a token, in place of V scores
        # The norm leaves C numbers of about unit size: with these weights their sum, the first reward, has it, too.
        nn.init.normal_(self.head.weight, std=(C + 1) ** -0.5)
        nn.init.zeros_(self.head.bias)
        # What `normalize` sets. Buffers, so that no optimiser moves them.
        self.register_buffer("gain", torch.ones((), device=like.device))
        self.register_buffer("bias", torch.zeros((), device=like.device))

    def forward(self, ids: Int64[Tensor, "B T"], *, mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, " B"]:
        """Return the reward of each text, NaN for one without a token.

        Args:
            ids: texts, filled up on either side, or on both.
            mask: True at real tokens; all, if None.
        """
        values = self.token_values(ids, mask=mask)  # (B, T)
        if mask is None:
            return values[:, -1]  # (B,)
        last = mask.shape[1] - 1 - mask.int().flip(1).argmax(1)  # (B,), found backwards: argmax takes the first True
        rewards = values.gather(1, last[:, None]).squeeze(1)  # (B,)
        return rewards.masked_fill(~mask.any(1), math.nan)  # argmax over nothing but False is 0: that was padding

    def token_values(
        self, ids: Int64[Tensor, "B T"], *, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Return the number at every token: the reward if the text ended there, or a critic's estimate."""
        # Attention is causal: the number at a token has read the text up to there, and nothing of what follows.
        hidden = self.decoder.hidden(ids, mask=mask)  # (B, T, C)
        values: Tensor = self.head(hidden).squeeze(-1)  # (B, T)
        return values * self.gain + self.bias  # 1 and 0 until normalize has set them

    @torch.no_grad()
    def score(self, texts: Sequence[Sequence[int]], *, batch_size: int = 256) -> Float[Tensor, " N"]:
        """Return the rewards of N texts, each a row of ids, read ``batch_size`` at a time; they lie on the CPU.

        The model is left in its mode: put one with dropout into evaluation mode first.

        They are computed in bfloat16 where that is faster (:func:`nextword.runtime.bf16`), and then differ from those of a
        call in their third digit, and a little by what else is in a batch. ``NEXTWORD_BF16=0`` computes them in float32.

        Raises:
            TypeError, ValueError: texts that nobody has encoded; no text, or an empty one.
        """
        check_encoded("texts", texts)
        rewards = []
        for i in range(0, len(texts), batch_size):
            ids, mask = pad(texts[i : i + batch_size], device=self.bias.device)  # (b, T), T for this batch
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
            ValueError: fewer than two texts, or rewards that are all equal or not finite.
        """
        if len(ids) < 2:
            raise ValueError(f"ids holds {len(ids)} texts; give two or more")
        # The loss sees differences only, so that the zero of the rewards is arbitrary. Put it where these texts lie:
        # then a fixed score, such as the penalty for a text without an end, means the same for every reward model.
        rewards = self(ids, mask=mask)
        if not rewards.isfinite().all():
            raise ValueError("ids: a text has a reward that is no finite number, as one without a token has")
        std = rewards.std()
        if scale and std <= 1e-8:
            raise ValueError("ids: all texts have the same reward, so it cannot be scaled")
        # And with a common scale the price of a nat of KL means the same, too.
        factor = 1 / std if scale else torch.ones_like(std)
        self.gain *= factor  # (reward - mean) · factor, folded into what stood there
        self.bias.copy_((self.bias - rewards.mean()) * factor)

    @property
    def config(self) -> DecoderConfig:
        """The sizes of the body."""
        return self.decoder.config

    def save(self, path: str | os.PathLike[str], *, card: dict[str, Any] | None = None, **settings: Any) -> None:
        """Write the model, what :meth:`normalize` set included, into a folder.

        ``settings`` are those of :func:`nextword.checkpoints.save`, such as ``tokenizer``.
        """
        checkpoints.save(self, path, card=card or {}, **settings)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> RewardModel:
        """Return a model that :meth:`save` wrote, in evaluation mode.

        Raises:
            ValueError: there is no such model, it is of another kind, or its files cannot be read.
        """
        return checkpoints.from_folder(cls, DecoderConfig, path, build=lambda config: cls(Decoder(config)))


def ranking_loss(rewards: Float[Tensor, "P K"], ranks: Int64[Tensor, "P K"]) -> Float[Tensor, ""]:
    """Return -log σ(r_better - r_worse), mean over the pairs of a prompt, then over prompts (Ouyang et al. 2022, eq. 1).

    All pairs of a prompt are in it at once, so each completion is read once.

    Args:
        rewards: of K completions for each of P prompts.
        ranks: 1 is best; equal ranks make no pair, and 0 marks a missing completion, whose reward may be anything. A
            prompt without a pair does not count.

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
    known = ranks > 0  # (P, K)
    better = ranks[:, :, None] < ranks[:, None, :]  # (P, K, K): is the one of this row better than that of the column?
    pairs = better & known[:, :, None] & known[:, None, :]  # or a missing completion, of rank 0, would beat all
    n_pairs = pairs.sum((1, 2))  # (P,), K(K - 1)/2 where no two ranks are equal
    if not n_pairs.any():
        raise ValueError("ranks: all are equal or missing, so there is no pair to learn from")
    gaps = rewards[:, :, None] - rewards[:, None, :]  # (P, K, K), r_better - r_worse
    gaps = gaps.masked_fill(~pairs, 0)  # before the logarithm: a missing reward of -inf must not become 0 · inf
    # A gap is the log-odds that the better one wins, so this is the cross-entropy of who did. logsigmoid is exact
    # where σ rounds to 0. A prompt without a pair would be 0/0; it is left out below.
    losses = (-F.logsigmoid(gaps) * pairs).sum((1, 2)) / n_pairs.clamp(min=1)  # (P,)
    return losses[n_pairs > 0].mean()  # a prompt with many completions weighs no more than one with two


def ranks(ratings: Real[Tensor, "P K"]) -> Int64[Tensor, "P K"]:
    """Return the ranks that ratings give to K texts: 1 for the highest, equal ones share a rank, and NaN becomes 0.

    Example:
        >>> ranks(torch.tensor([[3, 1, -2, 1]]))
        tensor([[1, 2, 4, 2]])
    """
    # Nothing is greater than NaN, nor NaN than anything: what is missing changes no other text's rank.
    n_better = (ratings[:, None] > ratings[:, :, None]).sum(-1)  # (P, K), summed over the third of (P, K, K)
    return (1 + n_better).masked_fill(ratings.isnan(), 0)


def comparison_loss(model: RewardModel, comparisons: Sequence[Comparison]) -> Float[Tensor, ""]:
    """Return :func:`ranking_loss` of a model on comparisons, which may differ in size; each text is read once.

    On comparisons that it was not trained on, and under ``torch.no_grad()``, it tells what the model has learned: log 2 = 0.69
    nats is a guess. :func:`comparison_accuracy` counts instead.

    Args:
        model: reads the texts.
        comparisons: see :data:`Comparison`.

    Raises:
        TypeError, ValueError: no comparison, none with two ratings that differ, or something that is no comparison.
    """
    _check_comparisons(comparisons)
    # Each completion is in up to K - 1 pairs. As separate examples they would be as many updates on the same text,
    # which invites overfitting; here it is read once, and all of its pairs share one update.
    ids, mask = pad([ids for texts in comparisons for ids, _ in texts], device=model.bias.device)
    ratings = [torch.tensor([float(rating) for _, rating in texts]) for texts in comparisons]
    # A comparison of fewer texts is filled up with NaN, and NaN gets rank 0, that of a missing completion.
    order = ranks(pad_sequence(ratings, batch_first=True, padding_value=math.nan)).to(ids.device)  # (P, K)
    with runtime.autocast():
        rewards = model(ids, mask=mask).float()  # (number of texts,)
    # The rewards stand text after text, as the True of (P, K) are read row by row.
    return ranking_loss(rewards.new_zeros(order.shape).masked_scatter(order > 0, rewards), order)


def comparison_accuracy(model: RewardModel, comparisons: Sequence[Comparison]) -> float:
    """Return the share of pairs, two texts of one comparison with unequal ratings, that the model orders as they are rated.

    0.5 is a guess, and equal rewards count as an error. Ask it about comparisons that it was not trained on.

    Raises:
        TypeError, ValueError: no comparison, none with two ratings that differ, or something that is no comparison.
    """
    _check_comparisons(comparisons)
    with eval_mode(model):
        rewards = iter(model.score([ids for texts in comparisons for ids, _ in texts]).tolist())
    right: list[bool] = []
    for texts in comparisons:
        judged = [(rating, next(rewards)) for _, rating in texts]
        right += [(a - b) * (x - y) > 0 for (a, x), (b, y) in combinations(judged, 2) if a != b]
    if not right:
        raise ValueError("comparisons: all ratings are equal, so there is no pair to order")
    return sum(right) / len(right)


def train_reward_model(
    decoder: Decoder,
    batches: Sequence[Sequence[Comparison]],
    *,
    learning_rate: float = 8e-4,
    warmup: int = 10,
    weight_decay: float = 0.05,
    max_grad_norm: float = 1.0,
) -> tuple[RewardModel, list[float]]:
    """Train a reward model that begins with a copy of a language model; return it and the loss of every update.

    One update of AdamW a batch. The paper makes a single pass, since a second begins to overfit (section 3.5, C.2).

    Args:
        decoder: the language model, no :class:`RewardModel`. The head's first weights are drawn from torch's own random numbers.
        batches: lists of comparisons (see :data:`Comparison`), one for each update.
        learning_rate: it is multiplied by a line that falls from 1 to 0 over ``batches``, and at first by a warm-up: the
            highest rate stays a little below it.
        warmup: updates over which the warm-up rises to 1; half of all where there are fewer than twice as many.
        weight_decay: AdamW's.
        max_grad_norm: longer gradients are cut to it.

    Raises:
        TypeError, ValueError: ``batches`` is empty, holds no lists of comparisons, or a batch has no pair to learn from.
        FloatingPointError: the loss is not finite.
    """
    if not batches:
        raise ValueError("batches is empty; give lists of comparisons")
    # A copy, since the supervised model may still be needed: as the first policy, and as the reference of its KL.
    model, losses = RewardModel(copy.deepcopy(decoder)).train(), []
    adam = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    # With a warm-up as long as the training, warm-up times decay would never exceed about a quarter of the rate.
    warmup = min(warmup, len(batches) // 2)
    bar = runtime.progress(batches, desc="reward model", unit="update")
    for i, comparisons in enumerate(bar):
        rate = min(1, (i + 1) / max(warmup, 1)) * (1 - i / len(batches))  # rises at first, and falls all the way
        adam.param_groups[0]["lr"] = learning_rate * rate
        adam.zero_grad()
        loss = comparison_loss(model, comparisons)  # nats; log 2 = 0.69 for a model to which all texts are alike
        losses.append(loss.item())
        bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of batch {i} is {losses[-1]}; lower learning_rate, or look at it")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        adam.step()
    return model.eval(), losses


def check_encoded(name: str, rows: Any) -> None:
    """Raise an error that names the argument where ``rows`` are no rows of ids, such as text that nobody has encoded."""
    if isinstance(rows, Tensor):
        raise TypeError(f"{name} is a tensor of shape {tuple(rows.shape)}; give rows of ids, as lists without padding")
    try:
        texts = isinstance(rows, str) or any(isinstance(row, str) for row in rows)
        empty = [i for i, row in enumerate(rows) if not len(row)]
    except TypeError:  # a number has no length
        raise TypeError(f"{name} is {rows!r:.60}; give rows of ids, a single one as [[5, 6]]") from None
    if texts:
        raise TypeError(f"{name} holds text; give rows of ids: [tokenizer.encode(text) for text in {name}]")
    if empty or not len(rows):
        raise ValueError(f"{name} holds no token at {empty[0]}" if empty else f"{name} is empty; give a row of ids")


def _check_comparisons(comparisons: Any) -> None:
    if not comparisons:
        raise ValueError("comparisons is empty; give one at least")
    for pair in (pair for texts in comparisons for pair in texts):
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and hasattr(pair[0], "__len__")):
            cut = "[comparisons[i : i + 16] for i in range(0, len(comparisons), 16)]"
            raise TypeError(
                f"a comparison is a list of (ids, rating), not of {pair!r}; batches are lists of them: {cut}"
            )
        if not math.isfinite(float(pair[1])):
            raise ValueError(f"comparisons holds the rating {pair[1]}; leave out a text that nobody has rated")
    check_encoded("comparisons", [ids for texts in comparisons for ids, _ in texts])
