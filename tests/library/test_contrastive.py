"""CLIP against plain loops and transformers' CLIP; its rivals, its classifier of names, and what each of them refuses."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import (
    KINDS,
    Mapping,
    as_a_reader_sees_it,
    assert_close,
    assert_every_gradient,
    assert_same_gradients,
    give_ours,
    normal,
    randomised,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig as TheirConfig
from transformers import (
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from nextword.contrastive import (
    CLIP,
    MAX_SCALE,
    BagOfWords,
    Captioner,
    CLIPConfig,
    CLIPOutput,
    Convolutions,
    TextEncoder,
    VisionTransformer,
    contrastive_loss,
    full_precision,
    name_vectors,
    picture_vectors,
    rank_of,
    text_batch,
    unit_length,
)
from nextword.tokenizers import ByteBPE

V, L, END, T = 23, 2, 22, 9
TINY = CLIPConfig(
    vocab_size=V,
    context_length=T,
    size=8,
    n_channels=2,
    d_embed=5,
    d_model=12,
    n_heads=3,
    n_layers=L,
    widths=(4, 6),
    patch=4,
    vision_layers=L,
)
KINDS_OF_VISION = ["convolutions", "transformer"]
LETTERS = ByteBPE.train([], 256)


def tiny(vision: Any = "transformer", **changes: Any) -> CLIPConfig:
    return dataclasses.replace(TINY, vision=vision, **changes)


def make(kind: type[Any] = CLIP, vision: Any = "transformer", seed: int = 0, **changes: Any) -> Any:
    """Return a model in float64 with random parameters, in evaluation mode."""
    return randomised(kind(tiny(vision, **changes)), seed).eval()


def pictures(n: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texts(lengths: tuple[int, ...] = (6, 3, 9, 1), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return texts of these lengths, the end token included, and their mask; the padding is 0, as that of ``pad``."""
    ids = torch.randint(0, END, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = END
    return ids * mask, mask


def filled_anew(ids: Tensor, mask: Tensor, seed: int = 7) -> Tensor:
    """Return the same texts with other ids at their padding."""
    other = torch.randint(0, V, ids.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(mask, ids, other)


# --- The loss ---------------------------------------------------------------------------------------------------------


def double_loop(logits: Tensor) -> Tensor:
    """Return the loss by its definition: each picture asks all texts, each text asks all pictures."""
    n, costs = len(logits), []
    for i in range(n):
        costs.append(-(logits[i, i].exp() / sum(logits[i, j].exp() for j in range(n))).log())
        costs.append(-(logits[i, i].exp() / sum(logits[j, i].exp() for j in range(n))).log())
    return sum(costs) / (2 * n)  # type: ignore[return-value]


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("reference", [double_loop, image_text_contrastive_loss])
def test_loss_and_gradient_are_those_of_a_loop_and_of_transformers(n: int, reference: Any) -> None:
    ours, theirs = (normal(n, n, seed=n).mul(3).requires_grad_() for _ in range(2))
    loss, expected = contrastive_loss(ours), reference(theirs)
    assert_close(loss, expected)
    assert_close(*(torch.autograd.grad(x, y)[0] for x, y in ((loss, ours), (expected, theirs))))
    assert loss.shape == () and loss.dtype == torch.float64


@given(st.integers(1, 9), st.integers(0, 999), st.floats(-50, 50))
def test_the_loss_takes_pictures_and_texts_alike_and_only_gaps_count(n: int, seed: int, shift: float) -> None:
    logits = 4 * normal(n, n, seed=seed)
    loss = contrastive_loss(logits)
    assert_close(contrastive_loss(logits.T), loss)
    assert_close(contrastive_loss(logits + shift), loss)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert_close(contrastive_loss(logits[order][:, order]), loss)  # pairs stay pairs
    assert loss >= 0


def test_each_direction_counts_half() -> None:
    logits = 3 * normal(5, 5)
    rows, columns = (F.cross_entropy(x, torch.arange(5)) for x in (logits, logits.T))
    assert abs(rows - columns) > 0.1
    assert_close(contrastive_loss(logits), (rows + columns) / 2)


@pytest.mark.parametrize("n", [1, 2, 10, 100])
@pytest.mark.parametrize("level", [0.0, -30.0, 1e4])
def test_at_equal_logits_the_loss_is_log_n(n: int, level: float) -> None:
    assert contrastive_loss(torch.full((n, n), level, dtype=torch.float64)).item() == pytest.approx(
        math.log(n), abs=1e-9
    )


def test_the_loss_is_small_where_the_diagonal_dominates_and_large_where_another_does() -> None:
    noise, right = normal(6, 6), 40 * torch.eye(6, dtype=torch.float64)
    assert 0 <= contrastive_loss(noise + right) < 1e-10
    assert contrastive_loss(noise + right.flip(0)) > 30
    assert contrastive_loss(1e4 * right).item() == 0 and contrastive_loss(-1e4 * right).isfinite()


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (3,), (2, 3, 3), (), (0, 0), (0, 3)])
def test_the_loss_wants_as_many_texts_as_pictures(shape: tuple[int, ...]) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=r"logits has shape \(.*\); give as many texts"):
        contrastive_loss(torch.zeros(shape))


