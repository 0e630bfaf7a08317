"""What the library computes in small seeded cases: outputs, losses, gradients, trained weights, texts.

    python tests/golden.py          compute all cases and store them in tests/golden.json.gz

``test_golden.py`` computes them again and compares. So the library can be reshaped without moving a number: the calls
here may follow it to new names, while the stored file stays as it is.

All cases run in one thread, in float32 without autocast; those named ``bf16_…`` run under bfloat16 autocast. Where a
reshaped library calls a parameter by another name, :func:`parameters` is the place to give it its old one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import io
import itertools
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextword import (
    attention,
    checkpoints,
    encoder,
    evaluation,
    generation,
    layers,
    metrics,
    ngram,
    overlap,
    ppo,
    recurrent,
    reward_model,
    rlhf,
    runtime,
    scaling_laws,
    tokenizers,
    training,
    translation,
    wordpiece,
)
from nextword import sparse_attention as sparse
from nextword.book import translators
from nextword.data import Pair, split_of
from nextword.decoder import PRESETS, Decoder, DecoderConfig
from nextword.transformer import Transformer, TransformerConfig

STORED = Path(__file__).with_name("golden.json.gz")
GONE = (
    ("attention_function", "dropped"),
    ("heads_with_a_cache", "dropout / "),
    *(("feed_forward", f"{name}, bias {bias} / dropped") for name in layers.ACTIVATIONS for bias in (True, False)),
)
"""Stored values that nothing computes any more, by case and by how their paths begin: neither attention nor the feed-forward
network has a dropout of its own."""
WHOLE, SOME = 64, 16
"""Numbers of a tensor that is stored as it is, and entries that are stored of a larger one."""

Model = TypeVar("Model", bound=nn.Module)
Values = dict[str, Any]
CASES: dict[str, Callable[[], Values]] = {}


def case(function: Callable[[], Values]) -> Callable[[], Values]:
    """Add a function to the cases, under its name."""
    CASES[function.__name__] = function
    return function


# --- Computing and storing --------------------------------------------------------------------------------------------


def compute(name: str) -> Values:
    """Return what a case gives, each value under its path, as JSON holds it."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    half = "1" if name.startswith("bf16") else "0"
    settings = {"NEXTWORD_PRESET": "cpu", "NEXTWORD_PROGRESS": "0", "NEXTWORD_BF16": half}
    try:
        with mock.patch.dict(os.environ, settings), contextlib.redirect_stdout(io.StringIO()):
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(True)
            runtime.seed_everything(0)
            return {path: plain(value) for path, value in flat(CASES[name]())}
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dictionaries with their paths."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name} / ")
        else:
            yield before + name, value


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: a large tensor as its shape, two sums and some of its entries."""
    if isinstance(value, Tensor):
        return _described(value.detach())
    if isinstance(value, np.ndarray):
        return _described(torch.from_numpy(value.copy()))
    if isinstance(value, Mapping):
        return {str(name): plain(x) for name, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, np.generic):
        return value.item()
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _described(x: Tensor) -> Values:
    found: Values = {"shape": list(x.shape), "dtype": str(x.dtype)}
    numbers, n = x.flatten(), x.numel()
    if n > WHOLE:
        exact = numbers.double() if x.is_floating_point() else numbers.long()
        found |= {"sum": exact.sum().item(), "squares": exact.square().sum().item()}
        numbers = numbers[[(n - 1) * i // (SOME - 1) for i in range(SOME)]]
    return {**found, "entries": _digits(numbers)}


def _digits(numbers: Tensor) -> list[Any]:
    """Return the numbers, those of 32 bits or less in as few digits as tell them from all others of their kind."""
    if not numbers.is_floating_point():
        return numbers.long().tolist()
    if numbers.dtype == torch.float64:
        return numbers.tolist()
    return [float(str(x)) for x in numbers.float().numpy()]


def machine() -> dict[str, str]:
    """Return what two runs must have in common to agree to the last bit."""
    return {"processor": runtime.processor(), "torch": torch.__version__}


def read() -> Values:
    """Return the stored file."""
    stored: Values = json.loads(gzip.decompress(STORED.read_bytes()))
    for name, begins in GONE:
        stored["cases"][name] = {k: v for k, v in stored["cases"][name].items() if not k.startswith(begins)}
    return stored


def main() -> None:
    """Compute and store all cases; say how long each took."""
    cases = {}
    for name in CASES:
        start = time.process_time()
        cases[name] = compute(name)
        print(f"{name:32s} {len(cases[name]):5d} values {time.process_time() - start:6.2f} s", flush=True)
    text = json.dumps({**machine(), "cases": cases}, ensure_ascii=False, separators=(",", ":"))
    STORED.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{STORED.name}: {len(cases)} cases, {STORED.stat().st_size:,} bytes")


# --- What the cases are made of ---------------------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def whole(*shape: int, seed: int = 0, low: int = 0, high: int = 50) -> Tensor:
    """Return random ids."""
    return torch.randint(low, high, shape, generator=seeded(seed))


def left_filled(B: int, T: int) -> Tensor:
    """Return a mask that is False at the first places of each row, at one more with each row."""
    return torch.arange(T) >= torch.arange(B)[:, None] % T


def labelled(ids: Tensor) -> Tensor:
    """Return the ids as labels of which every fifth is left out."""
    return ids.masked_fill((torch.arange(ids.numel()) % 5 == 0).view_as(ids), -100)


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model by the names under which they are stored."""
    return dict(model.named_parameters())


def drawn(model: Model) -> Model:
    """Return the model with every parameter drawn anew; fresh biases and norms, at 0 and 1, would hide mistakes."""
    with torch.no_grad():
        for name, parameter in parameters(model).items():
            noise = 0.2 * normal(*parameter.shape, seed=zlib.crc32(name.encode()))
            parameter.copy_(noise + bool((parameter == 1).all()))
    return model


def slopes(result: Tensor, *of: Tensor) -> list[Tensor | None]:
    """Return the gradients of a loss, or of a tensor's product with fixed random numbers."""
    total = result if result.ndim == 0 else (result * normal(*result.shape, seed=99)).sum()
    return list(torch.autograd.grad(total, of, allow_unused=True, retain_graph=True))


def gradients(result: Tensor, model: nn.Module) -> Values:
    """Return the gradients of all parameters."""
    named = parameters(model)
    return dict(zip(named, slopes(result, *named.values()), strict=True))


def trained(model: nn.Module, *besides: str) -> Values:
    """Return the weights after training, without biases of keys and ``besides``.

    Those shift all scores of a query alike, so that their gradients are nothing but rounding, which Adam makes as long as
    any other: no other processor could repeat them.
    """
    return {name: p for name, p in parameters(model).items() if not name.endswith("key.bias") and name not in besides}


def hypotheses(found: Sequence[generation.Hypothesis]) -> list[Any]:
    return [[h.ids, h.log_prob, h.score, h.attention] for h in found]


# --- Attention --------------------------------------------------------------------------------------------------------


@case
def attention_function() -> Values:
    attend = attention.scaled_dot_product_attention
    own, fewer, longer = (2, 4, 6, 8), (2, 2, 6, 8), (2, 4, 9, 8)
    mask = torch.rand(2, 1, 6, 6, generator=seeded(5)) > 0.4
    mask[1, :, 2] = False  # a query that may attend to nothing
    cases: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        "all": (own, {}),
        "causal": (own, {"causal": True}),
        "scale": (own, {"scale": 0.5}),
        "mask": (own, {"mask": mask}),
        "causal and mask": (own, {"mask": mask, "causal": True}),
        "fewer heads": (fewer, {}),
        "fewer heads, causal": (fewer, {"causal": True}),
        "fewer heads, mask": (fewer, {"mask": mask.expand(-1, 4, -1, -1)}),
        "more keys": (longer, {}),
        "more keys, causal": (longer, {"causal": True}),
    }
    found: Values = {}
    for name, (shape, settings) in cases.items():
        given = normal(*own), normal(*shape, seed=1), normal(*shape[:3], 5, seed=2)
        q, k, v = (x.requires_grad_() for x in given)
        out = attend(q, k, v, **settings)
        read, weights = written_out(q, k, v, **settings)
        found[name] = {"out": out, "gradients": slopes(out, q, k, v), "read": read, "weights": weights}
    return found


