"""A small assistant that can write, SmolLM2-135M, asked what it thinks of films and products: a policy for InstructGPT's page.

Used in: 2022_instructgpt.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextword import data, metrics, runtime
from nextword.attention import pad
from nextword.decoder import Decoder
from nextword.reward_model import RewardModel
from nextword.rlhf import Reward, Rollout, response_log_probs, rollout
from nextword.tokenizers import ByteBPE

THINGS = {
    "Film:": ("film", "western", "comedy", "thriller", "documentary", "cartoon", "musical", "drama"),
    "Product:": ("camera", "phone", "router", "music player", "printer", "laptop", "DVD player", "mouse"),
}
"""What it is asked about, by the tag that stands before such texts in the ratings."""

PARTS = {
    "Film:": ("acting", "plot", "ending", "music", "dialogue", "hero", "script", "pace", "humour", "title"),
    "Product:": ("price", "battery", "size", "sound", "software", "manual", "weight", "look", "speed", "box"),
}
"""What of it."""

OTHERS = (
    "Explain to a child why the sky is blue.",
    "What should I cook tonight with rice and eggs?",
    "Write a short apology for a late reply.",
    "What is the capital of France?",
    "How do I remove a coffee stain from a shirt?",
    "Name three animals that live in the sea.",
    "Why do leaves change their colour in autumn?",
    "Give me one tip for learning a language.",
)
"""Requests of another kind, to see what a training changes elsewhere."""

TEMPERATURE = 0.7


class Chat(Decoder):
    """A decoder that also writes in bfloat16, where that is faster."""

    def generate(self, *given: Any, **settings: Any) -> Tensor:
        """Return what :meth:`~nextword.decoder.Decoder.generate` writes."""
        with runtime.autocast():
            return super().generate(*given, **settings)


@functools.cache
def load(layers: int = 4) -> tuple[Decoder, ByteBPE]:
    """Return the model, of which only the last ``layers`` can learn, and its tokenizer."""
    file = data.fetch_file("smollm2")
    model = Chat.from_gguf(file).to(runtime.device()).eval().requires_grad_(False)
    model.blocks[-layers:].requires_grad_(True)
    return model, ByteBPE.from_gguf(file)


def new_critic(layers: int = 4) -> RewardModel:
    """Return a critic of the model's first ``layers``, which expects nothing yet."""
    body = copy.deepcopy(load()[0])
    body.blocks = body.blocks[:layers].requires_grad_(True)
    critic = RewardModel(body)
    torch.nn.init.zeros_(critic.head.weight)
    return critic


@functools.cache
def requests(split: str) -> dict[str, str]:
    """Return requests of one part, ``train`` (128) or ``test`` (32), each with the tag that its answers get."""
    every = [
        (f"What did you think of the {part} of that {thing}? Answer in one short sentence.", tag)
        for tag in THINGS
        for thing, part in product(THINGS[tag], PARTS[tag])
    ]
    random.Random(0).shuffle(every)
    return dict({"train": every[32:], "test": every[:32]}[split])


def as_chat(texts: Sequence[str]) -> list[list[int]]:
    """Return requests as the model reads them: each a conversation in its template, up to where it is to answer."""
    return [load()[1].encode_chat(text) for text in texts]


def stop() -> int:
    """Return the id of the token that ends an answer."""
    return load()[1].special_tokens["<|im_end|>"]


def respond(model: Decoder, texts: Sequence[str], *, tries: int = 1, seed: int = 1) -> Rollout:
    """Return a model's answers of at most 40 tokens, ``tries`` neighbouring rows for each request."""
    ids, mask = pad([row for row in as_chat(texts) for _ in range(tries)], side="left", device=runtime.device())
    draw = torch.Generator(ids.device).manual_seed(seed)
    sampling: dict[str, Any] = {"temperature": TEMPERATURE, "stop": stop(), "generator": draw}
    return rollout(model, ids, mask=mask, max_new_tokens=40, **sampling)


def answers(written: Rollout) -> list[str]:
    """Return answers as text."""
    return [load()[1].decode(ids, skip_special=True) for ids in written.responses()]


