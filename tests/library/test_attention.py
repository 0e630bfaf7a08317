"""Attention against torch's own, against numpy, and against what masks, caches and symmetry promise."""

from __future__ import annotations

import copy
import itertools
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
    assert_same_gradients,
    attention_in_torch,
    give_ours,
    normal,
    randomised,
)
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.attention import (
    KVCache,
    MultiHeadAttention,
    attention,
    capture_attention,
    causal_mask,
    pad,
    padding_mask,
    rotate,
    scaled_dot_product_attention,
)
from nextword.layers import rotation

B, H, T, S, D, C = 2, 4, 5, 7, 3, 12


def qkv(T: int = T, S: int = S, E: int = D, grad: bool = True) -> list[Tensor]:
    return [normal(B, H, n, width, seed=i, grad=grad) for i, (n, width) in enumerate(((T, D), (S, D), (S, E)))]


def random_mask(*shape: int, seed: int = 0) -> Tensor:
    """Return a mask in which every query may attend to something."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < 0.5
    mask[..., 0] |= ~mask.any(-1)
    return mask


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((output * normal(*output.shape, seed=9)).sum(), inputs)


def module(seed: int = 0, **settings: Any) -> MultiHeadAttention:
    return randomised(MultiHeadAttention(C, H, **settings), seed)


def compute(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_weights: bool = False,
) -> Any:
    """Return attention by the fused kernel, or by the equation with its weights."""
    if not return_weights:
        return scaled_dot_product_attention(q, k, v, mask, causal=causal, scale=scale)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    if causal:
        order = causal_mask(q.shape[2], k.shape[2])
        mask = order if mask is None else mask & order
    return attention(q, k, v, mask, scale=scale)


def attended(attend: MultiHeadAttention, *inputs: Tensor, return_weights: bool = False, **settings: Any) -> Any:
    """Return what a layer makes of its inputs, perhaps with its weights."""
    if not return_weights:
        return attend(*inputs, **settings)
    with capture_attention([attend]) as maps:
        return attend(*inputs, **settings), maps[0]


# --- One head after the other ---


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_equals_the_equation_written_in_numpy(data: st.DataObject) -> None:
    sizes = st.integers(1, 5)
    b, h, t, s, d, e = (data.draw(sizes) for _ in range(6))
    seed, causal = data.draw(st.integers(0, 99)), data.draw(st.booleans())
    scale = data.draw(st.sampled_from([None, 0.1, 1.0, 2.5]))
    q, k, v = normal(b, h, t, d, seed=seed), normal(b, h, s, d, seed=seed + 100), normal(b, h, s, e, seed=seed + 200)
    shape = data.draw(st.sampled_from([None, (), (s,), (t, s), (h, 1, s), (b, 1, t, s), (1, h, t, 1), (b, h, t, s)]))
    mask = None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    allowed = np.ones((b, h, t, s), dtype=bool) if mask is None else np.broadcast_to(mask.numpy(), (b, h, t, s)).copy()
    expected = np.zeros((b, h, t, e))
    expected_weights = np.zeros((b, h, t, s))
    for i in np.ndindex(b, h, t):
        if causal:
            allowed[i] &= np.arange(s) <= i[2] + s - t
        keys = np.flatnonzero(allowed[i])
        scores = k[i[0], i[1]].numpy()[keys] @ q[i].numpy() * (d**-0.5 if scale is None else scale)
        if len(keys):
            expected_weights[i][keys] = np.exp(scores) / np.exp(scores).sum()
            expected[i] = expected_weights[i] @ v[i[0], i[1]].numpy()
    output, weights = compute(q, k, v, mask, causal=causal, scale=scale, return_weights=True)
    assert_close(weights, torch.from_numpy(expected_weights))
    assert_close(output, torch.from_numpy(expected))
    assert_close(scaled_dot_product_attention(q, k, v, mask, causal=causal, scale=scale), torch.from_numpy(expected))


@pytest.mark.parametrize("shape", [None, (S,), (T, S), (B, 1, 1, S), (1, H, 1, S), (B, 1, T, S), (B, H, T, S)])
@pytest.mark.parametrize("return_weights", [False, True])
def test_equals_torch_with_gradients(shape: tuple[int, ...] | None, return_weights: bool) -> None:
    mask = None if shape is None else random_mask(*shape)
    inputs = qkv(E=D + 2)
    ours = compute(*inputs, mask, return_weights=return_weights)
    theirs = F.scaled_dot_product_attention(*inputs, attn_mask=None if mask is None else mask.expand(B, H, T, S))
    ours = ours[0] if return_weights else ours
    assert_close(ours, theirs)
    assert_close(gradients(ours, inputs), gradients(theirs, inputs))


@pytest.mark.parametrize("return_weights", [False, True])
def test_causal_equals_torch_where_queries_and_keys_are_the_same(return_weights: bool) -> None:
    inputs = qkv(T=S)
    ours = compute(*inputs, causal=True, return_weights=return_weights)
    theirs = F.scaled_dot_product_attention(*inputs, is_causal=True)
    ours = ours[0] if return_weights else ours
    assert_close(ours, theirs)
    assert_close(gradients(ours, inputs), gradients(theirs, inputs))


@pytest.mark.parametrize("n", [1, 2, S - 1])
def test_the_last_queries_see_all_that_came_before_them(n: int) -> None:
    """With a cache: torch's is_causal would align the triangle to the upper left and show the first keys only."""
    q, k, v = qkv(T=S)
    whole = scaled_dot_product_attention(q, k, v, causal=True)
    last = scaled_dot_product_attention(q[:, :, -n:], k, v, causal=True)
    assert_close(last, whole[:, :, -n:])
    assert (last - F.scaled_dot_product_attention(q[:, :, -n:], k, v, is_causal=True)).abs().max() > 0.1


