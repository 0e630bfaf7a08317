"""The translators of the chapters are the library's: same ids, ln p, looks and translations, in the browser that readers use.

The comparison is itself tested, by bugs planted in translators.js.
"""

import base64

import numpy as np
import pytest
import torch
from browsing import ROOT

from nextword import checkpoints, data
from nextword.attention import capture_attention
from nextword.book.browser import compare_tokenizer, engine_in, strange_strings
from nextword.generation import beam_search
from nextword.translation import TranslationTokenizer

FOLDER = ROOT / "chapters" / "_static" / "live"
ENGINE, TRANSLATORS = ((FOLDER / f"{name}.js").read_text(encoding="utf8") for name in ("engine", "translators"))
KINDS = {"gnmt_en_es": "GNMT", "transformer_en_es": "Transformer"}
SENTENCES, FEW, EXTRA = 50, 6, 20
MUTED = 5  # of each so many sentences one is read with each head muted in turn
LIMITS = {"score": 1e-4, "steps": 1e-4, "attention": 1e-5, "greedy": 0.5, "muted": 1e-4}

LOAD = """([kind, config, base64, quick]) => {
  const engine = nextwordEngine();
  window.translators = nextwordTranslators(engine);
  window.model = new translators[kind](JSON.parse(config), engine.readSafetensors(engine.bytesOf(base64)), quick);
  return model.quick;
}"""
ANSWERS = """([pairs, start, end, extra, heads, every]) => pairs.map(([source, target], n) => {
  const { score, translate, meanOf } = translators, at = { start, end, longest: source.length + extra };
  const packed = (rows) => {  // as base64: numbers in JSON would be ten times as long
    let bytes = "";
    for (const row of rows) for (const byte of new Uint8Array(Float32Array.from(row).buffer)) bytes += String.fromCharCode(byte);
    return btoa(bytes);
  };
  const forced = new Map(target.map((id, t) => [t, id]));
  const read = score(model, source, target, { start }), steps = translate(model, source, { ...at, longest: target.length, forced });
  const muted = (n % every ? [] : heads).map((name) => score(model, source, target, { start, mute: new Set([name]) }).next.map((row, t) => row[target[t]]));
  return {
    score: packed(read.next), steps: packed(steps.next), attention: packed(meanOf(read.maps)), muted: packed(muted),
    heads: packed(read.maps.flat(2)), greedy: translate(model, source, at).ids,
  };
})"""


@pytest.fixture(scope="module")
def tokenizer():
    return TranslationTokenizer.from_bpe(checkpoints.load("gnmt_en_es").tokenizer)