def written_out(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return attention line by line, with its weights, by the settings of the fused kernel."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    if causal:
        order = attention.causal_mask(q.shape[2], k.shape[2])
        mask = order if mask is None else mask & order
    return attention.attention(q, k, v, mask, scale=scale)


@case
def masks() -> Values:
    rows, mask = attention.pad([[5, 6, 7], [8], [9, 10]], 1, side="left")
    patterns = {kind: pattern.mask(12, 1) for kind, pattern in sparse_patterns().items()}
    return {
        "causal": attention.causal_mask(3, 5),
        "padding": attention.padding_mask(torch.tensor([1, 4, 0]), 4),
        "padded": [rows, mask],
        "sparse": patterns,
        "scores": {kind: pattern.scores(40) for kind, pattern in sparse_patterns().items()},
        "density": sparse.density(sparse.fixed_mask(9, 3, 2)),
        "reachable": sparse.reachable(sparse.local_mask(9, 3), sparse.strided_mask(9, 3)),
    }


@case
def heads_with_rotary_positions() -> Values:
    mask = left_filled(3, 7)
    each = torch.rand(3, 7, 7, generator=seeded(3)) > 0.3
    shapes = {"none": None, "(B, S)": mask, "(B, T, S)": each, "(B, 1, T, S)": each[:, None]}
    found: Values = {}
    for n_kv_heads in (4, 2):
        model = drawn(attention.MultiHeadAttention(16, 4, n_kv_heads=n_kv_heads))
        for name, shape in shapes.items():
            positions = layers.positions_of(mask) if name == "(B, S)" else torch.arange(7)[None]
            turn = layers.rotation(positions, 4)[:, None]
            out = model(normal(3, 7, 16), mask=shape, causal=True, rotation=turn)
            found[f"{n_kv_heads} heads, mask {name}"] = {"out": out, "gradients": gradients(out, model)}
    return found


@case
def heads_across() -> Values:
    model = drawn(attention.MultiHeadAttention(16, 2, d_key=6, bias=False))
    x, context, mask = normal(2, 5, 16), normal(2, 8, 16, seed=1), left_filled(2, 8)
    with attention.capture_attention(model.modules()) as maps:
        out = model(x, context, mask=mask)
        model(x, context)
    cache = attention.KVCache()
    first, second = (model(part, context, mask=mask, cache=cache) for part in x.split([2, 3], 1))
    return {
        "out": out,
        "weights": maps[0],
        "gradients": gradients(out, model),
        "with a cache": [first, second, cache.keys],
        "recorded": maps[1],
    }


@case
def heads_with_a_cache() -> Values:
    x, found = normal(2, 9, 16), {}
    patterns = {"dense": None, "strided": sparse.SparsePattern("strided", stride=3)}
    turns, lengths = layers.rotation(torch.arange(9), 4), [4, 1, 2, 1, 1]
    for (kind, pattern), n_kv_heads in itertools.product(patterns.items(), (4, 2)):
        settings: dict[str, Any] = {"n_kv_heads": n_kv_heads}
        model = drawn(
            attention.MultiHeadAttention(16, 4, **settings)
            if pattern is None
            else sparse.SparseAttention(16, 4, pattern, **settings)
        )
        cache = attention.KVCache(12)
        with torch.no_grad():
            parts = [
                model(part, causal=True, rotation=turn, cache=cache)
                for part, turn in zip(x.split(lengths, 1), turns.split(lengths), strict=True)
            ]
            with attention.capture_attention([model]) as maps:
                model(x, causal=True, rotation=turns)
        cache.reorder(torch.tensor([1, 0]))
        cache.crop(3)
        whole_text = model(x, causal=True, rotation=turns)
        values = {"steps": torch.cat(parts, 1), "weights": maps[0], "keys": cache.keys, "values": cache.values}
        found[f"{kind}, {n_kv_heads} heads"] = values | {"gradients": gradients(whole_text, model)}
    return found


def sparse_patterns() -> dict[str, sparse.SparsePattern]:
    return {
        "dense": sparse.SparsePattern("dense"),
        "local": sparse.SparsePattern("local", window=4),
        "strided": sparse.SparsePattern("strided", stride=3),
        "strided, split": sparse.SparsePattern("strided", stride=3, heads="split"),
        "fixed": sparse.SparsePattern("fixed", stride=4, summary=2),
        "fixed, split": sparse.SparsePattern("fixed", stride=4, summary=2, heads="split"),
    }


@case
def sparse_attention_function() -> Values:
    found: Values = {}
    masks = {"no mask": None, "mask": left_filled(2, 14)}
    masks["mask with a gap"] = torch.rand(2, 14, generator=seeded(4)) > 0.3
    for (kind, pattern), (name, mask) in itertools.product(sparse_patterns().items(), masks.items()):
        q, k, v = (normal(2, 2, 14, 8, seed=i).requires_grad_() for i in range(3))
        out = sparse.sparse_attention(q, k, v, pattern, mask=mask)
        last = sparse.sparse_attention(q[:, :, -3:], k, v, pattern, mask=mask, scale=0.4)
        values = {"out": out, "gradients": slopes(out, q, k, v)}
        with mock.patch.object(sparse, "_can_fuse", lambda q, v: False):  # as on a GPU
            slow = sparse.sparse_attention(q, k, v, pattern, mask=mask)
        values |= {"last": last, "gradients of the last": slopes(last, q, k, v)}
        found[f"{kind}, {name}"] = values | {"unfused": slow, "gradients, unfused": slopes(slow, q, k, v)}
    return found


# --- Layers -----------------------------------------------------------------------------------------------------------


@case
def positions_and_norms() -> Values:
    x = normal(2, 2, 5, 8).requires_grad_()
    places = {"from 3": torch.arange(3, 8)[None], "each": whole(2, 5, high=24)}
    turned = {name: attention.rotate(x, layers.rotation(each, 8, base=500.0)[:, None]) for name, each in places.items()}
    small = 0.01 * x  # of which the default epsilon is a part
    found: Values = {"sinusoids": layers.sinusoidal_positions(9, 6), "RMS": layers.make_norm("rms", 8)(small)}
    found |= {name: [y, *slopes(y, x)] for name, y in turned.items()}
    for kind in ("layer", "rms"):
        norm = drawn(layers.make_norm(kind, 8, 1e-3))
        y = norm(x)
        found[f"{kind} norm"] = {"out": y, "gradients": gradients(y, norm), "input": slopes(y, x)}
    return found


@case
def feed_forward() -> Values:
    found: Values = {}
    for activation, bias in itertools.product(layers.ACTIVATIONS, (True, False)):
        model = drawn(layers.FeedForward(8, 20, activation=activation, bias=bias))
        y = model.eval()(normal(2, 3, 8))
        values = {"out": y, "gradients": gradients(y, model)}
        found[f"{activation}, bias {bias}"] = values
    return found


@case
def blocks() -> Values:
    x, memory = normal(2, 6, 16).requires_grad_(), normal(2, 4, 16, seed=1).requires_grad_()
    found: Values = {}
    kinds = itertools.product(("post", "pre"), ("layer", "rms"), (True, False))
    for position, norm, across in kinds:
        settings: dict[str, Any] = {"norm_position": position, "norm": norm, "cross_attention": across}
        settings |= {"activation": "gelu" if across else "swiglu", "attention_bias": not across, "dropout": 0.2}
        model = drawn(layers.Block(16, 2, 24, **settings)).eval()
        given: dict[str, Any] = {"mask": left_filled(2, 6), "causal": True}
        given |= {"memory": memory, "memory_mask": left_filled(2, 4)} if across else {}
        y = model(x, **given)
        values = {"out": y, "gradients": gradients(y, model), "input": slopes(y, x)}
        found[f"{position}, {norm}, across {across}"] = values | {"dropped": model.train()(x, **given)}
    return found


@case
def losses() -> Values:
    ids = whole(3, 100, high=40)
    hidden, weight = normal(3, 100, 8).requires_grad_(), normal(40, 8, seed=1).requires_grad_()
    found: Values = {}
    for name, labels in {"all": ids, "some": labelled(ids)}.items():
        for smoothing in (0.0, 0.1):
            logits = hidden @ weight.T
            loss = layers.next_token_loss(logits, labels, label_smoothing=smoothing)
            found[f"{name}, smoothing {smoothing}"] = [loss, *slopes(loss, hidden, weight)]
        loss = layers.chunked_cross_entropy(hidden, weight, labels)
        found[f"{name}, in pieces"] = [loss, *slopes(loss, hidden, weight)]
    return found


# --- Decoder ----------------------------------------------------------------------------------------------------------


SPARSE: dict[str, dict[str, Any]] = {
    "dense": {},
    "local": {"attention": ("dense", "local"), "window": 4},
    "strided": {"attention": ("strided",), "stride": 3},
    "fixed": {"attention": ("fixed",), "stride": 4, "summary": 2},
    "split": {"attention": ("strided", "fixed"), "stride": 4, "sparse_heads": "split"},
}
DECODERS: dict[str, dict[str, Any]] = {
    "learned": {},
    "gpt1": {"norm_position": "post", "activation": "gelu"},
    "llama": {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "n_kv_heads": 1},
    "sinusoidal": {"positions": "sinusoidal", "tie_embeddings": False, "activation": "relu", **SPARSE["local"]},
    "rotary": {"positions": "rotary", "rope_base": 100.0, "norm_position": "post", **SPARSE["strided"]},
    "fixed": {"tie_embeddings": False, "n_kv_heads": 2, "norm": "rms", **SPARSE["fixed"]},
    "split": {"positions": "rotary", "d_ff": 24, **SPARSE["split"]},
}


def new_decoder(**changes: Any) -> Decoder:
    """Return a fresh decoder, seeded."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "context_length": 24, "d_model": 16, "n_layers": 2, "n_heads": 4}
    return Decoder(DecoderConfig(**{**sizes, **changes}))


def decoders() -> Iterator[tuple[str, Decoder]]:
    return ((name, drawn(new_decoder(**changes)).eval()) for name, changes in DECODERS.items())


@case
def decoder_initial_weights() -> Values:
    return {name: parameters(new_decoder(**DECODERS[name])) for name in ("learned", "llama", "fixed")}


@case
def decoder_of_every_kind() -> Values:
    """Return loss, logits' sum of squares and that of the gradient in training mode of every combination of settings."""
    ids, found = whole(2, 12), {}
    choices: dict[str, tuple[Any, ...]] = {
        "positions": ("learned", "sinusoidal", "rotary"),
        "norm_position": ("pre", "post"),
        "norm": ("layer", "rms"),
        "tie_embeddings": (True, False),
        "n_kv_heads": (None, 2),
    }
    for kind, *chosen in itertools.product(SPARSE, *choices.values()):
        changes = {**SPARSE[kind], **dict(zip(choices, chosen, strict=True))}
        model = drawn(new_decoder(**changes))
        loss = model.train().training_loss(ids, labelled(ids))
        squares = sum(g.double().square().sum().item() for g in slopes(loss, *parameters(model).values()))
        with torch.no_grad():
            logits = model.eval()(ids).logits
        found[" ".join(map(str, (kind, *chosen)))] = [loss.item(), logits.double().square().sum().item(), squares]
    return found


@case
def decoder_gradients() -> Values:
    ids, found = whole(3, 12), {}
    for name, model in decoders():
        mask = left_filled(3, 12)
        logits, loss = model(ids, labelled(ids), mask=mask)
        in_pieces = layers.chunked_cross_entropy(model.hidden(ids, mask=mask), model.output.weight, labelled(ids))
        values = {"logits": logits, "loss": loss, "loss in pieces": in_pieces}
        found[name] = values | {"gradients": gradients(in_pieces, model)}
    return found


@case
def decoder_dropout() -> Values:
    ids, found = whole(2, 12), {}
    for name in ("learned", "gpt1", "llama", "split"):
        model = drawn(new_decoder(dropout=0.2, **DECODERS[name])).train()
        torch.manual_seed(1)
        loss = model.training_loss(ids, labelled(ids))
        found[name] = {"loss": loss, "gradients": gradients(loss, model)}
    return found


@case
@torch.no_grad()
def decoder_cache() -> Values:
    ids, mask, found = whole(2, 14), left_filled(2, 14), {}
    for name, model in decoders():
        cache, steps, end = model.new_cache(), [], 0
        for part in ids.split([5, 1, 1, 4, 3], 1):
            end += part.shape[1]
            steps.append(model(part, mask=mask[:, :end], cache=cache).logits)
        shared = [layer.expand(2) for layer in model.prefill(ids[0, :5])]
        found[name] = {"steps": torch.cat(steps, 1), "shared": model.hidden(ids[:, 5:], cache=shared)}
    return found


@case
def decoder_writes() -> Values:
    ids, found = whole(3, 5), {}
    for name, model in decoders():

        def write(n: int = 8, model: Decoder = model, **settings: Any) -> Tensor:
            return model.generate(ids, n, generator=seeded(7), **settings)

        found[name] = {
            "greedy": write(temperature=0),
            "top_k": write(temperature=0.8, top_k=5),
            "top_p": write(top_p=0.9),
            "left-filled": write(mask=left_filled(3, 5), temperature=0.7),
            "prefix": write(prompt_cache=model.prefill(ids[0]), temperature=0),
            "stop": write(12, stop=range(10)),
            "beyond the context": write(24),
            "beyond the context, left-filled": write(24, mask=left_filled(3, 5), temperature=0),
        }
    return found


@case
def decoder_counts() -> Values:
    names = ("num_parameters", "between the tables", "operations", "operations of 9")
    small = {
        name: dict(zip(names, _counts(model), strict=True))
        for name, model in itertools.chain(decoders(), [("one head", new_decoder(n_heads=1, n_layers=1))])
    }
    with torch.device("meta"):  # sizes without numbers
        large = Decoder(DecoderConfig.preset("gpt2"))
    return small | {"gpt2": dict(zip(names, _counts(large), strict=True))}


def _counts(model: Decoder) -> list[int]:
    numbers = [model.num_parameters(), model.num_parameters(embedding=False)]
    return [*numbers, model.flops_per_token(), model.flops_per_token(9)]


STORED_FIELDS = {  # the names under which settings are stored, where they are called otherwise by now
    "ppo": {
        "kl_target": "kl_goal",
        "anneal_lr": "anneal",
        "orthogonal_init": "orthogonal",
        "normalize_obs": "normalize",
        "bootstrap_truncated": "bootstrap",
        "vf_coef": "value_coef",
    },
    "rlhf": {"kl_coef": "beta", "vf_coef": "value_coef", "missing_eos_penalty": "unfinished"},
}


@case
def defaults_and_presets() -> Values:
    sizes = {"vocab_size": 50, "context_length": 16, "d_model": 8, "n_layers": 1, "n_heads": 2}
    made: dict[str, Any] = {
        "decoder": DecoderConfig(**sizes),
        "encoder": encoder.EncoderConfig(**sizes),
        "transformer": TransformerConfig(source_vocab=60, target_vocab=60),
        "recurrent translator": recurrent.Seq2SeqConfig(source_vocab=60, target_vocab=60),
        "recurrent": recurrent.LSTMConfig(vocab_size=50),
        "neural n-gram": ngram.NeuralNGramConfig(vocab_size=50),
        "training": training.TrainConfig(),
        "ppo": ppo.PPOConfig(),
        "rlhf": rlhf.RLHFConfig(),
    }
    made |= {name: DecoderConfig.preset(name) for name in PRESETS}
    made |= {name: encoder.EncoderConfig.preset(name) for name in encoder.PRESETS}
    found = {name: dataclasses.asdict(config) for name, config in made.items()}
    found["training"] |= {"clip": found["training"].pop("max_grad_norm"), "batch_size": 32, "accumulate": 1}
    found["ppo"]["normalize_obs"] &= found["ppo"].pop("normalize_reward")  # stored as one
    for name, stored in STORED_FIELDS.items():
        found[name] = {stored.get(field, field): value for field, value in found[name].items()}
    return found


# --- Encoder ----------------------------------------------------------------------------------------------------------


ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "pre": {"norm_position": "pre", "activation": "gelu_tanh", "n_segments": 3},
    "rotary": {"positions": "rotary", "d_ff": 24},
    "causal": {"causal": True, "activation": "relu", "norm_eps": 1e-5},
}


