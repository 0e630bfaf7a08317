"""Train the models that come with the library, with the very functions that the chapters show.

python tools/checkpoints.py                all that are missing
python tools/checkpoints.py gnmt_en_es     one, again from its beginning
"""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass
from typing import Any

import torch

import record
from nextword import checkpoints, data


@dataclass(frozen=True)
class Model:
    """One bundled model: which function of which chapter trains it, with which settings, on which data."""

    chapter: str
    function: str
    settings: dict[str, Any]
    source: str


MODELS = {
    "gnmt_en_es": Model("2016_gnmt", "train_translator", {"attention": "bottom", "steps": 3_000, "seed": 0}, "tatoeba"),
    "transformer_en_es": Model(
        "2017_transformer", "train", {"arm": "Transformer", "steps": 3_000, "seed": 0}, "tatoeba"
    ),
}


def train(name: str, recipe: Model) -> None:
    """Train one model and write its folder."""
    model, history, corpus = record.namespace(recipe.chapter)[recipe.function](**recipe.settings)
    source = data.source(recipe.source)
    card = {
        "made by": f"{recipe.chapter}: {recipe.function}",
        "settings": recipe.settings,
        "data": source.title,
        "licence": f"{source.licence}; {source.cite}",
        "steps": recipe.settings["steps"],
        "seconds": round(history.seconds[-1]),
        "perplexity": round(history.evaluations[-1]["perplexity"], 3),
        "bleu": round(history.evaluations[-1]["bleu"], 2),
        "measured on": f"{len(corpus.some_of_test(400))} test sentences of all lengths, perplexity a target token, greedy BLEU",
        "parameters": model.num_parameters(),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
    }
    checkpoints.save(model, checkpoints.BUNDLED / name, card=card, tokenizer=corpus.vocabulary.tokenizer)
    print(name, card, flush=True)


def main() -> None:
    """Train the named models again, or all that are missing."""
    record.prepare("bundled model", MODELS)
    for name in sys.argv[1:] or MODELS:
        if name in sys.argv[1:] or not (checkpoints.BUNDLED / name / "config.json").is_file():
            train(name, MODELS[name])


if __name__ == "__main__":
    main()
