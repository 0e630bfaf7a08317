"""The decoder: the half of a Transformer that writes, alone. GPT-1, GPT-2 and GPT-3 differ in sizes and little else.

Each position sees those before it and predicts what comes next; text is all it needs to learn from (Radford et al. 2018,
2019; Brown et al. 2020).

Used in: 2019_gpt2, and every chapter after it with a language model.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nextword import checkpoints
from nextword.attention import KVCache
from nextword.generation import sample
from nextword.layers import (
    Activation,
    Block,
    NormPosition,
    Output,
    check_choices,
    check_heads,
    check_ids,
    check_shares,
    check_sizes,
    count_parameters,
    next_token_loss,
)

__all__ = ["PRESETS", "Decoder", "DecoderConfig", "Output"]

Cache = Sequence[KVCache]


def _sizes(
    vocab_size: int, context_length: int, d_model: int, n_layers: int, n_heads: int, **rest: Any
) -> dict[str, Any]:
    names = {"vocab_size": vocab_size, "context_length": context_length, "d_model": d_model}
    return {**names, "n_layers": n_layers, "n_heads": n_heads, **rest}


PRESETS: dict[str, dict[str, Any]] = {
    "gpt1": _sizes(40_478, 512, 768, 12, 12, norm_position="post", dropout=0.1),
    "gpt2": _sizes(50_257, 1024, 768, 12, 12),
    "gpt2-medium": _sizes(50_257, 1024, 1024, 24, 16),
    "gpt2-large": _sizes(50_257, 1024, 1280, 36, 20),
    "gpt2-xl": _sizes(50_257, 1024, 1600, 48, 25),
    "gpt3-125m": _sizes(50_257, 2048, 768, 12, 12),
    "gpt3-350m": _sizes(50_257, 2048, 1024, 24, 16),
    "gpt3-760m": _sizes(50_257, 2048, 1536, 24, 16),
    "gpt3-1.3b": _sizes(50_257, 2048, 2048, 24, 16),  # printed 24 heads of 128, which is not 2048 wide
    "gpt3-2.7b": _sizes(50_257, 2048, 2560, 32, 32),
    "gpt3-6.7b": _sizes(50_257, 2048, 4096, 32, 32),
    "gpt3-13b": _sizes(50_257, 2048, 5120, 40, 40),  # printed 5140, which 40 heads do not divide
    "gpt3-175b": _sizes(50_257, 2048, 12_288, 96, 96),
}
"""Sizes as printed (Radford et al. 2018, section 4.1; 2019, table 2; Brown et al. 2020, table 2.1), two misprints put right."""


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder.

    Example:
        >>> DecoderConfig.preset("gpt2").d_model
        768
        >>> DecoderConfig(100, 16, d_model=10, n_layers=1, n_heads=4)
        Traceback (most recent call last):
        ...
        ValueError: d_model=10 is not divisible by n_heads=4; d_model=12 is
    """

    vocab_size: int
    context_length: int
    """Tokens that the model can see at once; positions are learned, so there are no others."""
    d_model: int
    """Width C of every vector between the layers."""
    n_layers: int
    n_heads: int
    d_ff: int | None = None
    """Width of the hidden layer of the feed-forward networks; None for four times ``d_model``."""
    norm_position: NormPosition = "pre"
    """``pre``: GPT-2 and GPT-3, with one more norm at the end. ``post``: GPT-1, without."""
    activation: Activation = "gelu_tanh"
    tie_embeddings: bool = True
    """The table that reads the tokens also scores the next one."""
    bias: bool = True
    """Biases of attention and feed-forward networks."""
    dropout: float = 0.0
    """Share dropped from each sublayer's output and from the sum of embedding and position."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no model, and say which would."""
        check_sizes(self, "vocab_size", "context_length", "d_model", "n_layers", "n_heads")
        check_sizes(self, *(["d_ff"] if self.d_ff is not None else []))
        check_heads(self)
        check_choices(self, norm_position=NormPosition, activation=Activation)
        check_shares(self, "dropout")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> DecoderConfig:
        """Return the sizes of a published model, with ``changes``.

        Raises:
            ValueError: there is no such preset; the nearest name is suggested.
        """
        if name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"name={name!r} is no preset: choose {', '.join(PRESETS)}{hint}")
        return cls(**{**PRESETS[name], **changes})


