"""The judges of the part `taste` are the library's: rewards, counted words, lexicon and log ratios, in the browser.

Every comparison takes the source of judges.js, so that bugs can be planted in it, each of which one must catch.
"""

from __future__ import annotations

import base64
import copy
import functools
import gzip
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import live_taste
from nextword import checkpoints, data, rlhf
from nextword.attention import pad
from nextword.book import browser as engines
from nextword.book import models

FOLDER = ROOT / "chapters" / "_static" / "live"
ENGINE, JUDGES = ((FOLDER / name).read_text(encoding="utf8") for name in ("engine.js", "judges.js"))
ASKED = {"reward": "taste_reward", "judge": "taste_judge"}
LIMITS = {"reward": 1e-4, "judge": 1e-4, "normalised": 1e-4, "counts": 1e-6, "lexicon": 1e-4}

VALUES = """([config, base64, texts]) => {
  const engine = nextwordEngine(), { RewardModel } = nextwordJudges(engine);
  const model = new RewardModel(JSON.parse(config), engine.readSafetensors(engine.bytesOf(base64)));
  return texts.map((ids) => [...model.values(ids)]);
}"""
SCORES = """([kind, tables, texts]) => {
  const { CountedWords, Lexicon } = nextwordJudges(nextwordEngine());
  const judge = kind === "counts" ? new CountedWords(tables) : new Lexicon(tables.lexicon);
  return texts.map((text) => judge.score(text));
}"""


@pytest.fixture
def opened(browser):
    """Return a page with the engine and judges of a source text."""
    pages = []

    def opened(judges: str = JUDGES) -> Any:
        pages.append(browser.new_page())
        engines.engine_in(pages[-1], f"{ENGINE}\n{judges}")
        return pages[-1]

    yield opened
    for page in pages:
        page.close()


@functools.cache
def sampled(name: str, n: int = 52) -> tuple[list[list[int]], list[int]]:
    """Return texts that a policy wrote, and where its answers begin in them."""
    beginnings = live_taste.judges()["beginnings"][:n]
    ids, mask = pad(beginnings, live_taste.end(), side="left")
    how = {"max_new_tokens": 40, "stop": live_taste.end(), "generator": torch.Generator().manual_seed(7)}
    texts = rlhf.rollout(live_taste.policy(name), ids, mask=mask, **how).texts()
    return texts, list(map(len, beginnings))


@functools.cache
def to_judge() -> list[list[int]]:
    """Return 208 texts that the four policies wrote, in random order."""
    texts = [ids for name in live_taste.POLICIES for ids in sampled(name)[0]]
    random.Random(0).shuffle(texts)
    return texts


@functools.cache
def ratings() -> list[str]:
    """Return 4,600 texts that people wrote."""
    domains = ("movies", "products", "tweets")
    return [text for domain in domains for text in data.load_snippets(domain)[::4]]


RULES = """not good|never so good|it was never so good!|never this good|never in my life good|without doubt good|not
|without a doubt good|I have no good idea|no joy or love|no joy nor any great love|it isn't so very bad|no, good|is no good
|kind of good, but bad|it was kind of a bad film|sort of a good one|it is the bomb|this film was the shit!|a film to die for
|it has a beating heart, yeah right|the bus stop is bad ass|that was a kiss of death indeed|kind LOVE|but LOVE love|no GOOD
|GOOD film|VERY good film|this is VERY bad|THIS IS GOOD|a HARDLY good film|the least good|at least good|least good
|very least good|good?|good??|good???|good???? good|good!!!!!|:) or :-( or ;D|(good) "good" 'good' ...good...|<3|😀 a😀b
|😡😡 ✌️ ugly😀|good but bad but good|good good but good|bad BUT good|best but alive|and this film is badass|so GOOD
|this bad|so so good|e\u0301 İstanbul GOOD|ǅ good|constructor __proto__ good|good\ufeffgood good\x1cgood good\x85good
|hasOwnProperty toString""".replace("\n", "").split("|")


@functools.cache
def odd() -> list[str]:
    """Return sentences on each rule, and ways in which their words can meet."""
    draw, words = random.Random(1), " ".join(RULES).split(" ")
    common = (
        "good bad love hate no not never so this without doubt least at very kind of but or nor GOOD VERY hardly 😀"
    )
    made = [" ".join(draw.choices(draw.choice((words, common.split())), k=draw.randrange(1, 9))) for _ in range(1500)]
    return [*RULES, *made, *engines.strange_strings(200), "", " "]


@functools.cache
def texts_for(n: int | None) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return texts, all or ``n`` beside the odd ones, and what the library's two judges without a network say of them."""
    texts = [*odd(), *ratings(), *map(live_taste.text_of, to_judge())] if n is None else [*odd(), *ratings()[:n]]
    compound = [live_taste.vader().polarity_scores(text)["compound"] for text in texts]
    return texts, {"counts": live_taste.counted()(texts), "lexicon": np.array(compound)}


