"""Ask a language model: how likely it finds a text, which answer it prefers, what it writes.

Scores that need no model, such as BLEU, and intervals are in :mod:`nextword.metrics`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor, nn
from torch.nn import functional as F

from nextword import runtime
from nextword.attention import padded
from nextword.decoder import Decoder
from nextword.layers import eval_mode
from nextword.tokenizers import ByteBPE

_TOKENS_AT_ONCE = 2048  # bounds the logits: 2,048 tokens over GPT-2's 50,257 entries are 0.4 GB in float32
_WORTH_SHARING = 64  # tokens: below that, reading a shared beginning apart costs more than it saves


@runtime_checkable
class Tokenizer(Protocol):
    """What ``bits_per_byte`` needs of a tokenizer. Where it has a ``bos_id`` too, texts begin after that token."""

    @property
    def vocab_size(self) -> int:
        """Return the number of different ids."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without a start token."""


def perplexity(model: nn.Module, ids: Integer[Tensor, " T"], *, context_length: int) -> float:
    """Return exp of the mean negative log-likelihood of every token but the first, given what stands before it.

    The text is cut into windows of ``context_length`` inputs. Each begins with the last target of the window before, so
    every token but the very first is scored exactly once, and none sees further back than the start of its window.
    (Windows that overlap would give more context and a lower number.) The sum is kept in float64.

    Args:
        model: ``model(ids)`` of shape (B, T) returns an object with ``.logits`` of shape (B, T, V), where position t
            scores the token at t + 1. It runs in evaluation mode and is put back as it was found.
        ids: the text, at least two tokens.
        context_length: inputs in a window; at most what the model can take.

    Raises:
        ValueError: ``ids`` or ``context_length`` does not fit the model.
        TypeError: ``ids`` is no tensor of whole numbers, or the model returns no logits.

    Source: Bengio et al. 2003, section 2. Used in: 2003_next_word, 2019_gpt2, and wherever a model is measured.
    """
    ids = _checked(model, ids)
    mean = _negative_log_likelihood(model, ids, context_length) / (len(ids) - 1)
    return math.exp(mean) if mean < 709 else mean * math.inf  # exp(710) has no float64


def bits_per_byte(model: nn.Module, tokenizer: Tokenizer, text: str, *, context_length: int | None = None) -> float:
    """Return the bits that the model needs for a text over the text's bytes in UTF-8.

    Perplexities of models with different tokenizers cannot be compared, since their tokens differ. Their bits per byte
    can: both describe the same bytes. For that the first token must be paid for too. Where the tokenizer has a start
    token (``bos_id``), the model scores the first token after it; else the first token costs log2(V) bits, a uniform
    guess, as the model says nothing about it.

    Args:
        model: as for :func:`perplexity`.
        tokenizer: has ``encode(text)`` and ``vocab_size``, perhaps ``bos_id``.
        text: at least one character.
        context_length: inputs in a window; without it, ``model.config.context_length``.

    Raises:
        ValueError: the text is empty, or there is no context length.

    Source: Radford et al. 2019, section 3.1. Used in: 2019_gpt2.
    """
    if not text:
        raise ValueError("text is empty: it has no bytes to divide by")
    length = context_length if context_length is not None else _limit(model, "context_length")
    if length is None:
        raise ValueError("context_length is missing, and the model has no config.context_length to take it from")
    start = getattr(tokenizer, "bos_id", None)
    ids = ([] if start is None else [start]) + list(tokenizer.encode(text))
    nats = math.log(tokenizer.vocab_size) if start is None else 0.0
    if len(ids) > 1:  # a single token without a start token has nothing before it
        nats += _negative_log_likelihood(model, _checked(model, torch.tensor(ids)), length)
    return nats / math.log(2) / len(text.encode("utf-8"))


class Likelihood(NamedTuple):
    """How a model sees a continuation."""

    log_prob: float
    """Sum of the log-probabilities of its tokens, in nats."""
    is_greedy: bool
    """Every token is the model's first choice."""


