"""Instructions to learn from and to be tested with: pairs of words in thirteen families, and tasks that a community wrote.

Both hold out whole *kinds* of instruction, so that what is measured is not the memory of a wording.

Used in: 2023_dolly.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from nextword import data
from nextword.fetching import fetch, source
from nextword.instructions import Record

# --- Pairs of words ----------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    """Pairs of words that belong together in one way, and three ways to put them into words."""

    name: str
    question: str  # what is trained on, with {a} or {b} for the word that is given
    other: str  # the same question in other words, never trained on
    sentence: str  # the answer as a sentence, with {a} and {b}
    answer: str  # which of the two words is asked for, "a" or "b"
    pairs: tuple[tuple[str, str], ...]


_WORDINGS = {
    "capital-world": ("What is the capital of {b}?", "Name the capital city of {b}.", "The capital of {b} is {a}.", "a"),
    "currency": ("What is the currency of {a}?", "With which money does one pay in {a}?", "The currency of {a} is the {b}.", "b"),
    "city-in-state": ("In which US state is {a}?", "Name the state of the USA where {a} lies.", "{a} is in {b}.", "b"),
    "family": ("What is the female counterpart of the word {a}?", "Which word says of a woman what {a} says of a man?", "The female counterpart of {a} is {b}.", "b"),
    "gram1-adjective-to-adverb": ("What is the adverb of {a}?", "Turn the adjective {a} into an adverb.", "The adverb of {a} is {b}.", "b"),
    "gram2-opposite": ("What is the opposite of {a}?", "Say the contrary of {a} with a prefix.", "The opposite of {a} is {b}.", "b"),
    "gram3-comparative": ("What is the comparative of {a}?", "Compare two things by the adjective {a}: which form is used?", "The comparative of {a} is {b}.", "b"),
    "gram4-superlative": ("What is the superlative of {a}?", "Which form of {a} is the highest degree?", "The superlative of {a} is {b}.", "b"),
    "gram5-present-participle": ("What is the present participle of {a}?", "Write {a} in its ing-form.", "The present participle of {a} is {b}.", "b"),
    "gram6-nationality-adjective": ("What nationality is somebody from {a}?", "Which adjective means that something is from {a}?", "Somebody from {a} is {b}.", "b"),
    "gram7-past-tense": ("What is the past tense of {a}?", "Put {a} into the past.", "The past tense of {a} is {b}.", "b"),
    "gram8-plural": ("What is the plural of {a}?", "Write the word for several, not one: {a}.", "The plural of {a} is {b}.", "b"),
    "gram9-plural-verbs": ("What is the third person of {a}?", "Write the verb {a} as it follows the word she.", "The third person of {a} is {b}.", "b"),
}  # fmt: skip


def word_families() -> list[Family]:
    """Return thirteen families of word pairs, those of :func:`~nextword.data.load_analogies`.

    Left out are the common capitals, which are among those of the world.
    """
    pairs = data.load_analogies()
    return [Family(name, *wording, tuple(pairs[name])) for name, wording in _WORDINGS.items()]


def ask(family: Family, pair: tuple[str, str], *, other: bool = False) -> str:
    """Return the question about a pair."""
    return (family.other if other else family.question).format(a=pair[0], b=pair[1])


def word_record(family: Family, pair: tuple[str, str], *, sentence: bool = False) -> Record:
    """Return the question about a pair with its answer, one word or one sentence.

    Example:
        >>> capitals = word_families()[0]
        >>> word_record(capitals, ("Athens", "Greece"), sentence=True)
        Record(instruction='What is the capital of Greece?', response='The capital of Greece is Athens.')
    """
    response = family.sentence.format(a=pair[0], b=pair[1]) if sentence else wanted(family, pair)
    return Record(ask(family, pair), response)


def wanted(family: Family, pair: tuple[str, str]) -> str:
    """Return the word that is asked for."""
    return pair[family.answer == "b"]


def with_wrong_facts(family: Family, places: int = 5) -> Family:
    """Return the family with every answer moved on by some pairs, so that each is a word of the right kind and wrong."""
    given, asked = (0, 1) if family.answer == "b" else (1, 0)
    right = {pair[given]: pair[asked] for pair in family.pairs}
    words = list(dict.fromkeys(pair[asked] for pair in family.pairs))
    moved = []
    for pair in family.pairs:
        word = words[(words.index(pair[asked]) + places) % len(words)]
        while word == right[pair[given]]:  # where two pairs share an answer
            word = words[(words.index(word) + 1) % len(words)]
        moved.append((pair[0], word) if family.answer == "b" else (word, pair[1]))
    return family._replace(pairs=tuple(moved))


def one_word(text: str) -> bool:
    """Whether an answer is one word, or one name of several capitalised words, with or without a full stop."""
    return re.fullmatch(r"[\w'-]+\.?|[A-Z][\w'-]*( [A-Z][\w'-]*){1,3}\.?", text) is not None


def one_sentence(text: str, family: Family, pair: tuple[str, str]) -> bool:
    """Whether an answer is the family's sentence, with any words in the place of the one asked for."""
    given = {"a": pair[0], "b": pair[1]} | {family.answer: "\0"}
    left, right = family.sentence.format(**given).split("\0")
    return re.fullmatch(rf"{re.escape(left)}[\w' -]{{1,40}}{re.escape(right)}", text) is not None


