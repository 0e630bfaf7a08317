"""What the part `gap` needs beside its scripts: the library's own bytes, and numbers for readers without scripts."""

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
import live_gap
from nextword import checkpoints
from nextword.book import models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("live")
    (made / "live_gap.json").write_text(json.dumps(live_gap.write(made)))
    return made


@pytest.fixture
def stored(folder):
    return json.loads((folder / "live_gap.json").read_text())


@pytest.mark.parametrize("name", live_gap.NETWORKS.values())
def test_a_networks_script_holds_the_librarys_own_bytes(folder, name):
    source = models.FOLDER / name
    call = (folder / f"weights_{name}.js").read_text(encoding="utf8")
    start, content = f'NEXTWORD.model("{name}", ', json.loads(call[call.index("{") : -3])
    assert call.startswith(start) and call.endswith(");\n")
    raw = base64.b64decode(content["base64"])
    assert raw == (source / "model.safetensors").read_bytes()
    assert content["sha256"] == hashlib.sha256(raw).hexdigest()
    assert content["config"] == json.loads((source / "config.json").read_text())
    assert content["card"]["licence"] and content["card"]["data"]


def test_both_are_one_network_that_learnt_in_two_ways():
    both, left = (models.load(name) for name in live_gap.NETWORKS.values())
    assert {**vars(both.model.config), "causal": True} == vars(left.model.config)
    assert not both.model.config.causal
    assert both.card["steps"] == left.card["steps"] == 12_000
    assert both.card["data"] == left.card["data"]


def test_their_tokens_are_those_of_the_page_and_mask_is_the_first_id_behind_them():
    """The part takes the tokenizer that the page `live` writes, and [MASK] for the id behind its last."""
    theirs = checkpoints.BUNDLED / "nextword-small" / "tokenizer.json"
    for name in live_gap.NETWORKS.values():
        assert (models.FOLDER / name / "tokenizer.json").read_text() == theirs.read_text()
        network = models.load(name)
        bpe = network.tokenizer
        assert bpe.vocab_size == bpe.special_tokens["<|endoftext|>"] + 1 == network.model.config.vocab_size - 3


def test_the_stored_example_is_what_the_library_says(stored):
    both, left = (models.load(name) for name in live_gap.NETWORKS.values())
    bpe, ids, (at,) = both.tokenizer, stored["ids"], stored["hidden"]
    assert bpe.decode(ids[1:]) == stored["text"]
    before, after = stored["text"].split(live_gap.HIDDEN)
    masked = [*ids[:1], *bpe.encode(before), bpe.vocab_size, *bpe.encode(after)]  # as the chapter's `guesses` asks
    with torch.inference_mode():
        rows = both.model(torch.tensor([masked])).logits[0, at], left.model(torch.tensor([ids[:at]])).logits[0, -1]
    best = set()
    for side, row in zip(live_gap.NETWORKS, rows, strict=True):
        ln_p = row[: bpe.vocab_size].log_softmax(-1)
        assert stored[side] == pytest.approx({i: ln_p[int(i)].item() for i in stored[side]}, abs=1e-4)
        best |= {str(i) for i in ln_p.topk(live_gap.BEST).indices.tolist()}
        if side == "both":
            cut = both.model(torch.tensor([masked[: at + 1]])).logits[0, at, : bpe.vocab_size].log_softmax(-1)
            assert stored["cut"] == pytest.approx(cut[ids[at]].item(), abs=1e-4)
    assert set(stored["both"]) == set(stored["left"]) == set(stored["spelled"]) == best | {str(ids[at])}


def test_without_scripts_there_is_a_table(stored):
    page = BeautifulSoup(live_gap.fallback("gap", stored), "lxml")
    assert live_files.STORED in page.caption.text
    assert "so please [MASK] some on your way home." in page.caption.text
    rows = [[cell.text for cell in row.select("th, td")] for row in page.select("tbody tr")]
    word = str(stored["ids"][stored["hidden"][0]])
    p = [f"{100 * torch.tensor(stored[side][word]).exp():.1f}" for side in live_gap.NETWORKS]
    assert rows[0] == ["buy, which stood there", *p]
    assert len(rows) == len(stored["both"])


def test_a_text_cannot_break_the_page():
    stored = {"text": "<b>& <i>.", "ids": [0, 1], "hidden": [1], "spelled": {"1": " <i>"}, "both": {"1": -1}}
    page = BeautifulSoup(live_gap.fallback("gap", {**stored, "left": {"1": -2}}), "lxml")
    assert not page.select("b, i") and "<i>" in page.table.text
