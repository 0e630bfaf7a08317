"""Attention: every position looks at every other, and takes a weighted mean of what it finds.

The whole of it is one equation, softmax(QKᵀ/√d)V (Vaswani et al. 2017, equation 1): :func:`attention` is that equation
line by line, and :func:`scaled_dot_product_attention` is the same through torch's fused kernel. The rest of this module
splits it into heads, says who may look at whom (masks), and remembers keys and values while a text is written.

Masks are boolean and True means "may attend". A query that may attend to nothing gets 0.

Used in: 2017_transformer, and every model after it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


def attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S E"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    scale: float | None = None,
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T S"]]:
    """Return softmax(QKᵀ/√D)V and its weights, as the equation is written (Vaswani et al. 2017, equation 1).

    Args:
        mask: True where a query may attend; any shape that broadcasts to (B, H, T, S).
        scale: factor of QKᵀ; None for 1/√D.

    Raises:
        TypeError, ValueError: a mask that is not boolean, or that does not broadcast.

    Example:
        >>> q = k = v = torch.eye(2).view(1, 1, 2, 2)
        >>> output, weights = attention(q, k, v, causal_mask(2))
        >>> weights[0, 0, 0]
        tensor([1., 0.])
    """
    # The sum of D products of independent numbers with mean 0 and variance 1 has a variance of D. Divided by √D the
    # scores keep a variance of 1, and the softmax does not begin saturated (footnote 4 of the paper).
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.mT * scale  # (B, H, T, S): how well each query fits each key
    if mask is not None:
        mask = _expanded(mask, scores.shape)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # exp: 0
    weights = scores.softmax(-1)  # each query spends a weight of 1 on the keys
    if mask is not None:  # where all keys are hidden, the weights are set to 0
        weights = weights.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return weights @ v, weights


def scaled_dot_product_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "B H T E"]:
    """Return the output of :func:`attention`, through torch's fused kernel.

    Args:
        q, k, v: where there are fewer heads G of keys than H of queries, H/G neighbouring heads of queries share one
            (grouped-query attention, Ainslie et al. 2023).
        mask: True where a query may attend; any shape that broadcasts to (B, H, T, S).
        causal: the query at position t sees keys up to its own. With fewer queries than keys they are the last ones.
            With a mask, a key must be allowed by both.
        scale: factor of QKᵀ, above 0 (torch's kernel masks before it scales, and 0 times -inf is NaN); None for 1/√D.

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: shapes that do not fit.
    """
    _check_shapes(q, k, v)
    (B, H, T, D), (_, G, S, _) = q.shape, k.shape
    if T == 1 and G < H:
        # Cached writing: the heads that share a key ask like several queries of one head. So no key is copied, which is
        # 3 to 20 times as fast. rearrange(q, "B (G sharing) 1 D -> B G sharing D", G=G)
        mask = None if mask is None else _expanded(mask, (B, H, 1, S)).reshape(B, G, H // G, S)
        heads = scaled_dot_product_attention(q.reshape(B, G, H // G, D), k, v, mask, scale=scale)
        return heads.reshape(B, H, 1, -1)
    # The fused kernel takes the softmax piece by piece and does not store the weights, T·S numbers a head.
    settings: dict[str, Any] = {"scale": scale, "enable_gqa": G < H}
    if causal and mask is None and T == S:  # the kernel's own triangle, which skips half of the work
        return _fused(q, k, v, is_causal=True, **settings)
    allowed = _allowed(mask, causal, q, k)
    if allowed is None or (mask is None and T <= S):  # no query is without a key: its own at least
        return _fused(q, k, v, attn_mask=allowed, **settings)
    # Not every kernel of every version of torch gives 0 for a query without a key: let it see everything, then clear it.
    empty = ~allowed.any(-1, keepdim=True)  # (…, T, 1)
    return _fused(q, k, v, attn_mask=allowed | empty, **settings).masked_fill(empty, 0.0)


def causal_mask(T: int, S: int | None = None, *, device: torch.device | str | None = None) -> Bool[Tensor, "T S"]:
    """Return which of S keys each of the last T positions may see: those up to its own.

    Example:
        >>> causal_mask(2, 3).int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    S = T if S is None else S
    for name, value in {"T": T, "S": S}.items():
        if value < 1:
            raise ValueError(f"{name}={value} is below 1: a mask needs a query and a key")
    # Aligned to the lower right, as a cache needs it: S - T keys came before the first of the queries.
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def padding_mask(lengths: Int64[Tensor, " B"], T: int) -> Bool[Tensor, "B T"]:
    """Return True for the first ``lengths[b]`` of T positions: real tokens stand before the padding.

    Example:
        >>> padding_mask(torch.tensor([1, 3]), 3).int()
        tensor([[1, 0, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= T:
        raise ValueError(f"lengths run from {int(lengths.min())} to {int(lengths.max())}; they must lie in 0 … T={T}")
    return torch.arange(T, device=lengths.device) < lengths[:, None]  # (B, T)


def pad(
    rows: Sequence[Sequence[int]],
    fill: int = 0,
    *,
    side: Literal["right", "left"] = "right",
    device: torch.device | str | None = None,
) -> tuple[Int64[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return B rows of ids as one tensor, the shorter ones filled up with ``fill``, and a mask that is True at real ids.

    Args:
        rows: texts; the longest has T ids.
        fill: the id to fill up with.
        side: ``left`` puts the padding before a text, as generation needs it: the newest tokens then stand side by side.
        device: where both go; None for torch's default.

    Raises:
        ValueError: there is no row, or no such side.

    Used in: 2017_transformer, 2020_gpt3, 2022_instructgpt.

    Example:
        >>> ids, mask = pad([[5, 6, 7], [8]], side="left")
        >>> ids
        tensor([[5, 6, 7],
                [0, 0, 8]])
        >>> mask.int()
        tensor([[1, 1, 1],
                [0, 0, 1]], dtype=torch.int32)
    """
    if not rows:
        raise ValueError("rows is empty; a batch needs a row")
    if side not in ("right", "left"):
        raise ValueError(f"side={side!r}: choose 'right' or 'left'")
    lengths = torch.tensor([len(row) for row in rows])
    mask = padding_mask(lengths, int(lengths.max()))  # (B, T)
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.full(mask.shape, fill)
    ids[mask] = torch.tensor([i for row in rows for i in row], dtype=torch.int64)  # row after row, as the mask is read
    return ids.to(device), mask.to(device)


class KVCache:
    """The keys and values that one attention layer has seen, so that each step computes only its own.

    It is for generation, not for training: the store is filled in place, and no gradient passes it.

    Args:
        max_length: positions to reserve at once. Without it the store doubles whenever it is full.
    """

    def __init__(self, max_length: int | None = None) -> None:
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length} is below 1")
        self.length = 0  # positions held
        self.max_length = max_length  # positions that there is room for
        self._keys = self._values = torch.empty(0, 0, 0, 0)  # (B, H, room, D): the first ``length`` count
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
        """Add the newest keys and values; return all of them."""
        end = self.length + k.shape[-2]
        if self.max_length is not None and end > self.max_length:
            raise ValueError(f"k brings the cache to {end} positions, and max_length={self.max_length} were reserved")
        if self.length and k.shape[0] != self._keys.shape[0]:
            raise ValueError(f"k is a batch of {k.shape[0]}, and the cache holds one of {self._keys.shape[0]}")
        if not self.length or end > self._keys.shape[-2] or self._shared:
            room = self.max_length or max(end, 2 * self.length)  # doubled, so that n steps move each key about once
            self._keys, self._values = _grown(self.keys, k, room), _grown(self.values, v, room)
            self._shared = False  # what is written below is seen by this cache alone
        self._keys[..., self.length : end, :] = k
        self._values[..., self.length : end, :] = v
        self.length = end
        return self.keys, self.values

    def reorder(self, rows: Int64[Tensor, " N"]) -> None:
        """Keep these rows of the batch, in this order: what beam search does when hypotheses change places."""
        if self.length:  # a row may be kept twice, where two hypotheses go on from it
            self._keys, self._values = self._keys[rows], self._values[rows]

    def expand(self, n: int, max_length: int | None = None) -> KVCache:
        """Return a cache that holds these positions, seen in a batch of one, for each of ``n`` rows; this one stays."""
        if not self.length or len(self._keys) != 1:
            raise ValueError(f"the cache holds a batch of {len(self._keys)}; only a single row can be expanded")
        copy = KVCache(max_length)
        # Nothing is copied yet: all rows look at the one that is there, until one of the caches grows.
        copy._keys, copy._values = (store.expand(n, -1, -1, -1) for store in (self.keys, self.values))
        copy.length, copy._shared, self._shared = self.length, True, True
        return copy

    def crop(self, n: int) -> None:
        """Forget all but the first ``n`` positions."""
        if not 0 <= n <= self.length:
            raise ValueError(f"n={n} is outside 0 … {self.length}, the positions held")
        self.length = n  # what lies behind is overwritten by the next append


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in its own subspace (Vaswani et al. 2017, section 3.2.2).

    Args:
        d_model: width C of what comes in and goes out.
        n_heads: number of heads H.
        n_kv_heads: heads of keys and values where queries share them (Ainslie et al. 2023); None: one for each query head.
        d_key: width D of a head's queries and keys; None for d_model / n_heads, which values always have.
        bias: add a bias to the four projections. The paper's own code has none; most others do.

    Raises:
        ValueError: ``n_heads`` does not divide ``d_model``, or ``n_kv_heads`` does not divide ``n_heads``.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, n_kv_heads: int | None = None, d_key: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ValueError(f"n_heads={n_heads} is not divisible by n_kv_heads={n_kv_heads}")
        for name, size in {"d_model": d_model, "d_key": d_key}.items():
            if size is not None and size < 1:
                raise ValueError(f"{name}={size} is below 1")
        d_value = d_model // n_heads  # the heads side by side are as wide as the model
        d_key = d_value if d_key is None else d_key
        self.d_model, self.n_heads, self.n_kv_heads = d_model, n_heads, n_kv_heads
        self.scale: float | None = None  # 1/√d_key; a chapter sets it to 1 to see what the scale is for
        self.captured: list[Tensor] | None = None  # see capture_attention
        self.query = nn.Linear(d_model, n_heads * d_key, bias=bias)
        self.key = nn.Linear(d_model, n_kv_heads * d_key, bias=bias)
        self.value = nn.Linear(d_model, n_kv_heads * d_value, bias=bias)
        self.out = nn.Linear(n_heads * d_value, d_model, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: Float[Tensor, "B S C"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        causal: bool = False,
        rotation: Complex[Tensor, "..."] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Let every position of ``x`` attend to ``context``, or to ``x`` itself where there is none.

        Args:
            x: where the queries come from.
            context: where keys and values come from, such as an encoder's output.
            mask: True where a query may attend: (B, S) for all queries alike, (B, T, S), or (B, 1 or H, T, S).
            causal: no position sees a later one.
            rotation: turns queries and keys by their positions, where positions are not added to the input; see
                :func:`~nextword.layers.rotation`.
            cache: keys and values of the positions before ``x``; the new ones are added. With ``context`` it is
                filled by the first call and read by the others, since the context stays the same.

        Raises:
            ValueError: ``x``, ``context`` or ``mask`` has no such shape.
        """
        self._check(x, context, mask, cache)
        q = self._split(self.query(x), self.n_heads)  # (B, H, T, D)
        if context is not None and cache is not None and cache.length:
            k, v = cache.keys, cache.values  # projected by the first call
        else:
            source = x if context is None else context
            k = self._split(self.key(source), self.n_kv_heads)  # (B, G, S, D)
            v = self._split(self.value(source), self.n_kv_heads)  # (B, G, S, E)
            if rotation is not None:
                # Not the values: they carry content, and the position only decides who attends to it.
                q, k = rotate(q, rotation), rotate(k, rotation)
            if cache is not None:
                k, v = cache.append(k, v)  # of all positions so far
        heads = self.attend(q, k, v, mask, causal)  # (B, H, T, E)
        joined = heads.transpose(1, 2).flatten(2)  # rearrange(heads, "B H T E -> B T (H E)"): side by side
        y: Tensor = self.out(joined)  # (B, T, C): what the heads found, mixed
        return y

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Float[Tensor, "B H T E"]:
        """Return what each head finds. Sparse attention overrides this method; the rest of the forward pass stays."""
        if mask is not None and mask.ndim < 4:  # the same for all heads, and one of two dimensions for all queries
            mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        if self.captured is None:
            return scaled_dot_product_attention(q, k, v, mask, causal=causal, scale=self.scale)
        # Somebody wants to see the weights: attend line by line, each query head with its own copy of the keys.
        k, v = (x.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for x in (k, v))
        heads, weights = attention(q, k, v, _allowed(mask, causal, q, k), scale=self.scale)
        self.captured.append(weights.detach())
        return heads

    def _split(self, x: Tensor, n_heads: int) -> Tensor:
        return x.view(*x.shape[:2], n_heads, -1).transpose(1, 2)  # rearrange(x, "B T (H D) -> B H T D", H=n_heads)

    def _check(self, x: Tensor, context: Tensor | None, mask: Tensor | None, cache: KVCache | None) -> None:
        for name, tensor in (("x", x), ("context", context)):
            if tensor is not None and (tensor.ndim != 3 or tensor.shape[-1] != self.d_model):
                fits = f"(B, T, C) with a width C of {self.d_model}"
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {fits} fits")
        if mask is None:
            return
        B, T, _ = x.shape
        S = T + (cache.length if cache is not None else 0) if context is None else context.shape[1]
        shapes = {2: (B, S), 3: (B, T, S), 4: (B, self.n_heads, T, S)}
        if mask.ndim not in shapes or any(m not in (1, n) for m, n in zip(mask.shape, shapes[mask.ndim], strict=True)):
            fits = " or ".join(map(str, shapes.values()))
            hint = "; a mask (T, S) for all rows is mask[None]" if mask.shape == (T, S) else ""
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}; give (B, S), (B, T, S) or (B, H, T, S): {fits}{hint}"
            )


@contextlib.contextmanager
def capture_attention(modules: Iterable[nn.Module]) -> Iterator[list[Float[Tensor, "B H T S"]]]:
    """Collect the weights of attention layers while a model runs.

    Args:
        modules: :class:`MultiHeadAttention` layers, such as all of ``model.modules()``; other modules are passed over.

    Yields:
        A list that gets one entry (B, H, T, S) a call of a layer, in the order of the calls.
    """
    weights: list[Tensor] = []
    layers = [module for module in modules if isinstance(module, MultiHeadAttention)]
    before = [layer.captured for layer in layers]
    try:
        for layer in layers:  # each appends to the same list, whichever way it is called
            layer.captured = weights
        yield weights
    finally:
        for layer, was in zip(layers, before, strict=True):  # perhaps the list of an outer capture
            layer.captured = was


def rotate(x: Float[Tensor, "B H T D"], rotation: Complex[Tensor, "..."]) -> Float[Tensor, "B H T D"]:
    """Turn each pair of neighbouring numbers like the hand of a clock: a pair is a complex number, turning it a product.

    Args:
        x: queries or keys.
        rotation: from :func:`~nextword.layers.rotation`, (T, D/2) or (B, 1, T, D/2).

    Raises:
        ValueError: ``rotation`` is of other positions or another width.

    Source: Su et al. 2021, section 3.2.2.
    """
    T, D = x.shape[-2:]
    if rotation.shape[-2:] != (T, D // 2):
        raise ValueError(f"rotation has shape {tuple(rotation.shape)}; (…, T, D/2) = (…, {T}, {D // 2}) fits x")
    exact = x if x.dtype == torch.float64 else x.float()  # angles need more digits than bfloat16 has
    # rearrange(x, "B H T (pair two) -> B H T pair two", two=2), and each two numbers read as one complex number
    pairs = torch.view_as_complex(exact.reshape(*x.shape[:-1], -1, 2))  # (B, H, T, D/2)
    return torch.view_as_real(pairs * rotation.to(pairs.dtype)).flatten(-2).to(x.dtype)


def _fused(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """Return torch's fused attention, on a CPU in float32."""
    # There its bfloat16 is up to ten times slower at T < 128. But for a few queries, as in cached writing, to convert all
    # keys would cost more than to use them once.
    many = q.shape[-2] > 1 and 8 * q.shape[-2] > k.shape[-2]
    if q.device.type == "cpu" and many and torch.bfloat16 in (q.dtype, k.dtype, v.dtype):
        with torch.autocast("cpu", enabled=False):  # which would cast back to bfloat16
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **settings).to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, **settings)


