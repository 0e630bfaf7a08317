"""Turn next-word probabilities into text: filtered sampling, and beam search with GNMT's score.

All functions ask the same question of a model: ``step(ids)`` with ids of shape (N, t) returns the log-probabilities
(N, V) of the next token. Any model can answer it, and so can a table of three words.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeAlias, overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Step: TypeAlias = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
"""What scores the next token: ids (N, t) to log-probabilities (N, V), or to those and an attention (N, S)."""

UNATTENDED = 1e-10
"""Attention that ``coverage_penalty`` takes a source word to have at least, so that its log is finite (-23)."""


# --- Sampling --------------------------------------------------------------------------------------------------------


def filter_logits(
    logits: Float[Tensor, "B V"], *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "B V"]:
    """Return logits / temperature in which every token that may not be drawn is -inf.

    Args:
        logits: log-probabilities will do as well.
        temperature: below 1 sharpens, above 1 flattens. 0 keeps the best token only, the first one of equals.
        top_k: keeps the k best tokens, and those that equal the k-th.
        top_p: keeps the smallest set of best tokens with a mass of at least p.

    Raises:
        ValueError: an argument is out of range, or a row of ``logits`` has no finite maximum.

    Source: Holtzman et al. 2020, section 3.1 (top-p); Fan et al. 2018 (top-k). Used in: 2019_gpt2.

    Example:
        >>> logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
        >>> filter_logits(logits, top_p=0.6).exp()
        tensor([[0.4000, 0.3000, 0.0000, 0.0000]])
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature} is not at least 0; 0 is greedy, 1 leaves the model as it is")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} is below 1; None keeps all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is outside (0, 1]; None keeps all tokens")
    if logits.ndim != 2 or not logits.shape[-1]:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; give (B, V)")
    if not logits.amax(-1).isfinite().all():
        raise ValueError("logits has a row whose largest entry is NaN or infinite, so there is nothing to choose by")
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)  # (B, 1): what dividing by ever smaller temperatures would leave
        return torch.full_like(logits, -math.inf).scatter(-1, best, logits.gather(-1, best))
    # First the temperature, then top-k, then top-p of what is left, whose probabilities sum to 1 again.
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]  # (B, 1), the smallest logit that stays
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p is not None and top_p < 1:
        best_first, order = logits.sort(descending=True, stable=True)
        mass = best_first.softmax(-1)  # (B, V)
        # A token goes if those before it have p already. The one that crosses p stays; OpenAI's GPT-2 code throws it out.
        before = mass.cumsum(-1) - mass  # 0 for the best token, so that one always stays
        # Unlike top-k this keeps few tokens where the model is sure, and many where it is not.
        logits = logits.scatter(-1, order, best_first.masked_fill(before >= top_p, -math.inf))
    return logits


@torch.no_grad()
def sample(
    step: Step,
    ids: Int64[Tensor, "N t"],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | Collection[int] | None = None,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "N t_plus_n"]:
    """Return ``ids`` with up to ``max_new_tokens`` more tokens, each drawn from what :func:`filter_logits` leaves.

    Args:
        step: see the module; logits will do as well.
        ids: N beginnings of one length t ≥ 1.
        max_new_tokens: how many to add at most; fewer come back when every row has stopped.
        temperature, top_k, top_p: see :func:`filter_logits`; a temperature of 0 draws nothing at random.
        stop: an id, or several, that ends a row. It stays in the row and is repeated up to the length of the others:
            ``decode(row, skip_special=True)`` leaves it out where it is a special token.
        generator: source of the random numbers; None for torch's own.

    Raises:
        ValueError: an argument is out of range, or ``step`` gives NaN or another shape.

    Used in: 2019_gpt2, 2022_instructgpt.
    """
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype != torch.int64 or not ids.shape[1]:
        what = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise ValueError(f"ids is {what}; give a tensor of int64, (N, t), at least a token a row")
    _check_whole("max_new_tokens", max_new_tokens, 0)
    stop_ids = stop_tokens(stop)
    stops = torch.tensor(stop_ids, dtype=torch.int64, device=ids.device)
    stopped = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)  # (N,)
    for _ in range(max_new_tokens):
        logits = filter_logits(_ask(step, ids)[0], temperature=temperature, top_k=top_k, top_p=top_p)  # (N, V)
        greedy = temperature == 0
        new = logits.argmax(-1) if greedy else torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        if stop_ids:
            new = torch.where(stopped, ids[:, -1], new)  # a row that has stopped ends in its stop token
            stopped |= torch.isin(new, stops)
        ids = torch.cat([ids, new[:, None]], 1)
        if stop_ids and stopped.all():
            break
    return ids


