"""Scores that need no model, and how sure they are: ROUGE, BLEU and chrF, preferences, variety, bootstrap intervals.

What asks a model for probabilities or texts is in :mod:`nextword.evaluation`.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from nextword.overlap import ngrams

# --- How sure is a number --------------------------------------------------------------------------------------------


def bootstrap_interval(
    statistic: Callable[..., float],
    *values: Float[np.ndarray, " _"] | Bool[np.ndarray, " _"],
    block: int = 1,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of ``statistic(*values)`` by resampling the test set (Efron 1979).

    Args:
        statistic: called with the resampled arrays, returns a number, such as ``np.mean``.
        values: arrays of one length N, one entry a word. They are resampled together: two models are compared on the
            same words.
        block: neighbouring words that are drawn together, since words of one text are not independent; the last N mod
            ``block`` words are left out.
        resamples: how many test sets are drawn.
        seed: the same seed draws the same test sets.

    Raises:
        ValueError: arrays of different lengths, or fewer than two blocks.

    Used in: 2003_next_word.

    Example:
        >>> low, high = bootstrap_interval(np.mean, np.arange(100.0))
        >>> low < 49.5 < high
        True
    """
    lengths = {len(v) for v in values}
    if len(lengths) != 1:
        raise ValueError(f"values have lengths {sorted(lengths)}; arrays of one length are needed")
    n_blocks = lengths.pop() // block if block >= 1 else 0
    if n_blocks < 2:
        raise ValueError(f"block={block} leaves {n_blocks} blocks; at least 2 are needed")
    rng = np.random.default_rng(seed)
    # Words of one text are hard or easy together. Drawn one by one they would count as independent, and the interval
    # would come out too narrow: so whole blocks are drawn.
    blocks = [v[: n_blocks * block].reshape(n_blocks, block) for v in values]  # (blocks, block) each
    # A test set as large as ours, drawn from ours with replacement, differs from it about as much as ours from the world.
    # One draw serves all arrays: two models are then compared on the same words, and the luck that they share cancels.
    draws = (rng.integers(n_blocks, size=n_blocks) for _ in range(resamples))
    results = [statistic(*(b[draw].ravel() for b in blocks)) for draw in draws]  # one number a drawn test set
    # The middle 95 % of what the drawn test sets gave: no normal distribution is assumed.
    low, high = np.percentile(results, [2.5, 97.5])
    return float(low), float(high)


# --- What people prefer, and how varied a text is --------------------------------------------------------------------


def pairwise_accuracy(
    values: Float[np.ndarray, "*draws N"],
    ratings: Sequence[Sequence[float]],
    *,
    groups: Sequence[str] | None = None,
    draws: int = 20,
    seed: int = 0,
) -> float:
    """Return the share of pairs of texts that values order as single people do, 0 to 1; a coin gets 0.5.

    Two texts make a pair where the ratings that were drawn for them differ; equal values count a half.

    Args:
        values: a number for each of N texts, or one row a draw.
        ratings: what people gave to each text, one rating at least. In every draw one of them is taken.
        groups: a name for each text; only texts of one group are compared. None: all are.
        draws: how often raters are drawn.
        seed: the same seed draws the same raters.

    Raises:
        ValueError: lengths that differ, a text without a rating, or not a single pair.

    Source: Ouyang et al. 2022, appendix E.2, for pairs of answers to one prompt. Used in: 2022_instructgpt.

    Example:
        >>> pairwise_accuracy(np.array([0.3, 0.1, 0.1, 0.2]), [[4], [-2], [1], [1]])  # of 5 pairs, 4 in order, one equal
        0.9
    """
    N = len(ratings)
    names = [""] * N if groups is None else list(groups)
    if values.shape[-1] != N or len(names) != N:
        raise ValueError(f"ratings has {N} texts, values is {values.shape}, groups has {len(names)} names")
    if values.ndim > 2 or (values.ndim == 2 and len(values) not in (1, draws)):
        raise ValueError(f"values is {values.shape}; give one number a text, or a row for each of draws={draws}")
    if not all(map(len, ratings)):
        raise ValueError(f"ratings holds nothing for text {[len(x) for x in ratings].index(0)}; each needs a rater")
    rng = np.random.default_rng(seed)
    agreed = pairs = 0.0
    # Only texts of one group are compared: whether an answer to one prompt beats one to another prompt, nobody judged.
    # Sorted, since a set of names has another order in every run, and with it the raters drawn would change.
    for group in sorted(set(names)):
        texts = [i for i, name in enumerate(names) if name == group]
        for judged in np.broadcast_to(values, (draws, N))[:, texts]:  # (texts,): one row of values serves all draws
            # One person's rating for each text, drawn anew: people disagree, and the share is about them one at a time.
            # Their mean is mostly easier to predict than any of them.
            rated = np.array([rng.choice(ratings[i]) for i in texts])
            # (texts, texts): 1 where the row's text is the better one, -1 where it is the worse; each pair stands twice
            model, people = (np.sign(np.subtract.outer(x, x)) for x in (judged, rated))
            # A product is 1 where both order a pair alike, -1 where they do not, 0 where one sees no difference.
            agreed += float((model * people).sum())
            pairs += float(np.abs(people).sum())  # pairs on which the people drawn differ
    if not pairs:
        raise ValueError("ratings: no two that were drawn differ, so there is no pair to order")
    # agreed/pairs is (right - wrong)/pairs, from -1 to 1; half of it and 0.5 make it the share right, an equal half.
    return 0.5 + agreed / 2 / pairs


