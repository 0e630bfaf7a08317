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
from nextword.attention import pad
from nextword.decoder import Cache, Decoder
from nextword.layers import eval_mode
from nextword.tokenizers import ByteBPE, id_row

_TOKENS_AT_ONCE = 2048  # bounds the logits: 2,048 tokens over GPT-2's 50,257 entries are 0.4 GB in float32
_WORTH_SHARING = 64  # tokens: below that, reading a shared prefix apart costs more than it saves


@runtime_checkable
class Tokenizer(Protocol):
    """What ``bits_per_byte`` needs of a tokenizer. Where it has a ``bos_id`` too, texts begin after that token."""

    @property
    def vocab_size(self) -> int:
        """Return the number of different ids."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without a start token."""


# --- How likely is a text --------------------------------------------------------------------------------------------


def perplexity(model: nn.Module, ids: Integer[Tensor, " T"], *, context_length: int | None = None) -> float:
    """Return exp of the mean negative log-likelihood of every token but the first, given what stands before it.

    The text is cut into windows of ``context_length`` inputs, and no token sees further back than the start of its
    window. (Windows that overlap would give more context and a lower number.)

    Args:
        model: ``model(ids)`` of shape (B, T) returns an object with ``.logits`` of shape (B, T, V), where position t
            scores the token at t + 1. It runs in evaluation mode and is put back as it was found.
        ids: the text, at least two tokens.
        context_length: inputs in a window; without it ``model.config.context_length``, which is the most.

    Raises:
        ValueError: ``ids`` or ``context_length`` does not fit the model, or there is no context length.
        TypeError: ``ids`` is no tensor of whole numbers, or the model returns no logits.

    Source: Bengio et al. 2003, section 2. Used in: 2003_next_word, 2019_gpt2, and wherever a model is measured.
    """
    ids = _checked(model, ids)
    mean = _negative_log_likelihood(model, ids, context_length) / (len(ids) - 1)  # nats a token, the first left out
    # exp of the mean is the geometric mean of 1/p: a model that hesitates between k equally likely tokens at every
    # place has a perplexity of k. Past the largest float64 the answer is inf, and NaN where the mean is NaN.
    return math.exp(mean) if mean < 709 else mean * math.inf  # exp(710) has no float64


def bits_per_byte(model: nn.Module, tokenizer: Tokenizer, text: str, *, context_length: int | None = None) -> float:
    """Return the bits that the model needs for a text over the text's bytes in UTF-8.

    Perplexities of models with different tokenizers cannot be compared, since their tokens differ. Their bits per byte
    can: both describe the same bytes. The first token counts too: with the tokenizer's ``bos_id`` before it as the model
    scores it, and without one as a guess among all tokens, log2(V) bits.

    Args:
        model: as for :func:`perplexity`.
        tokenizer: has ``encode(text)`` and ``vocab_size``, perhaps ``bos_id``.
        text: at least one character.
        context_length: as for :func:`perplexity`.

    Raises:
        TypeError: ``text`` is no text, such as a tokenizer where the two were exchanged.
        ValueError: the text is empty, or there is no context length.

    Source: Radford et al. 2019, section 3.1. Used in: 2019_gpt2.
    """
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}; the order is bits_per_byte(model, tokenizer, text)")
    if not text:
        raise ValueError("text is empty: it has no bytes to divide by")
    # The first token must be paid for too. Where texts begin with a start token, the model scores it after that one;
    # else it costs log2(V) bits, a uniform guess, since the model says nothing about it.
    bos_id = getattr(tokenizer, "bos_id", None)
    ids = ([] if bos_id is None else [bos_id]) + list(tokenizer.encode(text))
    nats = math.log(tokenizer.vocab_size) if bos_id is None else 0.0
    if len(ids) > 1:  # a single token without a start token has nothing before it
        nats += _negative_log_likelihood(model, _checked(model, torch.tensor(ids)), context_length)
    # A nat is 1/log(2) bits. The sum over all tokens is divided by the bytes, not by the tokens, whose number depends
    # on the tokenizer. The start token is given to the model: it has no bytes and is not scored.
    return nats / math.log(2) / len(text.encode("utf-8"))


