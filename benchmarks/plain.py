"""A GPT-2 without any option, written as plainly as torch allows: what the library's generality costs is seen against it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.decoder import Decoder

Cache = list[tuple[Tensor, Tensor]]


class PlainBlock(nn.Module):
    """Pre-norm attention and feed-forward network; queries, keys and values come from one matrix."""

    def __init__(self, C: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        B, T, C = x.shape
        parts = self.qkv(self.norm_1(x)).split(C, -1)
        q, k, v = (part.view(B, T, self.n_heads, -1).transpose(1, 2) for part in parts)  # (B, H, T, D)
        if cache is not None:
            if layer < len(cache):
                k, v = (torch.cat(pair, 2) for pair in zip(cache[layer], (k, v), strict=True))
                cache[layer] = k, v
            else:
                cache.append((k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class PlainGPT(nn.Module):
    """Tables of tokens and positions, blocks, a last norm, and the table of tokens once more."""

    def __init__(self, V: int, length: int, C: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(length, C)
        self.blocks = nn.ModuleList(PlainBlock(C, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(C)

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        start = cache[0][0].shape[2] if cache else 0
        x = self.tokens(ids) + self.positions.weight[start : start + ids.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer)
        x = self.norm(x)
        logits = (x if cache is None else x[:, -1:]) @ self.tokens.weight.T
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.inference_mode()
    def generate(self, ids: Tensor, n: int) -> Tensor:
        """Write ``n`` tokens, the likeliest each time."""
        cache: Cache = []
        new = ids
        for _ in range(n):
            new = self(new, cache=cache)[0][:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, new], 1)
        return ids

    @classmethod
    def like(cls, ours: Decoder) -> PlainGPT:
        """Return the plain model with the weights of a GPT-2 in the library's decoder."""
        c = ours.config
        plain = cls(c.vocab_size, c.context_length, c.d_model, c.n_layers, c.n_heads)
        with torch.no_grad():
            plain.tokens.weight.copy_(ours.embedding.weight)
            plain.positions.weight.copy_(ours.positions.weight)
            plain.norm.load_state_dict(ours.norm.state_dict())
            for mine, block in zip(plain.blocks, ours.blocks, strict=True):
                a, f = block.attention, block.feed_forward
                for name in ("weight", "bias"):
                    parts = [getattr(layer, name) for layer in (a.query, a.key, a.value)]
                    getattr(mine.qkv, name).copy_(torch.cat(parts))
                mine.out.load_state_dict(a.out.state_dict())
                mine.up.load_state_dict(f.up.state_dict())
                mine.down.load_state_dict(f.down.state_dict())
                mine.norm_1.load_state_dict(block.attention_norm.state_dict())
                mine.norm_2.load_state_dict(block.feed_forward_norm.state_dict())
        return plain.eval()
