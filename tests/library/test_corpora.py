"""The text of the book's own decoders is the one that the chapter on GPT-2 trains them on."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import record
from nextword import checkpoints
from nextword.book import corpora


def test_it_is_what_the_chapter_on_gpt2_reads():
    names = record.namespace("2019_gpt2")
    for split in ("train", "valid"):
        assert corpora.documents(split) == names["documents"](split)
    bpe, texts = checkpoints.load("nextword-small").tokenizer, corpora.documents("valid")[:50]
    assert corpora.encode(texts, bpe) == names["encode"](texts, bpe).tolist()


def test_every_text_begins_with_the_end_of_another():
    bpe = checkpoints.load("nextword-small").tokenizer
    ids = corpora.encode(["a", "", "b c"], bpe)
    assert [i for i, id in enumerate(ids) if id == bpe.special_tokens[corpora.END]] == [0, 2, 3]