def test_mask_and_causal_both_hold() -> None:
    inputs, mask = qkv(), random_mask(B, H, T, S)
    mask[..., 0] = True
    both = scaled_dot_product_attention(*inputs, mask, causal=True)
    assert_close(both, scaled_dot_product_attention(*inputs, mask & causal_mask(T, S)))
    for one in (scaled_dot_product_attention(*inputs, mask), scaled_dot_product_attention(*inputs, causal=True)):
        assert (both - one).abs().max() > 0.1
    square = qkv(T=S)  # as many queries as keys: the mask must not get lost on a faster path
    mask = random_mask(B, 1, S, S)
    mask[..., 0] = True
    expected = F.scaled_dot_product_attention(*square, attn_mask=mask & causal_mask(S))
    assert_close(scaled_dot_product_attention(*square, mask, causal=True), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_weights_are_a_distribution_over_what_may_be_seen(causal: bool) -> None:
    mask = random_mask(B, H, T, S)
    mask[..., 0] = True
    _, weights = compute(*qkv(), mask, causal=causal, return_weights=True)
    allowed = mask & causal_mask(T, S) if causal else mask
    assert_close(weights.sum(-1), torch.ones(B, H, T, dtype=torch.float64))
    assert torch.equal(weights > 0, allowed)
    assert weights[~allowed].eq(0).all()


@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_query_that_may_attend_to_nothing_gets_exactly_nothing(return_weights: bool, dtype: torch.dtype) -> None:
    inputs = [x.detach().to(dtype).requires_grad_() for x in qkv()]
    mask = random_mask(B, H, T, S)
    mask[0, 1, 2] = mask[1, :, 4] = False
    result = compute(*inputs, mask, return_weights=return_weights)
    output, weights = result if return_weights else (result, None)
    empty = ~mask.any(-1)
    assert output.dtype == dtype and output[empty].eq(0).all() and output[~empty].ne(0).all()
    if weights is not None:
        assert weights[empty].eq(0).all()
    found = torch.autograd.grad((output.float() ** 2).sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in found)
    assert found[0][empty].eq(0).all() and found[0][~empty].ne(0).any()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("settings", [{}, {"causal": True}, {"mask": True}])
def test_bfloat16_on_a_cpu_goes_through_the_float32_kernel(
    settings: dict[str, Any], autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [x.detach().to(torch.bfloat16) for x in qkv(S, S)]
    if settings.get("mask"):
        settings = {"mask": random_mask(B, H, S, S) | torch.eye(S, dtype=torch.bool)}
    expected = scaled_dot_product_attention(*(x.float() for x in inputs), **settings).to(torch.bfloat16)
    seen: list[tuple[torch.dtype, bool]] = []
    kernel = F.scaled_dot_product_attention

    def spy(q: Tensor, *rest: Any, **others: Any) -> Tensor:
        seen.append((q.dtype, torch.is_autocast_enabled("cpu")))
        return kernel(q, *rest, **others)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = scaled_dot_product_attention(*inputs, **settings)
    assert torch.equal(output, expected) and output.dtype == torch.bfloat16
    assert seen == [(torch.float32, False)]
    scaled_dot_product_attention(inputs[0][..., :1, :], *inputs[1:])  # one query: copying the keys would cost more
    assert seen[1:] == [(torch.bfloat16, False)]


@pytest.mark.parametrize("return_weights", [False, True])
def test_more_queries_than_keys_leave_the_first_without_any(return_weights: bool) -> None:
    result = compute(*qkv(T=5, S=3), causal=True, return_weights=return_weights)
    output = result[0] if return_weights else result
    assert output[:, :, :2].eq(0).all()
    assert_close(output[:, :, 2:], F.scaled_dot_product_attention(*(x[:, :, -3:] for x in qkv(5, 3)), is_causal=True))


def test_a_mask_of_nothing_but_false_in_one_dimension() -> None:
    for shape in ((S,), (1, 1), (T, 1), (B, 1, 1, 1)):
        mask = torch.zeros(shape, dtype=torch.bool)
        assert scaled_dot_product_attention(*qkv(), mask).eq(0).all()
        assert compute(*qkv(), mask, return_weights=True)[1].eq(0).all()


@pytest.mark.parametrize("return_weights", [False, True])
def test_gradients_equal_finite_differences(return_weights: bool) -> None:
    inputs = [x.detach()[:1, :2].requires_grad_() for x in qkv(T=3, S=4)]
    mask = random_mask(1, 1, 3, 4)
    mask[..., 1, :] = False
    call = lambda *x: compute(*x, mask, causal=True, return_weights=return_weights)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_the_scale_is_taken_as_given(scale: float) -> None:
    inputs = qkv(grad=False)
    expected = F.scaled_dot_product_attention(*inputs, scale=scale)
    assert_close(scaled_dot_product_attention(*inputs, scale=scale), expected)
    output, weights = compute(*inputs, scale=scale, return_weights=True)
    assert_close(output, expected)
    if scale == 0:
        assert_close(weights, torch.full_like(weights, 1 / S))


def test_large_scores_do_not_overflow() -> None:
    q, k, v = (x.detach().float() * 1e4 for x in qkv())
    for result in (
        scaled_dot_product_attention(q, k, v),
        compute(q, k, v, return_weights=True)[0],
    ):
        assert result.isfinite().all()


# --- Heads that share keys ---


def sharing(G: int, T: int, S: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return queries of H heads with keys and values of G, and the same with a copy of them for each query head."""
    shapes = ((H, T, D), (G, S, D), (G, S, D + 2))
    q, k, v = (normal(B, *shape, seed=i, grad=True) for i, shape in enumerate(shapes))
    return [q, k, v], [q, k.repeat_interleave(H // G, 1), v.repeat_interleave(H // G, 1)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("axes", [None, "", "S", "TS", "B11S", "1H1S", "11TS", "B1TS", "BHTS", "BHT1"])
def test_heads_that_share_keys_equal_heads_with_copies_of_them(axes: str | None, causal: bool) -> None:
    generator, settings = torch.Generator().manual_seed(1), {"causal": causal, "scale": 0.7}
    for (T, S), G in itertools.product([(5, 7), (6, 6), (1, 7), (5, 3)], [1, 2]):
        named = {"B": B, "H": H, "T": T, "S": S, "1": 1}
        # some queries see nothing
        mask = None if axes is None else torch.rand([named[axis] for axis in axes], generator=generator) < 0.6
        inputs, copies = sharing(G, T, S)
        expected = compute(*copies, mask, return_weights=True, **settings)
        found = compute(*inputs, mask, return_weights=True, **settings)
        assert_close(found, expected)
        both = [gradients(torch.cat(pair, -1), inputs) for pair in (found, expected)]
        assert_close(*both)
        fused = [scaled_dot_product_attention(*x, mask, **settings) for x in (inputs, copies)]
        assert_close(fused[0], expected[0])
        both = [gradients(heads, inputs) for heads in fused]
        assert_close(*both)


@pytest.mark.parametrize("n_queries", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_where_keys_are_shared_the_fused_kernel_may_lay_out_its_result_as_it_likes(
    masked: bool, n_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where some kernels write (B, T, H, D) and return it transposed."""
    kernel = F.scaled_dot_product_attention
    inputs, copies = sharing(2, n_queries, S)
    mask = random_mask(B, 1, n_queries, S) if masked else None
    expected = kernel(*copies, attn_mask=mask)

    def transposed(*args: Any, **settings: Any) -> Tensor:
        return kernel(*args, **settings).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", transposed)
    assert_close(scaled_dot_product_attention(*inputs, mask), expected)


# --- Masks ---


def test_masks_by_their_definition() -> None:
    for T, S in itertools.product(range(1, 5), range(1, 6)):
        expected = [[s <= t + S - T for s in range(S)] for t in range(T)]
        assert causal_mask(T, S).tolist() == expected
    assert torch.equal(causal_mask(4), causal_mask(4, 4))
    lengths = torch.tensor([0, 1, 3])
    assert padding_mask(lengths, 3).tolist() == [[n < length for n in range(3)] for length in (0, 1, 3)]
    assert padding_mask(torch.tensor([], dtype=torch.int64), 3).shape == (0, 3)
    assert causal_mask(2).dtype == padding_mask(lengths, 3).dtype == torch.bool


# --- Several heads ---


@pytest.mark.parametrize("kind", ["plain", "padding", "causal", "padding, causal", "a mask for each head"])
@pytest.mark.parametrize("return_weights", [False, True])
def test_self_attention_equals_torch(kind: str, return_weights: bool) -> None:
    ours, theirs = module(), nn.MultiheadAttention(C, H, batch_first=True)
    mapping = attention_in_torch(C)
    give_ours(ours, theirs, mapping)
    x, x2 = normal(B, T, C, grad=True), normal(B, T, C, grad=True)
    ours_mask = keep = padding = None
    if "padding" in kind:
        keep = padding_mask(torch.tensor([T, 3]), T)
        ours_mask, padding = keep, ~keep
    masked = ~causal_mask(T) if "causal" in kind else None
    if "each head" in kind:
        ours_mask = random_mask(B, H, T, T)
        masked = ~ours_mask.flatten(0, 1)
    result = attended(ours, x, mask=ours_mask, causal="causal" in kind, return_weights=return_weights)
    expected, expected_weights = theirs(
        x2, x2, x2, key_padding_mask=padding, attn_mask=masked, average_attn_weights=False
    )
    output = result[0] if return_weights else result
    assert_close(output, expected)
    if return_weights:
        assert_close(result[1], expected_weights)
    direction = normal(*output.shape, seed=5)
    (output * direction).sum().backward()
    (expected * direction).sum().backward()
    assert_same_gradients(ours, theirs, mapping)
    assert_close(x.grad, x2.grad)


@pytest.mark.parametrize("bias", [True, False])
def test_cross_attention_equals_torch(bias: bool) -> None:
    ours, theirs = module(bias=bias), nn.MultiheadAttention(C, H, batch_first=True, bias=bias)
    mapping = {name: place for name, place in attention_in_torch(C).items() if bias or "bias" not in name}
    give_ours(ours, theirs, mapping)
    keep = padding_mask(torch.tensor([4, S]), S)
    inputs = [normal(B, T, C, grad=True), normal(B, S, C, seed=1, grad=True)]
    output = ours(*inputs, mask=keep)
    expected, _ = theirs(inputs[0], inputs[1], inputs[1], key_padding_mask=~keep)
    assert_close(output, expected)
    assert_close(gradients(output, [*inputs, *ours.parameters()])[:2], gradients(expected, inputs))
    direction = normal(*output.shape, seed=5)
    (ours(*inputs, mask=keep) * direction).sum().backward()
    (theirs(inputs[0], inputs[1], inputs[1], key_padding_mask=~keep)[0] * direction).sum().backward()
    assert_same_gradients(ours, theirs, mapping)


def test_masks_of_two_three_and_four_dimensions_mean_the_same() -> None:
    attend, x = module(), normal(B, T, C)
    mask = random_mask(B, T)
    four = mask[:, None, None, :].expand(B, H, T, T)
    for same in (mask, mask[:, None, :].expand(B, T, T), four[:, :1], four):
        assert_close(attend(x, mask=same), attend(x, mask=four))
    square = torch.ones(T, T, dtype=torch.bool).tril()[None].expand(B, T, T)
    assert_close(attend(x, mask=square), attend(x, causal=True))


def test_one_token_alone_gets_its_own_value() -> None:
    """With one key the softmax is 1, so query, key, scale and mask cannot matter."""
    attend, x = module(), normal(B, 1, C)
    expected = attend.out(attend.value(x))
    for arguments in ({}, {"causal": True}, {"mask": torch.ones(B, 1, dtype=torch.bool)}):
        assert_close(attend(x, **arguments), expected)
    attend.query.weight.data.mul_(-3)
    assert_close(attend(x), expected)


def test_heads_are_slices_of_the_projections() -> None:
    """Head h takes rows h·D to (h + 1)·D of each projection; the heads of the output stand in that order."""
    attend, x = module(), normal(B, T, C)
    heads = []
    for h in range(H):
        rows = slice(h * D, (h + 1) * D)
        q, k, v = (F.linear(x, p.weight[rows], p.bias[rows])[:, None] for p in (attend.query, attend.key, attend.value))
        heads.append(F.scaled_dot_product_attention(q, k, v)[:, 0])
    assert_close(attend(x), attend.out(torch.cat(heads, -1)))


@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_shared_keys_equal_repeated_ones(n_kv_heads: int) -> None:
    """Query heads that stand side by side share keys and values, as in Ainslie et al. 2023."""
    shared, full = module(n_kv_heads=n_kv_heads), module()
    assert shared.key.weight.shape == (n_kv_heads * D, C)
    copies = H // n_kv_heads
    with torch.no_grad():
        for name in ("query", "out"):
            getattr(full, name).load_state_dict(getattr(shared, name).state_dict())
        for name in ("key", "value"):
            for kind in ("weight", "bias"):
                small = getattr(getattr(shared, name), kind)
                blocks = small.unflatten(0, (n_kv_heads, D)).repeat_interleave(copies, 0).flatten(0, 1)
                getattr(getattr(full, name), kind).copy_(blocks)
    x, mask = normal(B, T, C), padding_mask(torch.tensor([T, 2]), T)
    assert_close(shared(x, mask=mask, causal=True), full(x, mask=mask, causal=True))
    q, k, v = (p(x).unflatten(-1, (-1, D)).transpose(1, 2) for p in (shared.query, shared.key, shared.value))
    by_torch = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert_close(shared(x, causal=True), shared.out(by_torch.transpose(1, 2).flatten(2)))
    for model in (shared, full):
        (model(x) * normal(B, T, C, seed=7)).sum().backward()
    for name in ("key", "value"):
        gradient = getattr(full, name).weight.grad.unflatten(0, (n_kv_heads, copies, D)).sum(1).flatten(0, 1)
        assert_close(getattr(shared, name).weight.grad, gradient)


@pytest.mark.parametrize("d_key", [1, 5, 16])
def test_queries_and_keys_of_any_width(d_key: int) -> None:
    attend, x = module(d_key=d_key), normal(B, T, C)
    assert attend.query.weight.shape == (H * d_key, C) and attend.out.weight.shape == (C, C)
    q, k, v = (p(x).unflatten(-1, (H, -1)).transpose(1, 2) for p in (attend.query, attend.key, attend.value))
    scores = q @ k.mT / d_key**0.5  # the width of a key, not of the model
    assert_close(attend(x), attend.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("settings", [{"causal": True}, {"causal": True, "return_weights": True}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_position_sees_a_later_one(settings: dict[str, bool], dtype: torch.dtype) -> None:
    """Bit by bit: a change at position t leaves all before it untouched, and reaches t and all after it."""
    attend, x = module().to(dtype), normal(B, T, C).to(dtype)
    run = lambda x: (lambda y: y[0] if isinstance(y, tuple) else y)(attended(attend, x, **settings))  # noqa: E731
    before = run(x)
    for t in range(T):
        changed = x.clone()
        changed[:, t] += 1
        after = run(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(-1).all()


def test_padding_changes_nothing() -> None:
    attend, x, context = module(), normal(B, T, C), normal(B, S, C, seed=1)
    junk = 100 * normal(B, 3, C, seed=2)
    mask = lambda n: padding_mask(torch.tensor([n, n]), n + 3)  # noqa: E731
    assert_close(attend(torch.cat([x, junk], 1), mask=mask(T))[:, :T], attend(x), atol=1e-12)
    assert_close(attend(torch.cat([x, junk], 1), causal=True)[:, :T], attend(x, causal=True), atol=1e-12)
    assert_close(attend(x, torch.cat([context, junk], 1), mask=mask(S)), attend(x, context), atol=1e-12)


def test_a_context_of_nothing_but_padding_leaves_the_bias() -> None:
    attend, x, context = module(), normal(B, T, C), normal(B, S, C, seed=1)
    mask = padding_mask(torch.tensor([0, S]), S)
    assert_close(attend(x, context, mask=mask)[0], attend.out.bias.expand(T, C))
    attend(x, context, mask=mask).sum().backward()
    assert all(p.grad.isfinite().all() for p in attend.parameters())


def test_without_a_mask_the_order_does_not_matter() -> None:
    attend, x, context = module(), normal(B, T, C), normal(B, S, C, seed=1)
    order, other = torch.randperm(T), torch.randperm(S)
    assert_close(attend(x[:, order]), attend(x)[:, order])
    assert_close(attend(x[:, order], context[:, other]), attend(x, context)[:, order])
    assert (attend(x[:, order], causal=True) - attend(x, causal=True)[:, order]).abs().max() > 0.01


def test_weights_of_every_head_come_out() -> None:
    attend, x = module(n_kv_heads=2), normal(B, T, C)
    output, weights = attended(attend, x, causal=True, return_weights=True)
    assert weights.shape == (B, H, T, T)
    assert torch.equal(weights > 0, causal_mask(T).expand(B, H, T, T))
    v = attend.value(x).unflatten(-1, (2, D)).transpose(1, 2).repeat_interleave(2, 1)
    assert_close(output, attend.out((weights @ v).transpose(1, 2).flatten(2)))


def test_weights_can_be_captured_while_a_model_runs() -> None:
    first, second, x = module(), module(seed=1), normal(B, T, C)
    model = nn.Sequential(first, nn.Identity(), second)
    expected = model(x)
    with capture_attention(model.modules()) as maps:
        assert_close(model(x), expected, atol=1e-12)
        model(x[:, :2])
    assert [tuple(m.shape) for m in maps] == [(B, H, T, T)] * 2 + [(B, H, 2, 2)] * 2
    q, k = (p(x).unflatten(-1, (H, D)).transpose(1, 2) for p in (first.query, first.key))
    assert_close(maps[0], (q @ k.mT / D**0.5).softmax(-1).detach())
    assert not any(m.requires_grad for m in maps)
    with pytest.raises(ZeroDivisionError), capture_attention([first]) as maps:
        raise ZeroDivisionError
    assert torch.equal(model(x), expected) and maps == []


def test_one_capture_within_another_gets_the_weights_of_its_own_time() -> None:
    attend, x = module(), normal(B, T, C)
    with capture_attention([attend]) as outer:
        with capture_attention([attend]) as inner:
            attend(x)
        attend(x[:, :2])
    assert [m.shape[-1] for m in inner] == [T] and [m.shape[-1] for m in outer] == [2]


def test_a_rotation_turns_queries_and_keys_but_not_values_nor_contexts() -> None:
    attend, x = randomised(MultiHeadAttention(16, 4, n_kv_heads=2)), normal(B, T, 16)
    turn = rotation(torch.arange(T), 4, base=30.0)
    q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (attend.query, attend.key, attend.value))
    expected = F.scaled_dot_product_attention(rotate(q, turn), rotate(k, turn), v, is_causal=True, enable_gqa=True)
    assert_close(attend(x, causal=True, rotation=turn), attend.out(expected.transpose(1, 2).flatten(2)))
    cache, outputs, start = KVCache(), [], 0
    for part in x.split([2, 1, 2], 1):
        places = turn[start : start + part.shape[1]]
        outputs.append(attend(part, causal=True, rotation=places, cache=cache))
        start += part.shape[1]
    assert_close(torch.cat(outputs, 1), attend(x, causal=True, rotation=turn))


def test_a_model_may_be_copied_and_stored() -> None:
    attend, x = module(n_kv_heads=2), normal(B, T, C)
    other = module(seed=1, n_kv_heads=2)
    assert (attend(x) - other(x)).abs().max() > 0.1
    other.load_state_dict(attend.state_dict())
    assert torch.equal(attend(x), other(x)) and torch.equal(attend(x), copy.deepcopy(attend)(x))
    assert set(attend.state_dict()) == {
        f"{n}.{k}" for n in ("query", "key", "value", "out") for k in ("weight", "bias")
    }


# --- Word by word, with a cache ---


@pytest.mark.parametrize("max_length", [None, T, 50])
@pytest.mark.parametrize("parts", [[1] * T, [3, 1, 1], [1, 4], [T]])
@pytest.mark.parametrize("return_weights", [False, True])
def test_a_cache_changes_nothing(max_length: int | None, parts: list[int], return_weights: bool) -> None:
    attend, x = module(n_kv_heads=2), normal(B, T, C)
    cache, outputs = KVCache(max_length), []
    for part in x.split(parts, 1):
        result = attended(attend, part, causal=True, cache=cache, return_weights=return_weights)
        outputs.append(result[0] if return_weights else result)
    assert cache.length == T
    assert_close(torch.cat(outputs, 1), attend(x, causal=True), atol=1e-12)
    assert_close(cache.keys, attend.key(x).unflatten(-1, (2, D)).transpose(1, 2), atol=1e-12)


def test_a_cache_with_padding_on_the_left() -> None:
    """Two texts of different lengths, filled up on the left, equal the texts alone."""
    attend, x = module(), normal(B, T, C)
    mask = torch.tensor([[True] * T, [False] * 2 + [True] * (T - 2)])
    cache, outputs = KVCache(), []
    for t in range(T):
        outputs.append(attend(x[:, t : t + 1], mask=mask[:, : t + 1], causal=True, cache=cache))
    output = torch.cat(outputs, 1)
    assert_close(output[:1], attend(x[:1], causal=True), atol=1e-12)
    assert_close(output[1:, 2:], attend(x[1:, 2:], causal=True), atol=1e-12)


def test_the_context_is_projected_once() -> None:
    attend, x, context = module(), normal(B, T, C), normal(B, S, C, seed=1)
    cache, calls = KVCache(), []
    attend.key.register_forward_hook(lambda *_: calls.append("key"))
    attend.value.register_forward_hook(lambda *_: calls.append("value"))
    mask = padding_mask(torch.tensor([S, 4]), S)
    outputs = [attend(part, context, mask=mask, cache=cache) for part in x.split([2, 1, 2], 1)]
    assert calls == ["key", "value"] and cache.length == S
    assert_close(torch.cat(outputs, 1), attend(x, context, mask=mask), atol=1e-12)


def test_rows_of_a_cache_are_kept_doubled_and_exchanged() -> None:
    attend, x = module(), normal(3, T, C)
    for max_length in (None, 10):
        cache = KVCache(max_length)
        attend(x[:, :3], causal=True, cache=cache)
        rows = torch.tensor([2, 0, 0, 1])
        cache.reorder(rows)
        output = attend(x[rows, 3:], causal=True, cache=cache)
        assert cache.length == T
        assert_close(output, attend(x[rows], causal=True)[:, 3:], atol=1e-12)
    KVCache().reorder(torch.tensor([1, 0]))  # nothing in it yet


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("max_length", [None, T])
def test_a_cropped_cache_goes_on_from_there(n: int, max_length: int | None) -> None:
    attend, x, other = module(), normal(B, T, C), normal(B, T, C, seed=1)
    cache = KVCache(max_length)
    attend(torch.cat([x[:, :n], other[:, n:]], 1), causal=True, cache=cache)
    cache.crop(n)
    assert cache.length == n
    assert_close(attend(x[:, n:], causal=True, cache=cache), attend(x, causal=True)[:, n:], atol=1e-12)


@given(steps=st.lists(st.tuples(st.sampled_from(["append", "crop", "reorder"]), st.integers(1, 4)), max_size=12))
@settings(deadline=None, max_examples=60)
def test_a_cache_is_a_list_of_positions(steps: list[tuple[str, int]]) -> None:
    """Any order of calls against a plain tensor that is cut and glued."""
    cache, counter = KVCache(), 0.0
    k, v = torch.empty(2, 1, 0, 2), torch.empty(2, 1, 0, 3)
    for step, n in steps:
        if step == "append":
            new = torch.arange(counter, counter + k.shape[0] * n).view(-1, 1, n, 1)
            counter += new.numel()
            k, v = torch.cat([k, new.expand(-1, 1, n, 2)], 2), torch.cat([v, -new.expand(-1, 1, n, 3)], 2)
            returned = cache.append(k[:, :, -n:], v[:, :, -n:])
            assert torch.equal(returned[0], k) and torch.equal(returned[1], v)
        elif step == "crop":
            n = min(n, cache.length)
            cache.crop(n)
            k, v = k[:, :, :n], v[:, :, :n]
        else:
            rows = torch.arange(n) % k.shape[0]
            cache.reorder(rows)
            k, v = (k[rows], v[rows]) if cache.length else (k, v)
        assert cache.length == k.shape[2]
        if cache.length:
            assert torch.equal(cache.keys, k) and torch.equal(cache.values, v)


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("max_length", [None, 3, 8])
def test_a_cache_expanded_to_several_rows_leaves_each_of_them_alone(max_length: int | None, n_rows: int) -> None:
    k, v = normal(1, 2, 3, 4), normal(1, 2, 3, 5, seed=1)
    cache = KVCache(max_length)
    cache.append(k, v)
    copy, other = cache.expand(n_rows), cache.expand(n_rows, 5)
    assert copy.length == other.length == 3
    rows, values = k.expand(n_rows, -1, -1, -1), v.expand(n_rows, -1, -1, -1)
    for same in (copy, other):
        assert torch.equal(same.keys, rows) and torch.equal(same.values, values)
    for n in (1, 2, 4):  # each row goes on in its own way
        new = normal(n_rows, 2, n, 4, seed=n), normal(n_rows, 2, n, 5, seed=n + 10)
        rows, values = torch.cat([rows, new[0]], 2), torch.cat([values, new[1]], 2)
        found = copy.append(*new)
        assert torch.equal(found[0], rows) and torch.equal(found[1], values)
        assert torch.equal(copy.keys, rows) and torch.equal(copy.values, values)
    assert (copy.length, other.length, cache.length) == (10, 3, 3)
    assert torch.equal(cache.keys, k) and torch.equal(other.keys, k.expand(n_rows, -1, -1, -1))
    assert torch.equal(cache.values, v) and torch.equal(other.values, v.expand(n_rows, -1, -1, -1))
    other.append(*(normal(n_rows, 2, 2, width, seed=3) for width in (4, 5)))
    assert torch.equal(copy.keys, rows) and torch.equal(cache.keys, k)
    with pytest.raises(ValueError, match="k brings the cache to 6 positions, and max_length=5"):
        other.append(*(normal(n_rows, 2, 1, width) for width in (4, 5)))


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("cropped", ["original", "copy"])
def test_a_cache_and_its_copy_may_be_cropped_and_filled_anew(cropped: str, n_rows: int) -> None:
    cache = KVCache()
    k = normal(1, 2, 3, 4)
    cache.append(k, k)
    copy = cache.expand(n_rows)
    changed, same = (cache, copy) if cropped == "original" else (copy, cache)
    changed.crop(1)
    n = changed.keys.shape[0]
    new = normal(n, 2, 1, 4, seed=1)
    changed.append(new, new)
    assert torch.equal(changed.keys, torch.cat([k[:, :, :1].expand(n, -1, -1, -1), new], 2))
    assert torch.equal(same.keys, k.expand(same.keys.shape[0], -1, -1, -1))
    assert torch.equal(same.values, same.keys)


@pytest.mark.parametrize("n_kv_heads", [1, 2, H])
def test_rows_behind_an_expanded_cache_are_attended_as_whole_texts(n_kv_heads: int) -> None:
    attend, before, x = module(n_kv_heads=n_kv_heads), normal(1, 4, C, seed=1), normal(3, T, C)
    cache = KVCache()
    attend(before, causal=True, cache=cache)
    whole = attend(torch.cat([before.expand(3, -1, -1), x], 1), causal=True)[:, 4:]
    for _ in range(2):  # the second copy finds the original untouched
        copy = cache.expand(3)
        parts = [attend(part, causal=True, cache=copy) for part in x.split([1, 3, 1], 1)]
        assert_close(torch.cat(parts, 1), whole, atol=1e-12)


def test_a_reserved_cache_stays_where_it_is_and_a_growing_one_moves_rarely() -> None:
    k = v = torch.zeros(1, 1, 1, 2)
    for max_length, moves in ((64, 1), (None, 7)):
        cache, places = KVCache(max_length), set()
        for _ in range(64):
            places.add((cache.append(k, v)[0].data_ptr(), cache._keys.shape[-2]))
        assert len(places) <= moves


# --- What is refused ---


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.zeros(shape) for shape in shapes]


def mask_of(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def filled(**settings: Any) -> KVCache:
    cache = KVCache(**settings)
    cache.append(*tensors((2, 1, 3, 2), (2, 1, 3, 2)))
    return cache


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scaled_dot_product_attention(*tensors((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 4))), r"^k .*5.* q .*4"),
        (lambda: scaled_dot_product_attention(*tensors((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 5, 4))), r"^v has 5 .*k 3"),
        (lambda: scaled_dot_product_attention(*tensors((1, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4))), r"^k has shape"),
        (lambda: scaled_dot_product_attention(*tensors((1, 2, 3, 4), (1, 3, 3, 4), (1, 3, 3, 4))), r"^k has shape"),
        (lambda: scaled_dot_product_attention(*tensors((1, 2, 3, 4), (1, 2, 3, 4), (2, 3, 4))), r"^v has shape"),
        (lambda: scaled_dot_product_attention(*tensors((2, 3, 4), (2, 3, 4), (2, 3, 4))), r"\(2, 3, 4\)"),
        (lambda: scaled_dot_product_attention(*qkv(), mask_of(T, S + 1)), r"^mask has shape \(5, 8\).*\(2, 4, 5, 7\)"),
        (lambda: causal_mask(0), "^T=0"),
        (lambda: causal_mask(2, 0), "^S=0"),
        (lambda: padding_mask(torch.tensor([1, 4]), 3), "^lengths run from 1 to 4.*T=3"),
        (lambda: padding_mask(torch.tensor([-1, 2]), 3), "^lengths run from -1"),
        (lambda: MultiHeadAttention(10, 4), "^d_model=10 .*n_heads=4"),
        (lambda: MultiHeadAttention(10, 0), "n_heads=0"),
        (lambda: MultiHeadAttention(12, 4, n_kv_heads=3), "^n_heads=4 .*n_kv_heads=3"),
        (lambda: MultiHeadAttention(12, 4, n_kv_heads=0), "n_kv_heads=0"),
        (lambda: scaled_dot_product_attention(*tensors((3, 4), (2, 2, 3, 4), (2, 2, 3, 4))), r"^q has shape \(3, 4\)"),
        (lambda: MultiHeadAttention(12, 4)(torch.zeros(2, 3, 12), mask=mask_of(3)), r"^mask has shape \(3,\)"),
        (
            lambda: MultiHeadAttention(12, 4)(torch.zeros(2, 3, 12), mask=mask_of(2, 3, 5)),
            r"^mask has shape \(2, 3, 5\); .*\(2, 3\) or \(2, 3, 3\) or \(2, 4, 3, 3\)",
        ),
        (
            lambda: MultiHeadAttention(12, 4)(torch.zeros(2, 3, 12), torch.zeros(2, 5, 12), mask=mask_of(2, 3)),
            r"^mask has shape \(2, 3\); .*\(2, 5\) or \(2, 3, 5\)",
        ),
        (
            lambda: MultiHeadAttention(4, 2)(torch.zeros(2, 1, 4), mask=mask_of(2, 1, 3), cache=filled()),
            r"^mask has shape \(2, 1, 3\); .*\(2, 4\) or \(2, 1, 4\)",
        ),
        (
            lambda: rotate(torch.zeros(1, 1, 5, 4), rotation(torch.arange(3), 4)),
            r"^rotation has shape \(3, 2\); .*\(…, 5, 2\)",
        ),
        (
            lambda: rotate(torch.zeros(1, 1, 3, 6), rotation(torch.arange(3), 4)),
            r"^rotation has shape \(3, 2\); .*\(…, 3, 3\)",
        ),
        (lambda: MultiHeadAttention(12, 4)(torch.zeros(2, 3, 12), mask=mask_of(2, 4)), r"^mask has shape \(2,.* 4\)"),
        (
            lambda: MultiHeadAttention(12, 4)(torch.zeros(2, 3, 12), mask=mask_of(3, 3)),
            r"^mask has shape \(3, 3\).*mask\[None\]",
        ),
        (lambda: MultiHeadAttention(12, 4)(torch.zeros(2, 3, 10)), r"^x has shape \(2, 3, 10\).*12"),
        (lambda: MultiHeadAttention(12, 4)(torch.zeros(3, 12)), r"^x has shape \(3, 12\)"),
        (
            lambda: MultiHeadAttention(12, 4)(torch.zeros(2, 3, 12), torch.zeros(2, 3, 8)),
            r"^context has shape \(2, 3, 8\)",
        ),
        (lambda: KVCache(0), "^max_length=0"),
        (lambda: filled(max_length=4).append(*tensors((2, 1, 2, 2), (2, 1, 2, 2))), "^k .*5 .*max_length=4"),
        (lambda: filled().append(*tensors((3, 1, 2, 2), (3, 1, 2, 2))), "^k is a batch of 3.*2"),
        (lambda: filled().crop(4), "^n=4 .*3"),
        (lambda: filled().crop(-1), "^n=-1"),
        (lambda: filled().expand(3), "^the cache holds a batch of 2; only a single row can be expanded"),
        (lambda: KVCache().expand(3), "^the cache holds a batch of 0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: Callable[[], Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        call()


def test_a_failed_append_leaves_the_cache_as_it_was() -> None:
    cache = filled(max_length=4)
    with pytest.raises(ValueError, match="max_length=4"):
        cache.append(*tensors((2, 1, 2, 2), (2, 1, 2, 2)))
    assert cache.length == 3
    cache.append(*tensors((2, 1, 1, 2), (2, 1, 1, 2)))
    assert cache.length == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # a mask of the wrong batch, or left over from an earlier step, must not broadcast the result
        (lambda: compute(*qkv(), mask_of(3, B, H, T, S), return_weights=True), "^mask"),
        (lambda: compute(*qkv(T=1), mask_of(S, S), return_weights=True), "^mask"),
        (lambda: scaled_dot_product_attention(*qkv(T=1), mask_of(S, S)), "^mask"),
        (lambda: attended(module(), normal(1, T, C), mask=mask_of(3, T), return_weights=True), "^mask"),
        (lambda: MultiHeadAttention(12, 4, d_key=0), "d_key=0"),
        (lambda: MultiHeadAttention(0, 1), "d_model=0"),
    ],
)
def test_also_where_torch_would_have_let_it_pass(call: Callable[[], Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        call()


def test_a_float_mask_of_a_layer_is_named() -> None:
    for mask in (torch.ones(B, T), torch.zeros(B, T, T)):
        with as_a_reader_sees_it(), pytest.raises(TypeError, match=r"mask is of type torch.float32; give bool"):
            MultiHeadAttention(C, H)(torch.zeros(B, T, C), mask=mask)


@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("mask", [torch.ones(T, S), torch.ones(T, S, dtype=torch.int64)])
def test_masks_are_boolean(mask: Tensor, return_weights: bool) -> None:
    with as_a_reader_sees_it(), pytest.raises(TypeError, match="mask"):
        compute(*qkv(), mask, return_weights=return_weights)


# --- Rows of ids as one tensor ----------------------------------------------------------------------------------------


@given(rows=st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=6), left=st.booleans())
def test_padded_rows_keep_their_ids_and_their_side(rows: list[list[int]], left: bool) -> None:
    ids, mask = pad(rows, -7, side="left" if left else "right")
    width = max(map(len, rows))
    for row, found, real in zip(rows, ids.tolist(), mask.tolist(), strict=True):
        filling = [-7] * (width - len(row))
        assert found == (filling + row if left else row + filling)
        nothing = [False] * (width - len(row))
        assert real == (nothing + [True] * len(row) if left else [True] * len(row) + nothing)


def test_padding_needs_a_row_and_gives_whole_numbers() -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="rows is empty"):
        pad([])
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="side='both': choose 'right' or 'left'"):
        pad([[1]], side="both")
    assert pad([[1]])[0].dtype == torch.int64
