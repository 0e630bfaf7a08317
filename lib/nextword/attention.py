"""Attention: every position looks at every other, and takes a weighted mean of what it finds.

The whole of it is one equation, softmax(QKᵀ/√d)V (Vaswani et al. 2017, equation 1). The rest of this module splits it
into heads, says who may look at whom (masks), and remembers keys and values while a text is written word by word.

Masks are boolean and True means "may attend". A query that may attend to nothing gets 0.

Used in: 2017_transformer, and every model after it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.sparse_attention import SparsePattern, sparse_attention

Rotary = Callable[[Tensor, int | Tensor], Tensor]
"""Turns queries or keys (B, H, T, D) by their positions: those from a first one on, or (B, T)."""


def scaled_dot_product_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    mask: Bool[Tensor, ...] | None = None,
    *,
    causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    return_weights: bool = False,
) -> Float[Tensor, "B H T E"] | tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T S"]]:
    """Return softmax(QKᵀ·scale)V (Vaswani et al. 2017, equation 1).

    Args:
        q, k, v: queries, keys and values, already split into heads. Where there are fewer heads G of keys than H of
            queries, H/G neighbouring heads of queries share one (Ainslie et al. 2023).
        mask: True where a query may attend; any shape that broadcasts to (B, H, T, S).
        causal: the query at position t sees keys up to its own. With fewer queries than keys they are the last ones.
        dropout_p: share of the weights set to 0, the rest scaled up. 0 in evaluation.
        scale: factor of QKᵀ; None for 1/√D, which keeps the variance of the scores at 1 (footnote 4 of the paper).
        return_weights: return the weights too, and take the readable path. The fused path gives the same output.

    Raises:
        ValueError: shapes that do not fit, or ``dropout_p`` outside 0 … 1.

    Example:
        >>> q = k = v = torch.eye(2).view(1, 1, 2, 2)
        >>> scaled_dot_product_attention(q, k, v, causal=True)[0, 0, 0]
        tensor([1., 0.])
    """
    _check_shapes(q, k, v, dropout_p)
    if k.shape[1] < q.shape[1]:
        settings = {"causal": causal, "dropout_p": dropout_p, "scale": scale}
        return _grouped(q, k, v, mask, return_weights=return_weights, **settings)  # type: ignore[arg-type]
    T, S = q.shape[-2], k.shape[-2]
    if not return_weights and causal and mask is None and T == S:
        return _fused(q, k, v, is_causal=True, dropout_p=dropout_p, scale=scale)
    mask = _intersection(mask, causal_mask(T, S, device=q.device) if causal else None, (*q.shape[:3], S))
    if not return_weights and mask is None:
        return _fused(q, k, v, dropout_p=dropout_p, scale=scale)
    empty = None if mask is None else ~mask.any(-1, keepdim=True)  # (…, T, 1): queries that may attend to nothing
    if not return_weights and mask is not None and empty is not None:
        # an empty row would be 0/0: let it see everything, then throw away what it saw
        heads = _fused(q, k, v, attn_mask=mask | empty, dropout_p=dropout_p, scale=scale)
        return heads.masked_fill(empty, 0.0)

    scores = q @ k.mT * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    if empty is not None:
        weights = weights.masked_fill(empty, 0.0)
    return F.dropout(weights, dropout_p) @ v, weights


def causal_mask(T: int, S: int | None = None, *, device: torch.device | str | None = None) -> Bool[Tensor, "T S"]:
    """Return which of S keys each of the last T positions may see: those up to its own.

    The triangle is aligned to the lower right, so that it is right with a cache, where S - T keys came before.

    Raises:
        ValueError: a length below 1.

    Example:
        >>> causal_mask(2, 3).int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    S = T if S is None else S
    for name, value in {"T": T, "S": S}.items():
        if value < 1:
            raise ValueError(f"{name}={value} is below 1: a mask needs a query and a key")
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def padding_mask(lengths: Int64[Tensor, " B"], T: int) -> Bool[Tensor, "B T"]:
    """Return True for the first ``lengths[b]`` of T positions: real tokens stand before the padding.

    Raises:
        ValueError: a length outside 0 … T.

    Example:
        >>> padding_mask(torch.tensor([1, 3]), 3).int()
        tensor([[1, 0, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= T:
        raise ValueError(f"lengths run from {int(lengths.min())} to {int(lengths.max())}; they must lie in 0 … T={T}")
    return torch.arange(T, device=lengths.device) < lengths[:, None]


def padded(
    rows: Sequence[Sequence[int]], fill: int = 0, *, left: bool = False, device: torch.device | str | None = None
) -> tuple[Int64[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return rows of ids as one tensor, shorter ones filled up, and a mask that is True at their own ids.

    Args:
        rows: B texts; the longest has T ids.
        fill: the id to fill up with.
        left: fill up before the text, as writing needs it, and not behind it.
        device: where both go; None for torch's default.

    Raises:
        ValueError: there is no row.

    Used in: 2017_transformer, 2020_gpt3, 2022_instructgpt.

    Example:
        >>> ids, mask = padded([[5, 6, 7], [8]], left=True)
        >>> ids
        tensor([[5, 6, 7],
                [0, 0, 8]])
        >>> mask.int()
        tensor([[1, 1, 1],
                [0, 0, 1]], dtype=torch.int32)
    """
    if not rows:
        raise ValueError("rows is empty; a batch needs a row")
    lengths = torch.tensor([len(row) for row in rows])
    mask = padding_mask(lengths, int(lengths.max()))
    mask = mask.flip(1) if left else mask
    ids = torch.full(mask.shape, fill)
    ids[mask] = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
    return ids.to(device), mask.to(device)


