"""The engine of the page ``live`` in a real browser, so that it can be compared with the library number by number.

Needs Playwright and a Chromium; nothing is fetched.

Used in: live.
"""

from __future__ import annotations

import base64
import random
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextword import checkpoints

if TYPE_CHECKING:
    from playwright.sync_api import Page

STEP = 64
"""Of each row of scores every 64th is compared, of the last position's row all: else there would be too many to send."""

SETTINGS = [
    (1.0, None, 1.0),
    (0.5, None, 1.0),
    (1.7, None, 1.0),
    (1.0, 40, 1.0),
    (1.0, None, 0.9),
    (0.7, 10, 0.5),
    (1.3, 100, 0.95),
    (0.0, None, 1.0),
    (1.0, 1, 1.0),
    (1.0, 4000, 0.01),
]
"""Temperatures, top-k and top-p with which what may be drawn is compared."""

_LOAD = """([name, config, base64, quick]) => {
  const engine = window.engine ??= nextwordEngine();
  const tensors = engine.readSafetensors(engine.bytesOf(base64));
  (window.models ??= {})[name] = new engine.Decoder(JSON.parse(config), tensors, quick);
  return window.models[name].linear !== engine.linear;
}"""
_LOGITS = """([name, rows, step]) => rows.map((ids) => {
  const model = window.models[name], memory = model.newMemory(), V = model.config.vocab_size;
  const scores = [];  // in slices, so that the cache is a part of what is compared
  for (let t = 0; t < ids.length; t += 16) scores.push(...model.logits(model.read(ids.slice(t, t + 16), memory)));
  const some = scores.filter((_, i) => (i % V) % step === 0);
  return { some, last: scores.slice(-V), attention: memory.attention.map((heads) => heads.map((r) => [...r.at(-1)])) };
})"""
_GREEDY = """([name, ids, n]) => {
  const model = window.models[name], memory = model.newMemory(), V = model.config.vocab_size;
  let scores = model.logits(model.read(ids, memory)).slice(-V);
  for (let i = 0; i < n; i++) {
    const next = scores.indexOf(scores.reduce((best, score) => Math.max(best, score)));
    ids.push(next);
    scores = model.logits(model.read([next], memory));
  }
  return ids;
}"""
_FILTERED = "([scores, how]) => [...window.engine.filtered(Float32Array.from(scores), how)]"
_ENCODED = """([tokenizer, strings]) => {
  const bpe = new (nextwordEngine().ByteBPE)(JSON.parse(tokenizer));
  return strings.map((text) => { const ids = bpe.encode(text); return [ids, bpe.decode(ids)]; });
}"""
_COUNTED = """async ([base64, rows]) => {
  const engine = nextwordEngine();
  const model = new engine.NGram(await engine.unzip(engine.bytesOf(base64)));
  return rows.map((ids) => [...model.distribution(ids)]);
}"""


class Engine:
    """The engine in an open page of a browser."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def load(self, model: str, *, quick: bool = True) -> bool:
        """Load a bundled model; return whether its sums run in WebAssembly."""
        folder = checkpoints.BUNDLED / model
        config = (folder / "config.json").read_text(encoding="utf8")
        content = base64.b64encode((folder / "model.safetensors").read_bytes()).decode()
        return bool(self.page.evaluate(_LOAD, [model, config, content, quick]))

    def logits(self, model: str, rows: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """Return for each row ``some`` scores, every 64th of each position, and the ``last`` position's with its attention."""
        return list(self.page.evaluate(_LOGITS, [model, [list(row) for row in rows], STEP]))

    def greedy(self, model: str, ids: Sequence[int], n: int) -> list[int]:
        """Return ids and n more, the likeliest each time."""
        return list(self.page.evaluate(_GREEDY, [model, list(ids), n]))

    def filtered(self, scores: Sequence[float], temperature: float, top_k: int | None, top_p: float) -> list[float]:
        """Return the probabilities that are drawn from."""
        how = {"temperature": temperature, "topK": top_k or 0, "topP": top_p}
        return list(self.page.evaluate(_FILTERED, [list(scores), how]))

    def encoded(self, tokenizer: str, strings: Sequence[str]) -> list[tuple[list[int], str]]:
        """Return each string as ids, and these as a string again; ``tokenizer`` is the text of a tokenizer.json."""
        return [(ids, text) for ids, text in self.page.evaluate(_ENCODED, [tokenizer, list(strings)])]

    def counted(self, content: bytes, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the distribution of the pruned n-gram behind each row of ids."""
        packed = base64.b64encode(content).decode()
        return list(self.page.evaluate(_COUNTED, [packed, [list(row) for row in rows]]))


def engine_in(page: Page, source: str) -> Engine:
    """Return the engine whose source text is ``source``, in an empty page."""
    page.set_content("<!doctype html><meta charset=utf-8>")
    page.add_script_tag(content=source)
    return Engine(page)


@contextmanager
def open_engine(source: str, *, chromium: str | None = None) -> Iterator[Engine]:
    """Yield the engine whose source text is ``source``, in a Chromium without a network.

    Raises:
        FileNotFoundError: there is no Chromium; name one.
    """
    from playwright.sync_api import sync_playwright

    program = chromium or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise FileNotFoundError("no chromium on the path; install one, or pass chromium='/path/to/it'")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield engine_in(browser.new_page(), source)
        finally:
            browser.close()


def engine_source(folder: Path) -> str:
    """Return the source of the engine from the folder of the page's scripts."""
    return (folder / "engine.js").read_text(encoding="utf8")


def strange_strings(n: int = 2000, seed: int = 0) -> list[str]:
    """Return strings that tokenizers stumble over: all of Unicode, blanks of all kinds, contractions, emoji of many parts."""
    draw = random.Random(seed)
    everything = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]
    latin = [character for character in everything if ord(character) < 0x250]
    blanks = list(" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\ufeff\u200b\u200d")
    words = "The city's we're I'M don't 1850 3.14 café naïve ☕ 東京 👩‍🔬 e\u0301 ½ ² Ⅷ ٣ ' ’ -- ... <|endoftext|> :) ǅ ﬁ 🇯🇵"
    parts = [*words.split(" "), " ", "  ", "\n"]
    pools = (everything, latin + blanks * 3, parts + blanks, list("ab '\nst. "), [*blanks, "a", "1", "'s"])
    made = ["".join(draw.choices(draw.choice(pools), k=draw.randrange(1, 60))) for _ in range(n)]
    return [*made, "", " ", "\ufeffabc", "a" * 200, "\u0085 x"]


def compare_tokenizer(engine: Engine, model: str, strings: Sequence[str]) -> int:
    """Return how many strings the page encodes or decodes otherwise than the library."""
    bpe = checkpoints.load(model).tokenizer
    assert bpe is not None
    text = (checkpoints.BUNDLED / model / "tokenizer.json").read_text(encoding="utf8")
    theirs = engine.encoded(text, strings)
    ours = [(ids, bpe.decode(ids)) for ids in map(bpe.encode_ordinary, strings)]
    return sum(a != b for a, b in zip(ours, theirs, strict=True))
