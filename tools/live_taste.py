"""InstructGPT's part ``taste``: four models go on with one beginning, and judges say what they think of it.

weights_taste_NAME.js   a model of nextword.book.models; the base is the page ``live``'s weights_medium.js
taste_tables.js         what judges without a network know, counted words and VADER's lexicon, and the scale of all
"""

from __future__ import annotations

import gzip
import html
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from vaderSentiment import vaderSentiment

import live_files
from nextword import checkpoints, rlhf
from nextword.attention import pad
from nextword.book import models
from nextword.book.runs import load_results
from nextword.decoder import Decoder
from nextword.tokenizers import ByteBPE

POLICIES = {"base": "base", "supervised": "supervised", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}
JUDGES = {
    "reward": "reward model",
    "judge": "second reward model",
    "counts": "counted words",
    "lexicon": "lexicon",
}
"""In this order they stand in tables; the first is what PPO was paid by."""
READ = ("supervised", "ppo", "ppo_ptx", "reward", "judge")
"""What is loaded beside the base."""
TAGS = ("Film:", "Product:")
LONGEST = 40
"""So many tokens are written at most."""
PARTS = ("taste",)
SCRIPTS = ("engine", "parts", "tokenizer", "judges", "taste")
"""In this order; taste.js appends the weights itself."""


def write(folder: Path) -> dict[str, Any]:
    """Write all scripts that hold data into ``folder``; return what is stored."""
    for name in READ:
        live_files.model(folder, f"taste_{name}", str(models.FOLDER / f"taste_{name}"))
    packed = live_files.packed(gzip.compress(json.dumps(tables(), ensure_ascii=False).encode(), mtime=0))
    live_files.script(folder / "taste_tables.js", "taste_tables", {**packed, "licence": licence()})
    return example()


@cache
def tables() -> dict[str, Any]:
    """Return what the judges know beside the weights of networks."""
    known = judges()
    kept = {key: known[key] for key in ("scale", "intercept", "terms")}
    analyzer = vader()
    lexicon = {
        "words": analyzer.lexicon,
        "boosters": vaderSentiment.BOOSTER_DICT,
        "negations": vaderSentiment.NEGATE,
        "idioms": vaderSentiment.SPECIAL_CASES,
        "emojis": {emoji: name for emoji, name in analyzer.emojis.items() if len(emoji) == 1},  # others are never found
    }
    return {**kept, "lexicon": lexicon}


@cache
def vader() -> vaderSentiment.SentimentIntensityAnalyzer:
    """Return the lexicon with its rules."""
    return vaderSentiment.SentimentIntensityAnalyzer()


def licence() -> str:
    """Return the licence of VADER's lexicon, which goes where the lexicon goes."""
    files = importlib.metadata.files("vaderSentiment") or []
    return next(file for file in files if file.name.startswith("LICENSE")).read_text()


@cache
def judges() -> dict[str, Any]:
    """Return the fitted words, the scale of each judge and beginnings of test texts."""
    content: dict[str, Any] = json.loads(gzip.decompress(models.JUDGES.read_bytes()))
    return content


def counted() -> Callable[[Sequence[str]], np.ndarray]:
    """Return the judge that counts words; it takes texts."""
    terms, idf, weights = zip(*judges()["terms"], strict=True)
    count = TfidfVectorizer(ngram_range=(1, 2), vocabulary=terms)
    count.idf_ = np.array(idf)
    return lambda texts: np.asarray(count.transform(texts) @ np.array(weights) + judges()["intercept"])


def megabytes() -> int:
    """Return how much the scripts hold that a place loads: six models in base64, and a little."""
    folders = [models.FOLDER / f"taste_{name}" for name in READ] + [checkpoints.BUNDLED / "nextword-medium"]
    return round(sum((folder / "model.safetensors").stat().st_size for folder in folders) * 4 / 3 / 1e6 + 0.2)


@cache
def policy(name: str) -> Decoder:
    """Return one of the four models that write."""
    found = checkpoints.load("nextword-medium") if name == "base" else models.load(f"taste_{name}")
    model: Decoder = found.model
    return model


@cache
def tokenizer() -> ByteBPE:
    """Return what all of them read with.

    Raises:
        ValueError: they have more than one tokenizer; the page has room for one.
    """
    folders = [models.FOLDER / f"taste_{name}" for name in READ] + [checkpoints.BUNDLED / "nextword-medium"]
    found = {(folder / "tokenizer.json").read_text(encoding="utf8") for folder in folders}
    if len(found) != 1:
        raise ValueError(f"the models have {len(found)} tokenizers; the page has room for one")
    bpe = checkpoints.load("nextword-medium").tokenizer
    assert bpe is not None
    return bpe


