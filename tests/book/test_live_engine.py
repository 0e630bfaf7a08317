"""The engine of the page `live` is the library: same ids, scores, words and draws, in the browser that readers use.

What compares them are the functions that the chapter shows. They are themselves tested, by bugs planted in the engine.
"""

import base64
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import wasmtime

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import record
from nextword.attention import capture_attention
from nextword.decoder import Decoder

FOLDER = ROOT / "chapters" / "_static" / "live"
ENGINE = (FOLDER / "engine.js").read_text(encoding="utf8")
MODELS = ("nextword-small", "nextword-medium", "nextword-large")


@pytest.fixture(scope="module")
def recorded():
    """Return the chapter's recorded cells, executed."""
    return record.namespace("live")


@pytest.fixture
def functions(recorded, browser, monkeypatch):
    """Return them with the browser that all tests share: one process has room for one Playwright."""

    @contextmanager
    def open_engine(source):
        page = browser.new_page()
        yield recorded["browser"].engine_in(page, source)
        page.close()

    monkeypatch.setattr(recorded["browser"], "open_engine", open_engine)
    return recorded


def compare(functions, engine, folder, what):
    """Return what the chapter's functions measure of an engine, as far as ``what`` is among it."""
    (folder / "engine.js").write_text(engine, encoding="utf8")
    functions["PAGE"] = folder
    if what in ("wrong", "nats"):
        return functions["record_strings" if what == "wrong" else "record_counts"](MODELS[0])
    return functions["record_parity"](MODELS[0], True)


def faults(found):
    """Return which comparisons fail."""
    limits = {"logits": 1e-4, "greedy": 0.5, "filters": 1e-5, "wrong": 0.5, "nats": 1e-4}
    return {name for name, limit in limits.items() if name in found and not found[name] < limit}


@pytest.mark.parametrize("quick", [True, False], ids=["webassembly", "plain"])
@pytest.mark.parametrize("model", MODELS)
def test_the_page_computes_what_the_library_computes(functions, model, quick):
    functions["PAGE"] = FOLDER
    found = functions["record_parity"](model, quick)
    print(model, "webassembly" if quick else "plain", found)
    assert faults(found) == set()


def test_it_reads_all_of_unicode_and_counts_as_the_library_does(functions):
    functions["PAGE"] = FOLDER
    strings, counted = functions["record_strings"](MODELS[0]), functions["record_counts"](MODELS[0])
    assert strings["strings"] >= 2000 and strings["wrong"] == 0
    assert counted["nats"] < 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_the_attention_that_the_page_shows_is_the_librarys(functions, model):
    decoder, rows = (
        Decoder.from_pretrained(model),
        functions["fifty_rows"](functions["checkpoints"].load(model).tokenizer),
    )
    with functions["browser"].open_engine(ENGINE) as engine:
        engine.load(model)
        shown = [
            torch.tensor(row["attention"], dtype=torch.float32) for row in engine.logits(model, rows)
        ]  # (layers, heads, T) each
    for ids, theirs in zip(rows, shown, strict=True):
        with capture_attention([block.attention for block in decoder.blocks]) as maps, torch.inference_mode():
            decoder(torch.tensor([ids]))
        torch.testing.assert_close(theirs, torch.stack([each[0, :, -1] for each in maps]).float(), atol=1e-5, rtol=0)


SUMS = """(sizes) => {
  const engine = nextwordEngine(), numbers = (n) => Float32Array.from({ length: n }, (_, i) => Math.sin(i + n));
  return Math.max(...sizes.map(([T, I, O]) => {
    const weights = { W: numbers(O * I) }, quick = engine.quickLinear(weights), x = numbers(T * I), b = numbers(O);
    const plain = engine.linear(x, T, weights.W, b);
    return Math.max(...quick(x, T, weights.W, b).map((value, i) => Math.abs(value - plain[i])));
  }));
}"""


def test_webassembly_sums_are_right_whatever_four_divides(browser):
    page = browser.new_page()
    page.add_script_tag(content=ENGINE)
    sizes = [[rows, read, made] for rows in (1, 3, 4, 16, 21) for read in (16, 78) for made in (20, 21)]
    assert page.evaluate(SUMS, sizes) < 1e-5
    page.close()


