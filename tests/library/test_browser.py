"""The parts of the comparison that need no browser; the engine itself is compared in tests/book/test_live_engine.py."""

import unicodedata

import pytest

from nextword import checkpoints
from nextword.book import browser


def test_the_strings_are_strange_and_always_the_same():
    strings = browser.strange_strings()
    assert strings == browser.strange_strings() and strings != browser.strange_strings(seed=1)
    assert len(strings) >= 2000 and "" in strings
    letters = set("".join(strings))
    assert {unicodedata.category(letter) for letter in letters} >= {
        "Lu",
        "Lo",
        "Nd",
        "Nl",
        "No",
        "Mn",
        "So",
        "Zs",
        "Cf",
        "Cc",
    }
    assert {"\ufeff", "\x85", "\u2028", "👩", "\u200d"} <= letters
    assert not any(0xD800 <= ord(letter) < 0xE000 for letter in letters), "no browser takes half a character"


class Wrong(browser.Engine):
    """An engine that reads some strings otherwise than the library."""

    def __init__(self, ids=(), texts=()):
        self.bpe, self.ids, self.texts = checkpoints.load("nextword-small").tokenizer, ids, texts

    def encoded(self, tokenizer, strings):
        assert '"tokens"' in tokenizer
        told = []
        for text in strings:
            ids = self.bpe.encode_ordinary(text)
            told.append((ids[::-1] if text in self.ids else ids, "?" if text in self.texts else self.bpe.decode(ids)))
        return told


@pytest.mark.parametrize(
    ("ids", "texts", "wrong"), [((), (), 0), (("a cup of",), (), 1), (("a cup of",), ("b", "tea"), 2)]
)
def test_strings_that_are_encoded_or_decoded_otherwise_are_counted(ids, texts, wrong):
    assert browser.compare_tokenizer(Wrong(ids, texts), "nextword-small", ["a cup of", "tea", "<|endoftext|>"]) == wrong


def test_without_a_chromium_the_error_says_how_to_name_one(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pass chromium="), browser.open_engine("function nextwordEngine() {}"):
        pass


def test_the_source_is_the_file_of_the_page(tmp_path):
    (tmp_path / "engine.js").write_text("// ½", encoding="utf8")
    assert browser.engine_source(tmp_path) == "// ½"


def test_settings_cover_each_way_of_choosing_alone_and_together():
    temperatures, top_ks, top_ps = (set(column) for column in zip(*browser.SETTINGS, strict=True))
    assert {0.0, 1.0} <= temperatures and {None, 1} <= top_ks and 1.0 in top_ps and min(top_ps) < 0.1
