"""Attention to some of the positions before: local, strided and fixed patterns (Child et al. 2019), computed exactly.

Dense attention computes T² scores for T positions. Here each position looks at about √T others, or twice as many, and with
the strided and fixed patterns two layers still connect any position with any later one. :meth:`SparsePattern.allows` says
who sees whom, as the paper writes it; :meth:`SparsePattern.tables` finds plain causal attention in it, many small ones at
once; :func:`attend_tables` joins what they find as if there had been one softmax. No tensor of T × T numbers is made.

Used in: 2019_sparse_transformer, 2020_gpt3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from nextword.attention import MultiHeadAttention

Kind = Literal["dense", "local", "strided", "fixed"]
Heads = Literal["merged", "split"]
Seen = Literal["first", "rest", "all"]
View = Callable[[Tensor], Tensor]  # from a text (B, H, T, …) to rows (B, H, N, M, …) of the same numbers, not copied


def local_mask(T: int, window: int) -> Bool[Tensor, "T T"]:
    """Return which positions each of T sees that looks back on ``window`` of them, itself included.

    Example:
        >>> local_mask(4, 2).int()
        tensor([[1, 0, 0, 0],
                [1, 1, 0, 0],
                [0, 1, 1, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    return SparsePattern("local", window=window).mask(T)


def strided_mask(T: int, stride: int) -> Bool[Tensor, "T T"]:
    """Return the last ``stride`` positions, and every ``stride``-th before (Child et al. 2019, section 4.3).

    Example:
        >>> strided_mask(6, 2)[5].int()
        tensor([0, 1, 0, 1, 1, 1], dtype=torch.int32)
    """
    return SparsePattern("strided", stride=stride).mask(T)


def fixed_mask(T: int, stride: int, summary: int = 1) -> Bool[Tensor, "T T"]:
    """Return a position's own block of ``stride``, and the last ``summary`` positions of each block before (section 4.3).

    Example:
        >>> fixed_mask(6, 2)[4].int()
        tensor([0, 1, 0, 1, 1, 0], dtype=torch.int32)
    """
    return SparsePattern("fixed", stride=stride, summary=summary).mask(T)


def density(mask: Bool[Tensor, "T T"]) -> float:
    """Return the share of the T(T + 1)/2 causal pairs that a mask allows.

    Example:
        >>> density(local_mask(4, 1))
        0.4
    """
    T = len(mask)
    _check_square(mask, T)
    return int(mask.tril().sum()) / (T * (T + 1) / 2)  # what lies in the future does not count


def reachable(*masks: Bool[Tensor, "T T"]) -> Bool[Tensor, "T T"]:
    """Return from where information gets to each position through layers with these masks, the lowest first.

    Example:
        >>> block, summary = (SparsePattern("fixed", stride=2, heads="split").mask(4, head) for head in (0, 1))
        >>> reachable(block, summary).equal(torch.ones(4, 4).tril().bool())
        True
        >>> reachable(summary, block).equal(torch.ones(4, 4).tril().bool())
        False
    """
    if not masks:
        raise ValueError("masks is empty: give one a layer")
    for mask in masks:
        _check_square(mask, len(masks[0]))
    # A layer adds what it finds to what it was given, so that every position also reaches itself.
    steps = ((mask | torch.eye(len(mask), dtype=torch.bool, device=mask.device)).float() for mask in masks)
    # i reaches j where some position between them sees j in the lower layers and is seen by i: a product of matrices.
    return reduce(lambda below, layer: ((layer @ below) > 0).float(), steps) > 0


class Table(NamedTuple):
    """Rows of queries beside rows of keys: each query sees the same part of the keys in its row, whichever row it is.

    Example:
        >>> table = next(SparsePattern("fixed", stride=3).tables(6))
        >>> table.queries(torch.arange(6)[None, None])[0, 0].tolist()
        [[0, 1, 2], [3, 4, 5]]
    """

    queries: View  #: Cuts what belongs to the queries, (B, H, T, D), into rows (B, H, N, M, D).
    keys: View  #: Cuts keys and values into the rows beside them (B, H, N, …, D).
    #: The m-th query sees the ``first`` m keys, or the m-th and the ``rest`` after it, or ``all``.
    seen: Seen = "first"


@dataclass(frozen=True)
class SparsePattern:
    """Which of the positions before it each position attends to.

    Example:
        >>> SparsePattern("strided", stride=32)
        SparsePattern(kind='strided', window=None, stride=32, summary=1, heads='merged')
        >>> SparsePattern("local")
        Traceback (most recent call last):
        ...
        ValueError: window=None: kind='local' needs a whole number of at least 1
    """

    kind: Kind  #: ``local``: the last positions. ``strided`` and ``fixed``: the two patterns of the paper.
    _: KW_ONLY
    window: int | None = None  #: ``local``: positions that are seen, the position itself included.
    stride: int | None = None  #: l of the paper, for ``strided`` and ``fixed``. Near √T the work is least.
    summary: int = 1  #: c of the paper: positions at the end of each block that all later blocks see; ``fixed``.
    #: ``merged``: each head sees both parts of the pattern, in one softmax (equation 7). ``split``: even heads see the
    #: last positions or their block, odd heads the strided or summary part (equation 8); ``strided`` and ``fixed``.
    heads: Heads = "merged"

    def __post_init__(self) -> None:
        """Refuse lengths that make no pattern, and name the one that is wrong."""
        for name, choices in {"kind": get_args(Kind), "heads": get_args(Heads)}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose {', '.join(map(repr, choices))}")
        needed = {"local": "window", "strided": "stride", "fixed": "stride"}.get(self.kind)
        for name in ("window", "stride"):
            length = getattr(self, name)
            if name == needed and (not isinstance(length, int) or length < 1):
                raise ValueError(f"{name}={length!r}: kind={self.kind!r} needs a whole number of at least 1")
            if name != needed and length is not None:
                raise ValueError(f"{name}={length!r} means nothing for kind={self.kind!r}")
        if self.kind == "fixed" and self.summary not in range(1, self.block + 1):
            raise ValueError(f"summary={self.summary!r} is outside 1 … stride={self.stride}")
        if self.heads == "split" and self.kind in ("dense", "local"):
            raise ValueError(f"heads='split': kind={self.kind!r} has one part only")

    @property
    def block(self) -> int:
        """Return the pattern's length, the window or l; tables take a text whose length is a multiple of it."""
        return self.window or self.stride or 1

    def allows(self, i: Int64[Tensor, "..."], j: Int64[Tensor, "..."], head: int = 0) -> Bool[Tensor, "..."]:
        """Return whether a query at position ``i`` may attend to ``j``, in a head; ``i`` and ``j`` broadcast.

        Source: Child et al. 2019, section 4.3.
        """
        past, length = j <= i, self.block
        if self.kind == "dense":
            return past
        if self.kind == "local":
            return past & (i - j < length)
        if self.kind == "strided":
            first = i - j < length  # A⁽¹⁾: the last l positions
            second = (i - j) % length == 0  # A⁽²⁾: every l-th before
        else:
            first = i // length == j // length  # A⁽¹⁾: the own block of l
            second = j % length >= length - self.summary  # A⁽²⁾: the last c of every block, its summaries
        if self.heads == "merged":
            return past & (first | second)
        return past & (second if head % 2 else first)

    def tables(self, T: int, head: int = 0) -> Iterator[Table]:
        """Yield tables that hold every pair of the pattern once, for T positions; T is a multiple of :attr:`block`."""
        length, merged = self.block, self.heads == "merged"

        def blocks(x: Tensor) -> Tensor:  # 0 1 2 | 3 4 5 | …
            return rearrange(x, "B H (block place) ... -> B H block place ...", place=length)

        def columns(x: Tensor) -> Tensor:  # 0 3 … | 1 4 … | 2 5 …: what stands at one place of every block
            return rearrange(x, "B H (block place) ... -> B H place block ...", place=length)

        def ends(x: Tensor) -> Tensor:  # 2 | 5 | …: the summaries of every block
            return blocks(x)[:, :, :, length - self.summary :]

        if merged or head % 2 == 0:
            yield Table(blocks, blocks)  # each position sees its own block, up to itself
            if self.kind != "fixed":
                # Of the block before, place m sees m + 1 and what follows: all that is less than l away. The last place
                # sees none of it, and the first is seen by none.
                yield Table(lambda x: blocks(x)[:, :, 1:, :-1], lambda x: blocks(x)[:, :, :-1, 1:], "rest")
        if self.kind == "strided" and merged:
            # (i - j) mod l = 0 is causal attention within a column. The first table holds each position itself, and no
            # pair may count twice: here the keys begin one block, a distance of l, before.
            yield Table(lambda x: columns(x)[:, :, :, 1:], lambda x: columns(x)[:, :, :, :-1])
        elif self.kind == "strided" and head % 2:
            yield Table(columns, columns)
        elif self.kind == "fixed" and (merged or head % 2):
            if not merged:  # no other table of this head holds the summaries of a position's own block
                yield Table(ends, ends)
            yield from _halves(blocks, ends, T // length)

    def mask(self, T: int, head: int = 0) -> Bool[Tensor, "T T"]:
        """Return the pattern of a head as a mask, True where a query may attend: to look at, and to check against."""
        if T < 1:
            raise ValueError(f"T={T} is below 1: a mask needs a position")
        positions = torch.arange(T)
        return self.allows(positions[:, None], positions, head)  # rows look, columns are looked at

    def pairs(
        self, T: int, S: int, head: int = 0, mask: Bool[Tensor, "B S"] | None = None
    ) -> Bool[Tensor, "_ {T} {S}"]:
        """Return which of S keys each of the last T positions may attend to, by row of the batch or (1, T, S) for all.

        Args:
            mask: True at real tokens; padding is seen by nobody and takes no position.
        """
        real = torch.ones(1, S, dtype=torch.bool) if mask is None else mask
        positions = real.cumsum(1) - 1  # (B, S), counted over real tokens
        return self.allows(positions[:, -T:, None], positions[:, None], head) & real[:, None]

    def scores(self, T: int) -> float:
        """Return how many scores a head computes for T positions, on average over even and odd heads.

        Example:
            >>> SparsePattern("strided", stride=64).scores(4096), SparsePattern("dense").scores(4096)
            (389152.0, 8390656.0)
        """
        if self.kind == "dense":
            return T * (T + 1) / 2
        text = torch.empty(1, 1, T + -T % self.block, device="meta")  # a shape without numbers
        total = 0.0
        for queries, keys, seen in (table for head in (0, 1) for table in self.tables(text.shape[2], head)):
            rows, M = queries(text).shape[2:]
            # On average a query sees all K keys of its row, or half of M keys: the m-th query sees m, or M + 1 - m.
            total += rows * M * (keys(text)[0, 0, 0].numel() if seen == "all" else (M + 1) / 2)
        return total / 2  # two heads


def _halves(blocks: View, ends: View, n_blocks: int) -> Iterator[Table]:
    """Yield tables in which each of so many blocks sees the summaries of all blocks before it.

    Of two blocks side by side the second sees the first. Of two such pairs the second pair sees the first, and so on with
    stretches of twice as many blocks: the second half of a stretch sees the summaries of its first half.
    """
    half = 1
    while half < n_blocks:
        whole = n_blocks - n_blocks % (2 * half)
        for first, last in ((0, whole), (whole, n_blocks)):  # all full stretches at once, then a shorter one
            if last - first > half:
                yield _halve(blocks, ends, slice(first, last), half)
        half *= 2


def _halve(blocks: View, ends: View, some: slice, half: int) -> Table:
    """Return the table in which, of stretches of ``2 * half`` blocks, the second half sees the summaries of the first."""
    n_stretches = max(1, (some.stop - some.start) // (2 * half))

    def stretches(x: Tensor) -> Tensor:  # (B, H, block, place, …) -> (B, H, stretch, block, place, …)
        return rearrange(x[:, :, some], "B H (n block) ... -> B H n block ...", n=n_stretches)

    return Table(
        lambda x: stretches(blocks(x))[:, :, :, half:].flatten(3, 4),
        lambda x: stretches(ends(x))[:, :, :, :half],  # not flattened: that would copy, and gradients are added to it
        "all",
    )


class SparseAttention(MultiHeadAttention):
    """Attention in which each position sees only those before it that a pattern allows (Child et al. 2019, section 4.2).

    Args:
        d_model, n_heads, settings: as for :class:`~nextword.attention.MultiHeadAttention`.
        pattern: which earlier positions each position sees.
    """

    def __init__(self, d_model: int, n_heads: int, pattern: SparsePattern, **settings: Any) -> None:
        super().__init__(d_model, n_heads, **settings)
        self.pattern = pattern

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Float[Tensor, "B H T E"]:
        """Return what each head finds among the positions that the pattern allows."""
        if not causal:
            raise ValueError("causal=False: a sparse pattern looks back only; give causal=True and no context")
        if mask is not None and mask.ndim != 2:
            raise ValueError(f"mask has shape {tuple(mask.shape)}; a sparse pattern takes (B, S), True at real tokens")
        if self.captured is not None:  # dense attention under a mask, for only there the weights (T, S) exist
            allowed = [self.pattern.pairs(q.shape[2], k.shape[2], head, mask) for head in range(self.n_heads)]
            return super().attend(q, k, v, torch.stack(allowed, 1).to(q.device), causal)
        if self.n_kv_heads < self.n_heads:  # heads that share keys: give each its copy
            k, v = (x.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for x in (k, v))
        return sparse_attention(q, k, v, self.pattern, mask=mask, scale=self.scale)


# --- Computing what is seen, and nothing else --------------------------------------------------------------------------


def sparse_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S E"],
    pattern: SparsePattern,
    *,
    mask: Bool[Tensor, "B S"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H T E"]:
    """Return the attention of each query to those keys that the pattern allows, the same as masked dense attention.

    Args:
        q, k, v: queries, keys and values, already split into heads. Fewer queries than keys are the last ones, as with a
            cache.
        pattern: who sees whom. Where heads are split, even and odd heads have different parts.
        mask: True at real tokens. Filling is seen by nobody and takes no position: the pattern goes by real tokens.
        scale: factor of the scores; None for 1/√D.

    Returns:
        What each query found. A query that sees no key gets 0.

    Source: Child et al. 2019, section 4.
    """
    _check(q, k, v, mask)
    if any(x.dtype in (torch.bfloat16, torch.float16) for x in (q, k, v)):  # sums of exponentials need more digits
        with torch.autocast(q.device.type, enabled=False):
            return sparse_attention(q.float(), k.float(), v.float(), pattern, mask=mask, scale=scale).to(v.dtype)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if pattern.heads == "merged" or q.shape[1] == 1:
        return _attend_alike(q, k, v, pattern, 0, mask, scale)
    out = q.new_empty(*q.shape[:-1], v.shape[-1])  # (B, H, T, E)
    for head in (0, 1):  # heads 0, 2, 4 … have one part of the pattern, heads 1, 3, 5 … the other
        alike = slice(head, None, 2)
        out[:, alike] = _attend_alike(q[:, alike], k[:, alike], v[:, alike], pattern, head, mask, scale)
    return out


def attend_tables(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T E"],
    tables: Iterable[Table],
    scale: float,
    attend: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T"]]:
    """Attend table by table, and join the results as if there had been one softmax; return them and its log-sum-exp L.

    Table p gives the output o_p and the logarithm L_p of its softmax's denominator. All together give
    L = log Σ_p exp(L_p) and o = Σ_p exp(L_p - L) o_p, exactly.

    Args:
        q, k, v: of a text whose length is a multiple of the pattern's block.
        tables: from :meth:`SparsePattern.tables`.
        scale: factor of the scores.
        attend: attention in each row, from queries, keys, values, scale and ``seen`` to (o_p, L_p); None for plain
            operations, which autograd can follow.
    """
    attend = _attend_rows if attend is None else attend
    out = q.new_zeros(*q.shape[:3], v.shape[-1])  # o of the tables so far
    total = q.new_full(q.shape[:3], -torch.inf)  # and their L
    for number, (queries, keys, seen) in enumerate(tables):
        rows = queries(q), keys(k).flatten(3, -2), keys(v).flatten(3, -2)  # (B, H, N, M, D), (B, H, N, K, D) and (…, E)
        joined, joint = attend(*rows, scale, seen)  # o_p (B, H, N, M, E) and L_p (B, H, N, M)
        if number:  # the first table has nothing to join
            table_total, before = joint, queries(total)
            joint = torch.logaddexp(before, table_total)
            # Of the joint softmax, the tables so far have the share exp(before - joint), and this one has the rest.
            old, new = (before - joint).exp()[..., None], (table_total - joint).exp()[..., None]
            joined = queries(out) * old + joined * new
        if joined.requires_grad:  # autograd still needs the numbers that are overwritten below
            out, total = out.clone(), total.clone()
        queries(out).copy_(joined)  # a view of the text: this writes to the rows' own places
        queries(total).copy_(joint)
    return out, total


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Seen) -> tuple[Tensor, Tensor]:
    """Return attention in each row to what is seen there, and the log-sum-exp of its scores."""
    scores = (q @ k.mT * scale).masked_fill(_hidden(q, k, seen), -torch.inf)  # (B, H, N, M, K)
    total = scores.logsumexp(-1)  # log of the softmax's denominator
    return (scores - total[..., None]).exp() @ v, total  # exp(score - L) is the softmax


def _hidden(q: Tensor, k: Tensor, seen: Seen) -> Tensor:
    """Return True at the keys of a row that a query does not see (M, K)."""
    every = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
    # The m-th query sees keys 1 … m, or m … M: the diagonal is seen either way.
    return {"first": every.triu(1), "rest": every.tril(-1), "all": ~every}[seen]


def _attend_alike(
    q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern, head: int, mask: Tensor | None, scale: float
) -> Tensor:
    """Attend with heads that all have the pattern of ``head``."""
    T, S = q.shape[2], k.shape[2]
    if T < S or pattern.kind == "dense":  # cached writing: a few queries need no tables
        return _attend_last(q, k, v, pattern, head, mask, scale)
    if mask is not None:
        # The pattern goes by real tokens: bring those of each row to its beginning, and what they found back again.
        order = torch.argsort(~mask, dim=1, stable=True)
        q, k, v = (_reorder(x, order) for x in (q, k, v))
        return _reorder(_attend_alike(q, k, v, pattern, head, None, scale), torch.argsort(order, dim=1))
    # Fill the text up to whole blocks. The padding stands behind it, where no real token looks.
    missing = -T % pattern.block
    q, k, v = (F.pad(x, (0, 0, 0, missing)) if missing else x.contiguous() for x in (q, k, v))
    tables = [t for t in pattern.tables(q.shape[2], head) if t.queries(q).numel()]  # one block has none before it
    if _can_fuse(q, v):
        out: Tensor = _FusedTables.apply(q, k, v, tables, scale)  # type: ignore[no-untyped-call]
    else:
        out, _ = attend_tables(q, k, v, tables, scale)
    return out[:, :, :T]


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    """Return the positions of each row of the batch in another order (B, T)."""
    return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _attend_last(
    q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern, head: int, mask: Tensor | None, scale: float
) -> Tensor:
    """Attend with the last T of S positions, to those keys only that any of them may see."""
    T, S = q.shape[2], k.shape[2]
    if pattern.kind == "dense" and mask is None and T == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    allowed = pattern.pairs(T, S, head, mask)  # (B, T, S); without a mask on the CPU, so that no GPU is waited for
    seen = allowed.flatten(0, 1).any(0).nonzero()[:, 0]  # of the keys, the few that some query may see
    allowed, seen = allowed[:, None, :, seen].to(q.device), seen.to(q.device)
    k, v = k[:, :, seen], v[:, :, seen]
    # Not every kernel of every version of torch gives 0 for a query without a key: let it see everything, then clear it.
    empty = ~allowed.any(-1, keepdim=True)  # (B, 1, T, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed | empty, scale=scale).masked_fill(empty, 0.0)


# --- The same on a CPU, by torch's fused attention ---------------------------------------------------------------------

_FUSED = "_scaled_dot_product_flash_attention_for_cpu"


def _can_fuse(q: Tensor, v: Tensor) -> bool:
    """Return whether torch's fused attention for CPUs is there and fits: its values are as wide as its keys."""
    known = hasattr(torch.ops.aten, _FUSED) and hasattr(torch.ops.aten, f"{_FUSED}_backward")
    return known and q.device.type == "cpu" and q.shape[-1] == v.shape[-1]


def _fused_settings(q: Tensor, scale: float, seen: Seen) -> dict[str, Any]:
    """Return the arguments that say which keys of a row are seen."""
    # The kernel knows the causal order itself; the other triangle takes a mask that is added to the scores.
    mask = (
        q.new_zeros(q.shape[-2], q.shape[-2]).masked_fill_(_hidden(q, q, seen), -torch.inf) if seen == "rest" else None
    )
    return {"dropout_p": 0.0, "is_causal": seen == "first", "attn_mask": mask, "scale": scale}


def _attend_rows_fused(q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Seen) -> tuple[Tensor, Tensor]:
    # The kernel knows four dimensions, and the rows of a table take the place of heads:
    rows = (x.flatten(0, 1) for x in (q, k, v))  # rearrange(x, "B H N M D -> (B H) N M D")
    out, total = getattr(torch.ops.aten, _FUSED)(*rows, **_fused_settings(q, scale, seen))
    return out.view(*q.shape[:2], *out.shape[1:]), total.view(*q.shape[:2], *total.shape[1:])


_CACHED = 2**19  # numbers of four bytes: as many stay in a core's cache while one table after the other reads them


def _few_heads(*every: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few heads of tensors (B, H, T, …), as (1, few, T, …): what has left the cache is slow to read."""
    few = max(1, _CACHED // every[0][0, 0].numel())
    return zip(*(torch.split(x.flatten(0, 1)[None], few, 1) for x in every), strict=True)


class _FusedTables(torch.autograd.Function):
    """:func:`attend_tables` by the fused kernel, which does not keep the scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tables: list[Table], scale: float) -> Tensor:
        out, total = torch.empty_like(v), q.new_empty(q.shape[:3])  # o and L, joint
        for some_q, some_k, some_v, *into in _few_heads(q, k, v, out, total):
            found = attend_tables(some_q, some_k, some_v, tables, scale, _attend_rows_fused)
            for whole, part in zip(into, found, strict=True):
                whole.copy_(part)
        ctx.save_for_backward(q, k, v, out, total)
        ctx.tables, ctx.scale = tables, scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        gradients = [torch.zeros_like(x) for x in ctx.saved_tensors[:3]]
        for q, k, v, out, total, d_o, *into in _few_heads(*ctx.saved_tensors, d_out, *gradients):
            d_o = d_o.contiguous()
            for queries, keys, seen in ctx.tables:
                # The kernel computes each weight again, as exp(score - L). Given the L of all tables together, and their
                # joint output, these are the weights of the joint softmax, and it returns this table's share of the
                # gradient.
                asked, found = (queries(d_o), queries(q)), (queries(out), queries(total))
                rows = (*asked, keys(k).flatten(3, -2), keys(v).flatten(3, -2), *found)
                settings = _fused_settings(queries(q), ctx.scale, seen)
                parts = getattr(torch.ops.aten, f"{_FUSED}_backward")(*(x.flatten(0, 1) for x in rows), **settings)
                for gradient, part, view in zip(into, parts, (queries, keys, keys), strict=True):
                    place = view(gradient)
                    place.add_(part.view_as(place))  # a view of the gradient: tables that share a position add up
        return (*gradients, None, None)


# --- Checks ------------------------------------------------------------------------------------------------------------


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    if q.ndim != 4 or k.ndim != 4 or k.shape[:2] != q.shape[:2] or k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k has shape {tuple(k.shape)}; (B, H, S, D) with q's B, H and D {tuple(q.shape)} fits")
    if v.ndim != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v has shape {tuple(v.shape)}; (B, H, S, E) with k's B, H and S {tuple(k.shape)} fits")
    if q.shape[2] > k.shape[2]:
        raise ValueError(f"q has {q.shape[2]} positions and k {k.shape[2]}: every query needs its own key")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (len(k), k.shape[2])):
        fits = f"bool of shape {(len(k), k.shape[2])}, True at real tokens"
        raise ValueError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}; give {fits}")


def _check_square(mask: Tensor, T: int) -> None:
    if mask.dtype != torch.bool or mask.shape != (T, T):
        raise ValueError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}; give bool of shape (T, T), here {(T, T)}")
