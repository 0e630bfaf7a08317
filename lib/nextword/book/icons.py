"""Icons of five designers and their names: small pictures to learn from, and one designer who is kept for the test.

An icon font holds thousands of drawings, each with a name such as ``arrow-down-bold``. Drawn as pictures of 32 × 32 pixels
they are pairs of picture and text.

Used in: 2021_clip.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import reduce
from jaxtyping import Bool, Float, Int64
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from nextword.contrastive import text_batch
from nextword.fetching import fetch, source
from nextword.translation import WordTokenizer

DESIGNERS = {
    "Material": "materialdesignicons6-webfont",
    "Phosphor": "phosphor",
    "Remix": "remixicon",
    "Awesome": "fontawesome6-solid-webfont",
    "Codicons": "codicon",
}
"""The designers, and the beginnings of their files' names."""

STYLES = frozenset(("fill", "line", "bold", "thin", "light", "duotone", "outline", "regular", "solid"))
"""Words of a name that say how the icon is drawn, and not what it shows."""

SIZE = 32
"""Height and width of a picture, in pixels."""

END_ID = 2
"""The token of :class:`~nextword.translation.WordTokenizer` that ends a caption."""


class Icon(NamedTuple):
    """A picture and its text."""

    designer: str
    caption: str  #: All words of its name, such as ``arrow down bold``.
    name: str  #: The words that say what it shows, such as ``arrow down``.
    styles: frozenset[str]  #: The words that say how, such as ``bold``.
    picture: bytes  #: SIZE × SIZE bytes, white on black.


@functools.cache
def load_icons(designer: str) -> tuple[Icon, ...]:
    """Return a designer's icons, drawn white on black, in the order of their names.

    Icons that are drawn and named alike come once; one with an empty picture does not come.

    Raises:
        ValueError: there is no such designer.
    """
    if designer not in DESIGNERS:
        raise ValueError(f"designer={designer!r}: choose {', '.join(DESIGNERS)}")
    start = f"qtawesome/fonts/{DESIGNERS[designer]}"
    members = [m for m in source("icons").members if m.startswith(start)]
    letters = next(fetch("icons") / m for m in members if m.endswith(".ttf"))
    names = json.loads(next(fetch("icons") / m for m in members if m.endswith(".json")).read_text(encoding="utf8"))
    font = ImageFont.truetype(str(letters), 56)
    icons = {}
    for full, code in sorted(names.items()):
        words = full.split("-")
        what = [word for word in words if word not in STYLES]
        picture = draw(chr(int(code, 16)), font)
        if what and any(picture):
            icon = Icon(designer, " ".join(words), " ".join(what), STYLES & set(words), picture)
            icons[icon.caption, picture] = icon
    return tuple(icons.values())


def draw(character: str, font: ImageFont.FreeTypeFont) -> bytes:
    """Return a character as a picture, its ink in the middle, drawn twice as large and then made smaller."""
    image = Image.new("L", (8 * SIZE, 8 * SIZE))  # some are far wider than the font's size, or stand off their place
    ImageDraw.Draw(image).text((3 * SIZE, 3 * SIZE), character, fill=255, font=font)
    ink = image.crop(image.getbbox() or (0, 0, 1, 1))
    ink.thumbnail((2 * SIZE, 2 * SIZE), Image.Resampling.BOX)  # only what is too large is made smaller
    canvas = Image.new("L", (2 * SIZE, 2 * SIZE))
    canvas.paste(ink, ((2 * SIZE - ink.width) // 2, (2 * SIZE - ink.height) // 2))
    small = reduce(np.asarray(canvas, float), "(h p) (w q) -> h w", "mean", p=2, q=2)
    return small.round().astype(np.uint8).tobytes()


def as_tensor(icons: Sequence[Icon]) -> Float[Tensor, "B 1 H W"]:
    """Return the pictures of icons, brightness from 0 to 1."""
    pixels = np.frombuffer(b"".join(icon.picture for icon in icons), np.uint8)
    return torch.from_numpy(pixels.reshape(-1, 1, SIZE, SIZE) / np.float32(255))


class Split(NamedTuple):
    """Icons to learn from, and pictures of designers who are not among them."""

    train: list[Icon]
    seen: list[Icon]  #: One of each name that the training icons have, too.
    new: list[Icon]  #: Names whose words are all in training, but never together as a name.


def split_icons(held_out: str | Sequence[str]) -> Split:
    """Return the icons of all designers but some, and the plainest icon of each name by the first who is left out.

    Pictures that a training icon has pixel for pixel are not tested.
    """
    out = [held_out] if isinstance(held_out, str) else list(held_out)
    if not out or not set(out) < set(DESIGNERS):
        raise ValueError(f"held_out={held_out!r}: choose some, but not all, of {', '.join(DESIGNERS)}")
    train = [icon for designer in DESIGNERS if designer not in out for icon in load_icons(designer)]
    names, words = {i.name for i in train}, {word for i in train for word in i.caption.split()}
    pictures = {icon.picture for icon in train}
    tested = [icon for icon in plainest(out[0]) if icon.picture not in pictures]
    seen = [icon for icon in tested if icon.name in names]
    new = [icon for icon in tested if icon.name not in names and words.issuperset(icon.name.split())]
    return Split(train, seen, new)


def plainest(designer: str) -> list[Icon]:
    """Return one icon of each name, the one with the fewest words of style; a line before a filled one."""
    found: dict[str, Icon] = {}
    for icon in sorted(load_icons(designer), key=lambda i: (len(i.styles), "fill" in i.styles, i.caption)):
        found.setdefault(icon.name, icon)
    return [found[name] for name in sorted(found)]


def caption_tokenizer(icons: Sequence[Icon]) -> WordTokenizer:
    """Return a tokenizer that knows every word of the captions."""
    return WordTokenizer([icon.caption for icon in icons], 100_000)


def icon_batches(
    icons: Sequence[Icon], tokenizer: WordTokenizer, batch_size: int, *, context_length: int = 16, seed: int = 0
) -> Iterator[tuple[Float[Tensor, "B 1 H W"], Int64[Tensor, "B T"], Bool[Tensor, "B T"]]]:
    """Yield batches of jittered pictures and their captions as ids with a mask, pass after pass in another order.

    Raises:
        ValueError: there are fewer icons than a batch holds, or none.
    """
    if not 1 <= batch_size <= len(icons):
        raise ValueError(f"batch_size={batch_size} and {len(icons)} icons; give 1 to as many as there are icons")
    pictures, generator = as_tensor(icons), torch.Generator().manual_seed(seed)
    captions = [icon.caption for icon in icons]

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while True:
            order = torch.randperm(len(icons), generator=generator)
            for rows in torch.split(order[: len(order) // batch_size * batch_size], batch_size):
                texts = [captions[i] for i in rows]
                ids, mask = text_batch(texts, tokenizer, END_ID, context_length=context_length)
                yield jitter(pictures[rows], generator), ids, mask

    return batches()


def jitter(pictures: Float[Tensor, "B c H W"], generator: torch.Generator) -> Float[Tensor, "B c H W"]:
    """Return pictures, each turned by up to 7 degrees, made larger or smaller by a sixth, and moved by a twelfth."""
    turn, stretch, right, down = 2 * torch.rand(4, len(pictures), generator=generator) - 1
    angle, scale = 0.12 * turn, 1 + 0.15 * stretch
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cos, -sin, 0.15 * right], -1), torch.stack([sin, cos, 0.15 * down], -1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)
