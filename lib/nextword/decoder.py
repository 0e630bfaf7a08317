"""The decoder: the half of a Transformer that writes, alone. GPT-1, GPT-2 and GPT-3 differ in sizes and little else.

Each position sees those before it and predicts what comes next; text is all it needs to learn from (Radford et al. 2018,
2019; Brown et al. 2020).

Used in: 2019_gpt2, and every chapter after it with a language model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from nextword import checkpoints, pretrained
from nextword.attention import KVCache
from nextword.generation import sample, stop_tokens
from nextword.layers import (
    Activation,
    Block,
    ModelOutput,
    Norm,
    NormPosition,
    check_choices,
    check_config,
    check_fraction,
    check_heads,
    check_ids,
    check_mask,
    check_sizes,
    check_vocabulary,
    chunked_cross_entropy,
    count_parameters,
    eval_mode,
    make_norm,
    next_token_loss,
    positions_of,
    preset_of,
    rotation,
    sinusoidal_positions,
)
from nextword.sparse_attention import Heads, Kind, SparsePattern
from nextword.tokenizers import ByteBPE

Cache = Sequence[KVCache]
Positions = Literal["learned", "sinusoidal", "rotary"]


def _sizes(
    vocab_size: int, context_length: int, d_model: int, n_layers: int, n_heads: int, **rest: Any
) -> dict[str, Any]:
    names = {"vocab_size": vocab_size, "context_length": context_length, "d_model": d_model}
    return {**names, "n_layers": n_layers, "n_heads": n_heads, **rest}


_LLAMA = {"norm": "rms", "activation": "swiglu", "positions": "rotary", "bias": False}

PRESETS: dict[str, dict[str, Any]] = {
    # Radford et al. 2018, section 4.1; 2019, table 2
    "gpt1": _sizes(40_478, 512, 768, 12, 12, norm_position="post", dropout=0.1),
    "gpt2": _sizes(50_257, 1024, 768, 12, 12),
    "gpt2-medium": _sizes(50_257, 1024, 1024, 24, 16),
    "gpt2-large": _sizes(50_257, 1024, 1280, 36, 20),
    "gpt2-xl": _sizes(50_257, 1024, 1600, 48, 25),
    # Brown et al. 2020, table 2.1, two misprints put right
    "gpt3-125m": _sizes(50_257, 2048, 768, 12, 12),
    "gpt3-350m": _sizes(50_257, 2048, 1024, 24, 16),
    "gpt3-760m": _sizes(50_257, 2048, 1536, 24, 16),
    "gpt3-1.3b": _sizes(50_257, 2048, 2048, 24, 16),  # printed 24 heads of 128, which is not 2048 wide
    "gpt3-2.7b": _sizes(50_257, 2048, 2560, 32, 32),
    "gpt3-6.7b": _sizes(50_257, 2048, 4096, 32, 32),
    "gpt3-13b": _sizes(50_257, 2048, 5120, 40, 40),  # printed 5140, which 40 heads do not divide
    "gpt3-175b": _sizes(50_257, 2048, 12_288, 96, 96),
    # the shape of Llama, as open models have it today; sizes of the published file
    "smollm2-135m": _sizes(49_152, 8192, 576, 30, 9, n_kv_heads=3, d_ff=1536, rope_base=100_000.0, **_LLAMA),
}
"""Sizes of published models, from the tables named above or their released files.

