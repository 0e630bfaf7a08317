"""Icons: drawn the same every time, in the middle and never empty; what is tested was never seen; jitter is small."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nextword.book import icons as icons_module
from nextword.book.icons import (
    DESIGNERS,
    END_ID,
    SIZE,
    STYLES,
    Icon,
    as_tensor,
    caption_tokenizer,
    draw,
    icon_batches,
    jitter,
    load_icons,
    plainest,
    split_icons,
)
from nextword.fetching import fetch, source
from nextword.translation import SPECIAL_TOKENS

COUNTS = {"Material": 7366, "Phosphor": 4470, "Remix": 2268, "Awesome": 1400, "Codicons": 567}
NAMES = {"Material": 5456, "Phosphor": 877, "Remix": 1183, "Awesome": 1399, "Codicons": 561}


def pixels(icon: Icon) -> np.ndarray[Any, Any]:
    return np.frombuffer(icon.picture, np.uint8).reshape(SIZE, SIZE)


def font(designer: str) -> ImageFont.FreeTypeFont:
    start = f"qtawesome/fonts/{DESIGNERS[designer]}"
    [letters] = [m for m in source("icons").members if m.startswith(start) and m.endswith(".ttf")]
    return ImageFont.truetype(str(fetch("icons") / letters), 56)


def code_of(designer: str, name: str) -> int:
    start = f"qtawesome/fonts/{DESIGNERS[designer]}"
    [codes] = [m for m in source("icons").members if m.startswith(start) and m.endswith(".json")]
    return int(json.loads((fetch("icons") / codes).read_text(encoding="utf8"))[name], 16)


# --- What is loaded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("designer", DESIGNERS)
def test_each_designer_has_so_many_icons_and_names(designer: str) -> None:
    icons = load_icons(designer)
    assert (len(icons), len({icon.name for icon in icons})) == (COUNTS[designer], NAMES[designer])
    assert {icon.designer for icon in icons} == {designer}
    captions = [icon.caption for icon in icons]
    assert sorted(icon.caption.replace(" ", "-") for icon in icons) == [c.replace(" ", "-") for c in captions]
    assert max(Counter((icon.caption, icon.picture) for icon in icons).values()) == 1


@pytest.mark.parametrize("designer", DESIGNERS)
def test_a_caption_is_a_name_and_its_styles(designer: str) -> None:
    for icon in load_icons(designer):
        words = icon.caption.split(" ")
        assert icon.name.split(" ") == [word for word in words if word not in STYLES] and icon.name
        assert icon.styles == {word for word in words if word in STYLES}
        assert not STYLES & set(icon.name.split())
    assert any(icon.styles for icon in load_icons(designer))


@pytest.mark.parametrize("designer", DESIGNERS)
def test_no_picture_is_empty_and_each_is_white_on_black(designer: str) -> None:
    pictures = as_tensor(load_icons(designer))
    brightest, mean = pictures.amax((1, 2, 3)), pictures.mean((1, 2, 3))
    assert pictures.shape == (COUNTS[designer], 1, SIZE, SIZE) and pictures.dtype == torch.float32
    assert brightest.min() > 0.1 and brightest.median() == 1 and pictures.min() == 0
    assert mean.median() < 0.5, "most of a picture is background"
    assert pictures[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]].mean() < 0.1, "and so are its corners"


@pytest.mark.parametrize("designer", DESIGNERS)
def test_pictures_stand_in_the_middle(designer: str) -> None:
    """Within half a pixel: an ink that is an odd number of pixels wide cannot stand nearer."""
    drawn = np.stack([pixels(icon) for icon in load_icons(designer)]) > 0
    for inked in (drawn.any(1), drawn.any(2)):
        first, last = inked.argmax(1), SIZE - 1 - inked[:, ::-1].argmax(1)
        off = (first + last) / 2 - (SIZE - 1) / 2
        assert np.abs(off).max() <= 0.5 and (off == 0).mean() > 0.7


def ink(character: str, letters: ImageFont.FreeTypeFont) -> np.ndarray[Any, Any]:
    """Return what a font draws, on a canvas that is far too large, without what is empty around it."""
    image = Image.new("L", (1000, 1000))
    ImageDraw.Draw(image).text((400, 400), character, 255, letters)
    return np.asarray(image.crop(image.getbbox() or (0, 0, 1, 1)), float)


def shown(character: str, letters: ImageFont.FreeTypeFont) -> np.ndarray[Any, Any]:
    return np.frombuffer(draw(character, letters), np.uint8).reshape(SIZE, SIZE).astype(float)


def characters(designer: str) -> list[str]:
    start = f"qtawesome/fonts/{DESIGNERS[designer]}"
    [codes] = [m for m in source("icons").members if m.startswith(start) and m.endswith(".json")]
    return [chr(int(c, 16)) for c in json.loads((fetch("icons") / codes).read_text(encoding="utf8")).values()]


@pytest.mark.parametrize("size", [14, 28, 56])
def test_a_square_stands_in_the_middle_at_half_its_size(size: int) -> None:
    letters = font("Material").font_variant(size=size)
    character = chr(code_of("Material", "square"))
    drawn = shown(character, letters) / 255
    for axis, width in enumerate(ink(character, letters).shape[::-1]):
        line = drawn.max(axis)
        assert abs((line * np.arange(SIZE)).sum() / line.sum() - (SIZE - 1) / 2) <= 0.5
        assert abs(line.sum() - width / 2) <= 1


@pytest.mark.parametrize("designer", DESIGNERS)
def test_no_ink_is_lost(designer: str) -> None:
    """What fits is drawn at half its size, so that the four pixels behind each of the picture's are all in its mean."""
    letters, narrow = font(designer), 0
    for character in characters(designer)[::40]:
        large, small = ink(character, letters), shown(character, letters)
        if max(large.shape) <= 2 * SIZE:
            narrow += 1
            assert abs(4 * small.sum() - large.sum()) <= 4 * 0.5 * (small > 0).sum() + 4 * SIZE
            assert not small.any() or small.max() >= large.max() / 4 - 0.5
    assert narrow > 10