def _negative_log_likelihood(model: nn.Module, ids: Tensor, context_length: int | None) -> float:
    """Return the nats of ``ids[1:]``, window by window, added up in float64."""
    limit = _limit(model, "context_length")
    context_length = limit if context_length is None else context_length
    if context_length is None:
        raise ValueError("context_length is missing, and the model has no config.context_length to take it from")
    if context_length < 1 or (limit is not None and context_length > limit):
        raise ValueError(f"context_length={context_length} is outside 1 … {limit or 'the length of the text'}")
    ids = ids.to(next(model.parameters(), ids).device)  # a model without parameters works where the text lies
    # Each window begins with the last target of the one before, so that every token but the first is scored once.
    n = (len(ids) - 1) // context_length * context_length  # targets in windows of full length
    # Inputs and targets are the same text, the targets shifted by one: position t is scored on the token at t + 1.
    windows, targets = (x.view(-1, context_length) for x in (ids[:n], ids[1 : n + 1]))  # (windows, T)
    at_once = max(1, _TOKENS_AT_ONCE // context_length)  # windows in a batch; a long window is read alone
    batches = list(zip(torch.split(windows, at_once), torch.split(targets, at_once), strict=True)) if n else []
    if n < len(ids) - 1:  # the shorter window at the end
        batches.append((ids[None, n:-1], ids[None, n + 1 :]))
    nats = 0.0
    # Without dropout, which would make the number random, and without the memory that gradients need.
    with torch.inference_mode(), eval_mode(model):
        for inputs, labels in batches:
            logits = getattr(model(inputs), "logits", None)  # (B, T, V)
            if not isinstance(logits, Tensor) or logits.shape[:-1] != inputs.shape:
                came = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else "no logits"
                raise TypeError(
                    f"model(ids) gave {came}; for ids of shape {tuple(inputs.shape)} it must give (B, T, V)"
                )
            losses = F.cross_entropy(_in_full(logits).flatten(0, 1), labels.flatten(), reduction="none")  # (B·T,)
            nats += losses.double().sum().item()  # a long sum in float32 would lose the small digits
    return nats


def _checked(model: nn.Module, ids: object) -> Tensor:
    """Return ``ids`` as int64, or say why they are no text for this model."""
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
        kind = f"tensor of {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
        fix = "tokenizer.encode(text)" if isinstance(ids, str) else "ids"
        raise TypeError(f"ids is a {kind}; give a tensor of whole numbers, such as torch.tensor({fix})")
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"ids has shape {tuple(ids.shape)}; give one text (T,) of at least two tokens")
    ids = ids.long()  # uint16, as texts are stored, has no min
    _check_range(model, "ids", int(ids.min()), int(ids.max()))
    return ids


def _check_range(model: nn.Module, name: str, low: int, high: int) -> None:
    """Refuse ids that run beyond the model's vocabulary, where it has one."""
    size = _limit(model, "vocab_size")
    if low < 0 or (size is not None and high >= size):
        raise ValueError(f"{name} run from {low} to {high}; they must lie in 0 … {'V' if size is None else size} - 1")


def _limit(model: nn.Module, name: str) -> int | None:
    """Return a number of the model's configuration, or None where it has none."""
    value = getattr(getattr(model, "config", None), name, None)
    return value if isinstance(value, int) else None


def _in_full(logits: Tensor) -> Tensor:
    """Return logits in float32 at least: in bfloat16 a probability would be off by some percent."""
    return logits if logits.dtype == torch.float64 else logits.float()


class Likelihood(NamedTuple):
    """How a model sees a continuation."""

    log_prob: float
    """Sum of the log-probabilities of its tokens, in nats."""
    is_greedy: bool
    """Every token is the model's first choice."""