All layers of the GPT-3 presets are dense; GPT-3 itself alternates dense and sparse ones. Dropout of attention weights, which
GPT-1 has, is not built here.
"""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The sizes of a decoder.

    Example:
        >>> DecoderConfig.preset("gpt2").d_model
        768
        >>> DecoderConfig(vocab_size=100, context_length=16, d_model=10, n_layers=1, n_heads=4)
        Traceback (most recent call last):
        ...
        ValueError: d_model=10 is not divisible by n_heads=4; d_model=12 is
    """

    vocab_size: int  #: V, the number of different ids: the tokenizer's ``vocab_size``.
    context_length: int  #: Tokens that the model can see at once.
    d_model: int  #: Width C of every vector between the layers.
    n_layers: int  #: Blocks, one after the other.
    n_heads: int  #: Heads of attention, each ``d_model / n_heads`` wide.
    #: Heads of keys and values where several query heads share one (Ainslie et al. 2023); None for one each.
    n_kv_heads: int | None = None
    d_ff: int | None = None  #: Width of the hidden layer of the feed-forward networks; None for four times ``d_model``.
    norm: Norm = "layer"  #: ``layer``: GPT. ``rms``: Llama.
    norm_eps: float = 1e-5  #: Added to the variance before its root is taken.
    #: ``pre``: GPT-2 and GPT-3, with one more norm at the end. ``post``: GPT-1, without.
    norm_position: NormPosition = "pre"
    activation: Activation = "gelu_tanh"  #: See :class:`~nextword.layers.FeedForward`.
    #: ``learned``: a table, as in GPT. ``sinusoidal``: the Transformer's. ``rotary``: Llama's, inside attention.
    positions: Positions = "learned"
    rope_base: float = 10_000.0  #: See :func:`~nextword.layers.rotation`.
    tie_embeddings: bool = True  #: The table that reads the tokens also scores the next one.
    bias: bool = True  #: Whether attention and feed-forward networks have biases.
    dropout: float = 0.0  #: Share dropped from each sublayer's output and from the sum of embedding and position.
    #: What the layers see, in turn: ``("dense", "local")`` alternates, as GPT-3 does (Brown et al. 2020, section 2.1).
    attention: tuple[Kind, ...] = ("dense",)
    window: int | None = None  #: Positions that a ``local`` layer sees. GPT-3's was not published.
    #: For ``strided`` and ``fixed`` layers; see :class:`~nextword.sparse_attention.SparsePattern`.
    stride: int | None = None
    summary: int = 1  #: For ``fixed`` layers.
    sparse_heads: Heads = "merged"  #: For ``strided`` and ``fixed`` layers: ``heads`` of the pattern.

    def __post_init__(self) -> None:
        """Refuse sizes that make no model, and say which would."""
        check_sizes(self, "vocab_size", "context_length", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")
        check_heads(self)
        check_choices(self, norm=Norm, norm_position=NormPosition, activation=Activation, positions=Positions)
        check_fraction(self, "dropout")
        if isinstance(self.attention, str) or not self.attention or set(self.attention) - set(get_args(Kind)):
            kinds = ", ".join(get_args(Kind))
            raise ValueError(
                f"attention={self.attention!r}: name one or more of {kinds}, in a tuple, to be taken in turn"
            )
        self.patterns()  # which refuses lengths that make none
        if self.n_kv_heads is not None and self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is not divisible by n_kv_heads={self.n_kv_heads}")
        if self.positions == "rotary" and self.d_model // self.n_heads % 2:
            raise ValueError(f"d_model={self.d_model} over n_heads={self.n_heads} is odd; rotary positions turn pairs")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} is odd; sinusoidal positions come in pairs")

    def patterns(self) -> list[SparsePattern | None]:
        """Return the pattern of each layer, None where it sees everything."""
        strided: dict[str, Any] = {"stride": self.stride, "heads": self.sparse_heads}
        needs = {"local": {"window": self.window}, "strided": strided, "fixed": {**strided, "summary": self.summary}}
        kinds = [None if kind == "dense" else SparsePattern(kind, **needs[kind]) for kind in self.attention]
        return [kinds[layer % len(kinds)] for layer in range(self.n_layers)]

    @classmethod
    def preset(cls, name: str, **changes: Any) -> DecoderConfig:
        """Return the sizes of a published model, with ``changes``."""
        return cls(**{**preset_of(PRESETS, name), **changes})