def end() -> int:
    """Return the token that ends a text."""
    return tokenizer().special_tokens["<|endoftext|>"]


def text_of(ids: Sequence[int]) -> str:
    """Return a text without its tag, as the chapter does."""
    text = tokenizer().decode([i for i in ids if i != end()])
    return text.partition(": ")[2] if text.startswith(TAGS) else text


@torch.inference_mode()
def opinions(texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return what each judge says of texts, in its standard deviations; of the reward model a number a token."""
    whole = [[*ids] if ids[-1] == end() else [*ids, end()] for ids in texts]
    ids, mask = pad(whole, end())
    inside = models.load("taste_reward").model.token_values(ids, mask=mask)
    plain = [text_of(row) for row in whole]
    raw: dict[str, Any] = {
        "reward": [row[real].double().numpy() for row, real in zip(inside, mask, strict=True)],
        "judge": models.load("taste_judge").model(ids, mask=mask).double().numpy(),
        "counts": counted()(plain),
        "lexicon": np.array([vader().polarity_scores(text)["compound"] for text in plain]),
    }
    scale = judges()["scale"]
    in_units: dict[str, Any] = {name: (raw[name] - mean) / sd for name, (mean, sd) in scale.items() if name != "reward"}
    mean, sd = scale["reward"]
    return {"reward": [(values - mean) / sd for values in raw["reward"]], **in_units}


@torch.inference_mode()
def log_p(model: Decoder, texts: Sequence[Sequence[int]], starts: Sequence[int]) -> np.ndarray:
    """Return ln p of what each text says from its start on."""
    ids, mask = pad(texts, end())
    log_probs = model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    written = mask[:, 1:] & (torch.arange(1, ids.shape[1]) >= torch.tensor(starts)[:, None])
    return np.asarray((log_probs.double() * written).sum(1).numpy())


def example() -> dict[str, Any]:
    """Return the beginnings, what each model made of the first, means over all, and what was recorded of best of n."""
    beginnings = judges()["beginnings"]
    starts = [len(ids) for ids in beginnings]
    ids, mask = pad(beginnings, end(), side="left")
    answers, means = {}, {}
    for name in POLICIES:
        how = {"max_new_tokens": LONGEST, "stop": end(), "generator": torch.Generator().manual_seed(1)}
        texts = rlhf.rollout(policy(name), ids, mask=mask, **how).texts()
        said = opinions(texts)
        ratios = log_p(policy(name), texts, starts) - log_p(policy("supervised"), texts, starts)
        inside = said["reward"][0][starts[0] :]
        said["reward"] = np.array([values[-1] for values in said["reward"]])
        said |= {"ratio": ratios, "length": np.array(list(map(len, texts))) - starts}
        means[name] = {key: round(float(values.mean()), 3) for key, values in said.items()}
        first = {key: round(float(values[0]), 4) for key, values in said.items()}
        written = [i for i in texts[0][starts[0] :] if i != end()]
        answers[name] = {**first, "ids": texts[0], "text": tokenizer().decode(written).strip()}
        answers[name] |= {"start": starts[0], "inside": inside.round(4).tolist()}
    runs = [result["best"] for result in load_results("instruct_best", n=None)]
    best = {}
    for name in JUDGES:
        key = "model" if name == "judge" else name  # as the runs call it
        best[name] = np.mean([[row[key] for row in run] for run in runs], 0).round(3).tolist()
    return {
        "beginnings": beginnings,
        "asked": tokenizer().decode(beginnings[0][1:]),
        "answers": answers,
        "means": means,
        "best": best,
        "seeds": len(runs),
        "megabytes": megabytes(),
    }


def fallback(part: str, stored: dict[str, Any]) -> str:
    """Return as HTML what four models made of one beginning, and what the judges say of it."""
    heads = list(POLICIES.values())
    texts = "".join(
        f"<li><b>{html.escape(POLICIES[name])}</b>: {html.escape(answer['text'])}</li>"
        for name, answer in stored["answers"].items()
    )
    rows = []
    for key, label in JUDGES.items():
        rows.append((label, [f"{answer[key]:+.1f}" for answer in stored["answers"].values()]))
    rows.append(("log ratio (nats)", [f"{answer['ratio']:.1f}" for answer in stored["answers"].values()]))
    asked = html.escape(stored["asked"])
    caption = "What judges say of these answers, in standard deviations from an average answer of the supervised model:"
    return (
        f"<p>With JavaScript these models answer to any beginning. They went on with “{asked}” like this:</p>"
        f"<ul>{texts}</ul>{live_files.table(caption, ['judge', *heads], rows)}"
    )