# --- Against transformers ---------------------------------------------------------------------------------------------


def blocks_in_transformers(where: str) -> Mapping:
    """Return the mapping of our blocks to those of a CLIP encoder that stands at ``where``."""
    parts = {}
    for i in range(L):
        ours, theirs = f"blocks.{i}", f"{where}.encoder.layers.{i}"
        for x, y in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
            parts[f"{ours}.attention.{x}"] = f"{theirs}.self_attn.{y}"
        parts |= {
            f"{ours}.attention_norm": f"{theirs}.layer_norm1",
            f"{ours}.feed_forward.up": f"{theirs}.mlp.fc1",
            f"{ours}.feed_forward.down": f"{theirs}.mlp.fc2",
            f"{ours}.feed_forward_norm": f"{theirs}.layer_norm2",
        }
    return {f"{a}.{kind}": f"{b}.{kind}" for a, b in parts.items() for kind in KINDS}


def text_in_transformers() -> Mapping:
    ends = {f"norm.{kind}": f"text_model.final_layer_norm.{kind}" for kind in KINDS}
    return {
        "embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positions.weight": "text_model.embeddings.position_embedding.weight",
        "output.weight": "text_projection.weight",
        **ends,
        **blocks_in_transformers("text_model"),
    }


def vision_in_transformers() -> Mapping:
    ends = {f"norm.{kind}": f"vision_model.post_layernorm.{kind}" for kind in KINDS}
    patches = {f"embedding.{kind}": f"vision_model.embeddings.patch_embedding.linear.{kind}" for kind in KINDS}
    return {
        "class_token": "vision_model.embeddings.class_embedding",
        "positions": "vision_model.embeddings.position_embedding.weight",
        "output.weight": "visual_projection.weight",
        **ends,
        **patches,
        **blocks_in_transformers("vision_model"),
    }


SIZES: dict[str, Any] = {
    "hidden_size": 12,
    "intermediate_size": 48,
    "projection_dim": 5,
    "num_hidden_layers": L,
    "num_attention_heads": 3,
    "hidden_act": "gelu",
    "attn_implementation": "sdpa",  # their eager attention takes its softmax in float32
}
TEXT_SIZES = {"vocab_size": V, "max_position_embeddings": T, "eos_token_id": END, "bos_token_id": 21, "pad_token_id": 0}
VISION_SIZES = {"num_channels": 2, "image_size": 8, "patch_size": 4}


class BiasedPatches(nn.Module):
    """A convolution as theirs, whose steps are as long as its patches, but with a bias; its weights as a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * 4 * 4, 12)

    @property
    def weight(self) -> Tensor:
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.linear.weight.view(12, 2, 4, 4), self.linear.bias, stride=4)


def their_vision(model: Any) -> Any:
    """Return theirs with the two parts changed where our Vision Transformer differs from CLIP's.

    Ours, as that of Dosovitskiy et al., has a bias where patches become vectors and no norm before the first block.
    """
    model.vision_model.embeddings.patch_embedding = BiasedPatches()
    model.vision_model.pre_layrnorm = nn.Identity()
    return model


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("lengths", [(6, 3, 9, 1), (5, 5), (2,)])
def test_text_encoder_is_transformers_in_vectors_and_gradients(seed: int, lengths: tuple[int, ...]) -> None:
    ours = randomised(TextEncoder(TINY), seed)
    theirs, mapping = CLIPTextModelWithProjection(CLIPTextConfig(**SIZES, **TEXT_SIZES)), text_in_transformers()
    give_ours(ours, theirs, mapping)
    ids, mask = texts(lengths, seed)
    found, expected = ours(ids, mask=mask), theirs(ids, attention_mask=mask.long()).text_embeds
    assert_close(found, expected)
    weights = normal(*found.shape, seed=seed)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_same_gradients(ours, theirs, mapping)


@pytest.mark.parametrize("seed", [0, 1])
def test_vision_transformer_is_transformers_in_vectors_and_gradients(seed: int) -> None:
    ours = randomised(VisionTransformer(TINY), seed)
    theirs = their_vision(CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, **VISION_SIZES)))
    mapping, given_ = vision_in_transformers(), pictures(3, seed)
    give_ours(ours, theirs, mapping)
    found, expected = ours(given_), theirs(given_).image_embeds
    assert_close(found, expected)
    weights = normal(*found.shape, seed=seed)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_same_gradients(ours, theirs, mapping)
    assert_every_gradient(ours, skip=lambda name: name.endswith("key.bias"))  # it moves all scores of a row alike


def test_vision_transformer_by_plain_recomputation() -> None:
    """The whole of it, with the bias and without the norm that CLIP's own has."""
    model, given_ = randomised(VisionTransformer(tiny())), pictures(2)
    found = model(given_)
    for picture, vector in zip(given_, found, strict=True):
        rows = [model.class_token + model.positions[0]]
        for i, (top, left) in enumerate(itertools.product((0, 4), (0, 4)), start=1):
            patch = picture[:, top : top + 4, left : left + 4].flatten()
            rows.append(model.embedding.weight @ patch + model.embedding.bias + model.positions[i])
        x = torch.stack(rows)
        for block in model.blocks:
            y = F.layer_norm(x, (12,), block.attention_norm.weight, block.attention_norm.bias)
            q, k, v = (getattr(block.attention, name)(y) for name in ("query", "key", "value"))
            heads = [(q[:, h] @ k[:, h].T / 2).softmax(1) @ v[:, h] for h in torch.arange(12).chunk(3)]  # √4 is 2
            x = x + block.attention.out(torch.cat(heads, 1))
            y = F.layer_norm(x, (12,), block.feed_forward_norm.weight, block.feed_forward_norm.bias)
            h = block.feed_forward.up(y)
            x = x + block.feed_forward.down(h * (1 + torch.erf(h / math.sqrt(2))) / 2)
        first = F.layer_norm(x[0], (12,), model.norm.weight, model.norm.bias)
        assert_close(vector, model.output.weight @ first)


