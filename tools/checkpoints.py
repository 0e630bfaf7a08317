"""Train the models that come with the library, with the very functions that the chapters show.

python tools/checkpoints.py                all that are missing
python tools/checkpoints.py gnmt_en_es     one, again from its beginning

The decoders go on where an interrupted training stopped, and may be trained by several processes:
torchrun --nproc-per-node 2 tools/checkpoints.py gpt2_small
"""

from __future__ import annotations

import datetime
import os
import shutil
import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch

import chapters
import record
from nextword import checkpoints, data
from nextword.tokenizers import ByteBPE

UNFINISHED = chapters.ROOT / "build" / "checkpoints"


@dataclass(frozen=True)
class Model:
    """One bundled model: which function of which chapter trains it, with which settings, on which data."""

    chapter: str
    function: str
    settings: dict[str, Any]
    sources: tuple[str, ...]
    bits: Literal[8, 16] = 16
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
        f"gpt2_{name}": Model(
            "2019_gpt2", "train", {"name": name, "steps": 4_000, "seed": 0}, LINEAGE, bits=8, resumable=True
        )
        for name in ("small", "medium", "large")
    },
}


def train(name: str, recipe: Model) -> None:
    """Train one model and write its folder."""
    function, settings = record.namespace(recipe.chapter)[recipe.function], dict(recipe.settings)
    if recipe.resumable:
        settings["checkpoint"] = UNFINISHED / name
    model, history, corpus = function(**settings)
    if int(os.environ.get("RANK", "0")):
        return  # under torchrun the first process writes
    sources = [data.source(s) for s in recipe.sources]
    last = {key: round(value, 3) for key, value in history.evaluations[-1].items() if key != "step"}
    card = {
        "made by": f"{recipe.chapter}: {recipe.function}",
        "settings": recipe.settings,
        "data": "; ".join(s.title for s in sources),
        "licence": "; ".join(dict.fromkeys(f"{s.licence}: {s.cite}" for s in sources)),
        "steps": recipe.settings["steps"],
        "seconds": round(history.seconds[-1]),
        **last,
        **measured(corpus),
        "parameters": model.num_parameters(),
        "bits": recipe.bits,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
    }
    tokenizer = corpus if isinstance(corpus, ByteBPE) else corpus.vocabulary.tokenizer
    checkpoints.save(model, checkpoints.BUNDLED / name, card=card, tokenizer=tokenizer, bits=recipe.bits)
    shutil.rmtree(UNFINISHED / name, ignore_errors=True)
    print(name, card, flush=True)


def measured(corpus: Any) -> dict[str, str]:
    """Say what the numbers of the card were measured on."""
    if isinstance(corpus, ByteBPE):
        what = "perplexity a token of the first 20,000 tokens of each split, before rounding; ranking in percent"
        return {"measured on": what}
    sentences = len(corpus.some_of_test(400))
    return {"measured on": f"{sentences} test sentences of all lengths, perplexity a target token, greedy BLEU"}


def main() -> None:
    """Train the named models again, or all that are missing."""
    record.prepare("bundled model", MODELS)
    for name in sys.argv[1:] or MODELS:
        if name in sys.argv[1:] or not (checkpoints.BUNDLED / name / "config.json").is_file():
            train(name, MODELS[name])


if __name__ == "__main__":
    main()