def _allowed(mask: Tensor | None, causal: bool, q: Tensor, k: Tensor) -> Tensor | None:
    """Return which keys each query may see by mask and order, None for all."""
    if mask is not None:
        _expanded(mask, (*q.shape[:3], k.shape[2]))  # as a check: the kernel reads a mask without its copies
        mask = torch.atleast_2d(mask)  # type: ignore[no-untyped-call]
    if not causal or q.shape[2] == 1:  # a single query is the last one, which sees all
        return mask
    order = causal_mask(q.shape[2], k.shape[2], device=q.device)
    return order if mask is None else mask & order


def _grown(old: Tensor, new: Tensor, room: int) -> Tensor:
    """Return a store of ``room`` positions that begins with ``old``."""
    store = new.new_empty(*new.shape[:-2], room, new.shape[-1])  # (B, H, room, D)
    if old.numel():  # an empty cache does not know its shape yet
        store[..., : old.shape[-2], :] = old
    return store


def _expanded(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the mask with all its dimensions, or say why it cannot have them."""
    if mask.dtype != torch.bool:
        raise TypeError(f"mask is of type {mask.dtype}; give bool, True where a query may attend")
    try:
        return mask.expand(shape)
    except RuntimeError:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; it must broadcast to (B, H, T, S) = {shape}") from None


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.ndim != 4:
        raise ValueError(f"q has shape {tuple(q.shape)}; give (B, H, T, D), a single head as q[None, None]")
    if k.ndim != 4 or len(k) != len(q) or not k.shape[1] or q.shape[1] % k.shape[1]:
        fits = f"(B, H, S, D) with q's B and H {tuple(q.shape)} fits, or with fewer heads that divide H"
        raise ValueError(f"k has shape {tuple(k.shape)}; {fits}")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k has heads of width {k.shape[-1]}, and q of {q.shape[-1]}: their inner product needs one")
    if v.ndim != 4 or v.shape[:2] != k.shape[:2]:
        raise ValueError(f"v has shape {tuple(v.shape)}; (B, H, S, D) with k's B and H {tuple(k.shape)} fits")
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"v has {v.shape[-2]} positions, and k {k.shape[-2]}: each key needs its value")