def win_rate(ours: Float[np.ndarray, " N"], theirs: Float[np.ndarray, " N"]) -> float:
    """Return the share of N comparisons in which our score is the higher, 0 to 1; a tie is a half.

    Raises:
        ValueError: arrays of different lengths, or empty ones.

    Source: Ouyang et al. 2022, section 4.1. Used in: 2022_instructgpt.

    Example:
        >>> win_rate(np.array([2.0, 1.0]), np.array([1.0, 1.0]))
        0.75
    """
    if ours.shape != theirs.shape or not ours.size:
        raise ValueError(f"ours is {ours.shape}, theirs {theirs.shape}; give as many scores of each, at least one")
    # With ties as halves the two directions sum to 1, and a system against itself gets 0.5.
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())


def distinct_n(texts: Iterable[Sequence[str]], n: int = 2) -> float:
    """Return how many of all n-grams in all texts are different ones: 1 if none ever comes again.

    The more texts, the lower: compare as many texts of like lengths. (Li et al. divide by the words, not by the n-grams.)

    Args:
        texts: each as its words.
        n: words in a run.

    Raises:
        TypeError: a text that is not cut into words.
        ValueError: ``n`` is below 1, or no text has ``n`` words.

    Source: Li et al. 2016, section 5. Used in: 2022_instructgpt.

    Example:
        >>> distinct_n([["to", "be", "or", "not", "to", "be"]])
        0.8
    """
    # One list for all texts: a phrase that comes back in every text lowers the share. A mean over single texts would
    # not see it.
    grams = [gram for words in texts for gram in ngrams(words, n)]
    if not grams:
        raise ValueError(f"texts holds none of n={n} words or more")
    return len(set(grams)) / len(grams)  # different ones over all


# --- Summaries: overlap with a reference -------------------------------------------------------------------------------


class Rouge(NamedTuple):
    """What a summary shares with a reference: F-scores between 0 and 100."""

    one: float
    """Of single words, ROUGE-1."""
    two: float
    """Of pairs of neighbours, ROUGE-2."""
    longest: float
    """Of the longest row of words that both have in the same order, with gaps, ROUGE-L."""

    @property
    def mean(self) -> float:
        """The mean of the three, as Radford et al. 2019 report in Table 4."""
        return sum(self) / 3


