"""The text encoder of the part `icons` is the library's: same ids, vectors and order of pictures, in a reader's browser.

The comparisons are themselves tested, by bugs planted in clip.js.
"""

import base64
import json
import random
import re
import sys

import pytest
import torch
from browsing import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import live_icons
from nextword.book import browser as strings
from nextword.book import icons
from nextword.contrastive import name_vectors, rank_of

FOLDER = ROOT / "chapters" / "_static" / "live"
ENGINE, CLIP = ((FOLDER / f"{name}.js").read_text(encoding="utf8") for name in ("engine", "clip"))
PROMPTS = ("{}", "{} line", "a thin {}")
CLOSE = 2e-5

LOAD = """([{ config, words, base64 }, quick]) => {
  const engine = nextwordEngine();
  window.clip = nextwordCLIP(engine);
  const { gallery, ...weights } = engine.readSafetensors(engine.bytesOf(base64));
  window.encoder = new clip.CLIPTexts(config, weights, quick);
  window.words = new clip.Words(words);
  return encoder.linear !== engine.linear;
}"""
IDS = "(texts) => texts.map((text) => words.encode(text))"
VECTORS = "([texts, prompts]) => texts.map((text) => [...clip.textVector(encoder, words, text, prompts)])"
COSINES = """([vectors, gallery]) => {
  const pictures = Float32Array.from(gallery.flat());
  return vectors.map((vector) => [...clip.cosines(Float32Array.from(vector), pictures)]);
}"""
CHOICES = """(rows) => rows.map((row, right) => {
  const scores = Float32Array.from(row);
  return { shares: [...clip.shares(scores, encoder.scale)], place: clip.placeOf(scores, right) };
})"""
REFUSES = """([config, cut]) => {
  const weights = Object.fromEntries(Object.entries(encoder.weights).filter(([name]) => name !== cut));
  try { new clip.CLIPTexts(config, weights); return ""; } catch (error) { return `${error.name}: ${error.message}`; }
}"""


@pytest.fixture(scope="module")
def gallery():
    return live_icons.gallery()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Return what the page's script hands over."""
    folder = tmp_path_factory.mktemp("icons")
    live_icons.write(folder)
    script = (folder / "clip_icons.js").read_text(encoding="utf8")
    return json.loads(script[script.index("{") : script.rindex(")")])


@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def texts(gallery):
    """Return names, rows of words of all lengths, and what people may type."""
    draw, known = random.Random(0), gallery.words.tokens[4:]
    rows = [" ".join(draw.choices([*known, "blorp", "Heart"], k=draw.randrange(1, 19))) for _ in range(120)]
    odd = ["", " ", "blorp", "heart <b>arrow</b>", "☕ cup", "$$ heart", "<end> <pad> <unk>", "Ünïcode 365 24"]
    return [*(icon.name for icon in gallery.icons[::3]), *rows, *odd]


def load(page, content, source=CLIP, quick=True):
    """Load the encoder whose source is given; return whether its sums run in WebAssembly."""
    page.set_content("<!doctype html><meta charset=utf-8>")
    for script in (ENGINE, source):
        page.add_script_tag(content=script)
    return page.evaluate(LOAD, [{key: content[key] for key in ("config", "words", "base64")}, quick])


def vectors(page, texts, prompts=("{}",)):
    return torch.tensor(page.evaluate(VECTORS, [list(texts), list(prompts)]))


def differing_ids(page, gallery, texts):
    odd = [*strings.strange_strings(1200), *texts]
    return sum(a != gallery.words.encode(text) for a, text in zip(page.evaluate(IDS, odd), odd, strict=True))


def differing_vectors(page, gallery, texts):
    some = texts[200:]  # some names, and all others
    return (vectors(page, some) - gallery.texts(some)).abs().max().item() / CLOSE


def differing_means(page, gallery, texts):
    wanted = name_vectors(gallery.model, texts[-40:], gallery.words, icons.END_ID, prompts=PROMPTS)
    return (vectors(page, texts[-40:], PROMPTS) - wanted).abs().max().item() / CLOSE


def scores_of(gallery):
    scores = gallery.vectors[:60] @ gallery.texts([icon.name for icon in gallery.icons[:60]]).T
    scores[3] = scores[3, 3]  # all are equal, and none is higher
    return scores


def differing_shares(page, gallery, _):
    scores = scores_of(gallery)
    shares = (gallery.model.scale().detach() * scores).softmax(1)
    mine = [row["shares"] for row in page.evaluate(CHOICES, scores.tolist())]
    return (torch.tensor(mine) - shares).abs().max().item() / 1e-5


def differing_places(page, gallery, _):
    scores = scores_of(gallery)
    wanted = rank_of(scores, torch.arange(len(scores))).tolist()
    return sum(
        row["place"] != place for row, place in zip(page.evaluate(CHOICES, scores.tolist()), wanted, strict=True)
    )


