"""Attention to some of the positions before: local, strided and fixed patterns (Child et al. 2019), computed exactly.

Dense attention computes T² scores for T positions. Here each position looks at about √T others, chosen so that two layers
still connect any position with any later one. A pattern is computed from a few tables of positions. A table has rows of
queries and rows of keys, and in each row the m-th query sees the first m keys: plain causal attention, many small ones at
once. A table is a way to look at the text, so nothing is copied into it. Where a query occurs in several tables their
results are joined by their log-sum-exps, as if it had been one softmax. No tensor of T × T numbers is made.

Used in: 2019_sparse_transformer, 2020_gpt3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from nextword.attention import MultiHeadAttention

__all__ = [
    "SparseAttention",
    "SparsePattern",
    "Table",
    "density",
    "fixed_mask",
    "local_mask",
    "reachable",
    "sparse_attention",
    "strided_mask",
]

Kind = Literal["dense", "local", "strided", "fixed"]
Heads = Literal["merged", "split"]
View = Callable[[Tensor], Tensor]
"""From (B, H, T, …) to rows (B, H, N, M, …) of the same numbers, without a copy."""
Attend = Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]
"""Causal attention in each row: from queries, keys, values, the factor of the scores and whether backwards, to outputs
(B, H, N, M, E) and their log-sum-exp (B, H, N, M)."""


class Table(NamedTuple):
    """Rows of queries beside rows of keys. The m-th query of a row sees the first m keys of that row.

    Example:
        >>> table = next(SparsePattern("fixed", stride=3).tables())
        >>> table.queries(torch.arange(6)[None, None])[0, 0].tolist()
        [[0, 1, 2], [3, 4, 5]]
    """

    queries: View
    keys: View
    backwards: bool = False
    """Whether it sees the m-th key and those after it instead."""


def local_mask(T: int, window: int) -> Bool[Tensor, "T T"]:
    """Return which positions each of T sees that looks back on ``window`` of them, itself included.

    Raises:
        ValueError: a length below 1.

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

    Raises:
        ValueError: a length below 1.

    Example:
        >>> strided_mask(6, 2)[5].int()
        tensor([0, 1, 0, 1, 1, 1], dtype=torch.int32)
    """
    return SparsePattern("strided", stride=stride).mask(T)


def fixed_mask(T: int, stride: int, summary: int = 1) -> Bool[Tensor, "T T"]:
    """Return a position's own block of ``stride``, and the last ``summary`` positions of each block before (section 4.3).

    Raises:
        ValueError: a length below 1, or ``summary`` above ``stride``.

    Example:
        >>> fixed_mask(6, 2)[5].int()
        tensor([0, 1, 0, 1, 1, 1], dtype=torch.int32)
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
    return int(mask.tril().sum()) / (T * (T + 1) / 2)


def reachable(*masks: Bool[Tensor, "T T"]) -> Bool[Tensor, "T T"]:
    """Return from where information gets to each position through layers with these masks, the lowest first.

    A layer adds to what it was given, so every position also reaches itself.

    Example:
        >>> block, summary = (SparsePattern("fixed", stride=2, heads="split").mask(4, head) for head in (0, 1))
        >>> reachable(block, summary).equal(torch.ones(4, 4).tril().bool())
        True
        >>> reachable(summary, block).equal(torch.ones(4, 4).tril().bool())
        False
    """
    if not masks:
        raise ValueError("masks is empty: give one a layer")
    steps = ((mask | torch.eye(len(mask), dtype=torch.bool, device=mask.device)).float() for mask in masks)
    return reduce(lambda below, layer: ((layer @ below) > 0).float(), steps) > 0