def loglikelihood(
    model: nn.Module,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str | Sequence[int], str | Sequence[int]]],
    *,
    bos_id: int | None = None,
    share_prefix: bool = True,
) -> list[Likelihood]:
    """Return how likely a model finds each continuation after its context.

    Context and continuation are tokenised as one text, as the model would meet them; spaces at the end of a context count
    to the continuation, since in byte-level vocabularies they begin its first word. A text that is longer than the
    model's context loses its beginning.

    A context or a continuation may be ids as well. They are taken as they are, and a text beside them is tokenised alone. So a
    conversation that :meth:`~nextword.tokenizers.ByteBPE.encode_chat` returns can be a context, and a special token, which a text
    cannot name, a continuation: ``(ids, [stop])`` asks whether the answer ends here.

    Args:
        model: as for :func:`perplexity`; it must take ``mask=`` where the texts differ in length.
        tokenizer: has ``encode(text)``.
        pairs: (context, continuation); the continuation has at least one token.
        bos_id: an id to put before each text, such as that of the end-of-text token. Without it a context may not be
            empty.
        share_prefix: let a :class:`~nextword.decoder.Decoder` read once what all contexts begin with, such as the
            examples of a few-shot prompt. The numbers are the same without, but come later.

    Raises:
        TypeError: ``pairs`` is one pair or text, not a list of pairs, or a part of one is neither text nor ids.
        ValueError: a continuation is empty, or so is a context without ``bos_id``, or an id is outside the model's vocabulary.

    Source: the rules of EleutherAI's evaluation harness. Used in: 2019_gpt2, 2020_gpt3.
    """
    _check_no_text(pairs=pairs)
    limit = _limit(model, "context_length")
    texts = [_tokenised(tokenizer, *pair, bos_id=bos_id, limit=limit) for pair in pairs]  # (ids, n) each
    for ids, _ in texts:
        _check_range(model, "the ids of pairs", min(ids), max(ids))
    # Questions of one task often begin with the same solved examples. In a decoder nothing that follows can change the
    # keys and values of what stands before, so that these are computed for all rows together.
    prefix = _shared_prefix([ids[:-n] for ids, n in texts]) if share_prefix and isinstance(model, Decoder) else []
    # The last token of a text is scored but never read, so continuations of one token after one context share a reading.
    pairs_by_reading: dict[tuple[int, ...], list[int]] = {}
    for i, (ids, _) in enumerate(texts):
        pairs_by_reading.setdefault(tuple(ids[:-1]), []).append(i)
    results: dict[int, Likelihood] = {}
    device = next(model.parameters()).device
    with torch.inference_mode(), eval_mode(model):
        prefix_cache = model.prefill(torch.tensor(prefix, device=device)) if prefix else None  # type: ignore[operator]
        # Texts of like lengths are read together: all rows of a batch are filled up to its longest.
        for batch in _length_batches(list(pairs_by_reading), len(prefix)):
            inputs, mask = pad([ids[len(prefix) :] for ids in batch], device=device)  # (B, T)
            positions, targets, lengths, order = [], [], [], []
            for row, reading in enumerate(batch):
                end = len(reading) - len(prefix)
                for i in pairs_by_reading[reading]:
                    ids, n = texts[i]
                    positions += [(row, t) for t in range(end - n, end)]  # position t scores the token at t + 1
                    targets += ids[-n:]  # the tokens that these positions should predict
                    lengths.append(n)
                    order.append(i)
            logits = _logits_at(model, inputs, mask, positions, prefix_cache)  # (P, V): P tokens in all continuations
            words = torch.tensor(targets, device=logits.device)  # (P,)
            # log p of each token given the context and the continuation's tokens before it
            log_probs = logits.log_softmax(-1).gather(-1, words[:, None])[:, 0].double()  # (P,)
            first_choice = logits.argmax(-1) == words  # (P,): would greedy writing have chosen this token
            by_pair = torch.split(log_probs, lengths), torch.split(first_choice, lengths)  # P tokens, by continuation
            for i, log_prob, first in zip(order, *by_pair, strict=True):
                # The chain rule: the log-probability of a continuation is the sum over its tokens.
                results[i] = Likelihood(log_prob.sum().item(), bool(first.all()))
    return [results[i] for i in range(len(pairs))]  # in the caller's order; the batches came by length


def _check_no_text(**lists: Sequence[object]) -> None:
    """Refuse a text where a list of texts or of pairs is wanted: its letters would be taken for them."""
    for name, items in lists.items():
        kind = "a list of pairs of texts" if name in ("pairs", "examples") else "a list of texts"
        if isinstance(items, str) or (name in ("pairs", "examples") and any(isinstance(x, str) for x in items)):
            raise TypeError(f"{name} is {items!r:.60}; give {kind}")