class Decoder(nn.Module):
    """A language model of the GPT family.

    Weights start as in GPT-2: normal with a standard deviation of 0.02, and 0.02/√(2L) where a sublayer's output is added
    to the stream, so that L layers do not swell it (Radford et al. 2019, section 2.3); biases at 0.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.positions = nn.Embedding(c.context_length, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        settings: dict[str, Any] = {"norm_position": c.norm_position, "activation": c.activation, "dropout": c.dropout}
        settings |= {"bias": c.bias, "attention_bias": c.bias}
        d_ff = 4 * c.d_model if c.d_ff is None else c.d_ff
        self.blocks = nn.ModuleList(Block(c.d_model, c.n_heads, d_ff, **settings) for _ in range(c.n_layers))
        self.norm = nn.LayerNorm(c.d_model) if c.norm_position == "pre" else nn.Identity()
        self.output = nn.Linear(c.d_model, c.vocab_size, bias=False)
        if c.tie_embeddings:
            self.output.weight = self.embedding.weight
        self._initialise()

    def forward(
        self,
        ids: Int64[Tensor, "B T"],
        targets: Int64[Tensor, "B T"] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
    ) -> Output:
        """Score every next token.

        Args:
            ids: the text, at most ``context_length`` tokens.
            targets: the token that follows each of ``ids``; -100 where none is to be learned.
            mask: True at real tokens; False at filling behind them, which nobody attends to.
            cache: from :meth:`new_cache`; then ``ids`` are only what is new.

        Raises:
            TypeError, ValueError: ids that are no int64, outside the vocabulary, or too many for the context.
        """
        logits = self.output(self.hidden(ids, mask=mask, cache=cache))
        return Output(logits, None if targets is None else next_token_loss(logits, targets, name="targets"))

    def hidden(
        self, ids: Int64[Tensor, "B T"], *, mask: Bool[Tensor, "B T"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "B T C"]:
        """Return the vector at every position, after the last norm; the arguments are those of :meth:`forward`."""
        check_ids("ids", ids, self.config.vocab_size)
        start = cache[0].length if cache is not None else 0
        end, limit = start + ids.shape[1], self.config.context_length
        if end > limit:
            raise ValueError(f"ids reach to position {end}, and context_length={limit}")
        places = torch.arange(start, end, device=ids.device)
        x = self.dropout(self.embedding(ids) + self.positions(places))  # (B, T, C)
        for i, block in enumerate(self.blocks):
            own = (cache[i], KVCache()) if cache is not None else None
            x = block(x, mask=mask, causal=True, cache=own)
        hidden: Tensor = self.norm(x)
        return hidden

    def new_cache(self, max_length: int | None = None) -> Cache:
        """Return an empty cache for :meth:`forward`, one entry a layer."""
        return [KVCache(max_length) for _ in range(self.config.n_layers)]

    @torch.inference_mode()
    def generate(
        self,
        ids: Int64[Tensor, "B T"],
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: int | Collection[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "B T_plus_n"]:
        """Return ``ids`` with what the model writes after them; see :func:`~nextword.generation.sample`.

        Past ``context_length`` the model sees the newest tokens. Their positions have changed then, and with them all keys
        and values, so the window is read anew for each token.
        """
        cache, limit = self.new_cache(), self.config.context_length

        def step(text: Tensor) -> Tensor:
            fits = text.shape[1] <= limit
            output: Output = self(text[:, cache[0].length :], cache=cache) if fits else self(text[:, -limit:])
            return output.logits[:, -1]

        training = self.training
        self.eval()
        try:
            settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "stop": stop}
            return sample(step, ids, max_new_tokens, generator=generator, **settings)
        finally:
            self.train(training)

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters, each shared matrix once; without ``embedding``, those between the tables."""
        return count_parameters(self, embedding=embedding)

    @classmethod
    def from_pretrained(cls, path: str) -> Decoder:
        """Return a trained model in evaluation mode.

        Args:
            path: a folder that :func:`~nextword.checkpoints.save` wrote, the name of a bundled model, or a folder with
                GPT-1 or GPT-2 as published on the Hugging Face hub, ``config.json`` and ``model.safetensors``.

        Raises:
            ValueError: there is no such model, it is of another kind, or its file lacks a weight or has one too many.
        """
        public = _public_config(Path(path))
        return (
            checkpoints.restore(cls, DecoderConfig, path) if public is None else _read_public(cls, Path(path), public)
        )

    def _initialise(self) -> None:
        added = 0.02 / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                is_added = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
                nn.init.normal_(parameter, std=added if is_added else 0.02)


