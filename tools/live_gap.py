"""The place ``gap``: BERT and its left-to-right twin fill the same gap. What is stored is an example.

weights_NAME.js     a network of the book's: the bytes of its own model.safetensors, with config and card
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import live_files
from nextword.book import models

NETWORKS = {"both": "bert_both_ways", "left": "bert_left_to_right"}
HEADS = ("both sides (BERT)", "left side only (GPT’s way)")
TEXT, HIDDEN = "We have no milk, so please buy some on your way home.", " buy"
BEST = 6
"""How many words of each network are stored."""
PARTS = ("gap",)
SCRIPTS = ("engine", "parts", "tokenizer", "encoder", "gap")
"""In this order; gap.js appends the weights itself. The page ``live`` writes the tokenizer, which is the same."""


def write(folder: Path) -> dict[str, Any]:
    """Write the scripts with both networks into ``folder``; return the example."""
    for name in NETWORKS.values():
        live_files.model(folder, name, str(models.FOLDER / name))
    return example()


def example() -> dict[str, Any]:
    """Return what both networks say of a gap: ln p of the word that stood there, and of the best of each.

    ``cut`` is ln p of that word for BERT where the text ends with the gap.
    """
    both, left = (models.load(name) for name in NETWORKS.values())
    bpe = both.tokenizer
    assert bpe is not None
    ids = [bpe.special_tokens["<|endoftext|>"], *bpe.encode(TEXT)]
    (word,), V = bpe.encode(HIDDEN), bpe.vocab_size  # [MASK] is the first id behind the words
    at = ids.index(word)
    masked = torch.tensor([[V if t == at else i for t, i in enumerate(ids)]])
    with torch.inference_mode():
        scores = [both.model(masked).logits[0, at], left.model(torch.tensor([ids[:at]])).logits[0, -1]]
        scores.append(both.model(masked[:, : at + 1]).logits[0, at])
    *rows, cut = (row[:V].log_softmax(-1) for row in scores)
    kept = dict.fromkeys([word, *(i for row in rows for i in row.topk(BEST).indices.tolist())])
    told = {side: {str(i): round(float(row[i]), 6) for i in kept} for side, row in zip(NETWORKS, rows, strict=True)}
    spelled = {str(i): bpe.decode([i]) for i in kept}
    return {"text": TEXT, "ids": ids, "hidden": [at], "spelled": spelled, "cut": round(float(cut[word]), 6), **told}


def fallback(part: str, stored: dict[str, Any]) -> str:
    """Return as a table what the part shows before its scripts run."""
    (word,) = (str(stored["ids"][at]) for at in stored["hidden"])
    left, right = stored["text"].split(stored["spelled"][word], 1)
    caption = f"{live_files.STORED} What stands in the gap of “{left} [MASK]{right}”, in percent:"
    p = {side: {i: 100 * np.exp(value) for i, value in stored[side].items()} for side in NETWORKS}
    order = sorted(p["both"], key=lambda i: (i != word, -p["both"][i] - p["left"][i]))
    rows = [
        (
            stored["spelled"][i].strip() + (", which stood there" if i == word else ""),
            [f"{p[s][i]:.1f}" for s in NETWORKS],
        )
        for i in order
    ]
    return live_files.table(caption, ["token", *HEADS], rows)