def test_what_is_too_wide_is_made_smaller_and_keeps_its_shape() -> None:
    letters = font("Awesome")
    wide = [c for c in characters("Awesome")[::6] if ink(c, letters).shape[1] > 2 * SIZE]
    assert len(wide) > 20
    for character in wide:
        large, small = ink(character, letters), shown(character, letters)
        columns, rows = np.flatnonzero(small.max(0)), np.flatnonzero(small.max(1))
        scale = SIZE / large.shape[1]
        assert (columns[0], columns[-1]) == (0, SIZE - 1), "from edge to edge"
        assert abs(rows[-1] - rows[0] + 1 - scale * large.shape[0]) <= 1.5
        assert small.sum() == pytest.approx(scale**2 * large.sum(), rel=0.1)
        # Each third of it holds as much ink as that of the large one: nothing was cut off at a side.
        thirds = [[part.sum() for part in np.array_split(x.sum(0), 3)] for x in (small, scale**2 * large)]
        np.testing.assert_allclose(*thirds, rtol=0.15, atol=0.03 * small.sum())


@pytest.mark.parametrize("designer", DESIGNERS)
def test_every_icon_fits_the_canvas_on_which_it_is_drawn(designer: str) -> None:
    """Which is 8 pictures wide, its pen at 3."""
    letters = font(designer)
    boxes = np.array([letters.getbbox(character) for character in characters(designer)])
    assert boxes.min() > -3 * SIZE and boxes.max() < 5 * SIZE


def test_drawing_is_the_same_every_time() -> None:
    before = load_icons("Codicons")
    assert load_icons("Codicons") is before
    load_icons.cache_clear()
    again = load_icons("Codicons")
    assert again is not before and again == before


