"""Train a model: batches, learning-rate schedules, the optimiser, one step, and a loop that resumes bit for bit."""

from __future__ import annotations

import json
import math
import numbers
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice, zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nextword import runtime
from nextword.attention import pad
from nextword.layers import IGNORE_INDEX, check_config, check_vocabulary, eval_mode, train_mode

Batch: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""What ``batches`` yields: the model's positional arguments, or its keyword arguments."""


# --- Batches ---------------------------------------------------------------------------------------------------------


def random_windows(
    ids: Tensor | Sequence[int], batch_size: int, length: int, *, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return batches without end: inputs and targets (batch_size, length) from random places of one long text (N,).

    Raises:
        TypeError: ``ids`` is text that nobody has encoded.
        ValueError: ``ids`` is no single text, or does not hold a window and its last target.

    Used in: 2018_gpt1, 2018_bert, 2022_instructgpt.
    """
    if isinstance(ids, str):
        raise TypeError("ids is text; give random_windows the ids of it: tokenizer.encode(text)")
    text = torch.as_tensor(ids)
    if text.ndim != 1:
        raise ValueError(f"ids has shape {tuple(text.shape)}; give one long text (N,)")
    n_starts = len(text) - length
    if n_starts < 1:
        raise ValueError(
            f"ids holds {len(text)} tokens; windows of length={length} and a target need one more at least"
        )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            # Any place may be the first of a window: cut at fixed places, the same tokens would always lack a context.
            starts = torch.randint(n_starts, (batch_size, 1), generator=generator)  # (B, 1)
            windows = text[starts + torch.arange(length + 1)]  # (B, T + 1)
            yield windows[:, :-1], windows[:, 1:]  # each token, and the one that follows it

    return batches()


def classification_batches(
    examples: Sequence[tuple[Sequence[int], int]], batch_size: int, *, fill: int = 0, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Return batches of labelled texts without end: ids (B, T), a mask (B, T) that is True at real ones, labels (B,).

    Args:
        examples: the ids of each text and the number of its label.
        batch_size: B; no more than there are examples.
        fill: the id to fill up with, behind a text.
        seed: the same seed gives the same batches.

    Raises:
        ValueError: ``batch_size`` does not fit.

    Used in: 2018_gpt1, 2018_bert.
    """
    if not 1 <= batch_size <= len(examples):
        raise ValueError(f"batch_size={batch_size} must be 1 to {len(examples)}, the number of examples")

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rng = random.Random(seed)
        while True:  # each pass takes the examples in a new order, and leaves a rest that makes no whole batch
            order = rng.sample(examples, len(examples))
            for i in range(0, len(order) - batch_size + 1, batch_size):
                texts, labels = zip(*order[i : i + batch_size], strict=True)
                yield *pad(texts, fill), torch.tensor(labels)  # (B, T), (B, T), (B,)

    return batches()


# --- Schedules: the learning rate as a function of the step, which counts from 1 -------------------------------------


def cosine(step: int, *, learning_rate: float, warmup: int, steps: int, min_lr_ratio: float = 0.1) -> float:
    """Return the rate of a linear warm-up and then half a cosine, as GPT-3 used (Brown et al. 2020, appendix B).

    Args:
        step: the update, from 1.
        learning_rate: the highest rate, reached at step ``warmup``.
        warmup: steps of warm-up; 0 for none.
        steps: the step at which the rate arrives at its lowest; it stays there afterwards.
        min_lr_ratio: the lowest rate as a share of the highest, from 0 to 1.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> [round(cosine(step, learning_rate=1.0, warmup=2, steps=6), 3) for step in (1, 2, 4, 6, 7)]
        [0.5, 1.0, 0.55, 0.1, 0.1]
    """
    # Large steps for most of the training, to get far; small ones in the end, so that the weights settle.
    wave = (1 + math.cos(math.pi * _progress(step, warmup, steps, min_lr_ratio))) / 2  # from 1 down to 0
    return learning_rate * _warm(step, warmup) * (min_lr_ratio + (1 - min_lr_ratio) * wave)


def linear(step: int, *, learning_rate: float, warmup: int, steps: int, min_lr_ratio: float = 0.0) -> float:
    """Return the rate of a linear warm-up and then a straight line down, as BERT did (Devlin et al. 2018, section A.2).

    Arguments and errors are those of :func:`cosine`. With ``min_lr_ratio=0`` the very last step has rate 0.

    Example:
        >>> [linear(step, learning_rate=1.0, warmup=2, steps=6) for step in (1, 2, 4, 6)]
        [0.5, 1.0, 0.5, 0.0]
    """
    # Late in training a large rate would mostly follow the noise of single batches: the steps become small evenly.
    line = 1 - _progress(step, warmup, steps, min_lr_ratio)  # from 1 down to 0
    return learning_rate * _warm(step, warmup) * (min_lr_ratio + (1 - min_lr_ratio) * line)


def _warm(step: int, warmup: int) -> float:
    # Adam's running means say little yet in the first steps: full steps in their direction could wreck the model.
    # Steps count from 1, so that the first one has a rate above 0 already.
    return min(1.0, step / warmup) if warmup else 1.0


def _progress(step: int, warmup: int, steps: int, min_lr_ratio: float) -> float:
    """Return the share of the way down, 0 up to the end of the warm-up and 1 from ``steps`` on."""
    if step < 1:
        raise ValueError(f"step={step} is below 1: steps count from 1")
    if not 0 <= warmup <= steps:
        raise ValueError(f"warmup={warmup} is outside 0 … steps={steps}")
    if not 0 <= min_lr_ratio <= 1:
        raise ValueError(f"min_lr_ratio={min_lr_ratio} is outside 0 … 1: it is a share of learning_rate")
    # max: where the whole run is warm-up, the steps after it must not divide by 0.
    return 0.0 if step <= warmup else min(1.0, (step - warmup) / max(steps - warmup, 1))


# --- Settings --------------------------------------------------------------------------------------------------------

SCHEDULES = ("cosine", "linear", "constant")
"""Names that ``TrainConfig.schedule`` takes; all three begin with the warm-up."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained. Impossible values are refused at once.

    Example:
        >>> TrainConfig(steps=100, warmup=200)
        Traceback (most recent call last):
        ...
        ValueError: warmup=200 is more than steps=100; shorten the warm-up or train longer
    """

    steps: int = 1000
    """Updates of the parameters."""
    learning_rate: float = 1e-3
    """The highest rate of a named schedule. A callable schedule does not look at it."""
    schedule: str | Callable[[int], float] = "cosine"
    """``cosine`` (down to a tenth of the highest rate), ``linear`` (down to 0), ``constant``, or a function of the step."""
    warmup: int = 0
    """Steps over which the rate rises in a straight line to its highest. Post-norm models need them."""
    weight_decay: float = 0.1
    """Decoupled weight decay of the matrices; gains and biases get none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay rates of the mean of the gradient and of its square."""
    max_grad_norm: float | None = 1.0
    """Largest norm of the whole gradient; a longer one is shortened to it. None: never."""
    seed: int = 0
    """Where the random numbers of the run (dropout, shuffling by ``batches``) start."""
    checkpoint_every: int = 0
    """Steps between two checkpoints, where ``fit`` is given a folder for them. 0: only at the start and at the end."""
    evaluate_every: int = 0
    """Steps between two calls of ``evaluate``, where ``fit`` is given one. 0: only at the end."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name, least in {"steps": 1, "warmup": 0, "seed": 0, "checkpoint_every": 0, "evaluate_every": 0}.items():
            value = getattr(self, name)
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            _check(whole and value >= least, f"{name}={value!r} must be a whole number of at least {least}")
        _check(self.seed < 2**32 - 1, f"seed={self.seed} is too large; choose one below 2**32 - 1")
        rate, decay, norm, betas = self.learning_rate, self.weight_decay, self.max_grad_norm, self.betas
        fix = "must be a number above 0 and finite; 1e-3 suits a small model"
        _check(_is_number(rate) and 0 < rate < math.inf, f"learning_rate={rate!r} {fix}")
        fix = "must be a finite number of at least 0; 0 turns it off"
        _check(_is_number(decay) and 0 <= decay < math.inf, f"weight_decay={decay!r} {fix}")
        fix = "must be a number above 0; None turns clipping off"
        _check(norm is None or (_is_number(norm) and norm > 0), f"max_grad_norm={norm!r} {fix}")
        pair = isinstance(betas, Sequence) and len(betas) == 2 and all(_is_number(b) and 0 <= b < 1 for b in betas)
        _check(pair, f"betas={betas!r} must be two numbers from 0 up to, not including, 1; GPT-3 took (0.9, 0.95)")
        if callable(self.schedule):
            fix = "leave warmup=0 and put the warm-up into the function"
            _check(self.warmup == 0, f"warmup={self.warmup} does nothing when schedule is a function; {fix}")
        else:
            fix = f"choose {', '.join(SCHEDULES)}, or give a function of step"
            _check(self.schedule in SCHEDULES, f"schedule={self.schedule!r}: {fix}")
            fix = "shorten the warm-up or train longer"
            _check(self.warmup <= self.steps, f"warmup={self.warmup} is more than steps={self.steps}; {fix}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; steps count from 1."""
        if callable(self.schedule):
            return float(self.schedule(step))
        if self.schedule == "constant":
            return self.learning_rate * _warm(step, self.warmup)
        # The way down ends at config.steps: a longer run has other rates, and not merely more of the same.
        decay = {"cosine": cosine, "linear": linear}[self.schedule]
        return decay(step, learning_rate=self.learning_rate, warmup=self.warmup, steps=self.steps)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


# --- What a run leaves behind ----------------------------------------------------------------------------------------


@dataclass
class History:
    """What happened in training: one entry a step in each list, and the evaluations."""

    steps: list[int] = field(default_factory=list)  #: 1, 2, 3, …
    loss: list[float] = field(default_factory=list)
    """Mean loss over the targets of the step, before its update; nats for a language model."""
    learning_rate: list[float] = field(default_factory=list)  #: That of the step.
    grad_norm: list[float] = field(default_factory=list)
    """Norm of the whole gradient before clipping. Healthy: falls at first and then stays. Growing: lower ``learning_rate``."""
    seconds: list[float] = field(default_factory=list)
    """Time in training up to the end of the step, without evaluations and checkpoints."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """A row for each call of ``evaluate``: ``{"step": 100, "value": 3.2}`` where it gave a number, and ``step`` beside its own
    keys where it gave a dictionary."""

    def append(self, step: int, loss: float, learning_rate: float, grad_norm: float, seconds: float) -> None:
        """Add a step that took ``seconds``."""
        self.steps.append(step)
        self.loss.append(loss)
        self.learning_rate.append(learning_rate)
        self.grad_norm.append(grad_norm)
        self.seconds.append(seconds + (self.seconds[-1] if self.seconds else 0.0))  # a running total

    def to_dict(self) -> dict[str, Any]:
        """Return all lists as plain Python values."""
        return asdict(self)


# --- The optimiser and one update ------------------------------------------------------------------------------------


def make_optimizer(
    model: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) that decays matrices and leaves gains and biases alone.

    Raises:
        ValueError: the model has no parameter to train.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]  # no frozen ones; a tied one comes once
    _check(bool(parameters), f"model: this {type(model).__name__} has no parameter with requires_grad=True")
    # Decay keeps the many numbers of a matrix small, embeddings included. A gain of 0 would silence its channel.
    matrices = {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay}
    vectors = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
    groups = [group for group in (matrices, vectors) if group["params"]]
    fused = parameters[0].device.type in ("cpu", "cuda")  # there one kernel updates all parameters at once
    # Decoupled decay acts on the weights directly. As a part of the gradient it would be divided by Adam's root of
    # squares, and so be weakest for the weights with the largest gradients.
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, *, max_grad_norm: float | None = None
) -> tuple[float, float]:
    """Make one update of the parameters; return the loss before it and the norm of the whole gradient before clipping.

    Args:
        model, batch: as for :func:`fit`.
        optimizer: holds the parameters to train, and the learning rate.
        max_grad_norm: as in :class:`TrainConfig`.

    Raises:
        TypeError: the model returned no loss.
        FloatingPointError: the loss or the gradient is not finite; the parameters are as they were.

    Used in: every chapter that trains, by :func:`fit`.
    """
    optimizer.zero_grad()  # backward() adds to the gradients that are there
    with runtime.autocast():  # products in bfloat16 where faster; weights stay float32
        loss = _loss(model, batch)  # (), the mean over the batch's targets
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # A gradient far longer than usual keeps its direction, but not its length: one norm for all parameters together. With
    # inf, which nothing exceeds, it is only measured.
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_grad_norm is None else max_grad_norm)
    if not (loss.isfinite() and norm.isfinite()):  # a single NaN would be in all weights after the update
        raise FloatingPointError(f"loss {loss.item()} and gradient norm {norm.item()}")
    optimizer.step()
    return loss.item(), norm.item()  # the loss of the weights before this update


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    call = getattr(model, "training_loss", model)  # the same loss, where a model has a cheaper way to it
    output = call(**batch) if isinstance(batch, Mapping) else call(*batch)
    loss = output if isinstance(output, Tensor) else getattr(output, "loss", None)
    if not isinstance(loss, Tensor):
        raise TypeError(f"model returned a {type(output).__name__} without a loss; batches must hold the targets too")
    return loss


# --- The loop --------------------------------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    config: TrainConfig,
    *,
    evaluate: Callable[[Any], float | Mapping[str, float]] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> History:
    """Train ``model`` in place for ``config.steps`` updates and return what happened.

    The model is left in training mode: before you call it yourself, ``model.eval()`` turns dropout off.

    Args:
        model: called with a batch, returns an object with ``.loss``, the mean over the batch's targets. A model may have
            a method ``training_loss`` that returns this loss alone, and cheaper.
        batches: yields ``(ids, targets)``, the model's own argument tuple, or a dictionary of keyword arguments. Where
            it ends, it is started again.
        config: the settings. The run is a function of model, batches and config: random numbers start at
            ``config.seed``, and those of the caller go on afterwards as if there had been no training.
        evaluate: called as ``evaluate(model)`` in evaluation mode; its number or dictionary, in which ``step`` is no name of
            yours, goes into the history.
            It has random numbers of its own, so evaluating more often does not change the training.
        checkpoint: a folder of its own for the state of the run, written at the start, every ``config.checkpoint_every`` steps and
            at the end. A process killed at any moment leaves a whole one.
        resume: go on from the checkpoint, bit for bit as if there had been no break. ``batches`` must start from its
            beginning: those already used are drawn and thrown away. Without a checkpoint training starts at step 1. A
            finished run only loads the model and returns. ``config.steps`` may grow where that leaves the learning
            rates of the steps already made as they were.

    Raises:
        ValueError: ``batches`` ran out, the first one holds ids outside the model's vocabulary, or the checkpoint is a file, or
            belongs to other settings or to another model.
        TypeError: a batch is no tuple or dictionary, the model returned no loss, ``config`` is no :class:`TrainConfig`, or
            ``evaluate`` no function.
        FloatingPointError: the loss or the gradient is not finite; the model is as it was before that step.

    Used in: every chapter that trains.
    """
    check_config(config, TrainConfig)
    check_evaluate(evaluate)
    _check(checkpoint is not None or not resume, "resume=True needs checkpoint=…, the folder to go on from")
    _check(
        checkpoint is None or not os.path.isfile(checkpoint), f"checkpoint={str(checkpoint)!r} is a file; give a folder"
    )
    file = None if checkpoint is None else Path(checkpoint) / "training.pt"
    rates: dict[str, Any] = {"learning_rate": config.learning_rate, "betas": config.betas}
    optimizer = make_optimizer(model, weight_decay=config.weight_decay, **rates)
    # What the caller drew before must not matter: the run's own numbers begin at the seed. The model's first weights,
    # which its constructor drew, are the caller's.
    with runtime.fork_rng(config.seed), train_mode(model):
        stream, history = _draw(batches, next(model.parameters()).device, config), History()
        if file and resume and file.exists():
            history = _load(file, model, optimizer, config, stream)
        elif file:  # a checkpoint of an older run must not be taken for this one's
            _save(file, model, optimizer, config, history)
        if len(history.steps) == config.steps:
            return history  # finished before: there is nothing left to do
        bar = runtime.progress(range(len(history.steps) + 1, config.steps + 1), desc="training", unit="step")
        for step in bar:
            start = time.perf_counter()
            # The rate is a function of the step alone, so a resumed run meets the rates of one without a break.
            rate = config.rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = next(stream)
            if step == 1:  # only once, since reading the ids waits for the device
                _check_ids(model, batch)
            try:
                loss, norm = train_step(model, optimizer, batch, max_grad_norm=config.max_grad_norm)
            except FloatingPointError as error:
                fix = f"lower learning_rate, lengthen warmup, or look at this batch: are all its labels {IGNORE_INDEX}?"
                raise FloatingPointError(f"training stopped at step {step}: {error}; {fix}") from None
            # train_step has read the loss from the device, and so has waited for all of its work: the clock shows the
            # whole step, and stops before evaluation and checkpoint.
            history.append(step, loss, rate, norm, time.perf_counter() - start)
            recent = history.loss[-20:]  # the loss of one batch is noisy: show a mean
            bar.set_postfix_str(f"loss {sum(recent) / len(recent):.3f}", refresh=False)
            if evaluate and due(step, config.evaluate_every, config.steps):
                # Each evaluation starts at the same random numbers, so that two of them differ by the model alone.
                with runtime.fork_rng(config.seed), eval_mode(model):  # what it draws does not change the training
                    named = by_name(evaluate(model), taken="step")
                history.evaluations.append({**{name: float(x) for name, x in named.items()}, "step": step})
            # After the evaluation, so that the stored history holds it and a resumed run need not repeat it.
            if file and due(step, config.checkpoint_every, config.steps):
                _save(file, model, optimizer, config, history)
    return history


def due(step: int, every: int, last: int) -> bool:
    """Return whether something that happens every so many steps, with 0 only at the last one, happens at this one."""
    return step == last or (every > 0 and step % every == 0)


def check_evaluate(evaluate: Any) -> None:
    """Raise an error where ``evaluate`` cannot be called: before hours of training, and not behind them."""
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"evaluate={evaluate!r:.60}; give a function of the model: evaluate=lambda model: …")


def by_name(result: Any, *, taken: str | None = None) -> Mapping[str, Any]:
    """Return what a caller's ``evaluate`` gave under names, a single number as ``value``; refuse the name ``taken``."""
    if isinstance(result, Mapping):
        _check(taken not in result, f"evaluate returned {taken!r}, which the history sets itself; choose another name")
        return result
    try:
        return {"value": float(result)}
    except (TypeError, ValueError):
        fits = "a number or a dictionary of numbers fits"
        raise TypeError(f"evaluate returned {result!r:.60}; {fits}") from None


def _check_ids(model: nn.Module, batch: Batch) -> None:
    """Look at the ids of the first batch: on a graphics card one outside the vocabulary would end the whole process."""
    ids = batch.get("ids") if isinstance(batch, Mapping) else batch[0]
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    if isinstance(vocab_size, int) and isinstance(ids, Tensor) and ids.ndim == 2 and ids.dtype == torch.int64:
        check_vocabulary("ids", ids, vocab_size)


def _draw(batches: Iterable[Batch], device: torch.device, config: TrainConfig) -> Iterator[Batch]:
    """Yield batches without end, with their tensors on ``device``."""
    # The data have random numbers apart from those of dropout: their order never depends on the model, and a resumed run
    # finds its place by drawing the same batches again. (NumPy's are shared, since copying their state takes longer than
    # a small batch; no model of torch draws them.)
    # The seed is not dropout's, or the order of the data could come from the very numbers that drop units.
    inside = torch.Generator().manual_seed(config.seed + 1).get_state(), random.Random(config.seed + 1).getstate()
    iterator: Iterator[Any] = iter(())
    for drawn in count():
        outside = torch.get_rng_state(), random.getstate()  # the training's generators, set aside
        torch.set_rng_state(inside[0])
        random.setstate(inside[1])
        batch = next(iterator, None)
        if batch is None:  # a pass is over, or the first one begins: a list or a DataLoader can start (again)
            iterator = iter(batches)
            batch = next(iterator, None)
        inside = torch.get_rng_state(), random.getstate()  # where the next batch goes on
        torch.set_rng_state(outside[0])
        random.setstate(outside[1])
        if batch is None:  # an empty list, or an iterator that is used up
            fix = "give a list or a DataLoader, which can start again, or a generator without end"
            raise ValueError(f"batches ran out after {drawn}, and the run needs {config.steps}; {fix}")
        yield _to_device(batch, device)


def _to_device(batch: Any, device: torch.device) -> Batch:
    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    if isinstance(batch, Mapping) and batch:
        return {name: move(value) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)) and batch:
        return [move(value) for value in batch]
    raise TypeError(f"batches yielded a {type(batch).__name__}; a tuple (ids, targets) or a dictionary fits")


