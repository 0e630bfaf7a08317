"""Schedules, optimiser, the loop against one written out by hand, runs killed and resumed, and two processes by torch."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from nextword import training
from nextword.decoder import Decoder, DecoderConfig
from nextword.layers import eval_mode
from nextword.training import (
    History,
    TrainConfig,
    classification_batches,
    cosine,
    fit,
    linear,
    make_optimizer,
    random_windows,
    train_step,
)

V, T = 11, 6


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_BF16", "0")


class TinyLM(nn.Module):
    """A language model that sees one token: embedding, norm, dropout, projection."""

    def __init__(self, width: int = 8, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(V, width), nn.LayerNorm(width)
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(width, V)
        generator = torch.Generator().manual_seed(seed)
        for parameter in (self.embed.weight, self.out.weight):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        nn.init.zeros_(self.out.bias)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> SimpleNamespace:
        logits = self.out(self.dropout(self.norm(self.embed(ids))))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return SimpleNamespace(logits=logits, loss=loss)


def make_batches(number: int = 4, size: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    ids = torch.randint(V, (number, size, T + 1), generator=torch.Generator().manual_seed(seed))
    return [(batch[:, :-1], batch[:, 1:].clone()) for batch in ids]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: nn.Module | dict[str, Tensor], second: nn.Module | dict[str, Tensor]) -> None:
    """Equal bit by bit."""
    one, two = (x.state_dict() if isinstance(x, nn.Module) else x for x in (first, second))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def without_seconds(history: History) -> dict[str, Any]:
    return {name: values for name, values in history.to_dict().items() if name != "seconds"}


class Stop(Exception):
    """The run is broken off."""


def broken_off(batches: Iterable[Any], after: int) -> Iterator[Any]:
    """Yield ``after`` batches, starting again where they end, then break the run off."""
    drawn = 0
    while True:
        for batch in batches:
            if drawn == after:
                raise Stop
            drawn += 1
            yield batch


# --- Schedules ---


@pytest.mark.parametrize("schedule", [cosine, linear])
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_schedules_rise_to_the_peak_and_fall_to_the_floor(schedule: Callable[..., float], data: st.DataObject) -> None:
    steps = data.draw(st.integers(2, 300))
    warmup, floor = data.draw(st.integers(0, steps - 1)), data.draw(st.floats(0, 1))
    rates = [
        schedule(s, learning_rate=0.3, warmup=warmup, steps=steps, min_lr_ratio=floor) for s in range(1, steps + 6)
    ]
    for step in range(1, warmup + 1):
        assert rates[step - 1] == pytest.approx(0.3 * step / warmup)
    assert rates[steps - 1 :] == pytest.approx([0.3 * floor] * 6)
    fall = rates[max(warmup - 1, 0) : steps]
    assert all(a >= b - 1e-15 for a, b in zip(fall, fall[1:], strict=False))


def test_cosine_and_linear_agree_with_torch_after_the_warm_up() -> None:
    for ours, theirs in (
        (cosine, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40, eta_min=0.2)),
        (linear, lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=40)),
    ):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = theirs(optimizer)
        for step in range(10, 51):
            rate = ours(step, learning_rate=2.0, warmup=10, steps=50, min_lr_ratio=0.1)
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            optimizer.step()
            scheduler.step()


def test_default_floors() -> None:
    assert cosine(9, learning_rate=2.0, warmup=3, steps=9) == pytest.approx(0.2)
    assert linear(9, learning_rate=2.0, warmup=3, steps=9) == 0.0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: cosine(0, learning_rate=1.0, warmup=0, steps=5), "step=0"),
        (lambda: linear(1, learning_rate=1.0, warmup=6, steps=5), "warmup=6"),
        (lambda: cosine(1, learning_rate=1.0, warmup=-1, steps=5), "warmup=-1"),
        (lambda: cosine(1, learning_rate=1.0, warmup=0, steps=5, min_lr_ratio=1.5), "min_lr_ratio=1.5"),
    ],
)
def test_schedules_refuse_what_they_cannot_mean(call: Callable[[], float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()


# --- Settings and optimiser ---


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("warmup", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("checkpoint_every", -1),
        ("evaluate_every", -5),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", 0.9),
        ("betas", (0.9, "0.95")),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", -1.0),
        ("max_grad_norm", "1"),
        ("learning_rate", "1e-3"),
        ("weight_decay", None),
        ("steps", 1.5),
        ("steps", "100"),
        ("warmup", True),
        ("schedule", "cosin"),
        ("warmup", 2000),
    ],
)
def test_impossible_settings_are_refused_by_name(field: str, value: Any) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=rf"{field}={re.escape(repr(value))}"):
        TrainConfig(**{field: value})


def test_settings_are_given_by_name_and_stay() -> None:
    with pytest.raises(TypeError, match="'step'"):
        TrainConfig(step=3)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(TypeError, match="positional"):
        TrainConfig(100, 1e-3)  # type: ignore[misc]
    with pytest.raises(ValueError, match="leave warmup=0"):
        TrainConfig(schedule=lambda step: 0.1, warmup=3)
    with pytest.raises(AttributeError):
        TrainConfig().steps = 3  # type: ignore[misc]  # frozen


def test_rate_follows_the_schedule_by_name_or_function() -> None:
    common = {"steps": 20, "learning_rate": 0.5, "warmup": 4}
    assert TrainConfig(schedule="cosine", **common).rate(9) == cosine(9, learning_rate=0.5, warmup=4, steps=20)
    assert TrainConfig(schedule="linear", **common).rate(9) == linear(9, learning_rate=0.5, warmup=4, steps=20)
    constant = TrainConfig(schedule="constant", **common)
    assert [constant.rate(step) for step in (1, 4, 20)] == [0.125, 0.5, 0.5]
    assert TrainConfig(schedule=lambda step: 1 / step).rate(9) == 1 / 9


def test_decay_acts_on_matrices_only() -> None:
    model = TinyLM()
    nn.init.ones_(model.out.bias)
    before = state(model)
    optimizer = make_optimizer(model, learning_rate=0.1, weight_decay=0.5, betas=(0.9, 0.99))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.state_dict().items():
        shrunk = name in ("embed.weight", "out.weight")
        torch.testing.assert_close(value, before[name] * (0.95 if shrunk else 1.0))


def test_eps_is_added_after_the_bias_correction() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = make_optimizer(model, learning_rate=1.0, weight_decay=0.0, betas=(0.9, 0.95))
    model.weight.grad = torch.full((1, 1), 1e-8)
    optimizer.step()
    assert model.weight.item() == pytest.approx(-0.5)  # eps = 1e-8; added before, it would be -0.18


def test_frozen_parameters_stay_out_and_a_model_without_others_is_refused() -> None:
    model = TinyLM()
    model.embed.requires_grad_(False)
    before = state(model)
    fit(model, make_batches(), TrainConfig(steps=3))
    assert torch.equal(model.embed.weight, before["embed.weight"])
    assert not torch.equal(model.out.weight, before["out.weight"])
    with pytest.raises(ValueError, match="TinyLM has no parameter"):
        make_optimizer(model.requires_grad_(False), learning_rate=0.1, weight_decay=0.0, betas=(0.9, 0.9))


# --- The loop ---


def by_hand(model: TinyLM, batches: list[tuple[Tensor, Tensor]], config: TrainConfig) -> list[float]:
    """AdamW written out (Loshchilov & Hutter 2019, algorithm 2, decay times the rate), clipping by the global norm."""
    parameters = list(model.parameters())
    mean, square = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    (b1, b2), norms = config.betas, []
    for step in range(1, config.steps + 1):
        ids, targets = batches[(step - 1) % len(batches)]
        gradients = torch.autograd.grad(model(ids, targets).loss, parameters)
        norms.append(math.sqrt(sum((g**2).sum().item() for g in gradients)))
        longest = math.inf if config.max_grad_norm is None else config.max_grad_norm
        scale = min(1.0, longest / (norms[-1] + 1e-6))
        for p, g, m, v in zip(parameters, gradients, mean, square, strict=True):
            m.mul_(b1).add_((1 - b1) * scale * g)
            v.mul_(b2).add_((1 - b2) * (scale * g) ** 2)
            update = m / (1 - b1**step) / ((v / (1 - b2**step)).sqrt() + 1e-8)
            decay = config.weight_decay if p.ndim >= 2 else 0.0
            p.data -= config.rate(step) * (update + decay * p.data)
    return norms


@pytest.mark.parametrize("max_grad_norm", [None, 0.3])
def test_fit_equals_a_loop_written_by_hand(max_grad_norm: float | None) -> None:
    config = TrainConfig(steps=15, learning_rate=0.05, warmup=3, max_grad_norm=max_grad_norm, weight_decay=0.2)
    ours, theirs, batches = TinyLM().double(), TinyLM().double(), make_batches()
    history = fit(ours, batches, config)
    norms = by_hand(theirs, batches, config)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0, atol=1e-12)
    assert history.grad_norm == pytest.approx(norms, rel=1e-9)
    assert max(norms) > 0.3, "the clip must have had something to do"
    assert history.learning_rate == [config.rate(step) for step in range(1, 16)]


def test_loss_starts_at_ln_v_and_one_batch_is_learned_by_heart() -> None:
    model = TinyLM(width=32)
    ids = torch.arange(10)[None]
    history = fit(model, [(ids, (ids + 1) % V)], TrainConfig(steps=150, learning_rate=0.03, weight_decay=0.0))
    assert history.loss[0] == pytest.approx(math.log(V), abs=0.1)
    assert history.loss[-1] < 0.05


def test_batches_may_be_dictionaries() -> None:
    one, two, batches = TinyLM(), TinyLM(), make_batches()
    batches[1][1][:, 2:] = -100
    config = TrainConfig(steps=5)
    fit(one, batches, config)
    fit(two, [{"targets": targets, "ids": ids} for ids, targets in batches], config)
    assert_same(one, two)


def test_bfloat16_autocast_is_used_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    model = TinyLM()
    model.out.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    for wanted in ("0", "1"):
        monkeypatch.setenv("NEXTWORD_BF16", wanted)
        fit(model, make_batches(), TrainConfig(steps=1))
    assert kinds == [torch.float32, torch.bfloat16]
    assert model.out.weight.dtype == torch.float32


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_in_float64_is_trained_in_float64_wherever(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast leaves float64 alone, and so must the loss in chunks."""
    runs = []
    for wanted in ("0", "1"):
        monkeypatch.setenv("NEXTWORD_BF16", wanted)
        torch.manual_seed(0)
        model = Decoder(decoder_config(bias=bias)).double()
        history = fit(model, make_batches(), TrainConfig(steps=3))
        runs.append((history.loss, history.grad_norm, state(model)))
    assert runs[0][:2] == runs[1][:2]
    assert_same(runs[0][2], runs[1][2])