COMPARISONS = {
    "ids": differing_ids,
    "vectors": differing_vectors,
    "means": differing_means,
    "shares": differing_shares,
    "places": differing_places,
}
"""Each gives a number below 1 where page and library agree."""


@pytest.mark.parametrize("quick", [True, False], ids=["webassembly", "plain"])
def test_the_part_computes_what_the_library_computes(page, content, gallery, texts, quick, capsys):
    assert load(page, content, quick=quick) == quick
    for name, compare in COMPARISONS.items():
        assert compare(page, gallery, texts) < 1, name
    mine, theirs = vectors(page, texts), gallery.texts(texts)
    scores = torch.tensor(page.evaluate(COSINES, [mine.tolist(), gallery.vectors.tolist()]))
    wanted = theirs @ gallery.vectors.T
    largest = [(a - b).abs().max().item() for a, b in ((mine, theirs), (scores, wanted))]
    best = wanted.topk(live_icons.FOUND + 1)
    clear = (best.values[:, :-1] - best.values[:, 1:]).min(1).values > 2 * largest[1]  # equals may stand either way
    same = scores.topk(live_icons.FOUND).indices == best.indices[:, : live_icons.FOUND]
    with capsys.disabled():
        way = "webassembly" if quick else "plain"
        print(f"\n  {way}: {len(texts)} texts, vectors within {largest[0]:.1e}, cosines {largest[1]:.1e}", end="; ")
        print(f"first {live_icons.FOUND} alike for {same.all(1).sum()}")
    assert max(largest) < CLOSE
    assert clear.sum() > 0.9 * len(texts)
    assert same[clear].all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "Decoder"), ("format", 2), ("norm", "rms"), ("vocab_size", 3000), ("n_layers", 1), ("d_embed", 64)],
)
def test_a_model_that_it_does_not_have_is_refused(page, content, field, value):
    load(page, content)
    assert page.evaluate(REFUSES, [content["config"], ""]) == ""
    told = page.evaluate(REFUSES, [content["config"] | {field: value}, ""])
    assert re.match(rf"TypeError: ({field}|embedding|output) ", told), told


PLANTED = {
    "GELU by tanh": ("exactGelu, softmax", "gelu: exactGelu, softmax", "vectors"),
    "tokens that see later ones": ("(t) => t + 1)", "() => T)", "vectors"),
    "positions that begin at one": ("places[t * C + i]", "places[(t + 1) * C + i]", "vectors"),
    "read at the first token": ("x.subarray((T - 1) * C)", "x.subarray(0, C)", "vectors"),
    "no end token": ("[...ids.slice(0, context_length - 1), END]", "[...ids.slice(0, context_length - 1), 0]", "vectors"),
    "a text cut too early": ("ids.slice(0, context_length - 1)", "ids.slice(0, context_length - 2)", "vectors"),
    "attention without its norm": ("y = this.norm(`${block}.attention_norm`, x)", "y = x", "vectors"),
    "no last norm": ('this.norm("norm", end)', "end", "vectors"),
    "keys and queries exchanged": ("[queries, keys, values] =", "[keys, queries, values] =", "vectors"),
    "a larger epsilon": ("const EPS = 1e-5", "const EPS = 1e-3", "vectors"),
    "one layer too few": ("layer < n_layers; layer++", "layer < n_layers - 1; layer++", "vectors"),
    "a mean that stays short": ("return unitLength(mean);", "return mean;", "means"),
    "the last prompt alone": ("mean[i] += vector[i] / prompts.length", "mean[i] = vector[i]", "means"),
    "patterns in a text": ('prompt.replace("{}", () => text)', 'prompt.replace("{}", text)', "vectors"),
    "unknown words left out": ("this.split(text).map((word) => this.ids.get(word) ?? UNKNOWN)", "this.split(text).map((word) => this.ids.get(word)).filter(Boolean)", "ids"),
    "capitals read as small": ("text.match(PIECES)", "text.toLowerCase().match(PIECES)", "ids"),
    "JavaScript's own blanks": ("[^\\p{White_Space}\\p{L}\\p{N}]", "[^\\s\\p{L}\\p{N}]", "ids"),
    "numbers that are words": ("\\p{L}+|\\p{N}+", "[\\p{L}\\p{N}]+", "ids"),
    "cosines as scores": ("scale * cosine", "cosine", "shares"),
    "equals that count as higher": ("score > scores[right]", "score >= scores[right]", "places"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught_by_its_own_comparison(page, content, gallery, texts, name):
    right, wrong, caught_by = PLANTED[name]
    assert CLIP.count(right) == 1, f"{name}: clip.js no longer has the line {right!r}"
    load(page, content, CLIP.replace(right, wrong))
    assert not COMPARISONS[caught_by](page, gallery, texts) < 1  # NaN is caught, too


def test_the_matrices_are_the_librarys(content, gallery):
    """What is compared above is read from the very bytes of the model that the library loads."""
    assert len(base64.b64decode(content["base64"])) < 1.1e6
    assert content["words"] == gallery.words.tokens