def _tokenised(
    tokenizer: Tokenizer,
    context: str | Sequence[int],
    continuation: str | Sequence[int],
    *,
    bos_id: int | None,
    limit: int | None,
) -> tuple[list[int], int]:
    """Return the ids of both together, and how many of them are the continuation's."""
    if isinstance(context, str) and isinstance(continuation, str):
        before, after = _cut_together(tokenizer, context, continuation)
    else:
        before = _ids_of(tokenizer, context, "a context in pairs")
        after = _ids_of(tokenizer, continuation, "a continuation in pairs")
    ids, n = ([] if bos_id is None else [bos_id]) + before + after, len(after)
    if n < 1:
        raise ValueError(f"pairs holds the continuation {continuation!r}, which adds no token to {context[-40:]!r}")
    if limit is not None and n > limit:
        raise ValueError(f"pairs holds a continuation of {n} tokens, and the model sees context_length={limit} at once")
    if n == len(ids):
        raise ValueError("pairs holds an empty context; give bos_id=, the id that texts begin with")
    return (ids if limit is None else ids[-(limit + 1) :]), n  # the last token is only scored: limit + 1 fit


def _ids_of(tokenizer: Tokenizer, part: str | Sequence[int], name: str) -> list[int]:
    """Return a text's ids, and ids as they are."""
    return list(tokenizer.encode(part)) if isinstance(part, str) else id_row(part, name)


