"""What the part `icons` needs beside its scripts: the library's own bytes, its pictures, and what it says of one text."""

import base64
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import chapters
import live
import live_icons
from nextword.book import icons, models
from nextword.contrastive import name_vectors, rank_of

SCRIPT = (chapters.CHAPTERS / "_static" / "live" / "icons.js").read_text(encoding="utf8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("icons")
    stored = json.dumps(live_icons.write(made))
    (made / "live_icons.json").write_text(stored, encoding="utf8")
    return made


@pytest.fixture(scope="module")
def content(folder):
    call = re.fullmatch(
        r'NEXTWORD\.model\("clip_icons", (\{.*\})\);\n', (folder / "clip_icons.js").read_text(encoding="utf8")
    )
    return json.loads(call[1])


@pytest.fixture(scope="module")
def stored(folder):
    return json.loads((folder / "live_icons.json").read_text(encoding="utf8"))


@pytest.fixture(scope="module")
def gallery():
    return live_icons.gallery()


def test_the_script_holds_the_text_encoders_own_bytes(content):
    raw = base64.b64decode(content["base64"])
    assert content["sha256"] == hashlib.sha256(raw).hexdigest()
    written = load(raw)
    vectors = written.pop("gallery")
    with safe_open(models.FOLDER / "clip_icons" / "model.safetensors", "pt") as file:
        theirs = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("vision.")}  # noqa: SIM118
    assert written.keys() == theirs.keys() and any(t.dtype == torch.int8 for t in theirs.values())
    for name, tensor in theirs.items():
        assert written[name].dtype == tensor.dtype and torch.equal(written[name], tensor), name
    assert vectors.dtype == torch.float16 and vectors.shape == (744, 128)
    assert content["config"] == json.loads((models.FOLDER / "clip_icons" / "config.json").read_text())
    assert "Phosphor" in content["card"]["licence"]


def test_half_precision_hardly_changes_what_is_found(content, gallery):
    """Rounded vectors give other cosines in the fifth digit, and the same ten icons for nearly all trained names."""
    rounded = load(base64.b64decode(content["base64"]))["gallery"].float()
    texts = gallery.texts([icon.name for icon in gallery.split.seen])
    exact, mine = texts @ gallery.vectors.T, texts @ rounded.T
    assert (exact - mine).abs().max() < 2e-4
    assert (exact.topk(10).indices == mine.topk(10).indices).all(1).float().mean() >= 0.95


def test_the_gallery_is_that_of_the_chapter(content, gallery):
    split = icons.split_icons("Phosphor")
    assert content["names"] == [icon.name for icon in (*split.seen, *split.new)]
    assert len(set(content["names"])) == len(content["names"])
    assert content["trained"] == len(split.seen)
    assert content["words"] == gallery.words.tokens and len(content["texts"]) == len(content["words"])
    times = dict(zip(content["words"], content["texts"], strict=True))
    assert times["music"] == sum("music" in icon.caption.split() for icon in split.train)
    assert min(content["texts"][4:]) == 1 and content["texts"][:4] == [0] * 4


@pytest.mark.parametrize("which", ["gallery", "example"])
def test_a_sheet_holds_every_pixel_as_its_opacity(content, stored, gallery, which):
    if which == "gallery":
        png, columns, shown = content["sheet"], content["columns"], gallery.icons
    else:
        png, columns = stored["sheet"], len(stored["found"])
        shown = [gallery.icons[i] for i, _, _ in stored["found"]]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))
    assert not sheet[..., :3].any(), "black"
    for n, icon in enumerate(shown):
        y, x = (32 * at for at in divmod(n, columns))
        assert sheet[y : y + 32, x : x + 32, 3].tobytes() == icon.picture, icon.name


