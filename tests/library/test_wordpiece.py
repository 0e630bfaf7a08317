"""WordPiece: the pieces and ids of ``tokenizers`` on all text that both know, gaps, pairs, and clear refusals."""

from __future__ import annotations

import functools
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizer

from nextword import data, fetching
from nextword.wordpiece import WordPiece

BERT = WordPiece.bert()
SMALL = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##afford", "##able", "##a", "a", "!"]


@functools.cache
def theirs(lower: bool = True, tokens: tuple[str, ...] = BERT.tokens, longest: int = 100) -> Tokenizer:
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=longest))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def is_settled(c: str) -> bool:
    """Whether a character is of the same kind in Unicode 3.2 and today; on younger ones the libraries' tables differ."""
    return unicodedata.ucd_3_2_0.category(c) == unicodedata.category(c) != "Cn"


SETTLED = [c for c in map(chr, range(0x30000)) if unicodedata.category(c) != "Cs" and is_settled(c)]


@pytest.mark.parametrize("lower", [True, False])
def test_every_settled_character_is_treated_as_theirs_is(lower: bool) -> None:
    ours, other = WordPiece(BERT.tokens, lower=lower), theirs(lower)
    assert len(SETTLED) > 90_000
    rare = [c for c in SETTLED if not 0x4E00 <= ord(c) < 0x9F00 and not 0xAC00 <= ord(c) < 0xD700 and ord(c) < 0x20100]
    for c in rare:
        text = f"a{c}b {c} E{c}"
        assert ours.pieces(text) == other.encode(text).tokens, hex(ord(c))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SETTLED), st.sampled_from("aeiE ?.'-$`\t\n中é0")), max_size=40).map("".join))
def test_same_pieces_on_any_text_of_settled_characters(text: str) -> None:
    assert BERT.pieces(text) == theirs().encode(text).tokens


def test_same_ids_on_real_text() -> None:
    texts = [q.passage for q in data.load_boolq("test")] + [q.text for q in data.load_trec("test")]
    texts += [r.text for r in data.load_ratings("tweets")[:500]]
    other = theirs()
    for text in texts:
        assert [BERT.id_of(piece) for piece in BERT.pieces(text)] == other.encode(text).ids


def test_same_sequences_as_transformers(tmp_path: Path) -> None:
    tokenizer = BertTokenizer(str(fetching.fetch_folder("minilm") / "vocab.txt"))
    for a, b in (("A man goes.", None), ("Is it raining?", "It isn't — naïvely."), ("", "x"), ("", None)):
        expected = tokenizer(a, b) if b is not None else tokenizer(a)
        ours = BERT.encode(a, b)
        assert ours.ids == expected["input_ids"] and ours.segments == expected["token_type_ids"]
        assert [BERT.tokens[i] in ("[CLS]", "[SEP]") for i in ours.ids] == ours.special


def test_the_longest_beginning_wins_and_a_rest_makes_the_whole_word_unknown() -> None:
    wordpiece = WordPiece(SMALL)
    assert wordpiece.pieces("unaffordable a!a") == ["un", "##afford", "##able", "a", "!", "a"]
    assert wordpiece.pieces("unb aba un") == ["[UNK]", "[UNK]", "un"]
    assert wordpiece.pieces("unable unaa") == ["un", "##able", "un", "##a", "##a"]


@pytest.mark.parametrize("longest", [4, 100, 200])
def test_a_word_too_long_is_unknown(longest: int) -> None:
    wordpiece, other = WordPiece(SMALL, longest=longest), theirs(tokens=tuple(SMALL), longest=longest)
    for n in (1, 3, 4, 5, 99, 100, 101, 199, 200, 201):
        assert wordpiece.pieces("a" * n) == other.encode("a" * n).tokens
    assert wordpiece.pieces("a" * longest) != ["[UNK]"] == wordpiece.pieces("a" * (longest + 1))


