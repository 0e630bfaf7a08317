"""Words find pictures, and pictures names: CLIP's text encoder in its chapter, beside a gallery that it never saw.

clip_icons.js   the text encoder's own bytes of ``clip_icons`` with the vectors of the gallery's pictures, the vocabulary,
                and the gallery: names, and the pictures on one sheet
"""

from __future__ import annotations

import base64
import functools
import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

import live_files
from nextword.book import icons, models
from nextword.contrastive import CLIP, name_vectors, picture_vectors, rank_of
from nextword.translation import WordTokenizer

MODEL = "clip_icons"
TEXT = "face"
FOUND = 12
"""How many icons a text finds."""
NAMED = 10
"""How many names an icon finds."""
COLUMNS = 31
"""Pictures in a row of the sheet."""
PARTS = ("icons",)
SCRIPTS = ("engine", "parts", "clip", "icons")
"""In this order; icons.js appends clip_icons.js itself."""


class Gallery(NamedTuple):
    """The model, and the icons of the designer whom it never saw."""

    model: CLIP
    words: WordTokenizer
    split: icons.Split
    icons: list[icons.Icon]  #: Those with trained names, and then the others.
    vectors: Tensor  #: One for each picture, (N, C).

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return one vector a text, (T, C)."""
        return name_vectors(self.model, texts, self.words, icons.END_ID)


@functools.cache
def gallery() -> Gallery:
    """Return the gallery as the chapter has it."""
    split, model = icons.split_icons("Phosphor"), models.load(MODEL).model
    shown = [*split.seen, *split.new]
    vectors = picture_vectors(model, icons.as_tensor(shown))
    return Gallery(model, icons.caption_tokenizer(split.train), split, shown, vectors)


def write(folder: Path) -> dict[str, Any]:
    """Write the script that holds the model and the gallery into ``folder``; return the example."""
    found = gallery()
    source = models.FOLDER / MODEL
    with safe_open(source / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith("text.")}  # noqa: SIM118
        tensors |= {"log_scale": file.get_tensor("log_scale"), "gallery": found.vectors.half()}
    content = {part: json.loads((source / f"{part}.json").read_text(encoding="utf8")) for part in ("config", "card")}
    texts = Counter(word for icon in found.split.train for word in set(found.words.PATTERN.findall(icon.caption)))
    content |= {
        "words": found.words.tokens,
        "texts": [texts[word] for word in found.words.tokens],  # of the training, in which each word stands
        "names": [icon.name for icon in found.icons],
        "trained": len(found.split.seen),  # names at the beginning that training texts have, too
        "columns": COLUMNS,
        "sheet": sheet(found.icons, COLUMNS),
    }
    live_files.script(folder / f"{MODEL}.js", MODEL, {**content, **live_files.packed(save(tensors))})
    return example()


def sheet(shown: Sequence[icons.Icon], columns: int) -> str:
    """Return a PNG of icons in base64, row after row: black, and as opaque as their pictures are bright."""
    size = icons.SIZE
    pixels = np.zeros((-(-len(shown) // columns) * columns, size, size), np.uint8)
    for place, icon in zip(pixels, shown, strict=False):
        place[:] = np.frombuffer(icon.picture, np.uint8).reshape(size, size)
    rows = pixels.reshape(-1, columns, size, size).swapaxes(1, 2).reshape(-1, columns * size)
    image, file = Image.frombytes("P", rows.shape[::-1], rows.tobytes()), io.BytesIO()
    image.putpalette([0] * 768)  # black, and the number of a colour is how opaque it is
    image.save(file, "PNG", optimize=True, transparency=bytes(range(256)))
    return base64.b64encode(file.getvalue()).decode()


def example() -> dict[str, Any]:
    """Return what the library finds for one text, names for one of these icons, and how often the right ones are found."""
    found = gallery()
    names = [icon.name for icon in found.icons]
    n, vectors = len(found.split.seen), found.texts(names)
    cosines = found.vectors @ found.texts([TEXT])[0]
    best = cosines.topk(FOUND).indices.tolist()
    icon = next(i for i in best if i < n)  # the first whose name is one of the trained
    chosen = vectors[:n] @ found.vectors[icon]
    shares = (found.model.scale().detach() * chosen).softmax(0)
    listed = chosen.topk(NAMED).indices.tolist()
    return {
        "text": TEXT,
        "found": [[i, names[i], round(float(cosines[i]), 4)] for i in best],
        "sheet": sheet([found.icons[i] for i in best], FOUND),
        "icon": icon,
        "named": [[names[i], round(float(shares[i]), 4), round(float(chosen[i]), 4)] for i in listed],
        "trained": n,
        "icons": len(names),
        "words": len(found.words.tokens) - 4,  # the first four are special
        "texts": len(found.split.train),
        "right": {
            "words": [rights(vectors @ found.vectors.T, part, FOUND) for part in (slice(n), slice(n, None))],
            "seen": rights(found.vectors[:n] @ vectors[:n].T, slice(n), NAMED),
            "all": rights(found.vectors @ vectors.T, slice(None), NAMED),
        },
    }


def rights(scores: Tensor, rows: slice, k: int) -> list[float]:
    """Return the shares of some rows whose own column is the first, and is among the first k."""
    ranks = rank_of(scores, torch.arange(len(scores)))[rows]
    return [round(float((ranks <= k).float().mean()), 4) for k in (1, k)]


def fallback(part: str, stored: dict[str, Any]) -> str:
    """Return as HTML what one text finds, and names for one of these icons."""
    cells = "".join(
        f'<li><span class="lv-icon" style="--lv-x: {n}; --lv-y: 0"></span>{html.escape(name)}<small>{cosine:.2f}</small></li>'
        for n, (_, name, cosine) in enumerate(stored["found"])
    )
    size = f"--lv-sheet: url(data:image/png;base64,{stored['sheet']}); --lv-columns: {FOUND}; --lv-rows: 1"
    icon = next(name for i, name, _ in stored["found"] if i == stored["icon"])
    caption = f"Names for the icon “{icon}” among {stored['trained']}, the softmax's share, and the cosine:"
    rows = [(name, [f"{100 * share:.0f} %", f"{cosine:.2f}"]) for name, share, cosine in stored["named"]]
    return (
        f"<p>{live_files.STORED} Icons nearest to “{html.escape(stored['text'])}”, with their cosines:</p>"
        f'<ol class="lv-found" style="{size}">{cells}</ol>'
        + live_files.table(caption, ["name", "share", "cosine"], rows)
    )