def test_it_stays_below_1_8_megabytes(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.8e6


def test_the_stored_example_is_what_the_library_says(stored, gallery):
    texts = name_vectors(gallery.model, [stored["text"]], gallery.words, icons.END_ID)
    best = (texts @ gallery.vectors.T)[0].topk(live_icons.FOUND)
    assert [i for i, _, _ in stored["found"]] == best.indices.tolist()
    assert [cosine for _, _, cosine in stored["found"]] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert all(gallery.icons[i].name == name for i, name, _ in stored["found"])
    names = [icon.name for icon in gallery.split.seen]
    scores = gallery.vectors[stored["icon"]] @ gallery.texts(names).T
    shares = (gallery.model.scale() * scores).softmax(0)
    for name, share, cosine in stored["named"]:
        at = names.index(name)
        assert (share, cosine) == pytest.approx((shares[at].item(), scores[at].item()), abs=1e-4)
    assert stored["icon"] in [i for i, _, _ in stored["found"]] and stored["icon"] < stored["trained"]


def test_how_often_the_right_one_is_found_is_what_the_card_says(stored, gallery):
    card = models.load("clip_icons").card
    first, ten = stored["right"]["seen"]
    assert 100 * first == pytest.approx(card["first"], abs=0.01) and ten > card["five"] / 100
    names = [icon.name for icon in gallery.icons]
    ranks = rank_of(gallery.texts(names) @ gallery.vectors.T, torch.arange(len(names)))
    (first, twelve), (new, _) = stored["right"]["words"]
    assert (ranks[:365] == 1).float().mean().item() == pytest.approx(first, abs=1e-4)
    assert (ranks[:365] <= 12).float().mean().item() == pytest.approx(twelve, abs=1e-4)
    assert (ranks[365:] == 1).float().mean().item() == pytest.approx(new, abs=1e-4)


def test_without_scripts_there_are_icons_and_numbers(stored):
    page = BeautifulSoup(live_icons.fallback("icons", stored), "lxml")
    items = page.select("ol li")
    assert [item.get_text(" ") for item in items] == [f"{name} {cosine:.2f}" for _, name, cosine in stored["found"]]
    assert "data:image/png;base64," in page.ol["style"]
    assert [item.span["style"] for item in items][-1] == "--lv-x: 11; --lv-y: 0"
    rows = [[cell.text for cell in row.select("th, td")] for row in page.select("tbody tr")]
    assert len(rows) == live_icons.NAMED and rows[0][0] == stored["named"][0][0]


def test_a_name_cannot_break_the_page(stored):
    odd = stored | {"text": "<b>&", "found": [[1, "<i>", 0.5]], "icon": 1, "named": [["<u>", 0.5, 0.5]]}
    assert not BeautifulSoup(live_icons.fallback("icons", odd), "lxml").select("b, i, u")


def test_the_prompts_are_those_of_the_chapter():
    listed = re.search(r"const STYLES = \[(.*)\];", SCRIPT)[1]
    assert json.loads(f"[{listed}]") == sorted(icons.STYLES)


def test_it_is_registered():
    assert live.PARTS["icons"] is live_icons


# What the tasks of the part say


def found(gallery, text, k=12):
    scores = (gallery.texts([text]) @ gallery.vectors.T)[0]
    best = scores.topk(k)
    return [gallery.icons[i].name for i in best.indices], best.values.tolist()


def place(gallery, text, name):
    scores = gallery.texts([text]) @ gallery.vectors.T
    return rank_of(scores, torch.tensor([[icon.name for icon in gallery.icons].index(name)])).item()


def test_the_tasks_are_true(gallery):
    names, known = {icon.name for icon in gallery.icons}, gallery.words.ids
    asked = re.findall(r'text: "([^"]+)"', SCRIPT)
    assert asked == ["music", "lock", "compass", "heart arrow", "blorp"], "and what is said below is said of these"
    assert {"music", "weather", "heart", "arrow"} <= set(known) and not names & {"music", "weather", "heart arrow"}
    assert any("music" in name for name in found(gallery, "music")[0])
    locks = found(gallery, "lock")[0]
    assert sum("lock" in name for name in locks) >= 4 and any("bag" in name for name in locks)
    assert {"compass", "clock"} <= {icon.name for icon in gallery.split.seen} and "mail" in known
    assert place(gallery, "compass outline", "compass") < place(gallery, "compass", "compass")
    assert found(gallery, "heart arrow")[0][0] != found(gallery, "arrow heart")[0][0]
    assert "blorp" not in known and "rocket" in known
    assert found(gallery, "blorp")[1][0] > found(gallery, "rocket")[1][0] + 0.1
    assert live_icons.TEXT not in names and live_icons.TEXT in known


def test_a_softmax_gives_all_to_a_list_on_which_nothing_fits(gallery):
    assert 'icon: "camera", list: "own", own: "pizza, dog, hammer"' in SCRIPT
    camera = [icon.name for icon in gallery.icons].index("camera")
    scores = gallery.texts(["pizza", "dog", "hammer", "camera"]) @ gallery.vectors[camera]
    assert scores[:3].max() < 0.1 and (gallery.model.scale() * scores[:3]).softmax(0).max() > 0.9
    assert (gallery.model.scale() * scores).softmax(0)[3] > 0.9
