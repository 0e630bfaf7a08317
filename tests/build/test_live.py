"""What the live page needs beside its scripts: the library's own bytes, and numbers for readers without scripts."""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import chapters
import live
import live_files
import live_page
from nextword import checkpoints
from nextword.book import corpora, counts
from nextword.decoder import Decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("live")
    live.write(made)
    return made


def content(path):
    """Return the name and the content that a script hands to NEXTWORD.model."""
    call = re.fullmatch(r"NEXTWORD\.model\((\"\w+\"), (\{.*\})\);\n", path.read_text(encoding="utf8"), re.S)
    return json.loads(call[1]), json.loads(call[2])


@pytest.mark.parametrize("name", live_page.MODELS)
def test_a_models_script_holds_the_librarys_own_bytes(folder, name):
    source = checkpoints.BUNDLED / live_page.MODELS[name]
    told, model = content(folder / f"weights_{name}.js")
    raw = base64.b64decode(model["base64"])
    assert told == name and raw == (source / "model.safetensors").read_bytes()
    assert model["sha256"] == hashlib.sha256(raw).hexdigest()
    assert model["config"] == json.loads((source / "config.json").read_text())
    assert model["card"]["licence"] and model["card"]["data"]


def test_the_counts_and_the_tokenizer_are_the_librarys(folder):
    told, packed = content(folder / "counts.js")
    assert told == "counts" and base64.b64decode(packed["base64"]) == counts.COUNTS.read_bytes()
    script = (folder / "tokenizer.js").read_text(encoding="utf8")
    tokenizer = json.loads(script.removeprefix("NEXTWORD.tokenizer = ").removesuffix(";\n"))
    assert len(tokenizer["tokens"]) == 4095 and corpora.END in tokenizer["special_tokens"]


def test_all_of_the_page_stays_below_ten_megabytes(folder):
    names = ("engine.js", "parts.js", "page.js", "live.css")
    own = [chapters.CHAPTERS / "_static" / "live" / name for name in names]
    made = [
        folder / f"{name}.js" for name in ("counts", "tokenizer", *(f"weights_{name}" for name in live_page.MODELS))
    ]
    assert sum(path.stat().st_size for path in (*own, *made)) < 10e6


def test_the_stored_example_is_what_the_library_says(folder):
    stored = json.loads((folder / "live_page.json").read_text())
    bpe = checkpoints.load("nextword-small").tokenizer
    assert stored["ids"] == corpora.encode([stored["text"]], bpe)
    model = Decoder.from_pretrained("nextword-large")
    with torch.inference_mode():
        log_p = model(torch.tensor([stored["ids"]])).logits[0].log_softmax(-1)
    said = stored["models"]["large"]
    assert said["logP"][1:] == pytest.approx([log_p[t, i].item() for t, i in enumerate(stored["ids"][1:])], abs=1e-4)
    best = log_p[-1].topk(live_page.BEST)
    assert [word for word, _ in said["next"]] == best.indices.tolist()
    counted = stored["models"]["counts"]
    assert counted["logP"][3] == pytest.approx(
        np.log(counts.load().distribution(stored["ids"][:3])[stored["ids"][3]]), abs=1e-4
    )


def test_without_scripts_there_are_numbers_or_a_sentence(folder):
    stored = json.loads((folder / "live_page.json").read_text())
    for part in live_page.PARTS:
        page = BeautifulSoup(live_page.fallback(part, stored), "lxml")
        if part not in ("text", "next"):
            assert "JavaScript" in page.text and not page.select("table")
            continue
        assert live_files.STORED in page.caption.text
        rows = [[cell.text for cell in row.select("th, td")] for row in page.select("tbody tr")]
        assert {len(row) for row in rows} == {1 + len(stored["models"])} and len(rows) >= 10
    assert rows[0][0] == "the" and rows[0][1] == f"{100 * np.exp(dict(stored['models']['small']['next'])[262]):.1f}"


def test_a_text_cannot_break_the_page():
    stored = {
        "text": "<b>&",
        "words": ["", "<i>"],
        "spelled": {"1": "<u>"},
        "models": {"small": {"logP": [0, -1], "next": [[1, -0.1]]}},
    }
    for part in ("text", "next"):
        assert not BeautifulSoup(live_page.fallback(part, stored), "lxml").select("b, i, u")