class Decoder(nn.Module):
    """A language model of the GPT family."""

    sinusoids: Tensor  # a vector for each position, where these are neither learned nor rotary

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        check_config(config, DecoderConfig)
        self.config = c = config
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        # Attention alone sees a set of tokens and not their order: each position gets a vector of its own.
        if c.positions == "learned":
            self.positions = nn.Embedding(c.context_length, c.d_model)
        elif c.positions == "sinusoidal":  # not learned, and not stored with the weights
            self.register_buffer("sinusoids", sinusoidal_positions(c.context_length, c.d_model), persistent=False)
        self.dropout = nn.Dropout(c.dropout)
        settings: dict[str, Any] = {"norm": c.norm, "norm_eps": c.norm_eps, "norm_position": c.norm_position}
        settings |= {"activation": c.activation, "dropout": c.dropout, "bias": c.bias, "attention_bias": c.bias}
        settings |= {"n_kv_heads": c.n_kv_heads}
        d_ff = 4 * c.d_model if c.d_ff is None else c.d_ff
        blocks = (Block(c.d_model, c.n_heads, d_ff, pattern=pattern, **settings) for pattern in c.patterns())
        self.blocks = nn.ModuleList(blocks)
        # With pre-norm nothing has normalised the sum of all layers yet; with post-norm the last layer has.
        self.norm = make_norm(c.norm, c.d_model, c.norm_eps) if c.norm_position == "pre" else nn.Identity()
        self.output = nn.Linear(c.d_model, c.vocab_size, bias=False)
        if c.tie_embeddings:  # one matrix, which reads tokens and scores them (Press & Wolf 2017)
            self.output.weight = self.embedding.weight
        self._initialise()

    def forward(
        self,
        ids: Int64[Tensor, "B T"],
        targets: Int64[Tensor, "B T"] | None = None,
        *,
        mask: Bool[Tensor, "B S"] | None = None,
        cache: Cache | None = None,
    ) -> ModelOutput:
        """Score every next token: return logits (B, T, V), and the mean loss in nats a token where there are ``targets``.

        Args:
            ids: the text, at most ``context_length`` tokens.
            targets: the token that follows each of ``ids``; -100 where none is to be learned.
            mask: True at real tokens; False at padding, which nobody attends to and which takes no position. With a
                cache it covers what is cached too, S = cached + T.
            cache: from :meth:`new_cache`; then ``ids`` are only what is new.

        Raises:
            TypeError, ValueError: ids that are no batch of int64, or too many for the context; a mask of another shape.
            IndexError: an id outside the vocabulary, from the embedding.
        """
        logits = self.output(self.hidden(ids, mask=mask, cache=cache))  # (B, T, V)
        # The loss is the mean of -log p(next token). Every position is a training example, since none sees its own target.
        return ModelOutput(logits, None if targets is None else next_token_loss(logits, targets, name="targets"))

    def training_loss(self, ids: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Return the loss of :meth:`forward`, computed faster."""
        # All logits together are the largest tensor of a step: here they are computed in chunks, and none is kept.
        return chunked_cross_entropy(self.hidden(ids), self.output.weight, targets, name="targets")

    def hidden(
        self, ids: Int64[Tensor, "B T"], *, mask: Bool[Tensor, "B S"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "B T C"]:
        """Return the vector at every position, after the last norm; the arguments are those of :meth:`forward`."""
        check_ids("ids", ids)
        start = cache[0].length if cache is not None else 0  # tokens that were read before
        end, limit = start + ids.shape[1], self.config.context_length
        if end > limit:
            raise ValueError(f"ids reach to position {end}, and context_length={limit}")
        check_mask(mask, (len(ids), end))
        # Real tokens are counted from each row's first, so that padding on the left moves no text.
        positions = torch.arange(start, end, device=ids.device)[None] if mask is None else positions_of(mask)[:, start:]
        x = self.embedding(ids)  # (B, T, C)
        turn = None
        if self.config.positions == "learned":
            x = x + self.positions(positions)
        elif self.config.positions == "sinusoidal":
            x = x + self.sinusoids[positions]
        else:  # attention turns its queries and keys instead; [:, None] is for all heads alike
            turn = rotation(positions, self.config.d_model // self.config.n_heads, self.config.rope_base)[:, None]
        x = self.dropout(x)
        for i, block in enumerate(self.blocks):  # each adds what it found to x
            x = block(x, mask=mask, causal=True, rotation=turn, cache=None if cache is None else cache[i])
        hidden: Tensor = self.norm(x)
        return hidden

    def new_cache(self, max_length: int | None = None) -> Cache:
        """Return an empty cache for :meth:`forward`, one entry a layer, with room for ``max_length`` positions."""
        return [KVCache(max_length) for _ in self.blocks]

    def prefill(self, prompt: Int64[Tensor, " P"]) -> Cache:
        """Return the cache of a text that shall stand before others, such as the examples of a few-shot prompt.

        It is read once. Give it to :meth:`generate` as ``prompt_cache``, or :meth:`~nextword.attention.KVCache.expand`
        each of its layers to as many rows as follow.

        Used in: 2020_gpt3.
        """
        if not isinstance(prompt, Tensor) or prompt.ndim != 1:
            raise ValueError(f"prompt={prompt!r:.60}: give a single text, a tensor (P,) of ids")
        check_vocabulary("prompt", prompt[None], self.config.vocab_size)
        cache = self.new_cache(len(prompt))
        with torch.no_grad(), eval_mode(self):  # no inference mode: what the cache holds may meet autograd later
            self.hidden(prompt[None], cache=cache)
        return cache

    def generate(
        self,
        ids: Int64[Tensor, "B T"],
        max_new_tokens: int,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        prompt_cache: Cache | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: int | Collection[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "B T_plus_n"]:
        """Return ``ids`` with what the model writes after them, without dropout; see :func:`~nextword.generation.sample`.

        A text may grow beyond ``context_length``. The model then sees its newest ``context_length`` tokens and no others,
        and each further token takes much longer to write, since that window has to be read anew.

        Args:
            ids: the beginnings. Those of different lengths are filled up on the left, with any id.
            max_new_tokens: how many tokens to write at most.
            mask: False where ``ids`` are filled up: each row is then continued as if it were alone.
            prompt_cache: from :meth:`prefill`: a text before every row, which does not come back.
            temperature, top_k, top_p, stop, generator: see :func:`~nextword.generation.sample`.

        Raises:
            TypeError, ValueError: ids that are no batch (B, T) of int64 or outside the vocabulary, an argument out of range,
                a ``mask`` that is not False on the left and True on the right, or a text that would not fit the context
                after ``prompt_cache``.
        """
        check_vocabulary("ids", ids, self.config.vocab_size)
        _check_filling(ids, mask)
        (_, T), limit = ids.shape, self.config.context_length
        before = 0 if prompt_cache is None else prompt_cache[0].length
        whole = before + T + max_new_tokens
        if before and whole > limit:
            parts = f"prompt_cache of {before}, ids of {T}, and max_new_tokens={max_new_tokens}"
            raise ValueError(f"{parts} make {whole} tokens; context_length={limit}")
        stops = stop_tokens(stop, self.config.vocab_size)
        settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "stop": stops}
        with torch.inference_mode(), eval_mode(self):
            cache = self.new_cache(min(limit, whole))
            if prompt_cache is not None:  # seen by every row, copied for none until it writes
                cache = [layer.expand(len(ids), whole) for layer in prompt_cache]

            def next_logits(text: Tensor) -> Tensor:
                # All that is not filled up in ``ids`` is real: the prompt before them and the new tokens behind them.
                real = None if mask is None else F.pad(mask, (before, text.shape[1] - T), value=True)[:, -limit:]
                if before + text.shape[1] <= limit:  # read only what the cache has not seen
                    hidden = self.hidden(text[:, cache[0].length - before :], mask=real, cache=cache)
                else:
                    # The text is longer than the context: see the newest tokens. Their positions have changed, and with
                    # them all keys and values, so that the window is read anew for each token.
                    hidden = self.hidden(text[:, -limit:], mask=real)
                logits: Tensor = self.output(hidden[:, -1])  # (B, V)
                return logits

            written = sample(next_logits, ids, max_new_tokens, generator=generator, **settings)
        return written.clone()  # outside of inference mode: an ordinary tensor, which can be learned from

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters, each shared matrix once; without ``embedding``, the non-embedding ones."""
        return count_parameters(self, embedding=embedding)

    def flops_per_token(self, T: int | None = None) -> int:
        """Return the FLOPs of the forward pass for one token of a text of ``T``; training takes three times as many.

        Source: Kaplan et al. 2020, table 1, whose sum leaves out the output matrix.
        """
        matrices = [p for block in self.blocks for p in block.parameters() if p.ndim == 2] + [self.output.weight]
        length = self.config.context_length if T is None else T
        # A query of a dense layer meets half of the keys on average, one of a sparse layer those that it sees.
        keys = [length / 2 if p is None else p.scores(length) / length for p in self.config.patterns()]
        # Each weight of a matrix multiplies once and adds once. So does each of a key's C numbers, and of its value's:
        # 4·C for a key, or 2·T·C for the T/2 keys of a dense layer.
        return 2 * sum(p.numel() for p in matrices) + round(4 * sum(keys) * self.config.d_model)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        card: dict[str, Any] | None = None,
        tokenizer: ByteBPE | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write the model into a folder, as it is unless ``dtype`` rounds it; see :func:`nextword.checkpoints.save`.

        :func:`nextword.checkpoints.load` brings it back with its tokenizer, :meth:`from_pretrained` without.
        """
        checkpoints.save(self, path, card=card or {}, tokenizer=tokenizer, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Decoder:
        """Return a trained model in evaluation mode.

        Args:
            path: a folder that :meth:`save` wrote; the name of a model that comes with the library, such as
                ``"nextword-small"``; a folder with GPT-1 or GPT-2 as published, ``config.json`` and
                ``model.safetensors``; a GGUF file; ``"smollm2"``; or, online, a name on the Hugging Face hub, such as
                ``"gpt2"``.

        Raises:
            ValueError: there is no such model, it is of another kind, or its file lacks a weight or has one too many.
            ConnectionError: the hub cannot be reached.
        """
        location = checkpoints.resolve(path)
        if location.is_file():
            return cls.from_gguf(location)
        public = pretrained.read_hf(location, "gpt2", "openai-gpt")
        if public is None:
            return checkpoints.from_folder(cls, DecoderConfig, location)
        config, weights = public
        return checkpoints.from_state_dict(lambda: cls(DecoderConfig(**config)), weights)

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> Decoder:
        """Return a model of Llama's shape from a GGUF file, its packed weights unpacked to float32; in evaluation mode.

        Raises:
            ValueError: the file cannot be read, or holds another kind of model.
            ImportError: the package ``gguf`` is not installed.

        Used in: 2019_gpt2, 2020_gpt3, with the real SmolLM2.
        """
        config, weights = pretrained.read_gguf(path)
        return checkpoints.from_state_dict(lambda: cls(DecoderConfig(**config)), weights)

    def _initialise(self) -> None:
        # As in GPT-2: a standard deviation of 0.02 (its code has 0.01 for positions), and biases at 0. Where one of 2L
        # sublayers adds its output to x the weights start smaller, so that L layers do not swell it (Radford et al. 2019,
        # section 2.3).
        smaller = 0.02 / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                is_added = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
                nn.init.normal_(parameter, std=smaller if is_added else 0.02)


def _check_filling(ids: Tensor, mask: Tensor | None) -> None:
    """Refuse padding that does not stand on the left."""
    check_mask(mask, ids.shape)
    if mask is not None and not (bool(mask[:, -1].all()) and bool((mask[:, :-1] <= mask[:, 1:]).all())):
        raise ValueError("mask must be False on the left of a row only, then True up to its end: fill up on the left")