class KVCache:
    """The keys and values that one attention layer has seen, so that each step computes only its own.

    It is for writing, not for training: the store is filled in place, and no gradient passes it.

    Args:
        max_length: positions to reserve at once. Without it the store doubles whenever it is full.
    """

    def __init__(self, max_length: int | None = None) -> None:
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length} is below 1")
        self.length = 0
        self.max_length = max_length
        self._keys = self._values = torch.empty(0, 0, 0, 0)
        self._shared = False  # with another cache, until something is appended

    @property
    def keys(self) -> Float[Tensor, "B H S D"]:
        """Return the keys seen so far."""
        return self._keys[..., : self.length, :]

    @property
    def values(self) -> Float[Tensor, "B H S E"]:
        """Return the values seen so far."""
        return self._values[..., : self.length, :]

    def append(
        self, k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T E"]
    ) -> tuple[Float[Tensor, "B H S D"], Float[Tensor, "B H S E"]]:
        """Add the newest keys and values; return all of them.

        Raises:
            ValueError: more than ``max_length`` positions, or another batch size than before.
        """
        end = self.length + k.shape[-2]
        if self.max_length is not None and end > self.max_length:
            raise ValueError(f"k brings the cache to {end} positions, and max_length={self.max_length} were reserved")
        if self.length and k.shape[0] != self._keys.shape[0]:
            raise ValueError(f"k is a batch of {k.shape[0]}, and the cache holds one of {self._keys.shape[0]}")
        if not self.length or end > self._keys.shape[-2] or self._shared:
            room = self.max_length or max(end, 2 * self.length)
            self._keys, self._values = _grown(self.keys, k, room), _grown(self.values, v, room)
            self._shared = False
        self._keys[..., self.length : end, :] = k
        self._values[..., self.length : end, :] = v
        self.length = end
        return self.keys, self.values

    def reorder(self, rows: Int64[Tensor, " N"]) -> None:
        """Keep these rows of the batch, in this order: what beam search does when hypotheses change places."""
        if self.length:
            self._keys, self._values = self._keys[rows], self._values[rows]

    def repeated(self, n: int, max_length: int | None = None) -> KVCache:
        """Return a cache that holds these positions, seen in a batch of one, for each of ``n`` rows; this one stays.

        Raises:
            ValueError: this cache holds a batch of another size.
        """
        if not self.length or len(self._keys) != 1:
            raise ValueError(f"the cache holds a batch of {len(self._keys)}; only a single row can be repeated")
        copy = KVCache(max_length)
        copy._keys, copy._values = (store.expand(n, -1, -1, -1) for store in (self.keys, self.values))
        copy.length, copy._shared, self._shared = self.length, True, True
        return copy

    def crop(self, n: int) -> None:
        """Forget all but the first ``n`` positions.

        Raises:
            ValueError: the cache holds fewer.
        """
        if not 0 <= n <= self.length:
            raise ValueError(f"n={n} is outside 0 … {self.length}, the positions held")
        self.length = n


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in its own subspace (Vaswani et al. 2017, section 3.2.2).

    Args:
        d_model: width C of what comes in and goes out.
        n_heads: number of heads H.
        n_kv_heads: heads of keys and values where queries share them (Ainslie et al. 2023); None: one for each query head.
        d_key: width D of a head's queries and keys; None for d_model / n_heads, which values always have.
        bias: add a bias to the four projections. The paper's own code has none; most others do.
        dropout: share of the weights dropped in training.
        rotary: turns queries and keys by their position, where positions are not added to the input. What a mask
            (B, S) hides takes no position.
        pattern: which earlier positions each position sees; None for all of them. For causal attention to ``x`` itself.

    Raises:
        ValueError: ``n_heads`` does not divide ``d_model``, ``n_kv_heads`` does not divide ``n_heads``, or ``pattern`` is
            given with dropout.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        d_key: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rotary: Rotary | None = None,
        pattern: SparsePattern | None = None,
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ValueError(f"n_heads={n_heads} is not divisible by n_kv_heads={n_kv_heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is outside 0 … 1")
        for name, size in {"d_model": d_model, "d_key": d_key}.items():
            if size is not None and size < 1:
                raise ValueError(f"{name}={size} is below 1")
        if pattern is not None and dropout:
            raise ValueError(f"dropout={dropout}: weights of a sparse pattern cannot be dropped; dropout=0 fits")
        self.n_heads, self.n_kv_heads, self.pattern = n_heads, n_kv_heads, pattern
        d_value = d_model // n_heads
        d_key = d_value if d_key is None else d_key
        self.dropout, self.rotary = dropout, rotary
        self.scale: float | None = None  # 1/√d_key; a chapter sets it to 1 to see what the scale is for
        self.query = nn.Linear(d_model, n_heads * d_key, bias=bias)
        self.key = nn.Linear(d_model, n_kv_heads * d_key, bias=bias)
        self.value = nn.Linear(d_model, n_kv_heads * d_value, bias=bias)
        self.out = nn.Linear(n_heads * d_value, d_model, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: Float[Tensor, "B S C"] | None = None,
        *,
        mask: Bool[Tensor, ...] | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        return_weights: bool = False,
    ) -> Float[Tensor, "B T C"] | tuple[Float[Tensor, "B T C"], Float[Tensor, "B H T S"]]:
        """Let every position of ``x`` attend to ``context``, or to ``x`` itself where there is none.

        Args:
            x: where the queries come from.
            context: where keys and values come from, such as an encoder's output.
            mask: True where a query may attend: (B, S) for all queries alike, (B, T, S), or (B, 1 or H, T, S).
            causal: no position sees a later one.
            cache: keys and values of the positions before ``x``; the new ones are added. With ``context`` it is
                filled by the first call and read by the others, since the context stays the same.
            return_weights: return the weights of every head too.

        Raises:
            ValueError: ``mask`` has no such shape.
        """
        start = cache.length if cache is not None else 0
        q = self._split(self.query(x), self.n_heads)  # (B, H, T, D)
        if context is not None and cache is not None and start:
            k, v = cache.keys, cache.values  # the projected context, from the first call
        else:
            source = x if context is None else context
            k, v = self._split(self.key(source), self.n_kv_heads), self._split(self.value(source), self.n_kv_heads)
        if self.rotary is not None and context is None:
            places = start if mask is None or mask.ndim > 2 else (mask.cumsum(1) - 1).clamp(min=0)[:, start:]
            q, k = self.rotary(q, places), self.rotary(k, places)
        if cache is not None and (context is None or not start):
            k, v = cache.append(k, v)
        if self.pattern is not None:
            if not causal or context is not None or (mask is not None and mask.ndim != 2):
                raise ValueError("pattern: give causal=True, no context, and a mask of shape (B, S), if any")
            if not return_weights:
                if self.n_kv_heads < self.n_heads:
                    k, v = (x.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for x in (k, v))
                return self._join(sparse_attention(q, k, v, self.pattern, mask=mask, scale=self.scale))
            seen = [self.pattern.pairs(q.shape[2], k.shape[2], head, mask) for head in range(self.n_heads)]
            mask = torch.stack(seen, 1).to(q.device)  # as a mask, to see all weights
        dropout_p = self.dropout if self.training else 0.0
        mask = None if mask is None else _broadcastable(mask)
        settings = {"causal": causal, "dropout_p": dropout_p, "scale": self.scale}
        if return_weights:
            heads, weights = scaled_dot_product_attention(q, k, v, mask, return_weights=True, **settings)  # type: ignore[arg-type]
            return self._join(heads), weights
        return self._join(scaled_dot_product_attention(q, k, v, mask, **settings))  # type: ignore[arg-type]

    def _split(self, x: Tensor, n_heads: int) -> Tensor:
        B, T, _ = x.shape
        return x.view(B, T, n_heads, -1).transpose(1, 2)  # (B, H, T, D)

    def _join(self, heads: Tensor) -> Tensor:
        joined: Tensor = self.out(heads.transpose(1, 2).flatten(2))  # (B, T, H·D), then (B, T, C)
        return joined


