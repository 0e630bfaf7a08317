"""What the translators' places need beside their scripts: the library's own bytes, and numbers for readers without scripts."""

import base64
import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from bs4 import BeautifulSoup

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import live_files
import live_translate
from nextword import checkpoints, data
from nextword.translation import TranslationTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("live")
    (made / "live_translate.json").write_text(json.dumps(live_translate.write(made)))
    return made


@pytest.fixture
def stored(folder):
    return json.loads((folder / "live_translate.json").read_text())


def content(folder, name, file):
    """Return what a script hands to NEXTWORD.model under this name."""
    call, start = (folder / file).read_text(encoding="utf8"), f'NEXTWORD.model("{name}", '
    assert call.startswith(start) and call.endswith(");\n")
    return json.loads(call[len(start) : -3])


@pytest.mark.parametrize("name", live_translate.MODELS.values())
def test_a_translators_script_holds_the_librarys_own_bytes(folder, name):
    source, told = checkpoints.BUNDLED / name, content(folder, name, f"weights_{name}.js")
    raw = base64.b64decode(told["base64"])
    assert raw == (source / "model.safetensors").read_bytes()
    assert told["sha256"] == hashlib.sha256(raw).hexdigest()
    assert told["config"] == json.loads((source / "config.json").read_text())
    assert told["card"]["licence"] and told["card"]["data"]
    tokenizer = content(folder, "tokenizer_en_es", "tokenizer_en_es.js")
    assert tokenizer == json.loads((source / "tokenizer.json").read_text(encoding="utf8"))


@pytest.mark.parametrize("name", live_translate.MODELS)
def test_the_stored_example_is_what_the_library_says(stored, name):
    model, bpe, _ = checkpoints.load(live_translate.MODELS[name])
    tokenizer, said = TranslationTokenizer.from_bpe(bpe), stored["models"][name]
    assert stored["source"] == tokenizer.encode(stored["text"])
    assert said["text"] == tokenizer.decode(said["ids"]) == "Quiero un gato negro."
    assert said["words"][stored["at"]] == " ne", "the place that is chosen at first begins *negro*"
    step, read = model.step(torch.tensor([stored["source"]])), [tokenizer.bos_id]
    for t, word in enumerate(said["ids"]):
        log_p, look = step(torch.tensor([read]))
        best = log_p[0].topk(live_translate.BEST)
        assert word == best.indices[0], "greedy"
        assert said["logP"][t] == pytest.approx(best.values[0].item(), abs=1e-4)
        assert [i for i, _ in said["best"][t]] == best.indices.tolist()
        assert [value for _, value in said["best"][t]] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert said["mean"][t] == pytest.approx(look[0].tolist(), abs=1e-4)
        read.append(word)
    assert read[-1] == tokenizer.eos_id


def test_both_translators_stay_below_seven_megabytes(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 7e6


def greedy(name, text, *forced):
    """Return the library's translation, which begins with the forced ids, and its ln p."""
    model, bpe, _ = checkpoints.load(live_translate.MODELS[name])
    tokenizer = TranslationTokenizer.from_bpe(bpe)
    step, read, total = model.step(torch.tensor([tokenizer.encode(text)])), [tokenizer.bos_id], 0.0
    while read[-1] != tokenizer.eos_id:
        log_p, _ = step(torch.tensor([read]))
        word = forced[len(read) - 1] if len(read) <= len(forced) else int(log_p.argmax())
        read, total = [*read, word], total + log_p[0, word].item()
    return tokenizer.decode(read), total


def test_what_the_questions_say_of_their_sentences_is_so():
    """translate.js asks about these; should the models be trained anew, its questions must be looked at again."""
    encode = checkpoints.load("gnmt_en_es").tokenizer.encode_ordinary
    for name in live_translate.MODELS:
        assert greedy(name, "I want a black cat.")[0] == "Quiero un gato negro."
        assert greedy(name, "The teacher is tired.")[0].startswith("El profesor está cansad")
        assert greedy(name, "The teacher is tired.", *encode(" La"))[0] == "La profesora está cansada."
        assert greedy(name, "Blorkin is my friend.", *encode(" Blorkin"))[0].startswith("Blorkin")
    plain, forced = greedy("gnmt", "The red house is old."), greedy("gnmt", "The red house is old.", *encode(" La"))
    assert plain[0].startswith("El ") and forced[0].startswith("La ") and forced[1] > plain[1] + 1
    assert not any("blorkin" in f"{pair.english} {pair.spanish}".lower() for pair in data.load_tatoeba("train"))


def test_without_scripts_there_is_a_table(stored):
    for part in live_translate.PARTS:
        page = BeautifulSoup(live_translate.fallback(part, stored), "lxml")
        said = stored["models"][part]
        assert live_files.STORED in page.caption.text and "“Quiero un gato negro.”" in page.caption.text
        assert f"ln p {sum(said['logP']):.2f}" in page.caption.text
        assert [cell.text for cell in page.select("thead th")][1:] == [word.strip() for word in stored["words"]]
        rows = [[cell.text for cell in row.select("th, td")] for row in page.select("tbody tr")]
        assert [row[0] for row in rows] == [word.strip() for word in said["words"]]
        assert rows[3][1:] == [f"{100 * share:.0f}" for share in said["mean"][3]]


def test_a_text_cannot_break_the_page():
    said = {"text": "<b>&", "logP": [-1], "words": ["<i>"], "mean": [[1]]}
    stored = {"text": "<u>", "words": ["<s>"], "models": {"gnmt": said}}
    page = BeautifulSoup(live_translate.fallback("gnmt", stored), "lxml")
    assert not page.select("b, i, u, s") and "<b>&" in page.caption.text
