"""Direct preference optimisation, DPO: a policy learns from rankings, without a reward model (Rafailov et al. 2023).

Among all policies, the best one for a reward r at a price β of KL is π*(y | x) ∝ π_ref(y | x) e^(r(x, y) / β). Read backwards,
β log π(y | x) / π_ref(y | x) is the reward that a policy π is best for, but for a number that all responses to one prompt
share. :func:`~nextword.reward_model.ranking_loss` sees only differences between them, and so it can train π itself. Shapes: N
texts of T tokens; P prompts with K ranked texts each.

Used in: 2022_instructgpt.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from nextword import runtime
from nextword.attention import pad
from nextword.decoder import Decoder
from nextword.layers import eval_mode
from nextword.reward_model import Comparison, check_encoded, ranking_loss, ranks
from nextword.rlhf import log_probs
from nextword.training import linear

__all__ = ["dpo_loss", "text_log_probs", "train_dpo"]


def text_log_probs(model: Decoder, texts: Sequence[Sequence[int]]) -> Float[Tensor, " N"]:
    """Return the log-probability of each text given its first token, in nats.

    Raises:
        TypeError, ValueError: texts that nobody has encoded, no text, or one of fewer than two tokens.
    """
    check_encoded("texts", texts)
    if short := [i for i, text in enumerate(texts) if len(text) < 2]:
        raise ValueError(f"texts holds a single token at {short[0]}; two fit, one to begin with and one to predict")
    ids, mask = pad(texts, device=model.embedding.weight.device)  # (N, T)
    each = log_probs(model, ids, mask, ids.shape[1] - 1)  # (N, T - 1)
    return each.masked_fill(~mask[:, 1:], 0).sum(1)  # a sum and no mean: π(y | x) is a product over tokens


def dpo_loss(policy: Decoder, reference: Decoder, comparisons: Sequence[Comparison], beta: float) -> Float[Tensor, ""]:
    """Return the ranking loss of β log(π / π_ref), the reward that a policy implies (Rafailov et al. 2023, equation 7).

    For two texts it is the paper's loss; for K it is the mean over their pairs, as InstructGPT's reward model has it.

    Args:
        policy: π, which learns.
        reference: π_ref, from which the KL counts, usually the supervised model. It gets no gradient.
        comparisons: see :data:`~nextword.reward_model.Comparison`. The texts of each begin with the same prompt. How likely
            the prompt itself is cancels, so it need not be told from the response.
        beta: β, the price of a nat of KL in units of the implied reward, above 0.

    Raises:
        TypeError, ValueError: ``beta`` is not positive, no comparison, none with two ratings that differ, or texts that
            :func:`text_log_probs` refuses.
    """
    if not beta > 0:
        raise ValueError(f"beta={beta} is not positive; with a price of 0 the best policy has no limit")
    texts = [ids for comparison in comparisons for ids, _ in comparison]
    with torch.no_grad(), eval_mode(reference):  # dropout would make a noise of what is to stay fixed
        reference_log_prob = text_log_probs(reference, texts)  # (number of texts,)
    implied = beta * (text_log_probs(policy, texts) - reference_log_prob)  # the policy is its own reward model
    # A comparison of fewer texts is filled up with NaN, which gets rank 0, that of a missing text.
    ratings = [
        torch.tensor([float(rating) for _, rating in comparison])  # (K,)
        for comparison in comparisons
    ]
    order = ranks(
        pad_sequence(ratings, batch_first=True, padding_value=math.nan),  # (P, K)
    ).to(implied.device)
    return ranking_loss(implied.new_zeros(order.shape).masked_scatter(order > 0, implied), order)


def train_dpo(
    policy: Decoder,
    reference: Decoder,
    batches: Sequence[Sequence[Comparison]],
    *,
    beta: float = 0.1,
    learning_rate: float = 3e-4,
    warmup: int = 10,
    max_grad_norm: float = 1.0,
) -> tuple[Decoder, list[float]]:
    """Train a copy of a policy on rankings, without dropout; return it in evaluation mode, and the loss of every update.

    One update of Adam a batch. The first loss is log 2 = 0.69 nats where the policy begins as the reference, since then it
    implies the same reward for all texts.

    Args:
        policy: the model to begin with, usually the supervised one. It is left as it is.
        reference: as for :func:`dpo_loss`; may be the same model.
        batches: lists of comparisons, one for each update.
        beta: as for :func:`dpo_loss`.
        learning_rate: the highest rate; it falls in a straight line to 0.
        warmup: updates in which it rises; all of them where there are fewer.
        max_grad_norm: longer gradients are cut to it.

    Raises:
        TypeError, ValueError: ``batches`` is empty, or holds what :func:`dpo_loss` refuses.
        FloatingPointError: the loss is not finite.
    """
    if not batches:
        raise ValueError("batches is empty; give lists of comparisons")
    policy, losses = copy.deepcopy(policy).eval(), []  # a copy: where both are one model, the reference must not move
    adam = torch.optim.Adam(policy.parameters(), learning_rate)
    schedule = {"warmup": min(warmup, len(batches)), "steps": len(batches)}
    bar = runtime.progress(batches, desc="DPO", unit="update")
    for i, comparisons in enumerate(bar, 1):
        adam.param_groups[0]["lr"] = linear(i, learning_rate=learning_rate, **schedule)
        adam.zero_grad()
        loss = dpo_loss(policy, reference, comparisons, beta)
        losses.append(loss.item())
        bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of batch {i - 1} is {losses[-1]}; lower learning_rate, or look at it")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm)
        adam.step()
    return policy, losses
