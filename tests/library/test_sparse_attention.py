"""Sparse attention against masked dense attention, and the patterns against the paper's words."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it
from torch.utils._python_dispatch import TorchDispatchMode

from nextword import sparse_attention as module
from nextword.attention import capture_attention
from nextword.sparse_attention import (
    SparseAttention,
    SparsePattern,
    density,
    fixed_mask,
    local_mask,
    reachable,
    sparse_attention,
    strided_mask,
)

PATTERNS = [
    SparsePattern("dense"),
    SparsePattern("local", window=1),
    SparsePattern("local", window=5),
    SparsePattern("local", window=64),
    SparsePattern("strided", stride=1),
    SparsePattern("strided", stride=4),
    SparsePattern("strided", stride=7, heads="split"),
    SparsePattern("fixed", stride=1),
    SparsePattern("fixed", stride=5, summary=2),
    SparsePattern("fixed", stride=4, summary=3, heads="split"),
]
LENGTHS = [1, 3, 16, 35]


def ids(pattern):
    return f"{pattern.kind}-{pattern.block}-{pattern.heads}"


def masked_dense(q, k, v, pattern, mask=None):
    """Return attention as its definition has it; the places of real tokens are counted from each row's first."""
    (B, H, T, D), S = q.shape, k.shape[2]
    real = torch.ones(B, S, dtype=torch.bool) if mask is None else mask
    places = real.cumsum(1) - 1
    heads = [pattern.allows(places[:, -T:, None], places[:, None], head) for head in range(H)]
    allowed = torch.stack(heads, 1) & real[:, None, None]
    scores = (q @ k.mT / D**0.5).masked_fill(~allowed, -torch.inf)
    return torch.nan_to_num(scores.softmax(-1), 0.0) @ v


def inputs(T, S=None, H=3, D=4, dtype=torch.float64):
    return [torch.randn(2, H, n, D, dtype=dtype, requires_grad=True) for n in (T, S or T, S or T)]


# Patterns


@pytest.mark.parametrize(("T", "length", "summary"), [(16, 4, 1), (30, 7, 3), (5, 8, 2)])
def test_masks_are_the_sets_of_the_paper(T, length, summary):
    for i in range(T):
        near = {j for j in range(T) if i - length < j <= i}
        strided = {j for j in range(i + 1) if (i - j) % length == 0}
        block = {j for j in range(i + 1) if j // length == i // length}
        summaries = {j for j in range(i + 1) if j % length >= length - summary}
        for mask, expected in (
            (local_mask(T, length), near),
            (strided_mask(T, length), near | strided),
            (fixed_mask(T, length, summary), block | summaries),
        ):
            assert set(mask[i].nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("pattern", PATTERNS[1:], ids=ids)
@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7, 11])
def test_tables_hold_every_pair_of_the_mask_once(pattern, head, blocks):
    T = blocks * pattern.block
    seen = torch.zeros(T, T, dtype=torch.int)
    places = torch.arange(T)[None, None]
    for table in pattern.tables(T, head):
        queries, keys = table.queries(places)[0, 0], table.keys(places)[0, 0].flatten(1)
        for query_row, key_row in zip(queries.tolist(), keys.tolist(), strict=True):
            for m, i in enumerate(query_row):
                for j in {"first": key_row[: m + 1], "rest": key_row[m:], "all": key_row}[table.seen]:
                    seen[i, j] += 1
    assert torch.equal(seen, pattern.mask(T, head).int())


def test_two_layers_reach_every_earlier_position_in_the_right_order():
    T, everything = 60, torch.ones(60, 60).tril().bool()
    near, far = (SparsePattern("strided", stride=8, heads="split").mask(T, head) for head in (0, 1))
    assert reachable(near, far).equal(everything) and reachable(far, near).equal(everything)
    block, summary = (SparsePattern("fixed", stride=8, heads="split").mask(T, head) for head in (0, 1))
    assert reachable(block, summary).equal(everything)
    assert density(reachable(summary, block)) < 0.6
    assert reachable(fixed_mask(T, 8), fixed_mask(T, 8)).equal(everything)
    assert not reachable(near).equal(everything) and not reachable(far).equal(everything)