@contextlib.contextmanager
def record_attention(modules: Iterable[nn.Module]) -> Iterator[list[Float[Tensor, "B H T S"]]]:
    """Collect the weights of attention layers while a model runs, whatever the model does with them.

    Args:
        modules: :class:`MultiHeadAttention` layers, such as all of ``model.modules()``; other modules are passed over.

    Yields:
        A list that gets one entry (B, H, T, S) a call of a layer, in the order of the calls.
    """
    weights: list[Tensor] = []
    asked: list[bool] = []

    def look(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        asked.append(kwargs.get("return_weights", False))
        return args, {**kwargs, "return_weights": True}

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        weights.append(output[1].detach())
        return output if asked.pop() else output[0]

    with contextlib.ExitStack() as stack:
        for module in modules:
            if isinstance(module, MultiHeadAttention):
                stack.callback(module.register_forward_pre_hook(look, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        yield weights


def _grouped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool, return_weights: bool, **settings: Any
) -> Tensor | tuple[Tensor, Tensor]:
    """Let the H/G heads of queries that share keys ask as one head with more queries: no key is copied."""
    (B, H, T, D), (_, G, S, _) = q.shape, k.shape
    mask = _intersection(mask, causal_mask(T, S, device=q.device) if causal and T > 1 else None, (B, H, T, S))
    if mask is not None:
        mask = mask.view(*[1] * (4 - mask.ndim), *mask.shape)  # (B, H, T, S), each of them perhaps 1
        mask = mask.reshape(len(mask), 1 if mask.shape[1] == 1 else G, -1, *mask.shape[2:])  # (B, G, H/G, T, S)
        mask = mask.expand(-1, -1, H // G, T, S).flatten(2, 3)  # (B, G, H/G·T, S)
    together = q.reshape(B, G, H // G * T, D)
    if not return_weights:
        return scaled_dot_product_attention(together, k, v, mask, **settings).reshape(B, H, T, -1)  # type: ignore[union-attr]
    heads, weights = scaled_dot_product_attention(together, k, v, mask, return_weights=True, **settings)
    return heads.reshape(B, H, T, -1), weights.reshape(B, H, T, S)


def _fused(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """Return torch's fused attention. On a CPU it computes in float32: its bfloat16 is up to ten times slower at T < 128.

    A few queries, as in cached writing, are the exception: to copy all keys costs more than to use them once.
    """
    many = q.shape[-2] > 1 and 8 * q.shape[-2] > k.shape[-2]
    if q.device.type == "cpu" and many and torch.bfloat16 in (q.dtype, k.dtype, v.dtype):
        with torch.autocast("cpu", enabled=False):  # which would cast back to bfloat16
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **settings).to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, **settings)


def _broadcastable(mask: Tensor) -> Tensor:
    """Return the mask with its missing dimensions of heads and queries."""
    if mask.ndim == 2:
        return mask[:, None, None, :]  # (B, 1, 1, S): the same for every head and query
    if mask.ndim == 3:
        return mask[:, None]  # (B, 1, T, S)
    if mask.ndim == 4:
        return mask
    raise ValueError(f"mask has shape {tuple(mask.shape)}; give (B, S), (B, T, S) or (B, H, T, S)")


def _intersection(a: Tensor | None, b: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    if a is not None:
        if a.dtype != torch.bool:
            raise TypeError(f"mask is of type {a.dtype}; give bool, True where a query may attend")
        try:
            a.expand(shape)
        except RuntimeError:
            raise ValueError(f"mask has shape {tuple(a.shape)}; it must broadcast to (B, H, T, S) = {shape}") from None
        a = torch.atleast_2d(a)  # type: ignore[no-untyped-call]
    if a is None or b is None:
        return a if b is None else b
    return a & b


def _grown(old: Tensor, new: Tensor, room: int) -> Tensor:
    """Return a store of ``room`` positions that begins with ``old``."""
    store = new.new_empty(*new.shape[:-2], room, new.shape[-1])
    if old.numel():
        store[..., : old.shape[-2], :] = old
    return store


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> None:
    if k.ndim != 4 or len(k) != len(q) or not k.shape[1] or q.shape[1] % k.shape[1]:
        fits = f"(B, H, S, D) with q's B and H {tuple(q.shape)} fits, or with fewer heads that divide H"
        raise ValueError(f"k has shape {tuple(k.shape)}; {fits}")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k has heads of width {k.shape[-1]}, and q of {q.shape[-1]}: their inner product needs one")
    if v.ndim != 4 or v.shape[:2] != k.shape[:2]:
        raise ValueError(f"v has shape {tuple(v.shape)}; (B, H, S, D) with k's B and H {tuple(k.shape)} fits")
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"v has {v.shape[-2]} positions, and k {k.shape[-2]}: each key needs its value")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"dropout_p={dropout_p} is outside 0 … 1")