def loglikelihood(
    model: nn.Module,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    start: int | None = None,
    share_prefix: bool = True,
) -> list[Likelihood]:
    """Return how likely a model finds each continuation after its context.

    Context and continuation are tokenised as one text, as the model would meet them; spaces at the end of a context count
    to the continuation, since in byte-level vocabularies they begin its first word. A text that is longer than the
    model's context loses its beginning.

    What all contexts begin with, such as the examples of a few-shot prompt, is read once. So is a context that has
    several continuations of one token.

    Args:
        model: as for :func:`perplexity`; it must take ``mask=`` where the texts differ in length. A beginning is shared
            only where it is a :class:`~nextword.decoder.Decoder`.
        tokenizer: has ``encode(text)``.
        pairs: (context, continuation); the continuation has at least one token.
        start: an id to put before each text, such as that of the end-of-text token. Without it a context may not be empty.
        share_prefix: False to read every context from its beginning, which gives the same numbers later.

    Raises:
        ValueError: a continuation is empty, or so is a context without ``start``.

    Source: the rules of EleutherAI's evaluation harness. Used in: 2019_gpt2, 2020_gpt3.
    """
    limit = _limit(model, "context_length")
    rows = [_tokenised(tokenizer, *pair, start=start, limit=limit) for pair in pairs]
    asking: dict[tuple[int, ...], list[int]] = {}  # what is read, and the rows that ask about it
    for i, (ids, _) in enumerate(rows):
        asking.setdefault(tuple(ids[:-1]), []).append(i)
    shared = _shared_prefix([ids[:-n] for ids, n in rows]) if share_prefix and isinstance(model, Decoder) else []
    found: dict[int, Likelihood] = {}
    device = next(model.parameters()).device
    with torch.inference_mode(), eval_mode(model):
        for some in _batches(list(asking), len(shared)):
            inputs, mask = padded([ids[len(shared) :] for ids in some], device=device)
            asked = [(row, i) for row, ids in enumerate(some) for i in asking[ids]]
            ends = {i: len(some[row]) - len(shared) for row, i in asked}
            places = [(row, t) for row, i in asked for t in range(ends[i] - rows[i][1], ends[i])]
            logits = _logits_at(model, inputs, mask, places, shared)  # (places, V)
            targets = torch.tensor([t for _, i in asked for t in rows[i][0][-rows[i][1] :]], device=logits.device)
            chosen = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0].double()
            first = logits.argmax(-1) == targets
            lengths = [rows[i][1] for _, i in asked]
            each = zip(asked, torch.split(chosen, lengths), torch.split(first, lengths), strict=True)
            found |= {i: Likelihood(c.sum().item(), bool(f.all())) for (_, i), c, f in each}
    return [found[i] for i in range(len(rows))]


def _tokenised(
    tokenizer: Tokenizer, context: str, continuation: str, *, start: int | None, limit: int | None
) -> tuple[list[int], int]:
    """Return the ids of both together, and how many of them are the continuation's."""
    moved = context[len(context.rstrip(" ")) :]
    context, continuation = context[: len(context) - len(moved)], moved + continuation
    before = [] if start is None else [start]
    whole = before + list(tokenizer.encode(context + continuation))
    n = len(whole) - len(before) - len(tokenizer.encode(context))
    if n < 1:
        raise ValueError(f"pairs holds the continuation {continuation!r}, which adds no token to {context[-40:]!r}")
    if limit is not None and n > limit:
        raise ValueError(f"pairs holds a continuation of {n} tokens, and the model sees context_length={limit} at once")
    if n == len(whole):
        raise ValueError("pairs holds an empty context; give start=, the id that texts begin with")
    return (whole if limit is None else whole[-(limit + 1) :]), n


