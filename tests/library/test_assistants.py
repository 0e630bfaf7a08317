"""The small assistant of InstructGPT's page: what it is asked, how its answers are rated, what may learn."""

import numpy as np
import pytest
import torch

from nextword.attention import pad
from nextword.book import assistants


def test_new_requests_are_new_and_each_has_the_tag_of_its_thing():
    train, test = assistants.requests("train"), assistants.requests("test")
    assert len(train) == 128 and len(test) == 32 and not train.keys() & test.keys()
    for request, tag in (train | test).items():
        assert any(f"of that {thing}?" in request for thing in assistants.THINGS[tag])
    with pytest.raises(KeyError):
        assistants.requests("valid")


def test_only_the_last_four_of_thirty_layers_learn():
    model, words = assistants.load()
    learns = {name for name, x in model.named_parameters() if x.requires_grad}
    assert {name.split(".")[1] for name in learns} == {"26", "27", "28", "29"}
    assert words.decode([assistants.stop()]) == "<|im_end|>"
    critic = assistants.new_critic()
    assert len(critic.decoder.blocks) == 4 and all(x.requires_grad for x in critic.decoder.blocks.parameters())
    assert not critic(torch.tensor([[1, 2, 3]])).any(), "it expects nothing yet"


def test_an_answer_is_rated_behind_its_tag_in_one_line_and_without_what_follows_its_end():
    words, (request, tag) = assistants.load()[1], next(iter(assistants.requests("test").items()))
    said = ["It was\n good.<|im_end|>", "Cut off", "Over.<|im_end|>\n<|im_start|>user\nAnd now?"]
    beginning = assistants.as_chat([request])[0]
    rows = [beginning + words.encode(text, allow_special=words.special_tokens) for text in said]
    assert assistants.rated_as(*pad(rows, side="left")) == [f"{tag} It was good.", f"{tag} Cut off", f"{tag} Over."]


def test_a_policy_that_has_not_learned_is_as_good_as_before():
    model, _ = assistants.load()
    judges = {
        "reward": lambda texts: np.array([float(len(text)) for text in texts]),
        "commas": lambda texts: np.array([text.count(",") + 0.5 * i for i, text in enumerate(texts)]),
    }
    found = assistants.compare(model, judges, tries=2)
    assert found["wins"] == {"reward": 50, "commas": 50} and found["gain"] == {"reward": 0, "commas": 0}
    assert found["best"]["reward"] > 0 and found["kl"] == 0
    for name in ("length", "elsewhere", "prose", "answers", "others"):
        before, after = found[name]
        assert before == after
    assert len(found["answers"][0]) == 32 and len(found["others"][0]) == len(assistants.OTHERS)