@pytest.mark.parametrize("seed", [0, 1])
def test_clip_is_transformers_in_logits_loss_and_gradients(seed: int) -> None:
    """The two encoders together, from pixels and ids to the loss."""
    ours = make(seed=seed)
    with torch.no_grad():
        ours.log_scale.fill_(1.7)
    parts = {"text_config": {**SIZES, **TEXT_SIZES}, "vision_config": {**SIZES, **VISION_SIZES}}
    theirs = their_vision(CLIPModel(TheirConfig(**parts, projection_dim=5, attn_implementation="sdpa")))
    mapping: Mapping = {"log_scale": "logit_scale"}
    mapping |= {f"text.{mine}": place for mine, place in text_in_transformers().items()}
    mapping |= {f"vision.{mine}": place for mine, place in vision_in_transformers().items()}
    give_ours(ours, theirs, mapping)
    (ids, mask), shown = texts(seed=seed), pictures(seed=seed)
    out, expected = ours(shown, ids, mask), theirs(ids, shown, mask.long(), return_loss=True)
    assert_close(ours.encode_pictures(shown), expected.image_embeds)
    assert_close(ours.encode_texts(ids, mask), expected.text_embeds)
    assert_close(out.logits, expected.logits_per_image)
    assert_close(out.loss, expected.loss)
    out.loss.backward()
    expected.loss.backward()
    assert_same_gradients(ours, theirs, mapping)
    assert ours.log_scale.grad.abs() > 1e-3


# --- The encoder of texts ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, T), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_padding_changes_nothing(lengths: list[int], seed: int) -> None:
    encoder = randomised(TextEncoder(TINY), 3)
    ids, mask = texts(tuple(lengths), seed)
    together = encoder(ids, mask=mask)
    assert_close(encoder(filled_anew(ids, mask, seed), mask=mask), together)
    for row, n in enumerate(lengths):
        alone = encoder(ids[row : row + 1, :n], mask=mask[row : row + 1, :n])
        assert_close(alone[0], together[row])


def test_tokens_behind_the_end_get_no_gradient_and_all_before_it_do() -> None:
    encoder, (ids, mask) = randomised(TextEncoder(TINY)), texts((6, 3, 9))
    rows = torch.arange(ids.numel()).view(ids.shape)  # an id of its own for each place
    encoder.embedding = nn.Embedding(ids.numel(), 12, dtype=torch.float64)
    encoder(rows, mask=mask).square().sum().backward()
    moved = encoder.embedding.weight.grad.abs().sum(1).view(ids.shape) > 1e-12
    assert torch.equal(moved, mask)
    assert encoder.positions.weight.grad.abs().sum(1).gt(1e-12).all()


def test_the_end_token_sees_every_word() -> None:
    encoder, (ids, mask) = randomised(TextEncoder(TINY)), texts((T,))
    before = encoder(ids, mask=mask)
    for place in range(T):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1) % V
        assert (encoder(other, mask=mask) - before).abs().max() > 1e-3, place


def test_the_order_of_words_counts() -> None:
    encoder, mask = randomised(TextEncoder(TINY)), torch.ones(2, 4, dtype=torch.bool)
    first, second = encoder(torch.tensor([[1, 2, 3, END], [3, 2, 1, END]]), mask=mask)
    assert (first - second).abs().max() > 1e-2