@dataclass(frozen=True)
class SparsePattern:
    """Which of the positions before it each position attends to.

    Example:
        >>> SparsePattern("strided", stride=32)
        SparsePattern(kind='strided', window=None, stride=32, summary=1, heads='merged')
        >>> SparsePattern("local")
        Traceback (most recent call last):
        ...
        ValueError: window=None: kind='local' needs a length of at least 1
    """

    kind: Kind
    window: int | None = None
    """``local``: positions that are seen, the position itself included."""
    stride: int | None = None
    """l of the paper, for ``strided`` and ``fixed``. Near √T the work is least."""
    summary: int = 1
    """c of the paper: positions at the end of each block that all later blocks see; ``fixed``."""
    heads: Heads = "merged"
    """``merged``: each head sees both parts of the pattern, in one softmax (equation 7). ``split``: even heads see the last
    positions or their block, odd heads the strided or summary part (equation 8); ``strided`` and ``fixed``."""

    def __post_init__(self) -> None:
        """Refuse lengths that make no pattern, and name the one that is wrong."""
        for name, kinds in {"kind": Kind, "heads": Heads}.items():
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name}={getattr(self, name)!r}: choose {', '.join(map(repr, get_args(kinds)))}")
        needed = {"local": "window", "strided": "stride", "fixed": "stride"}
        for name in ("window", "stride"):
            value = getattr(self, name)
            if needed.get(self.kind) == name and (value is None or value < 1):
                raise ValueError(f"{name}={value}: kind={self.kind!r} needs a length of at least 1")
            if needed.get(self.kind) != name and value is not None:
                raise ValueError(f"{name}={value} means nothing for kind={self.kind!r}")
        if self.kind == "fixed" and not 1 <= self.summary <= (self.stride or 1):
            raise ValueError(f"summary={self.summary} is outside 1 … stride={self.stride}")
        if self.heads == "split" and self.kind in ("dense", "local"):
            raise ValueError(f"heads='split': kind={self.kind!r} has one part only")

    def allows(self, i: Int64[Tensor, ...], j: Int64[Tensor, ...], head: int = 0) -> Bool[Tensor, ...]:
        """Return whether a query at position ``i`` may attend to ``j``, in a head; ``i`` and ``j`` broadcast."""
        past = j <= i
        if self.kind == "dense":
            return past
        if self.kind == "local":
            assert self.window is not None
            return past & (i - j < self.window)
        assert self.stride is not None
        if self.kind == "strided":
            near, far = i - j < self.stride, (i - j) % self.stride == 0
        else:
            near, far = i // self.stride == j // self.stride, j % self.stride >= self.stride - self.summary
        if self.heads == "merged":
            return past & (near | far)
        return past & (near, far)[head % 2]

    def mask(self, T: int, head: int = 0) -> Bool[Tensor, "T T"]:
        """Return the pattern of a head as a mask, True where a query may attend: to look at, and to check against.

        Raises:
            ValueError: T below 1.
        """
        if T < 1:
            raise ValueError(f"T={T} is below 1: a mask needs a position")
        places = torch.arange(T)
        return self.allows(places[:, None], places, head)

    def pairs(
        self, T: int, S: int, head: int = 0, mask: Bool[Tensor, "B S"] | None = None
    ) -> Bool[Tensor, "_ {T} {S}"]:
        """Return which of S keys each of the last T positions may attend to, by row of the batch or (1, T, S) for all.

        Args:
            mask: True at real tokens; filling is seen by nobody and takes no position.
        """
        real = torch.ones(1, S, dtype=torch.bool) if mask is None else mask
        places = real.cumsum(1) - 1
        return self.allows(places[:, -T:, None], places[:, None], head) & real[:, None]

    @property
    def block(self) -> int:
        """Return the length that tables are made of; a text is filled up to a multiple of it."""
        return self.window or self.stride or 1

    def scores(self, T: int) -> float:
        """Return how many scores a head computes for T positions, on average over even and odd heads.

        Example:
            >>> SparsePattern("strided", stride=64).scores(4096), SparsePattern("dense").scores(4096)
            (389152.0, 8390656.0)
        """
        if self.kind == "dense":
            return T * (T + 1) / 2
        places = torch.empty(1, 1, T + -T % self.block, device="meta")  # a shape without numbers
        rows = [table.queries(places).shape[2:] for head in (0, 1) for table in self.tables(head)]
        return sum(n * m * (m + 1) / 2 for n, m in rows) / 2

    def tables(self, head: int = 0) -> Iterator[Table]:
        """Yield tables that hold every pair of the pattern once, for texts whose length is a multiple of :attr:`block`."""
        both, length = self.heads == "merged", self.block
        if both or head % 2 == 0:
            yield _own_block(length)
            if self.kind != "fixed":
                yield _block_before(length)
        if self.kind == "strided" and (both or head % 2):
            yield _residues(length, itself=not both)  # the local part holds each position itself already
        if self.kind == "fixed" and (both or head % 2):
            yield from _summaries(length, self.summary, own=not both)


def _blocks(x: Tensor, length: int) -> Tensor:
    return x.view(*x.shape[:2], -1, length, *x.shape[3:])  # (B, H, T / length, length, …)


def _remainders(x: Tensor, length: int) -> Tensor:
    return _blocks(x, length).transpose(2, 3)  # (B, H, length, T / length, …)


def _own_block(length: int) -> Table:
    """Each position sees its own block, up to itself."""
    blocks = partial(_blocks, length=length)
    return Table(blocks, blocks)


def _block_before(length: int) -> Table:
    """Each position sees the end of the block before, as far as it is less than ``length`` away: all later than it is itself.

    The last position of a block sees none of it, and nobody sees its first.
    """
    return Table(
        lambda x: _blocks(x, length)[:, :, 1:, :-1], lambda x: _blocks(x, length)[:, :, :-1, 1:], backwards=True
    )