# --- Checkpoints ------------------------------------------------------------------------------------------------------

_FORMAT = 2
_KEYS = {"format", "config", "history", "layout", "model", "optimizer", "random"}
_FIXED = ("weight_decay", "betas", "max_grad_norm", "seed")
"""Settings that a resumed run may not change; its learning rates are compared step by step."""


def _save(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, history: History
) -> None:
    state = {
        "format": _FORMAT,
        "config": {name: getattr(config, name) for name in _FIXED},
        "history": json.dumps(history.to_dict()),  # reads back as the same floats
        "layout": _layout(model),  # also what was trained, which the weights do not say
        "model": _raw(model).state_dict(),
        "optimizer": optimizer.state_dict(),  # Adam's two means; begun anew, they would give other steps
        "random": runtime.rng_state(),  # where dropout goes on
    }
    runtime.replace_file(file, lambda target: torch.save(state, target))


def _load(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, stream: Iterator[Batch]
) -> History:
    """Bring model, optimiser, data and random numbers to where the checkpoint was written; return its history."""
    try:  # weights_only: a pickle from elsewhere could run any program
        state = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ValueError(f"checkpoint {file} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT or state.keys() != _KEYS:
        raise ValueError(f"checkpoint {file} is not of format {_FORMAT}, the one this version of nextword reads")
    history, fix = History(**json.loads(state["history"])), "take the same settings, or start anew with resume=False"
    # Refuse settings that would not have made the very steps that the checkpoint has behind it.
    for name, was in state["config"].items():
        now = getattr(config, name)
        _check(was == now, f"checkpoint {file} was written with {name}={was}, not {now}; {fix}")
    done = len(history.steps)
    _check(done <= config.steps, f"checkpoint {file} is at step {done}, beyond steps={config.steps}; {fix}")
    for step, was in zip(history.steps, history.learning_rate, strict=True):
        now, why = config.rate(step), "learning_rate, schedule, warmup or steps differ"
        _check(was == now, f"checkpoint {file} made step {step} at learning rate {was}, not {now}: {why}; {fix}")
    # Nothing is loaded before all is known to fit.
    fix = "it belongs to another model, or other parameters were tied or frozen; start anew with resume=False"
    for was, now in zip_longest(state["layout"], _layout(model), fillvalue="nothing"):
        _check(was == now, f"checkpoint {file} holds {was} where this model has {now}: {fix}")
    _raw(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if done < config.steps:  # the data go on where they were by drawing what was used, and only then the random numbers
        for _ in islice(stream, done):
            pass
        runtime.set_rng_state(state["random"])
    return history


def _raw(model: nn.Module) -> nn.Module:
    """Return the module inside a compiled one, whose keys carry no ``_orig_mod.``."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _layout(model: nn.Module) -> list[str]:
    """Return what each tensor of the model is, and whether it is trained by itself: a tied or frozen one is not."""
    trained = {name for name, parameter in _raw(model).named_parameters() if parameter.requires_grad}
    return [
        f"{name} {getattr(x, 'dtype', '')} {tuple(getattr(x, 'shape', ()))}{'' if name in trained else ', not trained'}"
        for name, x in _raw(model).state_dict().items()
    ]
