"""The text that the book's own decoders were trained on, and the text that was held out.

Used in: live.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

from nextword import data
from nextword.tokenizers import ByteBPE

END = "<|endoftext|>"
"""The token that stands before every text."""


def documents(split: str = "train") -> list[str]:
    """Return passages of Wikipedia with the questions asked about them, sections of articles, and single sentences.

    Of the held-out passages every second one is left out, as when the models of the GPT-2 chapter were trained.
    """
    asked = defaultdict(list)
    for passage, question, _ in data.load_boolq(split):
        asked[passage].append(f"Question: {question}?")
    passages = ["\n".join([passage, *questions]) for passage, questions in asked.items()]
    passages += data.load_quac(split)
    texts = passages[:: 1 if split == "train" else 2] + data.load_english(split)
    random.Random(0).shuffle(texts)
    return texts


def encode(texts: Iterable[str], bpe: ByteBPE) -> list[int]:
    """Return all texts as one long line of ids, with the id of ``END`` before each."""
    end = bpe.special_tokens[END]
    return [i for text in texts for i in (end, *bpe.encode(text))]