def stop_tokens(stop: int | Collection[int] | None, vocab_size: int | None = None) -> list[int]:
    """Return what ``stop`` says, an id, several or None, as a list; raise an error where it is none of these.

    An id outside a vocabulary of ``vocab_size`` is refused too: it would never be written, and nothing would stop.
    """
    try:
        several = [] if stop is None else stop if isinstance(stop, Collection) else [stop]
        ids = [operator.index(i) for i in several]
        outside = [i for i in ids if i < 0 or (vocab_size is not None and i >= vocab_size)]
        if outside:
            known = "" if vocab_size is None else f"; the ids of this model are 0 … {vocab_size - 1}"
            raise ValueError(f"stop holds {outside[0]}, which is no token's id{known}")
        return ids
    except TypeError:
        raise ValueError(
            f"stop={stop!r}; give the id of a token, or several: a tokenizer's encode turns text into ids"
        ) from None


# --- Beam search -----------------------------------------------------------------------------------------------------


def length_penalty(n: int, alpha: float) -> float:
    """Return lp(Y) = ``((5 + |Y|) / 6)^alpha``, by which the log-probability of a hypothesis is divided.

    Args:
        n: length ``|Y|`` of the hypothesis, its end token included.
        alpha: strength of the penalty.

    Raises:
        ValueError: ``n`` is below 1.

    Source: Wu et al. 2016, equation 14. Used in: 2016_gnmt.

    Example:
        >>> length_penalty(1, 0.6), length_penalty(7, 1.0)
        (1.0, 2.0)
    """
    if n < 1:
        raise ValueError(f"n={n} is below 1: a hypothesis has at least its end token")
    # Each word multiplies the probability by less than 1. With alpha=0 the shorter sentence therefore wins; alpha=1
    # ranks them nearly by their mean log-probability a word, softened by the 5 for short sentences.
    return float(((5 + n) / 6) ** alpha)


def coverage_penalty(
    attention: Float[Tensor, "*N T S"], beta: float, source_mask: Bool[Tensor, "*#N S"] | None = None
) -> Float[Tensor, "*N"]:
    """Return cp(X; Y) = beta · Σ_i log min(Σ_j p_ij, 1), at most 0: less where source words were left unread.

    Args:
        attention: p, one row for each target word j, one column for each source word i.
        beta: weight of the penalty.
        source_mask: True at real source words; the others are not counted. None: all are real.

    Raises:
        ValueError: the mask does not fit the attention.

    Source: Wu et al. 2016, equation 14. Used in: 2016_gnmt.

    Example:
        >>> coverage_penalty(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), 1.0)  # log 0.5 + log min(1.5, 1)
        tensor(-0.6931)
    """
    # A source word that was looked at once in all is translated, and more is no better: hence min(…, 1). A word without
    # any attention would cost infinitely much; here it costs 23 beta.
    logs = attention.sum(-2).clamp(UNATTENDED, 1.0).log()  # (*N, S)
    if source_mask is not None:
        if source_mask.dtype != torch.bool or source_mask.shape not in (logs.shape, logs.shape[-1:]):
            shapes = f"{tuple(source_mask.shape)}; attention {tuple(attention.shape)} needs bool, one for each source"
            raise ValueError(f"source_mask is {source_mask.dtype} of shape {shapes}")
        logs = logs.masked_fill(~source_mask, 0.0)
    return beta * logs.sum(-1)


class Hypothesis(NamedTuple):
    """A sentence that beam search found."""

    ids: list[int]  #: Without the start token; with the end token, unless ``max_length`` cut the sentence off.
    log_prob: float  #: log P(Y | X), nats.
    score: float  #: log P(Y | X) / lp(Y) + cp(X; Y).
    attention: Tensor | None = None  #: (T, S), a row for each id, where the step gives it.


# fmt: off
@overload
def beam_search(step: Step, bos: int, eos: int, *, max_length: int, beam: int = ..., alpha: float = ...,
                beta: float = ..., source_mask: Tensor | None = ...) -> list[Hypothesis]: ...
@overload
def beam_search(step: Step, bos: Tensor, eos: int, *, max_length: int, beam: int = ..., alpha: float = ...,
                beta: float = ..., source_mask: Tensor | None = ...) -> list[list[Hypothesis]]: ...