def new_encoder(**changes: Any) -> encoder.Encoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "context_length": 24, "d_model": 16, "n_layers": 2, "n_heads": 2}
    return encoder.Encoder(encoder.EncoderConfig(**{**sizes, **changes}))


def pair_batch() -> dict[str, Tensor]:
    """Return texts of two segments, filled up on the right."""
    ids, mask = whole(3, 12), left_filled(3, 12).flip(1)
    return {"ids": ids, "segments": (torch.arange(12) > 6).long().expand(3, -1), "mask": mask}


@case
def encoder_losses() -> Values:
    batch, found = pair_batch(), {}
    labels, following = labelled(batch["ids"]), torch.tensor([0, 1, 1])
    for name, changes in ENCODERS.items():
        model = drawn(encoder.MaskedLM(new_encoder(**changes))).eval()
        hidden, pooled = model.encoder(**batch)
        words = model(**batch, labels=labels)
        pairs = model(**batch, next_sentence_labels=following)
        loss = model.train().training_loss(**batch, labels=labels, next_sentence_labels=following)
        found[name] = {
            "hidden": hidden,
            "pooled": pooled,
            "logits": words.logits,
            "word loss": F.cross_entropy(words.logits[labels != -100], labels[labels != -100]),  # in the stored order
            "pair loss": [pairs.loss, pairs.next_sentence_logits],
            "loss": loss,
            "gradients": gradients(loss, model),
            "parameters": [m.num_parameters() for m in (model, model.encoder)]
            + [model.num_parameters(embedding=False)],
        }
    return found


