"""Questions about shapes: so many of each kind, each with its one answer; captions that no question contradicts."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import easy_vqa  # type: ignore[import-untyped]
import pytest
import torch
from parity import as_a_reader_sees_it
from torch import Tensor

from nextword.book import questions as module
from nextword.book.questions import COLOURS, KINDS, Question, captions, commonest, load_pictures, load_questions

SPLITS: list[Any] = ["train", "test"]
known = functools.cache(captions)
SHAPES = ("circle", "rectangle", "triangle")
COUNTS = {
    "train": (4000, {"colour": 5166, "shape": 5002, "yes or no": 28407}),
    "test": (1000, {"colour": 1280, "shape": 1257, "yes or no": 7136}),
}
WORDS = {"train": {2: 3181, 1: 635, 0: 184}, "test": {2: 791, 1: 159, 0: 50}}
"""How many captions have so many words."""


# --- Questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_so_many_questions_of_each_kind(split: Any) -> None:
    n, kinds = COUNTS[split]
    asked = load_questions(split)
    assert Counter(q.kind for q in asked) == kinds and tuple(kinds) == KINDS
    assert {q.picture for q in asked} == set(range(n)), "each picture is asked about"
    assert load_questions(split) is asked


@pytest.mark.parametrize("split", SPLITS)
def test_answers_belong_to_their_kind(split: Any) -> None:
    found = {kind: {q.answer for q in load_questions(split) if q.kind == kind} for kind in KINDS}
    assert found == {"colour": {*COLOURS}, "shape": {*SHAPES}, "yes or no": {"yes", "no"}}
    assert set.union(*found.values()) == set(easy_vqa.get_answers())


@pytest.mark.parametrize("split", SPLITS)
def test_the_text_asks_for_what_the_kind_says(split: Any) -> None:
    for question in load_questions(split):
        assert question.text.endswith("?") and question.text == question.text.lower().strip()
        first, words = question.text.split()[0], question.text.rstrip("?").split()
        if question.kind == "yes or no":
            assert first in ("is", "does")
        elif question.kind == "colour":
            assert first == "what" and "color" in words
        else:
            assert first == "what" and "color" not in words and "shape" in words


@pytest.mark.parametrize("split", SPLITS)
def test_the_rows_are_those_of_the_package(split: Any) -> None:
    texts, answers, rows = getattr(easy_vqa, f"get_{split}_questions")()
    asked = load_questions(split)
    assert [(q.picture, q.text, q.answer) for q in asked] == list(zip(rows, texts, answers, strict=True))


def test_the_kind_of_a_question_is_that_of_its_answer() -> None:
    kinds = {answer: Question(0, "what?", answer).kind for answer in ("yes", "no", "circle", "triangle", "teal")}
    assert list(kinds.values()) == ["yes or no", "yes or no", "shape", "shape", "colour"]


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_pictures_are_64_by_64_from_0_to_1(split: Any) -> None:
    found = load_pictures(split)
    assert found.shape == (COUNTS[split][0], 3, 64, 64) and found.dtype == torch.float32
    assert (found.min(), found.max()) == (0, 1)
    assert torch.equal((255 * found).round() / 255, found), "bytes"
    assert load_pictures(split) is found


def drawn(picture: Tensor) -> Tensor:
    """Return where a picture is not of its background's colour, which is that of most of its border."""
    border = torch.cat([picture[:, 0].T, picture[:, -1].T, picture[:, :, 0].T, picture[:, :, -1].T])
    return (picture - border.median(0).values[:, None, None]).abs().amax(0) > 0.1


def test_each_picture_is_one_shape_of_the_colour_that_its_caption_says() -> None:
    """By the colour of what stands out: those with one word are nearer to each other than to those with any other."""
    by_colour: dict[str, list[Tensor]] = {colour: [] for colour in COLOURS}
    for picture, caption in zip(load_pictures("test"), known("test"), strict=True):
        inside = drawn(picture)
        assert 20 < inside.sum() < 64 * 64 / 2
        if len(caption.split()) == 2:
            by_colour[caption.split()[0]].append(picture[:, inside].median(1).values)
    means = torch.stack([torch.stack(found).mean(0) for found in by_colour.values()])
    for i, found in enumerate(by_colour.values()):
        assert len(found) > 60
        assert (torch.cdist(torch.stack(found), means).argmin(1) == i).float().mean() > 0.95