# fmt: on
@torch.no_grad()
def beam_search(
    step: Step,
    bos: int | Int64[Tensor, " B"],
    eos: int,
    *,
    max_length: int,
    beam: int = 4,
    alpha: float = 0.6,
    beta: float = 0.0,
    source_mask: Bool[Tensor, " S"] | Bool[Tensor, "B S"] | None = None,
) -> list[Hypothesis] | list[list[Hypothesis]]:
    """Return the hypotheses of the highest score log P(Y | X) / lp(Y) + cp(X; Y) that a search of this width finds.

    A sentence is done when ``beam`` hypotheses are finished and nothing that goes on can still beat the worst of them.

    Args:
        step: called with all N = B · ``beam`` rows, the first round included; row b · ``beam`` + k is hypothesis k of
            sentence b. It returns log-probabilities (N, V), or those and the attention (N, S) it read the source with.
            A step with a cache has a method ``reorder(rows)``: row i of the next call continues row ``rows[i]`` of the
            last. It is called unless all rows stay where they are.
        bos: the start token of one sentence, whose hypotheses come back best first, at most ``beam``; or a tensor of B
            of them, searched at once and on its device: then one such list comes back for each.
        eos: the end token.
        max_length: tokens at most, the end token included. What has not ended by then counts as it is.
        beam: hypotheses kept a sentence. 1 with ``alpha=0`` is greedy decoding.
        alpha: strength of :func:`length_penalty`, whose length ``|Y|`` counts the end token.
        beta: strength of :func:`coverage_penalty`; needs a step that returns the attention.
        source_mask: True at real source words, for one sentence or for each; used by the coverage penalty only.

    Raises:
        ValueError: an argument is out of range, or ``step`` gives NaN, another shape, or logits above 0.
        TypeError: ``bos`` or what ``step`` gives is of another type.

    Source: Wu et al. 2016, section 7 and equation 14. Used in: 2016_gnmt, 2017_transformer.

    Example:
        >>> table = torch.tensor([[0.0, 0.6, 0.4], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]).log()  # row: last token; 0: end
        >>> [best] = beam_search(lambda ids: table[ids[:, -1]], 0, 0, beam=1, alpha=0, max_length=5)  # greedy
        >>> best.ids, round(math.exp(best.log_prob), 2)
        ([1, 0], 0.3)
        >>> best, *_ = beam_search(lambda ids: table[ids[:, -1]], 0, 0, beam=2, alpha=0, max_length=5)
        >>> best.ids, round(math.exp(best.log_prob), 2)
        ([2, 0], 0.4)
    """
    starts = _check_search(bos, beam, max_length, alpha, beta)  # (B,)
    ids = starts.repeat_interleave(beam)[:, None]  # (N, 1), N = B · beam: hypotheses of a sentence are neighbours
    in_place = torch.arange(len(ids), device=ids.device)  # (N,)
    log_prob = torch.zeros(len(starts), beam, device=ids.device)  # (B, beam), log P so far, in nats
    log_prob[:, 1:] = -math.inf  # at first all hypotheses of a sentence are the same: only one may grow
    attention: Tensor | None = None  # (N, n, S)
    if source_mask is not None and source_mask.ndim == 2:
        source_mask = source_mask.repeat_interleave(beam, 0)  # (N, S)
    finished = _Finished(len(starts), beam, ids.device)
    for n in range(1, max_length + 1):
        log_probs, newest = _ask_to_search(step, ids, eos, beta)  # (N, V), (N, S)
        if newest is not None:
            attention = newest[:, None] if attention is None else torch.cat([attention, newest[:, None]], 1)

        # One step: continue every hypothesis by every word. At most beam of the results end, one of each hypothesis, so
        # among the likeliest 2 · beam there are always beam that can go on.
        V = log_probs.shape[1]
        total = (log_prob.view(-1, 1) + log_probs).view(len(starts), beam * V)
        total, index = total.topk(min(2 * beam, beam * V))  # (B, 2 · beam), best first
        parents, words = in_place[::beam, None] + index // V, index % V  # the rows that are continued, and by what
        longer = torch.cat([ids[parents], words[..., None]], -1)  # (B, 2 · beam, n + 1)

        # Finish: those of the likeliest beam that end are ranked by their score s(Y, X) = log P(Y | X) / lp(Y) + cp(X; Y).
        # An end below the likeliest beam is no result of a search of this width. In the last round all are cut off.
        ends = words == eos  # (B, 2 · beam)
        # Only finished hypotheses have different lengths, so only here does a long one need help against a short one.
        score = total / length_penalty(n, alpha)
        if beta and attention is not None:
            score = score + coverage_penalty(attention, beta, source_mask)[parents]
        maps = None if attention is None else attention[parents]  # (B, 2 · beam, n, S)
        finished.add((ends | (n == max_length))[:, :beam], total, score, longer[..., 1:], maps)

        # Go on with the likeliest that do not end: they are equally long, so no score is needed. Not even the best of them
        # can still beat a score above this bound: log P only falls, lp is largest at max_length, and cp is at most 0.
        log_prob, chosen = total.masked_fill(ends, -math.inf).topk(beam)  # (B, beam)
        done = finished.worst >= log_prob[:, 0] / length_penalty(max_length, alpha)  # (B,)
        if done.all() or n == max_length:
            break
        log_prob = log_prob.masked_fill(done[:, None], -math.inf)  # a sentence that is done waits for the others
        ids = longer.take_along_dim(chosen[..., None], 1).flatten(0, 1)  # (N, n + 1)
        rows = parents.gather(1, chosen).flatten()  # (N,)
        attention = None if attention is None else attention[rows]
        if hasattr(step, "reorder") and not torch.equal(rows, in_place):
            # A row's cache holds the keys of what that row has written: it must follow its hypothesis to the new place.
            step.reorder(rows)
    return finished.best[0] if isinstance(bos, int) else finished.best


