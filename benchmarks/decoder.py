"""Race the decoder against transformers' GPT-2 and against a plainly written GPT: training steps, and writing with a cache.

Run ``python benchmarks/decoder.py``. All sides have the same weights and get the same batches, on one thread,
interleaved: in float32, and in training also under bfloat16 autocast where the processor has it. Losses and written
words must agree before the time counts.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import torch
from plain import PlainGPT
from racing import Row, begin, ceilings, interleaved, rows, table
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, logging

from nextword import runtime
from nextword.decoder import Decoder
from nextword.training import make_optimizer

logging.set_verbosity_error()
logging.disable_progress_bar()

V, PROMPT = 4096, 8


class Size(NamedTuple):
    layers: int
    width: int
    heads: int
    length: int
    batch: int

    def __str__(self) -> str:
        return f"GPT {self.layers} × {self.width}"


SMALL, LARGE = Size(4, 128, 4, length=128, batch=16), Size(6, 384, 6, length=256, batch=4)


def models(size: Size) -> tuple[Decoder, GPT2LMHeadModel, PlainGPT]:
    """Return ours, theirs and the plain one with the same weights: ours reads their files."""
    sizes = {"n_layer": size.layers, "n_embd": size.width, "n_head": size.heads, "n_positions": size.length}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=V, **sizes, **dropouts, bos_token_id=None, eos_token_id=None)
    theirs = GPT2LMHeadModel(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = Decoder.from_pretrained(folder)
    ids = torch.randint(V, (2, size.length))
    with torch.no_grad():
        plain = PlainGPT.like(ours)
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)
        torch.testing.assert_close(ours(ids).logits, plain(ids)[0])
    return ours, theirs, plain


def trainer(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = make_optimizer(model, learning_rate=1e-4, weight_decay=0.1, betas=(0.9, 0.95))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def training(
    size: Size, rounds: int, bars: dict[str, float], *, bf16: bool = False, gemm: float | None = None
) -> list[Row]:
    """Race updates of the weights; with ``gemm``, GFLOP/s of plain matrix products, add our share of it.

    Ours runs twice: as ``training.fit`` takes a step, with the loss in chunks, and with all logits at once, as both peers
    do. The second says what the options of our block cost beside the plain one.
    """
    ids = torch.randint(V, (size.batch, size.length))
    targets = torch.cat([ids[:, 1:], torch.full((size.batch, 1), -100)], 1)  # theirs shifts the ids itself
    ours, theirs, plain = (model.train() for model in models(size))
    whole = copy.deepcopy(ours)
    losses = {
        "ours": lambda: ours.training_loss(ids, targets),
        "all logits": lambda: whole(ids, targets).loss,
        "transformers": lambda: theirs(input_ids=ids, labels=ids, use_cache=False).loss,
        "plain block": lambda: plain(ids, targets)[1],
    }

    def under_autocast(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                return loss()

        return run

    losses = {side: under_autocast(loss) for side, loss in losses.items()}
    for loss in losses.values():
        torch.testing.assert_close(losses["ours"](), loss(), rtol=1e-2 if bf16 else 1e-5, atol=0.0)
    networks = {"ours": ours, "all logits": whole, "transformers": theirs, "plain block": plain}
    seconds = interleaved({side: trainer(networks[side], loss) for side, loss in losses.items()}, rounds)
    name = f"{size}, training{', bf16' if bf16 else ''}"
    result = rows(name, "steps/s", 1, {side: seconds[side] for side in ("ours", "transformers", "plain block")}, bars)
    alike = {"ours": seconds["all logits"], "plain block": seconds["plain block"]}
    result += rows(f"{name}, all logits", "steps/s", 1, alike, {"plain block": 1.0})
    if gemm is not None:
        gflop = 3 * ours.flops_per_token(size.length) * size.batch * size.length / 1e9
        against = {"ours": seconds["ours"], "GEMM": gflop / gemm}
        result += rows(f"{size}, training, share of GEMM ceiling", "GFLOP/s", gflop, against, {"GEMM": 0.8})
    return result


def writing(size: Size, batch: int, new: int, rounds: int, bars: dict[str, float]) -> list[Row]:
    """Race greedy writing with a cache; one step adds a token to every row."""
    ours, theirs, plain = models(size)
    prompt = torch.randint(1, V, (batch, PROMPT))
    fixed = {"do_sample": False, "max_new_tokens": new, "eos_token_id": None, "pad_token_id": 0}
    sides = {
        "ours": lambda: ours.generate(prompt, new, temperature=0),
        "transformers": lambda: theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **fixed),
        "plain block": lambda: plain.generate(prompt, new),
    }
    first, *others = (write() for write in sides.values())
    if not all(torch.equal(first, other) for other in others):
        raise RuntimeError("the sides write different words")
    return rows(f"{size}, writing, batch {batch}", "steps/s", new, interleaved(sides, rounds), bars)


def races(gemm: float, rounds: int = 20) -> list[Row]:
    """Return all rows of this file; ``gemm`` is the ceiling of matrix products in float32, in GFLOP/s."""
    torch.manual_seed(0)
    small, large = {"transformers": 1.4, "plain block": 1.0}, {"plain block": 1.0}
    result = training(SMALL, rounds, small) + training(LARGE, rounds, large, gemm=gemm)
    if runtime.bf16():
        result += training(SMALL, rounds, small, bf16=True) + training(LARGE, rounds, large, bf16=True)
    faster = {"transformers": 1.3, "plain block": 1.0}
    result += writing(SMALL, 1, 100, rounds, faster) + writing(SMALL, 16, 100, rounds, {"plain block": 1.0})
    return result + writing(LARGE, 1, 200, rounds // 2, faster) + writing(LARGE, 8, 200, rounds // 2, faster)


if __name__ == "__main__":
    begin()
    print(table(races(ceilings()["gemm_float32_gflops"])))
