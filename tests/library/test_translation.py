"""Batches of pairs, the two tokenizers, and what training, measuring and translating promise, on tiny models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from parity import as_a_reader_sees_it, randomised
from torch import Tensor, nn

from nextword.data import Pair
from nextword.metrics import bleu
from nextword.recurrent import Seq2SeqConfig, Seq2SeqLSTM
from nextword.tokenizers import ByteBPE
from nextword.transformer import Transformer, TransformerConfig
from nextword.translation import (
    SPECIAL_TOKENS,
    BucketedBatches,
    IdPair,
    TranslationTokenizer,
    WordTokenizer,
    bleu_by_length,
    collate,
    cross_entropy,
    translate,
    translate_texts,
)

V, C, PAD, BOS, EOS = 12, 8, 0, 1, 2
IDS = TranslationTokenizer(None, pad_id=PAD, bos_id=BOS, eos_id=EOS)
SENTENCES = ["¿Qué pasó, señor?", "¡Mañana, sí!", "Él dijo: «no».", "naïve coöperation", "日本 ☕ 12", "a  b", ""]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_BF16", "0")


def id_pairs(n: int, longest: int = 9, seed: int = 0) -> list[IdPair]:
    """Return n different pairs of 1 to ``longest`` ids, none of them special."""
    generator = torch.Generator().manual_seed(seed)

    def row() -> list[int]:
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        return torch.randint(3, V, (length,), generator=generator).tolist()

    pairs: dict[str, IdPair] = {}
    while len(pairs) < n:
        pair = row(), row()
        pairs[str(pair)] = pair
    return list(pairs.values())


# --- Batches ---


def pairs_of(source: Tensor, target: Tensor, labels: Tensor) -> list[IdPair]:
    """Return the pairs that a batch was made of."""
    return [([i for i in s if i != PAD], [i for i in t[1:] if i != PAD]) for s, t in _rows(source, target)]


def _rows(*tensors: Tensor) -> Iterator[tuple[list[int], ...]]:
    return zip(*(tensor.tolist() for tensor in tensors), strict=True)


def one_pass(batches: Iterator[tuple[Tensor, ...]], n: int) -> list[IdPair]:
    found: list[IdPair] = []
    while len(found) < n:
        found += pairs_of(*next(batches))
    return found


@pytest.mark.parametrize("tokens", [10, 33, 5000])
@pytest.mark.parametrize("pool", [2, 100])
def test_every_pair_comes_once_a_pass_in_another_order(tokens: int, pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BucketedBatches, "POOL", pool)
    pairs = id_pairs(150)
    batches = iter(BucketedBatches(pairs, IDS, max_tokens=tokens, seed=0))
    passes = [one_pass(batches, len(pairs)) for _ in range(3)]
    for found in passes:
        assert Counter(map(str, found)) == Counter(map(str, pairs))
    if tokens < 5000:  # else all is one batch, sorted by length
        assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("tokens", [10, 33, 200])
def test_no_batch_has_more_target_tokens_than_asked_for_padding_included(tokens: int) -> None:
    batches = list(islice(BucketedBatches(id_pairs(300), IDS, max_tokens=tokens, seed=1), 400))
    sizes = [target.numel() for _, target, _ in batches]
    assert max(sizes) <= tokens
    assert sum(sizes) / len(sizes) > 0.6 * tokens


def test_little_of_a_batch_is_padding() -> None:
    targets = [target for _, target, _ in islice(BucketedBatches(id_pairs(500), IDS, max_tokens=60, seed=0), 60)]
    assert sum((t == PAD).sum() for t in targets) < 0.1 * sum(t.numel() for t in targets)


def test_batches_depend_on_the_seed_alone_and_start_again_with_each_loop() -> None:
    pairs = id_pairs(60)

    def first(batches: BucketedBatches) -> list[list[int]]:
        torch.rand(1)
        return [source.tolist() for source, *_ in islice(batches, 30)]

    batches = BucketedBatches(pairs, IDS, max_tokens=30, seed=3)
    assert first(batches) == first(batches) == first(BucketedBatches(pairs, IDS, max_tokens=30, seed=3))
    assert first(batches) != first(BucketedBatches(pairs, IDS, max_tokens=30, seed=4))


def test_a_batch_by_hand() -> None:
    source, target, labels = collate([([5, 6, 7], [8]), ([9], [10, 11])], IDS)
    assert source.tolist() == [[5, 6, 7], [9, PAD, PAD]]
    assert target.tolist() == [[BOS, 8, PAD], [BOS, 10, 11]]
    assert labels.tolist() == [[8, EOS, -100], [10, 11, EOS]]
    assert {x.dtype for x in (source, target, labels)} == {torch.int64}


def test_labels_are_the_target_a_step_later_then_the_end() -> None:
    for source, target, labels in islice(BucketedBatches(id_pairs(80), IDS, max_tokens=40, seed=0), 20):
        assert target.shape == labels.shape and len(source) == len(target)
        assert target[:, 0].eq(BOS).all()
        for t, wanted in _rows(target, labels):
            n = len([i for i in t if i != PAD])
            assert wanted[:n] == [*t[1:n], EOS] and set(wanted[n:]) <= {-100} and set(t[n:]) <= {PAD}


def test_batches_refuse_what_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="pairs is empty"):
        BucketedBatches([], IDS, max_tokens=100, seed=0)
    with pytest.raises(ValueError, match=r"^max_tokens=4 .* 5"):
        BucketedBatches([([3], [3] * 4)], IDS, max_tokens=4, seed=0)
    fits = BucketedBatches([([3], [3] * 4)], IDS, max_tokens=5, seed=0)
    assert next(iter(fits))[1].shape == (1, 5)


# --- Tokenizers ---


def test_words_know_the_most_frequent_and_nothing_else() -> None:
    words = WordTokenizer(["b b b a a c", "b, a"], 7)
    assert words.tokens == [*SPECIAL_TOKENS, "<unk>", "b", "a", "c"] and words.vocab_size == 7
    assert words.encode("a zebra, b") == [5, 3, 3, 4]
    assert words.decode([5, 3, 4]) == "a <unk> b"
    assert WordTokenizer(["a b"], 100).vocab_size == 6, "there are no more words than that"


@pytest.mark.parametrize(
    "text",
    ["¿Qué pasó, señor?", "¡Mañana, sí!", "No (nunca) [jamás]; 50% de 1.", "Él: ¿tú?"],
)
def test_words_put_spaces_where_a_reader_expects_them(text: str) -> None:
    assert WordTokenizer([text], 100).decode(WordTokenizer([text], 100).encode(text)) == text


def test_tokenizer_of_words() -> None:
    tokenizer = TranslationTokenizer.words(["el gato come , el gato"], 7)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 2, 7)
    assert tokenizer.decode(tokenizer.encode("el gato")) == "el gato"
    assert not set(tokenizer.encode("<pad> <start> <end>")) & {0, 1, 2}


@pytest.mark.parametrize("size", [259, 270, 300])
def test_subwords_give_every_sentence_back(size: int) -> None:
    tokenizer = TranslationTokenizer.subwords([f" {s}" for s in SENTENCES * 3], size)
    assert tokenizer.vocab_size == size
    for text in [*SENTENCES, "no visto: ÑANDÚ <end> 🦙"]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}


def test_size_259_is_one_id_a_byte() -> None:
    tokenizer = TranslationTokenizer.subwords(SENTENCES, 259)
    for text in SENTENCES:
        assert len(tokenizer.encode(text)) == len(f" {text}".encode())
    assert len({tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}) == 3


def test_a_word_is_the_same_token_first_and_later() -> None:
    tokenizer = TranslationTokenizer.subwords([" gato gato gato"], 263)
    first, second = tokenizer.encode("gato gato")
    assert first == second


@pytest.mark.parametrize("kind", ["subwords", "words"])
def test_decoding_stops_at_the_end_token_and_skips_filling(kind: str) -> None:
    v = getattr(TranslationTokenizer, kind)([" la casa"] * 4, 263)
    la, casa = v.encode("la"), v.encode("casa")
    assert v.decode([v.bos_id, *la, v.pad_id, *casa, v.eos_id, *la, v.pad_id]) == "la casa"
    assert v.decode([v.eos_id, *la]) == v.decode([]) == v.decode([v.bos_id, v.pad_id]) == ""


def test_tokenizer_of_a_trained_tokenizer_finds_its_special_tokens() -> None:
    bpe = ByteBPE.train([" uno dos"], 265, special_tokens=("<other>", *reversed(SPECIAL_TOKENS)))
    v, ids = TranslationTokenizer.from_bpe(bpe), bpe.special_tokens
    assert (v.pad_id, v.bos_id, v.eos_id) == (
        ids["<pad>"],
        ids["<start>"],
        ids["<end>"],
    ) and v.vocab_size == bpe.vocab_size
    assert v.base is bpe


def test_pairs_are_english_first() -> None:
    v = TranslationTokenizer.words(["yes sí no"], 10)
    assert v.encode_pairs([Pair("yes", "sí", "nobody"), ("no", "no")]) == [
        (v.encode("yes"), v.encode("sí")),
        (v.encode("no"), v.encode("no")),
    ]


# --- Measuring and translating ---


def lstm(**settings: float) -> Seq2SeqLSTM:
    return randomised(Seq2SeqLSTM(Seq2SeqConfig(source_vocab=V, target_vocab=V, d_model=C, **settings)), std=0.6)


def transformer(**settings: float) -> Transformer:
    sizes = {"source_vocab": V, "target_vocab": V, "d_model": C, "n_heads": 2, "n_layers": 1, "d_ff": 16}
    return randomised(Transformer(TransformerConfig(**sizes, **{"dropout": 0.0, **settings})), std=0.6)


MODELS = {"lstm": lstm, "transformer": transformer}


class Ending(nn.Module):
    """A random model ends at once or never; this one's score of the end token grows with each of its words."""

    def __init__(self, model: Any, slope: float = 1.0, middle: float = 6.0) -> None:
        super().__init__()
        self.model, self.slope, self.middle = model, slope, middle

    def step(self, source: Tensor, *, beam: int = 1) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        inner = self.model.step(source, beam=beam)

        def step(ids: Tensor) -> tuple[Tensor, Tensor]:
            log_probs, attention = inner(ids)
            bonus = torch.zeros(V, dtype=torch.float64)
            bonus[EOS] = self.slope * (ids.shape[1] - self.middle)
            return (log_probs + bonus).log_softmax(-1), attention

        step.reorder = inner.reorder  # type: ignore[attr-defined]
        return step


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("tokens", [1, 25, 4000])
def test_cross_entropy_is_the_mean_over_all_target_tokens_one_sentence_at_a_time(kind: str, tokens: int) -> None:
    """In evaluation mode, though the model is being trained with dropout and smoothed labels."""
    model = MODELS[kind](dropout=0.3, label_smoothing=0.1)
    pairs, losses = id_pairs(12), []
    model.eval()
    with torch.no_grad():
        for source, target in pairs:
            logits = model(torch.tensor([source]), torch.tensor([[BOS, *target]])).logits[0]
            labels = torch.tensor([*target, EOS])
            losses += (-logits.log_softmax(-1)[range(len(labels)), labels]).tolist()
    model.train()
    model.dropout.eval()
    assert cross_entropy(model, pairs, IDS, max_tokens=tokens) == pytest.approx(sum(losses) / len(losses), rel=1e-9)
    assert model.training and not model.dropout.training, "every module is back in its mode"