class _Finished:
    """The ``beam`` best finished hypotheses of every sentence, best first, and the score of the last of them."""

    def __init__(self, sentences: int, beam: int, device: torch.device) -> None:
        self.beam = beam
        self.best: list[list[Hypothesis]] = [[] for _ in range(sentences)]
        self.worst = torch.full((sentences,), -math.inf, dtype=torch.float64, device=device)  # -inf: fewer than beam

    def add(self, wanted: Tensor, log_prob: Tensor, score: Tensor, ids: Tensor, maps: Tensor | None) -> None:
        """Take in the ``wanted`` (B, k) among the candidates (B, 2 * beam)."""
        better = score[:, : wanted.shape[1]] > self.worst[:, None]  # never -inf, which is impossible
        at = (wanted & better).nonzero(as_tuple=True)  # sentence and candidate of each
        attention = [None] * len(at[0]) if maps is None else maps[at].unbind()
        fields = zip(
            at[0].tolist(), ids[at].tolist(), log_prob[at].tolist(), score[at].tolist(), attention, strict=True
        )
        for b, *hypothesis in fields:
            self.best[b].append(Hypothesis(*hypothesis))
        for b in set(at[0].tolist()):
            self.best[b] = sorted(self.best[b], key=lambda hypothesis: -hypothesis.score)[: self.beam]
            if len(self.best[b]) == self.beam:
                self.worst[b] = self.best[b][-1].score


# --- Checks ----------------------------------------------------------------------------------------------------------


def _ask(step: Step, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the log-probabilities, float32 at least, and the attention of a step, or say what is wrong with them."""
    answer = step(ids)
    log_probs, attention = answer if isinstance(answer, tuple) else (answer, None)
    given = {"log-probabilities": log_probs} | ({} if attention is None else {"attention": attention})
    for name, value in given.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"step gave {name} of type {getattr(value, 'dtype', type(value).__name__)}; give floats")
        if value.ndim != 2 or len(value) != len(ids) or not value.shape[1]:
            fits = f"for {len(ids)} rows give ({len(ids)}, …)"
            raise ValueError(f"step gave {name} of shape {tuple(value.shape)}; {fits}")
    return (log_probs if log_probs.dtype == torch.float64 else log_probs.float()), attention


def _ask_to_search(step: Step, ids: Tensor, eos: int, beta: float) -> tuple[Tensor, Tensor | None]:
    """Return what :func:`_ask` does, or say why it cannot be searched by."""
    log_probs, attention = _ask(step, ids)
    if not 0 <= eos < log_probs.shape[1]:
        raise ValueError(f"eos={eos} is outside 0 … {log_probs.shape[1] - 1}, the words that step scores")
    if beta and attention is None:
        raise ValueError(f"beta={beta} needs the attention: step must return (log_probs (N, V), attention (N, S))")
    largest = log_probs.max().item() if len(ids) else 0.0
    if math.isnan(largest):
        raise ValueError("step gave log-probabilities with NaN")
    if largest > 1e-3:
        raise ValueError(f"step gave {largest:.3g}, above 0: give log-probabilities (log_softmax), not logits")
    if attention is not None and bool(attention.isnan().any()):
        raise ValueError("step gave attention with NaN")
    return log_probs, attention


def _check_search(bos: int | Tensor, beam: int, max_length: int, alpha: float, beta: float) -> Tensor:
    """Return the start tokens as a tensor (B,), or say which argument of :func:`beam_search` is out of range."""
    _check_whole("beam", beam, 1)
    _check_whole("max_length", max_length, 1)
    for name, strength in {"alpha": alpha, "beta": beta}.items():
        if not 0 <= strength < math.inf:
            raise ValueError(f"{name}={strength} is not a number from 0 up")
    starts = torch.tensor([bos]) if isinstance(bos, int) else bos
    if not isinstance(starts, Tensor) or starts.dtype != torch.int64 or starts.ndim != 1:
        raise TypeError(f"bos={bos!r}; give one id, or a tensor (B,) of int64")
    return starts


def _check_whole(name: str, value: Any, least: int) -> None:
    if not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{name}={value!r}; give a whole number from {least} up")