@pytest.fixture(scope="module")
def normalised(tmp_path_factory) -> Path:
    """Return the folder of a reward model whose gain and bias are not those of an untouched one."""
    model = copy.deepcopy(models.load("taste_judge").model)
    model.gain.fill_(0.7)
    model.bias.fill_(-0.4)
    folder = tmp_path_factory.mktemp("normalised") / "judge"
    model.save(folder, dtype=torch.int8)
    return folder


def rewards(page: Any, folder: Path, texts: Sequence[Sequence[int]]) -> float:
    """Return the largest difference of a reward model here and in the library, over all tokens of all texts."""
    content = base64.b64encode((folder / "model.safetensors").read_bytes()).decode()
    theirs = page.evaluate(VALUES, [(folder / "config.json").read_text(), content, texts])
    ids, mask = pad(texts, live_taste.end())
    with torch.inference_mode():
        ours = checkpoints.load(folder).model.token_values(ids, mask=mask)
    return max(abs(torch.tensor(t) - o[m]).max().item() for t, o, m in zip(theirs, ours, mask, strict=True))


def compare(page: Any, what: str, normalised: Path, n: int | None = None) -> float:
    """Return the largest difference of one judge."""
    if what in ("reward", "judge", "normalised"):
        return rewards(page, normalised if what == "normalised" else models.FOLDER / ASKED[what], to_judge()[:n])
    texts, ours = texts_for(n)
    theirs = np.array(page.evaluate(SCORES, [what, live_taste.tables(), texts]))
    return float(abs(theirs - ours[what]).max())


@pytest.mark.parametrize("what", LIMITS)
def test_each_judge_says_what_the_library_says(opened, normalised, what):
    found = compare(opened(), what, normalised)
    print(what, found)
    assert found < LIMITS[what]


def test_the_counted_words_are_those_that_the_chapter_fits(opened):
    """The stored numbers have six digits."""
    import record

    names = record.namespace("2022_instructgpt")
    texts = [live_taste.text_of(ids) for ids in to_judge()]
    theirs = np.array(opened().evaluate(SCORES, ["counts", live_taste.tables(), texts]))
    assert theirs == pytest.approx(names["counted"]("valid")(to_judge()), abs=1e-4)
    assert texts == [names["text_of"](ids) for ids in to_judge()]


@pytest.mark.parametrize("name", live_taste.POLICIES)
def test_a_policy_scores_every_next_token_as_the_library_does(opened, name):
    engine = engines.Engine(opened())
    folder = str(models.FOLDER / f"taste_{name}") if name != "base" else "nextword-medium"
    engine.load(folder)
    texts = sampled(name)[0][:24]
    worst = 0.0
    for ids, theirs in zip(texts, engine.logits(folder, texts), strict=True):
        with torch.inference_mode():
            ours = live_taste.policy(name)(torch.tensor([ids])).logits[0]
        worst = max(worst, abs(ours[-1] - torch.tensor(theirs["last"])).max().item())
        worst = max(worst, abs(ours[:, :: engines.STEP].flatten() - torch.tensor(theirs["some"])).max().item())
    print(name, worst)
    assert worst < 1e-4


WORKED = """async ([contents, texts]) => {
  const asks = await Promise.all(contents.map(async ({ config, base64 }) => {
    const { ask } = startWorker();
    await ask("load", { config, base64 });
    return ask;
  }));
  const sums = [];
  for (const [ids, start] of texts) {
    const read = await Promise.all(asks.map((ask) => ask("read", { ids })));
    sums.push(read.map(({ logP }) => logP.slice(start).reduce((sum, value) => sum + value, 0)));
  }
  return sums;
}"""
JUDGED = """async ([reward, judge, tables, texts]) => {
  const { ask } = startWorker(nextwordJudges);
  await ask("loadTables", { base64: tables });
  await ask("loadReward", { name: "reward", ...reward });
  await ask("loadReward", { name: "judge", ...judge });
  return Promise.all(texts.map(([ids, text]) => ask("judge", { ids, text })));
}"""


def handed_over(folder: Path) -> dict[str, Any]:
    content = base64.b64encode((folder / "model.safetensors").read_bytes()).decode()
    return {"config": json.loads((folder / "config.json").read_text()), "base64": content}


def test_log_ratios_are_the_librarys(opened):
    names = ("ppo", "ppo_ptx", "supervised")
    contents = [handed_over(models.FOLDER / f"taste_{name}") for name in names]
    texts, starts = (some[:24] for some in sampled("ppo"))
    found = np.array(opened().evaluate(WORKED, [contents, list(zip(texts, starts, strict=True))]))
    for name, theirs in zip(names, found.T, strict=True):
        ours = live_taste.log_p(live_taste.policy(name), texts, starts)
        ratio = ours - live_taste.log_p(live_taste.policy("supervised"), texts, starts)
        print(name, abs(theirs - ours).max(), abs(theirs - found[:, 2] - ratio).max())
        assert theirs == pytest.approx(ours, abs=1e-3)
        assert theirs - found[:, 2] == pytest.approx(ratio, abs=1e-3)


