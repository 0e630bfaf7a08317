"""The real SmolLM2-135M from its GGUF file, against transformers reading the same file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from parity import assert_close
from torch import Tensor
from transformers import AutoConfig, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from nextword import checkpoints, fetching, pretrained
from nextword.decoder import Decoder, DecoderConfig
from nextword.evaluation import few_shot_prompt, generate_until, loglikelihood
from nextword.tokenizers import ByteBPE

TEXTS = ["The capital of France is", "Once upon a time, in a village by the sea,", "2, 4, 6, 8,"]


@pytest.fixture(scope="module")
def path() -> Path:
    return fetching.fetch_file("smollm2")


@pytest.fixture(scope="module")
def ours(path: Path) -> Decoder:
    return Decoder.from_gguf(path)


@pytest.fixture(scope="module")
def theirs(path: Path) -> PreTrainedModel:
    model = LlamaForCausalLM(AutoConfig.from_pretrained(path.parent, gguf_file=path.name))
    weights = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    left_out = model.load_state_dict(weights, strict=False)
    assert (left_out.missing_keys, left_out.unexpected_keys) == (["lm_head.weight"], [])  # which is the embedding
    return model.eval()


@pytest.fixture(scope="module")
def bpe(path: Path) -> ByteBPE:
    return ByteBPE.from_gguf(path)


def test_sizes_are_those_of_the_preset(ours: Decoder) -> None:
    config = dataclasses.replace(ours.config, norm_eps=round(ours.config.norm_eps, 12))
    assert config == DecoderConfig.preset("smollm2-135m")
    assert ours.num_parameters() == 134_515_008 and not ours.training
    assert ours.output.weight is ours.embedding.weight


def test_scores_and_greedy_texts_are_those_of_transformers(
    ours: Decoder, theirs: PreTrainedModel, bpe: ByteBPE
) -> None:
    for text in TEXTS:
        ids = torch.tensor([bpe.encode(text)])
        with torch.inference_mode():
            assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-3)
            written = theirs.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert ours.generate(ids, 16, temperature=0).tolist() == written.tolist()


def test_a_batch_filled_up_on_the_left_is_written_as_one_by_one(ours: Decoder, bpe: ByteBPE) -> None:
    rows = [bpe.encode(text) for text in TEXTS]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    together = ours.generate(ids, 8, mask=mask, temperature=0)
    for row, text in zip(together, rows, strict=True):
        alone = ours.generate(torch.tensor([text]), 8, temperature=0)[0]
        assert row[longest - len(text) :].tolist() == alone.tolist()


def test_an_answer_is_greedy_where_it_is_what_the_model_writes(
    ours: Decoder, bpe: ByteBPE, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid")]
    capitals = {"Germany": "Berlin", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima", "Norway": "Oslo"}
    settings = {"instruction": "The capital of each country, one on a line, as a child learns them at school:"}
    prompts = [
        few_shot_prompt(examples, 3, query=country, generator=torch.Generator().manual_seed(0), **settings)
        for country in capitals
    ]
    written = generate_until(ours, bpe, prompts, max_new_tokens=6)
    pairs = [(prompt, f" {city}\n") for prompt, city in zip(prompts, capitals.values(), strict=True)]
    read: list[int] = []
    hidden = Decoder.hidden

    def spy(self: Decoder, ids: Tensor, **settings: Any) -> Tensor:
        read.append(ids.numel())
        return hidden(self, ids, **settings)

    monkeypatch.setattr(Decoder, "hidden", spy)
    shared, together = loglikelihood(ours, bpe, pairs), sum(read)
    whole = loglikelihood(ours, bpe, pairs, share_prefix=False)
    assert len(read) == 3 and together < (sum(read) - together) / 2
    right = [answer == city for answer, city in zip(written, capitals.values(), strict=True)]
    assert [score.is_greedy for score in shared] == [score.is_greedy for score in whole] == right
    assert 0 < sum(right) < 5
    for a, b in zip(shared, whole, strict=True):
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-3)


def test_it_answers_in_a_chat(ours: Decoder, bpe: ByteBPE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "from_gguf", lambda path: ours)
    monkeypatch.setattr(ByteBPE, "from_gguf", lambda path: bpe)
    model, tokenizer, _ = checkpoints.load("smollm2")
    ids = torch.tensor([tokenizer.encode_chat("What is the capital of France?")])
    answer = model.generate(ids, 20, temperature=0, stop=tokenizer.special_tokens["<|im_end|>"])
    assert tokenizer.decode(answer[0, ids.shape[1] :]) == "The capital of France is Paris.<|im_end|>"


# --- Files that are refused ---


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no weights at all, and nothing else either" * 9)
    for name in ("model.gguf", "missing.gguf"):
        with pytest.raises(ValueError, match=f"{name}' cannot be read as GGUF"):
            Decoder.from_gguf(tmp_path / name)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "other.gguf", "gemma")
    writer.add_embedding_length(8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="other.gguf' holds a gemma; this reads the shape of Llama"):
        pretrained.read_gguf(tmp_path / "other.gguf")