@case
def encoder_dropout() -> Values:
    batch = pair_batch()
    model = drawn(encoder.MaskedLM(new_encoder(dropout=0.2))).train()
    loss = model.training_loss(**batch, labels=labelled(batch["ids"]))
    return {
        "loss": loss,
        "gradients": gradients(loss, model),
        "initial": parameters(encoder.MaskedLM(new_encoder(n_layers=1))),
    }


class Classifier(nn.Module):
    """An encoder with a linear layer on the pooled vector."""

    def __init__(self, body: encoder.Encoder, n_labels: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(body.config.d_model, n_labels)

    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor | None = None) -> layers.ModelOutput:
        logits = self.head(self.body(ids, mask=mask).pooled)
        return layers.ModelOutput(logits, None if labels is None else F.cross_entropy(logits, labels))


@case
def encoder_as_a_classifier() -> Values:
    examples = [(whole(4 + i % 5, seed=i).tolist(), i % 3) for i in range(12)]
    model = drawn(Classifier(new_encoder(positions="rotary"), 3))
    batches = list(itertools.islice(training.classification_batches(examples, 4, fill=1, seed=3), 4))
    config = training.TrainConfig(steps=4, learning_rate=3e-3, schedule="linear", seed=1)
    share = evaluation.accuracy(model, examples, fill=1, batch_size=5)
    losses = training.fit(model, batches, config).loss
    return {"batches": batches, "accuracy": share, "losses": losses, "weights": trained(model)}


@case
def hidden_words_and_pairs_of_texts() -> Values:
    batch = pair_batch()
    ids, mask = batch["ids"], batch["mask"]
    given: dict[str, Any] = {"special": ~mask | (ids < 3), "mask_id": 3, "vocab_size": 50}
    documents = [[whole(1 + (i + j) % 6, seed=9 * i + j).tolist() for j in range(3 + i)] for i in range(4)]
    pairs = encoder.sentence_pairs(documents, max_tokens=14, short=0.3, generator=seeded(3))
    return {
        "usual": encoder.mask_tokens(ids, generator=seeded(1), mask=mask, **given),
        "many": encoder.mask_tokens(
            ids, generator=seeded(2), rate=0.6, mix=(0.4, 0.3, 0.3), max_predictions=5, **given
        ),
        "pairs": [[pair.a, pair.b, pair.label] for pair in pairs],
    }


# --- Translators ------------------------------------------------------------------------------------------------------


PAD, BOS, EOS = 0, 1, 2


def sentences() -> tuple[Tensor, Tensor, Tensor]:
    """Return sources and targets filled up on the right, and labels."""
    source = whole(3, 7, low=3).masked_fill(~left_filled(3, 7).flip(1), PAD)
    target = whole(3, 6, low=3, seed=1)
    labels = torch.cat([target, torch.full((3, 1), EOS)], 1).masked_fill(~left_filled(3, 7).flip(1), -100)
    return source, torch.cat([torch.full((3, 1), BOS), target], 1), labels


def translator_values(model: Any, cases: Sequence[dict[str, Any]]) -> Values:
    """Return losses, gradients and translations of a model."""
    source, target, labels = sentences()
    output = model.eval()(source, target, labels)
    torch.manual_seed(3)
    dropped = model.train()(source, target, labels).loss
    found: Values = {"logits": output.logits, "loss": output.loss, "loss in training": dropped}
    found |= {"gradients": gradients(dropped, model), "parameters": model.num_parameters(embedding=False)}
    model.eval()
    for settings in cases:
        step, real = model.step(source, beam=settings["beam"]), source != PAD
        starts = torch.full((3,), BOS)
        written = generation.beam_search(step, starts, EOS, max_length=9, source_mask=real, **settings)
        found[f"translation {settings}"] = [hypotheses(best[:2]) for best in written]
    return found


def initial_tables(model: Any) -> Tensor:
    """Return the numbers that a fresh model's tables hold, sorted: when they were stored, their order was left to chance."""
    tables = {model.source_embedding.weight, model.target_embedding.weight, model.output.weight}
    return torch.cat([table.detach().flatten() for table in tables]).sort().values


SEARCHES = ({"beam": 1, "alpha": 0.0}, {"beam": 3, "alpha": 0.6}, {"beam": 3, "alpha": 1.0, "beta": 0.2})


