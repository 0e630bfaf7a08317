"""The networks of the part `gap` are the library's: same scores, same order of words, in the browser that readers use.

The comparison is itself tested, by bugs planted in encoder.js.
"""

import base64
import json
import random

import pytest
import torch
from browsing import ROOT

from nextword import data
from nextword.book import models

FOLDER = ROOT / "chapters" / "_static" / "live"
ENGINE, ENCODER = ((FOLDER / f"{name}.js").read_text(encoding="utf8") for name in ("engine", "encoder"))
NETWORKS = ("bert_both_ways", "bert_left_to_right")
CLOSE = 1e-4
STEP = 16  # of the scores at a place every 16th is compared: else there would be too many to send
BEST = 6

LOAD = """([config, base64, quick]) => {
  const engine = nextwordEngine(), { MaskedLM } = nextwordEncoder(engine);
  window.model = new MaskedLM(config, engine.readSafetensors(engine.bytesOf(base64)), quick);
  return window.model.linear !== engine.linear;
}"""
SCORES = """([rows, step]) => rows.map(({ ids, segments, places }) => {
  const V = model.config.vocab_size, all = model.logits(model.read(ids, segments), places);
  const { highest } = nextwordParts();
  return places.map((_, n) => {
    const row = all.subarray(n * V, (n + 1) * V);
    return { some: [...row.filter((_, i) => i % step === 0)], best: highest(row, 6) };
  });
})"""