# --- CLIP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_vectors_have_length_1_and_logits_are_scaled_cosines(vision: str) -> None:
    model, (ids, mask) = make(vision=vision), texts()
    seen, read = model.encode_pictures(pictures()), model.encode_texts(ids, mask)
    for vectors in (seen, read):
        assert vectors.shape == (4, 5)
        assert_close(vectors.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    bare = model.vision(pictures())
    assert ((bare.norm(dim=-1) - 1).abs() > 0.05).any()
    assert_close(F.cosine_similarity(seen, bare), torch.ones(4, dtype=torch.float64))
    out = model(pictures(), ids, mask)
    cosines = torch.tensor([[(p @ t).item() for t in read] for p in seen], dtype=torch.float64)
    assert isinstance(out, CLIPOutput)
    assert_close(out.logits, model.scale().item() * cosines)
    assert_close(out.loss, contrastive_loss(out.logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_raised_and_no_other_is_changed(dtype: torch.dtype) -> None:
    x = 3 * normal(4, 5)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    raised, unit = full_precision(x.to(dtype)), unit_length(x.to(dtype))
    assert raised.dtype == unit.dtype == kept and torch.equal(raised.to(dtype), x.to(dtype))
    atol = 1e-12 if dtype == torch.float64 else 1e-6
    assert_close(unit.double().norm(dim=-1), torch.ones(4, dtype=torch.float64), rtol=0, atol=atol)
    exact = x.to(dtype).double()
    assert_close(unit.double(), exact / exact.square().sum(-1, keepdim=True).sqrt(), rtol=0, atol=atol)


@pytest.mark.parametrize("kind", [CLIP, BagOfWords, Captioner])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_models_compare_in_full_precision(kind: type[Any], dtype: torch.dtype) -> None:
    model, (ids, mask) = make(kind).to(dtype), texts()
    out = model(pictures().to(dtype), ids, mask)
    found = out.logits if kind is CLIP else out
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_shuffled_pairs_shuffle_the_logits(vision: str) -> None:
    model, (ids, mask), order = make(vision=vision), texts(), torch.tensor([2, 0, 3, 1])
    straight, shuffled = (model(pictures()[i], ids[i], mask[i]).logits for i in (torch.arange(4), order))
    assert_close(shuffled, straight[order][:, order])


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_every_parameter_learns(vision: str) -> None:
    model, (ids, mask) = make(vision=vision).train(), texts()
    model(pictures(), ids, mask).loss.backward()
    assert_every_gradient(model, skip=lambda name: name.endswith("key.bias"))  # it moves all scores of a row alike


def test_the_scale_begins_at_the_temperature() -> None:
    for temperature in (0.07, 0.5, 1.0, 0.01):
        model = CLIP(tiny(temperature=temperature))
        assert model.scale().item() == pytest.approx(1 / temperature, rel=1e-5)
    assert CLIP(CLIPConfig(vocab_size=5)).scale().item() == pytest.approx(1 / 0.07, rel=1e-5)


@pytest.mark.parametrize(
    ("log_scale", "scale"), [(0.0, 1.0), (-3.0, math.exp(-3)), (4.6, math.exp(4.6)), (4.7, 100.0), (90.0, 100.0)]
)
def test_the_scale_is_positive_and_at_most_100(log_scale: float, scale: float) -> None:
    model, (ids, mask) = make(), texts()
    with torch.no_grad():
        model.log_scale.fill_(log_scale)
    assert MAX_SCALE == 100 and model.scale().item() == pytest.approx(scale, rel=1e-12)
    logits = model(pictures(), ids, mask).logits
    cosines = model.encode_pictures(pictures()) @ model.encode_texts(ids, mask).T
    assert_close(logits, scale * cosines)


def test_parameters_are_counted_once_each() -> None:
    model, width = CLIP(tiny()), 12
    block = 4 * (width * width + width) + 2 * 2 * width + (width * 4 * width + 4 * width) + (4 * width * width + width)
    text = V * width + T * width + L * block + 2 * width + width * 5
    vision = (32 * width + width) + width + 5 * width + L * block + 2 * width + width * 5
    assert model.num_parameters() == text + vision + 1


def test_convolutions_by_hand() -> None:
    """Each second convolution halves the picture, and the vector is read from every place of the last one."""
    model, given_ = randomised(Convolutions(TINY)).eval(), pictures(3)
    x, layers = given_, list(model.layers)
    for i in range(4):
        x = F.conv2d(x, layers[3 * i].weight, stride=2 - i % 2, padding=1)
        norm = layers[3 * i + 1]
        mean, var = (z.view(-1, 1, 1) for z in (norm.running_mean, norm.running_var))
        x = (x - mean) / (var + 1e-5).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        x = x.clamp(min=0)
        assert x.shape == (3, TINY.widths[i // 2], *[8 // 2 ** (i // 2 + 1)] * 2)
    assert_close(model(given_), x.flatten(1) @ model.output.weight.T)


EIGHT = ["red cat", "red dog", "blue cat", "blue dog", "cat", "dog", "a red", "blue"]


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_eight_pairs_are_learned_by_heart(vision: str) -> None:
    torch.manual_seed(0)
    model = CLIP(tiny(vision, vocab_size=257, d_embed=8, widths=(8,)))
    ids, mask = text_batch(EIGHT, LETTERS, 256, context_length=T)
    shown = pictures(8).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = model(shown, ids, mask).loss.item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = model(shown, ids, mask).loss
        loss.backward()
        optimiser.step()
    assert first > 1.5 and loss < 0.05
    model.eval()
    assert (model(shown, ids, mask).logits.argmax(1) == torch.arange(8)).sum() >= 7


# --- The rivals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_a_bag_of_words_is_the_mean_of_its_words(vision: str) -> None:
    model, (ids, mask) = make(BagOfWords, vision), texts()
    found = model(pictures(), ids, mask)
    assert found.shape == (4, 4)
    scores = model.output(model.vision(pictures())).softmax(-1).log()
    for i, j in itertools.product(range(4), repeat=2):
        words = [scores[i, w].item() for w in ids[j][mask[j]]]
        assert found[i, j].item() == pytest.approx(sum(words) / len(words), abs=1e-9)
    few = model(pictures(3), ids, mask)
    assert few.shape == (3, 4), "some pictures, and another number of texts"
    assert_close(few, found[:3])


def test_a_bag_of_words_has_no_order_and_no_padding() -> None:
    model, (ids, mask) = make(BagOfWords), texts()
    found = model(pictures(), ids, mask)
    for row in range(4):
        n = int(mask[row].sum())
        ids[row, :n] = ids[row, :n].flip(0)
    assert_close(model(pictures(), ids, mask), found)
    assert_close(model(pictures(), filled_anew(ids, mask), mask), found)


def test_a_bag_of_words_knows_the_words_apart_and_they_sum_to_one() -> None:
    model = make(BagOfWords)
    every = torch.arange(V)[:, None]  # each word as a text of its own
    found = model(pictures(6), every, torch.ones(V, 1, dtype=torch.bool))
    assert found.shape == (6, V) and (found.std(1) > 0.1).all()
    assert_close(found.exp().sum(1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_the_loss_of_a_bag_of_words_is_the_diagonal_weighted_by_words(vision: str) -> None:
    model, (ids, mask) = make(BagOfWords, vision), texts()
    own, counts = model(pictures(), ids, mask).diagonal(), mask.sum(1)
    loss = model.training_loss(pictures(), ids, mask)
    assert_close(loss, -(own * counts).sum() / counts.sum())
    assert abs(loss + own.mean()) > 1e-2, "long texts weigh more"
    assert_close(model.training_loss(pictures(), filled_anew(ids, mask), mask), loss)


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_the_captioner_scores_a_text_by_its_words(vision: str) -> None:
    model, (ids, mask) = make(Captioner, vision), texts()
    found = model(pictures(), ids, mask)
    vectors = model.projection(model.vision(pictures()))
    words = model.log_probabilities(vectors, ids, mask)
    assert words.shape == ids.shape and (words[~mask] == 0).all() and (words[mask] < 0).all()
    assert_close(found.diagonal(), words.sum(1))
    for i, j in itertools.product(range(4), repeat=2):
        one = model.log_probabilities(vectors[i : i + 1], ids[j : j + 1], mask[j : j + 1])
        assert_close(found[i, j], one.sum())
    few = model(pictures(2), ids, mask)
    assert few.shape == (2, 4)
    assert_close(few, found[:2])


def test_the_loss_of_the_captioner_is_the_mean_over_all_words() -> None:
    model, (ids, mask) = make(Captioner), texts()
    own = model(pictures(), ids, mask).diagonal()
    loss = model.training_loss(pictures(), ids, mask)
    assert_close(loss, -own.sum() / mask.sum())
    assert abs(loss + (own / mask.sum(1)).mean()) > 1e-2, "long texts weigh more"


def test_the_captioner_is_causal() -> None:
    model, (ids, mask) = make(Captioner), texts((T,))
    vectors = model.projection(model.vision(pictures(1)))
    before = model.log_probabilities(vectors, ids, mask)
    for place in range(T):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1) % V
        after = model.log_probabilities(vectors, other, mask)
        assert_close(after[:, :place], before[:, :place])
        assert ((after - before)[:, place:].abs() > 1e-5).all(), "and what stands before counts"
    other = model.log_probabilities(vectors.flip(1), ids, mask)
    assert ((other - before).abs() > 1e-5).all(), "and so does the picture"


def test_the_captioner_ignores_padding() -> None:
    model, (ids, mask) = make(Captioner), texts()
    found = model(pictures(), ids, mask)
    assert_close(model(pictures(), filled_anew(ids, mask), mask), found)
    alone = model(pictures(), ids[1:2, :3], mask[1:2, :3])
    assert_close(alone[:, 0], found[:, 1])


@pytest.mark.parametrize("length", [1, 4, T])
def test_probabilities_over_the_next_word_sum_to_one(length: int) -> None:
    model, (ids, _) = make(Captioner), texts((T,))
    row = ids[:, :length].repeat(V, 1)
    row[:, -1] = torch.arange(V)  # all words that may follow
    vectors = model.projection(model.vision(pictures(1))).expand(V, -1)
    last = model.log_probabilities(vectors, row, torch.ones(V, length, dtype=torch.bool))[:, -1]
    assert last.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert last.std() > 0.1


def test_the_captioner_by_plain_recomputation() -> None:
    """The scores of each word from a pass over what stands before it alone, which never sees the word itself."""
    model, (ids, mask) = make(Captioner), texts((5,))
    vectors = model.projection(model.vision(pictures(1)))
    found = model.log_probabilities(vectors, ids, mask)[0]
    for t in range(5):
        x = torch.cat([vectors[:, None], model.text.embedding(ids[:, :t])], 1) + model.text.positions.weight[: t + 1]
        for block in model.text.blocks:
            x = block(x, causal=True)
        scores = model.output(model.text.norm(x[0, -1]))
        assert found[t].item() == pytest.approx(scores.log_softmax(0)[ids[0, t]].item(), abs=1e-9)


def test_no_parameter_of_a_rival_is_idle() -> None:
    for kind, vision in itertools.product((BagOfWords, Captioner), KINDS_OF_VISION):
        model, (ids, mask) = make(kind, vision).train(), texts((T, 6, 3, 1))
        model.training_loss(pictures(), ids, mask).backward()
        assert_every_gradient(model, skip=lambda name: name.endswith("key.bias"))
    assert isinstance(model.text.output, nn.Identity), "a caption is no vector"


def test_a_caption_longer_than_the_model_reads_is_refused() -> None:
    model, (ids, mask) = make(Captioner), texts((T,))
    assert model(pictures(2), ids, mask).shape == (2, 1), "which just fits"
    longer, covered = F.pad(ids, (0, 1)), F.pad(mask, (0, 1))
    calls: list[Any] = [
        lambda: model(pictures(2), longer, covered),
        lambda: model.training_loss(pictures(1), longer, covered),
        lambda: model.log_probabilities(model.projection(model.vision(pictures(1))), longer, covered),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"ids has 10 positions, and context_length={T}"):
            call()


@pytest.mark.parametrize("kind", [BagOfWords, Captioner])
def test_the_rivals_learn_eight_pairs(kind: type[Any]) -> None:
    torch.manual_seed(0)
    model = kind(tiny("convolutions", vocab_size=257, d_embed=8, widths=(8,)))
    ids, mask = text_batch(EIGHT, LETTERS, 256, context_length=T)
    shown, optimiser = pictures(8).float(), torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(150):
        optimiser.zero_grad()
        loss = model.training_loss(shown, ids, mask)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # A bag cannot fall below the entropy of a text's own letters.
    assert losses[0] > 4.5 and losses[-1] < (0.3 if kind is Captioner else 2.2)
    right = torch.arange(8)
    model.eval()
    assert (model(shown, ids, mask).argmax(0) == right).sum() >= 6, "a text fits its own picture best"


# --- Texts as batches -------------------------------------------------------------------------------------------------


def test_texts_get_an_end_are_cut_and_filled_up() -> None:
    ids, mask = text_batch(["abc", "", "abcdefgh"], LETTERS, 256, context_length=5)
    a = LETTERS.encode("a")[0]
    assert ids.tolist() == [[a, a + 1, a + 2, 256, 0], [256, 0, 0, 0, 0], [a, a + 1, a + 2, a + 3, 256]]
    assert mask.sum(1).tolist() == [4, 1, 5] and torch.equal(mask, mask.sort(1, descending=True).values)


@given(st.lists(st.text("aé .", max_size=12), min_size=1, max_size=4), st.integers(1, 16))
def test_a_batch_is_no_longer_than_its_longest_text_nor_than_the_model_reads(rows: list[str], length: int) -> None:
    ids, mask = text_batch(rows, LETTERS, 256, context_length=length)
    wanted = [[*LETTERS.encode(row)[: length - 1], 256] for row in rows]
    assert [row[m].tolist() for row, m in zip(ids, mask, strict=True)] == wanted
    assert ids.shape == (len(rows), max(map(len, wanted))) and ids.shape[1] <= length


# --- A classifier made of names ---------------------------------------------------------------------------------------

NAMES, PROMPTS = ["cat", "dog", "eel", "ox"], ["{}", "a {}", "{}s!", "my {} x"]


def clip(vision: Any = "transformer", seed: int = 0, **changes: Any) -> CLIP:
    return make(CLIP, vision, seed, **{"vocab_size": 257, "context_length": 12, **changes})


def named(model: CLIP, names: Any = NAMES, **settings: Any) -> Tensor:
    return name_vectors(model, names, LETTERS, 256, **settings)


def by_hand(model: CLIP, prompts: list[str]) -> Tensor:
    rows = []
    for name in NAMES:
        total = torch.zeros(5, dtype=torch.float64)
        for prompt in prompts:
            ids = torch.tensor([[*LETTERS.encode(prompt.replace("{}", name))[:11], 256]])
            vector = model.text(ids, mask=torch.ones_like(ids).bool())[0]
            total += vector / vector.square().sum().sqrt()
        mean = total / len(prompts)
        rows.append(mean / mean.square().sum().sqrt())
    return torch.stack(rows).detach()


@pytest.mark.parametrize("prompts", [["{}"], ["a {}"], PROMPTS[:2], PROMPTS])
def test_name_vectors_are_means_over_prompts_of_length_1(prompts: list[str]) -> None:
    model = clip()
    found = named(model, prompts=prompts)
    assert_close(found, by_hand(model, prompts))
    assert_close(found.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    assert not found.requires_grad
    if prompts == ["{}"]:
        assert torch.equal(named(model), found), "the bare name is what is taken by default"


def test_vectors_are_scaled_before_they_are_averaged() -> None:
    """Otherwise a prompt whose vectors are long would weigh more."""
    model = clip()
    with torch.no_grad():
        model.text.output.weight *= 100
    assert_close(named(model, prompts=PROMPTS), named(clip(), prompts=PROMPTS))
    bare = torch.stack(
        [
            model.text(*batch[:1], mask=batch[1])
            for batch in (text_batch([p.format(n) for n in NAMES], LETTERS, 256, context_length=12) for p in PROMPTS)
        ]
    )
    assert (F.normalize(bare.mean(0), dim=-1) - named(model, prompts=PROMPTS)).abs().max() > 1e-3


def test_the_order_of_prompts_does_not_matter_and_that_of_names_is_kept() -> None:
    model = clip()
    found = named(model, prompts=PROMPTS)
    for prompts in itertools.permutations(PROMPTS):
        assert_close(named(model, prompts=prompts), found)
    assert_close(named(model, NAMES[::-1], prompts=PROMPTS), found.flip(0))
    assert_close(named(model, NAMES[1:2], prompts=PROMPTS), found[1:2])  # other names do not matter
    assert_close(named(model, prompts=PROMPTS * 3), found)


def test_space_around_a_text_is_dropped() -> None:
    model = clip()
    assert torch.equal(named(model, [" cat "]), named(model, ["cat"]))
    assert torch.equal(named(model, ["cat"], prompts=["  {}\n"]), named(model, ["cat"]))


def test_braces_are_letters_like_others() -> None:
    model = clip()
    for name, prompt in (("{}", "a {}"), ("{0}", "{}"), ("x", "{y} {}"), ("x", "{ {}"), ("}", "}{}")):
        ids, mask = text_batch([prompt.replace("{}", name)], LETTERS, 256, context_length=12)
        assert_close(named(model, [name], prompts=[prompt]), model.encode_texts(ids, mask).detach())


def test_a_long_text_is_cut_before_its_end() -> None:
    model = clip()
    assert torch.equal(named(model, ["elevenchars_and_more"]), named(model, ["elevenchars"]))
    assert not torch.equal(named(model, ["elevenchars"]), named(model, ["elevenchar"]))


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_naming_leaves_the_model_as_it_was(vision: str) -> None:
    model = clip(vision).train()
    model.text.eval()
    state = {name: x.clone() for name, x in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    named(model)
    picture_vectors(model, pictures())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items()), "running means stay too"


@pytest.mark.parametrize("vision", KINDS_OF_VISION)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 512])
def test_picture_vectors_are_those_of_each_picture_alone(vision: str, batch_size: int) -> None:
    model = clip(vision).train()  # in training a picture's vector would depend on its neighbours
    found = picture_vectors(model, pictures(7), batch_size=batch_size)
    model.eval()
    assert not found.requires_grad and found.shape == (7, 5)
    for picture, vector in zip(pictures(7), found, strict=True):
        assert_close(model.encode_pictures(picture[None])[0].detach(), vector)


def test_names_and_pictures_make_the_logits_of_the_model() -> None:
    model = clip()
    ids, mask = text_batch(NAMES, LETTERS, 256, context_length=12)
    cosines = picture_vectors(model, pictures()) @ named(model).T
    assert_close(model(pictures(), ids, mask).logits, model.scale().item() * cosines)


@pytest.mark.parametrize(
    ("names", "prompts", "message"),
    [
        ([], ["{}"], r"names=\[\] and prompts=\['\{\}'\]: give lists of texts, one at least of both"),
        (["cat"], [], r"names=\['cat'\] and prompts=\[\]: give lists of texts, one at least"),
        ("cat", ["{}"], r"names='cat' and prompts=\['\{\}'\]: give lists"),
        ("", ["{}"], r"names='' and prompts=.*: give lists"),
        (["cat"], "a {}", r"names=\['cat'\] and prompts='a \{\}': give lists"),
        (["cat"], ["a photo"], r"prompts holds 'a photo'; write \{\} once, where the name belongs"),
        (["cat"], ["a {}", "{} and {}"], r"prompts holds '\{\} and \{\}'; write \{\} once"),
        (["cat"], ["{0}"], r"prompts holds '\{0\}'; write"),
        (["cat"], ["{name}"], r"prompts holds '\{name\}'; write"),
    ],
)
def test_a_classifier_needs_names_and_places_for_them(names: Any, prompts: Any, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        name_vectors(clip(), names, LETTERS, 256, prompts=prompts)


# --- Ranks ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 999), st.booleans())
def test_a_rank_is_a_place_in_the_sorted_row(B: int, N: int, seed: int, coarse: bool) -> None:
    scores = normal(B, N, seed=seed)
    scores = scores.round() if coarse else scores  # rounded, many scores are equal
    right = torch.randint(N, (B,), generator=torch.Generator().manual_seed(seed))
    expected = [
        sorted(row, reverse=True).index(row[i]) + 1 for row, i in zip(scores.tolist(), right.tolist(), strict=True)
    ]
    found = rank_of(scores, right)
    assert found.tolist() == expected and found.dtype == torch.int64
    assert ((found == 1) == (scores.gather(1, right[:, None])[:, 0] == scores.amax(1))).all()


def test_equal_scores_share_the_best_of_their_ranks() -> None:
    scores = torch.tensor([[0.5, 2.0, 2.0, 1.0, 2.0, 0.5]]).expand(6, -1)
    assert rank_of(scores, torch.arange(6)).tolist() == [5, 1, 1, 4, 1, 5]
    assert rank_of(torch.zeros(3, 4), torch.tensor([0, 2, 3])).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("scores", "right"), [((2, 3), (3,)), ((2, 3), (2, 1)), ((3,), (3,)), ((2, 3, 4), (2,))])
def test_ranks_want_one_name_a_row(scores: tuple[int, ...], right: tuple[int, ...]) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=r"scores \(.*\) and right \(.*\) do not fit; give one"):
        rank_of(torch.zeros(scores), torch.zeros(right, dtype=torch.int64))


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (0, 1)])
def test_what_is_no_number_has_no_rank(place: tuple[int, int]) -> None:
    scores = normal(2, 3)
    scores[place] = math.nan
    with pytest.raises(ValueError, match="scores holds NaN, which has no place; did training diverge"):
        rank_of(scores, torch.tensor([0, 2]))
    scores[place] = math.inf
    assert rank_of(scores, torch.full((2,), place[1]))[place[0]] == 1, "the infinite have one"


# --- What does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision": "resnet"}, "vision='resnet': choose convolutions, transformer"),
        ({"size": 10}, "size=10 is not divisible by 4, which this convolutions encoder needs"),
        ({"size": 4, "widths": (2, 2, 2)}, "size=4 is not divisible by 8, which this convolutions"),
        ({"vision": "transformer", "size": 10}, "size=10 is not divisible by 4, which this transformer encoder needs"),
        ({"vision": "transformer", "patch": 3}, "size=8 is not divisible by 3, which this transformer"),
        ({"n_heads": 5}, "d_model=12 is not divisible by n_heads=5; d_model=15 is"),
        ({"temperature": 0.0099}, r"temperature=0.0099: give a number from 0.01 up"),
        ({"temperature": 0.0}, r"temperature=0.0: give a number from 0.01 up"),
        ({"temperature": -1.0}, r"temperature=-1.0: give a number from 0.01 up"),
        ({"temperature": math.inf}, r"temperature=inf: give a number from 0.01 up"),
        ({"widths": ()}, r"widths=\(\): name the channels of one pair of convolutions or more, each at least 1"),
        ({"widths": (4, 0)}, r"widths=\(4, 0\): name the channels"),
        ({"widths": (-4,)}, r"widths=\(-4,\): name the channels"),
        ({"temperature": math.nan}, r"temperature=nan: give a number from 0.01 up"),
        *[
            ({name: 0}, f"{name}=0 is below 1")
            for name in ("vocab_size", "context_length", "size", "n_channels", "d_embed", "d_model", "n_heads")
        ],
        *[({name: -1}, f"{name}=-1 is below 1") for name in ("n_layers", "patch", "vision_layers")],
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "size", "d_embed", "patch", "vision_layers"])
@pytest.mark.parametrize("size", ["8", 8.0, True])
def test_sizes_are_whole_numbers(name: str, size: Any) -> None:
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=f"{name}={size!r} is a .*; give a whole number"):
        dataclasses.replace(TINY, **{name: size})


