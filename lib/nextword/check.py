"""Checks for the exercises: write a paper's mechanism yourself, and learn what is wrong with it, if anything is.

``check.gae(my_gae)`` calls ``my_gae`` on a few small inputs, each chosen so that one property decides, and compares
with the library in double precision. What differs is compared with what the usual mistakes would give, so that
:class:`Wrong` can say what was seen and ask the question that leads to the mistake. Each check's docstring holds the
stub to begin from and two hints; :func:`stub` and :func:`hints` return them.

Used in: every chapter.
"""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from nextword import (
    evaluation,
    generation,
    instructions,
    layers,
    ngram,
    ppo,
    reward_model,
    rlhf,
    sparse_attention,
    tokenizers,
)
from nextword.attention import MultiHeadAttention, causal_mask
from nextword.attention import attention as dot_product_attention
from nextword.recurrent import AdditiveAttention, Memory

__all__ = [
    "Wrong",
    "additive_attention",
    "answer_score",
    "beam_score",
    "causal_attention",
    "chinchilla_optimum",
    "classification_head",
    "clipped_objective",
    "contrastive_loss",
    "few_shot_prompt",
    "fit_power_law",
    "fixed_mask",
    "gae",
    "hints",
    "kneser_ney",
    "learn_merges",
    "mask_tokens",
    "merge_regions",
    "mixed_sentence",
    "multi_head",
    "name_classifier",
    "neural_ngram_logits",
    "next_token_loss",
    "nucleus",
    "ranking_loss",
    "response_targets",
    "sentence_pair_input",
    "shaped_rewards",
    "sinusoidal_positions",
    "strided_mask",
    "stub",
    "token_shift",
]

Theirs: TypeAlias = Any
"""What a reader hands over: a function, if all goes well."""

Cases: TypeAlias = dict[str, tuple[Any, ...]]
"""The inputs of a check, by what they are; the simplest first, since the first that fails is the one to explain."""

Mistakes: TypeAlias = dict[str, Callable[..., Any]]
"""The usual mistakes: the question that leads to each, and what a function with that mistake computes."""


class Wrong(AssertionError):
    """Your function gives something else than the paper's; the message says what was seen, and asks a question."""


def stub(check: Callable[[Theirs], None]) -> str:
    """Return the function that a check wants written, to begin from.

    Example:
        >>> print(stub(strided_mask).splitlines()[0])
        def strided_mask(T, stride):
    """
    text = inspect.getdoc(check) or ""
    return textwrap.dedent(text.partition("Stub::\n\n")[2].partition("\n\nHints:")[0])


def hints(check: Callable[[Theirs], None]) -> list[str]:
    """Return the hints of a check, the lighter one first."""
    text = (inspect.getdoc(check) or "").partition("Hints:\n\n")[2]
    return [" ".join(hint.split()) for hint in text.removeprefix("- ").split("\n- ")]


# --- How all of them judge --------------------------------------------------------------------------------------------


def _compare(
    theirs: Theirs,
    reference: Callable[..., Any],
    cases: Cases,
    mistakes: Mistakes,
    *,
    proves: str,
    axes: Sequence[str] = (),
    parts: Sequence[str] = ("value", "gradient"),
    learns: bool = False,
    than: str = "the library",
) -> None:
    """Raise :class:`Wrong` for the first case where ``theirs`` differs from ``reference``; else say what is proved.

    Args:
        axes: names of the axes of a result, for "row 3, position 4".
        parts: names of a result's parts where it has several.
        learns: whether the gradient of the result by the first argument must be the same, too.
        than: what the reference is.
    """
    name = getattr(theirs, "__name__", "your function")
    if not callable(theirs):
        raise Wrong(f"A {type(theirs).__name__} came: hand over the function itself, without calling it.")
    distance = 0.0
    with _double_precision():
        for shows, inputs in cases.items():
            found, expected = _outcome(theirs, inputs, learns), _outcome(reference, inputs, learns)
            if _same(found, expected):
                distance = max(distance, _distance(found, expected))
                continue
            seen = _seen(found, expected, axes, parts)
            if learns and found[1] is None and _same(found[0], expected[0]):
                question = "The value is right, but no gradient passes: is there an item(), a detach() or a no_grad()?"
            else:
                question = _question(theirs, cases, shows, mistakes, learns, nan="nan came" in seen)
            raise Wrong(f"{name}, on {shows}: {seen}\n{question}")
    how = f"to 1e{math.ceil(math.log10(distance))}" if distance else "to the last digit"
    print(f"{name} is right: equal to {than} on {len(cases)} inputs, {how}. {proves}")


def _question(theirs: Theirs, cases: Cases, shows: str, mistakes: Mistakes, learns: bool, *, nan: bool) -> str:
    """Return the question of the mistake that gives what ``theirs`` does in the case ``shows``; advice if none does."""

    def outcomes(function: Callable[..., Any]) -> dict[str, Any]:
        found = {}
        for name, inputs in cases.items():
            with suppress(Wrong), redirect_stdout(io.StringIO()):  # on other inputs theirs may fail outright
                found[name] = _outcome(function, inputs, learns)
        return found

    # Several mistakes may give the same here: take the one that explains the most of the other inputs. NaN looks alike
    # whatever made it, so there only one that explains everything will do.
    came, explained = outcomes(theirs), {}
    for question, mistake in mistakes.items():
        same = [name for name, result in outcomes(mistake).items() if name in came and _same(came[name], result)]
        if shows in same and (len(same) == len(cases) or not nan):
            explained[question] = len(same)
    if explained:
        return max(explained, key=lambda question: explained[question])
    why = "NaN comes from 0/0, from inf - inf, or from the log of a negative number. " if nan else ""
    return f"{why}None of the usual mistakes gives this. Work it out by hand, for {_summary(cases[shows])}."