def test_a_rectangle_fills_its_box_and_a_triangle_half_of_it() -> None:
    filled: dict[str, list[float]] = {shape: [] for shape in SHAPES}
    for picture, caption in zip(load_pictures("test"), known("test"), strict=True):
        if len(caption.split()) == 2:
            inside = drawn(picture)
            rows, columns = inside.any(1).sum(), inside.any(0).sum()
            filled[caption.split()[1]].append(float(inside.sum() / (rows * columns)))
    circle, rectangle, triangle = (torch.tensor(filled[shape]).median().item() for shape in SHAPES)
    assert rectangle > 0.95 and circle == pytest.approx(3.1416 / 4, abs=0.06) and triangle < 0.65


# --- Captions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_captions_have_a_colour_and_a_shape_where_both_are_known(split: Any) -> None:
    found = known(split)
    assert len(found) == COUNTS[split][0] and Counter(len(caption.split()) for caption in found) == WORDS[split]
    for caption in found:
        words = caption.split()
        assert caption == " ".join(words)
        if len(words) == 2:
            assert words[0] in COLOURS and words[1] in SHAPES
        elif words:
            assert words[0] in (*COLOURS, *SHAPES)


@pytest.mark.parametrize("split", SPLITS)
def test_no_question_contradicts_a_caption(split: Any) -> None:
    """Also those for yes or no, which a caption is not made of."""
    found, checked = known(split), Counter[str]()
    for question in load_questions(split):
        caption = found[question.picture].split()
        if len(caption) < 2:
            continue
        words = question.text.rstrip("?").split()
        named = [word for word in words if word in COLOURS or word in SHAPES]
        if question.kind == "yes or no":
            [thing] = named
            denied = "not" in words or "no" in words
            assert question.answer == ("yes" if (thing in caption) != denied else "no"), question
        else:
            assert question.answer == caption[KINDS.index(question.kind)], question
            assert all(word in caption for word in named), question
        checked[question.kind] += 1
    assert all(checked[kind] > 0.75 * n for kind, n in COUNTS[split][1].items())


@pytest.mark.parametrize("split", SPLITS)
def test_what_a_caption_leaves_out_no_question_tells(split: Any) -> None:
    found = known(split)
    for question in load_questions(split):
        words = question.text.rstrip("?").split()
        if question.kind != "yes or no":
            assert question.answer in found[question.picture].split(), "an answer is in the caption"
            for word in words:
                assert word not in (*COLOURS, *SHAPES) or word in found[question.picture].split(), "and what it names"


def test_captions_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (
        Question(0, "what color is the shape?", "red"),
        Question(0, "what shape is in the image?", "circle"),
        Question(1, "what color is the triangle?", "teal"),
        Question(2, "what is the brown shape?", "rectangle"),
        Question(3, "what shape does the image contain?", "circle"),
        Question(4, "what color is the shape?", "gray"),
        Question(5, "is there a red shape?", "yes"),
        Question(3, "is there a blue shape?", "yes"),
    )
    monkeypatch.setattr(module, "load_questions", lambda split: asked)
    monkeypatch.setattr(module, "load_pictures", lambda split: torch.zeros(7, 3, 64, 64))
    assert captions("test") == ["red circle", "teal triangle", "brown rectangle", "circle", "gray", "", ""]


# --- The commonest answer ---------------------------------------------------------------------------------------------


def test_the_commonest_answer_by_hand() -> None:
    answers = ["red", "red", "blue", "teal", "yes", "yes", "yes", "no", "circle"]
    found = commonest([Question(i, "?", answer) for i, answer in enumerate(answers)])
    assert found == {"colour": 50.0, "shape": 100.0, "yes or no": 75.0} and tuple(found) == KINDS


@pytest.mark.parametrize(
    ("answers", "expected"), [([], (0.0, 0.0, 0.0)), (["no"], (0.0, 0.0, 100.0)), (["red", "teal"], (50.0, 0.0, 0.0))]
)
def test_where_nothing_is_asked_nothing_is_right(answers: list[str], expected: tuple[float, ...]) -> None:
    assert tuple(commonest([Question(0, "?", answer) for answer in answers]).values()) == expected


@pytest.mark.parametrize("split", SPLITS)
def test_the_answers_are_balanced(split: Any) -> None:
    found, asked = commonest(load_questions(split)), load_questions(split)
    for kind, n in (("colour", 8), ("shape", 3), ("yes or no", 2)):
        own = [q.answer for q in asked if q.kind == kind]
        assert found[kind] == pytest.approx(100 * max(own.count(answer) for answer in set(own)) / len(own))
        assert 100 / n <= found[kind] < 115 / n


# --- What does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["", "Train", "validation"])
def test_there_is_no_other_split(split: Any) -> None:
    calls: list[Any] = [load_questions, load_pictures, captions]
    for call in calls:
        with as_a_reader_sees_it(), pytest.raises(ValueError, match=f"split={split!r}: choose 'train' or 'test'"):
            call(split)