def mentions(text: str, word: str) -> bool:
    """Whether a word, or a name of several, stands in a text, in capitals or not."""
    return re.search(rf"\b{re.escape(word)}\b", text, re.I) is not None


# --- Tasks of a community ----------------------------------------------------------------------------------------------

SHAPES = {
    "Y or N": r"[YN]",
    "yes or no": r"(?i:yes|no)\.?",
    "true or false": r"(?i:true|false)\.?",
    "letter": r"[A-Za-z]",
    "0 or 1": r"[01]",
    "whole number": r"-?\d+",
    "decimal number": r"-?\d+\.\d+%?",
    "in brackets": r"[\[({].*[\])}]",
    "numbers": r"-?[\d.]+([,; ]+-?[\d.]+)+",
    "list": r".+,.+",
    "word": r"[A-Za-z'-]+\.?",
}
"""Shapes of answers by regular expression, the first that fits counts; all others are a *phrase*."""


def shape_of(answer: str) -> str:
    """Return the shape of an answer.

    Example:
        >>> [shape_of(text) for text in ("Y", "Yes", "12", "[1, 2]", "in May", "May")]
        ['Y or N', 'yes or no', 'whole number', 'in brackets', 'phrase', 'word']
    """
    found = (name for name, pattern in SHAPES.items() if re.fullmatch(pattern, answer, re.S))
    return next(found, "phrase")


class Task(NamedTuple):
    """One kind of instruction."""

    name: str
    records: tuple[Record, ...]
    shape: str  # of at least nine in ten of its answers; empty where they have none, or are phrases


@functools.cache
def community_tasks() -> list[Task]:
    """Return the tasks of OpenAI's evals that ask something short, each with up to 300 records of different instructions.

    Kept are tasks of one question and one answer, in ASCII, at most 600 and 40 characters long, with at least 20 records
    and more than one answer.

    Source: github.com/openai/evals, MIT; tasks with another licence are not among them.
    """
    folder, tasks = fetch("evals"), []
    for member in source("evals").members:
        lines = (folder / member).read_text(encoding="utf8").splitlines()[:1000]
        records = [record for record in map(_record, lines) if record]
        kept = list({record.instruction: record for record in records}.values())[:300]
        if len(kept) >= 20 and len({record.response for record in kept}) > 1:
            [(shape, n)] = Counter(shape_of(record.response) for record in kept).most_common(1)
            clear = shape != "phrase" and n >= 0.9 * len(kept)
            tasks.append(Task(member.split("/")[3], tuple(kept), shape if clear else ""))
    return tasks


def _record(line: str) -> Record | None:
    """Return a line of a task as a record; None where it is no short question with a short answer."""
    row = json.loads(line)
    said, ideal = row.get("input"), row.get("ideal")
    ideal = ideal[0] if isinstance(ideal, list) and ideal else ideal
    said = [{"role": "user", "content": said}] if isinstance(said, str) else said
    if not (isinstance(ideal, str) and isinstance(said, list) and all(isinstance(m.get("content"), str) for m in said)):
        return None
    if not re.fullmatch(r"s|u|su|us|uu", "".join(m["role"][:1] for m in said)):  # no examples in the prompt
        return None
    texts = (m["content"].strip() for m in said)
    instruction = "\n".join(text for text in texts if text != "You are a helpful assistant.").strip()
    ideal = ideal.strip()
    fits = instruction and ideal and (instruction + ideal).isascii() and len(instruction) <= 600 and len(ideal) <= 40
    return Record(instruction, ideal) if fits else None


def clusters(tasks: Sequence[Task], alike: float = 0.45) -> list[list[Task]]:
    """Return the tasks in groups whose wording is alike, so that a task held out has no twin among those trained on.

    Two tasks are alike where their constant words, those of at least four in five of their instructions, have a Jaccard
    index of ``alike`` or more; chains of such tasks are one group.
    """
    words = [_constant_words(task) for task in tasks]
    group = list(range(len(tasks)))
    for i in range(len(tasks)):
        for j in range(i):
            both, either = words[i] & words[j], words[i] | words[j]
            if either and len(both) / len(either) >= alike:
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    return [[task for task, g in zip(tasks, group, strict=True) if g == name] for name in dict.fromkeys(group)]


def _constant_words(task: Task) -> set[str]:
    texts = [set(re.findall(r"[a-z]+", record.instruction.lower())) for record in task.records]
    count = Counter(word for text in texts for word in text)
    return {word for word, n in count.items() if n >= 0.8 * len(texts)}


def split_tasks(tasks: Sequence[Task], held_out: int, seed: int) -> tuple[list[Task], list[Task]]:
    """Return tasks to train on, and at least ``held_out`` others whose answers have one shape; whole clusters go together."""
    groups = clusters(tasks)
    random.Random(seed).shuffle(groups)
    tested: list[Task] = []
    trained: list[Task] = []
    for group in groups:
        takes = len(tested) < held_out and all(task.shape for task in group)
        (tested if takes else trained).extend(group)
    return trained, tested