@pytest.fixture(scope="module")
def rows():
    """Return texts that no network has read: some words hidden, some of them in the second segment, one of full length."""
    bpe = models.load(NETWORKS[0]).tokenizer
    start, mask = bpe.special_tokens["<|endoftext|>"], bpe.vocab_size
    draw, found = random.Random(0), []
    for number, text in enumerate(draw.sample(data.load_prose("valid"), 60)):
        ids = [start, *bpe.encode(text)][: 128 if number == 0 else 60]
        hidden = draw.sample(range(1, len(ids)), min(len(ids) - 1, 1 + number % 3))
        places = sorted({*hidden, len(ids) - 1})
        ids = [mask if t in hidden else i for t, i in enumerate(ids)]
        segments = [int(number % 4 == 3 and t > len(ids) // 2) for t in range(len(ids))]
        found.append({"ids": ids, "segments": segments, "places": places})
    assert len({len(row["places"]) for row in found}) == 4
    return found


@pytest.fixture(scope="module")
def theirs(rows):
    """Return what the library says at each place of each text."""
    found = {}
    for name in NETWORKS:
        model = models.load(name).model
        with torch.inference_mode():
            found[name] = [
                model(torch.tensor([row["ids"]]), torch.tensor([row["segments"]])).logits[0, row["places"]]
                for row in rows
            ]
    return found


@pytest.fixture
def page(browser):
    page = browser.new_page()
    page.goto((ROOT / "chapters" / "_static" / "live" / "live.css").as_uri())  # parts.js asks where it lies
    yield page
    page.close()


def load(page, name, source=ENCODER, quick=True):
    """Load a network; return whether its sums run in WebAssembly."""
    page.set_content("<!doctype html><meta charset=utf-8>")
    parts = (FOLDER / "parts.js").read_text(encoding="utf8").replace("document.currentScript.src", "location.href")
    for script in (ENGINE, parts, source):
        page.add_script_tag(content=script)
    folder = models.FOLDER / name
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    content = base64.b64encode((folder / "model.safetensors").read_bytes()).decode()
    return page.evaluate(LOAD, [config, content, quick])


def differences(page, rows, theirs):
    """Return by how much scores differ at most, and at how many places the order of the best words does."""
    largest, unordered = 0.0, 0
    for mine, scores in zip(page.evaluate(SCORES, [rows, STEP]), theirs, strict=True):
        for place, row in zip(mine, scores, strict=True):
            largest = max(largest, (torch.tensor(place["some"]) - row[::STEP]).abs().max().item())
            order = row.topk(BEST + 1)
            clear = (order.values[:-1] - order.values[1:]).min() > CLOSE  # equals may stand either way
            unordered += clear and order.indices[:BEST].tolist() != place["best"]
    return largest, unordered


@pytest.mark.parametrize("quick", [True, False], ids=["webassembly", "plain"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_part_computes_what_the_library_computes(page, rows, theirs, name, quick, capsys):
    assert load(page, name, quick=quick) == quick
    largest, unordered = differences(page, rows, theirs[name])
    with capsys.disabled():
        print(f"\n  {name}, {'webassembly' if quick else 'plain'}: {len(rows)} texts, logits within {largest:.1e}")
    assert largest < CLOSE
    assert unordered == 0


PLANTED = {
    "GELU by tanh": ("exactGelu, attention }", "gelu: exactGelu, attention }"),
    "positions turned the other way": ("x[a] * cos - x[a + 1] * sin, x[a] * sin + x[a + 1] * cos", "x[a] * cos + x[a + 1] * sin, x[a + 1] * cos - x[a] * sin"),
    "pairs of halves": ("10000 ** (-pair / D)", "10000 ** (-pair / C)"),
    "values that are turned": ("const values = this.affine(`${name}.value`, x, T);", "const values = rotate(this.affine(`${name}.value`, x, T), C, n_heads);"),
    "keys that are not": ("const keys = rotate(this.affine(`${name}.key`, x, T), C, n_heads);", "const keys = this.affine(`${name}.key`, x, T);"),
    "no segments": (" + texts[segments[t] * C + i]", ""),
    "one segment for all": ("texts[segments[t] * C + i]", "texts[i]"),
    "no norm of the embeddings": ('x = this.norm("encoder.embedding_norm", x);', ""),
    "pre-norm": ("x = this.norm(`${block}.attention_norm`, sum(x, this.attend(`${block}.attention`, x, T)));", "x = sum(x, this.attend(`${block}.attention`, this.norm(`${block}.attention_norm`, x), T));"),
    "a residual that is lost": ("sum(x, this.affine(`${block}.feed_forward.down`, hidden, T))", "this.affine(`${block}.feed_forward.down`, hidden, T)"),
    "the future left open": ("(causal ? t + 1 : T)", "T"),
    "both sides shut": ("(causal ? t + 1 : T)", "(t + 1)"),
    "a head without its norm": ('this.norm("transform_norm", exactGelu(this.affine("transform", rows, n)))', 'exactGelu(this.affine("transform", rows, n))'),
    "a head without GELU": ('exactGelu(this.affine("transform", rows, n))', 'this.affine("transform", rows, n)'),
    "words without a bias": ('this.weights["output.bias"]', "null"),
    "the place before": ("hidden.subarray(t * C, (t + 1) * C)", "hidden.subarray((t - 1) * C, t * C)"),
}  # fmt: skip
SILENT = {"the future left open": "bert_left_to_right"}  # what the other network would not notice


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_bug_is_caught(page, rows, theirs, planted):
    right, wrong = PLANTED[planted]
    assert ENCODER.count(right) == 1, f"{planted}: encoder.js no longer has {right!r}"
    name = SILENT.get(planted, "bert_both_ways")
    load(page, name, ENCODER.replace(right, wrong))
    some = slice(0, 12)
    assert not differences(page, rows[some], theirs[name][some])[0] < CLOSE


def test_a_model_that_it_does_not_have_is_refused(page):
    load(page, NETWORKS[0])
    config = json.loads((models.FOLDER / NETWORKS[0] / "config.json").read_text(encoding="utf8"))
    others = {"model": "Decoder", "norm_position": "pre", "activation": "gelu_tanh", "positions": "learned"}
    for field, value in {**others, "d_ff": 64, "causal": None}.items():
        told = page.evaluate(
            "(config) => { const { MaskedLM } = nextwordEncoder(nextwordEngine());"
            " try { new MaskedLM(config, {}); return ''; } catch (e) { return `${e.name}: ${e.message}`; } }",
            config | {field: value},
        )
        assert told.startswith(f"TypeError: {field} "), told


def test_a_text_that_is_too_long_is_refused(page):
    load(page, NETWORKS[0])
    assert "at most 128" in page.evaluate(
        "() => { try { model.read(Array(129).fill(1)); return ''; } catch (e) { return e.message; } }"
    )
