"""Pictures in the sentence: which region goes where, the decoder untouched by text alone, and answers one at a time."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it, assert_close, assert_every_gradient, assert_same_gradients, normal, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.decoder import Decoder, DecoderConfig
from nextword.multimodal import PictureLM, PictureTokens, freeze
from nextword.training import TrainConfig, fit

V, C, L, CONTEXT, END = 20, 12, 2, 24, 19
N = 4  # vectors a picture
SMALL: dict[str, Any] = {"size": 8, "widths": (4,), "d_vision": 8, "n_heads": 2}


def decoder(**changes: Any) -> Decoder:
    sizes = {"vocab_size": V, "context_length": CONTEXT, "d_model": C, "n_layers": L, "n_heads": 3}
    return Decoder(DecoderConfig(**{**sizes, **changes}))


def with_running_means(encoder: PictureTokens, seed: int = 0) -> PictureTokens:
    """Give the norms of the convolutions other means and variances than 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return encoder


def make(seed: int = 0, **changes: Any) -> PictureLM:
    """Return a model in float64 with random parameters, in evaluation mode."""
    model = randomised(PictureLM(decoder(**changes), PictureTokens(C, **SMALL)), seed).eval()
    with_running_means(model.encoder, seed)
    return model


def pictures(n: int = 3, seed: int = 0, size: int = 8) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texts(n: int = 3, length: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return texts, and targets of which some are not learned."""
    generator = torch.Generator().manual_seed(seed)
    ids, targets = torch.randint(V, (2, n, length), generator=generator)
    return ids, targets.masked_fill(torch.rand(n, length, generator=generator) < 0.4, -100)


# --- The encoder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "widths", "n_tokens"),
    [
        (64, (24, 48, 96), 16),
        (16, (24, 48, 96), 1),
        (48, (4, 6, 8), 9),
        (8, (4,), 4),
        (4, (4,), 1),
        (24, (4, 8), 9),
        (6, (), 9),
        (2, (), 1),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_picture_becomes_so_many_vectors(size: int, widths: tuple[int, ...], n_tokens: int, n_channels: int) -> None:
    encoder = PictureTokens(10, size=size, n_channels=n_channels, widths=widths, d_vision=8, n_heads=2).eval()
    found = encoder(torch.rand(2, n_channels, size, size))
    assert encoder.n_tokens == n_tokens and found.shape == (2, n_tokens, 10)
    assert (size // 2 ** len(widths)) ** 2 == 4 * n_tokens == len(encoder.positions)


def test_sixteen_vectors_by_default() -> None:
    encoder = PictureTokens(128).eval()
    assert encoder.n_tokens == 16 and encoder(torch.rand(1, 3, 64, 64)).shape == (1, 16, 128)


def bare(size: int) -> PictureTokens:
    """Return an encoder that only merges: each region of 8 × 8 pixels is its mean colour, and nothing else happens to it."""
    encoder = PictureTokens(12, size=size, d_vision=3, n_heads=1).double()
    encoder.stem = nn.Sequential(nn.AvgPool2d(8))
    encoder.block, encoder.norm, encoder.projection = nn.Identity(), nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return encoder


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_token_is_four_regions_row_by_row(size: int) -> None:
    encoder, shown = bare(size), pictures(2, size=size)
    found = encoder(shown)
    side = size // 16
    for picture, tokens in zip(shown, found, strict=True):
        for row, column in itertools.product(range(side), repeat=2):
            whole = []
            for p, q in ((0, 0), (0, 1), (1, 0), (1, 1)):
                down, right = 2 * row + p, 2 * column + q
                region = picture[:, 8 * down : 8 * down + 8, 8 * right : 8 * right + 8].mean((1, 2))
                whole.append(region + encoder.positions[down * 2 * side + right])
            assert_close(tokens[row * side + column], torch.cat(whole))


def test_an_area_of_16_by_16_pixels_is_in_one_token_alone() -> None:
    encoder, shown = bare(64), pictures(1, size=64)
    before = encoder(shown)
    for token, (row, column) in enumerate(itertools.product(range(4), repeat=2)):
        other = shown.clone()
        other[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 0.5
        changed = (encoder(other) - before).abs().sum(-1)[0] > 1e-12
        assert changed.nonzero().tolist() == [[token]]


def test_each_region_sees_all_others() -> None:
    encoder = with_running_means(randomised(PictureTokens(C, **SMALL))).eval()
    other = pictures(1)
    other[:, :, 0, 0] += 0.5
    assert ((encoder(other) - encoder(pictures(1))).abs().amax(-1) > 1e-6).all()
    encoder.block = nn.Identity()  # type: ignore[assignment]
    assert ((encoder(other) - encoder(pictures(1))).abs().amax(-1)[0] > 1e-6).tolist() == [True, False, False, False]


def block_by_hand(x: Tensor, block: Any, n_heads: int, *, causal: bool, tanh: bool) -> Tensor:
    """Return what a pre-norm block makes of one sequence (T, C)."""
    width = x.shape[1]
    y = F.layer_norm(x, (width,), block.attention_norm.weight, block.attention_norm.bias)
    q, k, v = (getattr(block.attention, name)(y) for name in ("query", "key", "value"))
    heads = []
    for part in torch.arange(width).chunk(n_heads):
        scores = q[:, part] @ k[:, part].T / math.sqrt(len(part))
        if causal:
            scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(1) @ v[:, part])
    x = x + block.attention.out(torch.cat(heads, 1))
    y = F.layer_norm(x, (width,), block.feed_forward_norm.weight, block.feed_forward_norm.bias)
    h = block.feed_forward.up(y)
    curve = torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)) if tanh else torch.erf(h / math.sqrt(2))
    return x + block.feed_forward.down(h * (1 + curve) / 2)


@pytest.mark.parametrize("widths", [(4,), (4, 6)])
def test_the_encoder_by_plain_recomputation(widths: tuple[int, ...]) -> None:
    encoder = randomised(PictureTokens(C, size=16, widths=widths, d_vision=8, n_heads=2)).eval()
    with_running_means(encoder)
    shown = pictures(2, size=16)
    grid, layers = shown, list(encoder.stem)
    for i in range(len(widths)):
        conv: Any = layers[3 * i]
        norm: Any = layers[3 * i + 1]
        grid = F.conv2d(grid, conv.weight, stride=2, padding=1)
        mean, var, gain, bias = (
            z.view(-1, 1, 1) for z in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        grid = ((grid - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)
    last: Any = layers[-1]
    grid = torch.einsum("bchw,dc->bhwd", grid, last.weight[:, :, 0, 0]) + last.bias
    side = grid.shape[1]
    for regions, tokens in zip(grid.flatten(1, 2), encoder(shown), strict=True):
        x = block_by_hand(regions + encoder.positions, encoder.block, 2, causal=False, tanh=False)
        x = F.layer_norm(x, (8,), encoder.norm.weight, encoder.norm.bias).view(side, side, 8)
        for i, token in enumerate(tokens):
            row, column = 2 * (i // (side // 2)), 2 * (i % (side // 2))
            four = torch.cat([x[row, column], x[row, column + 1], x[row + 1, column], x[row + 1, column + 1]])
            assert_close(token, encoder.projection.weight @ four + encoder.projection.bias)


def test_every_parameter_of_the_encoder_learns() -> None:
    encoder = randomised(PictureTokens(C, **SMALL)).train()
    found = encoder(pictures())
    (found * normal(*found.shape)).sum().backward()
    assert_every_gradient(encoder, skip=lambda name: name.endswith("key.bias"))  # it moves all scores of a row alike


def test_in_evaluation_a_picture_has_the_same_vectors_alone() -> None:
    encoder = with_running_means(randomised(PictureTokens(C, **SMALL))).eval()
    together = encoder(pictures(4))
    for picture, vectors in zip(pictures(4), together, strict=True):
        assert_close(encoder(picture[None])[0], vectors)


@pytest.mark.parametrize(
    ("size", "widths", "step"),
    [(20, (4, 4, 4), 16), (8, (4, 4, 4), 16), (0, (4,), 4), (-4, (4,), 4), (6, (4,), 4), (3, (), 2)],
)
def test_a_picture_must_halve_so_often(size: int, widths: tuple[int, ...], step: int) -> None:
    message = f"size={size} is not divisible by {step}: each convolution and the merge halve the picture"
    with pytest.raises(ValueError, match=message):
        PictureTokens(C, size=size, widths=widths)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 16), (2, 3, 16, 16), (3, 8, 8), (1, 2, 3, 8, 8)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    encoder, wrong = PictureTokens(C, **SMALL), torch.zeros(shape)
    with (
        as_a_reader_sees_it(),
        pytest.raises(ValueError, match=r"pictures has shape \(.*\); this encoder takes \(B, 3, 8, 8\)"),
    ):
        encoder(wrong)


# --- Text alone -------------------------------------------------------------------------------------------------------

KINDS_OF_DECODER: list[dict[str, Any]] = [
    {},
    {"norm_position": "post"},
    {"tie_embeddings": False, "bias": False},
    {"n_kv_heads": 1, "norm": "rms", "activation": "swiglu"},
    {"attention": ("dense", "local"), "window": 3},
]


@pytest.mark.parametrize("changes", KINDS_OF_DECODER, ids=str)
def test_without_a_picture_it_is_the_decoder_to_the_last_digit(changes: dict[str, Any]) -> None:
    model = make(**changes)
    alone, (ids, targets) = copy.deepcopy(model.decoder), texts()
    found, expected = model(ids, targets), alone(ids, targets)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.loss, expected.loss)
    assert model(ids).loss is None and torch.equal(model(ids).logits, expected.logits)
    found.loss.backward()
    expected.loss.backward()
    for (name, mine), other in zip(model.decoder.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad), name
    assert all(p.grad is None for p in model.encoder.parameters())


def test_the_decoder_is_used_and_not_copied() -> None:
    model = make()
    assert PictureLM(model.decoder, model.encoder).decoder is model.decoder and model.config is model.decoder.config
    before = model(texts()[0]).logits
    with torch.no_grad():
        model.decoder.embedding.weight += 1
    assert not torch.allclose(model(texts()[0]).logits, before)


# --- A picture and text -----------------------------------------------------------------------------------------------


def by_hand(model: PictureLM, ids: Tensor, shown: Tensor) -> Tensor:
    """Return the logits row by row: the picture's vectors, then the words', numbered through, and the blocks."""
    rows = []
    for text, vectors in zip(ids, model.encoder(shown), strict=True):
        places = [*vectors, *(model.decoder.embedding.weight[i] for i in text)]
        x = torch.stack([vector + model.decoder.positions.weight[i] for i, vector in enumerate(places)])
        for block in model.decoder.blocks:
            x = block_by_hand(x, block, 3, causal=True, tanh=True)
        x = F.layer_norm(x, (C,), model.decoder.norm.weight, model.decoder.norm.bias)  # type: ignore[arg-type]
        rows.append(x[len(vectors) :] @ model.decoder.output.weight.T)
    return torch.stack(rows)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("training_loss", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_with_a_picture_it_is_a_plain_recomputation_in_logits_loss_and_gradients(
    seed: int, training_loss: bool, tied: bool
) -> None:
    model = make(seed, tie_embeddings=tied)
    other, (ids, targets), shown = copy.deepcopy(model), texts(seed=seed), pictures(seed=seed)
    expected = by_hand(other, ids, shown)
    assert_close(model(ids, pictures=shown).logits, expected)
    loss = model.training_loss(ids, targets, shown) if training_loss else model(ids, targets, pictures=shown).loss
    costs = [
        -expected[b, t].log_softmax(0)[targets[b, t]]
        for b, t in itertools.product(range(3), range(5))
        if targets[b, t] != -100
    ]
    assert 1 < len(costs) < 15
    their_loss = torch.stack(costs).mean()
    assert_close(loss, their_loss)
    loss.backward()
    their_loss.backward()
    assert_same_gradients(model, other, {name: name for name, _ in model.named_parameters()})
    assert_every_gradient(model.encoder, skip=lambda name: name.endswith("key.bias"))


def test_the_mixed_sequence_is_the_picture_then_the_words_each_at_its_place() -> None:
    model, (ids, _), shown = make(), texts(), pictures()
    found = model.sentence(ids, shown)
    places = model.decoder.positions.weight
    assert found.shape == (3, N + 5, C)
    assert_close(found[:, :N] - places[:N], model.encoder(shown))
    assert_close(found[:, N:] - places[N : N + 5], model.decoder.embedding(ids))
    assert_close(model.sentence(ids), model.decoder.embedding(ids) + places[:5])


def test_a_word_changes_what_comes_after_it_and_a_picture_changes_everything() -> None:
    model, (ids, _), shown = make(), texts(), pictures()
    before = model(ids, pictures=shown).logits
    for place in range(5):
        other = ids.clone()
        other[:, place] = (ids[:, place] + 1) % V
        after = model(other, pictures=shown).logits
        assert torch.equal(after[:, :place], before[:, :place])
        assert ((after - before)[:, place:].abs().amax(-1) > 1e-6).all()
    assert ((model(ids, pictures=pictures(seed=1)).logits - before).abs().amax(-1) > 1e-4).all()
    assert ((model(ids).logits - before).abs().amax(-1) > 1e-4).all(), "and so does having none"
    one = shown.clone()
    one[1] = pictures(seed=1)[1]
    moved = (model(ids, pictures=one).logits - before).abs().amax((1, 2)) > 1e-6
    assert moved.tolist() == [False, True, False], "but only in its own row"


@given(st.integers(1, 8), st.integers(1, 8), st.booleans(), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_what_fills_up_on_the_right_changes_nothing(length: int, more: int, seen: bool, seed: int) -> None:
    model, (ids, targets), shown = make(), texts(length=length, seed=seed), pictures() if seen else None
    targets[:, 0] = 3
    filled = torch.cat([ids, texts(length=more, seed=seed + 1)[0]], 1)
    not_learned = F.pad(targets, (0, more), value=-100)
    before, after = model(ids, targets, pictures=shown), model(filled, not_learned, pictures=shown)
    assert_close(after.logits[:, :length], before.logits)
    assert_close(after.loss, before.loss)
    assert_close(model.training_loss(filled, not_learned, shown), before.loss)


@pytest.mark.parametrize("seen", [True, False])
def test_the_training_loss_is_that_of_the_whole_and_scores_only_what_is_learned(seen: bool) -> None:
    model, (ids, targets), shown = make(), texts(4, 7), pictures(4) if seen else None
    scored: list[int] = []
    other = copy.deepcopy(model)
    model.decoder.output.register_forward_hook(lambda _, given, __: scored.append(given[0].numel() // C))
    loss, expected = model.training_loss(ids, targets, shown), other(ids, targets, pictures=shown).loss
    assert_close(loss, expected)
    assert scored == [int((targets != -100).sum())] and scored[0] < 28
    loss.backward()
    expected.backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        if seen or name.startswith("decoder."):
            assert_close(mine.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_what_has_no_target_is_not_learned() -> None:
    model, (ids, targets) = make(), texts()
    out = model(ids, targets, pictures=pictures())
    out.logits.retain_grad()
    out.loss.backward()
    assert torch.equal(out.logits.grad.abs().sum(-1) > 0, targets != -100)
    costs = F.cross_entropy(out.logits.flatten(0, 1), targets.flatten(), reduction="none")
    assert_close(out.loss, costs.sum() / (targets != -100).sum())


@pytest.mark.parametrize(("length", "seen"), [(CONTEXT - N, True), (CONTEXT, False)])
def test_picture_and_text_share_the_context(length: int, seen: bool) -> None:
    model, shown = make(), pictures(1) if seen else None
    ids = torch.zeros(1, length, dtype=torch.int64)
    assert model(ids, pictures=shown).logits.shape == (1, length, V), "which just fits"
    longer = F.pad(ids, (0, 1))
    for call in (model.forward, lambda ids, pictures: model.training_loss(ids, ids, pictures), model.sentence):
        with pytest.raises(ValueError, match=f"25 positions are needed, and context_length={CONTEXT}"):
            call(longer, pictures=shown)


@pytest.mark.parametrize(
    ("ids", "shown", "error", "message"),
    [
        (torch.zeros(3, 5, dtype=torch.int32), None, TypeError, "ids is of type torch.int32; ids are int64"),
        (torch.zeros(5, dtype=torch.int64), None, ValueError, r"ids has shape \(5,\); give a batch \(B, T\)"),
        (torch.zeros(3, 0, dtype=torch.int64), None, ValueError, r"ids has shape \(3, 0\); give a batch"),
        ([[1, 2]], None, TypeError, "ids is a list; give a tensor"),
        (torch.full((1, 2), V), None, IndexError, "out of range"),
        (torch.zeros(2, 5, dtype=torch.int64), pictures(3), ValueError, "pictures holds 3 and ids 2 rows; give one"),
        (torch.zeros(3, 5, dtype=torch.int64), pictures(1), ValueError, "pictures holds 1 and ids 3 rows; give one"),
        (torch.zeros(3, 5, dtype=torch.int64), pictures(3)[:, :1], ValueError, r"pictures has shape \(3, 1, 8, 8\)"),
    ],
)
def test_what_makes_no_sentence_is_refused(ids: Any, shown: Any, error: type[Exception], message: str) -> None:
    model = make()
    calls: list[Any] = [
        lambda: model(ids, pictures=shown),
        lambda: model.sentence(ids, shown),
        lambda: model.training_loss(ids, ids, shown),
    ]
    for call in calls:
        with as_a_reader_sees_it(), pytest.raises(error, match=message):
            call()


def test_targets_of_another_shape_or_kind_are_refused() -> None:
    model, (ids, targets) = make(), texts()
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=r"targets has shape \(3, 4\); logits of \(3, 5\)"):
        model(ids, targets[:, 1:], pictures=pictures())
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=r"targets is of type torch.int32; ids are int64"):
        model(ids, targets.int(), pictures=pictures())


@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_positions_must_be_learned(positions: str) -> None:
    with pytest.raises(ValueError, match=f"decoder has {positions} positions; this model needs learned ones"):
        PictureLM(decoder(positions=positions), PictureTokens(C, **SMALL))


@pytest.mark.parametrize("width", [C - 1, C + 4, 1])
def test_pictures_must_be_as_wide_as_words(width: int) -> None:
    message = f"encoder makes vectors of width {width}, and the decoder's words are d_model={C} wide"
    with pytest.raises(ValueError, match=message):
        PictureLM(decoder(), PictureTokens(width, **SMALL))


# --- Frozen -----------------------------------------------------------------------------------------------------------


def stream(model: PictureLM) -> Iterator[dict[str, Tensor]]:
    dtype = next(model.parameters()).dtype
    for seed in itertools.count():
        ids, targets = texts(seed=seed)
        targets[:, -1] = 7
        yield {"ids": ids, "targets": targets, "pictures": pictures(seed=seed).to(dtype)}


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_a_frozen_decoder_stays_to_the_last_bit_while_the_encoder_learns() -> None:
    torch.manual_seed(0)
    model, (ids, targets) = PictureLM(decoder(), PictureTokens(C, **SMALL)), texts(seed=99)
    freeze(model)
    loss, before = model(ids, targets).loss, copied(model)
    fit(model, stream(model), TrainConfig(steps=4, learning_rate=1e-2, weight_decay=0.5))
    for name, parameter in model.named_parameters():
        frozen = name.startswith("decoder.")
        assert torch.equal(parameter, before[name]) == frozen, name
        assert parameter.requires_grad != frozen and (not frozen or parameter.grad is None)
    assert torch.equal(model.eval()(ids, targets).loss, loss), "and so what it knows about text"


def test_thawed_all_of_it_moves() -> None:
    torch.manual_seed(0)
    model, (ids, targets) = PictureLM(decoder(), PictureTokens(C, **SMALL)), texts(seed=99)
    freeze(model)
    freeze(model, False)
    loss, before = model(ids, targets).loss, copied(model)
    fit(model, stream(model), TrainConfig(steps=4, learning_rate=1e-2))
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert not torch.equal(model.eval()(ids, targets).loss, loss)


def test_gradients_pass_through_a_frozen_decoder() -> None:
    model, other, (ids, targets) = make(), make(), texts()
    freeze(model)
    for one in (model, other):
        one.training_loss(ids, targets, pictures()).backward()
    assert all(p.grad is None for p in model.decoder.parameters())
    for mine, theirs in zip(model.encoder.parameters(), other.encoder.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad)
    assert_every_gradient(other.decoder, skip=lambda name: name.endswith("key.bias"))


COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])


def test_an_encoder_learns_to_name_colours_to_a_frozen_decoder() -> None:
    """The decoder has read texts where the name stands first; the encoder learns to say it in the same places."""
    torch.manual_seed(0)
    model = PictureLM(decoder(d_model=24), PictureTokens(24, **SMALL))
    prompt, names = [1, 2], [5, 6, 7, 8]  # "what colour?" and four names
    read, written = torch.tensor([[name] * N + prompt for name in names]), torch.tensor([[name, END] for name in names])
    text = {"ids": torch.cat([read, written[:, :1]], 1), "targets": torch.cat([0 * read[:, 1:] - 100, written], 1)}
    fit(model.decoder, [text], TrainConfig(steps=60, learning_rate=1e-2))
    freeze(model)
    shown = COLOURS[:, :, None, None].expand(-1, -1, 8, 8)
    batch = {**{name: x[:, N:] for name, x in text.items()}, "pictures": shown}
    before, frozen = model(**batch).loss, copied(model.decoder)
    fit(model, [batch], TrainConfig(steps=60, learning_rate=1e-2, weight_decay=0.0))
    assert model.eval()(**batch).loss < 0.1 < 0.5 < before
    found = model.answer([prompt] * 4, pictures=shown, end_id=END, max_new_tokens=3)
    assert found == [[name] for name in names]
    mixed = model.answer([prompt] * 4, pictures=shown[[2, 0, 3, 0]], end_id=END, max_new_tokens=3)
    assert mixed == [[7], [5], [8], [5]], "from the picture, and not from its place"
    assert model(**{**batch, "pictures": shown.flip(0)}).loss > 0.5
    assert all(torch.equal(p, frozen[name]) for name, p in model.decoder.named_parameters())


# --- Answers ----------------------------------------------------------------------------------------------------------

PROMPTS = [[3], [4, 5, 6, 7, 8, 9], [1, 2], [10, 11, 3], [3], [3, 3, 3, 3]]


def ending(seed: int, **changes: Any) -> PictureLM:
    """Return a random model that ends some answers: the end scores about as high as the likeliest word."""
    model = make(seed, **changes)
    with torch.no_grad():
        model.decoder.embedding.weight[END] *= 3
    return model


def one_by_one(model: PictureLM, shown: Tensor | None, n: int) -> list[list[int]]:
    answers: list[list[int]] = []
    for i, prompt in enumerate(PROMPTS):
        text = list(prompt)
        picture = None if shown is None else shown[i : i + 1]
        while len(text) < len(prompt) + n:
            token = int(model(torch.tensor([text]), pictures=picture).logits[0, -1].argmax())
            if token == END:
                break
            text.append(token)
        answers.append(text[len(prompt) :])
    return answers


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_answers_are_those_of_each_prompt_alone(seen: bool, n: int) -> None:
    lengths: set[int] = set()
    different: set[str] = set()
    for seed in range(6):
        model, shown = ending(seed), pictures(6, seed) if seen else None
        found = model.answer(PROMPTS, pictures=shown, end_id=END, max_new_tokens=n)
        assert found == one_by_one(model, shown, n)
        assert not any(END in row for row in found) and max(map(len, found)) <= n
        lengths.update(map(len, found))
        different.add(str(found))
    assert {0, n} <= lengths and len(different) > 2, "some end by themselves, some are cut off"


def test_one_word_by_default_and_the_start_of_a_longer_answer() -> None:
    model, shown = make(1), pictures(6)
    longest = model.answer(PROMPTS, pictures=shown, end_id=END, max_new_tokens=8)
    assert model.answer(PROMPTS, pictures=shown, end_id=END) == [row[:1] for row in longest]
    for n in range(1, 8):
        assert model.answer(PROMPTS, pictures=shown, end_id=END, max_new_tokens=n) == [row[:n] for row in longest]


def test_each_prompt_is_answered_by_its_own_picture() -> None:
    model, shown = ending(2), pictures(6, 5)
    found = model.answer(PROMPTS, pictures=shown, end_id=END, max_new_tokens=6)
    order = [4, 2, 0, 5, 1, 3]
    assert model.answer([PROMPTS[i] for i in order], pictures=shown[order], end_id=END, max_new_tokens=6) == [
        found[i] for i in order
    ]


def test_answers_leave_the_model_and_the_prompts_as_they_were() -> None:
    model = make(1, dropout=0.5).train()
    model.decoder.blocks[0].eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    modes, prompts = [module.training for module in model.modules()], copy.deepcopy(PROMPTS)
    found = model.answer(prompts, pictures=pictures(6), end_id=END, max_new_tokens=6)
    assert [module.training for module in model.modules()] == modes and prompts == PROMPTS
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items()), "running means stay too"
    assert all(p.grad is None for p in model.parameters())
    assert model.eval().answer(tuple(map(tuple, prompts)), pictures=pictures(6), end_id=END, max_new_tokens=6) == found


def test_an_answer_may_fill_the_context() -> None:
    model = make(1)
    n = CONTEXT - N - 3 + 1  # the last word that is written is not read again
    prompt, shown = [[1, 2, 3]], pictures(1)
    [found] = model.answer(prompt, pictures=shown, end_id=V - 1, max_new_tokens=n)
    assert len(found) == n, "or choose a seed of a model that does not end"
    with pytest.raises(ValueError, match=f"25 positions are needed, and context_length={CONTEXT}"):
        model.answer(prompt, pictures=shown, end_id=V - 1, max_new_tokens=n + 1)


@pytest.mark.parametrize(
    ("prompts", "n", "shown", "message"),
    [
        ([], 1, None, "0 prompts of at least 0 ids, max_new_tokens=1; each must be 1 at least"),
        ([[1], []], 1, None, "2 prompts of at least 0 ids, max_new_tokens=1; each must"),
        ([[1]], 0, None, "1 prompts of at least 1 ids, max_new_tokens=0; each must"),
        ([[1, 2]], -3, None, "1 prompts of at least 2 ids, max_new_tokens=-3; each must"),
        ([[1], [2]], 1, pictures(3), "pictures holds 3 and prompts 2; give one picture a prompt"),
        ([[1], [2]], 1, pictures(1), "pictures holds 1 and prompts 2; give one picture a prompt"),
        ([[1] * (CONTEXT - N + 1)], 1, pictures(1), "25 positions are needed, and context_length=24"),
    ],
)
def test_what_cannot_be_answered_is_refused(prompts: Any, n: int, shown: Any, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        make().answer(prompts, pictures=shown, end_id=END, max_new_tokens=n)
