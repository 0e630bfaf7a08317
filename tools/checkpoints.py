"""Train the models that come with the library, with the very functions that the chapters show.

python tools/checkpoints.py                all that are missing
python tools/checkpoints.py gnmt_en_es     one, again from its beginning
python tools/checkpoints.py counts         the pruned n-grams of the page ``live``, counted again
python tools/checkpoints.py judges         what InstructGPT's page needs to judge texts, fitted again

The decoders go on where an interrupted training stopped.
"""

from __future__ import annotations

import datetime
import gzip
import inspect
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import chapters
import record
from nextword import checkpoints, fetching
from nextword.book import corpora, counts, icons, models, translators
from nextword.files import atomic_file
from nextword.ngram import NGram
from nextword.tokenizers import ByteBPE

UNFINISHED = chapters.ROOT / "build" / "checkpoints"


class Trained(NamedTuple):
    """What a chapter's function gives: a model, what made its ids, and what is to be measured of it as it is stored."""

    model: nn.Module
    tokenizer: ByteBPE | None
    measure: Callable[[Any], dict[str, Any]]
    seconds: float | None = None
    """How long training took, where the function says so; an interrupted one is not measured from outside."""


@dataclass(frozen=True)
class Model:
    """One bundled model: which function of which chapter trains it, with which settings, on which data."""

    chapter: str
    function: str
    settings: dict[str, Any]
    sources: tuple[str, ...]
    read: Callable[[dict[str, Any], Any], Trained]
    """Takes the chapter's names and what its function returned."""
    dtype: torch.dtype = torch.int8
    resumable: bool = False
    taught: Callable[[], tuple[Any, ...]] = tuple
    """Returns what the function is given besides its settings, such as texts."""
    folder: Path = models.FOLDER
    """With the book; what the library alone needs comes with the library."""


def decoder(names: dict[str, Any], result: Any) -> Trained:
    """GPT-2's chapter: perplexity and ranking on both splits."""
    model, history, bpe = result

    def measure(stored: Any) -> dict[str, Any]:
        texts = [names["encode"](names["documents"](split), bpe)[:20_000] for split in ("train", "valid")]
        what = (
            "perplexity a token of the first 20,000 tokens of each split; ranking in percent; of the weights as stored"
        )
        found = names["evaluation_of"](*texts, bpe)(stored)
        return {**{key: round(value, 3) for key, value in found.items()}, "bits": 8, "measured on": what}

    return Trained(model, bpe, measure, history.seconds[-1])


def translator(_names: dict[str, Any], result: Any) -> Trained:
    """A translator: what its training measured last."""
    model, history, corpus = result
    sentences = len(translators.evaluation_subset(corpus.valid, 400))
    last = history.evaluations[-1]
    found = {
        "perplexity": round(last["perplexity"], 3),
        "bleu": round(last["bleu"], 2),
        "measured on": f"{sentences} validation sentences of all lengths, perplexity a target token, greedy BLEU",
    }
    return Trained(model, corpus.tokenizer.base, lambda _stored: found, history.seconds[-1])


def encoder(names: dict[str, Any], result: Any) -> Trained:
    """BERT's chapter: how gaps are filled."""

    def measure(stored: Any) -> dict[str, Any]:
        found = {key: round(value, 3) for key, value in names["fill_in"](stored).items()}
        what = (
            "the middle words of 1,500 held-out windows, percent among the first one and five guesses, nats; as stored"
        )
        return {**found, "measured on": what}

    return Trained(result[0], names["bpe"], measure)


def policy(names: dict[str, Any], result: Any) -> Trained:
    """InstructGPT's chapter: where a policy is, as the judges and the supervised model see it."""
    model = result if isinstance(result, nn.Module) else result[0].policy

    def measure(stored: Any) -> dict[str, Any]:
        found = names["report"](stored, "medium", 0)
        what = "512 continuations of test beginnings: nats from the supervised model, gain in its standard deviations; stored"
        rounded = {key: round(found[key], 3) for key in ("kl", "distinct", "length", "prose")}
        return {**rounded, "gain": found["shift"], "measured on": what}

    return Trained(model, names["bpe"], measure)