def test_the_error_function_is_as_exact_as_it_says(browser):
    page = browser.new_page()
    page.add_script_tag(content=ENGINE)
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    mine = page.evaluate("(x) => x.map(nextwordEngine().erf)", x.tolist())
    assert (torch.tensor(mine, dtype=torch.float64) - x.erf()).abs().max() < 1.5e-7
    page.close()


PLANTED = {
    "GELU by a sigmoid": (
        "0.5 * x[i] * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x[i] + 0.044715 * x[i] ** 3)))",
        "x[i] / (1 + Math.exp(-1.702 * x[i]))",
        "logits",
    ),
    "another epsilon": ("1 / Math.sqrt(variance + eps)", "1 / Math.sqrt(variance + 2 * eps)", "logits"),
    "another scale of scores": ("dot / Math.sqrt(D)", "dot / Math.sqrt(D + 0.01)", "logits"),
    "a cache that is read from the start": ("keys.set(affine(\"attention.key\", x), start * C)", "keys.set(affine(\"attention.key\", x), 0)", "logits"),
    "positions that begin anew": ('w["positions.weight"][(start + t) * C + i]', 'w["positions.weight"][t * C + i]', "logits"),
    "a position that does not see itself": ("for (let s = 0; s < row.length && !silent(head); s++)", "for (let s = 0; s < row.length - 1 && !silent(head); s++)", "logits"),
    "rows that are left over": ("if (n > m) dots(", "if (n > m + 4) dots(", "logits"),
    "scales of the wrong row": ("scale[Math.floor(i / width)]", "scale[i % scale.length]", "logits"),
    "top-p without the word that crosses": ("share += kept[m++];", "share += kept[m++]; if (topP < 1 && m > 1) m--;", "filters"),
    "the temperature after top-p": ("logits[id] / temperature", "logits[id] / (topP < 1 ? 1 : temperature)", "filters"),
    "JavaScript's own blanks": ('.replaceAll("\\\\s", "\\\\p{White_Space}")', "", "wrong"),
    "a byte order mark that is swallowed": (", { ignoreBOM: true }", "", "wrong"),
    "merges in the order of the text": ("if (rank < best) [best, at] = [rank, i];", "if (rank !== undefined) [best, at] = [rank, i];", "wrong"),
    "counts without a discount": ("(counts[i] - D) / total", "counts[i] / total", "nats"),
    "counts that forget what was left out": ("let total = left[h];", "let total = 0;", "nats"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught_by_its_own_comparison(functions, tmp_path, name):
    right, wrong, caught_by = PLANTED[name]
    assert ENGINE.count(right) == 1, f"{name}: the engine no longer has the line {right!r}"
    assert caught_by in faults(compare(functions, ENGINE.replace(right, wrong), tmp_path, caught_by))


def test_a_model_that_the_engine_does_not_have_is_refused(functions):
    with functions["browser"].open_engine(ENGINE) as engine:
        for field, value in {
            "positions": "rope",
            "norm_position": "post",
            "activation": "relu",
            "n_kv_heads": 1,
        }.items():
            config = {"model": "Decoder", "norm": "layer", "norm_position": "pre", "activation": "gelu_tanh"}
            config |= {"positions": "learned", "tie_embeddings": True, "bias": True, "n_kv_heads": None, "d_ff": None}
            told = engine.page.evaluate(
                "(config) => { try { new (nextwordEngine().Decoder)(config, {}); return ''; } catch (e) { return e.message; } }",
                config | {field: value},
            )
            assert told.startswith(field) and "only" in told


def without_names(module):
    """Return a WebAssembly module without its custom sections, such as the names of its variables."""
    kept, at = bytearray(module[:8]), 8
    while at < len(module):
        kind, size, shift, start = module[at], 0, 0, at
        at += 1
        while True:
            byte = module[at]
            size, shift, at = size | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                break
        if kind:
            kept += module[start : at + size]
        at += size
    return bytes(kept)


def test_the_webassembly_in_the_engine_is_the_source_that_lies_beside_it():
    declared = re.search(r"const DOTS =\s*(.*?);", ENGINE, re.S)[1]
    there = base64.b64decode("".join(re.findall(r'"([^"]+)"', declared)))
    assert without_names(bytes(wasmtime.wat2wasm((FOLDER / "dots.wat").read_text()))) == there
