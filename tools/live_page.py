"""The page ``live``: three sizes of GPT-2 and the counts answer to one text. What is stored is an example.

weights_NAME.js     a bundled model: the bytes of the library's own model.safetensors, with config and card
counts.js           the bytes of nextword.book.counts
tokenizer.js        the content of tokenizer.json, which is the same for all
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import live_files
from nextword import checkpoints
from nextword.book import counts
from nextword.decoder import Decoder

MODELS = {"small": "nextword-small", "medium": "nextword-medium", "large": "nextword-large"}
TEXT = "The city was founded in 1850 by a group of"
BEST = 10
"""How many next words of the example are stored."""
PARTS = ("text", "next", "change", "sampling", "heads", "about")
SCRIPTS = ("engine", "parts", "tokenizer", "page")
"""In this order; page.js appends the weights itself."""


def write(folder: Path) -> dict[str, Any]:
    """Write all scripts that hold data into ``folder``; return the example."""
    tokenizers = {
        (checkpoints.BUNDLED / model / "tokenizer.json").read_text(encoding="utf8") for model in MODELS.values()
    }
    if len(tokenizers) != 1:
        raise ValueError(f"the models have {len(tokenizers)} tokenizers; the page has room for one")
    for name, model in MODELS.items():
        live_files.model(folder, name, model)
    packed = live_files.packed(counts.COUNTS.read_bytes())
    live_files.script(folder / "counts.js", "counts", {"kind": "counts", **packed})
    tokenizer = json.dumps(json.loads(tokenizers.pop()))
    (folder / "tokenizer.js").write_text(f"NEXTWORD.tokenizer = {tokenizer};\n", encoding="utf8")
    return example()


def example() -> dict[str, Any]:
    """Return what each model says of one text: ln p of its tokens, and the best next words with theirs."""
    bpe = checkpoints.load(MODELS["small"]).tokenizer
    ids = [bpe.special_tokens["<|endoftext|>"], *bpe.encode(TEXT)]
    rows = {}
    for name, model in MODELS.items():
        with torch.inference_mode():
            rows[name] = Decoder.from_pretrained(model)(torch.tensor([ids])).logits[0].log_softmax(-1).double().numpy()
    small = counts.load()
    rows["counts"] = np.log(np.stack([small.distribution(ids[: t + 1]) for t in range(len(ids))]))
    said = {}
    for name, log_p in rows.items():
        told = log_p[np.arange(len(ids) - 1), ids[1:]]
        likeliest = np.argsort(-log_p[-1])[:BEST]
        said[name] = {
            "logP": [0.0, *told.round(4).tolist()],
            "next": [[int(i), round(float(log_p[-1, i]), 4)] for i in likeliest],
        }
    best = {word for row in said.values() for word, _ in row["next"]}
    spelled = {str(word): bpe.decode([word]) for word in sorted(best)}
    return {"text": TEXT, "ids": ids, "words": [bpe.decode([i]) for i in ids], "spelled": spelled, "models": said}


def fallback(part: str, stored: dict[str, Any]) -> str:
    """Return as HTML what a part of the page shows before its scripts run: of two parts numbers, else a sentence."""
    if part not in ("text", "next"):
        return "<p>This part of the page computes in your browser, and needs JavaScript.</p>"
    said = stored["models"]
    if part == "text":
        caption = f"{live_files.STORED} Bits that the tokens of “{stored['text']}” cost each model:"
        rows = [
            (word.strip(), [f"{-row['logP'][t] / np.log(2):.1f}" for row in said.values()])
            for t, word in enumerate(stored["words"])
            if t
        ]
    else:
        caption = f"{live_files.STORED} What comes after “{stored['text']}”, in percent:"
        told = {name: dict(row["next"]) for name, row in said.items()}
        first = dict.fromkeys(word for next_words in told.values() for word in list(next_words)[:6])
        rows = []
        for word in sorted(first, key=lambda word: -sum(np.exp(told[name].get(word, -99)) for name in told)):
            cells = [f"{100 * np.exp(told[name][word]):.1f}" if word in told[name] else "–" for name in told]
            rows.append((stored["spelled"][str(word)].strip(), cells))
    return live_files.table(caption, ["token", *said], rows)
