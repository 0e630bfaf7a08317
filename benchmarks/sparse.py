"""Race sparse attention against torch's fused dense attention, forward and backward.

Run ``python benchmarks/sparse.py``. One batch of four heads of 64, on one thread, in float32. Dense attention computes
more; the race says what leaving it out is worth in seconds. At the shortest length the result is compared with masked
dense attention before the time counts.
"""

from __future__ import annotations

import math
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
BARS = {("strided", None, 1): 10.0, ("fixed", 128, 8): 5.0}


def step(attend: Callable[..., Tensor], qkv: list[Tensor]) -> None:
    for x in qkv:
        x.grad = None
    attend(*qkv).sum().backward()


def inputs(T: int) -> list[Tensor]:
    return [torch.randn(1, HEADS, T, WIDTH, requires_grad=True) for _ in range(3)]


def races(lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)) -> list[Row]:
    """Return the rows of this file, at the stride with the fewest pairs and at the paper's of 128 for text."""
    torch.manual_seed(0)
    dense = partial(F.scaled_dot_product_attention, is_causal=True)
    found: list[Row] = []
    kinds = (("strided", None, 1), ("strided", 128, 1), ("fixed", 128, 1), ("fixed", 128, 8), ("fixed", 128, 32))
    for (kind, stride, summary), T in product(kinds, lengths):
        # l + T / 2l is least at the root of T / 2; a power of two divides the text.
        pattern = SparsePattern(kind, stride=stride or 2 ** round(math.log2(T / 2) / 2), summary=summary)
        ours, qkv = partial(sparse_attention, pattern=pattern), inputs(T)
        if min(lengths) == T:
            torch.testing.assert_close(ours(*qkv), F.scaled_dot_product_attention(*qkv, attn_mask=pattern.mask(T)))
        sides = {"ours": partial(step, ours, qkv), "fused dense": partial(step, dense, qkv)}
        bar = BARS.get((kind, stride, summary)) if T == BAR_AT else None
        bars = {"fused dense": bar} if bar else None
        name = f"{kind} attention, T = {T:,}, stride {pattern.stride}, summary {summary}"
        found += rows(name, "steps/s", 1, interleaved(sides, 5), bars)
    return found


if __name__ == "__main__":
    begin()
    print(table(races()))