@pytest.fixture(scope="module")
def pairs(tokenizer):
    """Return sentences and their references as ids, spread over the test sentences, with the end token."""
    test = data.load_tatoeba("test")
    some = test[:: len(test) // SENTENCES][:SENTENCES]
    assert len(some) == SENTENCES
    return [(source, [*target, tokenizer.eos_id]) for source, target in tokenizer.encode_pairs(some)]


@pytest.fixture(scope="module")
def theirs(tokenizer, pairs):
    """Return what the library says to each pair, in float32: ``translate`` would round to bfloat16 where that is faster."""
    found = {}
    for name in KINDS:
        model = checkpoints.load(name).model
        found[name] = [answer(model, tokenizer, *pair, muting=n % MUTED == 0) for n, pair in enumerate(pairs)]
    return found


def answer(model, tokenizer, source, target, *, muting):
    """Return the library's ln p of every next word, its looks, its greedy translation, and ln p with each head muted."""
    one, read = torch.tensor([source]), torch.tensor([[tokenizer.bos_id, *target[:-1]]])
    step = model.step(one)
    [greedy] = beam_search(step, tokenizer.bos_id, tokenizer.eos_id, max_length=len(source) + EXTRA, beam=1, alpha=0)
    with torch.inference_mode():
        hidden, mean = model.decode_with_attention(read, model.encode(one))
        log_p = model.output(hidden)[0].log_softmax(-1)
        heads, muted = mean, []
        if hasattr(model.config, "n_heads"):
            crossing = [layer.cross_attention for layer in model.decoder]
            with capture_attention(crossing) as maps:
                model(one, read)
            heads = torch.stack(maps)  # (L, 1, H, T, S)
            for layer in crossing if muting else []:
                for head in layer.out.weight.split(layer.d_model // layer.n_heads, dim=1):  # (C, D): what it brings
                    kept = head.clone()
                    head.zero_()
                    muted.append(model(one, read).logits[0].log_softmax(-1)[range(len(target)), target])
                    head.copy_(kept)
    return {
        "score": log_p, "steps": log_p, "attention": mean, "heads": heads, "greedy": greedy.ids,
        "muted": torch.stack(muted) if muted else torch.empty(0),
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


def load(page, name, source=TRANSLATORS, quick=True):
    """Load a translator; return whether its sums run in WebAssembly."""
    page.set_content("<!doctype html><meta charset=utf-8>")
    for script in (ENGINE, source):
        page.add_script_tag(content=script)
    folder = checkpoints.BUNDLED / name
    content = base64.b64encode((folder / "model.safetensors").read_bytes()).decode()
    return page.evaluate(LOAD, [KINDS[name], (folder / "config.json").read_text(encoding="utf8"), content, quick])


def differences(page, tokenizer, pairs, theirs):
    """Return by how much the numbers differ at most, and how many greedy translations do."""
    heads = [f"{layer}.{head}" for layer in range(2) for head in range(4)] if theirs[0]["muted"].numel() else []
    mine = page.evaluate(ANSWERS, [pairs, tokenizer.bos_id, tokenizer.eos_id, EXTRA, heads, MUTED])
    found = dict.fromkeys(LIMITS, 0.0)
    for ours, right in zip(mine, theirs, strict=True):
        for what in ("score", "steps", "attention", "heads", "muted"):
            numbers = np.frombuffer(base64.b64decode(ours[what]), dtype="<f4")
            wanted = right[what].double().numpy().ravel()
            assert numbers.shape == wanted.shape, what
            far = np.abs(numbers - wanted).max(initial=0)
            to = "attention" if what == "heads" else what
            found[to] = max(found[to], float(far) if np.isfinite(far) else float("inf"))
        found["greedy"] += ours["greedy"] != right["greedy"]
    return found


def faults(found):
    return {what for what, limit in LIMITS.items() if not found[what] < limit}


@pytest.mark.parametrize("quick", [True, False], ids=["webassembly", "plain"])
@pytest.mark.parametrize("name", KINDS)
def test_a_translator_computes_what_the_library_computes(page, tokenizer, pairs, theirs, name, quick, capsys):
    assert load(page, name, quick=quick) == quick
    found = differences(page, tokenizer, pairs, theirs[name])
    with capsys.disabled():
        told = ", ".join(f"{what} {value:.1e}" for what, value in found.items())
        print(f"\n  {name}, {'webassembly' if quick else 'plain'}, {len(pairs)} sentences: {told}")
    assert faults(found) == set()
    assert (name == "gnmt_en_es") == (found["muted"] == 0), "only the Transformer has heads to mute"


def test_sentences_become_the_same_ids(browser, tokenizer):
    page = browser.new_page()
    sentences = [f" {text}" for pair in data.load_tatoeba("test") for text in pair[:2]]
    assert tokenizer.encode(sentences[0][1:]) == tokenizer.base.encode_ordinary(sentences[0])
    engine = engine_in(page, ENGINE)
    assert compare_tokenizer(engine, "gnmt_en_es", [*sentences, *strange_strings(500)]) == 0
    page.close()


PLANTED = {
    "words without √C": ("x.map((value) => value * Math.sqrt(C))", "x", "score"),
    "a sine where a cosine stands": ("column % 2 ? Math.cos(angle) : Math.sin(angle)", "column % 2 ? Math.sin(angle) : Math.cos(angle)", "score"),
    "another angle for each cosine": ("10000 ** (-even / C)", "10000 ** (-column / C)", "score"),
    "places that begin anew": ("(start + Math.floor(i / C))", "Math.floor(i / C)", "steps"),
    "a cache that does not count": ("state.length += T;", "", "steps"),
    "words that see later ones": ("start + t + 1;", "start + T;", "score"),
    "no ReLU": ("Math.max(0, value)", "value", "score"),
    "no residual": ("this.norm(name, plus(x, y))", "this.norm(name, y)", "score"),
    "another epsilon": ("EPS = 1e-5", "EPS = 1e-3", "score"),
    "heads that cannot be muted": ("() => memory.S, silent)", "() => memory.S)", "muted"),
    "input and forget gate exchanged": ("sigmoid(sum(1, i)) * c[i] + sigmoid(sum(0, i))", "sigmoid(sum(0, i)) * c[i] + sigmoid(sum(1, i))", "score"),
    "no tanh of the cell": ("sigmoid(sum(3, i)) * Math.tanh(c[i])", "sigmoid(sum(3, i)) * c[i]", "score"),
    "backwards, and not turned round": ('reversed(alone("backward_lstm", reversed(words, S), C / 2), S)', 'alone("backward_lstm", reversed(words, S), C / 2)', "score"),
    "a decoder that begins with nothing": ("this.begin(last)", "this.begin(new Float32Array(last.length))", "score"),
    "attention without tanh": ("v[i] * Math.tanh(asked[t * C + i] + keys[s * C + i])", "v[i] * (asked[t * C + i] + keys[s * C + i])", "attention"),
    "upper layers without the context": ("beside(x, contexts, T), T, state[i])", "beside(x, x, T), T, state[i])", "score"),
    "no bias of the words": ('this.weights["output.bias"]', "null", "score"),
    "a mean over one layer": ("all = maps.flat();", "all = maps[0];", "attention"),
    "the first word of equals and others": ("Math.max(best, value)", "Math.min(best, value)", "greedy"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught_by_its_own_comparison(page, tokenizer, pairs, theirs, bug):
    right, wrong, caught_by = PLANTED[bug]
    assert TRANSLATORS.count(right) == 1, f"{bug}: translators.js no longer has {right!r}"
    found = set()
    for name in KINDS:
        load(page, name, TRANSLATORS.replace(right, wrong))
        found |= faults(differences(page, tokenizer, pairs[:FEW], theirs[name][:FEW]))
    assert caught_by in found


REFUSED = {
    "transformer_en_es": {"norm_position": "pre", "positions": "learned", "activation": "gelu", "attention_bias": True},
    "gnmt_en_es": {"attention": "bahdanau", "residual_from": 3, "output_norm": False, "share_embeddings": False},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_model_that_this_file_does_not_have_is_refused(page, name):
    load(page, name)
    attempt = """([kind, field, value]) => {
      try { new translators[kind]({ ...model.config, [field]: value }, {}); return ""; } catch (e) { return `${e}`; }
    }"""
    for field, value in {**REFUSED[name], "model": "Decoder", "source_vocab": 1}.items():
        told = page.evaluate(attempt, [KINDS[name], field, value])
        assert told.startswith(f"TypeError: {field} is"), told