def test_the_worker_gives_all_opinions_in_standard_deviations(opened):
    tables = base64.b64encode(gzip.compress(json.dumps(live_taste.tables()).encode())).decode()
    texts = [[*ids] if ids[-1] == live_taste.end() else [*ids, live_taste.end()] for ids in to_judge()[:32]]
    asked = [[ids, live_taste.text_of(ids)] for ids in texts]
    told = opened().evaluate(JUDGED, [*(handed_over(models.FOLDER / name) for name in ASKED.values()), tables, asked])
    ours = live_taste.opinions(texts)
    for i, row in enumerate(told):
        assert row["reward"] == pytest.approx(ours["reward"][i], abs=2e-4)
        for name in ("judge", "counts", "lexicon"):
            assert row[name] == pytest.approx(ours[name][i], abs=2e-4), name


PLANTED = {
    "a gain of 1": ("gain * value + bias", "value + bias", "normalised"),
    "no bias": ("gain * value + bias", "gain * value", "normalised"),
    "a head without its bias": ("ids.length, w, b)", "ids.length, w, null)", "judge"),
    "texts that go on with one another": (
        "this.decoder.crop(this.memory, 0);",
        "this.decoder.crop(this.memory, 1);",
        "judge",
    ),
    "words without their idf": ("dot += weight * count * idf", "dot += weight * count", "counts"),
    "a sum in place of the length": ("dot / Math.sqrt(squares)", "dot / squares", "counts"),
    "words of one letter": ("{2,}/gu", "+/gu", "counts"),
    "capitals that are other words": ("text.toLowerCase().match", "text.match", "counts"),
    "no pairs": ("i ? [word, `${words[i - 1]} ${word}`] : [word]", "[word]", "counts"),
    "nothing but English letters": ("/[\\p{L}\\p{N}_]{2,}/gu", "/\\w{2,}/gu", "counts"),
    "punctuation that stays": ("return inside.length <= 2 ? word : inside;", "return word;", "lexicon"),
    "faces without eyes": ("inside.length <= 2", "inside.length < 1", "lexicon"),
    "a text that is loud all over": ("loud && some", "loud", "lexicon"),
    "boosters that do not fade": ("FURTHER[k - 1] * this.boost", "this.boost", "lexicon"),
    "boosters that praise what is bad": ("value < 0 ? -more : more", "more", "lexicon"),
    "never so good as a denial": ("return 1.25;", "return DENIED;", "lexicon"),
    "a doubt that denies": ('between.includes("doubt")', "false", "lexicon"),
    "no contractions": (' || word.includes("n\'t")', "", "lexicon"),
    "at least as a denial": ('["at", "very"].includes(before(2))', "false", "lexicon"),
    "no as a word like others": ('before(1) === "no" || ', "", "lexicon"),
    "idioms behind their word only": ("[...ahead, ...back]", "back", "lexicon"),
    "phrases beyond the end": ("i + to < lower.length", "true", "lexicon"),
    "but that turns nothing": ("first < but ? 0.5 : 1.5", "1", "lexicon"),
    "equal values in their own places": ("values.indexOf(values[i])", "i", "lexicon"),
    "five exclamation marks": ("Math.min(exclaimed, 4)", "Math.min(exclaimed, 5)", "lexicon"),
    "a single question mark": ("asked < 2 ? 0", "asked < 1 ? 0", "lexicon"),
    "emojis that stick to words": ("(space ? name : ` ${name}`)", "name", "lexicon"),
    "JavaScript's own blanks": ("/[\\p{White_Space}\\x1c-\\x1f]+/u", "/\\s+/u", "lexicon"),
    "another unit of the compound": ("total ** 2 + 15", "total ** 2 + 14", "lexicon"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught_by_its_own_comparison(opened, normalised, name):
    right, wrong, what = PLANTED[name]
    assert JUDGES.count(right) == 1, f"{name}: judges.js has no line, or several, with {right!r}"
    assert compare(opened(JUDGES.replace(right, wrong)), what, normalised, 12) > LIMITS[what]


def test_a_reward_model_that_it_does_not_have_is_refused(opened):
    page, config = opened(), handed_over(models.FOLDER / "taste_reward")["config"]
    refused = """(config) => { try { new (nextwordJudges(nextwordEngine()).RewardModel)(config, {}); return ""; }
        catch (error) { return `${error.name} ${error.message}`; } }"""
    for field, value in {"model": "Decoder", "positions": "rotary", "norm_position": "post", "bias": False}.items():
        told = page.evaluate(refused, config | {field: value})
        assert told.startswith(f"TypeError {field} is ") and told.endswith(" only")
