"""Write what the page `live` needs beside its scripts: models, tokenizer and a worked example, as scripts of their own.

    python tools/live.py FOLDER

``tools/assemble.py`` calls ``write`` when it puts the book together. A page that was opened from a folder may load scripts
and nothing else, so each file is one call with its content in base64:

weights_NAME.js     a bundled model: the bytes of the library's own model.safetensors, with config and card
counts.js           the bytes of nextword.book.counts
tokenizer.js        the content of tokenizer.json, which is the same for all
example.js          what the models say of one text, by the library: the page shows it before any model is there, and
                    the book's build writes it into the page, for readers without scripts (example.json)
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextword import checkpoints
from nextword.book import counts
from nextword.decoder import Decoder

MODELS = {"small": "nextword-small", "medium": "nextword-medium", "large": "nextword-large"}
TEXT = "The city was founded in 1850 by a group of"
BEST = 10
"""How many next words of the example are stored."""
PARTS = ("text", "next", "change", "sampling", "heads", "about")
"""The places of the page that scripts fill."""
STORED = "These numbers are stored; with JavaScript the models answer to any text."


def write(folder: Path) -> None:
    """Write all scripts that hold data into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizers = set()
    for name, model in MODELS.items():
        source = checkpoints.BUNDLED / model
        tokenizers.add((source / "tokenizer.json").read_text(encoding="utf8"))
        config, card = (json.loads((source / f"{part}.json").read_text(encoding="utf8")) for part in ("config", "card"))
        content = {"kind": "decoder", "config": config, "card": card}
        _script(
            folder / f"weights_{name}.js", name, {**content, **_packed((source / "model.safetensors").read_bytes())}
        )
    if len(tokenizers) != 1:
        raise ValueError(f"the models have {len(tokenizers)} tokenizers; the page has room for one")
    _script(folder / "counts.js", "counts", {"kind": "counts", **_packed(counts.COUNTS.read_bytes())})
    tokenizer = json.dumps(json.loads(tokenizers.pop()))
    (folder / "tokenizer.js").write_text(f"NEXTWORD.tokenizer = {tokenizer};\n", encoding="utf8")
    content = json.dumps(example())
    (folder / "example.json").write_text(content, encoding="utf8")
    (folder / "example.js").write_text(f"NEXTWORD.example = {content};\n", encoding="utf8")


def _packed(raw: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(raw).hexdigest(), "base64": base64.b64encode(raw).decode()}


def _script(path: Path, name: str, content: dict[str, Any]) -> None:
    path.write_text(f"NEXTWORD.model({json.dumps(name)}, {json.dumps(content)});\n", encoding="utf8")


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
    columns = "".join(f'<th scope="col">{name}</th>' for name in stored["models"])
    if part == "text":
        caption = f"{STORED} Bits that the tokens of “{html.escape(stored['text'])}” cost each model:"
        rows = [
            (word, [f"{-said['logP'][t] / np.log(2):.1f}" for said in stored["models"].values()])
            for t, word in enumerate(stored["words"])
            if t
        ]
    else:
        caption = f"{STORED} What comes after “{html.escape(stored['text'])}”, in percent:"
        told = {name: dict(said["next"]) for name, said in stored["models"].items()}
        first = dict.fromkeys(word for next_words in told.values() for word in list(next_words)[:6])
        rows = []
        for word in sorted(first, key=lambda word: -sum(np.exp(told[name].get(word, -99)) for name in told)):
            cells = [f"{100 * np.exp(told[name][word]):.1f}" if word in told[name] else "–" for name in told]
            rows.append((stored["spelled"][str(word)], cells))
    body = "".join(
        f'<tr><th scope="row">{html.escape(word.strip())}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for word, cells in rows
    )
    head = f'<thead><tr><th scope="col">token</th>{columns}</tr></thead>'
    return f"<table><caption>{caption}</caption>{head}<tbody>{body}</tbody></table>"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
