"""CLIP: one encoder for pictures and one for texts, whose vectors point the same way where picture and text belong together.

Nothing is predicted word by word. Of N pictures and N texts the model learns which belong to which; afterwards any list of
names is a classifier.

Source: Radford et al. 2021, sections 2.3, 2.4 and 3.1. Used in: 2021_clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.attention import pad
from nextword.layers import (
    Block,
    check_choices,
    check_config,
    check_heads,
    check_ids,
    check_mask,
    check_sizes,
    eval_mode,
)

MAX_SCALE = 100.0
"""What cosines are multiplied by at most, so that training stays stable (section 2.5)."""


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """The sizes of a CLIP for small pictures.

    Example:
        >>> CLIPConfig(vocab_size=3000).d_embed
        128
    """

    vocab_size: int  #: V, the number of different ids of the texts.
    context_length: int = 16  #: Tokens that a text may have, its end included; 76 in the paper.
    size: int = 32  #: Height and width of a picture, in pixels.
    n_channels: int = 1  #: Numbers a pixel: 1 for grey, 3 for colours.
    d_embed: int = 128  #: Width C of the space that both encoders share.
    d_model: int = 128  #: Width of the text encoder, and of a Vision Transformer.
    n_heads: int = 4  #: Heads of attention in both.
    n_layers: int = 2  #: Blocks of the text encoder; 12 in the paper.
    #: ``convolutions``: the paper's ResNets, far smaller. ``transformer``: its Vision Transformers.
    vision: Literal["convolutions", "transformer"] = "convolutions"
    widths: tuple[int, ...] = (32, 64, 128)  #: Channels of the convolutions; each time the picture is halved.
    patch: int = 8  #: Height and width of a Vision Transformer's patches.
    vision_layers: int = 4  #: Its blocks.
    temperature: float = 0.07  #: What cosines are divided by before any training.

    def __post_init__(self) -> None:
        """Refuse sizes that make no model, and say which would."""
        check_sizes(self, "vocab_size", "context_length", "size", "n_channels", "d_embed", "d_model", "n_heads")
        check_sizes(self, "n_layers", "patch", "vision_layers")
        check_heads(self)
        check_choices(self, vision=Literal["convolutions", "transformer"])
        if not self.widths or min(self.widths) < 1:
            raise ValueError(
                f"widths={self.widths}: name the channels of one pair of convolutions or more, each at least 1"
            )
        step = self.patch if self.vision == "transformer" else 2 ** len(self.widths)
        if self.size % step:
            raise ValueError(f"size={self.size} is not divisible by {step}, which this {self.vision} encoder needs")
        if not 1 / MAX_SCALE <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}: give a number from {1 / MAX_SCALE} up")


class Convolutions(nn.Module):
    """Picture in, vector out: each pair of convolutions looks at a neighbourhood, and every second halves the picture.

    The paper has ResNets of 50 layers and more, with skip connections and attention at the end (section 2.4).
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = config.n_channels
        for width in config.widths:
            for stride in (2, 1):
                layers += [
                    nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                channels = width
        self.layers = nn.Sequential(*layers)
        side = config.size // 2 ** len(config.widths)
        self.output = nn.Linear(channels * side * side, config.d_embed, bias=False)

    def forward(self, pictures: Float[Tensor, "B c H W"]) -> Float[Tensor, "B C"]:
        """Return one vector a picture."""
        vectors: Tensor = self.output(rearrange(self.layers(pictures), "B c h w -> B (c h w)"))
        return vectors


class VisionTransformer(nn.Module):
    """Picture in, vector out: the picture is cut into patches, and these are read as a text is (Dosovitskiy et al. 2020)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = c = config
        n_patches = (c.size // c.patch) ** 2
        self.embedding = nn.Linear(c.n_channels * c.patch**2, c.d_model)
        self.class_token = nn.Parameter(torch.randn(c.d_model) * 0.02)
        self.positions = nn.Parameter(torch.randn(n_patches + 1, c.d_model) * 0.02)
        settings: dict[str, Any] = {"norm_position": "pre", "activation": "gelu"}
        self.blocks = nn.ModuleList(
            Block(c.d_model, c.n_heads, 4 * c.d_model, **settings) for _ in range(c.vision_layers)
        )
        self.norm = nn.LayerNorm(c.d_model)
        self.output = nn.Linear(c.d_model, c.d_embed, bias=False)

    def forward(self, pictures: Float[Tensor, "B c H W"]) -> Float[Tensor, "B C"]:
        """Return one vector a picture."""
        p = self.config.patch
        patches = self.embedding(rearrange(pictures, "B c (h p) (w q) -> B (h w) (c p q)", p=p, q=p))  # (B, T, C)
        first = self.class_token.expand(len(pictures), 1, -1)  # it has no pixels, and collects what the patches say
        x = torch.cat([first, patches], 1) + self.positions  # (B, 1 + T, C)
        for block in self.blocks:
            x = block(x)
        vectors: Tensor = self.output(self.norm(x[:, 0]))
        return vectors


class TextEncoder(nn.Module):
    """Text in, vector out: a small GPT, read where the text ends (section 2.4)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.positions = nn.Embedding(c.context_length, c.d_model)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        settings: dict[str, Any] = {"norm_position": "pre", "activation": "gelu"}
        self.blocks = nn.ModuleList(Block(c.d_model, c.n_heads, 4 * c.d_model, **settings) for _ in range(c.n_layers))
        self.norm = nn.LayerNorm(c.d_model)
        self.output: nn.Module = nn.Linear(c.d_model, c.d_embed, bias=False)

    def forward(self, ids: Int64[Tensor, "B T"], *, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B C"]:
        """Return one vector a text; ``mask`` is True at its tokens, and padding stands behind them."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]  # (B, T, C)
        for block in self.blocks:
            x = block(x, causal=True)  # padding stands on the right, where no token looks
        last = mask.sum(1) - 1  # the end token, the only one that has seen the whole text
        vectors: Tensor = self.output(self.norm(x[torch.arange(len(x), device=x.device), last]))
        return vectors


def contrastive_loss(logits: Float[Tensor, "N N"]) -> Float[Tensor, ""]:
    """Return the mean of two cross-entropies in nats: which text belongs to each picture, and which picture to each text.

    Args:
        logits: how well picture i (row) and text j (column) agree. Pair i is on the diagonal.

    Source: section 2.3, figure 3.

    Example:
        >>> contrastive_loss(torch.zeros(4, 4))  # nothing learned: one of four, log 4
        tensor(1.3863)
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1] or not len(logits):
        raise ValueError(f"logits has shape {tuple(logits.shape)}; give as many texts as pictures, (N, N)")
    pairs = torch.arange(len(logits), device=logits.device)  # text i belongs to picture i
    over_texts = F.cross_entropy(logits, pairs)  # each row: one right text among N
    over_pictures = F.cross_entropy(logits.T, pairs)  # each column: one right picture among N
    return (over_texts + over_pictures) / 2


def unit_length(x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
    """Return vectors of length 1."""
    return F.normalize(full_precision(x), dim=-1)


def full_precision(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return numbers in half precision as float32: in three digits neither cosines nor logarithms are exact enough."""
    return x.float() if x.element_size() < 4 else x


class CLIPOutput(NamedTuple):
    """How well pictures and texts of a batch agree, and the loss."""

    logits: Float[Tensor, "N N"]  #: Cosine of picture i and text j, times the learned scale.
    loss: Float[Tensor, ""]  #: Nats, see :func:`contrastive_loss`.


class CLIP(nn.Module):
    """Two encoders that share a space, and one number that says how sharp agreement is."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        check_config(config, CLIPConfig)
        self.config = config
        self.vision = (Convolutions if config.vision == "convolutions" else VisionTransformer)(config)
        self.text = TextEncoder(config)
        # Learned as a logarithm, so that it stays positive.
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def forward(
        self, pictures: Float[Tensor, "N c H W"], ids: Int64[Tensor, "N T"], mask: Bool[Tensor, "N T"]
    ) -> CLIPOutput:
        """Compare N pictures with the N texts that belong to them.

        Args:
            pictures: brightness from 0 to 1.
            ids: the texts, each with its end token, filled up on the right.
            mask: True at tokens.

        Raises:
            TypeError, ValueError: pictures or texts of another shape, or not as many texts as pictures.
        """
        vision, text = self.encode_pictures(pictures), self.encode_texts(ids, mask)  # (N, C), (N, C)
        logits = self.scale() * vision @ text.T  # (N, N)
        return CLIPOutput(logits, contrastive_loss(logits))

    def encode_pictures(self, pictures: Float[Tensor, "B c H W"]) -> Float[Tensor, "B C"]:
        """Return a vector of length 1 for each picture."""
        c = self.config
        if pictures.ndim != 4 or pictures.shape[1:] != (c.n_channels, c.size, c.size):
            fits = f"(B, {c.n_channels}, {c.size}, {c.size})"
            raise ValueError(f"pictures has shape {tuple(pictures.shape)}; this model takes {fits}")
        return unit_length(self.vision(pictures))

    def encode_texts(self, ids: Int64[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B C"]:
        """Return a vector of length 1 for each text."""
        check_ids("ids", ids)
        check_mask(mask, ids.shape)
        if ids.shape[1] > self.config.context_length:
            raise ValueError(f"ids has {ids.shape[1]} positions, and context_length={self.config.context_length}")
        return unit_length(self.text(ids, mask=mask))

    def scale(self) -> Float[Tensor, ""]:
        """Return what cosines are multiplied by: 1 over the temperature, at most :data:`MAX_SCALE`."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def num_parameters(self) -> int:
        """Return the number of parameters."""
        return sum(p.numel() for p in self.parameters())


# --- The rivals of figure 2: the same pictures, and the words predicted -------------------------------------------------


class BagOfWords(nn.Module):
    """Predicts which words stand in a text, in no order (the middle line of figure 2)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        check_config(config, CLIPConfig)
        self.config = config
        self.vision = (Convolutions if config.vision == "convolutions" else VisionTransformer)(config)
        self.output = nn.Linear(config.d_embed, config.vocab_size)

    def forward(
        self, pictures: Float[Tensor, "N c H W"], ids: Int64[Tensor, "M T"], mask: Bool[Tensor, "M T"]
    ) -> Float[Tensor, "N M"]:
        """Return the mean log probability of the words of text j, seen picture i, in nats; the end token counts as a word."""
        words = full_precision(self.output(self.vision(pictures))).log_softmax(-1)  # (N, V)
        texts = words[:, ids] * mask  # (N, M, T): each picture with each text
        means: Tensor = reduce(texts, "N M T -> N M", "sum") / mask.sum(1)
        return means

    def training_loss(
        self, pictures: Float[Tensor, "N c H W"], ids: Int64[Tensor, "N T"], mask: Bool[Tensor, "N T"]
    ) -> Float[Tensor, ""]:
        """Return minus the mean log probability of the words of each picture's own text."""
        words = full_precision(self.output(self.vision(pictures))).log_softmax(-1)  # (N, V)
        chosen: Tensor = words.gather(1, ids)[mask]
        return -chosen.mean()


class Captioner(nn.Module):
    """Writes the text, word after word: a small GPT whose first position is the picture (the lowest line of figure 2)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        check_config(config, CLIPConfig)
        self.config = config
        self.vision = (Convolutions if config.vision == "convolutions" else VisionTransformer)(config)
        self.projection = nn.Linear(config.d_embed, config.d_model)
        self.text = TextEncoder(config)
        self.text.output = nn.Identity()  # its blocks are used, and no vector of the whole text
        self.output = nn.Linear(config.d_model, config.vocab_size)

    def log_probabilities(
        self, vectors: Float[Tensor, "B C"], ids: Int64[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Return the log probability of each word after the picture and the words before it, 0 at padding."""
        if ids.shape[1] > self.config.context_length:
            raise ValueError(f"ids has {ids.shape[1]} positions, and context_length={self.config.context_length}")
        words = self.text.embedding(ids)  # (B, T, C)
        x = torch.cat([vectors[:, None], words[:, :-1]], 1)  # the picture first; the last word predicts nothing
        x = x + self.text.positions.weight[: x.shape[1]]
        for block in self.text.blocks:
            x = block(x, causal=True)
        scores = full_precision(self.output(self.text.norm(x))).log_softmax(-1)  # (B, T, V)
        chosen: Tensor = scores.gather(2, ids[..., None])[..., 0]
        return chosen * mask

    def forward(
        self, pictures: Float[Tensor, "N c H W"], ids: Int64[Tensor, "M T"], mask: Bool[Tensor, "M T"]
    ) -> Float[Tensor, "N M"]:
        """Return the log probability of text j, its end included, seen picture i, in nats."""
        vectors = self.projection(self.vision(pictures))  # (N, C)
        rows = [self.log_probabilities(v.expand(len(ids), -1), ids, mask).sum(1) for v in vectors]
        return torch.stack(rows)

    def training_loss(
        self, pictures: Float[Tensor, "N c H W"], ids: Int64[Tensor, "N T"], mask: Bool[Tensor, "N T"]
    ) -> Float[Tensor, ""]:
        """Return minus the mean log probability of the words of each picture's own text."""
        return -self.log_probabilities(self.projection(self.vision(pictures)), ids, mask).sum() / mask.sum()


# --- A classifier made of names -----------------------------------------------------------------------------------------


@runtime_checkable
class Encodes(Protocol):
    """A tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""


def text_batch(
    texts: Sequence[str], tokenizer: Encodes, end_id: int, *, context_length: int
) -> tuple[Int64[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return texts as ids with an end token each, cut where they are too long, and the mask of their tokens."""
    return pad([[*tokenizer.encode(text)[: context_length - 1], end_id] for text in texts])


@torch.no_grad()
def name_vectors(
    model: CLIP, names: Sequence[str], tokenizer: Encodes, end_id: int, *, prompts: Sequence[str] = ("{}",)
) -> Float[Tensor, "N C"]:
    """Return a classifier made of names: one vector for each, in the space of the pictures.

    Args:
        prompts: texts with ``{}`` where the name stands. With several, the vectors of a name are averaged (section 3.1.4).

    Raises:
        ValueError: there is no name or no prompt, or a prompt has no place for the name.
    """
    if isinstance(names, str) or isinstance(prompts, str) or not names or not prompts:
        raise ValueError(f"names={names!r:.60} and prompts={prompts!r:.60}: give lists of texts, one at least of both")
    if wrong := [prompt for prompt in prompts if prompt.count("{}") != 1]:
        raise ValueError(f"prompts holds {wrong[0]!r}; write {{}} once, where the name belongs")
    device, length = next(model.parameters()).device, model.config.context_length
    vectors = []
    with eval_mode(model):
        for prompt in prompts:
            texts = [prompt.replace("{}", name).strip() for name in names]
            ids, mask = text_batch(texts, tokenizer, end_id, context_length=length)
            vectors.append(model.encode_texts(ids.to(device), mask.to(device)))  # (N, C), each of length 1
    mean = reduce(torch.stack(vectors), "prompts N C -> N C", "mean")
    return F.normalize(mean, dim=-1)


@torch.no_grad()
def picture_vectors(model: CLIP, pictures: Float[Tensor, "B c H W"], *, batch_size: int = 512) -> Float[Tensor, "B C"]:
    """Return a vector for each picture, some at a time."""
    device = next(model.parameters()).device
    with eval_mode(model):
        parts = [model.encode_pictures(part.to(device)) for part in torch.split(pictures, batch_size)]
    return torch.cat(parts)


def rank_of(scores: Float[Tensor, "B N"], right: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """Return at which place each row's right name stands: 1 where it has the highest score.

    Example:
        >>> rank_of(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]))
        tensor([2])
    """
    if scores.ndim != 2 or right.shape != scores.shape[:1]:
        raise ValueError(f"scores {tuple(scores.shape)} and right {tuple(right.shape)} do not fit; give one name a row")
    if scores.isnan().any():
        raise ValueError("scores holds NaN, which has no place; did training diverge?")
    chosen = scores.gather(1, right[:, None])  # (B, 1)
    ranks: Tensor = (scores > chosen).sum(1) + 1
    return ranks