def test_a_step_is_forward_backward_clip_and_update() -> None:
    model, (ids, targets) = TinyLM(), make_batches()[0]
    before = state(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    gradients = torch.autograd.grad(model(ids, targets).loss, list(model.parameters()))
    whole = math.sqrt(sum((g**2).sum().item() for g in gradients))
    for _ in range(2):  # what the first step left behind must not be added to the second's gradients
        model.load_state_dict(before)
        loss, norm = train_step(model, optimizer, (ids, targets), max_grad_norm=whole / 2)
    assert loss == pytest.approx(TinyLM()(ids, targets).loss.item()) and norm == pytest.approx(whole, rel=1e-6)
    for (name, value), g in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(value, before[name] - g / 2, rtol=1e-4, atol=1e-7)


def test_history_counts_times_and_survives_json() -> None:
    with pytest.raises(TypeError, match="evaluate returned None; a number or a dictionary of numbers fits"):
        fit(TinyLM(), make_batches(), TrainConfig(steps=1), evaluate=lambda model: None)  # type: ignore[arg-type, return-value]
    history = fit(TinyLM(), make_batches(), TrainConfig(steps=6), evaluate=lambda model: 2.5)
    assert history.steps == [1, 2, 3, 4, 5, 6]
    assert {len(values) for name, values in history.to_dict().items() if name != "evaluations"} == {6}
    assert history.seconds == sorted(history.seconds) and history.seconds[0] > 0
    assert history.evaluations == [{"value": 2.5, "step": 6}]
    assert History(**json.loads(json.dumps(history.to_dict()))) == history


def test_evaluation_runs_when_due_in_evaluation_mode_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []
    seconds = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))

    def evaluate(model: TinyLM) -> dict[str, float]:
        modes.append(model.dropout.training)
        torch.rand(3), np.random.rand(), random.random()
        model(*make_batches()[0]).loss.backward()  # a probe may be trained here
        list(itertools.islice(seconds, 1000))  # it takes long
        return {"loss": 1.0, "accuracy": 0.5}

    config = {"steps": 7, "learning_rate": 0.05}
    quiet, watched = TinyLM(dropout=0.5), TinyLM(dropout=0.5)
    fit(quiet, make_batches(), TrainConfig(**config))
    history = fit(watched, make_batches(), TrainConfig(evaluate_every=3, **config), evaluate=evaluate)
    assert [entry["step"] for entry in history.evaluations] == [3, 6, 7]
    assert history.evaluations[0] == {"loss": 1.0, "accuracy": 0.5, "step": 3}
    assert modes == [False] * 3
    assert_same(quiet, watched)
    assert history.seconds == [1, 2, 3, 4, 5, 6, 7], "time of evaluation must not count"


