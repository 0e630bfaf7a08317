"""Positions, feed-forward network, block and loss: against torch's layers and against the equations written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import (
    as_a_reader_sees_it,
    assert_close,
    assert_every_gradient,
    assert_same_gradients,
    block_in_torch,
    give_ours,
    normal,
    randomised,
)
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.attention import KVCache, causal_mask, padding_mask
from nextword.layers import (
    IGNORE_INDEX,
    Block,
    FeedForward,
    check_ids,
    check_vocabulary,
    chunked_cross_entropy,
    make_norm,
    next_token_loss,
    rotation,
    sinusoidal_positions,
)

B, T, S, C, H, D_FF = 2, 5, 7, 12, 4, 20


def positions(T: int, C: int) -> Tensor:
    return sinusoidal_positions(T, C, dtype=torch.float64)


def make_block(*, cross: bool = False, seed: int = 0, **settings: Any) -> Block:
    return randomised(Block(C, H, D_FF, cross_attention=cross, **settings), seed)


# --- Positions ---


def test_positions_by_the_formula_of_the_paper() -> None:
    pos, i = np.arange(300)[:, None], np.arange(5)[None]
    angle = pos / 10000 ** (2 * i / 10)
    table = positions(300, 10).numpy()
    np.testing.assert_allclose(table[:, 0::2], np.sin(angle), rtol=0, atol=1e-12)
    np.testing.assert_allclose(table[:, 1::2], np.cos(angle), rtol=0, atol=1e-12)


@given(st.integers(1, 40), st.integers(0, 200))
@settings(deadline=None, max_examples=40)
def test_moving_by_k_turns_every_pair_by_a_fixed_angle(half: int, k: int) -> None:
    """PE(pos + k) = R_k PE(pos), with an R_k that does not depend on pos (section 3.5)."""
    table = positions(400, 2 * half)
    angle = k * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    rotation = torch.block_diag(
        *(torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]], dtype=torch.float64) for a in angle)
    )
    assert_close(table[: 400 - k] @ rotation.T, table[k:], rtol=0, atol=1e-10)


def test_two_positions_are_as_similar_as_they_are_close() -> None:
    table = positions(50, 64)
    similar = table @ table.T
    for distance in (0, 1, 7, 30):
        diagonal = similar.diagonal(distance)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert_close(similar.diagonal(), torch.full((50,), 32.0, dtype=torch.float64))
    assert (similar[0, :4].diff() < 0).all()


def test_wavelengths_run_from_two_pi_towards_ten_thousand_of_them() -> None:
    table = positions(7, 512)
    assert_close(table[:, 0], torch.arange(7, dtype=torch.float64).sin())
    assert table[1, 510].item() == pytest.approx(math.sin(10000 ** (-510 / 512)), rel=1e-12)


def test_single_precision_is_the_rounded_double_one() -> None:
    """Computed in float32, the angle of a late position would be off by far more than a rounding."""
    table = sinusoidal_positions(5000, 64)
    assert table.dtype == torch.float32 and not table.requires_grad
    assert torch.equal(table, positions(5000, 64).float())
    assert torch.equal(sinusoidal_positions(9, 64), table[:9])


# --- The feed-forward network ---


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_by_its_equation(activation: str, bias: bool) -> None:
    network, x = randomised(FeedForward(C, D_FF, activation=activation, bias=bias)), 2 * normal(B, T, C)
    w1, w2 = network.up.weight.detach(), network.down.weight.detach()
    assert (w1.shape, w2.shape) == ((D_FF, C), (C, D_FF)) and (network.up.bias is None) != bias
    y = x @ w1.T + (network.up.bias.detach() if bias else 0)
    hidden = {
        "relu": y.clamp(min=0),
        "gelu": y * (1 + torch.erf(y / math.sqrt(2))) / 2,
        "gelu_tanh": y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))) / 2,
    }[activation]
    assert_close(network(x).detach(), hidden @ w2.T + (network.down.bias.detach() if bias else 0))


def test_feed_forward_treats_every_position_alike() -> None:
    network, x = randomised(FeedForward(C, D_FF)), normal(B, T, C)
    order = torch.randperm(T)
    assert_close(network(x[:, order]), network(x)[:, order])
    assert_close(network(x[:, 2:3]), network(x)[:, 2:3])


# --- The block ---


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_block_equals_torch(norm_position: str, activation: str) -> None:
    ours = make_block(norm_position=norm_position, activation=activation)
    pre = norm_position == "pre"
    theirs = nn.TransformerEncoderLayer(C, H, D_FF, 0.0, activation, batch_first=True, norm_first=pre)
    mapping = block_in_torch(C, cross=False)
    give_ours(ours, theirs, mapping)
    x, x2 = normal(B, T, C, grad=True), normal(B, T, C, grad=True)
    mask = padding_mask(torch.tensor([T, 3]), T)
    output, expected = ours(x, mask=mask), theirs(x2, src_key_padding_mask=~mask)
    assert_close(output, expected)
    direction = normal(B, T, C, seed=5)
    (output * direction).sum().backward()
    (expected * direction).sum().backward()
    assert_same_gradients(ours, theirs, mapping)
    assert_close(x.grad, x2.grad)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_decoder_block_equals_torch(norm_position: str, activation: str) -> None:
    ours = make_block(cross=True, norm_position=norm_position, activation=activation)
    pre = norm_position == "pre"
    theirs = nn.TransformerDecoderLayer(C, H, D_FF, 0.0, activation, batch_first=True, norm_first=pre)
    mapping = block_in_torch(C, cross=True)
    give_ours(ours, theirs, mapping)
    (x, memory), (x2, memory2) = ([normal(B, T, C, grad=True), normal(B, S, C, seed=1, grad=True)] for _ in range(2))
    mask, memory_mask = padding_mask(torch.tensor([T, 3]), T), padding_mask(torch.tensor([4, S]), S)
    output = ours(x, memory, mask=mask, memory_mask=memory_mask, causal=True)
    expected = theirs(
        x2,
        memory2,
        tgt_mask=~causal_mask(T),
        tgt_key_padding_mask=~mask,
        memory_key_padding_mask=~memory_mask,
    )
    assert_close(output, expected)
    direction = normal(B, T, C, seed=5)
    (output * direction).sum().backward()
    (expected * direction).sum().backward()
    assert_same_gradients(ours, theirs, mapping)
    assert_close([x.grad, memory.grad], [x2.grad, memory2.grad])


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("cross", [False, True])
def test_block_is_its_sublayers_one_after_the_other(norm_position: str, cross: bool) -> None:
    block = make_block(cross=cross, norm_position=norm_position, bias=False, attention_bias=False, d_key=5)
    x, memory = normal(B, T, C), normal(B, S, C, seed=1)
    mask, memory_mask = padding_mask(torch.tensor([T, 3]), T), padding_mask(torch.tensor([4, S]), S)
    steps = [(block.attention_norm, lambda y: block.attention(y, mask=mask, causal=True))]
    if cross:
        steps.append((block.cross_norm, lambda y: block.cross_attention(y, memory, mask=memory_mask)))
    steps.append((block.feed_forward_norm, block.feed_forward))
    expected = x
    for norm, sublayer in steps:
        post = norm_position == "post"
        expected = norm(expected + sublayer(expected)) if post else expected + sublayer(norm(expected))
    arguments = {"memory": memory, "memory_mask": memory_mask} if cross else {}
    output = block(x, mask=mask, causal=True, **arguments)
    assert_close(output, expected)
    assert not any("bias" in name and "norm" not in name for name, _ in block.named_parameters())
    (output * normal(B, T, C, seed=5)).sum().backward()
    assert_every_gradient(block)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_dropout_falls_on_what_a_sublayer_adds_and_on_nothing_else(norm_position: str) -> None:
    """With everything dropped the input passes through: untouched with pre-norm, normalised with post-norm."""
    block = make_block(cross=True, norm_position=norm_position, dropout=1.0)
    x, memory = normal(B, T, C), normal(B, S, C, seed=1)
    expected = x
    if norm_position == "post":
        expected = block.feed_forward_norm(block.cross_norm(block.attention_norm(x)))
    assert_close(block(x, memory), expected)
    plain = make_block(cross=True, norm_position=norm_position)
    assert_close(block.eval()(x, memory), plain(x, memory))


def test_post_norm_leaves_vectors_normalised() -> None:
    x = Block(C, H, D_FF)(10 * normal(B, T, C).float() + 3)
    assert_close(x.mean(-1), torch.zeros(B, T), atol=1e-5)
    assert_close(x.var(-1, unbiased=False), torch.ones(B, T), atol=1e-3)


@pytest.mark.parametrize("cross", [False, True])
def test_block_with_a_cache_equals_the_block_without(cross: bool) -> None:
    block, x, memory = make_block(cross=cross), normal(B, T, C), normal(B, S, C, seed=1)
    arguments = {"memory": memory, "memory_mask": padding_mask(torch.tensor([4, S]), S)} if cross else {}
    cache = (KVCache(), KVCache())
    parts = [block(part, causal=True, cache=cache, **arguments) for part in x.split([2, 1, 1, 1], 1)]
    assert_close(torch.cat(parts, 1), block(x, causal=True, **arguments), atol=1e-12)
    assert (cache[0].length, cache[1].length) == (T, S if cross else 0)


# --- The loss ---


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_mean_over_the_labels_that_count(smoothing: float) -> None:
    V = 6
    logits, labels = normal(B, T, V, grad=True), torch.randint(V, (B, T))
    labels[0, 2:] = -100
    losses = []
    for b, t in np.ndindex(B, T):
        if labels[b, t] != -100:
            log_p = logits[b, t] - logits[b, t].exp().sum().log()
            target = torch.full((V,), smoothing / V, dtype=torch.float64)
            target[labels[b, t]] += 1 - smoothing
            losses.append(-(target * log_p).sum())
    expected = torch.stack(losses).mean()
    loss = next_token_loss(logits, labels, label_smoothing=smoothing)
    assert_close(loss, expected)
    assert_close(*(torch.autograd.grad(x, logits)[0] for x in (loss, expected)))
    kept = labels != -100
    assert_close(loss, F.cross_entropy(logits[kept], labels[kept], label_smoothing=smoothing))


def test_equal_scores_cost_ln_v_with_and_without_smoothing() -> None:
    labels = torch.randint(9, (B, T))
    for smoothing in (0.0, 0.3):
        loss = next_token_loss(torch.zeros(B, T, 9), labels, label_smoothing=smoothing)
        assert loss.item() == pytest.approx(math.log(9), rel=1e-6)


# --- What is refused ---


def block_call(**arguments: Any) -> Any:
    return Block(C, H, D_FF, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinusoidal_positions(0, 4), "^T=0"),
        (lambda: sinusoidal_positions(3, 5), "^C=5"),
        (lambda: sinusoidal_positions(3, 0), "^C=0"),
        (lambda: FeedForward(C, D_FF, activation="swish"), "^activation='swish'.*relu.*gelu"),
        (lambda: block_call(norm_position="middle"), "^norm_position='middle'.*post.*pre"),
        (lambda: block_call(activation="swish"), "^activation='swish'"),
        (lambda: block_call(dropout=-0.1), "dropout.*-0.1"),
        (lambda: Block(10, 4, D_FF), "^d_model=10 .*n_heads=4"),
        (lambda: Block(C, H, D_FF)(torch.zeros(B, T, C), torch.zeros(B, S, C)), "^memory: .*no cross-attention"),
        (lambda: block_call(cross_attention=True)(torch.zeros(B, T, C)), "^memory: .*needs"),
        (lambda: next_token_loss(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.int64)), r"^labels.*\(2, 4\)"),
        (lambda: check_vocabulary("source", torch.tensor([[0, 7]]), 7), "^source holds ids from 0 to 7.*6"),
        (lambda: check_vocabulary("source", torch.tensor([[-1, 3]]), 7), "^source holds ids from -1"),
        (
            lambda: check_ids("source", torch.tensor([1, 2])),
            r"^source has shape \(2,\).*; source\[None\] is a batch of one",
        ),
        (lambda: check_ids("source", torch.zeros(2, 0, dtype=torch.int64)), r"^source has shape \(2, 0\)"),
        (lambda: make_norm("batch", 8), "^kind='batch': choose layer, rms"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: Callable[[], Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("ids", [[1, 2, 3], np.array([[1, 2]]), "text"])
def test_ids_are_a_tensor(ids: Any) -> None:
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=r"^ids is a \w+; give a tensor \(B, T\), such as"):
        check_vocabulary("ids", ids, 9)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_ids_and_labels_are_int64(dtype: torch.dtype) -> None:
    ids = torch.zeros(2, 3, dtype=dtype)
    with as_a_reader_sees_it():
        with pytest.raises(TypeError, match="^target is of type torch"):
            check_ids("target", ids)
        with pytest.raises(TypeError, match="labels"):
            next_token_loss(torch.zeros(2, 3, 5), ids)


# --- What Llama changes ---


def test_rms_norm_divides_by_the_root_of_the_mean_square() -> None:
    norm, x = randomised(make_norm("rms", C, 1e-3)), normal(B, T, C)
    assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_squares_in_float32_and_gives_back_the_type_that_came(dtype: torch.dtype) -> None:
    norm = make_norm("rms", 4).to(dtype)  # the square of 300 has no float16
    assert torch.equal(norm(torch.full((2, 4), 300.0, dtype=dtype)), torch.ones(2, 4, dtype=dtype))
    # 3 4 0 0 has a mean square of 25/4: it is divided by 2.5
    found = norm(torch.tensor([3.0, 4.0, 0.0, 0.0], dtype=dtype))
    assert found.dtype == dtype and torch.equal(found, torch.tensor([1.2, 1.6, 0.0, 0.0], dtype=dtype))


def test_swiglu_opens_and_shuts_the_hidden_units() -> None:
    network, x = randomised(FeedForward(C, D_FF, activation="swiglu", bias=False)), normal(B, T, C)
    assert network.gate is not None
    g = x @ network.gate.weight.T
    expected = (g / (1 + torch.exp(-g)) * (x @ network.up.weight.T)) @ network.down.weight.T
    assert_close(network(x), expected)


def test_an_odd_head_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match="d_head=5 must be even"):
        rotation(torch.arange(3), 5)


# --- The loss in chunks ---


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_the_chunked_loss_is_the_loss_of_the_whole(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextword.layers.CHUNK", rows)
    hidden, weight = normal(B, T, C, grad=True), normal(11, C, seed=1, grad=True)
    labels = torch.randint(11, (B, T), generator=torch.Generator().manual_seed(0))
    labels[0, 1:4] = -100
    losses = chunked_cross_entropy(hidden, weight, labels), next_token_loss(hidden @ weight.T, labels)
    assert_close(*losses)
    assert_close(*(torch.autograd.grad(3 * loss, (hidden, weight)) for loss in losses))


def test_gradients_of_the_chunked_loss_by_small_steps() -> None:
    hidden, weight = normal(B, 3, 4, grad=True), normal(5, 4, seed=1, grad=True)
    labels = torch.tensor([[0, -100, 4], [2, 2, 1]])
    assert torch.autograd.gradcheck(lambda h, w: chunked_cross_entropy(h, w, labels), (hidden, weight))


def test_under_autocast_the_chunked_loss_stays_close() -> None:
    hidden, weight = (normal(*shape, seed=i).float().requires_grad_() for i, shape in enumerate([(B, 300, C), (50, C)]))
    labels = torch.randint(50, (B, 300))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_cross_entropy(hidden, weight, labels)
    exact = next_token_loss(hidden @ weight.T, labels)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.01)
    for rough, fine in zip(*(torch.autograd.grad(x, (hidden, weight)) for x in (loss, exact)), strict=True):
        assert (rough - fine).norm() < 0.02 * fine.norm()


def test_autocast_leaves_the_loss_of_a_model_in_double_precision_alone() -> None:
    hidden, weight, labels = normal(B, T, C), normal(11, C, seed=1), torch.full((B, T), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_cross_entropy(hidden, weight, labels)
    assert loss.dtype == torch.float64
    assert_close(loss, next_token_loss(hidden @ weight.T, labels))


def test_labels_of_the_chunked_loss_are_checked() -> None:
    hidden, weight = normal(B, T, C), normal(11, C)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=r"labels has shape \(2, 4\)"):
        chunked_cross_entropy(hidden, weight, torch.zeros(B, 4, dtype=torch.int64))
    assert chunked_cross_entropy(hidden, weight, torch.full((B, T), IGNORE_INDEX)).isnan()  # a mean of nothing