def rouge(summary: str, reference: str) -> Rouge:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L of a summary against one reference, without stemming.

    An F-score is the harmonic mean of precision, the share of the summary's words that the reference has too, and recall,
    the share of the reference's words that the summary has. Words are runs of letters a to z and digits, in small letters.

    Raises:
        TypeError: ``summary`` or ``reference`` is no text.

    Source: Lin 2004. Used in: 2019_gpt2.

    Example:
        >>> [round(score, 1) for score in rouge("The cat sat on the mat.", "On the mat sat a cat.")]
        [83.3, 40.0, 50.0]
    """
    for name, text in (("summary", summary), ("reference", reference)):
        if not isinstance(text, str):
            raise TypeError(f"{name}={text!r:.60} is a {type(text).__name__}; give one text")
    ours, theirs = (re.findall(r"[a-z0-9]+", text.lower()) for text in (summary, reference))
    scores = []
    for n in (1, 2):
        # A shared n-gram counts as often as both texts have it, so that repeating it gains nothing.
        a, b = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (ours, theirs))
        scores.append(_f_score((a & b).total(), a.total(), b.total()))
    # longest[j]: length of the longest common row of the words of ours read so far and the first j of theirs
    longest = [0] * (len(theirs) + 1)
    for word in ours:
        above = longest.copy()
        for j, other in enumerate(theirs):
            longest[j + 1] = above[j] + 1 if word == other else max(above[j + 1], longest[j])
    return Rouge(scores[0], scores[1], _f_score(longest[-1], len(ours), len(theirs)))


def _f_score(both: int, ours: int, theirs: int) -> float:
    """Return 2PR / (P + R) in percent, which is twice what is shared over the sum of both; 0 where nothing is shared."""
    return 200 * both / (ours + theirs) if both else 0.0


# --- Translation: overlap with a reference ---------------------------------------------------------------------------


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Any:
    """Return sacrebleu's score of a corpus: precision of 1- to 4-grams, and a penalty for being short, 0 to 100.

    Scores can be compared only where their ``.signature`` is the same, so print it: it says how the text was tokenized.

    Args:
        hypotheses: translations as plain text, not split into tokens.
        references: one for each hypothesis.

    Returns:
        sacrebleu's ``BLEUScore`` with ``.score``, ``.precisions``, ``.bp``, and the ``.signature`` added.

    Raises:
        ValueError: nothing to score, or lists of different lengths.
        TypeError: something else than strings.
        ImportError: sacrebleu is not installed.

    Source: Papineni et al. 2002; Post 2018. Used in: 2016_gnmt, 2017_transformer, 2020_gpt3.

    Example:
        >>> result = bleu(["The cat sat on the mat."], ["The cat sat on a mat."])
        >>> round(result.score, 1), [round(p, 1) for p in result.precisions], result.signature[:35]
        (48.9, [85.7, 66.7, 40.0, 25.0], 'nrefs:1|case:mixed|eff:no|tok:13a|s')
    """
    # Matches are added up over all sentences before anything is divided. A mean of the sentences' own scores is another
    # number: without smoothing, a single sentence that lacks a matching 4-gram would count 0.
    return _corpus_score("BLEU", hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Any:
    """Return sacrebleu's chrF of a corpus: F-score of 1- to 6-grams of characters, recall counting double, 0 to 100.

    Unlike BLEU it rewards a word that is right but for its ending. Arguments and errors are those of :func:`bleu`.

    Source: Popović 2015. Used in: 2016_gnmt, 2017_transformer.

    Example:
        >>> round(chrf(["gato"], ["gatos"]).score, 1)
        72.6
    """
    # Characters need no tokenizer, and a wrong ending costs a few n-grams instead of the whole word.
    return _corpus_score("CHRF", hypotheses, references)


def paired_bootstrap(
    metric: Literal["bleu", "chrf"],
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    baseline: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of how much a system is better than another, or of its own corpus score.

    Args:
        metric: "bleu" or "chrf".
        hypotheses: as for :func:`bleu`, at least two.
        references: one for each hypothesis.
        baseline: another system's translations. With them the interval is of score(hypotheses) - score(baseline) on
            the same drawn sentences; if it does not contain 0, the difference is unlikely to be luck with the test set.
            None: the interval of score(hypotheses).
        resamples: how many test sets are drawn.
        seed: the same seed draws the same test sets.

    Raises:
        ValueError: unknown metric, fewer than two sentences, or lists of different lengths.
        TypeError: something else than strings.
        ImportError: sacrebleu is not installed.

    Source: Koehn 2004. Used in: 2016_gnmt, 2017_transformer.
    """
    if metric not in _FROM_COUNTS:
        raise ValueError(f"metric={metric!r}; choose 'bleu' or 'chrf'")
    count, score = _FROM_COUNTS[metric]
    systems = {"hypotheses": hypotheses} | ({} if baseline is None else {"baseline": baseline})
    for name, texts in systems.items():
        _check_texts(name, texts, references)
    if len(references) < 2:
        raise ValueError("references holds one sentence; at least 2 are needed to draw from")
    # A corpus score is a function of counts that add up over sentences: each is compared with its reference once only.
    counts = [[count(h, r) for h, r in zip(texts, references, strict=True)] for texts in systems.values()]
    columns = np.concatenate([np.array(c, dtype=np.float64).T for c in counts])  # (systems * counts, sentences)

    def statistic(*drawn: np.ndarray) -> float:
        sums = [round(column.sum()) for column in drawn]  # counts again, of the drawn test set
        # Both systems are scored on the same drawn sentences: whether these are hard or easy cancels in the difference.
        ours = score(sums[: len(counts[0][0])])
        return ours if baseline is None else ours - score(sums[len(counts[0][0]) :])

    # Sentences are drawn with replacement, as many as there are (Koehn 2004): a block is one sentence here.
    return bootstrap_interval(statistic, *columns, resamples=resamples, seed=seed)