SEARCHES = {"greedy": {}, "beam": {"beam": 4, "alpha": 1.0}}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("tokens", [20, 4000])
def test_a_batch_of_many_lengths_is_translated_as_its_sentences_alone(kind: str, search: str, tokens: int) -> None:
    model, sources = Ending(MODELS[kind]()), [source for source, _ in id_pairs(14)]
    found = translate(model, sources, IDS, max_tokens=tokens, extra=40, **SEARCHES[search])
    assert len({len(h.ids) for h in found}) > 1, "all of one length would prove little"
    for source, best in zip(sources, found, strict=True):
        [alone] = translate(model, [source], IDS, extra=40, **SEARCHES[search])
        assert best.ids == alone.ids and best.ids[-1] == EOS and len(best.ids) < 40
        assert best.log_prob == pytest.approx(alone.log_prob, rel=1e-9)
        assert best.score == pytest.approx(alone.score, rel=1e-9)
        assert best.attention is not None and alone.attention is not None
        torch.testing.assert_close(best.attention[:, : len(source)], alone.attention, rtol=1e-9, atol=1e-12)


def test_translations_come_in_the_order_of_the_sources(kind: str) -> None:
    model, sources = Ending(MODELS[kind]()), [source for source, _ in id_pairs(14)]
    found = translate(model, sources, IDS, max_tokens=30, extra=40)
    backwards = translate(model, sources[::-1], IDS, max_tokens=30, extra=40)
    assert [h.ids for h in found] == [h.ids for h in backwards[::-1]]
    assert [h.ids for h in found] != [h.ids for h in backwards]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_translation_ends_at_the_length_of_its_source_and_extra_more(kind: str, search: str) -> None:
    model, sources = Ending(MODELS[kind](), middle=1e3), [[5, 6], [7, 8, 9, 10, 11, 3], [4, 4, 4]]
    for extra in (1, 3):
        for source in sources:
            [alone] = translate(model, [source], IDS, extra=extra, **SEARCHES[search])
            assert len(alone.ids) == len(source) + extra
        together = translate(model, sources, IDS, extra=extra, **SEARCHES[search])
        assert {len(h.ids) for h in together} == {max(map(len, sources)) + extra}, "the longest of the batch decides"


