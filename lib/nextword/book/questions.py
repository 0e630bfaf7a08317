"""Questions about pictures of one coloured shape, by kind: what colour, what shape, yes or no.

Source: easy-VQA (Zhou 2019), 5,000 pictures of 64 × 64 pixels, MIT. Used in: 2023_palm_e.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import easy_vqa  # type: ignore[import-untyped]
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

KINDS = ("colour", "shape", "yes or no")


class Question(NamedTuple):
    """A question about a picture, and the one right answer."""

    picture: int  # its row in :func:`load_pictures`
    text: str
    answer: str

    @property
    def kind(self) -> str:
        """What is asked for, one of KINDS."""
        if self.answer in ("yes", "no"):
            return "yes or no"
        return "shape" if self.answer in ("circle", "rectangle", "triangle") else "colour"


@functools.cache
def load_questions(split: Literal["train", "test"]) -> tuple[Question, ...]:
    """Return the questions of a split; the test's are about the 1,000 pictures of its own.

    Raises:
        ValueError: there is no such split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: choose 'train' or 'test'")
    texts, answers, pictures = (easy_vqa.get_train_questions if split == "train" else easy_vqa.get_test_questions)()
    return tuple(Question(*row) for row in zip(pictures, texts, answers, strict=True))


@functools.cache
def load_pictures(split: Literal["train", "test"]) -> Float[Tensor, "N 3 64 64"]:
    """Return the pictures of a split, brightness from 0 to 1."""
    load_questions(split)  # which refuses another split
    paths = (easy_vqa.get_train_image_paths if split == "train" else easy_vqa.get_test_image_paths)()
    pixels = np.stack([np.asarray(Image.open(paths[i]).convert("RGB")) for i in range(len(paths))])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0


def captions(split: Literal["train", "test"]) -> list[str]:
    """Return what the questions of a split reveal of each picture, such as ``red circle``.

    Only questions for colour and shape are read; a picture whose questions reveal one of them alone has that word alone.
    """
    found: dict[int, dict[str, str]] = {i: {} for i in range(len(load_pictures(split)))}
    for question in load_questions(split):
        if question.kind != "yes or no":
            found[question.picture][question.kind] = question.answer
        # "what color is the circle?" names the shape, and "what is the blue shape?" the colour.
        for word in question.text.rstrip("?").split():
            if question.kind == "colour" and word in ("circle", "rectangle", "triangle"):
                found[question.picture]["shape"] = word
            if question.kind == "shape" and word in COLOURS:
                found[question.picture]["colour"] = word
    return [" ".join(known[kind] for kind in ("colour", "shape") if kind in known) for known in found.values()]


COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


def commonest(questions: Sequence[Question]) -> dict[str, float]:
    """Return, by kind, how often the commonest answer is right, in percent."""
    shares = {}
    for kind in KINDS:
        answers = Counter(q.answer for q in questions if q.kind == kind)
        shares[kind] = 100 * max(answers.values()) / answers.total() if answers else 0.0
    return shares