def on_the_way(policy: Decoder) -> dict[str, list[str]]:
    """Return what a policy answers to the new requests, once each, for ``evaluate`` of a training."""
    return {"said": answers(respond(policy, [*requests("test")]))}


def rated_as(ids: Tensor, mask: Tensor) -> list[str]:
    """Return conversations as texts that can be rated: the tag and the answer, in one line.

    Args:
        ids: conversations (B, S), with requests of :func:`requests`.
        mask: True at their tokens.
    """
    tags, found = requests("train") | requests("test"), []
    for row, real in zip(ids, mask, strict=True):
        # The system's message, the request and the answer; a fourth turn belongs to an answer that went on without an end.
        turns = load()[1].decode(row[real].tolist()).split("<|im_start|>", 3)[2:]
        request, answer = (turn.partition("\n")[2].partition("<|im_end|>")[0] for turn in turns)
        found.append(f"{tags[request]} {' '.join(answer.split())}")
    return found


def usual() -> list[str]:
    """Return the model's own answers to the requests of the training part, as texts that can be rated."""
    written = respond(load()[0], [*requests("train")])
    return rated_as(written.ids, written.mask)


def as_reward(score: Callable[[list[str]], Tensor]) -> Reward:
    """Return a reward of conversations from one of texts, for :func:`~nextword.rlhf.train_rlhf`."""

    def reward(ids: Tensor, *, mask: Tensor) -> Tensor:
        return score(rated_as(ids, mask)).to(ids.device)

    return reward


def loss_on_prose(model: Decoder, n: int = 64) -> float:
    """Return nats a token on the first 64 tokens of ``n`` sections of Wikipedia."""
    rows = [load()[1].encode(text)[:64] for text in data.load_quac("valid")[:n]]
    ids, mask = pad(rows, device=runtime.device())
    with torch.no_grad(), runtime.autocast():
        loss: Tensor = model(ids[:, :-1], ids[:, 1:].masked_fill(~mask[:, 1:], -100)).loss
    return loss.item()


def compare(
    policy: Decoder, judges: Mapping[str, Callable[[list[str]], np.ndarray]], tries: int = 16
) -> dict[str, Any]:
    """Compare a policy with the model that it began as: on new requests, on other ones, and on prose.

    Args:
        policy: what was trained.
        judges: each returns a number for each of some texts; one is the ``reward``, which chooses the best of several answers.
        tries: answers to each request.

    Returns:
        ``wins`` (percent), ``gain`` and ``best`` by judge: how often the policy is preferred, and how far the mean of its answers,
        and of the best of ``tries`` answers without training, lies above the usual ones, in their standard deviations; ``kl``
        in nats an answer; ``length``, ``elsewhere`` (tokens of an answer to other requests) and ``prose`` before and
        after; ``answers`` and ``others``, one for each request, before and after.
    """
    start, new = load()[0], [*requests("test")]
    written = [respond(model, new, tries=tries) for model in (start, policy)]
    texts = [rated_as(x.ids, x.mask) for x in written]
    before, after = ({name: judge(x) for name, judge in judges.items()} for x in texts)
    best = before["reward"].reshape(-1, tries).argmax(1) + tries * np.arange(len(new))
    away = written[1].log_prob - response_log_probs(start, written[1], temperature=TEMPERATURE)
    other = [respond(model, OTHERS, tries=4) for model in (start, policy)]
    return {
        "wins": {name: 100 * metrics.win_rate(after[name], x) for name, x in before.items()},
        "gain": {name: float((after[name] - x.mean()).mean() / x.std()) for name, x in before.items()},
        "best": {name: float((x[best] - x.mean()).mean() / x.std()) for name, x in before.items()},
        "kl": away.sum(1).mean().item(),
        "length": [x.response_mask.sum(1).float().mean().item() for x in written],
        "elsewhere": [x.response_mask.sum(1).float().mean().item() for x in other],
        "prose": [loss_on_prose(model) for model in (start, policy)],
        "answers": [answers(x)[::tries] for x in written],
        "others": [answers(x)[::4] for x in other],
    }