def test_capitals_and_accents_fall_unless_they_are_to_stay() -> None:
    assert BERT.pieces("Élan ÀÇ") == BERT.pieces("elan ac")
    cased = WordPiece([*SMALL, "É", "##A"], lower=False)
    assert cased.pieces("ÉA é") == ["É", "##A", "[UNK]"]
    assert BERT.pieces("ΟΔΟΣ") == theirs().encode("ΟΔΟΣ").tokens  # Python knows a small sigma for a word's end


def test_chinese_characters_stand_alone_and_controls_go() -> None:
    assert BERT.pieces("中文x") == BERT.pieces("中 文 x") and len(BERT.pieces("中文x")) == 3
    assert BERT.pieces("a\u200bb\x00c\ufffdd") == BERT.pieces("abcd")
    assert BERT.pieces("a\tb\nc\u3000d\xa0e") == ["a", "b", "c", "d", "e"]


def test_gaps_only_where_they_are_allowed() -> None:
    gap = BERT.id_of("[MASK]")
    assert gap not in [BERT.id_of(piece) for piece in BERT.pieces("Paris is in [MASK].")]
    for texts in (["Paris is in [MASK]."], ["Where?", "In [MASK]."]):
        with pytest.raises(
            ValueError, match=r"text holds '\[MASK\]', .* not allowed: allow_special=.* pieces takes it"
        ):
            BERT.encode(*texts)
    with pytest.raises(ValueError, match=r"text holds '\[SEP\]'"):
        BERT.encode("[MASK] [SEP]", allow_special=["[MASK]"])
    two = "In [MASK].", "Or [MASK]?"
    assert BERT.encode(*two, allow_special=iter(["[MASK]"])) == BERT.encode(*two, allow_special={"[MASK]": 2})
    ids = BERT.encode("Paris is in [MASK].", allow_special=["[MASK]"]).ids
    assert [BERT.tokens[i] for i in ids] == ["[CLS]", "paris", "is", "in", "[MASK]", ".", "[SEP]"]


def test_decoding_gives_words() -> None:
    ids = BERT.encode("Unaffordable, isn't it?", "Yes!").ids
    assert BERT.decode(ids) == "unaffordable , isn ' t it ? yes !"
    assert BERT.decode(torch.tensor([0, 0, BERT.id_of("##able")])) == "##able"
    with pytest.raises(ValueError, match="ids holds 30522; this vocabulary has the ids 0 to 30521"):
        BERT.decode([30_522])
    with pytest.raises(ValueError, match=r"ids must have shape \(T,\), got \(1, 2\)"):
        BERT.decode(torch.zeros(1, 2, dtype=torch.int64))
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=r"ids must be one row of whole numbers, .*\[\[1, 2\]\]"):
        BERT.decode([[1, 2]])


def test_reading_a_vocabulary(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(SMALL) + "\n", encoding="utf-8")
    assert WordPiece.load(file).tokens == tuple(SMALL)
    assert BERT.vocab_size == 30_522 and BERT.id_of("[CLS]") == 101 and BERT.id_of("[MASK]") == 103
    file.write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds no WordPiece: tokens lacks \[UNK\], \[CLS\], \[SEP\], \[MASK\]"):
        WordPiece.load(file)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: WordPiece([*SMALL, "a"]), ValueError, "tokens holds 'a' twice"),
        (lambda: BERT.id_of("[GAP]"), ValueError, r"token='\[GAP\]' is not in the vocabulary"),
        (lambda: BERT.pieces(b"a"), TypeError, "text must be"),
        (lambda: BERT.encode("a", 3), TypeError, "b must be"),
        (lambda: BERT.encode("a", allow_special=["the"]), ValueError, r"allow_special=\['the'\] are no special tokens"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, error: type[Exception], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        call()


def test_words_met_before_are_remembered_and_nothing_changes() -> None:
    words = [word for q in data.load_trec("test")[:200] for word in q.text.split()]
    random.Random(0).shuffle(words)
    fresh = WordPiece(BERT.tokens)
    assert [BERT.pieces(word) for word in words] == [fresh.pieces(word) for word in words]