def reward(names: dict[str, Any], result: Any) -> Trained:
    """InstructGPT's chapter: how often a reward model orders two texts as a person does."""

    def measure(stored: Any) -> dict[str, Any]:
        test = names["rated"]("test")
        agrees = names["agree"](stored.score([ids for _, ids, _ in test]), test)
        return {
            "agreement": round(agrees, 2),
            "measured on": "pairs of test texts, percent ordered as a person does; as stored",
        }

    return Trained(result, names["bpe"], measure)


def clip(names: dict[str, Any], result: Any) -> Trained:
    """CLIP's chapter: how icons of a designer that it never saw are named."""
    model, words, seconds = result

    def measure(stored: Any) -> dict[str, Any]:
        seen = icons.split_icons("Phosphor").seen
        first, five = names["named"](stored, words, seen)
        what = f"{len(seen)} icons by Phosphor, whom it never saw, named among as many names, percent; as stored"
        return {"first": round(first, 2), "five": round(five, 2), "measured on": what}

    return Trained(model, None, measure, seconds)


LINEAGE = ("boolq", "quac", "tatoeba", "tatoeba_ukr")
PROSE = ("boolq", "quac", "tatoeba")
TASTE = ("ratings", *LINEAGE)
namespace = cache(record.namespace)  # of models that one chapter trains, several share what they begin with
MODELS = {
    "gnmt_en_es": Model(
        "2016_gnmt",
        "train_translator",
        {"attention": "bottom", "steps": 3_000, "seed": 0},
        ("tatoeba",),
        translator,
        dtype=torch.float16,
        folder=checkpoints.BUNDLED,
    ),
    "transformer_en_es": Model(
        "2017_transformer",
        "train",
        {"arm": "Transformer", "steps": 3_000, "seed": 0},
        ("tatoeba",),
        translator,
        dtype=torch.float16,
        folder=checkpoints.BUNDLED,
    ),
    **{
        name: Model(
            "2019_gpt2",
            "train",
            {"name": shape, "steps": steps, "seed": 0},
            LINEAGE,
            decoder,
            resumable=True,
            folder=checkpoints.BUNDLED,
        )
        for name, shape, steps in (
            ("nextword-small", "small", 4_000),
            ("nextword-medium", "medium", 4_000),
            ("nextword-large", "large", 4_000),
            ("longer_large", "large", 8_000),  # twice as long, for the page `live`
        )
    },
    **{  # the models that answer in the pages of their chapters
        name: Model(
            "2018_bert", "pretrain", {"kind": kind, "seed": 0, "steps": 12_000, "every": 12_000}, PROSE, encoder
        )
        for name, kind in (("bert_both_ways", "masked"), ("bert_left_to_right", "left to right"))
    },
    **{
        f"taste_{name}": Model("2022_instructgpt", function, settings, TASTE, read)
        for name, function, settings, read in (
            ("supervised", "supervised", {"size": "medium", "seed": 0}, policy),
            ("ppo", "train", {"size": "medium", "seed": 0, "beta": 0.2}, policy),
            ("ppo_ptx", "train", {"size": "medium", "seed": 0, "beta": 0.2, "ptx": 0.5}, policy),
            ("reward", "reward_model", {"size": "medium", "seed": 0}, reward),
            ("judge", "reward_model", {"size": "small", "seed": 7, "split": "valid"}, reward),
        )
    },
    "clip_icons": Model(
        "2021_clip",
        "train",
        {"seed": 0, "steps": 400},
        ("icons",),
        clip,
        taught=lambda: (icons.split_icons("Phosphor").train,),
    ),
}