def _residues(stride: int, *, itself: bool) -> Table:
    """Each position sees those a multiple of ``stride`` before it: causal attention among equal remainders."""
    equal = partial(_remainders, length=stride)
    return Table(equal, equal) if itself else Table(lambda x: equal(x)[:, :, :, 1:], lambda x: equal(x)[:, :, :, :-1])


def _summaries(stride: int, summary: int, *, own: bool) -> Iterator[Table]:
    """Each position sees the last ``summary`` positions of every block before, and perhaps of its own."""
    for column in range(stride - summary, stride):
        yield Table(lambda x: _remainders(x, stride)[:, :, :, 1:], partial(_one_remainder, stride=stride, which=column))
    if own:
        last = partial(_block_ends, length=stride, summary=summary)
        yield Table(last, last)


def _block_ends(x: Tensor, length: int, summary: int) -> Tensor:
    return _blocks(x, length)[:, :, :, length - summary :]


def _one_remainder(x: Tensor, stride: int, which: int) -> Tensor:
    """Return one of the remainders in place of each, without the last block."""
    row = _remainders(x, stride)[:, :, which : which + 1, :-1]
    return row.expand(*row.shape[:2], stride, *row.shape[3:])


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
        """Return what each head finds among the positions that the pattern allows.

        Raises:
            ValueError: attention that is not causal, or a mask of another shape than (B, S).
        """
        if not causal or (mask is not None and mask.ndim != 2):
            raise ValueError("pattern: give causal=True, no context, and a mask of shape (B, S), if any")
        if self.captured is not None:  # as a mask, to see all weights
            seen = [self.pattern.pairs(q.shape[2], k.shape[2], head, mask) for head in range(self.n_heads)]
            return super().attend(q, k, v, torch.stack(seen, 1).to(q.device), causal)
        if self.n_kv_heads < self.n_heads:
            k, v = (x.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for x in (k, v))
        return sparse_attention(q, k, v, self.pattern, mask=mask, scale=self.scale)


def sparse_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S E"],
    pattern: SparsePattern,
    *,
    mask: Bool[Tensor, "B S"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H T E"]:
    """Return the attention of each query to those keys that the pattern allows, exactly.

    Args:
        q, k, v: queries, keys and values, already split into heads. Fewer queries than keys are the last ones, as with a
            cache.
        pattern: who sees whom. Where heads are split, even and odd heads have different parts.
        mask: True at real tokens. Filling is seen by nobody and takes no position: the pattern goes by real tokens.
        scale: factor of the scores; None for 1/√D.

    Returns:
        The same as masked dense attention. A query that sees no key gets 0.

    Raises:
        ValueError: shapes that do not fit.

    Source: Child et al. 2019, section 4.
    """
    _check(q, k, v, mask)
    if any(x.dtype in (torch.bfloat16, torch.float16) for x in (q, k, v)):  # sums of exponentials need more digits
        with torch.autocast(q.device.type, enabled=False):
            return sparse_attention(q.float(), k.float(), v.float(), pattern, mask=mask, scale=scale).to(v.dtype)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if pattern.heads == "split" and q.shape[1] > 1:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        parts = [slice(first, None, 2) for first in (0, 1)]
        halves = [
            _one_kind(q[:, part], k[:, part], v[:, part], pattern, head, mask, scale) for head, part in enumerate(parts)
        ]
        for part, half in zip(parts, halves, strict=True):
            out[:, part] = half
        return out
    return _one_kind(q, k, v, pattern, 0, mask, scale)


def _one_kind(
    q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern, head: int, mask: Tensor | None, scale: float
) -> Tensor:
    """Attend with heads that all have the pattern of ``head``."""
    T, S = q.shape[2], k.shape[2]
    if T < S or pattern.kind == "dense":
        return _last_queries(q, k, v, pattern, head, mask, scale)
    if mask is not None:  # bring the real tokens of each row to its beginning, and what they found back to their places
        order = torch.argsort(~mask, dim=1, stable=True)
        q, k, v = (_rows(x, order) for x in (q, k, v))
        return _rows(_one_kind(q, k, v, pattern, head, None, scale), torch.argsort(order, dim=1))
    filling = -T % pattern.block
    q, k, v = (F.pad(x, (0, 0, 0, filling)) if filling else x.contiguous() for x in (q, k, v))
    tables = [table for table in pattern.tables(head) if table.queries(q).numel()]
    joined: Tensor = _Fused.apply(q, k, v, tables, scale) if _has_fused(q) else _joined(q, k, v, tables, scale)[0]  # type: ignore[no-untyped-call]
    return joined[:, :, :T]


def _rows(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _last_queries(
    q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern, head: int, mask: Tensor | None, scale: float
) -> Tensor:
    """Attend with the last T of S positions, to those keys only that any of them may see."""
    T, S = q.shape[2], k.shape[2]
    if pattern.kind == "dense" and mask is None and T == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    allowed = pattern.pairs(T, S, head, mask).to(q.device)  # (B, T, S)
    seen = allowed.flatten(0, 1).any(0)
    allowed, k, v = allowed[:, None, :, seen], k[:, :, seen], v[:, :, seen]
    empty = ~allowed.any(-1, keepdim=True)
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed | empty, scale=scale)
    return found.masked_fill(empty, 0.0)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, backwards: bool) -> tuple[Tensor, Tensor]:
    hidden = _hidden(q, backwards)
    scores = (q @ k.mT * scale).masked_fill(hidden, -torch.inf)
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp() @ v, total


