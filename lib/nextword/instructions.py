"""Instruction tuning: records of an instruction and a response turn a model that continues texts into one that answers.

Model, loss and optimiser are those of pre-training. Two things are new: a *frame*, a fixed text around each instruction
that says where the response begins, and that only the response is learned (:func:`ids_and_targets`).

Source: databrickslabs/dolly (2023), ``training/consts.py`` and ``training/trainer.py``. Used in: 2023_dolly.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from nextword.attention import pad
from nextword.decoder import Decoder
from nextword.layers import IGNORE_INDEX, eval_mode
from nextword.tokenizers import ByteBPE

FRAME = "### Instruction:\n{instruction}\n\n### Response:\n"
"""Dolly's frame, without the sentence of introduction that stands before it in Dolly's own code."""


class Record(NamedTuple):
    """What somebody asked, and how it should be answered."""

    instruction: str  #: What the user writes.
    response: str  #: What the model should write then.


def ids_and_targets(
    record: Record, tokenizer: ByteBPE, end_id: int, *, frame: str = FRAME, response_only: bool = True
) -> tuple[list[int], list[int]]:
    """Return a framed record as ids, and for each of them the id to be predicted next.

    Args:
        end_id: the token that ends a response; it is learned as well, or the model would never stop.
        frame: a text with ``{instruction}`` in it.
        response_only: learn the response alone. Otherwise frame and instruction are learned too.

    Returns:
        Ids and targets of one length T. A target of -100 is not learned.

    Raises:
        ValueError: the frame has no place for the instruction, or the response is empty.

    Example:
        >>> bpe = ByteBPE.train([], 257, special_tokens=["<end>"])
        >>> ids, targets = ids_and_targets(Record("Hi?", "Yo"), bpe, 256, frame="{instruction}>")
        >>> bpe.decode(ids)
        'Hi?>Yo'
        >>> targets  # nothing three times, then Y, o and the end
        [-100, -100, -100, 56, 78, 256]
    """
    prompt = tokenizer.encode(framed(record.instruction, frame))
    if not record.response:
        raise ValueError(f"record has an empty response to {record.instruction!r:.60}: there is nothing to learn")
    # Prompt and response are encoded apart: when the model is asked, the prompt stands there alone.
    text = [*prompt, *tokenizer.encode(record.response), end_id]
    ids, targets = text[:-1], text[1:]
    if response_only:  # the user writes the instruction; the model need not learn how
        before = len(prompt) - 1  # the last token of the prompt predicts the first one of the response
        targets[:before] = [IGNORE_INDEX] * before
    return ids, targets


def framed(instruction: str, frame: str = FRAME) -> str:
    """Return the text after which the model is to write its response.

    Example:
        >>> framed("Name a fish.")
        '### Instruction:\\nName a fish.\\n\\n### Response:\\n'
    """
    if frame.count("{instruction}") != 1:
        raise ValueError(f"frame={frame!r}: write {{instruction}} once, where the instruction belongs")
    return frame.replace("{instruction}", instruction)


def instruction_batches(
    records: Sequence[Record],
    tokenizer: ByteBPE,
    batch_size: int,
    *,
    end_id: int,
    seed: int = 0,
    frame: str = FRAME,
    response_only: bool = True,
) -> Iterator[tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]]:
    """Yield batches of ids and targets for :func:`~nextword.training.fit`, without end.

    Every pass goes through all records in another order; a batch may hold the end of one pass and the beginning of the
    next, so that four records fill a batch of eight.

    Raises:
        ValueError: there is no record, or ``batch_size`` is below 1.
    """
    if not records or batch_size < 1:
        raise ValueError(f"records holds {len(records)} and batch_size={batch_size}; one at least is needed of both")
    rows = [ids_and_targets(r, tokenizer, end_id, frame=frame, response_only=response_only) for r in records]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = random.Random(seed)
        stream = (row for _ in itertools.count() for row in order.sample(rows, len(rows)))
        while True:
            ids, targets = zip(*itertools.islice(stream, batch_size), strict=True)
            # Padding stands behind the text, where a causal model does not see it, and is not learned.
            yield pad(ids, end_id)[0], pad(targets, IGNORE_INDEX)[0]

    return batches()


def freeze(model: Decoder, n_blocks: int) -> None:
    """Keep embeddings, output matrix and the lowest ``n_blocks`` blocks as they are; the other blocks are trained.

    Fewer weights move, and no gradient has to be carried down to the frozen blocks, which is faster.

    Raises:
        ValueError: there are not that many blocks, or none would be left to train.
    """
    if not 0 <= n_blocks < len(model.blocks):
        raise ValueError(
            f"n_blocks={n_blocks} is outside 0 … {len(model.blocks) - 1}; the model has {len(model.blocks)}"
        )
    model.requires_grad_(False)  # with tied embeddings the matrix that scores the words is frozen as well
    model.norm.requires_grad_(True)
    for block in model.blocks[n_blocks:]:
        block.requires_grad_(True)


class Answer(NamedTuple):
    """What a model wrote, and whether it stopped by itself."""

    text: str  #: Without the frame and without the end.
    ended: bool  #: Whether the model wrote the token that ends a response.


def answer(
    model: Decoder,
    tokenizer: ByteBPE,
    instructions: Sequence[str],
    *,
    end_id: int,
    max_new_tokens: int = 32,
    frame: str = FRAME,
    batch_size: int = 32,
) -> list[Answer]:
    """Return what the model writes after each framed instruction, the likeliest token each time.

    Args:
        end_id: the token that ends a response; it is no part of the text.
        max_new_tokens: where a response is cut off that does not end.
        batch_size: instructions answered at once, those of like length together.

    Raises:
        ValueError: there is no instruction, or one does not fit the context.
    """
    if isinstance(instructions, str) or not instructions:
        raise ValueError(f"instructions={instructions!r:.60}: give a list of texts, one at least")
    prompts = [tokenizer.encode(framed(text, frame)) for text in instructions]
    longest, limit = max(map(len, prompts)) + max_new_tokens, model.config.context_length
    if longest > limit:
        raise ValueError(
            f"instructions and {max_new_tokens} new tokens need {longest} positions; context_length={limit}"
        )
    answers: dict[int, Answer] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # so that little is filled up
    for at in range(0, len(by_length), batch_size):
        batch = by_length[at : at + batch_size]
        device = next(model.parameters()).device
        # Filled up on the left: the newest tokens of all rows stand side by side, where writing goes on.
        ids, mask = pad([prompts[i] for i in batch], end_id, side="left", device=device)
        written = model.generate(ids, max_new_tokens, mask=mask, temperature=0, stop=end_id)[:, ids.shape[1] :]
        for i, row in zip(batch, written.tolist(), strict=True):
            ended = end_id in row  # a row that ended early repeats its end until the longest is done
            answers[i] = Answer(tokenizer.decode(row[: row.index(end_id)] if ended else row).strip(), ended)
    return [answers[i] for i in range(len(prompts))]


@torch.no_grad()
def weight_change(before: dict[str, Tensor], model: Decoder) -> float:
    """Return how far the weights have moved, as a share of their length: ‖after − before‖ / ‖before‖.

    Args:
        before: copies of the model's parameters by name.
    """
    moved = sum((p.float() - before[name].float()).square().sum() for name, p in model.named_parameters())
    return float((moved / sum(w.float().square().sum() for w in before.values())) ** 0.5)


@torch.no_grad()
def token_ranks(model: Decoder, prompt: Sequence[int], written: Sequence[int]) -> Int64[Tensor, " T"]:
    """Return which choice of the model each of T written tokens would have been behind a prompt: 1 is its likeliest.

    What one model wrote, read by another one or behind another frame, shows where the two differ (Lin et al. 2023).

    Raises:
        ValueError: the prompt or what was written is empty.
    """
    if not prompt or not written:
        raise ValueError(f"prompt holds {len(prompt)} ids and written {len(written)}; one at least is needed of both")
    device = next(model.parameters()).device
    text = torch.tensor([[*prompt, *written]], device=device)
    # The last token of the prompt predicts the first one that was written.
    with eval_mode(model):
        logits = model(text[:, :-1]).logits[0, len(prompt) - 1 :]  # (T, V)
    chosen = logits.gather(-1, text[0, len(prompt) :, None])  # (T, 1)
    ranks: Tensor = (logits > chosen).sum(-1) + 1
    return ranks