@pytest.mark.parametrize("training_mode", [True, False])
def test_modes_are_put_back_even_after_an_error(training_mode: bool) -> None:
    model = TinyLM(dropout=0.5).train(training_mode)
    model.norm.train(not training_mode)
    seen = []
    model.dropout.register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    fit(model, make_batches(), TrainConfig(steps=2))
    with pytest.raises(Stop):
        fit(model, broken_off(make_batches(), 1), TrainConfig(steps=2))
    assert seen == [True] * 3
    assert [module.training for module in (model, model.norm, model.out)] == [
        training_mode,
        not training_mode,
        training_mode,
    ]
    with eval_mode(model):
        assert not model.norm.training


def test_the_seed_decides_and_the_random_numbers_of_the_caller_go_on() -> None:
    def numbers() -> tuple[float, float]:
        return torch.rand(()).item(), float(np.random.randn())

    def train(model: TinyLM, seed: int) -> TinyLM:
        fit(model, make_batches(), TrainConfig(steps=4, seed=seed))
        return model

    def seed_all() -> None:
        torch.manual_seed(5)
        np.random.seed(5)  # Python's numbers are looked at in `child`: here the checker of annotations draws some

    models = [TinyLM(dropout=0.5) for _ in range(3)]
    seed_all()
    numbers()  # NumPy keeps the second of a pair of normal numbers for the next call: that must survive too
    expected = numbers()
    seed_all()
    numbers()
    train(models[0], seed=1)
    assert numbers() == expected
    assert_same(models[0], train(models[1], seed=1))
    assert not torch.equal(models[0].out.weight, train(models[2], seed=2).out.weight)