def test_translating_leaves_the_model_in_its_mode(kind: str) -> None:
    model = Ending(MODELS[kind](dropout=0.5)).train()
    first, second = (translate(model, [[5, 6, 7]], IDS)[0] for _ in range(2))
    assert first.ids == second.ids and first.log_prob == second.log_prob, "no dropout"
    assert all(module.training for module in model.modules())
    assert translate(model, [], IDS) == []


def test_a_beam_finds_what_scores_at_least_as_much(kind: str) -> None:
    model, sources = Ending(MODELS[kind]()), [source for source, _ in id_pairs(14)]
    one, four = (translate(model, sources, IDS, beam=beam) for beam in (1, 4))
    assert sum(h.log_prob for h in four) > sum(h.log_prob for h in one)


def test_texts_are_translated_as_their_ids_are(kind: str) -> None:
    tokenizer = TranslationTokenizer.words(["a b c d e f g h"], V)
    model, texts = Ending(MODELS[kind]()), ["a b", "h g f e", "c c d", "unknown"]
    found = translate(model, [tokenizer.encode(text) for text in texts], tokenizer, beam=2, alpha=0.5)
    written = translate_texts(model, texts, tokenizer, beam=2, alpha=0.5)
    assert written == [tokenizer.decode(hypothesis.ids) for hypothesis in found]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: WordTokenizer("a cat", 9), TypeError, "^texts is one text, whose letters"),
        (lambda: TranslationTokenizer.words("a cat", 9), TypeError, "^texts is one text, whose letters"),
        (lambda: TranslationTokenizer.subwords("a cat", 270), TypeError, "^texts is one text, whose letters"),
        (lambda: WordTokenizer(["a"], 3), ValueError, "^vocab_size=3 leaves no room for <pad>"),
        (
            lambda: WordTokenizer(["a"], 9).decode([[4]]),
            ValueError,
            r"^ids holds \[4\]; give whole numbers from 0 to 4",
        ),
        (lambda: WordTokenizer(["a"], 9).decode([-1]), ValueError, "^ids holds -1"),
        (lambda: TranslationTokenizer.words(["a"], 9).encode(["a", "a"]), TypeError, "^text is a list; give one"),
        (
            lambda: TranslationTokenizer.from_bpe(ByteBPE.train(["a"], 256)),
            ValueError,
            "^bpe lacks <pad>, <start>, <end>",
        ),
        (lambda: BucketedBatches([("a", "b")], IDS, max_tokens=9, seed=0), TypeError, "^pairs holds text; give ids"),
        (lambda: translate(lstm(), ["a cat"], IDS), TypeError, r"^sources\[0\] is text; .* translate_texts"),
        (lambda: translate(lstm(), [[5], []], IDS), ValueError, r"^sources\[1\] is empty"),
        (lambda: translate(lstm(), [[5, V]], IDS), ValueError, "^source holds ids from 5 to 12"),
        (lambda: translate_texts(lstm(), "a cat", IDS), TypeError, "^texts is one text"),
        (lambda: cross_entropy(lstm(), [], IDS), ValueError, "^pairs is empty"),
    ],
)
def test_what_many_will_type_is_refused_by_name(call: Callable[[], Any], error: type, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        call()


def test_bleu_by_length_groups_by_the_english_sentence() -> None:
    lines = [
        ("a b c d e", "uno dos tres cuatro cinco"),
        ("a b", "seis siete ocho nueve"),
        ("a b c", "diez once doce trece"),
    ]
    pairs = [Pair(*line, "nobody") for line in lines]
    right = [pair.spanish for pair in pairs]
    assert bleu_by_length(right, pairs, edges=(2, 4)) == pytest.approx({"1-2": 100, "3-4": 100, "5+": 100})
    scores = bleu_by_length([right[0], "nada", right[2]], pairs, edges=(2, 4))
    assert scores["1-2"] < 1 and scores["3-4"] == scores["5+"] == pytest.approx(100)
    pooled = bleu_by_length([right[0], "nada", right[2]], pairs, edges=(3,))
    assert pooled["1-3"] == pytest.approx(bleu(["nada", right[2]], right[1:]).score) and pooled["4+"] > 99


def test_bleu_by_length_refuses_what_does_not_fit() -> None:
    pairs = [Pair("a b", "x y", "nobody")]
    with pytest.raises(ValueError, match="texts has 2 translations, and pairs 1"):
        bleu_by_length(["x", "y"], pairs)
    for edges in ((), (4, 2), (3, 3), (0, 4)):
        with pytest.raises(ValueError, match="edges=.* must ascend"):
            bleu_by_length(["x"], pairs, edges=edges)
    with pytest.raises(ValueError, match="no sentence of 3-4, 5\\+ words"):
        bleu_by_length(["x"], pairs, edges=(2, 4))