def test_a_drawing_is_one_twice_as_large_whose_pixels_are_averaged() -> None:
    letters = font("Material")
    by_caption = {icon.caption: icon for icon in load_icons("Material")}
    for name in ("arrow-down-bold", "cat", "minus", "account-tie"):
        icon, character = by_caption[name.replace("-", " ")], chr(code_of("Material", name))
        assert draw(character, letters) == icon.picture
        large, four = ink(character, letters), np.zeros((2 * SIZE, 2 * SIZE))
        top, left = ((2 * SIZE - n) // 2 for n in large.shape)
        four[top : top + large.shape[0], left : left + large.shape[1]] = large
        mean = (four[::2, ::2] + four[1::2, ::2] + four[::2, 1::2] + four[1::2, 1::2]) / 4
        assert np.abs(mean - pixels(icon)).max() <= 0.5
    assert pixels(by_caption["arrow down bold"])[:, :3].mean() < 15
    assert pixels(by_caption["arrow down bold"])[SIZE // 2, SIZE // 2] == 255


def test_an_arrow_down_gets_narrower_downwards_and_an_arrow_up_upwards() -> None:
    by_caption = {icon.caption: pixels(icon).astype(float) for icon in load_icons("Material")}
    for caption, turned in (("arrow down bold", False), ("arrow up bold", True)):
        picture = by_caption[caption][::-1] if turned else by_caption[caption]
        widths = (picture > 128).sum(1)
        last, widest = np.flatnonzero(widths)[-1], widths.argmax()
        assert widths[last] < widths.max() / 2 and widest > SIZE // 3
    assert np.abs(by_caption["arrow down bold"] - by_caption["arrow down bold"][:, ::-1]).mean() < 20


def test_what_nobody_draws_is_empty() -> None:
    assert not any(draw(" ", font("Material")))


@pytest.mark.parametrize("designer", ["", "material", "Noun Project"])
def test_there_is_no_other_designer(designer: str) -> None:
    calls: list[Any] = [load_icons, plainest]
    for call in calls:
        with pytest.raises(ValueError, match=f"designer={designer!r}: choose Material, Phosphor, Remix, Awesome"):
            call(designer)


@pytest.mark.parametrize(
    "held_out",
    ["", "material", "Noun Project", [], (), ["Remix", "Noun Project"], list(DESIGNERS), tuple(DESIGNERS)[::-1]],
    ids=str,
)
def test_some_but_not_all_designers_are_held_out(held_out: Any) -> None:
    message = f"held_out={held_out!r}: choose some, but not all, of Material, Phosphor, Remix, Awesome, Codicons"
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=re.escape(message)):
        split_icons(held_out)


def test_brightness_runs_from_0_to_1() -> None:
    picture = bytes(range(256)) * 4
    icon = Icon("Remix", "a", "a", frozenset(), picture)
    found = as_tensor([icon, icon._replace(picture=picture[::-1])])
    expected = torch.arange(256).repeat(4).view(1, SIZE, SIZE) / 255
    torch.testing.assert_close(found, torch.stack([expected, expected.flip(1, 2)]), rtol=1e-6, atol=0)
    assert (found.min(), found.max()) == (0, 1)


# --- The plainest of each name ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("designer", DESIGNERS)
def test_the_plainest_has_the_fewest_styles_and_is_no_filled_one(designer: str) -> None:
    chosen = plainest(designer)
    assert [icon.name for icon in chosen] == sorted({icon.name for icon in load_icons(designer)})
    groups: dict[str, list[Icon]] = {}
    for icon in load_icons(designer):
        groups.setdefault(icon.name, []).append(icon)
    for icon in chosen:
        fewest = [
            other for other in groups[icon.name] if len(other.styles) == min(len(o.styles) for o in groups[icon.name])
        ]
        assert icon in fewest
        assert "fill" not in icon.styles or all("fill" in other.styles for other in fewest)


def test_a_line_comes_before_a_filled_one_and_no_style_before_both() -> None:
    remix = {icon.name: icon for icon in plainest("Remix")}
    both = {"line": 0, "fill": 0}
    captions = {icon.caption for icon in load_icons("Remix")}
    for icon in remix.values():
        if {f"{icon.name} line", f"{icon.name} fill"} <= captions:
            both["line"] += icon.caption == f"{icon.name} line"
            both["fill"] += icon.caption == f"{icon.name} fill"
    assert both["line"] > 900 and both["fill"] == 0
    phosphor = {icon.name: icon.styles for icon in plainest("Phosphor")}
    assert (
        phosphor["airplane"] == frozenset()
        and len({i.styles for i in load_icons("Phosphor") if i.name == "airplane"}) > 3
    )


# --- What is learned and what is tested -------------------------------------------------------------------------------

SPLITS: list[Any] = [*DESIGNERS, ("Remix", "Phosphor"), ["Phosphor", "Remix", "Awesome"]]


@pytest.mark.parametrize("held_out", SPLITS, ids=str)
def test_what_is_tested_was_not_learned(held_out: Any) -> None:
    out = [held_out] if isinstance(held_out, str) else list(held_out)
    train, seen, new = split_icons(held_out)
    assert [icon.designer for icon in train] == [d for d in DESIGNERS if d not in out for _ in range(COUNTS[d])]
    assert {icon.designer for icon in seen} == {icon.designer for icon in new} == {out[0]}
    drawn = {icon.picture for icon in train}
    assert not any(icon.picture in drawn for icon in seen + new)
    names = Counter(icon.name for icon in seen + new)
    assert max(names.values()) == 1 and len(seen) > 100 and len(new) > 100


@pytest.mark.parametrize("held_out", SPLITS, ids=str)
def test_seen_names_are_in_training_and_new_ones_are_not_but_their_words_are(held_out: Any) -> None:
    train, seen, new = split_icons(held_out)
    names, words = {icon.name for icon in train}, {word for icon in train for word in icon.caption.split()}
    assert all(icon.name in names for icon in seen)
    assert all(icon.name not in names and set(icon.name.split()) <= words for icon in new)
    # And nothing else is left out: the rest of the names have a word that nobody else uses, or a picture that is learned.
    drawn, kept = {icon.picture for icon in train}, {icon.name for icon in seen + new}
    first = held_out if isinstance(held_out, str) else held_out[0]
    for icon in plainest(first):
        assert icon.name in kept or icon.picture in drawn or not set(icon.name.split()) <= words


def test_a_list_of_one_designer_is_that_designer_and_the_first_is_tested() -> None:
    assert split_icons(["Remix"]) == split_icons("Remix")
    both, one = split_icons(["Remix", "Phosphor"]), split_icons("Remix")
    assert len(both.train) == len(one.train) - COUNTS["Phosphor"]
    assert split_icons(["Phosphor", "Remix"]).train == both.train
    assert {icon.name for icon in both.seen} < {icon.name for icon in one.seen}


def test_a_picture_that_is_learned_too_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    def icon(designer: str, name: str, brightness: int) -> Icon:
        return Icon(designer, name, name, frozenset(), bytes([brightness]) * SIZE**2)

    drawn = {
        "Material": (icon("Material", "cat", 1), icon("Material", "big dog", 2)),
        "Remix": (
            icon("Remix", "cat", 1),  # the same picture as that of Material
            icon("Remix", "big dog", 3),
            icon("Remix", "big cat", 4),
            icon("Remix", "dog", 2),  # another name, but the picture of the big dog
            icon("Remix", "big bird", 5),  # nobody else has a bird
        ),
    }
    monkeypatch.setattr(icons_module, "DESIGNERS", dict.fromkeys(drawn, ""))
    monkeypatch.setattr(icons_module, "load_icons", drawn.get)
    train, seen, new = split_icons("Remix")
    assert train == list(drawn["Material"])
    assert ([i.caption for i in seen], [i.caption for i in new]) == (["big dog"], ["big cat"])


# --- Captions as ids --------------------------------------------------------------------------------------------------


def test_the_tokenizer_knows_the_words_of_every_caption() -> None:
    train = split_icons("Remix").train
    tokenizer = caption_tokenizer(train)
    unknown = tokenizer.encode("xylophonist")[0]
    assert unknown == 3 and SPECIAL_TOKENS[END_ID] == "<end>" == tokenizer.tokens[END_ID]
    for icon in train:
        ids = tokenizer.encode(icon.caption)
        assert ids and min(ids) > 3
    assert len(set(tokenizer.tokens)) == tokenizer.vocab_size
    plain = [icon.caption for icon in train if icon.caption.isascii() and icon.caption.replace(" ", "").isalpha()]
    assert len(plain) > 8000 and all(tokenizer.decode(tokenizer.encode(text)).strip() == text for text in plain)


def test_the_words_of_new_names_are_known() -> None:
    train, seen, new = split_icons("Codicons")
    tokenizer = caption_tokenizer(train)
    assert all(3 not in tokenizer.encode(icon.name) for icon in seen + new)
    assert any(3 in tokenizer.encode(icon.name) for icon in plainest("Codicons")), "of some other names they are not"


# --- Batches ----------------------------------------------------------------------------------------------------------

TEN = [icon for icon in plainest("Codicons") if not icon.styles][:40:4]
WORDS = caption_tokenizer(TEN)


def captions(batch: tuple[Tensor, Tensor, Tensor]) -> list[tuple[int, ...]]:
    return [tuple(row[m].tolist()) for row, m in zip(batch[1], batch[2], strict=True)]


OF_TEN = sorted((*WORDS.encode(icon.caption), END_ID) for icon in TEN)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 10])
def test_every_pass_holds_every_icon_once_in_another_order(batch_size: int) -> None:
    assert len(set(OF_TEN)) == 10
    drawn: list[tuple[int, ...]] = []
    for batch in itertools.islice(icon_batches(TEN, WORDS, batch_size), 50 // batch_size):
        assert batch[0].shape == (batch_size, 1, SIZE, SIZE) and batch[1].shape == batch[2].shape
        assert batch[1].shape[1] == max(map(len, captions(batch))), "no longer than its longest"
        drawn += captions(batch)
    passes = [drawn[i : i + 10] for i in range(0, 50, 10)]
    assert all(sorted(one) == OF_TEN for one in passes)
    assert len({tuple(one) for one in passes}) == 5


@pytest.mark.parametrize("batch_size", [3, 4, 7])
def test_what_fills_no_batch_waits_for_another_pass(batch_size: int) -> None:
    whole = 10 // batch_size
    batches = icon_batches(TEN, WORDS, batch_size)
    seen: set[tuple[int, ...]] = set()
    for _ in range(12):
        rows = [row for batch in itertools.islice(batches, whole) for row in captions(batch)]
        assert len(rows) == len(set(rows)) == whole * batch_size, "no icon comes twice in a pass"
        seen.update(rows)
    assert sorted(seen) == OF_TEN, "and none is left out for good"


def test_pictures_stay_with_their_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icons_module, "jitter", lambda pictures, generator: pictures)
    of = {(*WORDS.encode(icon.caption), END_ID): as_tensor([icon])[0] for icon in TEN}
    for batch in itertools.islice(icon_batches(TEN, WORDS, 4), 9):
        for picture, caption in zip(batch[0], captions(batch), strict=True):
            assert torch.equal(picture, of[caption])


