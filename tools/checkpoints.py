"""Train the models that come with the library, with the very functions that the chapters show.

python tools/checkpoints.py                all that are missing
python tools/checkpoints.py gnmt_en_es     one, again from its beginning
python tools/checkpoints.py counts         the pruned n-grams of the page ``live``, counted again

The decoders go on where an interrupted training stopped.
"""

from __future__ import annotations

import datetime
import shutil
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import torch

import chapters
import record
from nextword import checkpoints, fetching
from nextword.book import corpora, counts, translators
from nextword.decoder import Decoder
from nextword.files import atomic_file
from nextword.ngram import NGram
from nextword.tokenizers import ByteBPE
from nextword.training import History

UNFINISHED = chapters.ROOT / "build" / "checkpoints"


@dataclass(frozen=True)
class Model:
    """One bundled model: which function of which chapter trains it, with which settings, on which data."""

    chapter: str
    function: str
    settings: dict[str, Any]
    sources: tuple[str, ...]
    dtype: torch.dtype = torch.float16
    resumable: bool = False


LINEAGE = ("boolq", "quac", "tatoeba", "tatoeba_ukr")
MODELS = {
    "gnmt_en_es": Model(
        "2016_gnmt", "train_translator", {"attention": "bottom", "steps": 3_000, "seed": 0}, ("tatoeba",)
    ),
    "transformer_en_es": Model(
        "2017_transformer", "train", {"arm": "Transformer", "steps": 3_000, "seed": 0}, ("tatoeba",)
    ),
    **{
        name: Model(
            "2019_gpt2",
            "train",
            {"name": shape, "steps": steps, "seed": 0},
            LINEAGE,
            dtype=torch.int8,
            resumable=True,
        )
        for name, shape, steps in (
            ("nextword-small", "small", 4_000),
            ("nextword-medium", "medium", 4_000),
            ("nextword-large", "large", 4_000),
            ("longer_large", "large", 8_000),  # twice as long, for the page `live`
        )
    },
}


def train(name: str, recipe: Model) -> None:
    """Train one model, write its folder, and measure what was written."""
    names, settings = record.namespace(recipe.chapter), dict(recipe.settings)
    if recipe.resumable:
        settings["checkpoint"] = UNFINISHED / name
    model, history, corpus = names[recipe.function](**settings)
    sources = [fetching.source(s) for s in recipe.sources]
    card = {
        "made by": f"{recipe.chapter}: {recipe.function}",
        "settings": recipe.settings,
        "data": "; ".join(s.title for s in sources),
        "licence": "; ".join(dict.fromkeys(f"{s.licence}: {s.cite}" for s in sources)),
        "steps": recipe.settings["steps"],
        "seconds": round(history.seconds[-1]),
        **(measured(names, model, corpus, recipe) if recipe.resumable else translated(history, corpus)),
        "parameters": model.num_parameters(),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
    }
    tokenizer = corpus if isinstance(corpus, ByteBPE) else corpus.tokenizer.base
    checkpoints.save(model, checkpoints.BUNDLED / name, card=card, tokenizer=tokenizer, dtype=recipe.dtype)
    shutil.rmtree(UNFINISHED / name, ignore_errors=True)
    print(name, card, flush=True)


def translated(history: History, corpus: Any) -> dict[str, Any]:
    """Return what a translator's training measured last, and on what."""
    sentences = len(translators.evaluation_subset(corpus.valid, 400))
    return {
        "perplexity": round(history.evaluations[-1]["perplexity"], 3),
        "bleu": round(history.evaluations[-1]["bleu"], 2),
        "measured on": f"{sentences} validation sentences of all lengths, perplexity a target token, greedy BLEU",
    }


def measured(names: dict[str, Any], model: Decoder, bpe: ByteBPE, recipe: Model) -> dict[str, Any]:
    """Return the numbers of a decoder as it is stored."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(model, folder, card={}, dtype=recipe.dtype)
        stored = Decoder.from_pretrained(folder)
    texts = [names["encode"](names["documents"](split), bpe)[:20_000] for split in ("train", "valid")]
    found = names["evaluation_of"](*texts, bpe)(stored)
    what = "perplexity a token of the first 20,000 tokens of each split; ranking in percent; of the weights as stored"
    return {
        **{key: round(value, 3) for key, value in found.items()},
        "bits": 8 * recipe.dtype.itemsize,
        "measured on": what,
    }


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


def main() -> None:
    """Train the named models again, or all that are missing."""
    record.prepare("bundled model", [*MODELS, "counts"])
    for name in sys.argv[1:] or [*MODELS, "counts"]:
        there = counts.COUNTS if name == "counts" else checkpoints.BUNDLED / name / "config.json"
        if name in sys.argv[1:] or not there.is_file():
            count() if name == "counts" else train(name, MODELS[name])


if __name__ == "__main__":
    main()