def _shared_prefix(contexts: list[list[int]]) -> list[int]:
    """Return what all contexts begin with, their last tokens apart; nothing where that saves too little to be worth it."""
    first, last = min(contexts, default=[]), max(contexts, default=[])  # in the order of a dictionary
    n = next((t for t, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    n = min(n, min(map(len, contexts), default=0) - 1)
    return first[:n] if n * (len(contexts) - 1) > _WORTH_SHARING else []


def _batches(texts: list[tuple[int, ...]], shared: int) -> Iterator[list[tuple[int, ...]]]:
    """Cut texts into batches of like lengths and of a bounded number of tokens; a shared beginning counts an eighth."""
    some: list[tuple[int, ...]] = []
    for text in sorted(texts, key=len):
        if some and (len(some) + 1) * max(len(text) - shared, shared / 8) > _TOKENS_AT_ONCE:
            yield some
            some = []
        some.append(text)
    if some:
        yield some


def _logits_at(model: nn.Module, ids: Tensor, mask: Tensor, places: list[tuple[int, int]], shared: list[int]) -> Tensor:
    """Return the logits at some places (row, t), in float32 at least; a decoder computes no others."""
    rows, times = (torch.tensor(x, device=ids.device) for x in zip(*places, strict=True))
    if isinstance(model, Decoder):
        cache = None
        if shared:
            cache = [layer.expand(len(ids)) for layer in model.prefill(torch.tensor(shared, device=ids.device))]
            mask = F.pad(mask, (len(shared), 0), value=True)
        logits: Tensor = model.output(model.hidden(ids, mask=mask, cache=cache)[rows, times])
    else:
        logits = model(ids, mask=mask).logits[rows, times]
    return logits if logits.dtype == torch.float64 else logits.float()


# --- Tasks given in the prompt ---------------------------------------------------------------------------------------


def few_shot_prompt(
    examples: Sequence[tuple[str, str]],
    k: int,
    *,
    query: str,
    template: str = "{query} -> {answer}",
    separator: str = "\n",
    instruction: str = "",
    generator: torch.Generator | None = None,
) -> str:
    """Return a prompt: perhaps an instruction, ``k`` examples with their answers, and a query that waits for its own.

    The examples are drawn at random, each at most once; those whose query is ``query`` are left out. Generators of one
    seed draw the same ones for every query (a query that is left out apart), and :func:`loglikelihood` and
    :func:`complete` then read them once.

    Args:
        examples: (query, answer) of the same task.
        k: 0 is zero-shot, 1 one-shot, more few-shot.
        query: what the model shall answer.
        template: one example; ``{answer}`` ends it.
        separator: stands between the parts.
        instruction: the first part; an empty one is left out.
        generator: source of the random numbers; None for torch's own.

    Raises:
        ValueError: ``k`` is negative or above the examples that are left, or the template lacks a slot.

    Source: Brown et al. 2020, figure 2.1 and section 2.4. Used in: 2020_gpt3.

    Example:
        >>> few_shot_prompt([("dog", "dogs")], 1, query="cat")
        'dog -> dogs\\ncat ->'
    """
    if "{query}" not in template or not template.endswith("{answer}"):
        raise ValueError(f"template={template!r}: it needs {{query}}, and {{answer}} at its end")
    drawn = [examples[i] for i in torch.randperm(len(examples), generator=generator).tolist()]
    others = [example for example in drawn if example[0] != query]
    if not 0 <= k <= len(others):
        raise ValueError(f"k={k} is outside 0 … {len(others)}, the examples other than the query")
    shown = [template.format(query=q, answer=a) for q, a in others[:k]]
    asked = template.format(query=query, answer="").rstrip(" ")  # the space belongs to the answer's first token
    return separator.join([instruction] * bool(instruction) + shown + [asked])


class Choice(NamedTuple):
    """A question with several answers to choose from."""

    context: str
    choices: tuple[str, ...]
    """Each as it would stand right behind the context, mostly with a space first."""
    answer: int
    """Which of them is right, counted from 0."""


class Accuracy(NamedTuple):
    """The share of questions answered rightly, by three ways to compare answers of different lengths."""

    acc: float
    """The answer with the highest probability is chosen."""
    acc_per_char: float
    """The log-probability is divided by the answer's characters first, the space before it not counted."""
    acc_answer_context: float | None
    """The probability is divided by that of the same answer after ``answer_context``, where one was given."""
    stderr: float
    """Standard error of ``acc``."""
    right: tuple[bool, ...]
    """Which questions ``acc`` counts."""


def multiple_choice(
    model: nn.Module,
    tokenizer: Tokenizer,
    items: Sequence[Choice],
    *,
    answer_context: str | None = None,
    start: int | None = None,
) -> Accuracy:
    """Return how often the model finds the right answer the likeliest; of equals the first counts.

    Args:
        model, tokenizer, start: as for :func:`loglikelihood`.
        items: at least two questions.
        answer_context: such as ``"Answer:"``. It says how likely an answer is without its question, so that common
            words do not win for being common.

    Raises:
        ValueError: fewer than two items, or one whose answer is not among its choices, or whose choice is empty.

    Source: Brown et al. 2020, section 2.4; by characters: EleutherAI's evaluation harness. Used in: 2020_gpt3.
    """
    if len(items) < 2:
        raise ValueError(f"items holds {len(items)}; at least 2 are needed for a standard error")
    for item in items:
        if not 0 <= item.answer < len(item.choices):
            raise ValueError(f"items holds the answer {item.answer} to {len(item.choices)} choices: {item!r:.80}")
        if not all(choice.strip(" ") for choice in item.choices):
            raise ValueError(f"items holds an empty choice: {item!r:.80}")

    def scores(contexts: Sequence[str]) -> list[list[float]]:
        pairs = [(c, choice) for c, item in zip(contexts, items, strict=True) for choice in item.choices]
        found = iter(loglikelihood(model, tokenizer, pairs, start=start))
        return [[next(found).log_prob for _ in item.choices] for item in items]

    def right(rows: Sequence[Sequence[float]]) -> list[bool]:
        return [row.index(max(row)) == item.answer for row, item in zip(rows, items, strict=True)]

    plain = scores([item.context for item in items])
    lengths = [[len(choice.lstrip(" ")) for choice in item.choices] for item in items]
    by_length = [[s / n for s, n in zip(*rows, strict=True)] for rows in zip(plain, lengths, strict=True)]
    relative = None
    if answer_context is not None:
        alone = scores([answer_context] * len(items))
        relative = [[s - a for s, a in zip(*rows, strict=True)] for rows in zip(plain, alone, strict=True)]
    best = right(plain)
    return Accuracy(
        acc=float(np.mean(best)),
        acc_per_char=float(np.mean(right(by_length))),
        acc_answer_context=None if relative is None else float(np.mean(right(relative))),
        stderr=float(np.std(best, ddof=1) / math.sqrt(len(best))),
        right=tuple(best),
    )


def complete(
    model: Decoder,
    tokenizer: ByteBPE,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 16,
    stop: str = "\n",
    start: int | None = None,
) -> list[str]:
    """Return what the model writes after each prompt, the likeliest token each time, up to ``stop``.

    What all prompts begin with is read once; the rest of them is filled up on the left and written in batches.

    Args:
        model: a decoder; its context must hold prompt and answer.
        prompts: texts; spaces at their end are cut off, since they belong to the first token of the answer.
        max_new_tokens: the longest answer.
        stop: ends an answer, as a special token does, and is not part of it.
        start: an id to put before each prompt, if the model was trained with one.

    Raises:
        ValueError: a prompt is empty and there is no ``start``, or prompt and answer do not fit the context.

    Used in: 2020_gpt3.
    """
    texts = [([] if start is None else [start]) + tokenizer.encode(prompt.rstrip(" ")) for prompt in prompts]
    if not all(texts):
        raise ValueError("prompts holds an empty text; give start=, the id that texts begin with")
    longest, limit = max(map(len, texts), default=0), model.config.context_length
    if longest + max_new_tokens > limit:
        raise ValueError(
            f"prompts holds {longest} tokens; with max_new_tokens={max_new_tokens}, context_length={limit}"
        )
    special, stops = set(tokenizer.special_tokens.values()), _stops(tokenizer, stop)
    shared = _shared_prefix(texts)
    device = next(model.parameters()).device
    prompt_cache = model.prefill(torch.tensor(shared, device=device)) if shared else None
    answers: dict[tuple[int, ...], str] = {}
    for some in _batches(list(dict.fromkeys(map(tuple, texts))), len(shared)):
        ids, mask = padded([text[len(shared) :] for text in some], left=True, device=device)
        written = model.generate(ids, max_new_tokens, mask=mask, prompt_cache=prompt_cache, temperature=0, stop=stops)
        for text, row in zip(some, written[:, ids.shape[1] :].tolist(), strict=True):
            ordinary = itertools.takewhile(lambda i: i not in special, row)
            answers[text] = tokenizer.decode(ordinary).split(stop)[0].strip(" ")
    return [answers[tuple(text)] for text in texts]


@functools.lru_cache(maxsize=4)
def _stops(tokenizer: ByteBPE, stop: str) -> list[int]:
    """Return the ids that end an answer: special ones, and those whose text holds ``stop``."""
    special = set(tokenizer.special_tokens.values())
    return [i for i in range(tokenizer.vocab_size) if i in special or stop.encode() in tokenizer.token_bytes(i)]


def _negative_log_likelihood(model: nn.Module, ids: Tensor, context_length: int) -> float:
    """Return the nats of ``ids[1:]``, window by window."""
    limit = _limit(model, "context_length")
    if context_length < 1 or (limit is not None and context_length > limit):
        raise ValueError(f"context_length={context_length} is outside 1 … {limit or 'the length of the text'}")
    parameter = next(model.parameters(), ids)
    ids = ids.to(parameter.device)
    whole = (len(ids) - 1) // context_length * context_length  # targets in windows of full length
    inputs = ids[:whole].view(-1, context_length)  # (windows, T)
    targets = ids[1 : whole + 1].view(-1, context_length)
    at_once = max(1, _TOKENS_AT_ONCE // context_length)
    batches = list(zip(torch.split(inputs, at_once), torch.split(targets, at_once), strict=True)) if whole else []
    if whole < len(ids) - 1:  # the shorter window at the end
        batches.append((ids[None, whole:-1], ids[None, whole + 1 :]))
    with torch.inference_mode(), eval_mode(model):
        return sum(_score(model, x, y) for x, y in batches)


def _score(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    logits = getattr(model(inputs), "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != inputs.shape:
        found = "no logits" if not isinstance(logits, Tensor) else f"logits of shape {tuple(logits.shape)}"
        raise TypeError(f"model(ids) gave {found}; for ids of shape {tuple(inputs.shape)} it must give (B, T, V)")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").double().sum().item()


def _checked(model: nn.Module, ids: object) -> Tensor:
    """Return ``ids`` as int64, or say why they are no text for this model."""
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise TypeError(f"ids is of type {getattr(ids, 'dtype', type(ids).__name__)}; give a tensor of whole numbers")
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"ids has shape {tuple(ids.shape)}; give one text (T,) of at least two tokens")
    ids, size = ids.long(), _limit(model, "vocab_size")  # uint16, as texts are stored, has no min
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (size is not None and high >= size):
        raise ValueError(f"ids run from {low} to {high}; they must lie in 0 … {'V' if size is None else size} - 1")
    return ids


def _limit(model: nn.Module, name: str) -> int | None:
    """Return a number of the model's configuration, or None where it has none."""
    value = getattr(getattr(model, "config", None), name, None)
    return value if isinstance(value, int) else None


# --- Labels -----------------------------------------------------------------------------------------------------------


def accuracy(
    model: nn.Module, examples: Sequence[tuple[Sequence[int], int]], *, fill: int = 0, batch_size: int = 100
) -> float:
    """Return the share of labelled texts for which a classifier finds the right label the likeliest, 0 to 1.

    Args:
        model: called with ids (B, T) and a mask (B, T), returns an object with ``logits`` (B, labels); it is read in
            evaluation mode.
        examples: the ids of each text and the number of its label.
        fill: the id to fill up with, behind a text.
        batch_size: texts read at a time; those of like lengths go together.

    Raises:
        ValueError: there is no example.

    Used in: 2018_gpt1, 2018_bert.
    """
    if not examples:
        raise ValueError("examples is empty")
    rows, right = sorted(examples, key=lambda example: len(example[0])), 0
    device = next(model.parameters()).device
    with torch.inference_mode(), eval_mode(model), runtime.autocast():
        for i in range(0, len(rows), batch_size):
            texts, labels = zip(*rows[i : i + batch_size], strict=True)
            found = model(*padded(texts, fill, device=device)).logits.argmax(1)
            right += int((found.cpu() == torch.tensor(labels)).sum())
    return right / len(rows)
