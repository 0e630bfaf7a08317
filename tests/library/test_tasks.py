"""Instructions to learn from: words and their shapes, facts that are all wrong, tasks held out with all their kin."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextword.book import tasks
from nextword.book.tasks import Family, Task
from nextword.instructions import Record

CAPITALS = Family(
    "capitals",
    "What is the capital of {b}?",
    "Name the capital city of {b}.",
    "The capital of {b} is {a}.",
    "a",
    (("Athens", "Greece"), ("Oslo", "Norway"), ("Paris", "France"), ("Rome", "Italy"), ("Port Louis", "Mauritius")),
)
MONEY = Family(
    "money",
    "What is the currency of {a}?",
    "With which money does one pay in {a}?",
    "The currency of {a} is the {b}.",
    "b",
    (("Spain", "euro"), ("Japan", "yen"), ("Italy", "euro"), ("India", "rupee"), ("Peru", "sol"), ("Malta", "euro")),
)
FAMILIES = [CAPITALS, MONEY]


# --- Pairs of words ---------------------------------------------------------------------------------------------------


def test_a_record_asks_for_one_word_of_a_pair() -> None:
    oslo, yen = CAPITALS.pairs[1], MONEY.pairs[1]
    assert tasks.word_record(CAPITALS, oslo) == Record("What is the capital of Norway?", "Oslo")
    assert tasks.word_record(MONEY, yen) == Record("What is the currency of Japan?", "yen")
    assert tasks.word_record(CAPITALS, oslo, sentence=True).response == "The capital of Norway is Oslo."
    assert tasks.word_record(MONEY, yen, sentence=True).response == "The currency of Japan is the yen."
    assert tasks.ask(MONEY, yen) == tasks.word_record(MONEY, yen, sentence=True).instruction
    assert tasks.ask(MONEY, yen, other=True) == "With which money does one pay in Japan?"
    assert (tasks.wanted(CAPITALS, oslo), tasks.wanted(MONEY, yen)) == ("Oslo", "yen")


def test_each_of_thirteen_families_gives_one_word_and_asks_for_the_other() -> None:
    families = tasks.word_families()
    assert len({family.name for family in families}) == 13 and sum(len(family.pairs) for family in families) == 550
    assert {family.name for family in families if family.answer == "a"} == {"capital-world"}
    for family in families:
        for pair in family.pairs:
            given, wanted = pair[family.answer == "a"], tasks.wanted(family, pair)
            assert {given, wanted} == set(pair)
            for other in (False, True):
                assert given in tasks.ask(family, pair, other=other)
            short, long = tasks.word_record(family, pair), tasks.word_record(family, pair, sentence=True)
            assert short.response == wanted and tasks.one_word(wanted) and not tasks.one_word(long.response)
            assert tasks.one_sentence(long.response, family, pair) and not tasks.one_sentence(wanted, family, pair)
            assert tasks.mentions(long.response, wanted) and tasks.mentions(short.response, wanted)
        texts = (family.question, family.other)
        assert len({*texts}) == 2 and not any("{" + family.answer + "}" in text for text in texts)


def rights(family: Family) -> dict[str, set[str]]:
    """Return the right answers to each word that is given."""
    found: dict[str, set[str]] = defaultdict(set)
    for pair in family.pairs:
        found[pair[family.answer == "a"]].add(tasks.wanted(family, pair))
    return found


def assert_all_wrong(family: Family, places: int) -> None:
    right, wrong = rights(family), tasks.with_wrong_facts(family, places)
    words = {tasks.wanted(family, pair) for pair in family.pairs}
    assert wrong._replace(pairs=family.pairs) == family and len(wrong.pairs) == len(family.pairs)
    for before, pair in zip(family.pairs, wrong.pairs, strict=True):
        given = pair[family.answer == "a"]
        assert given == before[family.answer == "a"], "what is given stays"
        assert tasks.wanted(wrong, pair) in words - right[given]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"answer {family.answer}")
@pytest.mark.parametrize("places", [1, 2, 3, 4, 5, 6, 20])
def test_wrong_facts_are_all_wrong_and_of_the_right_kind(family: Family, places: int) -> None:
    assert_all_wrong(family, places)


def test_wrong_facts_by_hand() -> None:
    assert [tasks.wanted(CAPITALS, pair) for pair in tasks.with_wrong_facts(CAPITALS, 1).pairs] == [
        "Oslo",
        "Paris",
        "Rome",
        "Port Louis",
        "Athens",
    ]
    assert tasks.with_wrong_facts(CAPITALS, 2).pairs[0] == ("Paris", "Greece")
    # Of four kinds of money the fourth place is the right one again: then it is the one behind.
    moved = dict(tasks.with_wrong_facts(MONEY, 4).pairs)
    assert moved == {
        "Spain": "yen",
        "Japan": "rupee",
        "Italy": "yen",
        "India": "sol",
        "Peru": "euro",
        "Malta": "yen",
    }


def test_the_wrong_facts_of_the_book_are_all_wrong() -> None:
    for family in tasks.word_families():
        assert_all_wrong(family, 5)


@given(st.lists(st.sampled_from("pqrs"), min_size=2, max_size=9).filter(lambda x: len(set(x)) > 1), st.integers(0, 12))
def test_wrong_facts_are_wrong_however_many_share_an_answer(answers: list[str], places: int) -> None:
    for letter in "ab":
        pairs = tuple((str(n), word) if letter == "b" else (word, str(n)) for n, word in enumerate(answers))
        assert_all_wrong(Family("f", "{a}{b}?", "{a}{b}!", "{a}{b}.", letter, pairs), places)


# --- Forms of answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["Oslo", "Oslo.", "yen", "mother-in-law", "o'clock", "São", "New York", "Port Louis.", "Ho Chi Minh City"]
)
def test_one_word_or_one_name(text: str) -> None:
    assert tasks.one_word(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", " Oslo", "Oslo ", "Oslo!", "Oslo..", "the yen", "Oslo, Norway", "The capital", "Oslo\n", "Oslo is it", "A B C D E"],
)  # fmt: skip
def test_more_than_a_word_or_less(text: str) -> None:
    assert not tasks.one_word(text)


def test_one_sentence_is_the_familys_with_any_words_in_the_gap() -> None:
    oslo, yen = CAPITALS.pairs[1], MONEY.pairs[1]
    for word in ("Oslo", "Rome", "Port Louis", "St-Denis", "a place I don't know"):
        assert tasks.one_sentence(f"The capital of Norway is {word}.", CAPITALS, oslo)
        assert tasks.one_sentence(f"The currency of Japan is the {word}.", MONEY, yen)
    for text in (
        "Oslo",
        "The capital of Norway is Oslo",
        "The capital of Norway is .",
        "The capital of Norway is Oslo!",
        "The capital of Norway is Oslo. Is it?",
        "The capital of Norway is Oslo, of course.",
        "The capital of France is Paris.",
        "the capital of Norway is Oslo.",
        " The capital of Norway is Oslo.",
        f"The capital of Norway is {'x' * 41}.",
    ):
        assert not tasks.one_sentence(text, CAPITALS, oslo), text
    assert not tasks.one_sentence("The currency of Japan is yen.", MONEY, yen)


def test_a_word_may_hold_what_a_pattern_would_read() -> None:
    odd = CAPITALS._replace(sentence="{b} (+) has {a}.")
    assert tasks.one_sentence("U.S. (+) has it.", odd, ("it", "U.S."))
    assert not tasks.one_sentence("UxS. (+) has it.", odd, ("it", "U.S."))
    assert tasks.mentions("in St. Louis", "St. Louis") and not tasks.mentions("in Stx Louis", "St. Louis")


def test_a_mention_is_a_whole_word_in_capitals_or_not() -> None:
    for text in ("Oslo", "It is oslo.", "OSLO!", "Oslo, Norway", "from-Oslo"):
        assert tasks.mentions(text, "Oslo"), text
    for text in ("", "Osl", "Oslos", "InOslo", "Os lo"):
        assert not tasks.mentions(text, "Oslo"), text
    assert tasks.mentions("I like port louis best", "Port Louis") and not tasks.mentions("Louis", "Port Louis")
    assert not tasks.mentions("unhappy", "happy"), "an opposite does not mention its word"


SHAPED = {
    "Y or N": ["Y", "N"],
    "yes or no": ["yes", "No", "YES.", "no."],
    "true or false": ["True", "false", "FALSE."],
    "letter": ["A", "z", "y"],
    "0 or 1": ["0", "1"],
    "whole number": ["2", "12", "-1", "00", "10"],
    "decimal number": ["1.5", "-0.25", "12.5%"],
    "in brackets": ["[1, 2]", "(x)", "{a: b}", "[]", "[a\nb]"],
    "numbers": ["1, 2", "1 2 3", "3;4", "-1.5, 2"],
    "list": ["a, b", "yes, no", "May, 1"],
    "word": ["May", "o'clock", "yesterday", "well-known.", "Yes-man"],
    "phrase": ["in May", "", ".", "12 May", "50%", "no!", "1/2", "é", "[1", "2nd"],
}


@pytest.mark.parametrize(("shape", "answer"), [(shape, text) for shape, texts in SHAPED.items() for text in texts])
def test_an_answers_shape_is_the_first_that_fits(shape: str, answer: str) -> None:
    assert tasks.shape_of(answer) == shape


def test_every_shape_has_an_answer_here() -> None:
    assert set(SHAPED) == {*tasks.SHAPES, "phrase"}


# --- Tasks of a community ---------------------------------------------------------------------------------------------


def chat(*said: tuple[str, str], **rest: Any) -> str:
    return json.dumps({"input": [{"role": role, "content": text} for role, text in said], **{"ideal": "4", **rest}})


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (json.dumps({"input": "2 + 2 =", "ideal": "4"}), Record("2 + 2 =", "4")),
        (json.dumps({"input": " 2 + 2\n", "ideal": " 4 "}), Record("2 + 2", "4")),
        (json.dumps({"input": "2 + 2", "ideal": ["4", "four"]}), Record("2 + 2", "4")),
        (chat(("user", "2 + 2")), Record("2 + 2", "4")),
        (chat(("system", "2 + 2")), Record("2 + 2", "4")),
        (chat(("system", "Add. "), ("user", "2 + 2")), Record("Add.\n2 + 2", "4")),
        (chat(("user", "Add."), ("user", "2 + 2")), Record("Add.\n2 + 2", "4")),
        (chat(("user", "2 + 2"), ("system", "Add.")), Record("2 + 2\nAdd.", "4")),
        (chat(("system", "You are a helpful assistant."), ("user", "2 + 2")), Record("2 + 2", "4")),
        (chat(("user", "x" * 600), ideal="y" * 40), Record("x" * 600, "y" * 40)),
    ],
)
def test_a_short_question_with_a_short_answer_is_a_record(line: str, record: Record) -> None:
    assert tasks._record(line) == record


@pytest.mark.parametrize(
    "line",
    [
        chat(("user", "x" * 601)),
        chat(("user", "x"), ideal="y" * 41),
        chat(("user", "2 + 2 \u2260")),
        chat(("user", "x"), ideal="\u00e9"),
        chat(("user", " ")),
        chat(("user", "x"), ideal=" "),
        chat(("user", "x"), ideal=[]),
        chat(("user", "x"), ideal=4),
        chat(("user", "x"), ideal=[["4"]]),
        chat(("user", "x"), ideal=None),
        chat(("system", "You are a helpful assistant.")),
        chat(("system", "Add."), ("user", "1 + 1"), ("assistant", "2"), ("user", "2 + 2")),
        chat(("user", "1"), ("user", "2"), ("user", "3")),
        chat(("assistant", "1")),
        chat(),
        json.dumps({"input": [{"role": "user", "content": ["a picture"]}], "ideal": "4"}),
        json.dumps({"input": [{"role": "user"}], "ideal": "4"}),
        json.dumps({"input": {"role": "user", "content": "x"}, "ideal": "4"}),
        json.dumps({"input": "x"}),
        json.dumps({"ideal": "4"}),
        json.dumps({}),
    ],
)
def test_what_is_no_short_question_with_a_short_answer_is_none(line: str) -> None:
    assert tasks._record(line) is None


def found(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, list[Any]]) -> dict[str, Task]:
    """Return the tasks that are made of these files, each a list of pairs or of lines."""
    members = [f"evals/registry/data/{name}/samples.jsonl" for name in files]
    for member, rows in zip(members, files.values(), strict=True):
        (folder / member).parent.mkdir(parents=True)
        lines = [row if isinstance(row, str) else json.dumps({"input": row[0], "ideal": row[1]}) for row in rows]
        (folder / member).write_text("\n".join(lines) + "\n", encoding="utf8")
    monkeypatch.setattr(tasks, "fetch", lambda name: folder)
    monkeypatch.setattr(tasks, "source", lambda name: SimpleNamespace(members=members))
    return {task.name: task for task in tasks.community_tasks.__wrapped__()}


def numbered(n: int, *answers: str, start: int = 0) -> list[tuple[str, str]]:
    return [(f"question {start + i}", answers[i % len(answers)]) for i in range(n)]


def test_a_task_has_twenty_records_at_least_and_three_hundred_at_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files: dict[str, list[Any]] = {
        "few": numbered(19, "yes", "no"),
        "enough": numbered(20, "yes", "no"),
        "many": numbered(400, "yes", "no"),
        "all-alike": numbered(50, "yes"),
        "too-few-left": [*numbered(19, "yes", "no"), *numbered(30, "y" * 41, start=50)],
        "the-same-question": [*numbered(19, "yes", "no"), *numbered(19, "yes", "no")],
        "late": [*numbered(1000, "y" * 41), *numbered(30, "yes", "no", start=2000)],
        "few-shot": [chat(("user", "1"), ("assistant", "2"), ("user", str(n)), ideal=str(n)) for n in range(50)],
    }
    made = found(monkeypatch, tmp_path, files)
    assert {name: len(task.records) for name, task in made.items()} == {"enough": 20, "many": 300}
    assert made["many"].records == tuple(Record(*pair) for pair in files["many"][:300])


def test_a_question_that_comes_again_is_one_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = found(monkeypatch, tmp_path, {"twice": [*numbered(25, "yes", "no"), *numbered(10, "yes", "no")]})
    instructions = [record.instruction for record in made["twice"].records]
    assert instructions == [f"question {i}" for i in range(25)]


@pytest.mark.parametrize(
    ("answers", "shape"),
    [
        (["yes"] * 10 + ["no"] * 10, "yes or no"),
        (["yes"] * 18 + ["perhaps so"] * 2, "yes or no"),  # nine in ten
        (["yes"] * 17 + ["perhaps so"] * 3, ""),
        (["in May"] * 19 + ["in June"], ""),  # phrases have no shape
        (["A"] * 10 + ["12"] * 10, ""),
        ([str(n) for n in range(2, 22)], "whole number"),
    ],
)
def test_a_tasks_shape_is_that_of_nine_in_ten_answers(
    answers: list[str], shape: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = found(monkeypatch, tmp_path, {"task": [(f"question {i}", text) for i, text in enumerate(answers)]})
    assert made["task"].shape == shape


def test_the_communitys_tasks_are_short_plain_and_different() -> None:
    made = tasks.community_tasks()
    assert len(made) == len({task.name for task in made}) == 131
    assert Counter(bool(task.shape) for task in made) == {True: 81, False: 50}
    for task in made:
        assert 20 <= len({record.instruction for record in task.records}) == len(task.records) <= 300
        assert len({record.response for record in task.records}) > 1
        for instruction, response in task.records:
            assert (instruction + response).isascii() and len(instruction) <= 600 and len(response) <= 40
            assert instruction and response and instruction == instruction.strip() and response == response.strip()
        fits = sum(tasks.shape_of(record.response) == task.shape for record in task.records)
        assert not task.shape or fits >= 0.9 * len(task.records)


# --- Tasks held out ---------------------------------------------------------------------------------------------------


def task(name: str, wording: str, shape: str = "word", n: int = 20) -> Task:
    """Return a task whose constant words are those of its wording."""
    return Task(name, tuple(Record(f"{wording} {name}{i}x{i * i}", "yes") for i in range(n)), shape)


def groups(made: list[list[Task]]) -> list[str]:
    return [" ".join(t.name for t in group) for group in made]


PLUS = task("plus", "what is the sum of both numbers")
MINUS = task("minus", "what is the difference of both numbers")  # 6 words of 8 in common
RHYME = task("rhyme", "find a rhyme for this english word")
MOVE = task("move", "which chess move wins at once")


def test_tasks_of_like_wording_are_one_cluster() -> None:
    assert groups(tasks.clusters([PLUS, RHYME, MINUS, MOVE])) == ["plus minus", "rhyme", "move"]
    assert groups(tasks.clusters([MOVE, MINUS, RHYME, PLUS])) == ["move", "minus plus", "rhyme"]
    assert groups(tasks.clusters([PLUS, MINUS], alike=0.9)) == ["plus", "minus"]
    assert tasks.clusters([]) == []


@pytest.mark.parametrize(("alike", "joined"), [(0.5, True), (0.51, False)])
def test_likeness_is_the_share_of_all_words_that_both_have(alike: float, joined: bool) -> None:
    a, b = (
        Task(name, tuple(Record(text, "yes") for _ in range(5)), "") for name, text in (("a", "p q r"), ("b", "p q s"))
    )
    assert (len(tasks.clusters([a, b], alike)) == 1) == joined  # 2 of 4


def test_a_chain_of_like_tasks_is_one_cluster() -> None:
    words = [letter * 3 for letter in "abcdefghij"]
    chain = [Task(str(i), (Record(" ".join(words[i : i + 6]), "yes"),), "") for i in range(5)]
    ends = [chain[0], chain[4]]
    assert len(tasks.clusters(ends)) == 2
    for order in (chain, chain[::-1], [chain[0], chain[4], chain[2], chain[1], chain[3]]):
        assert [len(group) for group in tasks.clusters(order)] == [5]


def test_only_words_of_four_in_five_instructions_count() -> None:
    def half(name: str, n: int) -> Task:
        texts = ["same words here" if i < n else f"{name}{i}" for i in range(10)]
        return Task(name, tuple(Record(text, "yes") for text in texts), "")

    assert len(tasks.clusters([half("p", 8), half("q", 10)])) == 1
    assert len(tasks.clusters([half("p", 7), half("q", 10)])) == 2
    assert len(tasks.clusters([half("p", 7), half("q", 7)])) == 2, "tasks without a constant word are not alike"
    capitals = Task("c", (Record("SAME, Words: here!", "yes"),), "")
    assert len(tasks.clusters([capitals, half("q", 10)])) == 1, "capitals and signs do not count"


def kin(n: int, shapes: list[str]) -> list[Task]:
    """Return tasks in clusters of one, two and three."""
    made = []
    for i in range(n):
        wording = " ".join(f"{chr(97 + i)}{letter}" for letter in "pqrstu")
        made += [task(f"{chr(65 + i)}{k}", wording, shapes[(i + k) % len(shapes)]) for k in range(i % 3 + 1)]
    return made


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("held_out", [0, 1, 4, 9])
def test_clusters_are_held_out_whole_and_with_a_shape(seed: int, held_out: int) -> None:
    made = kin(15, ["word", "letter", "word", ""])
    trained, tested = tasks.split_tasks(made, held_out, seed)
    assert sorted(trained + tested) == sorted(made), "each in one of both"
    assert held_out <= len(tested) < held_out + 3 and all(t.shape for t in tested)
    assert not {t.name[0] for t in trained} & {t.name[0] for t in tested}, "no kin on the other side"
    assert (trained, tested) == tasks.split_tasks(made, held_out, seed)


def test_another_seed_holds_out_others() -> None:
    made = kin(15, ["word"])
    assert len({tuple(t.name for t in tasks.split_tasks(made, 4, seed)[1]) for seed in range(8)}) > 4
    assert made == kin(15, ["word"]), "what was given is left as it was"


def test_a_cluster_with_one_shapeless_task_is_trained_on() -> None:
    mixed = [PLUS, MINUS._replace(shape=""), RHYME, MOVE]
    for seed in range(5):
        trained, tested = tasks.split_tasks(mixed, 2, seed)
        assert {t.name for t in tested} == {"rhyme", "move"} and {t.name for t in trained} == {"plus", "minus"}


def test_of_the_communitys_tasks_none_that_is_held_out_has_a_twin_among_the_others() -> None:
    made = tasks.community_tasks()
    trained, tested = tasks.split_tasks(made, 24, 0)
    assert len(trained) + len(tested) == len(made) and 24 <= len(tested) < 29 and all(t.shape for t in tested)
    held = {t.name for t in tested}
    for group in tasks.clusters(made):
        assert len({t.name in held for t in group}) == 1
