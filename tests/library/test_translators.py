"""What the translators of two chapters are trained on, how, and what is measured on the way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from parity import as_a_reader_sees_it
from torch import nn

from nextword import data
from nextword.book.translators import Corpus, evaluation_subset, train_translator
from nextword.data import Pair
from nextword.metrics import bleu
from nextword.recurrent import Seq2SeqConfig, Seq2SeqLSTM
from nextword.training import History
from nextword.translation import IdPair, TranslationTokenizer, cross_entropy, translate_texts

C = 8

LESSONS = [("one cat", "un gato"), ("one dog", "un perro"), ("a dog eats .", "un perro come."), ("no", "no")]


@pytest.fixture(scope="module")
def tiny() -> Corpus:
    pairs = [Pair(english, spanish, "nobody") for english, spanish in LESSONS]
    tokenizer = TranslationTokenizer.words((text for pair in LESSONS for text in pair), 30)
    return Corpus(tokenizer, tokenizer.encode_pairs(pairs) * 5, valid=pairs, test=[], long=[])


def run(corpus: Corpus, steps: int, seed: int = 0, **settings: float) -> tuple[nn.Module, History]:
    torch.manual_seed(0)
    size = corpus.tokenizer.vocab_size
    sizes = {"source_vocab": size, "target_vocab": size, "d_model": C}
    model = Seq2SeqLSTM(Seq2SeqConfig(**sizes, attention="bottom", dropout=0.2))
    return model, train_translator(model, corpus, steps=steps, seed=seed, max_tokens=20, **settings)


def test_learning_measures_perplexity_and_bleu_of_the_validation_sentences(tiny: Corpus) -> None:
    model, history = run(tiny, 2, evaluate_every=1)
    assert [e["step"] for e in history.evaluations] == [1, 2]
    pairs = tiny.tokenizer.encode_pairs(tiny.valid)
    assert history.evaluations[-1]["perplexity"] == pytest.approx(math.exp(cross_entropy(model, pairs, tiny.tokenizer)))
    written = translate_texts(model, [pair.english for pair in tiny.valid], tiny.tokenizer)
    assert history.evaluations[-1]["bleu"] == pytest.approx(bleu(written, [p.spanish for p in tiny.valid]).score)


def test_only_so_many_validation_sentences_are_measured(tiny: Corpus) -> None:
    model, history = run(tiny, 1, n_evaluated=2)
    pairs = tiny.tokenizer.encode_pairs(evaluation_subset(tiny.valid, 2))
    assert len(pairs) == 2
    assert history.evaluations[-1]["perplexity"] == pytest.approx(math.exp(cross_entropy(model, pairs, tiny.tokenizer)))


def test_the_rate_rises_to_the_peak_and_falls_with_the_root_of_the_step(tiny: Corpus) -> None:
    _, history = run(tiny, 12, learning_rate=0.01, warmup=3)
    rates = history.learning_rate
    assert rates[:3] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    assert rates[3:] == pytest.approx([0.01 * math.sqrt(3 / step) for step in range(4, 13)])
    assert max(rates) == rates[2] and rates[11] == pytest.approx(0.005)


def test_without_warm_up_only_the_rise_is_missing(tiny: Corpus) -> None:
    _, history = run(tiny, 6, learning_rate=0.01, warmup=3, skip_warmup=True)
    assert history.learning_rate[:3] == pytest.approx([0.01] * 3)
    assert history.learning_rate[3:] == run(tiny, 6, learning_rate=0.01, warmup=3)[1].learning_rate[3:]


def test_the_first_part_of_a_long_run_is_a_short_run(tiny: Corpus) -> None:
    _, short = run(tiny, 2, warmup=3, evaluate_every=2)
    _, long = run(tiny, 4, warmup=3, evaluate_every=1)
    assert long.loss[:2] == short.loss and long.learning_rate[:2] == short.learning_rate
    assert long.evaluations[1] == short.evaluations[0]
    assert run(tiny, 2, seed=1, warmup=3)[1].loss != short.loss


def test_a_tiny_corpus_can_be_learnt(tiny: Corpus) -> None:
    _, history = run(tiny, 150, learning_rate=0.03, warmup=20)
    assert history.evaluations[-1]["bleu"] > 60 and history.evaluations[-1]["perplexity"] < 1.6


def test_a_warm_up_of_no_step_is_refused_by_name(tiny: Corpus) -> None:
    with pytest.raises(ValueError, match="^warmup=0 .* skip_warmup=True"):
        run(tiny, 1, warmup=0)


def test_a_subset_of_nothing_is_refused() -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="^n=0"):
        evaluation_subset([], 0)


# --- The real pairs ---


class Numbered(TranslationTokenizer):
    """A tokenizer whose ids are the numbers of whole pairs, so that 130,000 of them take no time."""

    def encode_pairs(self, pairs: Iterable[Any]) -> list[IdPair]:
        self.base.extend(tuple(pair[:2]) for pair in pairs)
        return [([i], [i]) for i in range(len(self.base))]


@pytest.fixture(scope="module")
def tatoeba() -> tuple[Corpus, dict[str, object]]:
    """Return the corpus, and what the maker of its tokenizer was given."""
    given: dict[str, object] = {}

    def make(texts: Iterable[str], size: int) -> TranslationTokenizer:
        given.update(texts=list(texts), size=size)
        return Numbered([], -1, -2, -3)

    return Corpus.tatoeba(make, 777), given


def trained_on(corpus: Corpus) -> list[tuple[str, str]]:
    return [corpus.tokenizer.base[i] for [i], _ in corpus.train]


def test_no_english_sentence_is_both_trained_on_and_tested(tatoeba: tuple[Corpus, dict[str, object]]) -> None:
    corpus, _ = tatoeba
    train = {english for english, _ in trained_on(corpus)}
    sets = [{pair.english for pair in held_out} for held_out in (corpus.valid, corpus.test, corpus.long)]
    for one, other in itertools.combinations([train, *sets], 2):
        assert one and other and not one & other


def test_the_sets_are_what_the_docstrings_say(tatoeba: tuple[Corpus, dict[str, object]]) -> None:
    corpus, _ = tatoeba
    assert corpus.test == data.load_tatoeba("test") and 1300 < len(corpus.test) < 1500
    assert corpus.valid == data.load_tatoeba("valid") and 1300 < len(corpus.valid) < 1500
    assert 700 < len(corpus.long) < 900 and all(len(pair.english.split()) >= 11 for pair in corpus.long)
    everything = data.load_tatoeba("train")
    long = [pair for pair in everything if len(pair.english.split()) >= 11]
    assert set(corpus.long) == {pair for pair in long if data.split_of(pair.english, test=0.1) == "test"}
    train, held_out = trained_on(corpus), set(corpus.long)
    wanted = [pair[:2] for pair in everything if pair not in held_out and max(len(p) for p in pair[:2]) <= 120]
    assert train == wanted
    assert len(everything) - len(held_out) - len(train) < 0.01 * len(everything), "too long: under one in a hundred"


def test_the_tokenizer_is_learnt_from_a_sample_of_what_is_trained_on(
    tatoeba: tuple[Corpus, dict[str, object]],
) -> None:
    corpus, given = tatoeba
    texts = given["texts"]
    assert isinstance(texts, list) and given["size"] == 777 and len(texts) == 40_000
    assert all(text.startswith(" ") for text in texts)
    held_out = {f" {pair.english}" for pair in [*corpus.valid, *corpus.test, *corpus.long]}
    assert not held_out & set(texts[::2])


@pytest.mark.parametrize("n", [1, 10, 400, 1000, 5000])
def test_an_evaluation_subset_is_spread_over_all_of_the_set(n: int, tatoeba: tuple[Corpus, dict[str, object]]) -> None:
    corpus, _ = tatoeba
    subset, total = evaluation_subset(corpus.test, n), len(corpus.test)
    assert min(n, total) <= len(subset) < 2 * n
    positions = [corpus.test.index(pair) for pair in subset]
    assert positions[0] == 0 and positions[-1] >= total - 1 - 2 * total / n
    assert len({b - a for a, b in zip(positions, positions[1:], strict=False)}) <= 1, "evenly spaced"