@case
def transformers() -> Values:
    kinds: dict[str, dict[str, Any]] = {
        "paper": {},
        "pre": {"norm_position": "pre", "positions": "learned", "attention_bias": True, "activation": "gelu"},
        "own tables": {"share_embeddings": False, "d_key": 3, "bias": False, "label_smoothing": 0.0},
    }
    found: Values = {}
    for name, changes in kinds.items():
        torch.manual_seed(0)
        sizes = {"source_vocab": 50, "target_vocab": 50, "d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 24}
        fresh = Transformer(TransformerConfig(**{**sizes, "max_length": 20, **changes}))
        found[name] = {"initial": initial_tables(fresh), **translator_values(drawn(fresh), SEARCHES)}
    return found


@case
def recurrent_translators() -> Values:
    kinds: dict[str, dict[str, Any]] = {
        "none": {"attention": "none"},
        "bahdanau": {"attention": "bahdanau", "residual_from": 2, "label_smoothing": 0.1},
        "bottom": {"attention": "bottom", "share_embeddings": False, "output_norm": False, "residual_from": 2},
    }
    found: Values = {}
    for name, changes in kinds.items():
        torch.manual_seed(0)
        sizes = {"source_vocab": 50, "target_vocab": 50, "d_model": 16, "n_layers": 2, "dropout": 0.1}
        fresh = recurrent.Seq2SeqLSTM(recurrent.Seq2SeqConfig(**{**sizes, **changes}))
        initial = {"initial": initial_tables(fresh), "initial LSTM": fresh.forward_lstm.weight_ih_l0.clone()}
        found[name] = {**initial, **translator_values(drawn(fresh), SEARCHES)}
    return found


@case
def recurrent_language_model() -> Values:
    ids, found = whole(2, 9), {}
    for tied in (True, False):
        model = drawn(
            recurrent.LSTMLanguageModel(
                recurrent.LSTMConfig(vocab_size=50, d_model=16, dropout=0.2, tie_embeddings=tied)
            )
        )
        logits, loss = model.eval()(ids, labelled(ids))
        dropped = model.train()(ids, labelled(ids)).loss
        values = {"logits": logits, "loss": loss, "loss in training": dropped, "count": model.num_parameters()}
        found[f"tied {tied}"] = values | {"gradients": gradients(dropped, model)}
    return found


ENGLISH = ["A cat sat.", "The dog ran to the cat.", "Where is the red house?", "It rains.", "The cat saw a dog today."]
SPANISH = [
    "Un gato se sentó.",
    "El perro corrió al gato.",
    "¿Dónde está la casa roja?",
    "Llueve.",
    "El gato vio un perro.",
]


@case
def learning_to_translate() -> Values:
    pairs = [Pair(a, b, "") for a, b in zip(ENGLISH, SPANISH, strict=True)]
    texts = [*ENGLISH, *SPANISH]
    tokenizer = translation.TranslationTokenizer
    words, subwords = tokenizer.words(texts, 40), tokenizer.subwords(texts, 270)
    batches = translation.BucketedBatches(words.encode_pairs(pairs), words, max_tokens=20, seed=1)
    corpus = translators.Corpus(words, words.encode_pairs(pairs), pairs, pairs, pairs)
    torch.manual_seed(0)
    V = words.vocab_size
    sizes = {"source_vocab": V, "target_vocab": V, "d_model": 16, "n_heads": 2, "n_layers": 1}
    model = Transformer(TransformerConfig(**sizes, d_ff=24))
    settings: dict[str, Any] = {"steps": 6, "seed": 0, "learning_rate": 1e-2, "warmup": 3, "max_tokens": 20}
    history = translators.train_translator(model, corpus, evaluate_every=3, **settings)
    sources = [source for source, _ in corpus.train]
    written = translation.translate(model, sources, words, beam=2, alpha=0.6, beta=0.1, extra=3)
    return {
        "batches": list(itertools.islice(batches, 5)),
        "subwords": subwords.encode_pairs(pairs),
        "texts": [words.decode([BOS, *target, EOS, 5]) for _, target in corpus.train],
        "bytes": subwords.decode(subwords.encode("¿Sí, gato?")),
        "losses": [history.loss, history.grad_norm, history.learning_rate],
        "evaluations": history.evaluations,
        "weights": trained(model),
        "written": hypotheses(written),
        "cross entropy": translation.cross_entropy(model, corpus.train, words, max_tokens=30),
        "bleu by length": translation.bleu_by_length(SPANISH[::-1], pairs, (3, 5)),
    }


# --- n-grams ----------------------------------------------------------------------------------------------------------


def counted_text(n: int = 120) -> Tensor:
    """Return a text whose words are unequally frequent."""
    return (whole(n, high=10) * whole(n, high=3, seed=1)).clamp(max=11)


@case
def counted_ngrams() -> Values:
    text, new, found = counted_text(), counted_text(40).flip(0), {}
    kinds = {"mle": {"backoff": 0.3}, "add_k": {"k": 0.2}, "kneser_ney": {}}
    for (smoothing, settings), order in itertools.product(kinds.items(), (1, 2, 3)):
        model = ngram.NGram(order, smoothing, vocab_size=12, **settings).fit(text)
        found[f"{smoothing}, {order}"] = {
            "log_prob": model.log_prob(new),
            "distributions": [model.distribution(context) for context in ([], [0], [2, 0], [11, 7])],
            "perplexity": model.perplexity(new),
            "written": model.sample(12, context=[0, 2], generator=seeded(1)),
        }
    shorter = model.variant(order=2, smoothing="add_k", k=0.5)
    seen = model.seen_context(new, 2)
    return found | {"variant": shorter.log_prob(new), "seen": seen, "discount": ngram.discount(model.table[2].counts)}


@case
def neural_ngrams() -> Values:
    text, found = counted_text(), {}
    sampler = ngram.NegativeSampler(text, 12, n_frequent=3, n_drawn=4)
    batches = ngram.context_batches(text, 4, 9, negatives=sampler, generator=seeded(2))
    contexts, targets, negatives, expected = next(batches)
    later = [x[:2] for x in itertools.islice(batches, 20)]  # more than one pass
    for direct, tied in itertools.product((True, False), (True, False)):
        torch.manual_seed(0)
        sizes = {"order": 4, "d_model": 6, "d_hidden": 8, "direct": direct, "tie_embeddings": tied, "dropout": 0.2}
        fresh = ngram.NeuralNGram(ngram.NeuralNGramConfig(vocab_size=12, **sizes))
        initial = {name: p.clone() for name, p in parameters(fresh).items()}
        model = drawn(fresh)
        output = model.eval()(contexts, targets)
        sampled = model(contexts, targets, negatives, expected)
        dropped = model.train()(contexts, targets).loss
        found[f"direct {direct}, tied {tied}"] = {
            "initial": initial,
            "logits": output.logits,
            "loss": output.loss,
            "gradients": gradients(output.loss, model),
            "sampled": [sampled.logits, sampled.loss],
            "gradients, sampled": gradients(sampled.loss, model),
            "loss in training": dropped,
            "log_prob": model.log_prob(text[:30]),
            "perplexity": [model.perplexity(text), model.num_parameters()],
            "distribution": model.distribution([3, 0]),
            "written": model.sample(9, context=[2], generator=seeded(4)),
        }
    return found | {"rivals": [negatives, expected], "batches": [contexts, targets, *later]}


# --- Writing and measuring --------------------------------------------------------------------------------------------


@case
def writing_from_a_table() -> Values:
    table = (2 * normal(9, 9)).log_softmax(-1)
    looks = normal(9, 4, seed=1).softmax(-1)
    logits, start = 2 * normal(3, 9, seed=2), whole(3, 2, high=9)

    def plain_step(ids: Tensor) -> Tensor:
        return table[ids[:, -1]]

    def looking_step(ids: Tensor) -> tuple[Tensor, Tensor]:
        return table[ids[:, -1]], looks[ids[:, -1]]

    filters = ({"temperature": 0.5}, {"temperature": 0}, {"top_k": 3}, {"top_p": 0.7}, {"top_k": 5, "top_p": 0.6})
    search: dict[str, Any] = {"beam": 3, "max_length": 6}
    many = generation.beam_search(looking_step, torch.tensor([1, 2]), 0, alpha=0.8, beta=0.3, **search)
    return {
        "filtered": {str(how): generation.filter_logits(logits, **how) for how in filters},
        "drawn": generation.sample(plain_step, start, 9, temperature=1.3, stop=[0, 4], generator=seeded(3)),
        "greedy": generation.sample(plain_step, start, 6, temperature=0),
        "beam": hypotheses(generation.beam_search(plain_step, 1, 0, **search)),
        "beam, alone": hypotheses(generation.beam_search(plain_step, 1, 0, max_length=6, beam=1, alpha=0)),
        "beam, looking": [hypotheses(best) for best in many],
        "penalties": [generation.length_penalty(9, 0.7), generation.coverage_penalty(looks, 0.4)],
    }


PARAGRAPH = (
    "The lighthouse keeper counted 17 ships, then 204 more; nobody believed him. It's said that he'd learnt to count from "
    "the waves: one wave, two waves, three waves... In the café they called him naïve, yet every ship's captain wrote "
    'him a letter.\n\n"Keep the light," wrote the captain of the Señora — and the keeper kept the light! ☕🚢\tEnd.'
)


def measured() -> tuple[Decoder, tokenizers.ByteBPE]:
    bpe = tokenizers.ByteBPE.train([PARAGRAPH], 290, special_tokens=["<|end|>"])
    return drawn(new_decoder(vocab_size=bpe.vocab_size, context_length=160, tie_embeddings=False)).eval(), bpe


@case
def likelihoods() -> Values:
    model, bpe = measured()
    before = PARAGRAPH[:90]
    pairs = [(before + a, b) for a, b in (("", " ships"), (" the", " light"), (" the", " wave"), ("wrote ", "him"))]
    ids, start = torch.tensor(bpe.encode(PARAGRAPH)), bpe.special_tokens["<|end|>"]
    short = [("The keeper", " kept the light"), ("One", " wave"), ("", "ship")]
    questions = [
        evaluation.Choice("He counted", (" ships", " light", " three waves"), 0),
        evaluation.Choice("They called him", (" naïve", " Señora"), 1),
        evaluation.Choice("Keep", (" the light", " nobody"), 0),
    ]
    scored = evaluation.multiple_choice(model, bpe, questions, answer_context="Answer:", bos_id=start)
    other = drawn(recurrent.LSTMLanguageModel(recurrent.LSTMConfig(vocab_size=bpe.vocab_size, d_model=16)))
    with mock.patch.object(evaluation, "_TOKENS_AT_ONCE", 40):
        small = [list(x) for x in evaluation.loglikelihood(model, bpe, [*pairs, *short], bos_id=start)]
        small.append(evaluation.perplexity(model, ids, context_length=7))
    many = [f"{PARAGRAPH[:150]} {end}" for end in ("One wave,", "The keeper", "Keep")]
    return {
        "perplexity": evaluation.perplexity(model, ids, context_length=20),
        "bits per byte": evaluation.bits_per_byte(model, bpe, PARAGRAPH, context_length=30),
        "long": [list(x) for x in evaluation.loglikelihood(model, bpe, pairs)],
        "in small batches": small,
        "not shared": [list(x) for x in evaluation.loglikelihood(model, bpe, pairs, share_prefix=False)],
        "short": [list(x) for x in evaluation.loglikelihood(model, bpe, short, bos_id=start)],
        "choices": [scored.acc, scored.acc_per_char, scored.acc_answer_context, scored.stderr, scored.right],
        "recurrent": [list(x) for x in evaluation.loglikelihood(other, bpe, short, bos_id=start)],
        "completed": evaluation.generate_until(model, bpe, ["The keeper", "One wave,"], max_new_tokens=9, stop="e"),
        "completed, shared": evaluation.generate_until(model, bpe, many, max_new_tokens=9, stop="e"),
    }


@case
def scores_and_intervals() -> Values:
    rng = np.random.default_rng(0)
    values, others = rng.normal(size=60), rng.normal(size=60)
    written, baseline = [*SPANISH[1:], SPANISH[0]], [s.replace("o", "a") for s in SPANISH]
    ratings = [[1, 3], [2], [5, 4, 4], [2, 2], [3]]
    found: Values = {}
    for name in ("bleu", "chrf"):
        score = getattr(metrics, name)(baseline, SPANISH)
        how: dict[str, Any] = {"resamples": 40, "seed": 3}
        found[name] = {
            "score": score.score,
            "interval": metrics.paired_bootstrap(name, baseline, SPANISH, **how),
            "difference": metrics.paired_bootstrap(name, written, SPANISH, baseline=baseline, **how),
        }
    prompt = evaluation.few_shot_prompt(
        list(zip(ENGLISH, SPANISH, strict=True)), 3, query=ENGLISH[0], instruction="Translate.", generator=seeded(1)
    )
    return found | {
        "mean": metrics.bootstrap_interval(np.mean, values, resamples=50, seed=1),
        "blocks": metrics.bootstrap_interval(lambda a, b: float((a - b).std()), values, others, block=4, resamples=50),
        "agreement": metrics.pairwise_accuracy(values[:5], ratings, draws=6, seed=2),
        "agreement in groups": metrics.pairwise_accuracy(values[:5], ratings, groups=["a", "a", "b", "a", "b"], seed=2),
        "win rate": metrics.win_rate(values, others.round(1)),
        "distinct": [metrics.distinct_n([text.split() for text in ENGLISH], n) for n in (1, 2)],
        "prompt": prompt,
    }


@case
def parts_of_data() -> Values:
    keys = [f"text {i}" for i in range(40)]
    return {"usual": [split_of(key) for key in keys], "equal": [split_of(key, valid=0.3, test=0.3) for key in keys]}


@case
def overlap_of_texts() -> Values:
    runs = list(overlap.ngrams(overlap.words(PARAGRAPH), 3))
    bloom = overlap.BloomFilter(40, 0.05)
    bloom.update(runs[::2])
    test = "And the keeper kept the light, then 204 more; one wave, two waves."
    return {
        "words": overlap.words(PARAGRAPH),
        "shares": [overlap.overlap(test, set(runs), n=3), overlap.overlap(test, bloom, n=3)],
        "bloom": [bloom.bits, bloom.hashes, bloom.contains(runs), runs[0] in bloom, runs[1] in bloom],
    }


@case
def scaling_fits() -> Values:
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 1e8, 4), np.geomspace(1e7, 1e10, 4)))
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=N.size))
    one = scaling_laws.PowerLaw(0.1, 1e12, 0.5)
    chinchilla = scaling_laws.Chinchilla(E=1.5, A=200.0, B=300.0, alpha=0.32, beta=0.3)
    kaplan = scaling_laws.Kaplan(0.08, 0.1, 1e13, 1e13)
    laws = [scaling_laws.fit_power_law(N, one(N) * noise, floor=floor) for floor in (False, True)]
    both = scaling_laws.fit_kaplan(N, D, kaplan(N, D) * noise)
    sums = [scaling_laws.fit_chinchilla(N, D, chinchilla(N, D) * noise, start=start) for start in (chinchilla, None)]
    size = scaling_laws.best_size(N[:4], np.array([2.3, 2.1, 2.05, 2.2]))
    given: tuple[dict[str, Any], ...] = ({"N": 1e8}, {"D": 1e9}, {"C": 1e18}, {"N": 1e7, "D": 1e9})
    names = ("E", "A", "B", "alpha", "beta", "objective", "exponent")
    return {
        "laws": [[law.exponent, law.scale, law.floor, law.r2, law.interval] for law in laws],
        "kaplan": [both.alpha_N, both.alpha_D, both.N_c, both.D_c],
        "chinchilla": [[getattr(law, name) for name in names] for law in sums],
        "optimum": list(chinchilla.optimum(np.array([1e18, 1e21]))),
        "best size": size,
        "losses": [scaling_laws.kaplan_loss(**kind) for kind in given],
        "operations": scaling_laws.training_flops(N[:3], D[:3]),
    }