# --- Public files of GPT-1 and GPT-2 ---

_ACTIVATIONS: dict[tuple[str, str], Activation] = {
    ("openai-gpt", "gelu"): "gelu_tanh",  # what that file calls gelu is its tanh approximation
    ("gpt2", "gelu_new"): "gelu_tanh",
    ("gpt2", "gelu"): "gelu",
    ("gpt2", "relu"): "relu",
}
_TABLES = {"wte": "embedding", "wpe": "positions", "tokens_embed": "embedding", "positions_embed": "positions"}
_PARTS = {
    "ln_1": "attention_norm",
    "ln_2": "feed_forward_norm",
    "attn.c_proj": "attention.out",
    "mlp.c_fc": "feed_forward.up",
    "mlp.c_proj": "feed_forward.down",
}
_NO_WEIGHTS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|lm_head\.weight")
"""The causal mask, which old files carry along, and the output matrix, which is the embedding."""


def _public_config(folder: Path) -> dict[str, Any] | None:
    """Return the ``config.json`` of a public GPT-1 or GPT-2, or None where there is no such file."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("model_type") in ("gpt2", "openai-gpt") else None


def _read_public(cls: type[Decoder], folder: Path, public: dict[str, Any]) -> Decoder:
    kind, name = public["model_type"], public.get("activation_function", public.get("afn"))
    activation = _ACTIVATIONS.get((kind, str(name)))
    if activation is None or public.get("layer_norm_epsilon", 1e-5) != 1e-5:
        epsilon = public.get("layer_norm_epsilon")
        raise ValueError(
            f"path={str(folder)!r}: activation {name!r} or layer_norm_epsilon={epsilon} is not of this decoder"
        )
    sizes = {"context_length": public["n_positions"], "d_model": public["n_embd"], "n_layers": public["n_layer"]}
    sizes |= {"vocab_size": public["vocab_size"], "n_heads": public["n_head"], "d_ff": public.get("n_inner")}
    norm_position: NormPosition = "pre" if kind == "gpt2" else "post"
    model = cls(DecoderConfig(**sizes, norm_position=norm_position, activation=activation))
    try:
        files = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"path={str(folder)!r} cannot be read: {error}") from error
    theirs = {key.removeprefix("transformer."): value.float() for key, value in files.items()}
    kept = {key: value for key, value in theirs.items() if not _NO_WEIGHTS.fullmatch(key)}
    ours = dict(pair for key, value in kept.items() for pair in _in_our_words(key, value))
    checkpoints.load_into(model, checkpoints.Checkpoint(ours, {}, {}, None))
    return model.eval()


def _in_our_words(key: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """Return a public weight under our names. Its matrices are stored (in, out), ours (out, in); q, k and v are one."""
    part, _, end = key.rpartition(".")
    if part in _TABLES:
        return [(f"{_TABLES[part]}.{end}", value)]
    if part == "ln_f":
        return [(f"norm.{end}", value)]
    found = re.fullmatch(r"h\.(\d+)\.(.+)", part)
    if not found:
        return [(key, value)]  # unknown; load_into will say so
    block, name = f"blocks.{found[1]}", found[2]
    value = value.T if value.ndim == 2 else value
    if name == "attn.c_attn":
        names = ("query", "key", "value")
        return [(f"{block}.attention.{n}.{end}", x) for n, x in zip(names, value.chunk(3), strict=True)]
    return [(f"{block}.{_PARTS.get(name, name)}.{end}", value)]
