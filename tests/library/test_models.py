"""The models that answer in the pages of their chapters: each loads, and is as good as its card says.

What measures them are the functions that the chapters show.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from nextword.book import icons, models
from nextword.reward_model import RewardModel

NAMES = sorted(path.name for path in models.FOLDER.iterdir())


@functools.cache
def chapter(name: str) -> dict[str, Any]:
    """Return the names of a chapter's recorded cells."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    import record

    return record.namespace(name)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_BF16", "0")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_loads_with_what_belongs_to_it(name: str) -> None:
    model, tokenizer, card = models.load(name)
    assert not model.training and (tokenizer is None) == (name == "clip_icons")
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    assert all(card[key] for key in ("made by", "settings", "data", "licence", "measured on"))
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", ["taste_reward", "taste_judge"])
def test_a_reward_model_orders_texts_as_its_card_says(name: str) -> None:
    names, found = chapter("2022_instructgpt"), models.load(name)
    assert isinstance(found.model, RewardModel)
    test = names["rated"]("test")
    agrees = names["agree"](found.model.score([ids for _, ids, _ in test]), test)
    assert agrees == pytest.approx(found.card["agreement"], abs=0.3)


@pytest.mark.parametrize("name", ["taste_supervised", "taste_ppo", "taste_ppo_ptx"])
def test_a_policy_knows_as_much_of_wikipedia_as_its_card_says(name: str) -> None:
    found = models.load(name)
    assert chapter("2022_instructgpt")["prose_loss"](found.model) == pytest.approx(found.card["prose"], abs=0.01)


def test_icons_are_named_as_the_card_says() -> None:
    model, _, card = models.load("clip_icons")
    split = icons.split_icons("Phosphor")
    found = chapter("2021_clip")["named"](model, icons.caption_tokenizer(split.train), split.seen)
    assert found == pytest.approx([card["first"], card["five"]], abs=0.6)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("bert_")])
def test_gaps_are_filled_as_the_card_says(name: str) -> None:
    found = models.load(name)
    measured = chapter("2018_bert")["fill_in"](found.model)
    for key, value in measured.items():  # the card's are of bfloat16, by which a few guesses differ
        assert value == pytest.approx(found.card[key], abs=0.02 if key == "nats" else 0.6), key


def test_an_unknown_name_gives_the_names_that_there_are() -> None:
    with pytest.raises(ValueError, match="name='taste_dpo': choose bert_.*, taste_judge, taste_ppo, taste_ppo_ptx, "):
        models.load("taste_dpo")