def _bleu_counts(hypothesis: str, reference: str) -> list[int]:
    """Return both lengths in tokens, then for n = 1 to 4 the n-grams that match, then all of the hypothesis."""
    # The counts do not depend on effective_order; it only spares sacrebleu's warning about single sentences.
    sentence = _metric("BLEU", effective_order=True).sentence_score(hypothesis, [reference])
    return [sentence.sys_len, sentence.ref_len, *sentence.counts, *sentence.totals]


def _bleu_from(sums: list[int]) -> float:
    # The geometric mean of the four precisions, times exp(1 - reference length / own length) where the output is the
    # shorter one. A precision of 0 would make all 0: ``exp`` puts a small one in its place, sacrebleu's default.
    result = _metric("BLEU").compute_bleu(sums[2:6], sums[6:], sums[0], sums[1], smooth_method="exp")
    return float(result.score)


def _chrf_counts(hypothesis: str, reference: str) -> list[int]:
    """Return for n = 1 to 6 the n-grams of characters in the hypothesis, in the reference, and in both."""
    texts = ["".join(text.split()) for text in (hypothesis, reference)]  # spaces do not count
    counts = []
    for n in range(1, 7):
        # A shared n-gram counts as often as both texts have it, so that repeating it gains nothing. Where the reference
        # is too short for any n-gram of this length, those of the hypothesis do not count, as in sacrebleu.
        ours, theirs = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in texts)
        counts += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return counts


def _chrf_from(sums: list[int]) -> float:
    # A length of which the hypotheses have no n-gram has no precision (0/0) and stays out of the mean.
    orders = [
        (ours, theirs, both) for ours, theirs, both in zip(sums[::3], sums[1::3], sums[2::3], strict=True) if ours
    ]
    if not any(sums[2::3]):  # F would be 0/0
        return 0.0
    # First the mean over the lengths n, each counting alike, then one F of the two means.
    precision = sum(both / ours for ours, _, both in orders) / len(orders)
    recall = sum(both / theirs for _, theirs, both in orders) / len(orders)
    return 100 * (5 * precision * recall / (4 * precision + recall))  # F with β = 2: recall counts double


_FROM_COUNTS: dict[str, tuple[Callable[[str, str], list[int]], Callable[[list[int]], float]]] = {
    "bleu": (_bleu_counts, _bleu_from),
    "chrf": (_chrf_counts, _chrf_from),
}


def _corpus_score(name: str, hypotheses: Sequence[str], references: Sequence[str]) -> Any:
    _check_texts("hypotheses", hypotheses, references)
    metric = _metric(name)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    result.signature = str(metric.get_signature())  # another tokenization would give another score
    return result


def _metric(name: str, **options: Any) -> Any:
    """Return sacrebleu's metric, which only chapters on translation need."""
    try:
        return getattr(importlib.import_module("sacrebleu.metrics"), name)(**options)
    except ModuleNotFoundError as error:
        raise ImportError('bleu and chrf need sacrebleu. Run: pip install "nextword[chapters]"') from error


def _check_texts(name: str, texts: Sequence[str], references: Sequence[str]) -> None:
    for which, strings in ((name, texts), ("references", references)):
        wrong = strings if isinstance(strings, str) else next((t for t in strings if not isinstance(t, str)), None)
        if wrong is not None:
            raise TypeError(f"{which} holds {wrong!r:.60}; give a list with one string for each sentence")
    if not len(texts) or len(texts) != len(references):
        raise ValueError(f"{name} has {len(texts)} sentences and references {len(references)}; give one for each")