def _hidden(q: Tensor, backwards: bool) -> Tensor:
    """Return True at the keys (M, M) of a row that a query does not see."""
    M = q.shape[-2]
    every = torch.ones(M, M, dtype=torch.bool, device=q.device)
    return every.tril(-1) if backwards else every.triu(1)


def _joined(
    q: Tensor, k: Tensor, v: Tensor, tables: list[Table], scale: float, attend: Attend = _attend
) -> tuple[Tensor, Tensor]:
    """Attend table by table and join what they found, each weighted by its share of the softmax's denominator.

    By ``_attend`` it is all plain operations, so that autograd knows the rest.
    """
    out, total = q.new_zeros(*q.shape[:3], v.shape[-1]), q.new_full(q.shape[:3], -torch.inf)
    for queries, keys, backwards in tables:
        part, part_total = attend(queries(q), keys(k), keys(v), scale, backwards)
        before = queries(total)
        both = torch.logaddexp(before, part_total)
        old, new = (before - both).exp()[..., None], (part_total - both).exp()[..., None]
        found = queries(out) * old + part * new
        if found.requires_grad:  # autograd still needs the old ones
            out, total = out.clone(), total.clone()
        queries(out).copy_(found)
        queries(total).copy_(both)
    return out, total


_FUSED = "_scaled_dot_product_flash_attention_for_cpu"


def _row_settings(q: Tensor, scale: float, backwards: bool) -> dict[str, Any]:
    """Return the arguments that tell torch's fused attention which keys of a row are seen."""
    mask = q.new_zeros(q.shape[-2], q.shape[-2]).masked_fill_(_hidden(q, True), -torch.inf) if backwards else None
    return {"dropout_p": 0.0, "is_causal": not backwards, "attn_mask": mask, "scale": scale}


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, scale: float, backwards: bool) -> tuple[Tensor, Tensor]:
    rows = (x.flatten(0, 1) for x in (q, k, v))  # (B·H, N, M, D)
    out, total = getattr(torch.ops.aten, _FUSED)(*rows, **_row_settings(q, scale, backwards))
    return out.view(*q.shape[:2], *out.shape[1:]), total.view(*q.shape[:2], *total.shape[1:])


def _has_fused(q: Tensor) -> bool:
    return q.device.type == "cpu" and hasattr(torch.ops.aten, _FUSED) and hasattr(torch.ops.aten, f"{_FUSED}_backward")


class _Fused(torch.autograd.Function):
    """The same with torch's fused attention for CPUs, which does not keep the scores.

    Its backward pass computes a table's share of the softmax from the log-sum-exp that it is given. Given that of all
    tables together, and their joint output, it returns the gradients of the joint softmax.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tables: list[Table], scale: float) -> Tensor:
        out, total = _joined(q, k, v, tables, scale, _attend_fused)
        ctx.save_for_backward(q, k, v, out, total)
        ctx.tables, ctx.scale = tables, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, out, total = ctx.saved_tensors
        grad, grads = grad.contiguous(), [torch.zeros_like(x) for x in (q, k, v)]
        for queries, keys, backwards in ctx.tables:
            rows = (queries(grad), queries(q), keys(k), keys(v), queries(out), queries(total))
            settings = _row_settings(queries(q), ctx.scale, backwards)
            found = getattr(torch.ops.aten, f"{_FUSED}_backward")(*(x.flatten(0, 1) for x in rows), **settings)
            for whole, part, view in zip(grads, found, (queries, keys, keys), strict=True):
                _add(view(whole), part.view(*whole.shape[:2], *part.shape[1:]))
        return (*grads, None, None)


def _add(rows: Tensor, part: Tensor) -> None:
    """Add to rows of a table in place; where one row stands for all, their sum."""
    if rows.stride(2) == 0 and rows.shape[2] > 1:
        rows, part = rows[:, :, :1], part.sum(2, keepdim=True)
    rows.add_(part)


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
