"""The chapters on GNMT and on the Transformer: the two bundled translators answer to one sentence. What is stored is an example.

weights_NAME.js     a bundled model: the bytes of the library's own model.safetensors, with config and card
tokenizer_en_es.js  the content of tokenizer.json, which is the same for both
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import live_files
from nextword import checkpoints
from nextword.generation import beam_search
from nextword.translation import TranslationTokenizer

MODELS = {"gnmt": "gnmt_en_es", "transformer": "transformer_en_es"}
"""The bundled model that answers first in each place."""
TEXT = "I want a black cat."
AT = 4
"""The word of the translation that is chosen at first: the beginning of *negro*."""
BEST = 5
"""How many likeliest words of each place are stored."""
EXTRA = 20
"""So many tokens longer than its source may a translation be, as in ``nextword.translation.translate``."""
PARTS = tuple(MODELS)
SCRIPTS = ("engine", "parts", "tokenizer_en_es", "translators", "translate")
"""In this order; translate.js appends the weights itself."""


def write(folder: Path) -> dict[str, Any]:
    """Write all scripts that hold data into ``folder``; return the example."""
    tokenizers = {
        (checkpoints.BUNDLED / model / "tokenizer.json").read_text(encoding="utf8") for model in MODELS.values()
    }
    if len(tokenizers) != 1:
        raise ValueError(f"the models have {len(tokenizers)} tokenizers; a place has room for one")
    live_files.script(folder / "tokenizer_en_es.js", "tokenizer_en_es", json.loads(tokenizers.pop()))
    for model in MODELS.values():
        live_files.model(folder, model, model)
    return example()


def example() -> dict[str, Any]:
    """Return what each model says to one sentence: its translation, ln p, the likeliest words, and where it looked."""
    loaded = {name: checkpoints.load(model) for name, model in MODELS.items()}
    tokenizer = TranslationTokenizer.from_bpe(loaded["gnmt"].tokenizer)  # type: ignore[arg-type]
    source = tokenizer.encode(TEXT)
    said = {}
    for name, (model, _, _) in loaded.items():
        # Not nextword.translation.translate, which rounds to bfloat16 where that is faster: a page computes in float32.
        step, longest = model.step(torch.tensor([source])), len(source) + EXTRA
        [greedy] = beam_search(step, tokenizer.bos_id, tokenizer.eos_id, max_length=longest, beam=1, alpha=0)
        target = torch.tensor([[tokenizer.bos_id, *greedy.ids]])
        with torch.inference_mode():
            hidden, looks = model.decode_with_attention(target[:, :-1], model.encode(torch.tensor([source])))
            log_p = model.output(hidden)[0].log_softmax(-1).double()  # (T, V)
        best = log_p.topk(BEST)
        said[name] = {
            "ids": greedy.ids,
            "logP": [round(float(row[i]), 4) for row, i in zip(log_p, greedy.ids, strict=True)],
            "best": [
                [[i, round(value, 4)] for i, value in zip(*row, strict=True)]
                for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ],
            "mean": looks[0].double().numpy().round(4).tolist(),
            "text": tokenizer.decode(greedy.ids),
            "words": [tokenizer.base.decode([i]) for i in greedy.ids],
        }
    return {
        "text": TEXT,
        "at": AT,
        "source": source,
        "words": [tokenizer.base.decode([i]) for i in source],
        "models": said,
    }


def fallback(part: str, stored: dict[str, Any]) -> str:
    """Return as HTML what a place shows before its scripts run: where each word of the translation looked."""
    said = stored["models"][part]
    caption = (
        f"{live_files.STORED} The model translates “{stored['text']}” as “{said['text']}” (ln p {sum(said['logP']):.2f}). "
        "How each written token (row) shares its attention among the tokens read, in percent:"
    )
    rows = [
        (word.strip(), [f"{100 * share:.0f}" for share in shares])
        for word, shares in zip(said["words"], said["mean"], strict=True)
    ]
    return live_files.table(caption, ["written", *(word.strip() for word in stored["words"])], rows)
