"""Race sparse attention against torch's fused dense attention, forward and backward.

Run ``python benchmarks/sparse.py``. One batch of four heads of 64, on one thread, in float32. Dense attention computes
more; the race says what leaving it out is worth in seconds. The result was compared with masked dense attention before.
"""

from __future__ import annotations

import torch
from racing import Row, begin, interleaved, rows, table
from torch import Tensor
from torch.nn import functional as F

from nextword.sparse_attention import SparsePattern, sparse_attention

HEADS, WIDTH = 4, 64
BARS = {8192: 5.0}
PATTERNS = {
    "strided": lambda stride: SparsePattern("strided", stride=stride),
    "fixed": lambda stride: SparsePattern("fixed", stride=stride),
}


def step(attend: object, q: Tensor, k: Tensor, v: Tensor) -> None:
    for x in (q, k, v):
        x.grad = None
    attend(q, k, v).sum().backward()  # type: ignore[operator]


def races(lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)) -> list[Row]:
    """Return the rows of this file."""
    torch.manual_seed(0)
    small = [torch.randn(1, HEADS, 1024, WIDTH, requires_grad=True) for _ in range(3)]
    found: list[Row] = []
    for kind, make in PATTERNS.items():
        pattern = make(32)
        dense = F.scaled_dot_product_attention(*small, attn_mask=pattern.mask(1024))
        torch.testing.assert_close(sparse_attention(*small, pattern), dense)
        for T in lengths:
            q, k, v = (torch.randn(1, HEADS, T, WIDTH, requires_grad=True) for _ in range(3))
            pattern = make(round(T**0.5 / 32) * 32)
            sides = {
                "ours": lambda q=q, k=k, v=v, p=pattern: step(lambda *x: sparse_attention(*x, p), q, k, v),
                "fused dense": lambda q=q, k=k, v=v: step(
                    lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), q, k, v
                ),
            }
            name = f"{kind} attention, T = {T:,}, stride {pattern.stride}"
            found += rows(name, "steps/s", 1, interleaved(sides, 5), BARS.get(T) if kind == "strided" else None)
    return found


if __name__ == "__main__":
    begin()
    print(table(races()))