# --- Tokenizers -------------------------------------------------------------------------------------------------------


@case
def byte_pairs() -> Values:
    found: Values = {}
    texts = [PARAGRAPH, "The keeper's 1,024 waves\n\n  kept  IT'S ☕é日本", ""]
    for name, pattern in tokenizers.PATTERNS.items():
        bpe = tokenizers.ByteBPE.train([PARAGRAPH], 300, pattern=pattern, special_tokens=["<|end|>", "<|pad|>"])
        with tempfile.TemporaryDirectory() as folder:
            bpe.save(Path(folder) / "bpe.json")
            again = tokenizers.ByteBPE.load(Path(folder) / "bpe.json")
        found[name] = {
            "merges": bpe.merges(),
            "ids": [again.encode(text) for text in texts],
            "special": bpe.encode("one<|end|> wave", allow_special=["<|end|>"]) + bpe.encode_ordinary("<|pad|>"),
            "bytes": bpe.encode_bytes(b"caf\xc3\xa9 \xff\xfe the"),
            "texts": [bpe.decode(again.encode(text)) for text in texts],
            "cut": bpe.decode(bpe.encode("☕é")[1:]),
            "size": bpe.vocab_size,
        }
    return found


@case
def word_pieces() -> Values:
    letters = [mark + c for c in "abcdefghiklmnoprstuvwy" for mark in ("", "##")]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, "the", "keep", "##er", "wave", "light", ","]
    found: Values = {}
    for lower in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "vocab.txt"
            file.write_text("\n".join(names) + "\n", encoding="utf8")
            bert = wordpiece.WordPiece.load(file, lower=lower, longest=12)
        one = bert.encode(PARAGRAPH)
        two = bert.encode("The [MASK] keeper,", "waves 日本 naïve", allow_special=["[MASK]"])
        found[f"lower {lower}"] = {
            "one": [one.ids, one.segments, one.special],
            "two": [two.ids, two.segments, two.special],
            "pieces": bert.pieces("Naïve KEEPERS, wave-lights\u200b!"),
            "text": bert.decode(one.ids),
        }
    return found


# --- Training ---------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for a machine that is switched off."""


def training_values(history: training.History) -> Values:
    """Return a history without its times, which nothing can repeat."""
    return {name: value for name, value in history.to_dict().items() if name != "seconds"}


