"""Race byte-level BPE against ``tokenizers`` (Hugging Face) and ``tiktoken`` (OpenAI): training and encoding, one thread.

Run ``python benchmarks/bpe.py``. All sides read the same text with the same pattern and must give the same merges and
ids before their time counts. Runs are interleaved, so that a change of the machine's speed meets all of them.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # read when tokenizers is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import json
import sysconfig
from pathlib import Path

import tiktoken
import tokenizers
from racing import Row, begin, interleave, table
from tokenizers import models, pre_tokenizers, trainers

from nextword.tokenizers import BYTE_ORDER, GPT2_PATTERN, ByteBPE

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # the characters that stand for the bytes, in the order of ids
CHARACTER = dict(zip(BYTE_ORDER, ALPHABET, strict=True))


def english(megabytes: float) -> str:
    """Return WikiText-2 where it can be had, else the sources of Python's standard library, which are half English."""
    from nextword.data import load_wikitext2
    from nextword.fetching import DataError

    try:
        text = load_wikitext2("train")
    except DataError:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    return text[: int(megabytes * 1e6)]


def train_peer(documents: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=0, show_progress=False, initial_alphabet=ALPHABET
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def spell(token: bytes) -> str:
    return "".join(CHARACTER[byte] for byte in token)


def ranks_of(bpe: ByteBPE) -> dict[bytes, int]:
    return {bpe.token_bytes(i): i for i in range(bpe.vocab_size)}


def row(name: str, ours: float, peer: str, peer_value: float, bar: float | None) -> Row:
    """Return one row of the table; values are MB/s, so a ratio above 1 says that we are faster."""
    ratio = round(ours / peer_value, 3)
    return {
        "name": name,
        "ours": round(ours, 2),
        "peer": peer,
        "peer_value": round(peer_value, 2),
        "unit": "MB/s",
        "ratio": ratio,
        "bar": bar,
    }


def race_training(text: str, vocab_size: int = 8000, rounds: int = 5) -> list[Row]:
    """Train both sides on the same documents; refuse to time them unless the merges are equal."""
    documents = [text[i : i + 10_000] for i in range(0, len(text), 10_000)]
    ours, peer = ByteBPE.train(documents, vocab_size), train_peer(documents, vocab_size)
    theirs = [tuple(pair) for pair in json.loads(peer.to_str())["model"]["merges"]]
    if [(spell(left), spell(right)) for left, right in ours.merges()] != theirs:
        raise RuntimeError("the two sides learnt different merges")
    runners = {
        "nextword": lambda: ByteBPE.train(documents, vocab_size),
        "tokenizers": lambda: train_peer(documents, vocab_size),
    }
    seconds = interleave(runners, rounds)
    size = len(text.encode("utf-8")) / 1e6
    name = f"BPE training, {size:.1f} MB, vocabulary {vocab_size:,}"
    return [row(name, size / seconds["nextword"], "tokenizers", size / seconds["tokenizers"], bar=None)]


def race_encoding(text: str, vocab_size: int = 8000, rounds: int = 5) -> list[Row]:
    """Encode one long string with the same ranks, ours both from an empty cache and from a filled one."""
    bpe = ByteBPE.train([text], vocab_size)
    ranks = ranks_of(bpe)
    spelled = [(spell(left), spell(right)) for left, right in bpe.merges()]
    hugging_face = tokenizers.Tokenizer(models.BPE({spell(token): i for token, i in ranks.items()}, spelled))
    hugging_face.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    openai = tiktoken.Encoding("race", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    if not bpe.encode(text) == hugging_face.encode(text).ids == openai.encode_ordinary(text):
        raise RuntimeError("the three sides give different ids")
    runners = {
        "first time": lambda: ByteBPE(ranks).encode(text),
        "again": lambda: bpe.encode(text),
        "tokenizers": lambda: hugging_face.encode(text).ids,
        "tiktoken": lambda: openai.encode_ordinary(text),
    }
    seconds = interleave(runners, rounds)
    size = len(text.encode("utf-8")) / 1e6
    speed = {name: size / s for name, s in seconds.items()}
    bars = {"tokenizers": 1.0, "tiktoken": None}
    return [
        row(f"BPE encoding, {size:.1f} MB, {ours}", speed[ours], peer, speed[peer], bars[peer])
        for ours in ("first time", "again")
        for peer in bars
    ]


def races(rounds: int = 5) -> list[Row]:
    """Return all rows of this file."""
    return race_training(english(10), rounds=rounds) + race_encoding(english(5), rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side, at least 5 (the median counts)")
    rounds = parser.parse_args().rounds
    if rounds < 5:
        parser.error(f"--rounds {rounds}: a median of fewer than 5 runs says little")
    begin()
    print(table(races(rounds)))


if __name__ == "__main__":
    main()