def _cut_together(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the ids of both, cut as one text."""
    # In a byte-level vocabulary the token of a word begins with its space, as in " cat". If the context kept its last
    # space, the model would have to go on with "cat" after a lone space, which it has hardly ever seen.
    moved = context[len(context.rstrip(" ")) :]
    context, continuation = context[: len(context) - len(moved)], moved + continuation
    ids = list(tokenizer.encode(context + continuation))
    # Context and continuation share a token where a merge crosses their border. So counts decide: as many tokens as the
    # context has alone belong to it, and the rest to the continuation.
    n = len(tokenizer.encode(context))
    return ids[:n], ids[n:]


def _shared_prefix(contexts: list[list[int]]) -> list[int]:
    """Return what all contexts begin with, their last tokens apart; nothing where that saves too little to be worth it."""
    # What the first and the last in order have in common at their beginning, all between them have too.
    first, last = min(contexts, default=[]), max(contexts, default=[])  # lexicographically
    n = next((t for t, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    # The last token of each text must be read by its own row: its logits score the first token of what comes next.
    n = min(n, min(map(len, contexts), default=0) - 1)
    return first[:n] if n * (len(contexts) - 1) > _WORTH_SHARING else []  # saved: n tokens in all texts but one


def _length_batches(texts: list[tuple[int, ...]], n_shared: int) -> Iterator[list[tuple[int, ...]]]:
    """Cut texts into batches of like lengths and of a bounded number of tokens; a shared prefix counts an eighth."""
    batch: list[tuple[int, ...]] = []
    for text in sorted(texts, key=len):
        # In order of length the text to be added is the longest, to which the others are filled up. A shared prefix is
        # not read again, but each row stores its keys and values.
        if batch and (len(batch) + 1) * max(len(text) - n_shared, n_shared / 8) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _logits_at(
    model: nn.Module, ids: Tensor, mask: Tensor, positions: list[tuple[int, int]], prefix: Cache | None
) -> Tensor:
    """Return the logits (P, V) at P positions (row, t), in float32 at least; a decoder computes no others."""
    rows, times = (torch.tensor(x, device=ids.device) for x in zip(*positions, strict=True))  # (P,) each
    if not isinstance(model, Decoder):
        return _in_full(model(ids, mask=mask).logits[rows, times])
    cache = None
    if prefix is not None:
        # Keys and values of the prefix were computed for one row and are seen by all B. The mask covers them, too.
        cache = [layer.expand(len(ids)) for layer in prefix]
        mask = F.pad(mask, (prefix[0].length, 0), value=True)  # (B, prefix + T)
    # A vocabulary is large: its matrix is applied to the P vectors that are scored, not to all B·T.
    return _in_full(model.output(model.hidden(ids, mask=mask, cache=cache)[rows, times]))


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

    Args:
        examples: (query, answer) of the same task; those whose query is ``query`` are left out.
        k: 0 is zero-shot, 1 one-shot, more few-shot.
        query: what the model shall answer.
        template: one example; ``{answer}`` ends it.
        separator: stands between the parts.
        instruction: the first part; an empty one is left out.
        generator: source of the random numbers; None for torch's own. Generators of one seed draw the same examples for
            every query, and :func:`loglikelihood` and :func:`generate_until` then read them once.

    Raises:
        TypeError: ``examples`` is a text or a single pair.
        ValueError: ``k`` is negative or above the examples that are left, or the template lacks a slot.

    Source: Brown et al. 2020, figure 2.1 and section 2.4. Used in: 2020_gpt3.

    Example:
        >>> few_shot_prompt([("dog", "dogs")], 1, query="cat")
        'dog -> dogs\\ncat ->'
    """
    _check_no_text(examples=examples)
    if "{query}" not in template or not template.endswith("{answer}"):
        raise ValueError(f"template={template!r}: it needs {{query}}, and {{answer}} at its end")
    # The order of all examples is drawn, whatever k is: with one seed, few shots are the first ones of many.
    drawn = [examples[i] for i in torch.randperm(len(examples), generator=generator).tolist()]
    others = [example for example in drawn if example[0] != query]  # else the answer would stand in the prompt
    if not 0 <= k <= len(others):
        raise ValueError(f"k={k} is outside 0 … {len(others)}, the examples other than the query")
    # The examples are only read: no gradient is taken and no weight changes (section 2.4). The parts come in the order
    # of figure 2.1: description of the task, examples, prompt.
    solved = [template.format(query=q, answer=a) for q, a in others[:k]]
    asked = template.format(query=query, answer="").rstrip(" ")  # the space belongs to the answer's first token
    return separator.join([instruction] * bool(instruction) + solved + [asked])


class Choice(NamedTuple):
    """A question with several answers to choose from."""

    context: str  #: The question, with all that stands before the answer.
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
    bos_id: int | None = None,
) -> Accuracy:
    """Return how often the model finds the right answer the likeliest; of equals the first counts.

    Args:
        model, tokenizer, bos_id: as for :func:`loglikelihood`.
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

    def score(contexts: Sequence[str]) -> list[list[float]]:  # one row an item, one number a choice
        pairs = [(context, choice) for context, item in zip(contexts, items, strict=True) for choice in item.choices]
        likelihoods = iter(loglikelihood(model, tokenizer, pairs, bos_id=bos_id))
        return [[next(likelihoods).log_prob for _ in item.choices] for item in items]

    def is_right(scores: Sequence[Sequence[float]]) -> list[bool]:
        return [row.index(max(row)) == item.answer for row, item in zip(scores, items, strict=True)]

    plain = score([item.context for item in items])  # log P(answer | question), nats
    # A sum of logarithms is the lower the longer the answer: count it by the character.
    lengths = [[len(choice.lstrip(" ")) for choice in item.choices] for item in items]
    per_char = [[s / n for s, n in zip(*rows, strict=True)] for rows in zip(plain, lengths, strict=True)]
    relative = None
    # A common phrase is likely after every question. Its probability is divided by the one that it has without any:
    # what remains is what the question says for it (Brown et al. 2020, section 2.4).
    if answer_context is not None:  # log of P(answer | question) / P(answer | answer_context)
        alone = score([answer_context] * len(items))
        relative = [[s - a for s, a in zip(*rows, strict=True)] for rows in zip(plain, alone, strict=True)]
    right = is_right(plain)
    return Accuracy(
        acc=float(np.mean(right)),
        acc_per_char=float(np.mean(is_right(per_char))),
        acc_answer_context=None if relative is None else float(np.mean(is_right(relative))),
        # Each question gives 0 or 1: the standard error of their mean is their standard deviation over √n.
        stderr=float(np.std(right, ddof=1) / math.sqrt(len(right))),
        right=tuple(right),
    )


def generate_until(
    model: Decoder,
    tokenizer: ByteBPE,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int = 16,
    stop: str = "\n",
    bos_id: int | None = None,
) -> list[str]:
    """Return what the model writes after each prompt, the likeliest token each time, up to ``stop``.

    Args:
        model: a decoder; its context must hold prompt and answer.
        prompts: texts; spaces at their end are cut off, since they belong to the first token of the answer. Or ids, which are
            taken as they are, such as those of :meth:`~nextword.tokenizers.ByteBPE.encode_chat`.
        max_new_tokens: the longest answer.
        stop: the text that ends an answer, as every special token does, and is not part of it.
        bos_id: an id to put before each prompt, if the model was trained with one.

    Raises:
        TypeError: ``prompts`` is a single text, one of them is neither text nor ids, or ``stop`` is no text.
        ValueError: ``stop`` is empty, a prompt is empty and there is no ``bos_id``, or prompt and answer do not fit the context.

    Used in: 2020_gpt3.
    """
    _check_no_text(prompts=prompts)
    if not isinstance(stop, str):
        fix = "give one text, such as '\\n'; special tokens end an answer by themselves"
        raise TypeError(f"stop={stop!r:.60} is a {type(stop).__name__}; {fix}")
    if not stop:
        raise ValueError("stop is an empty text; give one that ends an answer, such as '\\n'")
    # A space at the end would part the first word of the answer from the space that its token begins with.
    cut = [prompt.rstrip(" ") if isinstance(prompt, str) else prompt for prompt in prompts]
    start = [] if bos_id is None else [bos_id]
    texts = [start + _ids_of(tokenizer, prompt, "an entry of prompts") for prompt in cut]
    if not all(texts):
        raise ValueError("prompts holds an empty text; give bos_id=, the id that texts begin with")
    longest, limit = max(map(len, texts), default=0), model.config.context_length
    if longest + max_new_tokens > limit:
        room = f"max_new_tokens={max_new_tokens}, context_length={limit}"
        raise ValueError(f"prompts holds {longest} tokens; with {room}")
    # The stop may hide inside a token, as a newline does in a token of two newlines. Where it lies across two tokens no
    # single id shows it: such a row is written to its full length, and cut below.
    special, stop_ids = set(tokenizer.special_tokens.values()), _ids_with(tokenizer, stop)
    prefix, device = _shared_prefix(texts), next(model.parameters()).device
    prompt_cache = model.prefill(torch.tensor(prefix, device=device)) if prefix else None  # read once for all prompts
    answers: dict[tuple[int, ...], str] = {}
    # Greedy writing gives the same answer to the same prompt, so that each different prompt is asked once.
    for batch in _length_batches(list(dict.fromkeys(map(tuple, texts))), len(prefix)):
        # Filled up on the left: the last column holds the newest token of every row, where writing goes on.
        ids, mask = pad([text[len(prefix) :] for text in batch], side="left", device=device)  # (B, T)
        written = model.generate(
            ids, max_new_tokens, mask=mask, prompt_cache=prompt_cache, temperature=0, stop=stop_ids
        )
        for text, new in zip(batch, written[:, ids.shape[1] :].tolist(), strict=True):
            # A row that ended early repeats its last token until the longest is done: all from the first special token
            # on, and from the stop on, is cut off.
            ordinary = itertools.takewhile(lambda i: i not in special, new)
            answers[text] = tokenizer.decode(ordinary).split(stop)[0].strip(" ")
    return [answers[tuple(text)] for text in texts]


@functools.lru_cache(maxsize=4)
def _ids_with(tokenizer: ByteBPE, stop: str) -> list[int]:
    """Return the ids that end an answer: special ones, and those whose text holds ``stop``."""
    special = set(tokenizer.special_tokens.values())
    return [i for i in range(tokenizer.vocab_size) if i in special or stop.encode() in tokenizer.token_bytes(i)]


# --- Labels ----------------------------------------------------------------------------------------------------------


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
    # A batch is as wide as its longest text: in order of length, little is filled up.
    examples, n_right = sorted(examples, key=lambda example: len(example[0])), 0
    device = next(model.parameters()).device
    with torch.inference_mode(), eval_mode(model), runtime.autocast():
        for i in range(0, len(examples), batch_size):
            texts, labels = zip(*examples[i : i + batch_size], strict=True)
            predicted = model(*pad(texts, fill, device=device)).logits.argmax(1)  # (B,)
            n_right += int((predicted.cpu() == torch.tensor(labels)).sum())
    return n_right / len(examples)