def test_the_order_of_the_data_does_not_depend_on_the_model() -> None:
    orders = []
    for dropout in (0.0, 0.5):
        seen: list[Tensor] = []
        model = TinyLM(dropout=dropout)
        model.embed.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0]))
        fit(model, shuffled_loader(), TrainConfig(steps=12))
        orders.append(torch.cat(seen))
    assert torch.equal(*orders)
    first, second = orders[0][:12].unique(dim=0), orders[0][12:24].unique(dim=0)
    assert torch.equal(first, second) and len(first) == 12, "two epochs hold the same rows"
    assert not torch.equal(orders[0][:12], orders[0][12:24]), "in another order"


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    class Breaks(TinyLM):
        def forward(self, ids: Tensor, targets: Tensor | None = None) -> SimpleNamespace:
            output = super().forward(ids, targets)
            return SimpleNamespace(loss=output.loss * (math.nan if (ids == 0).all() else 1.0))

    bad = (torch.zeros(1, T, dtype=torch.long), torch.ones(1, T, dtype=torch.long))
    good, model = TinyLM(), Breaks()
    config = TrainConfig(steps=5, schedule="constant", checkpoint_every=1)
    with pytest.raises(FloatingPointError, match=r"stopped at step 3: loss nan.*learning_rate"):
        fit(model, [*make_batches(number=2), bad], config, checkpoint=tmp_path)
    fit(good, make_batches(number=2), TrainConfig(steps=2, schedule="constant"))
    assert_same(good, model)
    assert len(stored(tmp_path).steps) == 2


def test_bad_batches_and_models_are_named() -> None:
    config = TrainConfig(steps=6)
    with pytest.raises(ValueError, match="ran out after 4, and the run needs 6"):
        fit(TinyLM(), iter(make_batches()), config)
    with pytest.raises(ValueError, match="ran out after 0"):
        fit(TinyLM(), [], config)
    with pytest.raises(TypeError, match="yielded a Tensor"):
        fit(TinyLM(), iter([make_batches()[0][0]]), config)
    with pytest.raises(TypeError, match="without a loss"):
        fit(TinyLM(), [make_batches()[0][:1]], config)
    outside = [(torch.tensor([[1, V]]), torch.tensor([[1, 1]]))]
    with pytest.raises(ValueError, match="ids holds ids from 1 to 11; they must lie in 0 … 10"):
        fit(Decoder(decoder_config()), outside, config)
    with pytest.raises(ValueError, match="resume=True needs checkpoint"):
        fit(TinyLM(), make_batches(), config, resume=True)
    with pytest.raises(FloatingPointError, match="step 1: loss nan .* are all its labels -100"):
        fit(TinyLM(), [(torch.zeros(1, 2, dtype=torch.long), torch.full((1, 2), -100))], config)


def test_what_cannot_be_meant_is_refused_before_training(tmp_path: Path) -> None:
    class Never(TinyLM):
        def forward(self, *args: Any) -> Any:
            raise AssertionError("nothing is trained")

    two = TrainConfig(steps=2)

    def train(config: Any = two, **more: Any) -> None:
        fit(Never(), make_batches(), config, **more)

    with as_a_reader_sees_it():
        with pytest.raises(TypeError, match=r"config is of type dict; give TrainConfig\(\*\*config\)"):
            train({"steps": 2})
        with pytest.raises(TypeError, match="config is of type int; give a TrainConfig"):
            train(2)
        with pytest.raises(TypeError, match="evaluate=3.0; give a function of the model"):
            train(evaluate=3.0)
        (tmp_path / "thesis").write_text("years of work")
        with pytest.raises(ValueError, match="thesis' is a file; give a folder"):
            train(checkpoint=tmp_path / "thesis")
        assert (tmp_path / "thesis").read_text() == "years of work"
        with pytest.raises(
            TypeError, match=r"ids is text; give random_windows the ids of it: tokenizer.encode\(text\)"
        ):
            random_windows("text", 2, 1)