def test_a_batch_is_jittered_anew_each_time() -> None:
    one = TEN[:1]
    still = as_tensor(one)
    drawn = [next_[0] for next_ in itertools.islice(icon_batches(one, WORDS, 1), 5)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations([still, *drawn], 2))


def test_the_seed_decides_order_and_jitter() -> None:
    def first(seed: int) -> list[Tensor]:
        batches = icon_batches(TEN, WORDS, 3, seed=seed)
        torch.rand(seed + 1)  # what others draw does not matter
        return [x for batch in itertools.islice(batches, 7) for x in batch]

    def same(x: list[Tensor], y: list[Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(x, y, strict=True))

    assert same(first(4), first(4)) and not same(first(4), first(5))
    default = [x for batch in itertools.islice(icon_batches(TEN, WORDS, 3), 7) for x in batch]
    assert same(first(0), default)
    state = torch.get_rng_state()
    next(icon_batches(TEN, WORDS, 3))
    assert torch.equal(torch.get_rng_state(), state), "nor does it draw where others do"


def test_captions_are_cut_before_their_end() -> None:
    long = max(load_icons("Material"), key=lambda icon: len(icon.caption.split()))
    words = caption_tokenizer([long])
    _, ids, mask = next(icon_batches([long], words, 1, context_length=3))
    assert ids.tolist() == [[*words.encode(long.caption)[:2], END_ID]] and mask.all()


@pytest.mark.parametrize(
    ("icons", "batch_size"), [(TEN, 0), (TEN, -1), (TEN, 11), ([], 1), ([], 0)], ids=["0", "-1", "11", "none", "0 of 0"]
)
def test_impossible_batches_are_refused_before_the_first_is_drawn(icons: list[Icon], batch_size: int) -> None:
    message = f"batch_size={batch_size} and {len(icons)} icons; give 1 to as many as there are icons"
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        icon_batches(icons, WORDS, batch_size)


# --- Jitter -----------------------------------------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def where_it_looks(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return for n jittered pictures the matrix (n, 2, 2) and the shift (n, 2) from a pixel's place to where it is read.

    Places run from -1 to 1. The pictures' brightness is the place itself, so that they tell it: one channel says how far
    to the right, the next how far down, and the third is white, and so tells what lies outside.
    """
    line = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    right, down = line.expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE)
    moved = jitter(torch.stack([right, down, torch.ones(SIZE, SIZE)]).expand(n, -1, -1, -1), seeded(seed)).double()
    inside = slice(8, 24)  # no corner of it can leave the picture
    assert (moved[:, 2, inside, inside] > 1 - 1e-5).all()
    places = torch.stack([right, down, torch.ones(SIZE, SIZE)], -1)[inside, inside].reshape(-1, 3).double()
    read = moved[:, :2, inside, inside].flatten(2).mT  # (n, 256, 2)
    solution = torch.linalg.lstsq(places.expand(n, -1, -1), read).solution  # (n, 3, 2)
    assert (places @ solution - read).abs().max() < 1e-5, "turning, stretching and moving: straight lines stay straight"
    return solution[:, :2].mT, solution[:, 2]


def test_jitter_turns_stretches_and_moves_as_far_as_it_says() -> None:
    matrix, shift = where_it_looks(3000)
    scale = torch.linalg.det(matrix).sqrt()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    torch.testing.assert_close(matrix, scale[:, None, None] * turned, rtol=0, atol=1e-5)  # a circle stays a circle
    # Places span two units, so that a move by 7.5 percent of the width is one by 0.15.
    for found, most in ((angle, math.radians(7)), (scale - 1, 0.15), (shift[:, 0], 0.15), (shift[:, 1], 0.15)):
        assert found.abs().max() <= most + 1e-5
        assert found.min() < -0.95 * most and found.max() > 0.95 * most, "and uses all of it"
        assert abs(found.mean()) < 0.04 * most, "either way alike"
    together = torch.corrcoef(torch.stack([angle, scale, *shift.T]))
    assert (together - torch.eye(4)).abs().max() < 0.08, "each of the four apart from the others"


def test_jitter_keeps_the_brightness_roughly() -> None:
    pictures = as_tensor(load_icons("Codicons"))
    moved = jitter(pictures, seeded())
    assert moved.shape == pictures.shape and moved.dtype == pictures.dtype
    assert moved.min() >= 0 and moved.max() <= 1 + 1e-6
    before, after = (x.mean((1, 2, 3)) for x in (pictures, moved))
    assert after.mean() / before.mean() == pytest.approx(1, abs=0.05)
    assert (after / before).median() == pytest.approx(1, abs=0.05)
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.9
    assert (pictures - moved).abs().mean() > 0.02, "but something moves"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_jitter_is_a_function_of_its_generator_and_does_not_touch_the_pictures(seed: int, n: int) -> None:
    pictures = as_tensor(TEN[:n])
    before = pictures.clone()
    first, again, other = (jitter(pictures, seeded(s)) for s in (seed, seed, seed + 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(pictures, before)


def test_each_picture_of_a_batch_is_moved_in_its_own_way() -> None:
    same = as_tensor(TEN[:1]).expand(6, -1, -1, -1)
    moved = jitter(same, seeded())
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(moved, 2))
