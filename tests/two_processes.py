"""Runs of ``fit`` that test_training.py makes in one process and, by torchrun, in two; each leaves what it came to."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from nextword.decoder import Decoder, DecoderConfig
from nextword.training import TrainConfig, fit

V, T = 7, 6


class Bigram(nn.Module):
    """Embedding and projection, a term that only rows with a 0 use, and a matrix that no row uses."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.dropout, self.out = nn.Embedding(V, 5), nn.Dropout(dropout), nn.Linear(5, V)
        self.rare, self.unused = nn.Parameter(torch.randn(V, 1)), nn.Parameter(torch.randn(2, 2))
        self.register_buffer("scale", torch.tensor(1.0 + seed))

    def forward(self, ids: Tensor, targets: Tensor) -> SimpleNamespace:
        logits = self.scale * self.out(self.dropout(self.embed(ids)))
        if (ids == 0).any():
            logits = logits + (ids == 0)[..., None] * self.rare[:, 0]
        return SimpleNamespace(loss=F.cross_entropy(logits.view(-1, V), targets.view(-1), ignore_index=-100))


def uneven_batches() -> list[tuple[Tensor, Tensor]]:
    """Five rows a batch, with 0 to 6 targets a row; in the second batch rows 0, 2 and 4 have none."""
    ids = torch.randint(1, V, (3, 5, T), generator=torch.Generator().manual_seed(1))
    targets = (ids * 3 + 1) % V
    for row, last in enumerate((1, 6, 2, 5, 3)):
        targets[:, row, last:] = -100
    targets[1, ::2] = -100
    ids[1, 1] = 0  # the second process alone uses the rare term, and only in this batch
    return list(zip(ids, targets, strict=True))


def decoder(seed: int) -> nn.Module:
    torch.manual_seed(seed)  # no biases: softmax ignores that of the keys, and Adam would blow up its rounding errors
    return Decoder(DecoderConfig(vocab_size=V, context_length=T, d_model=8, n_layers=2, n_heads=2, bias=False))


def compare(
    start: int,
    wrap: Callable[..., Any] = tuple,
    build: Callable[[int], nn.Module] = Bigram,
    clip: float = 0.7,
    **settings: Any,
) -> dict[str, Any]:
    """Train without dropout, from weights that depend on ``start``."""
    model = build(start).double()
    config = TrainConfig(steps=12, learning_rate=0.05, clip=clip, batch_size=5, evaluate_every=5, **settings)
    batches = [wrap(batch) for batch in uneven_batches()]
    evaluate = lambda model: next(model.parameters()).sum().item() + torch.rand(()).item()  # noqa: E731
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        history = fit(model, batches, config, evaluate=evaluate)
    return {"history": history.to_dict(), "weights": model.state_dict(), "shown": shown.getvalue(), "clip": clip}


def named(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"targets": batch[1], "ids": batch[0]}


COMPARED: dict[str, Callable[[int], dict[str, Any]]] = {
    "tuples, accumulate=2": lambda start: compare(start, accumulate=2),
    "dictionaries, accumulate=1": lambda start: compare(start, named),
    "a decoder": lambda start: compare(start, build=decoder, clip=1.5),
}


def longer(start: int, folder: Path, parts: list[int]) -> dict[str, Any]:
    """Train with dropout on shuffled rows, once for each number of steps, each run going on from the last."""
    ids, targets = (torch.cat(values) for values in zip(*uneven_batches(), strict=True))
    for attempt, steps in enumerate(parts):
        data = DataLoader(TensorDataset(ids, targets), batch_size=5, shuffle=True)
        model = Bigram(start + attempt, dropout=0.4)
        config = TrainConfig(steps=steps, schedule="constant", batch_size=5, checkpoint_every=4, seed=3)
        history = fit(model, data, config, checkpoint=folder, resume=True)
    return {"history": history.to_dict(), "weights": model.state_dict()}


class Breaks(Bigram):
    """Its loss is no number where a row has a 0."""

    def forward(self, ids: Tensor, targets: Tensor) -> SimpleNamespace:
        loss = super().forward(ids, targets).loss
        return SimpleNamespace(loss=loss * (math.nan if (ids == 0).any() else 1.0))


def masks(start: int) -> list[float]:
    """Return a number that tells the dropout masks of three steps apart."""
    model, seen = Bigram(start, dropout=0.5), []
    model.dropout.register_forward_hook(lambda module, inputs, output: seen.append((output != 0).double()))
    fit(model, [(torch.ones(2, 40, dtype=torch.long),) * 2], TrainConfig(steps=3))
    return [(mask.flatten() @ torch.arange(mask.numel()).double()).item() for mask in seen]


def error(model: nn.Module, batches: Iterable[Any]) -> str:
    try:
        fit(model, batches, TrainConfig(steps=3))
    except (ValueError, FloatingPointError) as caught:
        return f"{type(caught).__name__}: {caught}"
    return "none"


def errors() -> dict[str, str]:
    ids, targets = uneven_batches()[0]
    return {
        "few rows": error(Bigram(), [(ids[:1], targets[:1])]),
        "a mask": error(Bigram(), [(ids, torch.ones(T, T), targets)]),
        "no labels": error(Bigram(), [(ids, targets, True)]),
        "no number": error(Breaks(), uneven_batches()),
        "no targets": error(Bigram(), [(ids, torch.full_like(targets, -100))]),
    }


def main(folder: Path) -> None:
    rank, written, save = int(os.environ["RANK"]), [], torch.save
    torch.save = lambda *arguments: written.append(1) or save(*arguments)
    results: dict[str, Any] = {name: run(rank) for name, run in COMPARED.items()}
    results["whole"] = longer(rank, folder / "whole", [20])
    results["resumed"] = longer(rank, folder / "resumed", [10, 20])
    results.update(written=len(written), masks=masks(rank), errors=errors())
    save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