def test_the_history_keeps_its_own_names() -> None:
    with pytest.raises(
        ValueError, match="evaluate returned 'step', which the history sets itself; choose another name"
    ):
        fit(TinyLM(), make_batches(), TrainConfig(steps=1), evaluate=lambda model: {"step": 7.0})


def test_the_bar_shows_the_running_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar(list[int]):
        shown: list[str] = []

        def set_postfix_str(self, text: str, refresh: bool = True) -> None:
            self.shown.append(text)

    monkeypatch.setattr(training.runtime, "progress", lambda iterable, **keywords: Bar(iterable))
    history = fit(TinyLM(), make_batches(), TrainConfig(steps=2))
    assert Bar.shown == [f"loss {history.loss[0]:.3f}", f"loss {sum(history.loss) / 2:.3f}"]


# --- Checkpoints ---


def stored(folder: Path) -> History:
    return History(**json.loads(torch.load(folder / "training.pt", weights_only=True)["history"]))


def shuffled_loader() -> DataLoader[Any]:
    ids = torch.arange(12)[:, None] * 5 % V + torch.arange(T + 1)[None]
    ids[:, 0] = 0
    ids = torch.cat([torch.stack([torch.arange(12) % V, torch.arange(12) // V], 1), ids % V], 1)
    return DataLoader(TensorDataset(ids[:, :-1], ids[:, 1:].clone()), batch_size=3, shuffle=True)


class Epochs:
    """Batches shuffled anew in each epoch, by one of the three sources of random numbers."""

    def __init__(self, shuffle: Callable[[int], list[int]]) -> None:
        self.shuffle = shuffle

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = make_batches(number=5)
        return iter([batches[i] for i in self.shuffle(5)])


SOURCES: dict[str, Callable[[], Iterable[Any]]] = {
    "a list": make_batches,
    "DataLoader": shuffled_loader,
    "torch": lambda: Epochs(lambda n: torch.randperm(n).tolist()),
    "numpy": lambda: Epochs(lambda n: np.random.permutation(n).tolist()),
    "python": lambda: Epochs(lambda n: random.sample(range(n), n)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_resumed_run_equals_one_without_a_break(source: str, tmp_path: Path) -> None:
    """Broken off twice, in the second and the fifth epoch, between two checkpoints, with dropout and evaluations."""
    make = SOURCES[source]
    settings_ = {"learning_rate": 0.05, "warmup": 4, "checkpoint_every": 4, "evaluate_every": 5, "seed": 3}
    config = TrainConfig(steps=24, **settings_)
    evaluate = lambda model: {"sum": float(model.out.weight.detach().sum()), "random": torch.rand(()).item()}  # noqa: E731
    whole = TinyLM(dropout=0.4)
    expected = fit(whole, make(), config, evaluate=evaluate)
    history = History()
    for attempt, after in enumerate((7, 19, 10**9)):
        model = TinyLM(dropout=0.4, seed=attempt + 1)  # its first weights must not matter
        torch.rand(attempt + 1), np.random.rand(attempt + 1), random.random()
        if attempt == 0:
            model.load_state_dict(TinyLM(dropout=0.4).state_dict())
        try:
            data = make() if attempt == 2 else BrokenOff(make(), after)
            history = fit(model, data, config, evaluate=evaluate, checkpoint=tmp_path, resume=attempt > 0)
        except Stop:
            assert 0 < len(stored(tmp_path).steps) <= after
    assert_same(whole, model)
    assert without_seconds(history) == without_seconds(expected)
    assert history.seconds == sorted(history.seconds)


class BrokenOff:
    """An iterable that starts again like the one inside, and breaks the run off after so many batches."""

    def __init__(self, batches: Iterable[Any], after: int) -> None:
        self.batches, self.left = batches, after

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            if self.left == 0:
                raise Stop
            self.left -= 1
            yield batch


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    config = TrainConfig(steps=5)
    first, second = TinyLM(dropout=0.3), TinyLM(dropout=0.3, seed=9)
    history = fit(first, make_batches(), config, evaluate=lambda model: 1.0, checkpoint=tmp_path, resume=True)
    untouched = broken_off([], 0)
    again = fit(second, untouched, config, evaluate=lambda model: 1 / 0, checkpoint=tmp_path, resume=True)
    assert again == history
    assert_same(first, second)
    assert os.listdir(tmp_path) == ["training.pt"]


def test_a_run_without_resume_starts_anew(tmp_path: Path) -> None:
    fit(TinyLM(), make_batches(), TrainConfig(steps=5), checkpoint=tmp_path)
    with pytest.raises(Stop):  # broken off before its first periodic checkpoint: the old one must be gone
        fit(TinyLM(seed=1), broken_off(make_batches(), 2), TrainConfig(steps=5), checkpoint=tmp_path)
    assert stored(tmp_path) == History()
    resumed, whole = TinyLM(seed=2), TinyLM(seed=1)
    fit(resumed, make_batches(), TrainConfig(steps=5), checkpoint=tmp_path, resume=True)
    fit(whole, make_batches(), TrainConfig(steps=5))
    assert_same(resumed, whole)


def test_a_constant_rate_may_be_trained_longer(tmp_path: Path) -> None:
    longer, whole = TinyLM(dropout=0.3), TinyLM(dropout=0.3)
    common = {"schedule": "constant", "warmup": 3}
    fit(longer, shuffled_loader(), TrainConfig(steps=10, **common), checkpoint=tmp_path)
    fit(longer, shuffled_loader(), TrainConfig(steps=20, **common), checkpoint=tmp_path, resume=True)
    fit(whole, shuffled_loader(), TrainConfig(steps=20, **common))
    assert_same(longer, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_grad_norm": 0.5}, r"max_grad_norm=1\.0, not 0\.5"),
        ({"max_grad_norm": None}, r"max_grad_norm=1\.0, not None"),
        ({"betas": (0.9, 0.99)}, "betas="),
        ({"seed": 1}, "seed=0, not 1"),
        ({"weight_decay": 0.0}, "weight_decay="),
        ({"learning_rate": 2e-3}, "step 1 at learning rate"),
        ({"schedule": "linear"}, "step 1 at learning rate"),
        ({"schedule": lambda step: 0.1}, "step 1 at learning rate"),
        ({"steps": 20}, "steps differ"),
        ({"steps": 3}, "at step 6, beyond steps=3"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    fit(TinyLM(), make_batches(), TrainConfig(steps=6), checkpoint=tmp_path)
    model, content = TinyLM(seed=4), (tmp_path / "training.pt").read_bytes()
    before = state(model)
    with pytest.raises(ValueError, match=message) as error:
        fit(model, make_batches(), TrainConfig(**{"steps": 6, **change}), checkpoint=tmp_path, resume=True)
    assert str(tmp_path) in str(error.value) and "resume=False" in str(error.value)
    assert_same(model, before)
    assert (tmp_path / "training.pt").read_bytes() == content


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(steps=2)
    fit(TinyLM(), make_batches(), config, checkpoint=tmp_path)
    wider, double, larger, frozen = TinyLM(width=9), TinyLM().double(), TinyLM(), TinyLM()
    larger.extra = nn.Linear(2, 2)
    frozen.out.weight.requires_grad_(False)
    for model, message in (
        (
            wider,
            r"holds embed.weight torch.float32 \(11, 8\) where this model has embed.weight torch.float32 \(11, 9\)",
        ),
        (double, r"holds embed.weight torch.float32 \(11, 8\) where this model has embed.weight torch.float64"),
        (larger, "holds nothing where this model has extra.weight"),
        (frozen, "holds out.weight .* where this model has out.weight .*, not trained: .* tied or frozen"),
    ):
        before = state(model)
        with pytest.raises(ValueError, match=message):
            fit(model, make_batches(), config, checkpoint=tmp_path, resume=True)
        assert_same(model, before)


def test_a_broken_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    config, file = TrainConfig(steps=2), tmp_path / "training.pt"
    fit(TinyLM(), make_batches(), config, checkpoint=tmp_path)
    whole = file.read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            fit(TinyLM(), make_batches(), config, checkpoint=tmp_path, resume=True)
    for content in ({"format": 99}, {"format": 2}, [2]):
        torch.save(content, file)
        with pytest.raises(ValueError, match="not of format 2"):
            fit(TinyLM(), make_batches(), config, checkpoint=tmp_path, resume=True)
    torch.save({"format": 2, "code": os.system}, file)  # a pickle that could run anything
    with pytest.raises(ValueError, match="cannot be read"):
        fit(TinyLM(), make_batches(), config, checkpoint=tmp_path, resume=True)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(TinyLM(), make_batches(), TrainConfig(steps=2), checkpoint=tmp_path)
    content = (tmp_path / "training.pt").read_bytes()

    def disk_full(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        fit(TinyLM(), make_batches(), TrainConfig(steps=4), checkpoint=tmp_path)
    assert os.listdir(tmp_path) == ["training.pt"]
    assert (tmp_path / "training.pt").read_bytes() == content


def test_a_checkpoint_is_renamed_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that was written is the one that lies there, and whoever reads the old one keeps it whole to its end."""
    save, written = torch.save, []

    def noted(state: Any, file: Any) -> None:
        save(state, file)
        written.append(os.fstat(file.fileno()).st_ino)

    monkeypatch.setattr(torch, "save", noted)
    fit(TinyLM(), make_batches(), TrainConfig(steps=2), checkpoint=tmp_path)
    assert (tmp_path / "training.pt").stat().st_ino == written[-1]
    content = (tmp_path / "training.pt").read_bytes()
    with (tmp_path / "training.pt").open("rb") as old:
        fit(TinyLM(), make_batches(), TrainConfig(steps=4), checkpoint=tmp_path)
        assert old.read() == content, "a copy would have changed the file under its reader"
    assert (tmp_path / "training.pt").stat().st_ino == written[-1]
    assert (tmp_path / "training.pt").read_bytes() != content and os.listdir(tmp_path) == ["training.pt"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_of_a_model_with_another_output_matrix_is_refused(tied: bool, tmp_path: Path) -> None:
    def network(tied: bool) -> Decoder:
        return Decoder(decoder_config(tie_embeddings=tied))

    fit(network(tied), make_batches(), TrainConfig(steps=2), checkpoint=tmp_path)
    model = network(not tied)
    before, has = state(model), ("", ", not trained") if tied else (", not trained", "")
    message = "holds output.weight .*{1} where this model has output.weight .*{0}: .* tied or frozen".format(*has)
    with pytest.raises(ValueError, match=message):
        fit(model, make_batches(), TrainConfig(steps=2), checkpoint=tmp_path, resume=True)
    assert_same(model, before)


# --- Two processes ---


def decoder_config(**changes: Any) -> DecoderConfig:
    sizes = {"vocab_size": V, "context_length": T, "d_model": 8, "n_layers": 2, "n_heads": 2}
    return DecoderConfig(**{**sizes, **changes})


# No biases: a softmax ignores that of the keys, whose gradients are rounding errors, which Adam would make large.
BEFORE = """
import os
from nextword.decoder import DecoderConfig
from nextword.training import TrainConfig
from test_training import SETTINGS, decoder_config, make_batches, torch

torch.set_default_dtype(torch.float64)
torch.manual_seed(int(os.environ["RANK"]))  # other weights in each process
config, settings, batches = decoder_config(bias=False), TrainConfig(**SETTINGS), make_batches(size=6)
"""
AFTER = """
torch.save({"history": history.to_dict(), "weights": model.state_dict()}, f"{rank}.pt")
"""
SETTINGS = {"steps": 8, "learning_rate": 0.05, "max_grad_norm": 0.8}


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    """The recipe of the library's page, with half of each batch for each process, against the whole batch in one."""
    page = (Path(__file__).parents[2] / "chapters" / "api.md").read_text()
    [recipe] = re.findall(r"```python\n(import torch\nimport torch.dist.*?)```", page, re.DOTALL)
    (tmp_path / "train.py").write_text(BEFORE + recipe + AFTER)
    places = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    quiet = {"NEXTWORD_BF16": "0", "NEXTWORD_PRESET": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": places}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **quiet}, timeout=240, **pipes)
    assert done.returncode == 0, done.stdout
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        one = Decoder(decoder_config(bias=False))
    finally:
        torch.set_default_dtype(torch.float32)
    history = fit(one, make_batches(size=6), TrainConfig(**SETTINGS))
    halves = (results["history"] for results in (first, second))
    assert np.mean([half["loss"] for half in halves], axis=0) == pytest.approx(history.loss, rel=0, abs=1e-12)
    assert first["history"]["grad_norm"] == pytest.approx(history.grad_norm, rel=0, abs=1e-12)
    assert max(history.grad_norm) > 0.8 > min(history.grad_norm), "the clip acts, but not always"
    assert_same(first["weights"], second["weights"])
    for name, value in one.state_dict().items():
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-12, msg=name)
    assert (tmp_path / "my-model").is_dir()


# --- A process that is killed ---

CONFIG = TrainConfig(steps=80, learning_rate=0.02, warmup=10, checkpoint_every=2)


def child(folder: str, task: str) -> None:
    """Train in a process of its own: slowly, or until it kills itself half-way into writing its fifth checkpoint."""
    torch.set_num_threads(1)
    save, written = torch.save, 0

    def killed_while_writing(state: Any, file: Any) -> None:
        nonlocal written
        written += 1
        if written == 5:
            file.write(b"half of a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    def slow() -> Iterator[Any]:
        while True:
            for batch in shuffled_loader():
                time.sleep(0.05)
                yield batch

    if task == "dies writing":
        before = random.getstate()
        fit(TinyLM(), make_batches(), TrainConfig(steps=2))
        assert random.getstate() == before, "Python's random numbers must go on as if there had been no training"
        torch.save = killed_while_writing
    data = slow() if task == "slow" else shuffled_loader()
    fit(TinyLM(dropout=0.4), data, CONFIG, checkpoint=folder, resume=True)


def start(folder: Path, task: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "NEXTWORD_BF16": "0", "NEXTWORD_PRESET": "cpu", "NEXTWORD_PROGRESS": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # modules of the tests, too
    command = [sys.executable, __file__, str(folder), task]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_killed_process_resumes_bit_for_bit(tmp_path: Path, one_thread: None) -> None:
    whole, resumed = TinyLM(dropout=0.4), TinyLM(seed=5, dropout=0.4)
    process = start(tmp_path, "slow")
    limit, file = time.monotonic() + 120, tmp_path / "training.pt"
    while not (file.exists() and len(stored(tmp_path).steps) >= 6):
        assert process.poll() is None and time.monotonic() < limit, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    reached = len(stored(tmp_path).steps)
    assert process.returncode == -signal.SIGKILL and 6 <= reached < CONFIG.steps - 10

    process = start(tmp_path, "dies writing")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert len(stored(tmp_path).steps) == reached + 8, "four writes went well, the fifth was cut short"
    assert (tmp_path / "training.pt.tmp").read_bytes() == b"half of a checkpoint"

    history = fit(resumed, shuffled_loader(), CONFIG, checkpoint=tmp_path, resume=True)
    expected = fit(whole, shuffled_loader(), CONFIG)
    assert_same(resumed, whole)
    assert without_seconds(history) == without_seconds(expected)
    assert os.listdir(tmp_path) == ["training.pt"]


if __name__ == "__main__":
    child(*sys.argv[1:])


@pytest.mark.parametrize("schedule", [cosine, linear])
def test_a_schedule_that_is_all_warm_up_stays_at_its_floor_afterwards(schedule) -> None:
    assert schedule(5, learning_rate=1.0, warmup=5, steps=5) == 1.0
    assert schedule(6, learning_rate=1.0, warmup=5, steps=5, min_lr_ratio=0.25) == pytest.approx(0.25)


# --- Labelled texts ---

SOME = [([i] * (1 + i % 4), i % 3) for i in range(10, 20)]


def test_classification_batches_take_every_example_once_a_pass_in_a_new_order() -> None:
    batches = classification_batches(SOME, 5, fill=7, seed=3)
    passes = []
    for _ in range(2):
        seen = []
        for ids, mask, labels in (next(batches), next(batches)):
            assert ids.shape == mask.shape == (5, max(mask.sum(1)))
            assert (ids[~mask] == 7).all()
            seen += [(row[keep].tolist(), label) for row, keep, label in zip(ids, mask, labels.tolist(), strict=True)]
        assert sorted(seen) == sorted(SOME)
        passes.append(seen)
    assert passes[0] != passes[1]
    again = next(classification_batches(SOME, 5, fill=7, seed=3))
    assert again[2].tolist() == [label for _, label in passes[0][:5]]


def test_a_rest_of_labelled_texts_waits_for_another_pass_and_too_large_a_batch_is_refused() -> None:
    batches = classification_batches(SOME, 4)
    assert all(len(next(batches)[0]) == 4 for _ in range(9))
    for size in (0, 11):
        with pytest.raises(ValueError, match=f"batch_size={size} must be 1 to 10, the number of examples"):
            classification_batches(SOME, size)


# --- Batches of text --------------------------------------------------------------------------------------------------


def test_windows_are_runs_of_the_text_from_every_place() -> None:
    text = torch.arange(10, 21)  # 11 tokens: windows of 4 and a target begin at 7 places
    batches = random_windows(text, 50, 4, generator=torch.Generator().manual_seed(0))
    inputs, targets = next(batches)
    assert inputs.shape == targets.shape == (50, 4)
    assert (inputs == inputs[:, :1] + torch.arange(4)).all() and (targets == inputs + 1).all()
    assert set(inputs[:, 0].tolist()) == set(range(10, 17))
    again = random_windows(text, 50, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(next(again)[0], inputs)
    assert not torch.equal(next(again)[0], inputs), "the next batch is another"


def test_a_text_must_hold_a_window_and_a_target() -> None:
    assert next(random_windows(torch.arange(5), 2, 4))[1][:, -1].tolist() == [4, 4]
    with pytest.raises(ValueError, match="ids holds 4 tokens; windows of length=4"):
        random_windows(torch.arange(4), 2, 4)
    with pytest.raises(ValueError, match=r"ids has shape \(3, 4\); give one long text"):
        random_windows(torch.zeros(3, 4), 2, 2)


def test_a_text_may_be_a_list() -> None:
    one, other = (
        random_windows(text, 3, 4, generator=torch.Generator().manual_seed(0))
        for text in (list(range(20)), torch.arange(20))
    )
    assert torch.equal(next(one)[1], next(other)[1])
