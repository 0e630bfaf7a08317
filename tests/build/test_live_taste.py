"""What the part `taste` needs beside its scripts: the library's own bytes, tables of judges, and answers by the library."""

import base64
import gzip
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from vaderSentiment import vaderSentiment

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import live_files
import live_page
import live_taste
from nextword import checkpoints
from nextword.book import models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("taste")
    (made / "live_taste.json").write_text(json.dumps(live_taste.write(made)), encoding="utf8")
    return made


@pytest.fixture(scope="module")
def stored(folder):
    return json.loads((folder / "live_taste.json").read_text(encoding="utf8"))


def content(path, name):
    call = path.read_text(encoding="utf8")
    assert call.startswith(f'NEXTWORD.model("{name}", ') and call.endswith(");\n")
    return json.loads(call[call.index("{") : -3])


@pytest.mark.parametrize("name", live_taste.READ)
def test_a_models_script_holds_the_librarys_own_bytes(folder, name):
    source = models.FOLDER / f"taste_{name}"
    told = content(folder / f"weights_taste_{name}.js", f"taste_{name}")
    raw = base64.b64decode(told["base64"])
    assert raw == (source / "model.safetensors").read_bytes()
    assert told["sha256"] == hashlib.sha256(raw).hexdigest()
    assert told["config"] == json.loads((source / "config.json").read_text(encoding="utf8"))
    assert told["card"]["licence"] and told["card"]["data"]


def test_the_base_is_a_model_that_another_page_writes():
    assert live_page.MODELS["medium"] == "nextword-medium"
    assert live_taste.policy("base").config == checkpoints.load("nextword-medium").model.config


def test_the_tables_are_those_of_the_judges(folder):
    told = content(folder / "taste_tables.js", "taste_tables")
    tables = json.loads(gzip.decompress(base64.b64decode(told["base64"])))
    known = json.loads(gzip.decompress(models.JUDGES.read_bytes()))
    assert {key: tables[key] for key in ("scale", "intercept", "terms")} == {
        key: known[key] for key in ("scale", "intercept", "terms")
    }
    lexicon = vaderSentiment.SentimentIntensityAnalyzer()
    assert tables["lexicon"]["words"] == lexicon.lexicon and len(lexicon.lexicon) > 7000
    assert tables["lexicon"]["boosters"]["very"] > 0 > tables["lexicon"]["boosters"]["hardly"]
    assert "MIT License" in told["licence"] and "C.J. Hutto" in told["licence"]


def test_the_scale_is_that_of_the_supervised_models_answers(stored):
    """Of the 64 stored beginnings, where it was fitted on 512."""
    means = stored["means"]["supervised"]
    assert [means[name] for name in live_taste.JUDGES] == pytest.approx([0] * 4, abs=0.4)
    assert means["ratio"] == 0


def test_the_size_that_the_page_names_is_that_of_its_scripts(folder, stored, tmp_path):
    live_files.model(tmp_path, "medium", "nextword-medium")
    loaded = sum(path.stat().st_size for each in (folder, tmp_path) for path in each.glob("*.js"))
    assert stored["megabytes"] == round(loaded / 1e6)


def test_the_stored_answers_are_judged_as_the_library_judges(stored):
    end = live_taste.end()
    for name, answer in stored["answers"].items():
        assert answer["ids"][: answer["start"]] == stored["beginnings"][0]
        ids = answer["ids"] if answer["ids"][-1] == end else [*answer["ids"], end]
        with torch.inference_mode():
            raw = {kind: models.load(f"taste_{kind}").model(torch.tensor([ids])).item() for kind in ("reward", "judge")}
            log_p = [
                model(torch.tensor([ids])).logits[0].log_softmax(-1)
                for model in (live_taste.policy(name), live_taste.policy("supervised"))
            ]
        text = live_taste.tokenizer().decode(ids[1 : ids.index(end, 1)]).partition(": ")[2]
        raw["lexicon"] = vaderSentiment.SentimentIntensityAnalyzer().polarity_scores(text)["compound"]
        for kind, value in raw.items():
            mean, sd = live_taste.judges()["scale"][kind]
            assert answer[kind] == pytest.approx((value - mean) / sd, abs=1e-3), (name, kind)
        assert answer["inside"][-1] == answer["reward"]
        written = range(answer["start"], len(answer["ids"]))
        ratio = sum((log_p[0][t - 1, ids[t]] - log_p[1][t - 1, ids[t]]).item() for t in written)
        assert answer["ratio"] == pytest.approx(ratio, abs=1e-3)
        assert answer["length"] == len(written)


def test_what_was_recorded_of_best_of_n_climbs_and_the_judges_see_less(stored):
    best = {name: np.array(values) for name, values in stored["best"].items()}
    assert set(best) == set(live_taste.JUDGES) and {len(values) for values in best.values()} == {7}
    for name, values in best.items():
        assert values[0] == 0 and (np.diff(values) > 0).all()
        assert name == "reward" or values[-1] < best["reward"][-1]


def test_without_scripts_there_are_answers_and_numbers(stored):
    page = BeautifulSoup(live_taste.fallback("taste", stored), "lxml")
    assert [item.b.text for item in page.select("li")] == list(live_taste.POLICIES.values())
    for item, answer in zip(page.select("li"), stored["answers"].values(), strict=True):
        assert answer["text"] in item.text and "endoftext" not in item.text
    rows = [[cell.text for cell in row.select("th, td")] for row in page.select("tbody tr")]
    assert [row[0] for row in rows] == [*live_taste.JUDGES.values(), "log ratio (nats)"]
    assert rows[0][3] == f"{stored['answers']['ppo']['reward']:+.1f}"


def test_a_text_cannot_break_the_page(stored):
    answers = {name: {**answer, "text": "<b>&<script>"} for name, answer in stored["answers"].items()}
    page = BeautifulSoup(live_taste.fallback("taste", {**stored, "asked": "<i>&", "answers": answers}), "lxml")
    assert not page.select("i, script") and len(page.select("b")) == len(answers)