@contextmanager
def _double_precision() -> Iterator[None]:
    """Let new tensors be float64, and put the caller's random numbers back afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def _outcome(function: Callable[..., Any], inputs: tuple[Any, ...], learns: bool) -> Any:
    """Return what a function gives, with its gradient if it ``learns``; say so where it fails or changes its input."""
    name = getattr(function, "__name__", "your function")

    def call(*given: Any) -> Any:
        try:
            return function(*given)
        except Exception as error:
            kind = type(error).__name__
            raise Wrong(f"{name} raised {kind}: {error}\nIt was called with {_summary(inputs)}.") from error

    given = copy.deepcopy(inputs)
    found = call(*given)
    if found is None:
        raise Wrong(f"{name} returned None: does it end in a return with the result?")
    for i, (after, before) in enumerate(zip(given, inputs, strict=True), start=1):
        if not _same(after, before):
            raise Wrong(f"{name} changes its argument {i} in place, which the caller still needs: copy it first.")
    if not learns:
        return found
    first = inputs[0].clone().requires_grad_()
    value = call(first, *inputs[1:])
    if not (isinstance(value, Tensor) and value.requires_grad and value.isfinite().all()):
        return found, None
    return value.detach(), torch.autograd.grad(value.sum(), first, allow_unused=True)[0]


def _same(found: Any, expected: Any) -> bool:
    """Return whether two results are equal: numbers of one shape within rounding, everything else exactly."""
    if isinstance(expected, (Tensor, np.ndarray, float)):
        x, y = _tensor(found), torch.as_tensor(expected)
        if x is None or x.shape != y.shape or not _same_kind(x, y):
            return False
        eps = 1e-4 if x.dtype in (torch.float32, torch.bfloat16, torch.float16) else 1e-8
        return torch.allclose(x.double(), y.double(), rtol=eps, atol=eps, equal_nan=True)
    found = found.tolist() if hasattr(found, "tolist") else found
    if isinstance(expected, (list, tuple)):
        fits = isinstance(found, (list, tuple)) and len(found) == len(expected)
        return fits and all(map(_same, found, expected))
    return bool(found == expected)


def _seen(found: Any, expected: Any, axes: Sequence[str], parts: Sequence[str]) -> str:
    """Return what came and what was expected, in words: the kind, the shape, or the place where they differ most."""
    if isinstance(expected, tuple):  # a result of several parts
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            return f"{_summary((found,))} came; {len(expected)} things were expected, {' and '.join(parts)}."
        i = next(i for i, (x, y) in enumerate(zip(found, expected, strict=True)) if not _same(x, y))
        return f"{parts[i]}: {_seen(found[i], expected[i], axes, parts)}"
    if isinstance(expected, (Tensor, np.ndarray, float)):
        x, y = _tensor(found), torch.as_tensor(expected)
        if x is None:
            what = f"a tensor of shape {tuple(y.shape)}" if y.ndim else "a number"
            return f"a {type(found).__name__} came; {what} was expected."
        if x.shape != y.shape:
            return f"the shape {tuple(x.shape)} came; {tuple(y.shape)} was expected."
        if not _same_kind(x, y):
            return f"{_kind(x)}s came ({x.dtype}); {_kind(y)}s were expected ({y.dtype})."
        gap = (x.double() - y.double()).abs().nan_to_num(math.inf, math.inf).masked_fill(x == y, 0)
        beside = gap.masked_fill(y != 0, 0)  # what stands where nothing should says more than how far the rest is off
        gap = beside if (beside > 1e-4).any() else gap
        index = [int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape)] if gap.ndim else []
        named = [*axes[: len(index)], *["axis"] * (len(index) - len(axes))]
        place = "".join(f"{axis} {i}, " for axis, i in zip(named, index, strict=True)).removesuffix(", ")
        at = f" at {place}" * bool(place)
        return f"{_number(x[*index])} came{at}; {_number(y[*index])} was expected."
    return f"\n  {found!r} came;\n  {expected!r} was expected."


def _tensor(x: Any) -> Tensor | None:
    """Return numbers as a tensor; None where they are none."""
    try:
        return torch.as_tensor(x).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return None


def _kind(x: Tensor) -> str:
    return "boolean" if x.dtype == torch.bool else "float" if x.is_floating_point() else "whole number"


def _same_kind(x: Tensor, y: Tensor) -> bool:
    """Return whether both hold booleans, or whole numbers, or numbers of any kind where ``y`` holds floats."""
    return _kind(x) == _kind(y) or (y.is_floating_point() and x.dtype != torch.bool)


def _number(x: Tensor) -> str:
    return f"{x.item() + 0.0:.4g}" if x.is_floating_point() else str(x.item())  # 0 added: -0 is 0


def _distance(found: Any, expected: Any) -> float:
    """Return the largest difference between two results that are the same, of numbers above 1 a share of them."""
    if isinstance(expected, tuple):
        return max(map(_distance, found, expected))
    if not isinstance(expected, (Tensor, np.ndarray, float)):
        return 0.0
    x, y = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return float(((x - y) / y.abs().clamp(min=1)).abs().max())


def _summary(inputs: tuple[Any, ...]) -> str:
    """Return the arguments of a call in a line: small ones as they are, large ones by their shape."""

    def short(x: Any) -> str:
        if isinstance(x, (Tensor, np.ndarray)):
            numbers = np.array2string(np.asarray(x), precision=4, separator=", ")
            return " ".join(numbers.split()) if math.prod(x.shape) <= 8 else f"numbers of shape {tuple(x.shape)}"
        if isinstance(x, (list, tuple)) and any(isinstance(part, Tensor) for part in x):
            return f"[{_summary(tuple(x))}]"
        return f"{x!r:.100}"

    return ", ".join(map(short, inputs))


def _randn(seed: int = 0) -> Callable[..., Tensor]:
    """Return a ``randn`` that draws the same numbers every time."""
    return partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Each check below has the same parts: the answer to compare with, mostly the library's; ``mine``, a few lines with
# settings that make them wrong; inputs, the simplest first; and the usual mistakes, each under the question it raises.

# --- 2003: counts, and a network --------------------------------------------------------------------------------------


def kneser_ney(theirs: Theirs) -> None:
    """Check interpolated Kneser-Ney for pairs of words (Kneser & Ney 1995; Chen & Goodman 1999).

    p(w|v) = max(c(vw) - D, 0) / c(v) + λ(v) · p(w), where p(w) counts after how many different words w came. (The
    library discounts single words once more; here p(w) is a bare share.)

    Stub::

        def kneser_ney(counts, D):
            '''Return p(w|v) as (V, V), a row for each v, where counts[v, w] (V, V) is how often w came right after v.

            A word v that nothing ever followed passes everything on: p(w|v) = p(w).
            '''
            seen = counts > 0
            ...

    Hints:

    - Each different word that followed v gave up D. Out of c(v), how much did they save together? A row must sum to 1.
    - p(w) does not ask how often w came: add up seen over v, and divide by the number of all different pairs. For a row
      without counts, torch.where puts p(w) in the place of 0/0.
    """

    def library(counts: Tensor, D: float) -> Tensor:  # it estimates D by itself: the one that is handed over
        v, w = counts.nonzero(as_tuple=True)
        grams = ngram.KGrams((v * len(counts) + w).numpy(), counts[v, w].long().numpy(), w.numpy(), len(counts))
        alpha, lam = map(torch.from_numpy, ngram.kneser_ney(grams, None, len(counts)))
        shorter = w.bincount(minlength=len(counts)) / len(w)  # of all different pairs, those that end in w
        return torch.zeros_like(counts).index_put((v, w), alpha) + lam[:, None] * shorter

    def mine(c: Tensor, D: float, *, kept: Any = None, saved: Any = None, p_w: Any = None) -> Tensor:
        total, seen = c.sum(1, keepdim=True), c > 0
        kept = (c - D).clamp(min=0) if kept is None else kept
        saved = D * seen.sum(1, keepdim=True) if saved is None else saved
        p_w = seen.sum(0) / seen.sum() if p_w is None else p_w
        return torch.where(total > 0, (kept + saved * p_w) / total, p_w)

    def case(rows: list[list[int]]) -> tuple[Tensor, float]:
        counts = torch.tensor(rows, dtype=torch.float64)
        return counts, ngram.discount(counts[counts > 0].numpy())

    drawn = torch.randint(0, 6, (7, 7), generator=torch.Generator().manual_seed(0))
    cases = {
        "pairs that came once each, where only D matters": case([[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
        # word 1 is frequent, but after word 0 alone: Francisco, after San
        "San (0) Francisco (1)": case([[0, 6, 0, 0], [0, 0, 1, 2], [2, 0, 0, 1], [1, 0, 3, 0]]),
        "counts drawn at random": case(drawn.tolist()),
        "a word, 2, that nothing ever followed": case([[0, 3, 1], [1, 0, 2], [0, 0, 0]]),
    }
    mistakes: Mistakes = {
        "No row sums to 1. The discount was taken from every pair: who gets what it saved?":
            lambda c, D: mine(c, D, saved=0),
        "p(w) is how often each word came. Francisco came often, but after how many different words?":
            lambda c, D: mine(c, D, p_w=c.sum(0) / c.sum()),
        "p(w) counts how many different words came after w. Should it count those before w, along the other axis?":
            lambda c, D: mine(c, D, p_w=(c > 0).sum(1) / (c > 0).sum()),
        "λ is D / c(v), as if only one word had followed v. How many different followers gave up D each?":
            lambda c, D: mine(c, D, saved=D),
        "λ is D for every v. Is D taken from each occurrence of a pair, or once from each different pair?":
            lambda c, D: mine(c, D, saved=D * c.sum(1, keepdim=True)),
        "A pair that never came gets too little, because c - D is negative there: where is max(…, 0)?":
            lambda c, D: mine(c, D, kept=c - D),
        "The rows sum to more than 1, because λ gives away what nobody saved: was D taken from the counts?":
            lambda c, D: mine(c, D, kept=c),
        "Nothing ever followed this word, so c(v) is 0 and 0/0 is NaN: should its row be p(w)?":
            lambda c, D: mine(c, D).where(c.sum(1, keepdim=True) > 0, math.nan),
        "Nothing ever followed this word, and its row is all zeros. A row must sum to 1: should it be p(w)?":
            lambda c, D: mine(c, D).where(c.sum(1, keepdim=True) > 0, 0.0),
    }  # fmt: skip
    proves = "What the discount saves goes to unseen pairs, by how many different words each word has followed."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("v", "w"))


def neural_ngram_logits(theirs: Theirs) -> None:
    """Check the scores of the neural language model, y = b + Wx + U tanh(d + Hx) (Bengio et al. 2003, equation 1).

    Stub::

        def neural_ngram_logits(contexts, C, H, d, U, W, b):
            '''Return the score of every next word (B, V), for contexts (B, n) of n word ids in reading order.

            C (V, m) holds a vector for each word. A context's x (n·m,) is its vectors side by side, the first word's
            first. H (h, n·m), d (h,), U (V, h), W (V, n·m), b (V,).
            '''
            ...

    Hints:

    - C[contexts] has the shape (B, n, m). Which two of its axes become one?
    - For a batch, Hx is x @ H.T. The tanh goes around d + Hx and nothing else, and there is no softmax yet.
    """

    def library(contexts: Tensor, C: Tensor, H: Tensor, d: Tensor, U: Tensor, W: Tensor, b: Tensor) -> Any:
        sizes: dict[str, Any] = {
            "vocab_size": len(C),
            "order": contexts.shape[1] + 1,
            "d_model": C.shape[1],
            "d_hidden": len(d),
        }
        with torch.device("meta"):  # a network without weights, which gets these
            network = ngram.NeuralNGram(ngram.NeuralNGramConfig(**sizes))
        weights = {"C.weight": C, "H.weight": H, "H.bias": d, "UW.weight": torch.cat([U, W], 1), "b": b}
        return functional_call(network, weights, (contexts,)).logits

    def mine(x: Tensor, H: Tensor, d: Tensor, U: Tensor, W: Tensor, b: Tensor, *, bend: Any = torch.tanh) -> Any:
        return b + x @ W.T + bend(d + x @ H.T) @ U.T

    def inputs(B: int, *, with_U: int = 1, with_Wb: int = 1) -> tuple[Tensor, ...]:
        V, n, m, h = 7, 3, 4, 5
        C, H, d, U, W, b = (randn(*shape) for shape in ((V, m), (h, n * m), (h,), (V, h), (V, n * m), (V,)))
        return torch.tensor([[0, 3, 6], [5, 5, 1]])[:B], C, H, d, with_U * U, with_Wb * W, with_Wb * b

    randn = _randn()
    cases = {
        "U = 0, which leaves b + Wx": inputs(1, with_U=0),
        "W = 0 and b = 0, which leaves U tanh(d + Hx)": inputs(1, with_Wb=0),
        "two contexts": inputs(2),
    }
    mistakes: Mistakes = {
        "x holds the last word first, as the paper writes it. Here words are in reading order: is something reversed?":
            lambda i, C, *rest: mine(C[i.flip(1)].flatten(1), *rest),
        "x holds the first number of every word, then the second, and so on: should a word's numbers stay together?":
            lambda i, C, *rest: mine(C[i].mT.flatten(1), *rest),
        "The direct connection from the words to the scores is missing: where is Wx?":
            lambda i, C, H, d, U, W, b: mine(C[i].flatten(1), H, d, U, 0 * W, b),
        "The scores lack what does not depend on the context: where is b?":
            lambda i, C, H, d, U, W, b: mine(C[i].flatten(1), H, d, U, W, 0 * b),
        "The hidden units have no bias: where is d?":
            lambda i, C, H, d, U, W, b: mine(C[i].flatten(1), H, 0 * d, U, W, b),
        "d was added after the tanh: does it stand inside the brackets?":
            lambda i, C, H, d, U, W, b: mine(C[i].flatten(1), H, 0 * d, U, W, b + U @ d),
        "The hidden layer is linear, and two matrices in a row are no more than one: where is the tanh?":
            lambda i, C, *rest: mine(C[i].flatten(1), *rest, bend=lambda x: x),
        "These are probabilities, which sum to 1, but scores are wanted: is there a softmax too many?":
            lambda i, C, *rest: mine(C[i].flatten(1), *rest).softmax(-1),
        "These are log-probabilities, but scores are wanted: is there a log_softmax too many?":
            lambda i, C, *rest: mine(C[i].flatten(1), *rest).log_softmax(-1),
    }  # fmt: skip
    proves = "The words' vectors side by side feed a tanh layer and, directly, the scores."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("context", "word"))


# --- 2016: look back, and choose a sentence ---------------------------------------------------------------------------


def additive_attention(theirs: Theirs) -> None:
    """Check additive attention, e_tj = vᵀ tanh(W_q s_t + W_m h_j) (Bahdanau et al. 2015, equations 5 and 6, and A.1.2).

    Stub::

        def additive_attention(s, h, W_q, W_m, v, mask):
            '''Return the context of each query (T, C): the mean of h, weighted by the softmax of e.

            s (T, C) are queries, h (S, C) the encoder's outputs, W_q and W_m (C, C), v (C,). mask (S,) is True at real
            words of the source and False at padding.
            '''
            e = ...  # (T, S): every query meets every h_j
            ...

    Hints:

    - W_q s is (T, C) and W_m h is (S, C). With [:, None] on one of them their sum is (T, S, C): on which?
    - Give padding a score of -inf before the softmax: then its weight is 0, and the others still sum to 1.
    """

    def library(s: Tensor, h: Tensor, W_q: Tensor, W_m: Tensor, v: Tensor, mask: Tensor) -> Any:
        with torch.device("meta"):  # a layer without weights, which gets these
            layer = AdditiveAttention(h.shape[1])
        memory = Memory(h[None], (h @ W_m.T)[None], h[-1:], mask[None])
        return functional_call(layer, {"query.weight": W_q, "score.weight": v[None]}, (s[None], memory))[0][0]

    def scores(s: Tensor, h: Tensor, W_q: Tensor, W_m: Tensor, v: Tensor) -> Tensor:
        return torch.tanh((s @ W_q.T)[:, None] + h @ W_m.T) @ v

    def read(e: Tensor, mask: Tensor, h: Tensor, dim: int = -1) -> Tensor:
        return e.masked_fill(~mask, -math.inf).softmax(dim) @ h

    def inputs(T: int, S: int, C: int, *, padding: int = 0, with_v: int = 1, unit: bool = False) -> tuple[Tensor, ...]:
        s, h, W_q, W_m, v = (randn(*shape) for shape in ((T, C), (S, C), (C, C), (C, C), (C,)))
        return s, torch.eye(S).to(h) if unit else h, W_q, W_m, with_v * v, torch.arange(S) < S - padding

    randn = _randn()
    cases = {
        "one source word, whose vector must come back": inputs(2, 1, 3),
        "v = 0, where all scores are equal and only the padding matters": inputs(2, 4, 3, padding=1, with_v=0),
        "h = the identity, where the result is the weights": inputs(2, 4, 4, unit=True),
        "three queries, five words and two of padding": inputs(3, 7, 4, padding=2),
    }
    mistakes: Mistakes = {
        "Padding takes part in the mean: where does the mask come in?":
            lambda s, h, W_q, W_m, v, mask: read(scores(s, h, W_q, W_m, v), mask | True, h),
        "The weights sum to less than 1, because padding was removed after the softmax: can the mask come before it?":
            lambda s, h, W_q, W_m, v, mask: (scores(s, h, W_q, W_m, v).softmax(-1) * mask) @ h,
        "Padding has a score of 0, and e⁰ is 1: which score has a weight of 0?":
            lambda s, h, W_q, W_m, v, mask: (scores(s, h, W_q, W_m, v) * mask).softmax(-1) @ h,
        "Only padding is read. The mask is True at real words: which places should masked_fill fill?":
            lambda s, h, W_q, W_m, v, mask: read(scores(s, h, W_q, W_m, v), ~mask, h),
        "The weights sum to 1 over the queries: is the softmax over the source words, along the last axis?":
            lambda s, h, W_q, W_m, v, mask: read(scores(s, h, W_q, W_m, v), mask, h, dim=0),
        "Query and key are multiplied, as in the Transformer. Here they are added: inside which function?":
            lambda s, h, W_q, W_m, v, mask: read(s @ W_q.T @ (h @ W_m.T).T, mask, h),
        "Without the tanh a query adds the same to all its scores, and it does not matter: where is the tanh?":
            lambda s, h, W_q, W_m, v, mask: read(((s @ W_q.T)[:, None] + h @ W_m.T) @ v, mask, h),
        "The mean is taken over the keys W_m h_j. They serve to find words: should the mean be over h_j itself?":
            lambda s, h, W_q, W_m, v, mask: read(scores(s, h, W_q, W_m, v), mask, h @ W_m.T),
        "The scores were divided by √C, as in the Transformer: does this equation do that?":
            lambda s, h, W_q, W_m, v, mask: read(scores(s, h, W_q, W_m, v) / math.sqrt(len(v)), mask, h),
    }  # fmt: skip
    proves = "Each query scores every source word with a small network, and padding gets no weight."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("query", "number"))


def beam_score(theirs: Theirs) -> None:
    """Check the score by which beam search ranks finished sentences (Wu et al. 2016, equation 14).

    s(Y, X) = log P(Y|X) / lp(Y) + cp(X; Y), where lp(Y) = ((5 + T) / 6)^α for a sentence of T tokens, and
    cp(X; Y) = β · Σ_i log min(Σ_j p_ij, 1) over the source words i and the target words j.

    Stub::

        def beam_score(log_probs, attention, alpha, beta):
            '''Return the score of a sentence of T tokens, one number.

            log_probs (T,) are those of its tokens, the end token included; attention (T, S) is how much each token
            looked at each of S source words.
            '''
            ...

    Hints:

    - log P(Y|X) is the sum of log_probs, and T is how many there are.
    - Coverage asks each source word how much all target words together looked at it. Which axis is summed? More than 1
      counts as 1.
    """

    def library(log_probs: Tensor, attention: Tensor, alpha: float, beta: float) -> Tensor:
        penalty = generation.length_penalty(len(log_probs), alpha)
        return log_probs.sum() / penalty + generation.coverage_penalty(attention, beta)

    def mine(p: Tensor, a: Tensor, alpha: float, beta: float, *, lp: float | None = None, cp: Any = None) -> Tensor:
        coverage: Tensor = a.sum(0).clamp(max=1).log().sum() if cp is None else cp
        return p.sum() / (((5 + len(p)) / 6) ** alpha if lp is None else lp) + beta * coverage

    def looked(times: float, T: int = 7) -> tuple[Tensor, Tensor]:  # at each of three source words, in all
        return -randn(T).abs(), times * randn(T, 3).softmax(0)

    randn = _randn()
    cases = {
        "α = 0 and β = 0, where the score is log P": (*looked(1.0), 0.0, 0.0),
        "seven tokens with α = 1, where log P is halved": (*looked(1.0), 1.0, 0.0),
        "five tokens with α = 0.6": (*looked(1.0, T=5), 0.6, 0.0),
        "source words that were looked at half a time each": (*looked(0.5), 0.0, 0.4),
        "source words that were looked at twice each": (*looked(2.0), 0.0, 0.4),
        "some looked at more and some less, with α = 0.8": (-randn(6).abs(), 0.6 * randn(6, 4).softmax(-1), 0.8, 0.2),
    }
    mistakes: Mistakes = {
        "log P was divided by the number of tokens. With α = 0, what should lp be?":
            lambda p, a, alpha, beta: mine(p, a, alpha, beta, lp=len(p)),
        "log P was divided by T^α: where are the 5 and the 6?":
            lambda p, a, alpha, beta: mine(p, a, alpha, beta, lp=len(p) ** alpha),
        "Only 5 + T was taken to the power α: is the 6 inside the brackets?":
            lambda p, a, alpha, beta: mine(p, a, alpha, beta, lp=(5 + len(p)) ** alpha / 6),
        "log P was multiplied by lp, which punishes long sentences twice: should it be divided?":
            lambda p, a, alpha, beta: mine(p, a, -alpha, beta),
        "The length is one too small: does the end token count?":
            lambda p, a, alpha, beta: mine(p, a, alpha, beta, lp=((4 + len(p)) / 6) ** alpha),
        "lp divides the coverage as well: which of the two terms does the equation divide?":
            lambda p, a, alpha, beta: mine(p, a, alpha, beta / ((5 + len(p)) / 6) ** alpha),
        "A source word that was looked at twice earns a bonus, but once is enough: where is min(…, 1)?":
            lambda p, a, alpha, beta: mine(p, a, alpha, beta, cp=a.sum(0).log().sum()),
        "The attention was summed over source words. Each source word must be covered: over which axis is the sum?":
            lambda p, a, alpha, beta: mine(p, a, alpha, beta, cp=a.sum(1).clamp(max=1).log().sum()),
        "The coverage was subtracted, but log min(…, 1) is negative already: should it be added?":
            lambda p, a, alpha, beta: mine(p, a, alpha, -beta),
    }  # fmt: skip
    proves = "Long sentences are not punished for their length, and unread source words cost."
    _compare(theirs, library, cases, mistakes, proves=proves)


# --- 2017: attention is all you need ----------------------------------------------------------------------------------


def causal_attention(theirs: Theirs) -> None:
    """Check softmax(QKᵀ/√D)V where no position sees a later one (Vaswani et al. 2017, equation 1).

    Stub::

        def causal_attention(q, k, v):
            '''Return what each of T positions reads from itself and from those before it (T, E).

            q and k (T, D), v (T, E).
            '''
            scores = ...  # (T, T): row t asks, column s is asked
            ...

    Hints:

    - torch.ones(T, T).tril() is the triangle of what may be seen, and a score of -inf becomes a weight of 0.
    - Each row of weights sums to 1, so the softmax runs along the last axis. D is the width of q, not of v.
    """

    def library(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return dot_product_attention(q[None, None], k[None, None], v[None, None], causal_mask(len(q)))[0][0, 0]

    def scores(q: Tensor, k: Tensor, root: float | None = None) -> Tensor:
        return q @ k.T / (math.sqrt(q.shape[1]) if root is None else root)

    def past(x: Tensor, diagonal: int = 0) -> Tensor:
        return torch.ones(len(x), len(x)).tril(diagonal).bool()

    def read(e: Tensor, v: Tensor, sees: Tensor | None = None, dim: int = -1) -> Tensor:
        return e.masked_fill(~(past(v) if sees is None else sees), -math.inf).softmax(dim) @ v

    def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        e = scores(q, k).exp() * past(v)
        return e / e.sum(-1, keepdim=True) @ v

    randn, eye = _randn(), partial(torch.eye, dtype=torch.float64)
    cases = {
        "one position, whose value must come back": (randn(1, 3), randn(1, 3), randn(1, 2)),
        "q = 0 and v = the identity, where the result is the weights": (0 * randn(4, 3), randn(4, 3), eye(4)),
        "two positions of width 16, where the scale decides": (randn(2, 16), randn(2, 16), eye(2)),
        "five positions": (randn(5, 3), randn(5, 3), randn(5, 4)),
        "scores of a few thousand": (60 * randn(5, 3), 60 * randn(5, 3), randn(5, 4)),
    }
    mistakes: Mistakes = {
        "A row looks at positions that come later: where is the mask?":
            lambda q, k, v: read(scores(q, k), v, past(v) | True),
        "A row looks at what comes later and not at what came before: is the triangle the right way round?":
            lambda q, k, v: read(scores(q, k), v, past(v).T),
        "No position sees itself, and the first sees nothing, which is 0/0: does the diagonal belong to the triangle?":
            lambda q, k, v: read(scores(q, k), v, past(v, -1)),
        "Each row also looks at the next position: does the triangle reach one too far?":
            lambda q, k, v: read(scores(q, k), v, past(v, 1)),
        "A hidden score was set to 0, and e⁰ is 1: which score has a weight of 0?":
            lambda q, k, v: (scores(q, k) * past(v)).softmax(-1) @ v,
        "The weights of a row sum to less than 1: was the mask applied after the softmax?":
            lambda q, k, v: (scores(q, k).softmax(-1) * past(v)) @ v,
        "The weights of a column sum to 1: is the softmax over the keys, along the last axis?":
            lambda q, k, v: read(scores(q, k), v, dim=0),
        "The weights are too sharp, because the scores are √D times too large: are they divided by √D?":
            lambda q, k, v: read(scores(q, k, 1), v),
        "The weights are too even, because the scores were divided by D: should it be √D?":
            lambda q, k, v: read(scores(q, k, q.shape[1]), v),
        "The scores are D^(1/4) times too large: were they divided by D^(1/4) instead of √D?":
            lambda q, k, v: read(scores(q, k, q.shape[1] ** 0.25), v),
        "The scores were divided by the root of the width of v: is D the width of q and k?":
            lambda q, k, v: read(scores(q, k, math.sqrt(v.shape[1])), v),
        "The keys ask and the queries answer: is it KQᵀ instead of QKᵀ?":
            lambda q, k, v: read(scores(k, q), v),
        "e to the power of a thousand is inf, and inf/inf is NaN: can you subtract the largest score first?":
            by_hand,
    }  # fmt: skip
    proves = "Each position takes a weighted mean of the values so far, and none sees a later one."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("row", "position"))


def multi_head(theirs: Theirs) -> None:
    """Check attention with several heads, in which every position sees all (Vaswani et al. 2017, section 3.2.2).

    Stub::

        def multi_head(x, W, n_heads):
            '''Return what T positions read from one another (T, C).

            x (T, C). W is a list of four (C, C) matrices for queries, keys, values and output, each applied as x @ w.T.
            Head 0 has the first C / n_heads numbers of q, k and v, head 1 the next, and so on.
            '''
            ...

    Hints:

    - view(T, n_heads, C // n_heads) cuts the width into heads. Then the heads go to the front, (H, T, D), so that
      matrix products run over them.
    - Undo both steps in reverse order before the output matrix. A head's scores are divided by √(C / n_heads).
    """

    def library(x: Tensor, W: list[Tensor], n_heads: int) -> Any:
        with torch.device("meta"):  # a layer without weights, which gets these
            layer = MultiHeadAttention(x.shape[1], n_heads, bias=False)
        names = ("query.weight", "key.weight", "value.weight", "out.weight")
        return functional_call(layer, dict(zip(names, W, strict=True)), (x[None],))[0]

    def cut(x: Tensor, H: int) -> Tensor:
        return x.view(len(x), H, -1).transpose(0, 1)  # (H, T, D)

    def every_hth(x: Tensor, H: int) -> Tensor:
        return x.view(len(x), -1, H).permute(2, 0, 1)

    def join(x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1)  # (T, C)

    def mine(x: Tensor, W: list[Tensor], H: int, *, cut: Any = cut, join: Any = join, root: Any = None) -> Any:
        q, k, v = (cut(x @ w.T, H) for w in W[:3])
        scores = q @ k.mT / (math.sqrt(q.shape[-1]) if root is None else root)
        return join(scores.softmax(-1) @ v) @ W[3].T

    def inputs(T: int, C: int, H: int) -> tuple[Tensor, list[Tensor], int]:
        return randn(T, C), list(randn(4, C, C)), H

    randn = _randn()
    cases = {
        "one position, where only values and output matter": inputs(1, 4, 2),
        "one head": inputs(3, 4, 1),
        "two heads": inputs(3, 4, 2),
        "three heads and three positions": inputs(3, 12, 3),
    }
    mistakes: Mistakes = {
        "The scores were divided by √C, but a head has only C / n_heads numbers: which root does it need?":
            lambda x, W, H: mine(x, W, H, root=math.sqrt(x.shape[1])),
        "The scores were not divided at all: where is the root of a head's width?":
            lambda x, W, H: mine(x, W, H, root=1),
        "There is one head, as wide as the model: where is the width cut?":
            lambda x, W, H: mine(x, W, 1),
        "Heads mix positions, because a view as (H, T, D) cuts the text: can you view as (T, H, D) and then transpose?":
            lambda x, W, H: mine(x, W, H, cut=lambda y, H: y.reshape(H, len(y), -1)),
        "A head holds every H-th number, not neighbours: is the view (T, H, D), heads before their width?":
            lambda x, W, H: mine(x, W, H, cut=every_hth, join=lambda y: y.permute(1, 2, 0).flatten(1)),
        "(H, T, D) was reshaped straight to (T, C), which mixes positions: which transpose must be undone first?":
            lambda x, W, H: mine(x, W, H, join=lambda y: y.reshape(y.shape[1], -1)),
        "What the heads found was not mixed: where is the output matrix, W[3]?":
            lambda x, W, H: mine(x, [*W[:3], torch.eye(x.shape[1])], H),
        "All four matrices were applied as x @ w: should it be x @ w.T?":
            lambda x, W, H: mine(x, [w.T for w in W], H),
        "Queries, keys and values were made as x @ w: should it be x @ w.T, as for the output?":
            lambda x, W, H: mine(x, [*(w.T for w in W[:3]), W[3]], H),
        "Queries and keys have changed places: which matrix of W is which?":
            lambda x, W, H: mine(x, [W[1], W[0], W[2], W[3]], H),
        "Values and output have changed places: which matrix of W is which?":
            lambda x, W, H: mine(x, [W[0], W[1], W[3], W[2]], H),
    }  # fmt: skip
    proves = "Each head attends within its own part of the width, and the output matrix mixes them."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("position", "number"))


def sinusoidal_positions(theirs: Theirs) -> None:
    """Check the sinusoids that say where a token stands (Vaswani et al. 2017, section 3.5).

    PE(pos, 2i) = sin(pos / 10000^(2i/C)), and PE(pos, 2i+1) is the cosine of the same.

    Stub::

        def sinusoidal_positions(T, C):
            '''Return the vectors of positions 0 to T - 1 (T, C); C is even.'''
            ...

    Hints:

    - torch.arange(0, C, 2) is 2i for all i at once. A column of positions over a row of 10000^(2i/C) is all angles.
    - Each sine stands beside its cosine: stack both along a new last axis and flatten, or fill x[:, 0::2] and
      x[:, 1::2].
    """

    def angles(T: int, C: int, times: float = 1, plus: int = 0, base: float = 1e4) -> Tensor:
        return torch.arange(T)[:, None] / base ** ((times * torch.arange(0, C, 2) + plus) / C)  # (T, C/2)

    def mine(sines: Tensor, cosines: Tensor) -> Tensor:
        return torch.stack([sines.sin(), cosines.cos()], -1).flatten(1)

    cases = {
        "position 0, where each sine is 0 and each cosine 1": (1, 4),
        "width 2, where the angle is the position": (4, 2),
        "three positions of width 6": (3, 6),
        "fifty positions of width 16": (50, 16),
    }
    mistakes: Mistakes = {
        "All sines stand before all cosines: should column 2i hold a sine and column 2i + 1 its cosine?":
            lambda T, C: torch.cat([angles(T, C).sin(), angles(T, C).cos()], 1),
        "Sines and cosines have changed places: which of them is in column 0?":
            lambda T, C: torch.stack([angles(T, C).cos(), angles(T, C).sin()], -1).flatten(1),
        "A cosine turns more slowly than its sine: is the exponent 2i / C in column 2i + 1, too?":
            lambda T, C: mine(angles(T, C), angles(T, C, plus=1)),
        "The later columns turn too fast, because the exponent is i / C: where is the 2?":
            lambda T, C: mine(*[angles(T, C, times=0.5)] * 2),
        "The later columns turn too slowly, because the exponent is 4i / C: was 2i doubled once more?":
            lambda T, C: mine(*[angles(T, C, times=2)] * 2),
        "Later columns turn faster: were positions multiplied by 10000^(2i/C) instead of divided?":
            lambda T, C: mine(*[angles(T, C, times=-1)] * 2),
        "The base is 1000: should it be 10000?":
            lambda T, C: mine(*[angles(T, C, base=1e3)] * 2),
        "The positions begin at 1: should the first one be 0?":
            lambda T, C: mine(*[angles(T + 1, C)[1:]] * 2),
    }  # fmt: skip
    library = partial(layers.sinusoidal_positions, dtype=torch.float64)
    proves = "Every position gets its own pattern of fast and slow waves."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("position", "column"))


# --- 2018: pre-train, then fine-tune; and look both ways --------------------------------------------------------------


def next_token_loss(theirs: Theirs) -> None:
    """Check the loss that GPT-1 is pre-trained with, the mean of -log p(next token) (Radford et al. 2018, equation 1).

    Stub::

        def next_token_loss(logits, ids):
            '''Return the loss in nats, one number that a gradient can pass.

            logits (B, T, V): those at position t score the token at t + 1. ids (B, T) are the texts themselves.
            '''
            ...

    Hints:

    - The last position scores a token that is not there, and nobody scores the first token. What is left of each?
    - log_softmax over the words; then gather takes one log-probability for each token.
    """

    def library(logits: Tensor, ids: Tensor) -> Tensor:
        return layers.next_token_loss(logits[:, :-1], ids[:, 1:])

    def log_p(logits: Tensor, ids: Tensor, dim: int = -1) -> Tensor:
        return logits.log_softmax(dim).gather(-1, ids[..., None]).squeeze(-1)  # (B, T)

    randn, ids = _randn(), torch.tensor([[3, 0, 6, 2, 2], [1, 5, 4, 0, 3]])
    cases = {
        "logits of 0, where the loss is log V": (torch.zeros(2, 4, 7, dtype=torch.float64), ids[:, :4]),
        "two tokens, of which the second is guessed": (randn(1, 2, 7), ids[:1, :2]),
        "two texts of five tokens": (randn(2, 5, 7), ids),
        "logits of some thousand": (5000 * randn(2, 5, 7), ids),
    }
    mistakes: Mistakes = {
        "Each position scores the token that it has just read: which one do the logits at t score?":
            lambda x, ids: -log_p(x, ids).mean(),
        "Logits and ids were both cut at the start, so that a position scores the token it has read: cut logits where?":
            lambda x, ids: -log_p(x[:, 1:], ids[:, 1:]).mean(),
        "Each position scores the token before it: were logits and ids cut at the wrong ends?":
            lambda x, ids: -log_p(x[:, 1:], ids[:, :-1]).mean(),
        "The last position scores the first token, as roll would have it: is there a token after the last?":
            lambda x, ids: -log_p(x, ids.roll(-1, 1)).mean(),
        "This is the sum over all tokens: should it be their mean?":
            lambda x, ids: -log_p(x[:, :-1], ids[:, 1:]).sum(),
        "The sum was divided by the number of all tokens: how many of T tokens are guessed?":
            lambda x, ids: -log_p(x[:, :-1], ids[:, 1:]).sum() / ids.numel(),
        "Each text was summed and only the texts were averaged: should the mean be over all tokens?":
            lambda x, ids: -log_p(x[:, :-1], ids[:, 1:]).sum(1).mean(),
        "The sign is wrong: a better model should have a lower loss. Where is the minus?":
            lambda x, ids: log_p(x[:, :-1], ids[:, 1:]).mean(),
        "This is a mean of probabilities: where is the logarithm?":
            lambda x, ids: -log_p(x[:, :-1], ids[:, 1:]).exp().mean(),
        "The bare logits were averaged: what turns them into log-probabilities?":
            lambda x, ids: -x[:, :-1].gather(-1, ids[:, 1:, None]).mean(),
        "The softmax runs over the positions: should the probabilities sum to 1 over the words?":
            lambda x, ids: -log_p(x[:, :-1], ids[:, 1:], dim=1).mean(),
        "The softmax of an unlikely token is 0, and its log is -inf: have you tried log_softmax?":
            lambda x, ids: -x[:, :-1].softmax(-1).gather(-1, ids[:, 1:, None]).log().mean(),
        "e to the power of a thousand is inf, and inf/inf is NaN: have you tried log_softmax?":
            lambda x, ids: -(x.exp() / x.exp().sum(-1, keepdim=True))[:, :-1].gather(-1, ids[:, 1:, None]).log().mean(),
    }  # fmt: skip
    proves = "Position t guesses the token at t + 1, and the gradient is right as well."
    axes = ("text", "position", "word")
    _compare(theirs, library, cases, mistakes, proves=proves, axes=axes, learns=True)


def classification_head(theirs: Theirs) -> None:
    """Check GPT-1's classifier: a linear layer on the vector at the extract token (Radford et al. 2018, equation 3).

    Stub::

        def classification_head(hidden, ids, W_y, extract):
            '''Return the scores of K classes (B, K), before the softmax.

            hidden (B, T, C) are the last layer's vectors, ids (B, T) the texts. W_y (K, C) has a row for each class.
            Each text ends with its first token extract. What stands behind is filling, whatever it is.
            '''
            ...

    Hints:

    - (ids == extract).int().argmax(1) is the position of the first one in each row.
    - hidden[:, positions] takes all positions from every row. One for each row takes two indices: which row, and where.
    """

    def by_rule(hidden: Tensor, ids: Tensor, W_y: Tensor, extract: int) -> Tensor:  # row by row
        ends = [row.index(extract) for row in ids.tolist()]
        return torch.stack([vectors[end] for vectors, end in zip(hidden, ends, strict=True)]) @ W_y.T

    def end(ids: Tensor, extract: int) -> Tensor:
        return (ids == extract).int().argmax(1)

    def at(hidden: Tensor, positions: Tensor) -> Tensor:
        return hidden[torch.arange(len(hidden)), positions]

    def mean(hidden: Tensor, real: Tensor) -> Tensor:
        return (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)

    randn, E = _randn(), 9
    several = torch.tensor([[5, E, 0, 0], [1, 2, 3, E], [7, 7, E, 0]])
    more = torch.tensor([[5, 1, E, E], [1, E, E, E], [7, 7, 2, E]])
    cases = {
        "one text that ends with extract": (randn(1, 3, 4), torch.tensor([[5, 2, E]]), randn(2, 4), E),
        "texts of three lengths, filled up with 0": (randn(3, 4, 5), several, randn(2, 5), E),
        "texts that are filled up with extract itself": (randn(3, 4, 5), more, randn(2, 5), E),
    }
    mistakes: Mistakes = {
        "The last position was read: what stands there when a text is shorter than the others?":
            lambda h, ids, W, E: h[:, -1] @ W.T,
        "The first position was read, but it has seen only itself: where has the model read the whole text?":
            lambda h, ids, W, E: h[:, 0] @ W.T,
        "The position before extract was read: is that one too early?":
            lambda h, ids, W, E: at(h, end(ids, E) - 1) @ W.T,
        "The last extract was read, but here the filling is extract, too: should it be the first one?":
            lambda h, ids, W, E: at(h, ids.shape[1] - 1 - end(ids.flip(1), E)) @ W.T,
        "The mean of all positions was read, filling included: should it be the vector at extract alone?":
            lambda h, ids, W, E: h.mean(1) @ W.T,
        "The mean of the text was read: should it be the vector at extract alone?":
            lambda h, ids, W, E: mean(h, torch.arange(ids.shape[1]) <= end(ids, E)[:, None]) @ W.T,
        "All texts were read where the first one ends: does each row use its own position?":
            lambda h, ids, W, E: h[:, end(ids, E)[0]] @ W.T,
        "These are probabilities, but scores are wanted: is there a softmax too many?":
            lambda h, ids, W, E: by_rule(h, ids, W, E).softmax(-1),
        "These are log-probabilities, but scores are wanted: is there a log_softmax too many?":
            lambda h, ids, W, E: by_rule(h, ids, W, E).log_softmax(-1),
    }  # fmt: skip
    proves = "The class is read where the whole text has been read, whatever fills up the row."
    _compare(theirs, by_rule, cases, mistakes, proves=proves, axes=("text", "class"), than="equation 3")


def mask_tokens(theirs: Theirs) -> None:
    """Check what BERT learns from: some tokens are hidden, and are to be guessed (Devlin et al. 2018, section 3.1).

    Stub::

        def mask_tokens(ids, special, scores, fate, words, mask_id):
            '''Return inputs (B, T), which the model reads, and labels (B, T): the hidden tokens, and -100 elsewhere.

            In each row the round(0.15 · T) tokens with the lowest scores (B, T) are chosen, one at least, and none
            where special (B, T) is True. A chosen token becomes mask_id where fate (B, T) is below 0.8, stays as it is
            where that is below 0.9, and else becomes the one in words (B, T). All random numbers are drawn already.
            '''
            ...

    Hints:

    - scores.masked_fill(special, 2.0).argsort(1) lists the positions of each row, lowest score first and special ones
      last. scatter makes a mask of the first few of them.
    - Labels are about all chosen tokens, those that stayed as well, and are always the original.
    """

    def choose(special: Tensor, scores: Tensor, to_whole: Callable[[float], int] = round) -> Tensor:
        n = max(1, to_whole(0.15 * scores.shape[1]))
        order = scores.masked_fill(special, 2.0).argsort(1)
        return torch.zeros_like(special).scatter(1, order[:, :n], True)

    def by_rule(ids: Tensor, special: Tensor, scores: Tensor, fate: Tensor, words: Tensor, mask_id: int) -> Any:
        inputs, labels = ids.clone(), torch.full_like(ids, layers.IGNORE_INDEX)  # token by token, as the paper says it
        for b, t in choose(special, scores).nonzero().tolist():
            labels[b, t] = ids[b, t]
            inputs[b, t] = mask_id if fate[b, t] < 0.8 else ids[b, t] if fate[b, t] < 0.9 else words[b, t]
        return inputs, labels

    def mine(i: Tensor, fate: Tensor, words: Tensor, mask_id: int, chosen: Tensor, *, labelled: Any = None) -> Any:
        inputs = torch.where(chosen & (fate >= 0.9), words, i.masked_fill(chosen & (fate < 0.8), mask_id))
        return inputs, i.masked_fill(~(chosen if labelled is None else labelled), -100)

    def inputs(B: int, T: int, fate: float | None = None) -> tuple[Any, ...]:
        special = torch.zeros(B, T, dtype=torch.bool)
        special[:, [0, -1]] = True  # [CLS] and [SEP], whose scores are the lowest of all
        scores, fates = rand(B, T).masked_fill(special, 0.0), rand(B, T)
        fates = fates if fate is None else torch.full_like(fates, fate)
        ids, words = (torch.randint(10, 99, (B, T), generator=generator) for _ in range(2))
        return ids, special, scores, fates, words, 3

    generator = torch.Generator().manual_seed(1)
    rand = partial(torch.rand, generator=generator, dtype=torch.float64)
    cases = {
        "a fate of 0.1, where chosen tokens become [MASK] (3)": inputs(2, 24, 0.1),
        "a fate of 0.85, where chosen tokens stay": inputs(2, 24, 0.85),
        "a fate of 0.95, where chosen tokens become other words": inputs(2, 24, 0.95),
        "a text of three tokens, of which one is chosen": inputs(1, 3, 0.1),
        "three texts and all fates": inputs(3, 40),
    }
    mistakes: Mistakes = {
        "All chosen tokens became [MASK]: which 10 % stay as they are, and which 10 % become other words?":
            lambda i, s, x, f, w, m: mine(i, 0 * f, w, m, choose(s, x)),
        "Tokens stayed from 0.9 on and became other words just below it: is it the other way round?":
            lambda i, s, x, f, w, m: mine(i, torch.where(f < 0.8, f, 1.75 - f), w, m, choose(s, x)),
        "Every token has a label, so that the model is asked about words it can see: where is -100?":
            lambda i, s, x, f, w, m: (mine(i, f, w, m, choose(s, x))[0], i),
        "The label is what the model reads, so that it need only copy: should it be the original token?":
            lambda i, s, x, f, w, m: (y := mine(i, f, w, m, choose(s, x))[0], y.masked_fill(~choose(s, x), -100)),
        "Only what became [MASK] has a label: should all chosen tokens have one, those that stayed included?":
            lambda i, s, x, f, w, m: mine(i, f, w, m, choose(s, x), labelled=choose(s, x) & (f < 0.8)),
        "A special token was chosen: where does the argument special come in?":
            lambda i, s, x, f, w, m: mine(i, f, w, m, choose(s & False, x)),
        "Each token was chosen by itself, with a chance of 15 %: should there be the same number in each row?":
            lambda i, s, x, f, w, m: mine(i, f, w, m, (x < 0.15) & ~s),
        "One token too few was chosen: was 0.15 · T cut off instead of rounded?":
            lambda i, s, x, f, w, m: mine(i, f, w, m, choose(s, x, int)),
        "Special tokens were chosen, and then those with the highest scores: does argsort begin with the lowest?":
            lambda i, s, x, f, w, m: mine(i, f, w, m, choose(s & False, -x.masked_fill(s, 2.0))),
        "The tokens with the highest scores were chosen: should it be the lowest?":
            lambda i, s, x, f, w, m: mine(i, f, w, m, choose(s, 1 - x)),
        "Tokens that were not chosen became other words: should fate matter only where a token was chosen?":
            lambda i, s, x, f, w, m: mine(torch.where(f >= 0.9, w, i), f, w, m, choose(s, x))[:1]
            + mine(i, f, w, m, choose(s, x))[1:],
        "The label is 0 where nothing is to be learned, but 0 is a word: which number does cross-entropy ignore?":
            lambda i, s, x, f, w, m: (mine(i, f, w, m, choose(s, x))[0], i * choose(s, x)),
    }  # fmt: skip
    proves = "The model is asked about 15 % of the tokens, and cannot be sure which from what it sees."
    parts, axes = ("inputs", "labels"), ("text", "position")
    _compare(theirs, by_rule, cases, mistakes, proves=proves, axes=axes, parts=parts, than="BERT's rule")


def sentence_pair_input(theirs: Theirs) -> None:
    """Check how BERT writes a pair of texts, [CLS] a [SEP] b [SEP], with a segment for each token (Devlin et al. 2018).

    Stub::

        def sentence_pair_input(a, b, cls, sep, max_tokens):
            '''Return ids and segments, two lists of at most max_tokens numbers.

            a and b are lists of ids. While all is too long, the longer text loses its last token, b if they are equally
            long. Segment 0 reaches up to the first [SEP] and includes it, segment 1 from there to the end.
            '''
            a, b = list(a), list(b)  # copies, which may be cut
            ...

    Hints:

    - Three of the max_tokens go to [CLS] and two [SEP].
    - (a if len(a) > len(b) else b).pop() takes a token from the longer one.
    """

    def cut(a: list[int], b: list[int], room: int, *, end: int = -1, tie: int = 0) -> tuple[list[int], list[int]]:
        a, b = list(a), list(b)
        while len(a) + len(b) > room:
            (a if len(a) + tie > len(b) else b).pop(end)
        return a, b

    def write(a: list[int], b: list[int], cls: int, sep: int) -> Any:
        return [cls, *a, sep, *b, sep], [0] * (len(a) + 2) + [1] * (len(b) + 1)

    def by_rule(a: list[int], b: list[int], cls: int, sep: int, m: int) -> Any:
        return write(*cut(a, b, m - 3), cls, sep)

    one, two = [11, 12, 13, 14, 15, 16], [21, 22, 23, 24]
    cases = {
        "two texts that fit": (one[:2], two[:3], 1, 2, 20),
        "a first text that is too long": (one, two[:2], 1, 2, 7),
        "a second text that is too long": (one[:1], two, 1, 2, 7),
        "texts of equal length": (one[:4], two, 1, 2, 10),
    }
    mistakes: Mistakes = {
        "The text begins without [CLS]: where is it?":
            lambda *given: tuple(x[1:] for x in by_rule(*given)),
        "The second text ends without [SEP]: where is it?":
            lambda *given: tuple(x[:-1] for x in by_rule(*given)),
        "The first [SEP] is in segment 1: does it belong to the text that it ends?":
            lambda *given: (by_rule(*given)[0], [*by_rule(*given)[1][1:], 1]),
        "The last [SEP] is in segment 0: does it belong to the text that it ends?":
            lambda *given: (by_rule(*given)[0], [*by_rule(*given)[1][:-1], 0]),
        "The segments are 1 and 2: should they be 0 and 1?":
            lambda *given: (by_rule(*given)[0], [segment + 1 for segment in by_rule(*given)[1]]),
        "The pair is too long by three: do [CLS] and the two [SEP] count?":
            lambda a, b, cls, sep, m: by_rule(a, b, cls, sep, m + 3),
        "Nothing was cut off, so that the pair is too long: what does max_tokens ask for?":
            lambda a, b, cls, sep, m: write(a, b, cls, sep),
        "Only the second text was cut: which one has more to give?":
            lambda a, b, cls, sep, m: write(a, b[: max(m - 3 - len(a), 0)], cls, sep),
        "Only the first text was cut: which one has more to give?":
            lambda a, b, cls, sep, m: write(a[: max(m - 3 - len(b), 0)], b, cls, sep),
        "Each text was cut to half of the room: did the shorter one have to lose anything?":
            lambda a, b, cls, sep, m: write(a[: (m - 3) // 2], b[: (m - 3) // 2], cls, sep),
        "The longer text lost its first tokens: should it lose its last ones?":
            lambda a, b, cls, sep, m: write(*cut(a, b, m - 3, end=0), cls, sep),
        "Both texts are equally long, and the first one lost a token: should the second one?":
            lambda a, b, cls, sep, m: write(*cut(a, b, m - 3, tie=1), cls, sep),
    }  # fmt: skip
    proves = "The two texts are one sequence, told apart by their segments, and the longer one is cut first."
    _compare(theirs, by_rule, cases, mistakes, proves=proves, parts=("ids", "segments"), than="BERT's rule")


# --- 2019: pieces of words, and what may be drawn; attention to a part ------------------------------------------------


def learn_merges(theirs: Theirs) -> None:
    """Check how byte-pair encoding learns (Sennrich et al. 2016, algorithm 1).

    Stub::

        def learn_merges(words, n):
            '''Return the first n merges, a list of pairs such as [("e", "s"), ("es", "t")].

            words is a dict: how often each word comes. A word begins as its letters; then, n times, the most frequent
            pair of neighbours becomes one token wherever it stands in a word, from left to right. (No two pairs are
            equally frequent here.)
            '''
            pieces = {word: list(word) for word in words}  # the tokens of each word
            merges = []
            for _ in range(n):
                ...
            return merges

    Hints:

    - A pair counts once for each place where it stands in a word, times how often that word comes. Count anew in each
      round: a merge changes the pairs beside it.
    - To merge, walk through a word's tokens and build a new list: where its last token and this one are the pair, add
      this one to the last, else append it.
    """

    def library(words: dict[str, int], n: int) -> list[tuple[str, str]]:
        tokens, merges = [chr(byte) for byte in tokenizers.BYTE_ORDER], []
        for left, right in itertools.islice(tokenizers.learn_merges(words), n):
            merges.append((tokens[left], tokens[right]))
            tokens.append(tokens[left] + tokens[right])
        return merges

    def join(tokens: list[str], pair: tuple[str, str]) -> list[str]:
        joined: list[str] = []
        for token in tokens:
            if joined and (joined[-1], token) == pair:
                joined[-1] += token
            else:
                joined.append(token)
        return joined

    def count(words: dict[str, int], pieces: dict[str, list[str]], pairs: Any = list) -> Counter[tuple[str, str]]:
        counts = Counter[tuple[str, str]]()
        for word, tokens in pieces.items():
            for pair in pairs(itertools.pairwise(tokens)):
                counts[pair] += words[word]
        return counts

    def mine(words: dict[str, int], n: int, *, join: Any = join, best: Any = max, pairs: Any = list) -> Any:
        pieces, merges = {word: list(word) for word in words}, list[tuple[str, str]]()
        while len(merges) < n and (counts := count(words, pieces, pairs)):
            merges.append(best(counts, key=lambda pair: counts[pair]))
            pieces = {word: join(tokens, merges[-1]) for word, tokens in pieces.items()}
        return merges

    cases: Cases = {
        "one pair that comes three times, and one that comes once": ({"cb": 1, "ab": 3}, 1),
        "one word that comes often": ({"few": 2, "new": 2, "sew": 2, "ow": 7}, 1),
        "a word that holds a pair twice": ({"anan": 3, "nb": 4}, 1),
        "a merge that changes the pairs beside it": ({"abc": 5, "bc": 2, "ad": 3}, 2),
        "three equal letters": ({"aaa": 4, "ba": 3}, 2),
        "a token that ends like another": ({"aac": 9, "aab": 4, "ab": 6, "de": 1}, 4),
        "six words": ({"low": 5, "lower": 2, "newest": 6, "widest": 3, "yes": 1, "lot": 1}, 4),
    }
    mistakes: Mistakes = {
        "The rarest pair was merged first: should it be the most frequent one?":
            lambda words, n: mine(words, n, best=min),
        "Each word was counted once: should a word that comes seven times count its pairs seven times?":
            lambda words, n: mine(dict.fromkeys(words, 1), n),
        "A pair was counted once a word: what if it stands there twice?":
            lambda words, n: mine(words, n, pairs=set),
        "The pairs were counted only once, at the beginning: which new pairs does a merge make?":
            lambda words, n: [pair for pair, _ in count(words, {word: list(word) for word in words}).most_common(n)],
        "Of three equal letters the last two became one token: is the word read from left to right?":
            lambda words, n: mine(words, n, join=lambda x, p: join(x[::-1], p)[::-1] if p[0] == p[1] else join(x, p)),
        "The text 'a b' was replaced inside 'aa b', where the token is aa and not a: can you compare whole tokens?":
            lambda words, n: mine(words, n, join=lambda x, p: " ".join(x).replace(" ".join(p), "".join(p)).split()),
        "Each merge came as one string: should it be a pair of its two halves?":
            lambda words, n: ["".join(pair) for pair in mine(words, n)],
    }  # fmt: skip
    proves = "The most frequent pair becomes a token, again and again."
    _compare(theirs, library, cases, mistakes, proves=proves)


def nucleus(theirs: Theirs) -> None:
    """Check nucleus sampling: the likeliest words, with a mass of p, may be drawn (Holtzman et al. 2020, section 3.1).

    Stub::

        def nucleus(logits, p):
            '''Return probabilities (V,): those of the smallest set of likeliest words with a mass of at least p, scaled
            so that they sum to 1, and 0 for all others. logits (V,).
            '''
            probabilities, order = logits.softmax(-1).sort(descending=True)
            ...

    Hints:

    - cumsum includes the word itself. How much mass lies before it? A word stays while that is below p.
    - order says where each sorted probability came from; scatter puts them back there.
    """

    def library(logits: Tensor, p: float) -> Tensor:
        return generation.filter_logits(logits[None], top_p=p).softmax(-1)[0]

    def mine(logits: Tensor, p: float, *, stays: Any = None, scaled: bool = True, back: Any = None) -> Tensor:
        x, order = logits.softmax(-1).sort(descending=True)
        kept = x * (x.cumsum(-1) - x < p if stays is None else stays(x))
        kept = kept / kept.sum() if scaled else kept
        return torch.zeros_like(kept).scatter(0, order, kept) if back is None else back(kept, order)

    randn, sorted_p = _randn(), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    cases = {
        "probabilities 0.4, 0.3, 0.2, 0.1 and p = 0.65": (sorted_p.log(), 0.65),
        "probabilities 0.4, 0.3, 0.2, 0.1 and p = 0.1": (sorted_p.log(), 0.1),
        "probabilities 0.2, 0.4, 0.1, 0.3 and p = 0.65": (sorted_p[[2, 0, 3, 1]].log(), 0.65),
        "fifty words and p = 0.9": (3 * randn(50) + 2, 0.9),
    }
    mistakes: Mistakes = {
        "The word that crosses p is gone, so that less than p is left: does cumsum count the word itself as before it?":
            lambda x, p: mine(x, p, stays=lambda y: y.cumsum(-1) < p),
        "One word too many stays: had those before it reached p already?":
            lambda x, p: mine(x, p, stays=lambda y: y.cumsum(-1) - y < p + F.pad(y, (1, 0))[:-1]),
        "What stays sums to less than 1: where is it scaled?":
            lambda x, p: mine(x, p, scaled=False),
        "The probabilities are in sorted order: which word does each belong to?":
            lambda x, p: mine(x, p, back=lambda kept, order: kept),
        "The probabilities went to the wrong words: kept[order] shuffles them once more. Can scatter put them back?":
            lambda x, p: mine(x, p, back=lambda kept, order: kept[order]),
        "Only words with a probability of at least p stay: is it their sum that should reach p?":
            lambda x, p: mine(x, p, stays=lambda y: y >= p),
        "Nothing was left out: which words lie beyond a mass of p?":
            lambda x, p: x.softmax(-1),
        "These are logits: where is the softmax?":
            lambda x, p: generation.filter_logits(x[None], top_p=p)[0],
    }  # fmt: skip
    proves = "Unlikely words cannot be drawn, and how many are left depends on how sure the model is."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("word",))


def strided_mask(theirs: Theirs) -> None:
    """Check the strided pattern of a Sparse Transformer, both parts in one (Child et al. 2019, section 4.3).

    Stub::

        def strided_mask(T, stride):
            '''Return a boolean mask (T, T), True where position i (row) may attend to position j (column).

            Each sees the last ``stride`` positions, itself included, and before them every stride-th one.
            '''
            i, j = torch.arange(T)[:, None], torch.arange(T)
            ...

    Hints:

    - i - j is the distance, and the future has a negative one.
    - (i - j) % stride == 0 counts back from the position itself. Join both parts with ``|``, and the past with ``&``.
    """

    def mine(T: int, stride: int, *, near: int = 0, far: Any = None, past: bool = True, both: bool = False) -> Tensor:
        i, j = torch.arange(T)[:, None], torch.arange(T)
        first, second = i - j < stride + near, (i - j) % stride == 0 if far is None else far(i, j)
        seen = first & second if both else first | second
        return seen & (j <= i) if past else seen

    cases = {"one position": (1, 1), "a stride of 3": (7, 3), "a stride of 4": (16, 4), "a long stride": (6, 9)}
    mistakes: Mistakes = {
        "A row sees positions that come later: where is j <= i?":
            lambda T, stride: mine(T, stride, past=False),
        "A row sees as far ahead as back: does a distance have a sign, and the future a negative one?":
            lambda T, stride: mine(T, stride) | mine(T, stride).T,
        "Rows and columns have changed places: is it the row's position that looks?":
            lambda T, stride: mine(T, stride).T,
        "Only the last stretch is seen: where is every stride-th position before it?":
            lambda T, stride: mine(T, stride, far=lambda i, j: i < 0),
        "Only every stride-th position is seen: where is the last stretch?":
            lambda T, stride: mine(T, stride, near=-stride),
        "The last stretch is one too short: is it stride positions long, the row's own included?":
            lambda T, stride: mine(T, stride, near=-1),
        "The stride-th positions are the same for every row: should they be counted back from the row's own?":
            lambda T, stride: mine(T, stride, far=lambda i, j: j % stride == 0),
        "Only what lies in both parts is seen: should it be what lies in either?":
            lambda T, stride: mine(T, stride, both=True),
        "True and False have changed places: does True mark what may be seen?":
            lambda T, stride: ~mine(T, stride),
    }  # fmt: skip
    proves = "With a stride near √T a position sees about √T others, and reaches any earlier one in two steps."
    _compare(theirs, sparse_attention.strided_mask, cases, mistakes, proves=proves, axes=("row", "position"))


def fixed_mask(theirs: Theirs) -> None:
    """Check the fixed pattern of a Sparse Transformer, both parts in one (Child et al. 2019, section 4.3).

    Stub::

        def fixed_mask(T, stride, c):
            '''Return a boolean mask (T, T), True where position i (row) may attend to position j (column).

            The text is cut into blocks of ``stride``. Each position sees those of its own block up to itself, and the
            last c positions of every block before.
            '''
            i, j = torch.arange(T)[:, None], torch.arange(T)
            ...

    Hints:

    - i // stride is the number of a position's block, j % stride its place within it.
    - Which places are the last c of 0 … stride - 1? Join both parts with ``|``, and the past with ``&``.
    """

    def mine(T: int, stride: int, c: int, *, own: Any = None, summary: Any = None, past: bool = True) -> Tensor:
        i, j = torch.arange(T)[:, None], torch.arange(T)
        first = i // stride == j // stride if own is None else own(i, j)
        second = j % stride >= stride - c if summary is None else summary(i, j)
        return (first | second) & (j <= i) if past else first | second

    cases = {
        "one position": (1, 1, 1),
        "blocks of 3 and c = 1": (7, 3, 1),
        "blocks of 4 and c = 2": (14, 4, 2),
        "a block as long as c": (6, 2, 2),
    }
    mistakes: Mistakes = {
        "A row sees positions that come later: where is j <= i?":
            lambda T, stride, c: mine(T, stride, c, past=False),
        "Rows and columns have changed places: is it the row's position that looks?":
            lambda T, stride, c: mine(T, stride, c).T,
        "Only the own block is seen: where are the ends of earlier blocks?":
            lambda T, stride, c: mine(T, stride, c, summary=lambda i, j: j < 0),
        "Only the ends of blocks are seen: where is the rest of the own one?":
            lambda T, stride, c: mine(T, stride, c, own=lambda i, j: i < 0),
        "The own block moves along with the row, as in the strided pattern: where do the blocks begin?":
            lambda T, stride, c: mine(T, stride, c, own=lambda i, j: i - j < stride),
        "The first c positions of earlier blocks are seen: should it be the last c, which have read their block?":
            lambda T, stride, c: mine(T, stride, c, summary=lambda i, j: j % stride < c),
        "One position of each earlier block is seen: should there be c of them?":
            lambda T, stride, c: mine(T, stride, 1),
        "The ends of blocks are one position short: does place stride - c belong to the last c?":
            lambda T, stride, c: mine(T, stride, c - 1),
        "Every stride-th position is counted back from the row, as in the strided pattern: where do the blocks end?":
            lambda T, stride, c: mine(T, stride, c, summary=lambda i, j: (i - j) % stride == 0),
        "True and False have changed places: does True mark what may be seen?":
            lambda T, stride, c: ~mine(T, stride, c),
    }  # fmt: skip
    proves = "Positions read their own block, and the last c of each block pass it on to all later ones."
    _compare(theirs, sparse_attention.fixed_mask, cases, mistakes, proves=proves, axes=("row", "position"))


# --- 2020: laws of scaling, and tasks in the prompt -------------------------------------------------------------------


def fit_power_law(theirs: Theirs) -> None:
    """Check the fit of a power law, L(x) = (scale / x)^exponent (Kaplan et al. 2020, section 1.2).

    Stub::

        def fit_power_law(x, loss):
            '''Return exponent and scale of the law nearest to the points, by least squares of log(loss).

            x and loss are NumPy arrays of one length.
            '''
            ...

    Hints:

    - log L = exponent · log(scale) - exponent · log(x): a straight line in log(x). np.polyfit(…, …, 1) fits one.
    - The slope is minus the exponent. Where the line crosses log L = 0, x is the scale.
    """
    from nextword.scaling_laws import fit_power_law  # here, since it needs scipy, which only its chapter installs

    def library(x: Any, loss: Any) -> tuple[float, float]:
        law = fit_power_law(x, loss)
        return law.exponent, law.scale

    def line(x: Any, y: Any) -> Any:
        return np.polyfit(x, y, 1)

    x = np.array([1e3, 1e4, 1e5, 1e6, 1e7])
    cases = {
        "losses 4, 2, 1 at 1, 10, 100": (np.array([1.0, 10.0, 100.0]), np.array([4.0, 2.0, 1.0])),
        "points on a line": (x, (8.8e13 / x) ** 0.076),
        "points beside a line": (x, (1e9 / x) ** 0.1 * np.array([1.1, 0.95, 1.0, 0.9, 1.05])),
    }
    mistakes: Mistakes = {
        "The exponent has the wrong sign: L falls with x, so the slope is negative. Is the exponent minus the slope?":
            lambda x, y: (-library(x, y)[0], library(x, y)[1]),
        "The scale is e to the power of the intercept, which is scale^exponent: where does the line cross log L = 0?":
            lambda x, y: (library(x, y)[0], float(np.exp(line(np.log(x), np.log(y))[1]))),
        "The scale is one over what it should be: is there a minus before intercept / slope?":
            lambda x, y: (library(x, y)[0], 1 / library(x, y)[1]),
        "The line was fitted in natural logarithms, and undone with a power of 10: is it the same logarithm?":
            lambda x, y: (library(x, y)[0], float(10 ** np.log(library(x, y)[1]))),
        "The line was fitted to the loss itself over log(x): should it be log(loss)?":
            lambda x, y: (a := line(np.log(x), y), (-a[0], float(np.exp(-a[1] / a[0]))))[1],
        "log(x) was fitted as a function of log(loss): should it be log(loss) as a function of log(x)?":
            lambda x, y: (a := line(np.log(y), np.log(x)), (-1 / a[0], float(np.exp(a[1]))))[1],
        "Scale and exponent have changed places: which comes first?":
            lambda x, y: library(x, y)[::-1],
    }  # fmt: skip
    proves = "In logarithms a power law is a straight line, and small and large losses weigh alike."
    _compare(theirs, library, cases, mistakes, proves=proves, parts=("exponent", "scale"))


def chinchilla_optimum(theirs: Theirs) -> None:
    """Check the best split of a budget between size and data (Hoffmann et al. 2022, equation 4).

    For C = 6·N·D operations L(N, D) = E + A / N^α + B / D^β is lowest at N = G · (C/6)^(β/(α+β)), with
    G = (αA / βB)^(1/(α+β)).

    Stub::

        def chinchilla_optimum(C, A, B, alpha, beta):
            '''Return the N and D that give the lowest loss for C operations.'''
            ...

    Hints:

    - Put D = C / 6N into L: it is flat where α·A / N^α = β·B / D^β.
    - Once N is known, the budget gives D.
    """
    from nextword.scaling_laws import Chinchilla  # here, since it needs scipy, which only its chapter installs

    def library(C: float, A: float, B: float, alpha: float, beta: float) -> tuple[float, float]:
        N, D = Chinchilla(E=0.0, A=A, B=B, alpha=alpha, beta=beta).optimum(C)
        return float(N), float(D)

    def mine(C: float, A: float, B: float, a: float, b: float, *, ratio: Any = None, share: Any = None) -> Any:
        G = (a * A / (b * B) if ratio is None else ratio) ** (1 / (a + b))
        N = G * (C / 6) ** (b / (a + b) if share is None else share)
        return N, C / 6 / N

    cases = {
        "A = B and α = β, where N and D are √(C/6)": (600.0, 2.0, 2.0, 0.3, 0.3),
        "α = β, where only A and B differ": (6e4, 4.0, 1.0, 0.5, 0.5),
        "A = B, where only α and β differ": (6e6, 1.0, 1.0, 0.4, 0.2),
        "Gopher's budget and the paper's constants": (5.76e23, 406.4, 410.7, 0.34, 0.28),
    }
    mistakes: Mistakes = {
        "The exponents have changed places: if data helps more (a large β), is it N that grows faster with C?":
            lambda C, A, B, a, b: mine(C, A, B, a, b, share=a / (a + b)),
        "N·D comes to C: where is the 6, the operations that a parameter takes for a token?":
            lambda C, A, B, a, b: mine(6 * C, A, B, a, b),
        "N is right, but D is C / N: where is the 6, the operations that a parameter takes for a token?":
            lambda C, A, B, a, b: (mine(C, A, B, a, b)[0], C / mine(C, A, B, a, b)[0]),
        "G is upside down: if size matters more (a large A), should the model be larger?":
            lambda C, A, B, a, b: mine(C, A, B, a, b, ratio=b * B / (a * A)),
        "G is 1, as if size and data always mattered alike: where are A and B?":
            lambda C, A, B, a, b: mine(C, A, B, a, b, ratio=1.0),
        "G has A / B in it without α / β: what becomes of the exponents when A / N^α is differentiated?":
            lambda C, A, B, a, b: mine(C, A, B, a, b, ratio=A / B),
        "G lacks its exponent: where is 1/(α+β)?":
            lambda C, A, B, a, b: mine(C, A, B, a, b, ratio=(a * A / (b * B)) ** (a + b)),
        "N and D have changed places: which comes first?":
            lambda C, A, B, a, b: mine(C, A, B, a, b)[::-1],
    }  # fmt: skip
    proves = "At this split, shifting compute from size to data or back would only raise the loss."
    _compare(theirs, library, cases, mistakes, proves=proves, parts=("N", "D"))


def few_shot_prompt(theirs: Theirs) -> None:
    """Check a few-shot prompt: examples, and a query that waits (Brown et al. 2020, figure 2.1 and section 2.4).

    Stub::

        def few_shot_prompt(examples, k, query, instruction=""):
            '''Return the prompt, a string, its lines joined by a line break and nothing at its end.

            First the instruction, if there is one. Then the first k of examples, pairs (question, answer), without any
            whose question is the query, each as "question -> answer". Last "query ->", which waits for an answer.
            '''
            ...

    Hints:

    - If the query is among the examples, its answer must not stand in the prompt. Then k others follow.
    - The prompt ends with "->" and no space: models read a word with the space before it as one token.
    """

    def library(examples: list[tuple[str, str]], k: int, query: str, instruction: str) -> str:
        # It draws its examples. So lay them out in such a way that it draws them in the order in which they stand here.
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).argsort().tolist()
        settings: dict[str, Any] = {"instruction": instruction, "generator": torch.Generator().manual_seed(0)}
        return evaluation.few_shot_prompt([examples[i] for i in order], k, query=query, **settings)

    def mine(examples: Any, k: int, query: str, instruction: str, *, wait: str = " ->") -> str:
        shown = [f"{q} -> {a}" for q, a in examples if q != query][:k]
        return "\n".join([*[instruction] * bool(instruction), *shown, query + wait])

    words = [("dog", "dogs"), ("cat", "cats"), ("ox", "oxen"), ("foot", "feet")]
    cases = {
        "no example, only the query": (words, 0, "mouse", ""),
        "one example": (words, 1, "mouse", ""),
        "two examples and an instruction": (words, 2, "mouse", "Say the plural."),
        "a query that is among the examples": (words, 2, "dog", ""),
    }
    mistakes: Mistakes = {
        "The prompt ends with a space, but the answer's first token brings its own: can you drop it?":
            lambda x, k, q, i: mine(x, k, q, i) + " ",
        "The prompt ends with a line break: should the answer follow on the same line?":
            lambda x, k, q, i: mine(x, k, q, i) + "\n",
        "The query's own answer stands in the prompt: should that example be left out?":
            lambda x, k, q, i: mine(x, k, "", i).removesuffix(" ->") + f"{q} ->",
        "One example is missing: were k taken before the query's own was left out?":
            lambda x, k, q, i: mine(x[:k], k, q, i),
        "All examples are shown: should it be the first k?":
            lambda x, k, q, i: mine(x, len(x), q, i),
        "An empty instruction has left an empty line: can you leave it out?":
            lambda x, k, q, i: f"{i}\n{mine(x, k, q, '')}",
        "The instruction is missing: where does it stand?":
            lambda x, k, q, i: mine(x, k, q, ""),
        "The instruction stands behind the examples: should the model read it first?":
            lambda x, k, q, i: "\n".join([*mine(x, k, q, "").split("\n")[:-1], *[i] * bool(i), f"{q} ->"]),
        "The query does not end with an arrow: what tells the model that an answer is due?":
            lambda x, k, q, i: mine(x, k, q, i, wait=""),
    }  # fmt: skip
    proves = "The prompt shows the task, does not give the answer away, and ends where the answer begins."
    _compare(theirs, library, cases, mistakes, proves=proves)


def answer_score(theirs: Theirs) -> None:
    """Check how likely a model finds an answer after a question (Brown et al. 2020, section 2.4).

    Stub::

        def answer_score(logits, ids, n):
            '''Return the log-probability of the answer, one number: the last n of the tokens, given all before them.

            ids (T,) are question and answer. logits (T, V) are the model's: those at position t score the token at
            t + 1.
            '''
            ...

    Hints:

    - The first token of the answer is scored one position before it, and the logits at the last position score nothing
      that is there.
    - log p of several tokens in a row is the sum of theirs.
    """

    def by_torch(logits: Tensor, ids: Tensor, n: int) -> Tensor:
        return -F.cross_entropy(logits[-n - 1 : -1], ids[-n:], reduction="sum")

    def mine(logits: Tensor, ids: Tensor, n: int, *, shift: int = 1) -> Tensor:  # of each token (n,)
        at = torch.arange(len(ids) - n, len(ids))
        return logits.log_softmax(-1)[at - shift, ids[at]]

    randn, ids = _randn(), torch.tensor([3, 1, 4, 1, 5, 2])
    unlikely = -5000.0 * F.one_hot(ids.roll(-1), 7).double()  # each token where it is scored
    cases = {
        "logits of 0, where each token costs log V": (torch.zeros(6, 7, dtype=torch.float64), ids, 2),
        "an answer of one token": (randn(6, 7), ids, 1),
        "an answer of three tokens": (randn(6, 7), ids, 3),
        "an answer that the model finds impossible": (unlikely, ids, 3),
    }
    mistakes: Mistakes = {
        "Each token is scored where it has been read already: do the logits one position earlier score it?":
            lambda x, ids, n: mine(x, ids, n, shift=0).sum(),
        "This is the mean over the answer's tokens: should it be the sum?":
            lambda x, ids, n: mine(x, ids, n).mean(),
        "The whole text is scored: should it be the last n tokens alone?":
            lambda x, ids, n: mine(x, ids, len(ids) - 1).sum(),
        "The last token of the question is scored, too: how many belong to the answer?":
            lambda x, ids, n: mine(x, ids, n + 1).sum(),
        "Only the answer's first token is scored: where are the others?":
            lambda x, ids, n: mine(x, ids, n)[0],
        "This is a probability: where is the logarithm?":
            lambda x, ids, n: mine(x, ids, n).sum().exp(),
        "This is a sum of probabilities: where is the logarithm?":
            lambda x, ids, n: mine(x, ids, n).exp().sum(),
        "The bare logits were added up: what turns them into log-probabilities?":
            lambda x, ids, n: x[-n - 1 : -1].gather(-1, ids[-n:, None]).sum(),
        "The sign is wrong: a likelier answer should score higher. Is there a minus too many?":
            lambda x, ids, n: -mine(x, ids, n).sum(),
        "The softmax of an unlikely token is 0, and its log is -inf: have you tried log_softmax?":
            lambda x, ids, n: x[-n - 1 : -1].softmax(-1).gather(-1, ids[-n:, None]).log().sum(),
    }  # fmt: skip
    proves = "Score every answer this way, and the highest is the model's choice."
    _compare(theirs, by_torch, cases, mistakes, proves=proves, than="torch's cross-entropy")


# --- 2017 and 2022: learn from rewards, and from people ---------------------------------------------------------------


def gae(theirs: Theirs) -> None:
    """Check generalised advantage estimation (Schulman et al. 2016, equation 16).

    A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V_{t+1} - V_t, where an episode goes on; where it ends, nothing follows.

    Stub::

        def gae(rewards, values, dones, last_value, gamma, lam):
            '''Return the advantage of each of T steps (T,).

            rewards, values and dones (T,): what step t gave, what the critic expected before it, and 1.0 where the
            episode ended with it, else 0.0. last_value is what the critic expects after the last step.
            '''
            advantages = torch.zeros_like(rewards)
            ...

    Hints:

    - Go backwards: A_t needs A_{t+1}, and after the last step that is 0.
    - Where an episode ends, two things of the next step do not count: its value V_{t+1} and its advantage A_{t+1}.
    """

    def library(r: Tensor, v: Tensor, dones: Tensor, last: float, gamma: float, lam: float) -> Tensor:
        last_value = torch.tensor([last])
        return ppo.gae(r[:, None], v[:, None], dones[:, None], last_value, gamma=gamma, lam=lam)[0][:, 0]

    def after(v: Tensor, last: float) -> Tensor:
        return torch.cat([v[1:], torch.tensor([last])])

    def mine(
        r: Tensor, v: Tensor, dones: Tensor, last: Any, gamma: float, lam: float, *, ends: Any = None, fades: Any = None
    ) -> Tensor:
        delta = r + gamma * after(v, last) * (1 - (dones if ends is None else ends)) - v
        advantages, later = torch.zeros_like(r), torch.zeros(())
        for t in reversed(range(len(r))):
            later = delta[t] + (gamma * lam * (1 - dones[t]) if fades is None else fades[t]) * later
            advantages[t] = later
        return advantages

    randn, zero = _randn(), torch.zeros(5, dtype=torch.float64)
    ended = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    cases = {
        "one step that ends an episode, whose advantage is r - V": (randn(1), randn(1), zero[:1] + 1, 0.7, 0.9, 0.8),
        "one step after which it goes on": (randn(1), randn(1), zero[:1], 0.7, 0.9, 0.8),
        "λ = 0, where the advantages are the δ": (randn(5), randn(5), zero, 0.7, 0.9, 0.0),
        "γ = λ = 1, where all rewards to come count alike": (randn(5), randn(5), zero, 0.7, 1.0, 1.0),
        "five steps without an end": (randn(5), randn(5), zero, 0.7, 0.9, 0.8),
        "an episode that ends with step 2": (randn(5), randn(5), ended, 0.7, 0.9, 0.8),
    }
    mistakes: Mistakes = {
        "The ends of episodes make no difference: where does dones come in?":
            lambda r, v, d, last, g, lam: mine(r, v, 0 * d, last, g, lam),
        "An episode's last step still counts A_{t+1}, which belongs to the next episode: is it multiplied by 1 - done?":
            lambda r, v, d, last, g, lam: mine(r, v, 0 * d, last, g, lam, ends=d),
        "An episode's last step still counts V_{t+1}, which belongs to the next episode: is it multiplied by 1 - done?":
            lambda r, v, d, last, g, lam: mine(r, v, d, last, g, lam, ends=0 * d),
        "An end cuts one step too late: does dones[t] say that the episode ended with step t?":
            lambda r, v, d, last, g, lam: mine(r, v, F.pad(d, (1, 0))[:-1], last, g, lam),
        "An end cuts one step too early: was dones[t + 1] used in place of dones[t]?":
            lambda r, v, d, last, g, lam: mine(r, v, F.pad(d, (0, 1))[1:], last, g, lam),
        "The value after the last step is missing: what is V_{t+1} there?":
            lambda r, v, d, last, g, lam: mine(r, v, d, 0.0, g, lam),
        "V_{t+1} counts in full in δ: where is its γ?":
            lambda r, v, d, last, g, lam: mine(r + (1 - g) * (1 - d) * after(v, last), v, d, last, g, lam),
        "Later advantages fade by λ alone: where is γ?":
            lambda r, v, d, last, g, lam: mine(r, v, d, last, g, lam, fades=lam * (1 - d)),
        "Later advantages fade by γ alone: where is λ?":
            lambda r, v, d, last, g, lam: mine(r, v, d, last, g, lam, fades=g * (1 - d)),
        "These are returns, A + V: were the values added at the end?":
            lambda r, v, d, last, g, lam: mine(r, v, d, last, g, lam) + v,
        "These are the δ alone: where is γλ A_{t+1}?":
            lambda r, v, d, last, g, lam: mine(r, v, d, last, g, 0.0),
    }  # fmt: skip
    proves = "Each step is credited with what followed in its own episode, the later the less."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("step",))


def clipped_objective(theirs: Theirs) -> None:
    """Check the clipped objective, L = mean(min(ρ·A, clip(ρ, 1 - ε, 1 + ε)·A)) (Schulman et al. 2017, equation 7).

    Stub::

        def clipped_objective(log_prob, old_log_prob, advantage, clip):
            '''Return the objective, one number, to be made as large as possible by gradient ascent on log_prob.

            All three (B,): the log-probability of each action under the policy in training, that under the policy which
            took it, and its advantage. clip is ε.
            '''
            ...

    Hints:

    - ρ is a ratio of probabilities: what is that of their logarithms?
    - The smaller of both terms counts. So a bad action that has become likelier is still pulled back.
    """

    def library(log_prob: Tensor, old: Tensor, A: Tensor, clip: float) -> Tensor:
        zero = torch.zeros_like(A)
        return -ppo.ppo_loss(log_prob, old, A, zero, zero, zero, clip=clip).policy

    def mine(new: Tensor, old: Tensor, A: Tensor, clip: float, *, rho: Any = None, least: Any = torch.minimum) -> Any:
        rho = (new - old).exp() if rho is None else rho
        return least(rho * A, rho.clamp(1 - clip, 1 + clip) * A).mean()

    def case(rho: list[float], A: list[float]) -> tuple[Tensor, Tensor, Tensor, float]:
        old = -randn(len(rho)).abs()
        return torch.tensor(rho, dtype=torch.float64).log() + old, old, torch.tensor(A, dtype=torch.float64), 0.2

    randn = _randn()
    cases = {
        "ratios near 1, where nothing is clipped": case([1.05, 0.9, 1.1], [1.0, -2.0, 0.5]),
        "a good action that became likelier than 1 + ε": case([1.6], [1.0]),
        "a bad action that became likelier than 1 + ε, and must be pulled back": case([1.6], [-1.0]),
        "a good action that became less likely than 1 - ε, and must be pulled up": case([0.5], [1.0]),
        "a bad action that became less likely than 1 - ε": case([0.5], [-1.0]),
        "eight actions": (0.5 * randn(8), 0.5 * randn(8), randn(8), 0.2),
    }
    mistakes: Mistakes = {
        "The sign is wrong: this is a loss, to be made small. Should the objective be made large?":
            lambda new, old, A, clip: -mine(new, old, A, clip),
        "ρ is a difference of log-probabilities: what turns it into a ratio of probabilities? Where is exp?":
            lambda new, old, A, clip: mine(new, old, A, clip, rho=new - old),
        "The ratio is upside down: is the old policy below the line?":
            lambda new, old, A, clip: mine(new, old, A, clip, rho=(old - new).exp()),
        "Nothing is clipped: where do 1 - ε and 1 + ε come in?":
            lambda new, old, A, clip: mine(new, old, A, clip, least=lambda x, y: x),
        "Only the clipped term counts, so that an action that went the wrong way is not pulled back: where is min?":
            lambda new, old, A, clip: mine(new, old, A, clip, least=lambda x, y: y),
        "The larger of the two terms counts: should it be the smaller one?":
            lambda new, old, A, clip: mine(new, old, A, clip, least=torch.maximum),
        "The smaller ratio was taken, and then multiplied by A. If A is negative, which product is smaller?":
            lambda new, old, A, clip: ((new - old).exp().clamp(max=1 + clip) * A).mean(),
        "The logarithm of the ratio was clipped to ±ε: should the ratio itself be clipped to 1 ± ε?":
            lambda new, old, A, clip: mine(
                new, old, A, clip, least=lambda x, y: torch.minimum(x, (new - old).clamp(-clip, clip).exp() * A)
            ),
        "This is the sum over the actions: should it be their mean?":
            lambda new, old, A, clip: mine(new, old, A, clip) * len(A),
        "The value is right, but the gradient is 0: was log_prob detached?":
            lambda new, old, A, clip: mine(new.detach(), old, A, clip) + 0 * new.sum(),
    }  # fmt: skip
    proves = "Moving an action beyond ε gains nothing, and what went the wrong way is pulled back."
    _compare(theirs, library, cases, mistakes, proves=proves, axes=("action",), learns=True)


def ranking_loss(theirs: Theirs) -> None:
    """Check a reward model's loss, the mean of -log σ(r_better - r_worse) over pairs (Ouyang et al. 2022, equation 1).

    Stub::

        def ranking_loss(rewards, ranks):
            '''Return the loss, one number: the mean over the pairs of a prompt, then over the P prompts.

            rewards (P, K) of K responses to each prompt; ranks (P, K) say which people liked best: 1 is best, and equal
            ranks make no pair. Each prompt has a pair at least.
            '''
            ...

    Hints:

    - ranks[:, :, None] < ranks[:, None, :] is (P, K, K): is the response of this row better than that of this column?
    - F.logsigmoid keeps what log(σ(x)) loses where x is far below 0.
    """

    def mine(
        r: Tensor, ranks: Tensor, *, loss: Any = lambda x: -F.logsigmoid(x), better: Any = torch.lt, mean: bool = True
    ) -> Tensor:
        pairs = better(ranks[:, :, None], ranks[:, None, :])
        losses = torch.where(pairs, loss(r[:, :, None] - r[:, None, :]), 0.0).sum((1, 2))
        total: Tensor = losses / pairs.sum((1, 2)) if mean else losses
        return total.mean()

    randn, order = _randn(), torch.tensor([[1, 2, 3, 4]])
    cases = {
        "one pair": (randn(1, 2), order[:, :2]),
        "one pair, the worse response first": (randn(1, 2), order[:, :2].flip(1)),
        "four responses to one prompt, six pairs": (randn(1, 4), order),
        "four responses, two of equal rank": (randn(1, 4), torch.tensor([[2, 1, 2, 4]])),
        "two prompts, one with six pairs and one with three": (randn(2, 4), torch.tensor([[1, 2, 3, 4], [1, 2, 2, 2]])),
        "rewards that are a thousand apart": (1000 * order[:, :2].double(), order[:, :2]),
    }
    mistakes: Mistakes = {
        "The loss falls when the worse response gains: is it r_better - r_worse, and is 1 the best rank?":
            lambda r, ranks: mine(r, ranks, better=torch.gt),
        "Responses of equal rank, even each with itself, count as pairs: should it be < instead of <=?":
            lambda r, ranks: mine(r, ranks, better=torch.le),
        "This is a sum over pairs: should it be their mean?":
            lambda r, ranks: mine(r, ranks, mean=False),
        "The sum was divided by K·K: how many of these are pairs?":
            lambda r, ranks: mine(r, ranks, mean=False) / r.shape[1] ** 2,
        "All pairs of all prompts were averaged, so that many pairs weigh more: can you average each prompt first?":
            lambda r, ranks: -F.logsigmoid((r[:, :, None] - r[:, None])[ranks[:, :, None] < ranks[:, None]]).mean(),
        "Only the best response was compared with others: do the rest make pairs, too?":
            lambda r, ranks: mine(r, ranks, better=lambda a, b: (a == 1) & (b > 1)),
        "This is the mean of 1 - σ: where is the logarithm?":
            lambda r, ranks: mine(r, ranks, loss=lambda x: 1 - x.sigmoid()),
        "The sign is wrong: the logarithm of σ is below 0, and a loss should not be. Where is the minus?":
            lambda r, ranks: -mine(r, ranks),
        "σ of a gap far below 0 is 0, and its log is -inf: have you tried logsigmoid?":
            lambda r, ranks: mine(r, ranks, loss=lambda x: -x.sigmoid().log()),
    }  # fmt: skip
    proves = "Only gaps between responses count, and every prompt weighs the same."
    axes = ("prompt", "response")
    _compare(theirs, reward_model.ranking_loss, cases, mistakes, proves=proves, axes=axes, learns=True)


def shaped_rewards(theirs: Theirs) -> None:
    """Check the rewards of RLHF: a score at the end, and a price for each nat of KL (Ouyang et al. 2022, equation 2).

    Stub::

        def shaped_rewards(score, log_prob, ref_log_prob, mask, beta):
            '''Return the reward of each token (B, T), 0 at padding.

            score (B,) of each response. log_prob and ref_log_prob (B, T): of its tokens under the policy that wrote it,
            and under the reference. mask (B, T) is True at its tokens, from the first to the last. beta is the price β.
            '''
            ...

    Hints:

    - Each token costs β · log(policy / reference), and the logarithm of a ratio is a difference.
    - A response of n tokens has its last one at n - 1, which is not always T - 1: mask.sum(1) - 1.
    """

    def mine(score: Tensor, new: Tensor, ref: Tensor, mask: Tensor, beta: float, *, at: Any = None) -> Tensor:
        last = torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1
        return (beta * (ref - new)) * mask + score[:, None] * (last if at is None else at)

    def inputs(lengths: list[int], beta: float, score: float = 1.0) -> tuple[Any, ...]:
        B, T = len(lengths), max(lengths)
        mask = torch.arange(T) < torch.tensor(lengths)[:, None]
        return score * randn(B), -randn(B, T).abs(), -randn(B, T).abs(), mask, beta

    randn = _randn()
    cases = {
        "β = 0, where only the score is left": inputs([3, 3], 0.0),
        "scores of 0, where only the price is left": inputs([3, 3], 0.5, score=0.0),
        "responses of two, four and three tokens": inputs([2, 4, 3], 0.1),
    }
    mistakes: Mistakes = {
        "Moving away from the reference is rewarded: is it -β · (log_prob - ref_log_prob)?":
            lambda s, new, ref, m, b: mine(s, ref, new, m, b),
        "The price does not depend on β: where is it?":
            lambda s, new, ref, m, b: mine(s, new, ref, m, 1.0),
        "The score stands in the last column: where does a response end that is shorter than others?":
            lambda s, new, ref, m, b: mine(s, new, ref, m, b, at=F.one_hot(torch.tensor(m.shape[1] - 1), m.shape[1])),
        "The score stands at every token: should it come once, at the last one?":
            lambda s, new, ref, m, b: mine(s, new, ref, m, b, at=m),
        "The score stands at the first token: should it stand at the last one?":
            lambda s, new, ref, m, b: mine(s, new, ref, m, b, at=F.one_hot(torch.tensor(0), m.shape[1])),
        "Padding has a price, though nobody wrote it: where does the mask come in?":
            lambda s, new, ref, m, b: mine(s, new, ref, m, b) + b * (ref - new) * ~m,
        "The whole price is paid at the last token: should each token pay its own?":
            lambda s, new, ref, m, b: mine(s + (b * (ref - new) * m).sum(1), new, ref, m, 0.0),
        "The price is a ratio of probabilities: should it be the logarithm of that?":
            lambda s, new, ref, m, b: mine(s, (new - ref).exp(), 0 * ref, m, b),
        "The price has lost its sign: may the log-ratio of a single token be negative?":
            lambda s, new, ref, m, b: mine(s, (new - ref).abs(), 0 * ref, m, b),
    }  # fmt: skip
    proves = "Summed over a response, they are its score minus β times its estimated KL from the reference."
    _compare(theirs, rlhf.shape_rewards, cases, mistakes, proves=proves, axes=("response", "token"))


# --- 2023: learn to answer --------------------------------------------------------------------------------------------


def response_targets(theirs: Theirs) -> None:
    """Check what instruction tuning learns: a response and its end, and not the prompt before it (Conover et al. 2023).

    Stub::

        def response_targets(prompt, response, end):
            '''Return ids, which the model reads, and targets, the id to be predicted next: two lists of one length.

            prompt and response are lists of ids, end is the id that ends a response. ids are all of these, one after the
            other, but for the last. A target is -100 where it belongs to the prompt, which is not learned.
            '''
            ...

    Hints:

    - Each target is the id that follows: of all ids together, ids lack the last one and targets the first.
    - The prompt has one target fewer than it has ids, since nobody predicts its first one. Its last id predicts the
      first of the response.
    """

    def library(prompt: list[int], response: list[int], end: int) -> Any:
        letters = tokenizers.ByteBPE.train([], 256)  # an id for each, so that it gives back the ids it has decoded
        record = instructions.Record(letters.decode(prompt), letters.decode(response))
        return instructions.ids_and_targets(record, letters, end, frame="{instruction}")

    def mine(p: list[int], r: list[int], end: int, *, more: int = 0, blank: Any = None, fill: int = -100) -> Any:
        text = [*p, *r, end]
        hidden = (lambda t: t < len(p) + more) if blank is None else blank  # by the place in the text
        return text[:-1], [fill if hidden(t) else text[t] for t in range(1, len(text))]

    cases: Cases = {
        "a prompt of three ids and a response of two": ([3, 4, 5], [7, 8], 9),
        "a response that repeats ids of the prompt": ([3, 4, 5], [5, 7, 4], 9),
        "a prompt of one id, where nothing is -100": ([4], [7, 8], 9),
    }
    mistakes: Mistakes = {
        "The prompt is learned as well, though the user writes it: where is -100?":
            lambda p, r, end: mine(p, r, end, blank=lambda t: False),
        "The first id of the response is not learned: does the last id of the prompt predict it?":
            lambda p, r, end: mine(p, r, end, more=1),
        "The last id of the prompt is learned: how many targets belong to a prompt of three ids?":
            lambda p, r, end: mine(p, r, end, more=-1),
        "The end is not learned, so that the model never stops: is it a target like those of the response?":
            lambda p, r, end: mine(p, r, end, blank=lambda t: t < len(p) or t == len(p) + len(r)),
        "The end is missing: what should the model predict where the response is over?":
            lambda p, r, end: ([*p, *r[:-1]], mine(p, r, end)[1][:-1]),
        "A target is the id that stands in the same place: should it be the one that follows?":
            lambda p, r, end: ([*p, *r], [*[-100] * len(p), *r]),
        "Nothing was shifted, the end included: should ids lack the last one, and targets the first?":
            lambda p, r, end: ([*p, *r, end], [*[-100] * len(p), *r, end]),
        "The end is read as well, and one target is missing: what would it predict?":
            lambda p, r, end: ([*p, *r, end], mine(p, r, end)[1]),
        "The end is read as well, and the list of targets was filled up for it: can ids stop before the end?":
            lambda p, r, end: ([*p, *r, end], [*mine(p, r, end)[1], -100]),
        "Ids of the response that also stand in the prompt are not learned: does the place decide, and not the id?":
            lambda p, r, end: mine(p, r, end, blank=lambda t: [*p, *r, end][t] in p),
        "The prompt is learned and the response is not: is it the other way round?":
            lambda p, r, end: mine(p, r, end, blank=lambda t: t >= len(p)),
        "The prompt was blanked out in ids as well: should the model read it, and only not predict it?":
            lambda p, r, end: ([*[-100] * len(p), *r], mine(p, r, end)[1]),
        "The model reads the response alone: how does it know what was asked?":
            lambda p, r, end: (r, [*r[1:], end]),
        "The target is 0 where nothing is to be learned, but 0 is an id: which number does cross-entropy ignore?":
            lambda p, r, end: mine(p, r, end, fill=0),
        "Ids and targets have changed places: which comes first?":
            lambda p, r, end: mine(p, r, end)[::-1],
    }  # fmt: skip
    proves = "The model reads the prompt, and learns the response and when to stop."
    _compare(theirs, library, cases, mistakes, proves=proves, parts=("ids", "targets"))


def token_shift(theirs: Theirs) -> None:
    """Check the token shift: which choice of the base model is each token that the tuned one wrote (Lin et al. 2023)?

    Stub::

        def token_shift(base_logits, chosen):
            '''Return the rank of each token (T,), whole numbers: 1 where it is the likeliest of the base model.

            chosen (T,) are the tokens that the tuned model wrote. base_logits (T, V) are the base model's scores: those
            in row t are for the place of chosen[t]. Tokens of one score share the best of their ranks.
            '''
            ...

    Hints:

    - A rank needs no sorting: how many tokens in a row have a larger score than the chosen one?
    - gather takes one score from each row. As a column (T, 1) it can be compared with all others in its row.
    """

    def by_rule(x: Tensor, chosen: Tensor) -> Tensor:  # token by token
        rows = zip(x.tolist(), chosen.tolist(), strict=True)
        return torch.tensor([1 + sum(score > row[token] for score in row) for row, token in rows])

    def score(x: Tensor, chosen: Tensor) -> Tensor:
        return x.gather(1, chosen[:, None])  # (T, 1)

    def order(x: Tensor) -> Tensor:  # the tokens of each row, the likeliest first
        return x.sort(dim=1, descending=True, stable=True).indices

    def rank(x: Tensor, chosen: Tensor) -> Tensor:
        return (x > score(x, chosen)).sum(1) + 1

    randn, tokens = _randn(), torch.tensor([3, 17, 0, 8, 11, 5])
    five = torch.tensor([[0.5, 3.0, -1.0, 1.0, 2.0]], dtype=torch.float64)
    equal = torch.tensor([[1, 3, 3, 0, 2], [2, 2, 2, 5, 4]], dtype=torch.float64)
    cases = {
        "the scores 0.5, 3, -1, 1, 2 and token 4, the second choice": (five, torch.tensor([4])),
        "the base model's first choices": (y := randn(3, 5), y.argmax(1)),
        "tokens of one score": (equal, torch.tensor([2, 1])),
        "six places and twenty tokens": (randn(6, 20), tokens),
        "scores that lie thousands apart": (5000 * randn(6, 20), tokens),
    }
    mistakes: Mistakes = {
        "The likeliest token has rank 0: should the count begin at 1?":
            lambda x, chosen: rank(x, chosen) - 1,
        "The ranks run the wrong way, the least likely token first: should the largest score have rank 1?":
            lambda x, chosen: rank(-x, chosen),
        "Tokens of one score share the worst of their ranks: should it be > instead of >=?":
            lambda x, chosen: (x >= score(x, chosen)).sum(1),
        "Of tokens with one score the first in the vocabulary comes before the others: should they share a rank?":
            lambda x, chosen: order(x).argsort(1).gather(1, chosen[:, None])[:, 0] + 1,
        "argsort says which token has the first rank, which the second. Where in that list does the chosen one stand?":
            lambda x, chosen: order(x).gather(1, chosen[:, None])[:, 0] + 1,
        "All ranks are 1, those of the base model's own choices: is chosen what the tuned model wrote?":
            lambda x, chosen: rank(x, x.argmax(1)),
        "Each token was compared with itself at other places: should it be with all tokens at its own, in its row?":
            lambda x, chosen: (x[:, chosen] > score(x, chosen)[:, 0]).sum(0) + 1,
        "One rank is missing: the scores in row t are for chosen[t] already. Was something shifted once more?":
            lambda x, chosen: rank(x[:-1], chosen[1:]),
        "These are probabilities: how many tokens have a larger one?":
            lambda x, chosen: score(x.softmax(1), chosen)[:, 0],
        "The softmax of most tokens is 0 here, so that they share a rank: can you compare the scores themselves?":
            lambda x, chosen: rank(x.softmax(1), chosen),
        "This says where the two models differ, but not how far: which rank has the token?":
            lambda x, chosen: rank(x, chosen) > 1,
        "This is one number, the mean of the ranks: should each token have its own?":
            lambda x, chosen: rank(x, chosen).double().mean(),
    }  # fmt: skip
    proves = "Where tuning changed nothing the rank is 1, and a large one marks what the base model would not write."
    _compare(theirs, by_rule, cases, mistakes, proves=proves, axes=("position",), than="the definition")


# --- 2021: pictures and texts -----------------------------------------------------------------------------------------


def contrastive_loss(theirs: Theirs) -> None:
    """Check CLIP's loss: which text belongs to each picture, and which picture to each text (Radford et al. 2021, figure 3).

    Stub::

        def contrastive_loss(logits):
            '''Return the loss, one number: the mean of the cross-entropy over texts and the one over pictures.

            logits (N, N): how well each of N pictures (rows) and each of N texts (columns) agree. Text i belongs to
            picture i, so that the right ones stand on the diagonal.
            '''
            ...

    Hints:

    - A row is a question with N answers: which text belongs to this picture? F.cross_entropy wants the number of the
      right one for each row.
    - In logits.T a row is a text. The same question, the other way round, has the same right answers.
    """

    def by_rule(x: Tensor) -> Tensor:  # pair by pair
        costs = [x[i, :].logsumexp(0) + x[:, i].logsumexp(0) - 2 * x[i, i] for i in range(len(x))]
        return torch.stack(costs).mean() / 2

    def log_p(x: Tensor, dim: int) -> Tensor:
        return x.log_softmax(dim)

    def mine(x: Tensor, *, log_p: Any = log_p, pick: Any = torch.diagonal, dims: Any = (1, 0)) -> Tensor:
        costs = [-pick(log_p(x, dim) if dim else log_p(x, 0).T).mean() for dim in dims]  # each row asks a question
        return torch.stack(costs).mean()

    randn = _randn()
    cases = {
        "two pictures and two texts": (torch.tensor([[2.0, 1.0], [-1.0, 0.5]], dtype=torch.float64),),
        "scores that are all 0, where nothing is known": (torch.zeros(4, 4, dtype=torch.float64),),
        "five pairs": (randn(5, 5),),
        "five pairs that are told apart": (randn(5, 5) + 8 * torch.eye(5, dtype=torch.float64),),
        "scores that lie thousands apart": (2000 * randn(3, 3),),
    }
    mistakes: Mistakes = {
        "Only the pictures choose, among the texts: which picture does each text choose, in logits.T?":
            lambda x: mine(x, dims=(1,)),
        "Only the texts choose, among the pictures: which text does each picture choose, in the rows?":
            lambda x: mine(x, dims=(0,)),
        "The two cross-entropies were added: should it be their mean?":
            lambda x: 2 * mine(x),
        "This is the sum over the pairs: should it be their mean?":
            lambda x: mine(x) * len(x),
        "These are the sums over the pairs of both directions: should both be means?":
            lambda x: 2 * mine(x) * len(x),
        "The right answers run backwards: is text 0 the one of picture 0?":
            lambda x: mine(x, pick=lambda p: p.fliplr().diagonal()),
        "The same text is right for every picture: should the right ones be 0, 1, 2 …, the diagonal?":
            lambda x: mine(x, pick=lambda p: p[:, 0]),
        "All answers count as right, and not only those on the diagonal: which text belongs to picture i?":
            lambda x: mine(x, pick=lambda p: p),
        "One softmax runs over all N·N pairs: should each row, and each column, have its own?":
            lambda x: mine(x, log_p=lambda x, dim: x.flatten().log_softmax(0).view_as(x)),
        "The sign is wrong: a log probability is below 0, and a loss should not be. Where is the minus?":
            lambda x: -mine(x),
        "The bare logits of the pairs were averaged: where does the softmax compare them with the others?":
            lambda x: -x.diagonal().mean(),
        "This is the mean of probabilities: where is the logarithm?":
            lambda x: mine(x, log_p=torch.softmax),
        "This is the mean of 1 - p: where is the logarithm?":
            lambda x: 1 + mine(x, log_p=torch.softmax),
        "The softmax of some pairs is 0 here, and its log is -inf: have you tried log_softmax or cross_entropy?":
            lambda x: mine(x, log_p=lambda x, dim: x.softmax(dim).log()),
    }  # fmt: skip
    proves = "Pictures choose among texts and texts among pictures; whoever cannot tell N of them apart pays log N."
    _compare(theirs, by_rule, cases, mistakes, proves=proves, learns=True, than="the definition")


def name_classifier(theirs: Theirs) -> None:
    """Check a classifier made of names: several prompts for each, and one vector (Radford et al. 2021, section 3.1.4).

    Stub::

        def name_classifier(vectors):
            '''Return one vector for each name (N, C): the mean over the prompts, scaled to length 1 again.

            vectors (P, N, C) of N names in P prompts, such as "a photo of a cat" and "a drawing of a cat". Each is of
            length 1.
            '''
            ...

    Hints:

    - The mean of two vectors of length 1 that point different ways is shorter than 1.
    - A length is x.norm(dim=-1, keepdim=True): one number for each name, which divides all C numbers of its vector.
    """

    def by_rule(x: Tensor) -> Tensor:  # name by name
        means = [x[:, n].mean(0) for n in range(x.shape[1])]
        return torch.stack([mean / mean.square().sum().sqrt() for mean in means])

    def mine(x: Tensor, *, over: int = 0, length: Any = lambda m: m.norm(dim=-1, keepdim=True)) -> Tensor:
        mean = x.mean(over)
        scaled: Tensor = mean / length(mean)
        return scaled

    def unit(x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)

    randn = _randn()
    right_angles = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], dtype=torch.float64)
    apart = unit(randn(1, 3, 4))
    cases = {
        "two names, the first with prompts at a right angle, the second with equal ones": (right_angles,),
        "one prompt, which is returned as it is": (unit(randn(1, 3, 4)),),
        "three prompts and three names": (unit(randn(3, 3, 4)),),
        "five prompts and two names": (unit(randn(5, 2, 3)),),
        "two prompts that point almost opposite ways": (torch.cat([apart, unit(0.01 * randn(1, 3, 4) - apart)]),),
    }
    mistakes: Mistakes = {
        "The mean is shorter than 1: where is it divided by its length?":
            lambda x: x.mean(0),
        "The mean runs over the names, so that each prompt has a vector: should it run over the prompts?":
            lambda x: mine(x, over=1),
        "The numbers of each vector were averaged, and none is left: should the mean run over the prompts?":
            lambda x: mine(x, over=2),
        "Columns have length 1, and not the vectors of the names: along which axis is a length?":
            lambda x: mine(x, length=lambda m: m.norm(dim=0, keepdim=True)),
        "All numbers together have length 1: should each name's vector have it?":
            lambda x: mine(x, length=lambda m: m.norm()),
        "Each vector was divided by its squared length: where is the square root?":
            lambda x: mine(x, length=lambda m: m.square().sum(-1, keepdim=True)),
        "The absolute values of each vector sum to 1: should it be their squares?":
            lambda x: mine(x, length=lambda m: m.abs().sum(-1, keepdim=True)),
        "A softmax was taken: should a vector keep its direction, and only be divided by its length?":
            lambda x: x.mean(0).softmax(-1),
        "Only the first prompt counts: where are the others?":
            lambda x: x[0],
        "Only the last prompt counts: where are the others?":
            lambda x: x[-1],
        "The largest of each number was taken: should it be the mean over the prompts?":
            lambda x: unit(x.amax(0)),
        "Each prompt kept its own vectors, one below the other: which of them belong to one name?":
            lambda x: x.flatten(0, 1),
        "An axis for the prompts is left, of length 1: can the mean drop it?":
            lambda x: mine(x)[None],
    }  # fmt: skip
    proves = "Each name is a direction to which all prompts add alike, and its cosine with a picture is one product."
    _compare(theirs, by_rule, cases, mistakes, proves=proves, axes=("name", "number"), than="the definition")


# --- 2023: a picture in the sentence ----------------------------------------------------------------------------------


def mixed_sentence(theirs: Theirs) -> None:
    """Check the sequence that the blocks read: a picture's vectors, then those of the words (Driess et al. 2023, section 3).

    Stub::

        def mixed_sentence(picture, words, positions):
            '''Return what the blocks read (B, N + T, C): first the picture, then the words, each with its position added.

            picture (B, N, C) holds the N vectors of each picture, words (B, T, C) those of the T words behind it.
            positions (S, C) is the table of a language model, S at least N + T: row i belongs to place i.
            '''
            ...

    Hints:

    - To the blocks a vector of a picture is a word like any other: it stands at a place, and the words come behind it.
    - torch.cat([a, b], 1) puts b behind a. Afterwards the places are counted through, and row i of the table goes to
      place i.
    """

    def by_rule(picture: Tensor, words: Tensor, positions: Tensor) -> Tensor:  # place by place
        sentences = [[*p, *w] for p, w in zip(picture, words, strict=True)]
        return torch.stack([torch.stack([x + positions[i] for i, x in enumerate(s)]) for s in sentences])

    def apart(p: Tensor, w: Tensor, at_picture: Tensor | float, at_words: Tensor | float) -> Tensor:
        return torch.cat([p + at_picture, w + at_words], 1)

    def through(x: Tensor, e: Tensor, start: int = 0) -> Tensor:
        return x + e[start : start + x.shape[1]]

    def behind(p: Tensor, w: Tensor) -> Tensor:
        return torch.cat([p, w], 1)

    def n(x: Tensor) -> int:
        return x.shape[1]

    def numbers(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[:, None]

    randn = _randn()
    nothing = torch.zeros(2, 3, 3, dtype=torch.float64)
    cases = {
        "a picture of one vector, 1, and one word, 10, at positions 100, 200, …":
            (numbers(1)[None], numbers(10)[None], numbers(100, 200, 300)),
        "a table of positions that are all 0": (randn(1, 2, 3), randn(1, 3, 3), torch.zeros(7, 3, dtype=torch.float64)),
        "vectors that are all 0, so that only the positions are left": (nothing[:, :2], nothing, randn(9, 3)),
        "two pictures of three vectors, each before two words": (randn(2, 3, 4), randn(2, 2, 4), randn(8, 4)),
        "a table of just as many positions as are needed": (randn(1, 4, 2), randn(1, 2, 2), randn(6, 2)),
    }  # fmt: skip
    mistakes: Mistakes = {
        "The words stand first: should the picture, so that every word can look back at it?":
            lambda p, w, e: through(behind(w, p), e),
        "No position was added: how shall the blocks know what stands where?":
            lambda p, w, e: behind(p, w),
        "Only the words have positions, counted from 0: which places do the picture's vectors take?":
            lambda p, w, e: apart(p, w, 0, e[: n(w)]),
        "The words stand at the right positions, but the picture has none: should its vectors have 0 to N - 1?":
            lambda p, w, e: apart(p, w, 0, e[n(p) : n(p) + n(w)]),
        "Only the picture has positions: should the words go on where it ends?":
            lambda p, w, e: apart(p, w, e[: n(p)], 0),
        "The positions begin anew at the first word: how many places are taken before it?":
            lambda p, w, e: apart(p, w, e[: n(p)], e[: n(w)]),
        "The whole picture stands at position 0, and the words from 1 on: should each of its N vectors take a place?":
            lambda p, w, e: apart(p, w, e[0], e[1 : 1 + n(w)]),
        "A position is left free between picture and words: should the first word stand at N?":
            lambda p, w, e: apart(p, w, e[: n(p)], e[n(p) + 1 : n(p) + 1 + n(w)]),
        "The first word shares a position with the end of the picture: should it stand at N?":
            lambda p, w, e: apart(p, w, e[: n(p)], e[n(p) - 1 : n(p) - 1 + n(w)]),
        "The words have the first positions, though the picture stands before them: were they added before the two met?":
            lambda p, w, e: apart(p, w, e[n(w) : n(w) + n(p)], e[: n(w)]),
        "The positions begin at 1: should the first place have row 0 of the table?":
            lambda p, w, e: through(behind(p, w), e, 1),
        "The last rows of the table were taken: should it be the first N + T?":
            lambda p, w, e: behind(p, w) + e[-n(p) - n(w) :],
        "All places have the same position, row 0: should place i have row i?":
            lambda p, w, e: behind(p, w) + e[0],
        "Vectors were multiplied by their positions: should they be added?":
            lambda p, w, e: behind(p, w) * e[: n(p) + n(w)],
        "The positions were added twice: once before picture and words met, and once after?":
            lambda p, w, e: through(behind(p, w), 2 * e),
        "Picture and words became rows of a batch of their own: along which axis does a sentence run?":
            lambda p, w, e: through(torch.cat([p, w], 0), e),
        "Picture and words stand side by side in one long vector: along which axis does a sentence run?":
            lambda p, w, e: through(torch.cat([p, w], 2), e),
        "The words' vectors were added to the picture's: should they stand behind it?":
            lambda p, w, e: through(p + w, e),
    }  # fmt: skip
    proves = (
        "Nothing tells the blocks what was seen and what was read: all of it is a row of vectors, each at its place."
    )
    axes = ("row", "place", "number")
    _compare(theirs, by_rule, cases, mistakes, proves=proves, axes=axes, learns=True, than="the definition")


def merge_regions(theirs: Theirs) -> None:
    """Check how four regions of a picture become one token, so that it takes fewer places in the sentence.

    Stub::

        def merge_regions(x, h, w):
            '''Return one token for each square of 2 × 2 regions (B, h·w/4, 4c): their four vectors in one long one.

            x (B, h·w, c): a vector for each region of a picture, row by row; h and w are even. The squares are taken row
            by row, too, and in each of them first the upper left region, then upper right, lower left, lower right.
            '''
            ...

    Hints:

    - The number of a region is (2i + p)·w + 2j + q: i and j say which square it is in, p and q where in that square.
    - x.view(B, h // 2, 2, w // 2, 2, c) has an axis for each of i, p, j and q. Bring i and j together, and p, q and c.
    """

    def by_rule(x: Tensor, h: int, w: int) -> Tensor:  # square by square
        corners = [row * w + column for row in range(0, h, 2) for column in range(0, w, 2)]
        return torch.stack([torch.cat([x[:, at + step] for step in (0, 1, w, w + 1)], 1) for at in corners], 1)

    def mine(x: Tensor, h: int, w: int, *, order: str = "i j p q c", rows: int | None = None) -> Tensor:
        axes = x.reshape(len(x), h // 2, 2, w // 2, 2, -1)
        turned = axes.permute(0, *(1 + "ipjqc".index(axis) for axis in order.split()))
        return turned.reshape(len(x), h * w // 4 if rows is None else rows, -1)

    def four(x: Tensor, h: int, w: int) -> Tensor:
        return mine(x, h, w).reshape(len(x), h * w // 4, 4, x.shape[2])  # (B, h·w/4, 4, c)

    def numbered(n: int) -> Tensor:
        return torch.arange(n, dtype=torch.float64).view(1, n, 1)

    randn = _randn()
    cases = {
        "two rows of four regions, which are their own numbers": (numbered(8), 2, 4),
        "four rows of two regions, which are their own numbers": (numbered(8), 4, 2),
        "a single square": (numbered(4), 2, 2),
        "two pictures of 4 × 6 regions, each of three numbers": (randn(2, 24, 3), 4, 6),
        "a picture of 6 × 4 regions, each of two numbers": (randn(1, 24, 2), 6, 4),
    }
    mistakes: Mistakes = {
        "Four neighbours in one row were joined: should it be two of a row, and the two below them?":
            lambda x, h, w: x.reshape(len(x), h * w // 4, -1),
        "Rows and columns are exchanged: a row has w regions, and there are h of them. Which comes first in the view?":
            lambda x, h, w: mine(x, w, h),
        "Each square is read column by column: should upper right come before lower left?":
            lambda x, h, w: mine(x, h, w, order="i j q p c"),
        "The squares are taken column by column: should the second be to the right of the first?":
            lambda x, h, w: mine(x, h, w, order="j i p q c"),
        "The four vectors are interleaved, number by number: should each stay whole, one behind the other?":
            lambda x, h, w: mine(x, h, w, order="i j c p q"),
        "This is the mean of the four, which forgets where each was: should they stand one behind the other?":
            lambda x, h, w: four(x, h, w).mean(2),
        "The four vectors were added, and nothing says where each was: should they stand one behind the other?":
            lambda x, h, w: four(x, h, w).sum(2),
        "The largest of each four numbers was taken: should all four vectors be kept?":
            lambda x, h, w: four(x, h, w).amax(2),
        "Only the upper left region of each square is left: where are the other three?":
            lambda x, h, w: four(x, h, w)[:, :, 0],
        "The lower regions come first: should a square be read from above?":
            lambda x, h, w: four(x, h, w)[:, :, [2, 3, 0, 1]].flatten(2),
        "The right regions come first: should a square be read from the left?":
            lambda x, h, w: four(x, h, w)[:, :, [1, 0, 3, 2]].flatten(2),
        "A token holds regions from four corners of the picture: should they be neighbours, with the 2 behind h // 2?":
            lambda x, h, w: x.reshape(len(x), 2, h // 2, 2, w // 2, -1).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2),
        "The regions are in the right order, but each is still a token: can four of them share one?":
            lambda x, h, w: mine(x, h, w, rows=h * w),
        "The tokens still stand in rows and columns: should they be one sequence, as words are?":
            lambda x, h, w: mine(x, h, w).reshape(len(x), h // 2, w // 2, -1),
        "The four vectors of a token lie on an axis of their own: should they be one long vector?":
            four,
        "Squares and places are exchanged: is each token made of upper left regions alone, or of lower right ones?":
            lambda x, h, w: mine(x, h, w, order="p q i j c"),
    }  # fmt: skip
    proves = (
        "A picture takes a quarter of the places, and no number of it is lost: all that changed is who stands together."
    )
    axes = ("picture", "token", "number")
    _compare(theirs, by_rule, cases, mistakes, proves=proves, axes=axes, than="the definition")
