"""The Winograd twins of the book: each item keeps the rules that make its two sentences a fair test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import nextword

TWINS: dict[str, Any] = json.loads(
    (Path(nextword.__file__).parent / "bundled" / "winograd.json").read_text(encoding="utf-8")
)
LANGUAGES = ("english", "japanese")
ITEMS = [pytest.param(item, id=item["id"]) for language in LANGUAGES for item in TWINS[language]]
ENGLISH = [pytest.param(item, id=item["id"]) for item in TWINS["english"]]


def sentence(item: dict[str, Any], word: str, filler: str) -> str:
    """The whole sentence, with one of the special words and with the pronoun or a candidate in its place."""
    return item["text"].replace("[pronoun]", filler).replace("[word]", word)


def skeleton(item: dict[str, Any]) -> str:
    """The template without its candidates and without any other name."""
    text = item["text"]
    for candidate in item["candidates"]:
        text = re.sub(re.escape(candidate), "_", text, flags=re.IGNORECASE)
    return re.sub(r"\b[A-Z][\w-]*", "_", text)


def test_there_are_enough_items_and_ids_are_unique() -> None:
    assert set(TWINS) == {"title", "note", *LANGUAGES}
    assert len(TWINS["english"]) >= 60
    assert len(TWINS["japanese"]) >= 10
    ids = [item["id"] for language in LANGUAGES for item in TWINS[language]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in ids)


@pytest.mark.parametrize("item", ITEMS)
def test_the_pronoun_comes_once_and_the_special_word_comes_once_after_it(item: dict[str, Any]) -> None:
    assert set(item) - {"gloss"} == {"id", "text", "pronoun", "candidates", "twins"}
    text = item["text"]
    assert re.findall(r"\[\w*\]", text) == ["[pronoun]", "[word]"]
    assert not text.startswith("[pronoun]")
    assert text.endswith((".", "。")) and text == text.strip() and "  " not in text


@pytest.mark.parametrize("item", ITEMS)
def test_the_special_word_decides_between_the_two_candidates(item: dict[str, Any]) -> None:
    assert sorted(twin["answer"] for twin in item["twins"]) == [0, 1]
    words = [twin["word"] for twin in item["twins"]]
    assert len(set(words)) == 2
    assert all(word and 1 <= len(word.split()) <= 3 for word in words)


@pytest.mark.parametrize("item", ITEMS)
def test_both_candidates_come_in_order_before_the_pronoun(item: dict[str, Any]) -> None:
    before, after = item["text"].lower().split("[pronoun]")
    first, second = (candidate.lower() for candidate in item["candidates"])
    assert first not in second and second not in first
    assert before.count(first) == before.count(second) == 1
    assert before.index(first) < before.index(second)
    assert first not in after and second not in after


@pytest.mark.parametrize("item", ENGLISH)
def test_english_sentences_are_short_and_their_candidates_are_of_one_kind(item: dict[str, Any]) -> None:
    assert item["pronoun"] in {"it", "he", "she", "they"}
    described = [candidate.startswith("the ") for candidate in item["candidates"]]
    named = [candidate[0].isupper() for candidate in item["candidates"]]
    assert all(described) or all(named)
    for twin in item["twins"]:
        for filler in (item["pronoun"], *item["candidates"]):
            assert 10 <= len(sentence(item, twin["word"], filler).split()) <= 25


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_first_candidate_is_the_first_answer_in_about_half_of_the_items(language: str) -> None:
    first = [item["twins"][0]["answer"] == 0 for item in TWINS[language]]
    assert 0.4 <= sum(first) / len(first) <= 0.6


def test_japanese_items_have_an_english_gloss_with_both_special_words() -> None:
    assert all(item["gloss"].count(" / ") == 1 for item in TWINS["japanese"])
    assert not any("gloss" in item for item in TWINS["english"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_item_is_another_with_different_names(language: str) -> None:
    skeletons = [skeleton(item) for item in TWINS[language]]
    assert len(set(skeletons)) == len(skeletons)