def loss_of_two_parts(loss: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """Return the mean loss over the targets of two batches, whose gradients are taken one after the other."""
    total, counts = 0.0, [int((targets != -100).sum()) for targets in batches[1::2]]
    for ids, targets, count in zip(batches[::2], batches[1::2], counts, strict=True):
        part = loss(ids, targets) * (count / sum(counts))
        part.backward()
        total += part.item()
    return torch.tensor(total, dtype=torch.float64, requires_grad=True)


@case
def training_and_resuming() -> Values:
    settings: dict[str, Any] = {"dropout": 0.1, "n_kv_heads": 2, "positions": "rotary"}
    texts = [(x := whole(2, 10, seed=i), labelled(x.roll(-1, 1)) if i % 2 else x.roll(-1, 1)) for i in range(5)]
    pairs = [texts[i % 5] + texts[(i + 1) % 5] for i in range(0, 10, 2)]
    config = training.TrainConfig(
        steps=12,
        learning_rate=3e-3,
        warmup=3,
        max_grad_norm=0.5,
        seed=4,
        checkpoint_every=5,
        evaluate_every=4,
    )

    def in_two_parts() -> Decoder:
        model = new_decoder(**settings)
        model.training_loss = functools.partial(loss_of_two_parts, model.training_loss)
        return model

    def evaluate(model: Decoder) -> dict[str, float]:
        return {"loss": model(*texts[0]).loss.item(), "drawn": torch.rand(()).item()}

    def broken(model: Decoder) -> float:
        if next(calls) == 1:
            raise Interrupted
        return 0.0

    calls, whole_run, resumed = itertools.count(), in_two_parts(), in_two_parts()
    history = training.fit(whole_run, pairs, config, evaluate=evaluate)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Interrupted):  # in step 8, three steps after a checkpoint
            training.fit(resumed, pairs, config, evaluate=broken, checkpoint=folder)
        again = training.fit(in_two_parts(), pairs, config, checkpoint=folder, resume=True)
        resumed = in_two_parts()
        done = training.fit(resumed, pairs, config, checkpoint=folder, resume=True)
    return {
        "history": training_values(history),
        "weights": trained(whole_run),
        "resumed": training_values(again),
        "weights, resumed": trained(resumed),
        "finished": done.loss == again.loss,
        "random numbers outside": torch.rand(3),
    }


@case
def training_otherwise() -> Values:
    """Return short runs with other schedules, keyword batches, random windows, no clipping and no decay."""
    windows = training.random_windows(whole(200), 3, 8, generator=seeded(5))
    found: Values = {"windows": next(windows)}
    kinds: dict[str, dict[str, Any]] = {
        "linear": {"schedule": "linear", "warmup": 2, "max_grad_norm": None},
        "constant": {"schedule": "constant", "betas": (0.8, 0.99), "weight_decay": 0.0},
        "function": {"schedule": lambda step: float(16**-0.5 * min(step**-0.5, step * 3**-1.5))},
    }
    for name, settings in kinds.items():
        model = new_decoder(n_layers=1, bias=False)
        batches = [{"ids": ids, "targets": targets} for ids, targets in itertools.islice(windows, 4)]
        history = training.fit(model, batches, training.TrainConfig(steps=4, **settings))
        found[name] = {"history": training_values(history), "weights": trained(model)}
    model = new_decoder(n_layers=1, dropout=0.1, bias=False)
    drawn_inside = training.random_windows(whole(200), 3, 8)  # from the random numbers that training sets apart
    found["random batches"] = training_values(training.fit(model, drawn_inside, training.TrainConfig(steps=3, seed=2)))
    for schedule in (training.cosine, training.linear):
        found[schedule.__name__] = [
            schedule(i, learning_rate=0.1, warmup=3, steps=9, min_lr_ratio=0.2) for i in range(1, 12)
        ]
    return found


# --- Reinforcement learning -------------------------------------------------------------------------------------------


@case
def advantages_and_ppo_loss() -> Values:
    rewards, values, last = normal(7, 3), normal(7, 3, seed=1), normal(3, seed=2)
    dones = torch.rand(7, 3, generator=seeded(3)) > 0.7
    old, advantage, old_value, returns = (normal(4, 6, seed=i) for i in range(4, 8))
    mask = torch.rand(4, 6, generator=seeded(8)) > 0.3
    found: Values = {"gae": [*ppo.gae(rewards, values, dones, last), *ppo.gae(rewards, values, dones, last, lam=0.5)]}
    kinds: dict[str, dict[str, Any]] = {
        "plain": {"clip": None, "value_clip": None},
        "clipped": {},
        "masked": {"mask": mask, "clip": 0.1, "value_clip": 0.3},
    }
    for name, settings in kinds.items():
        log_prob = (old + 0.3 * normal(4, 6, seed=10)).requires_grad_()
        value = (old_value + 0.3 * normal(4, 6, seed=11)).requires_grad_()
        loss = ppo.ppo_loss(log_prob, old, advantage, value, old_value, returns, **settings)
        found[name] = [*loss, *slopes(loss.policy + 0.5 * loss.value, log_prob, value)]
    ratios = 0.5 * normal(9)
    found |= {kind: ppo.approx_kl(ratios, kind) for kind in ("k1", "k2", "k3")}
    white = [ppo.whiten(rewards), ppo.whiten(old, mask), ppo.whiten(old, mask, shift_mean=False)]
    return found | {"whitened": white, "mean": ppo.masked_mean(old, mask)}


@case
def ppo_training() -> Values:
    sizes: dict[str, Any] = {"total_steps": 96, "n_envs": 2, "n_steps": 16, "n_epochs": 2, "n_minibatches": 4}
    normalized: dict[str, Any] = {"normalize_obs": True, "normalize_reward": True}
    kinds: dict[str, dict[str, Any]] = {
        "clip": {"max_grad_norm": 0.5, "entropy_coef": 0.01, "anneal_lr": True, "value_clip": 0.2},
        "kl": {"beta": 2.0, "normalize_advantage": False},
        "adaptive_kl": {"beta": 0.5, "kl_target": 0.001, **normalized},
        "none": {"target_kl": 1e-5, "orthogonal_init": False, "bootstrap_truncated": False},
    }
    found: Values = {}
    for objective, changes in kinds.items():
        config = ppo.PPOConfig(**sizes, seed=1, **changes)
        found[objective] = ppo_values(ppo.train_ppo("CartPole-v1", config, objective=objective))
    numbers = ppo.PPOConfig(**sizes, **normalized)
    cut = ppo.train_ppo("Pendulum-v1", numbers, max_episode_steps=10)  # episodes that a time limit cuts off
    return found | {"actions that are numbers": ppo_values(cut)}


def ppo_values(result: ppo.PPOResult) -> Values:
    history = {"steps": result.steps, "returns": result.returns, "kl": result.kl, "clipped": result.clip_fraction}
    return history | {"score": result.score(3), "weights": parameters(result.policy)}


def comparison_batches(n: int) -> list[list[reward_model.Comparison]]:
    """Return batches of two comparisons, one of three texts with a tie and one of two."""

    def comparison(k: int, seed: int) -> reward_model.Comparison:
        return [(whole(4 + i, seed=seed + i, high=20).tolist(), float((seed + i) % 2 + (i == 2))) for i in range(k)]

    return [[comparison(3, 10 * i), comparison(2, 10 * i + 5)] for i in range(n)]


@case
def reward_models() -> Values:
    ranks = torch.tensor([[1, 2, 2, 0], [3, 1, 2, 1], [1, 1, 0, 0]])
    rewards = normal(3, 4).requires_grad_()
    loss = reward_model.ranking_loss(rewards, ranks)
    ids, mask = whole(3, 7, high=20), left_filled(3, 7)
    model, losses = reward_model.train_reward_model(
        new_decoder(vocab_size=20), comparison_batches(5), warmup=2, learning_rate=3e-3
    )
    rewards_now = model(ids, mask=mask)
    other = drawn(reward_model.RewardModel(new_decoder(vocab_size=20))).eval()
    compared = reward_model.comparison_loss(other, comparison_batches(1)[0])
    values = {"left": other(ids, mask=mask), "right": other(ids, mask=mask.flip(1)), "all": other(ids)}
    every = other.token_values(ids, mask=mask)
    slope = gradients(compared, other)
    other.normalize(ids, mask=mask)
    return {
        "ranking loss": [loss, *slopes(loss, rewards)],
        "ranks": reward_model.ranks(torch.tensor([[3.0, 1.0, torch.nan, 1.0]])),
        "losses": losses,
        "weights": trained(model, "decoder.norm.bias", "head.bias"),  # rankings say nothing about what all texts get
        "differences of rewards": rewards_now - rewards_now.mean(),
        "loss on rankings": compared,
        "gradients": slope,
        "rewards": values,
        "at every token": every,
        "normalised": [other.gain, other.bias, other.score([[1, 2, 3], [4], [5, 6]], batch_size=2)],
    }