def test_density_counts_causal_pairs():
    assert density(torch.ones(5, 5).bool()) == 1.0  # what lies in the future does not count
    assert density(strided_mask(512, 32)) == pytest.approx(0.150, abs=5e-4)
    assert density(fixed_mask(512, 32, 8)) == pytest.approx(0.298, abs=5e-4)


# Attention


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def path(request, monkeypatch):
    monkeypatch.setattr(module, "_can_fuse", lambda q, v: request.param)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=ids)
def test_equals_masked_dense_attention_with_gradients(pattern, T):
    torch.manual_seed(T)
    qkv, weights = inputs(T), torch.randn(2, 3, T, 4, dtype=torch.float64)
    expected, found = masked_dense(*qkv, pattern), sparse_attention(*qkv, pattern)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), qkv),
        torch.autograd.grad((expected * weights).sum(), qkv),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("pattern", [PATTERNS[2], PATTERNS[5], PATTERNS[8], PATTERNS[9]], ids=ids)
def test_gradients_agree_with_finite_differences(pattern):
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(lambda *qkv: sparse_attention(*qkv, pattern), inputs(9, H=2, D=2))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_pattern_at_any_length(data):
    T, stride = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 45))
    kind, heads = data.draw(st.sampled_from(["strided", "fixed"])), data.draw(st.sampled_from(["merged", "split"]))
    summary = data.draw(st.integers(1, stride)) if kind == "fixed" else 1
    pattern = SparsePattern(kind, stride=stride, summary=summary, heads=heads)
    qkv = inputs(T)
    torch.testing.assert_close(sparse_attention(*qkv, pattern), masked_dense(*qkv, pattern), atol=1e-10, rtol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("pattern", PATTERNS, ids=ids)
def test_filling_is_seen_by_nobody_and_takes_no_position(pattern):
    torch.manual_seed(0)
    qkv = inputs(20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, :6] = mask[1, 17:] = False
    mask[1, 3] = False
    found = sparse_attention(*qkv, pattern, mask=mask)
    torch.testing.assert_close(found[:, :, 6:17], masked_dense(*qkv, pattern, mask)[:, :, 6:17], atol=1e-10, rtol=0)
    alone = sparse_attention(*(x[:1, :, 6:] for x in qkv), pattern)
    torch.testing.assert_close(found[:1, :, 6:], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("T", [3, 16])
@pytest.mark.parametrize("E", [2, 7])
@pytest.mark.parametrize("pattern", PATTERNS, ids=ids)
def test_values_may_be_wider_or_narrower_than_keys(pattern, E, T):
    torch.manual_seed(T)
    q, k, _ = inputs(T)
    v = torch.randn(2, 3, T, E, dtype=torch.float64, requires_grad=True)
    found, expected = (f(q, k, v, pattern) for f in (sparse_attention, masked_dense))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    for ours, theirs in zip(
        *(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    last = sparse_attention(q[:, :, -1:], k, v, pattern)
    torch.testing.assert_close(last, expected[:, :, -1:], atol=1e-10, rtol=0)


def test_a_layer_may_have_keys_of_another_width_than_values():
    layer = SparseAttention(12, 3, SparsePattern("strided", stride=3), d_key=5).double()
    x = torch.randn(2, 10, 12, dtype=torch.float64)
    with capture_attention([layer]):  # the way that computes all pairs
        expected = layer(x, causal=True)
    torch.testing.assert_close(layer(x, causal=True), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("pattern", PATTERNS, ids=ids)
def test_the_last_queries_alone_find_what_they_find_among_all(pattern, new):
    torch.manual_seed(0)
    q, k, v = inputs(23)
    whole = sparse_attention(q, k, v, pattern)
    torch.testing.assert_close(sparse_attention(q[:, :, -new:], k, v, pattern), whole[:, :, -new:], atol=1e-10, rtol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("pattern", PATTERNS, ids=ids)
def test_half_precision_in_and_out_single_within(pattern):
    q, k, v = inputs(20, dtype=torch.float32)
    low = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sparse_attention(low[0].float(), low[1], low[2], pattern)
    assert found.dtype == torch.bfloat16
    expected = sparse_attention(*(x.detach().float() for x in low), pattern)
    torch.testing.assert_close(found, expected.bfloat16())
    found.sum().backward()
    assert all(x.grad is not None and x.grad.dtype == torch.bfloat16 for x in low)


@pytest.mark.parametrize("pattern", PATTERNS[1:], ids=ids)
def test_a_later_token_changes_nothing_before(pattern):
    torch.manual_seed(0)
    q, k, v = inputs(30)
    first = sparse_attention(q, k, v, pattern)
    changed = [torch.cat([x[:, :, :20], torch.randn_like(x[:, :, 20:])], 2) for x in (q, k, v)]
    assert torch.equal(sparse_attention(*changed, pattern)[:, :, :20], first[:, :, :20])


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", ["strided", "fixed"])
def test_no_tensor_has_as_many_numbers_as_there_are_pairs(kind):
    T = 1024
    qkv = inputs(T, H=1, D=8, dtype=torch.float32)
    with Largest() as sizes:
        sparse_attention(*qkv, SparsePattern(kind, stride=32)).sum().backward()
    assert sizes.largest < T * T / 8


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "local"}, "window=None: kind='local' needs a whole number of at least 1"),
        ({"kind": "local", "window": 2.5}, "window=2.5: kind='local' needs a whole number"),
        ({"kind": "strided", "stride": "4"}, "stride='4': kind='strided' needs a whole number"),
        ({"kind": "fixed", "stride": 4, "summary": 1.5}, "summary=1.5 is outside 1 … stride=4"),
        ({"kind": "strided", "stride": 0}, "stride=0: kind='strided' needs"),
        ({"kind": "strided", "stride": 4, "window": 3}, "window=3 means nothing for kind='strided'"),
        ({"kind": "fixed", "stride": 4, "summary": 5}, "summary=5 is outside 1 … stride=4"),
        ({"kind": "banded", "stride": 4}, "kind='banded': choose 'dense', 'local', 'strided', 'fixed'"),
        ({"kind": "local", "window": 4, "heads": "split"}, "heads='split': kind='local' has one part only"),
        ({"kind": "fixed", "stride": 4, "heads": "both"}, "heads='both': choose 'merged', 'split'"),
    ],
)
def test_a_pattern_that_cannot_be_names_what_is_wrong(settings, message):
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        SparsePattern(**settings)


def test_bad_shapes_are_named():
    q, k, v = (torch.randn(2, 3, 8, 4) for _ in range(3))
    pattern = SparsePattern("local", window=2)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="k has shape"):
        sparse_attention(q, k[:, :1], v, pattern)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="v has shape"):
        sparse_attention(q, k, v[:, :, :5], pattern)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="q has 8 positions and k 5"):
        sparse_attention(q, k[:, :, :5], v[:, :, :5], pattern)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="mask is torch.float32"):
        sparse_attention(q, k, v, pattern, mask=torch.ones(2, 8))
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="T=0 is below 1"):
        local_mask(0, 2)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="masks is empty"):
        reachable()


@pytest.mark.parametrize(
    "mask", [torch.ones(3, 3), torch.ones(3, 4, dtype=torch.bool), torch.ones(3, dtype=torch.bool)]
)
def test_density_and_reach_are_of_square_masks(mask):
    message = rf"mask is {mask.dtype} of shape \({', '.join(map(str, mask.shape))},?\); give bool of shape \(T, T\)"
    for call in (density, reachable):
        with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
            call(mask)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=r"shape \(5, 5\); .*, here \(4, 4\)"):
        reachable(local_mask(4, 1), local_mask(5, 1))


def test_a_sparse_layer_says_what_it_cannot_do():
    layer, x = SparseAttention(12, 3, SparsePattern("local", window=2)), torch.randn(2, 5, 12)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="causal=False: a sparse pattern looks back only"):
        layer(x)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=r"mask has shape \(2, 5, 5\); a sparse pattern takes"):
        layer(x, causal=True, mask=torch.ones(2, 5, 5, dtype=torch.bool))
