"""Race sparse attention against torch's fused dense attention, forward and backward.

Run ``python benchmarks/sparse.py``. One batch of four heads of 64, on one thread, in float32. Dense attention computes
more; the race says what leaving it out is worth in seconds. At the shortest length the result is compared with masked
dense attention before the time counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from racing import Row, begin, interleaved, rows, table
from torch import Tensor
from torch.nn import functional as F

from nextword.sparse_attention import SparsePattern, sparse_attention

HEADS, WIDTH = 4, 64
BAR_AT = 8192  # positions


def step(attend: Callable[..., Tensor], qkv: list[Tensor]) -> None:
    for x in qkv:
        x.grad = None
    attend(*qkv).sum().backward()


def inputs(T: int) -> list[Tensor]:
    return [torch.randn(1, HEADS, T, WIDTH, requires_grad=True) for _ in range(3)]


def races(lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)) -> list[Row]:
    """Return the rows of this file; the stride is the multiple of 32 next to the root of the length."""
    torch.manual_seed(0)
    dense = partial(F.scaled_dot_product_attention, is_causal=True)
    found: list[Row] = []
    for kind, T in product(("strided", "fixed"), lengths):
        pattern = SparsePattern(kind, stride=round(T**0.5 / 32) * 32)
        ours, qkv = partial(sparse_attention, pattern=pattern), inputs(T)
        if min(lengths) == T:
            torch.testing.assert_close(ours(*qkv), F.scaled_dot_product_attention(*qkv, attn_mask=pattern.mask(T)))
        sides = {"ours": partial(step, ours, qkv), "fused dense": partial(step, dense, qkv)}
        bars = {"fused dense": 5.0} if (kind, T) == ("strided", BAR_AT) else None
        name = f"{kind} attention, T = {T:,}, stride {pattern.stride}"
        found += rows(name, "steps/s", 1, interleaved(sides, 5), bars)
    return found


if __name__ == "__main__":
    begin()
    print(table(races()))