@pytest.mark.parametrize("kind", [CLIP, BagOfWords, Captioner])
def test_a_dictionary_is_no_config(kind: type[Any]) -> None:
    with (
        as_a_reader_sees_it(),
        pytest.raises(TypeError, match=r"config is of type dict; give CLIPConfig\(\*\*config\)"),
    ):
        kind(dataclasses.asdict(TINY))


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 2, 8, 4), (4, 2, 16, 16), (2, 8, 8), (1, 4, 2, 8, 8)])
@pytest.mark.parametrize("vision", KINDS_OF_VISION)
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...], vision: str) -> None:
    model, (ids, mask) = make(vision=vision), texts()
    wrong = torch.zeros(shape, dtype=torch.float64)
    for call in (lambda: model(wrong, ids, mask), lambda: model.encode_pictures(wrong)):
        with (
            as_a_reader_sees_it(),
            pytest.raises(ValueError, match=r"pictures has shape \(.*\); this model takes \(B, 2, 8, 8\)"),
        ):
            call()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda ids, mask: (ids.int(), mask), TypeError, "ids is of type torch.int32; ids are int64"),
        (lambda ids, mask: (ids[0], mask), ValueError, r"ids has shape \(9,\); give a batch \(B, T\)"),
        (lambda ids, mask: (ids.tolist(), mask), TypeError, "ids is a list; give a tensor"),
        (lambda ids, mask: (ids, mask.long()), ValueError, "mask is torch.int64 .*; give bool of shape"),
        (lambda ids, mask: (ids, mask[:, 1:]), ValueError, r"mask is torch.bool of shape \(4, 8\); give .*\(4, 9\)"),
        (
            lambda ids, mask: (F.pad(ids, (0, 1)), F.pad(mask, (0, 1))),
            ValueError,
            "ids has 10 positions, and context_length=9",
        ),
        (lambda ids, mask: (ids + V, mask), IndexError, "out of range"),
        (lambda ids, mask: (ids[:3], mask[:3]), ValueError, r"logits has shape \(4, 3\); give as many texts"),
    ],
)
def test_texts_that_do_not_fit_are_refused(change: Any, error: type[Exception], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        make()(pictures(), *change(*texts()))