@case
def rlhf_parts() -> Values:
    policy = drawn(new_decoder(vocab_size=20)).eval()
    other = drawn(new_decoder(vocab_size=20, positions="rotary")).eval()
    prompts, mask = whole(4, 5, low=1, high=20), left_filled(4, 5)
    how: dict[str, Any] = {"mask": mask, "max_new_tokens": 8, "stop": 0, "temperature": 0.8}
    answers = rlhf.rollout(policy, prompts, generator=seeded(1), **how)
    judge = drawn(reward_model.RewardModel(new_decoder(vocab_size=20))).eval()
    best = rlhf.best_of_n(policy, judge, prompts, 3, generator=seeded(2), **how)
    theirs = rlhf.response_log_probs(other, answers, temperature=0.8)
    shaped = rlhf.shape_rewards(normal(4), answers.log_prob, theirs, answers.response_mask, 0.3)
    kl_controller = rlhf.AdaptiveKL(0.2, 1.0, 100.0)
    return {
        "answers": [answers.ids, answers.mask, answers.response_mask, answers.log_prob, answers.has_eos],
        "texts": [answers.texts(), answers.responses()],
        "log-probabilities": rlhf.log_probs(other, answers.ids, answers.mask, 3),
        "best of three": [best.ids, best.log_prob],
        "theirs": theirs,
        "shaped": shaped,
        "prices": [kl_controller.update(kl, 16) for kl in (3.0, 1.1, 0.2)],
    }


@case
def rlhf_training() -> Values:
    sizes: dict[str, Any] = {"vocab_size": 20, "n_layers": 1}
    policy, reference = (drawn(new_decoder(**sizes)).eval() for _ in range(2))
    judge = drawn(reward_model.RewardModel(new_decoder(**sizes))).eval()
    prompts, mask = whole(6, 5, low=1, high=20), left_filled(6, 5)
    config: dict[str, Any] = {"iterations": 2, "batch_size": 4, "max_new_tokens": 6, "n_epochs": 2, "warmup": 1}

    def many_zeros(ids: Tensor, *, mask: Tensor) -> Tensor:
        return ((ids == 0) & mask).sum(1).float()

    kinds: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
        "model": (judge, {"kl_target": 0.5, "kl_horizon": 20.0, "temperature": 0.9}, {}),
        "text": (judge, {"ptx": 0.5, "missing_eos_penalty": None, "value_clip": None, "gamma": 0.95}, {}),
        "function": (many_zeros, {"kl_coef": 0.1, "max_grad_norm": None}, {"evaluate_every": 1}),
    }
    found: Values = {}
    for name, (reward, changes, more) in kinds.items():
        text = training.random_windows(whole(100, high=20), 2, 8, generator=seeded(4))
        if "ptx" in changes:
            more["pretrain_batches"] = text
        if more.get("evaluate_every"):
            more["evaluate"] = lambda model: {"logits": model(prompts).logits.square().sum().item()}
        settings = rlhf.RLHFConfig(**config, **changes)
        result = rlhf.train_rlhf(policy, reference, reward, prompts, settings, stop=0, mask=mask, **more)
        weights = {"policy": trained(result.policy), "critic": trained(result.critic)}
        found[name] = {"history": [stored_row(row) for row in result.history], **weights}
    return found


def stored_row(row: Mapping[str, float]) -> dict[str, float]:
    """Return what is stored of a row of the history, under the names of then."""
    names = {"kl_coef": "beta", "has_eos": "finished"}
    later = {"policy_loss", "approx_kl", "entropy", "explained_variance", "reward"}
    if "logits" not in row:  # it was stored only where something was evaluated
        later.add("iteration")
    return {names.get(name, name): value for name, value in row.items() if name not in later}


# --- Checkpoints ------------------------------------------------------------------------------------------------------


@case
def saved_models() -> Values:
    model, bpe = measured()
    found: Values = {}
    with tempfile.TemporaryDirectory() as parent:
        for bits, dtype in ((16, torch.float16), (8, torch.int8)):
            folder = Path(parent) / str(bits)
            checkpoints.save(model, folder, card={"data": "none — é"}, tokenizer=bpe, dtype=dtype)
            again, beside = Decoder.from_pretrained(folder), checkpoints.load(folder)
            assert beside.tokenizer is not None
            error = {name: (p - parameters(model)[name]).abs().max() for name, p in parameters(again).items()}
            ids = torch.tensor([beside.tokenizer.encode(PARAGRAPH)[:20]])
            values = {"weights": parameters(again), "error": error, "card": [beside.card], "ids": ids}
            found[f"{bits} bits"] = {**values, "loss": again(ids, ids).loss}
            checkpoints.save(again, folder, card={}, dtype=dtype)
            twice = Decoder.from_pretrained(folder)
            same = all(p.equal(parameters(again)[name]) for name, p in parameters(twice).items())
            found[f"{bits} bits, saved again"] = {"equal": same, "tied": twice.output.weight is twice.embedding.weight}
        kinds = {
            "encoder": drawn(new_encoder()),
            "encoder with heads": drawn(encoder.MaskedLM(new_encoder())),
            "translator": drawn(
                Transformer(
                    TransformerConfig(source_vocab=50, target_vocab=50, d_model=16, n_heads=2, n_layers=1, d_ff=24)
                )
            ),
            "recurrent": drawn(
                recurrent.Seq2SeqLSTM(recurrent.Seq2SeqConfig(source_vocab=50, target_vocab=50, d_model=16))
            ),
        }
        for name, other in kinds.items():
            checkpoints.save(other, Path(parent) / name, card={}, dtype=torch.float16)
            read_again = type(other).from_pretrained(f"{parent}/{name}")
            halves = {key: p.half().float() for key, p in parameters(other).items()}
            found[name] = all(p.equal(halves[key]) for key, p in parameters(read_again).items())
    return found


@case
def models_that_come_with_the_library() -> Values:
    model, found = Decoder.from_pretrained("nextword-small"), {}
    bpe = checkpoints.load("nextword-small").tokenizer
    assert bpe is not None
    ids = torch.tensor([bpe.encode(PARAGRAPH)])
    found["gpt2_small"] = [model(ids, ids).loss, bpe.decode(model.generate(ids[:, :9], 12, temperature=0)[0])]
    ends = [(bpe.decode(ids[0, :9]), end) for end in (".", " ships")]
    found["likelihoods"] = [list(x) for x in evaluation.loglikelihood(model, bpe, ends)]
    translators = {"gnmt_en_es": recurrent.Seq2SeqLSTM, "transformer_en_es": Transformer}
    for name, kind in translators.items():
        bpe = checkpoints.load(name).tokenizer
        assert bpe is not None
        words = translation.TranslationTokenizer.from_bpe(bpe)
        found[name] = translation.translate_texts(kind.from_pretrained(name), ENGLISH, words, beam=2, alpha=0.6)
    return found


# --- Under autocast ---------------------------------------------------------------------------------------------------


@case
def bf16_gradients() -> Values:
    ids, found = whole(2, 12), {}
    for name in ("learned", "llama", "split"):
        model = drawn(new_decoder(**DECODERS[name])).train()
        with runtime.autocast():
            loss = model.training_loss(ids, labelled(ids))
            logits = model.eval()(ids).logits
        squares = sum(g.double().square().sum().item() for g in slopes(loss, *parameters(model).values()))
        found[name] = {"loss": loss, "logits": logits.float().square().mean(), "gradient": squares**0.5}
    return found


@case
def bf16_training() -> Values:
    model = new_decoder(positions="rotary", dropout=0.1)
    batches = [(whole(2, 10, seed=i), whole(2, 10, seed=i).roll(-1, 1)) for i in range(3)]
    history = training.fit(model, batches, training.TrainConfig(steps=6, learning_rate=3e-3, warmup=2))
    norms = {name: p.square().mean().sqrt() for name, p in trained(model).items() if p.ndim == 2}
    return {"loss": history.loss, "gradient": history.grad_norm, "weights": norms}


if __name__ == "__main__":
    main()