def train(name: str, recipe: Model) -> None:
    """Train one model, write its folder, and measure what was written."""
    names, settings = namespace(recipe.chapter), dict(recipe.settings)
    if recipe.resumable:
        settings["checkpoint"] = UNFINISHED / name
    start = time.perf_counter()
    trained = recipe.read(names, names[recipe.function](*recipe.taught(), **settings))
    seconds = trained.seconds or time.perf_counter() - start
    sources = [fetching.source(s) for s in recipe.sources]
    card = {
        "made by": f"{recipe.chapter}: {recipe.function}",
        "settings": recipe.settings,
        "data": "; ".join(s.title for s in sources),
        "licence": "; ".join(dict.fromkeys(f"{s.licence}: {s.cite}" for s in sources)),
        **({"steps": recipe.settings["steps"]} if "steps" in recipe.settings else {}),
        "seconds": round(seconds),
        **trained.measure(stored(trained.model, recipe.dtype)),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
    }
    how = {"card": card, "tokenizer": trained.tokenizer, "dtype": recipe.dtype}
    checkpoints.save(trained.model, recipe.folder / name, **how)
    shutil.rmtree(UNFINISHED / name, ignore_errors=True)
    print(name, card, flush=True)


def stored(model: nn.Module, dtype: torch.dtype) -> Any:
    """Return the model with its weights as the file will hold them."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(model, folder, card={}, dtype=dtype)
        return models.read(Path(folder)).model


def count() -> None:
    """Count the n-grams of the text that the decoders were trained on, and keep those that are not rare."""
    bpe = checkpoints.load("nextword-small").tokenizer
    ids, held = (corpora.encode(corpora.documents(split), bpe) for split in ("train", "valid"))
    model = NGram(len(counts.AT_LEAST), "kneser_ney", vocab_size=bpe.vocab_size).fit(ids)
    small = counts.prune(model, counts.AT_LEAST)
    with atomic_file(counts.COUNTS) as path:
        path.write_bytes(small.to_bytes())
    found = {name: round(some.perplexity(held[:20_000]), 2) for name, some in (("all", model), ("kept", small))}
    print(f"counts: {len(small):,} n-grams, perplexity {found}", flush=True)


def judge() -> None:
    """Write what judges of taste need beside the networks: counted words, the scale of each, and beginnings to go on with."""
    names = namespace("2022_instructgpt")
    written = names["answers"](models.load("taste_supervised").model)
    texts = [ids if ids[-1] == names["END"] else [*ids, names["END"]] for ids in written.texts()]
    asked = {name: models.load(f"taste_{name}").model.score for name in ("reward", "judge")}
    asked |= {name: names["judges"]()[name] for name in ("counts", "lexicon")}
    opinions = {name: np.asarray(ask(texts), dtype=np.float64) for name, ask in asked.items()}
    tfidf, ridge = (step for _, step in inspect.getclosurevars(asked["counts"]).nonlocals["counts"].steps)
    terms = zip(tfidf.get_feature_names_out(), tfidf.idf_, ridge.coef_, strict=True)
    ids, mask = names["prompts"]("test")
    content = {
        "scale": {name: [float(x.mean()), float(x.std())] for name, x in opinions.items()},
        "intercept": float(ridge.intercept_),
        "terms": [[term, float(f"{idf:.6g}"), float(f"{weight:.6g}")] for term, idf, weight in terms],
        "beginnings": [row[real].tolist() for row, real in zip(ids[:64], mask[:64], strict=True)],
    }
    with atomic_file(models.JUDGES) as path:
        path.write_bytes(gzip.compress(json.dumps(content, ensure_ascii=False).encode(), mtime=0))
    print(f"judges: {len(content['terms']):,} terms, scale {content['scale']}", flush=True)


def main() -> None:
    """Train the named models again, or all that are missing."""
    tables = {"counts": (count, counts.COUNTS), "judges": (judge, models.JUDGES)}
    record.prepare("bundled model", [*MODELS, *tables])
    for name in sys.argv[1:] or [*MODELS, *tables]:
        there = tables[name][1] if name in tables else MODELS[name].folder / name / "config.json"
        if name in sys.argv[1:] or not there.is_file():
            tables[name][0]() if name in tables else train(name, MODELS[name])


if __name__ == "__main__":
    main()
