"""Train a model: settings, learning-rate schedules, optimiser, the loop, and checkpoints that resume bit for bit."""

from __future__ import annotations

import json
import math
import operator
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, distributed, nn

from nextword import runtime
from nextword.attention import pad
from nextword.layers import eval_mode, train_mode

Batch: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""What ``batches`` yields: the model's positional arguments, or its keyword arguments."""

IGNORED = -100
"""Label of a position that has no target."""


def random_windows(
    ids: Tensor, rows: int, length: int, *, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return batches without end: inputs and targets (rows, length) from random places of one long text.

    Args:
        ids: the text (N,), more than ``length`` tokens; batches lie where it lies.
        rows: windows in a batch.
        length: tokens in a window.
        generator: source of the places; None for torch's own.

    Raises:
        ValueError: the text is too short.

    Used in: 2022_instructgpt.
    """
    places = len(ids) - length
    if places < 1:
        raise ValueError(f"ids holds {len(ids)} tokens; windows of length={length} and a target need one more at least")

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            starts = torch.randint(places, (rows, 1), generator=generator)
            windows = ids[starts + torch.arange(length + 1)]  # (rows, length + 1)
            yield windows[:, :-1], windows[:, 1:]

    return batches()


def labelled_batches(
    examples: Sequence[tuple[Sequence[int], int]], batch_size: int, *, fill: int = 0, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Return batches of labelled texts without end: ids (B, T), a mask (B, T) that is True at real ones, labels (B,).

    Each pass takes all examples in a new order; a rest that makes no whole batch is left for another pass.

    Args:
        examples: the ids of each text and the number of its label.
        batch_size: B; no more than there are examples.
        fill: the id to fill up with, behind a text.
        seed: the same seed gives the same batches.

    Raises:
        ValueError: ``batch_size`` is below 1 or above the number of examples.

    Used in: 2018_gpt1, 2018_bert.
    """
    if not 1 <= batch_size <= len(examples):
        raise ValueError(f"batch_size={batch_size} must be 1 to {len(examples)}, the number of examples")

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        draw = random.Random(seed)
        while True:
            order = draw.sample(examples, len(examples))
            for i in range(0, len(order) - batch_size + 1, batch_size):
                texts, labels = zip(*order[i : i + batch_size], strict=True)
                yield *pad(texts, fill), torch.tensor(labels)

    return batches()


# --- Schedules: the learning rate as a function of the step, which counts from 1 -------------------------------------


def cosine(step: int, *, peak: float, warmup: int, steps: int, floor: float = 0.1) -> float:
    """Return the rate of a linear warm-up and then half a cosine, as GPT-3 used (Brown et al. 2020, appendix B).

    Args:
        step: the update, from 1.
        peak: the highest rate, reached at step ``warmup``.
        warmup: steps of warm-up; 0 for none.
        steps: the step at which the rate arrives at ``floor * peak``; it stays there afterwards.
        floor: the last rate as a share of ``peak``, from 0 to 1.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> [round(cosine(step, peak=1.0, warmup=2, steps=6), 3) for step in (1, 2, 4, 6, 7)]
        [0.5, 1.0, 0.55, 0.1, 0.1]
    """
    left = (1 + math.cos(math.pi * _progress(step, warmup, steps, floor))) / 2
    return peak * _warm(step, warmup) * (floor + (1 - floor) * left)


def linear(step: int, *, peak: float, warmup: int, steps: int, floor: float = 0.0) -> float:
    """Return the rate of a linear warm-up and then a straight line down, as BERT did (Devlin et al. 2019, section A.2).

    Arguments and errors are those of :func:`cosine`. With ``floor=0`` the very last step has rate 0.

    Example:
        >>> [linear(step, peak=1.0, warmup=2, steps=6) for step in (1, 2, 4, 6)]
        [0.5, 1.0, 0.5, 0.0]
    """
    left = 1 - _progress(step, warmup, steps, floor)
    return peak * _warm(step, warmup) * (floor + (1 - floor) * left)


def noam(step: int, d_model: int, warmup: int) -> float:
    """Return the rate d_model^-0.5 · min(step^-0.5, step · warmup^-1.5) (Vaswani et al. 2017, equation 3).

    Args:
        step: the update, from 1.
        d_model: the width of the model. A wider one gets a smaller rate.
        warmup: the step of the highest rate, at least 1.

    Raises:
        ValueError: an argument is below 1.

    Example:
        >>> round(noam(4000, 512, 4000), 6)
        0.000699
    """
    for name, value in {"step": step, "d_model": d_model, "warmup": warmup}.items():
        if value < 1:
            raise ValueError(f"{name}={value} is below 1")
    return float(d_model**-0.5 * min(step**-0.5, step * warmup**-1.5))


def _warm(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0


def _progress(step: int, warmup: int, steps: int, floor: float) -> float:
    """Return the share of the way down, 0 up to the end of the warm-up and 1 from ``steps`` on."""
    if step < 1:
        raise ValueError(f"step={step} is below 1: steps count from 1")
    if not 0 <= warmup <= steps:
        raise ValueError(f"warmup={warmup} is outside 0 … steps={steps}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} is outside 0 … 1: it is a share of the peak")
    return 0.0 if step <= warmup else min(1.0, (step - warmup) / max(steps - warmup, 1))


SCHEDULES = ("cosine", "linear", "constant")
"""Names that ``TrainConfig.schedule`` takes; all three begin with the warm-up."""


# --- Settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
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
    batch_size: int = 32
    """Examples in one batch, for whoever makes the batches; one update sees ``accumulate`` batches."""
    learning_rate: float = 1e-3
    """The peak of a named schedule. A callable schedule does not look at it."""
    schedule: str | Callable[[int], float] = "cosine"
    """``cosine`` (down to a tenth of the peak), ``linear`` (down to 0), ``constant``, or a function of the step."""
    warmup: int = 0
    """Steps over which the rate rises in a straight line to the peak. Post-norm models need them."""
    weight_decay: float = 0.1
    """Decoupled weight decay of the matrices; gains and biases get none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay rates of the mean of the gradient and of its square."""
    clip: float | None = 1.0
    """Largest norm of the whole gradient; a longer one is shortened to it. None: never."""
    accumulate: int = 1
    """Batches whose gradients make one update, where a batch of full size does not fit in memory."""
    seed: int = 0
    """Where the random numbers of the run (dropout, shuffling by ``batches``) start."""
    checkpoint_every: int = 0
    """Steps between two checkpoints. 0: only at the start and at the end."""
    evaluate_every: int = 0
    """Steps between two calls of ``evaluate``. 0: only at the end."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "warmup": 0, "seed": 0}
        for name, minimum in {**least, "checkpoint_every": 0, "evaluate_every": 0}.items():
            _check_whole(name, getattr(self, name), minimum)
        _check(self.seed < 2**32 - 1, f"seed={self.seed} is too large; choose one below 2**32 - 1")
        rate, decay = self.learning_rate, self.weight_decay
        _check(0 < rate < math.inf, f"learning_rate={rate} must be above 0 and finite; 1e-3 suits a small model")
        _check(0 <= decay < math.inf, f"weight_decay={decay} must be at least 0 and finite; 0 turns it off")
        good = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _check(good, f"betas={self.betas} must be two numbers from 0 up to, not including, 1; GPT-3 took (0.9, 0.95)")
        _check(self.clip is None or self.clip > 0, f"clip={self.clip} must be above 0; None turns clipping off")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if callable(self.schedule):
            fix = "leave warmup=0 and put the warm-up into the function"
            _check(self.warmup == 0, f"warmup={self.warmup} does nothing when schedule is a function; {fix}")
        else:
            names = ", ".join(SCHEDULES)
            _check(
                self.schedule in SCHEDULES, f"schedule={self.schedule!r}: choose {names}, or give a function of step"
            )
            fix = "shorten the warm-up or train longer"
            _check(self.warmup <= self.steps, f"warmup={self.warmup} is more than steps={self.steps}; {fix}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; steps count from 1."""
        if callable(self.schedule):
            return float(self.schedule(step))
        if self.schedule == "constant":
            return self.learning_rate * _warm(step, self.warmup)
        decay = {"cosine": cosine, "linear": linear}[self.schedule]
        return decay(step, peak=self.learning_rate, warmup=self.warmup, steps=self.steps)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_whole(name: str, value: Any, minimum: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give a whole number")
    _check(operator.index(value) >= minimum, f"{name}={value} is below {minimum}")


# --- What a run leaves behind ----------------------------------------------------------------------------------------


@dataclass
class History:
    """What happened in training: one entry a step in each list, and the evaluations."""

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    """Mean loss over the targets of the step, before its update; nats for a language model."""
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    """Norm of the whole gradient before clipping."""
    seconds: list[float] = field(default_factory=list)
    """Time in training since the first step, without evaluations and checkpoints."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """``{"step": 100, "value": 3.2}`` where ``evaluate`` gave a number, its own keys where it gave a dictionary."""

    def append(self, step: int, loss: float, learning_rate: float, grad_norm: float, seconds: float) -> None:
        """Add a step that took ``seconds``."""
        self.steps.append(step)
        self.loss.append(loss)
        self.learning_rate.append(learning_rate)
        self.grad_norm.append(grad_norm)
        self.seconds.append(seconds + (self.seconds[-1] if self.seconds else 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return all lists as plain Python values."""
        return asdict(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the history as JSON; a crash leaves the old file whole."""
        text = json.dumps(self.to_dict()).encode()
        _replace(Path(path), lambda file: file.write(text))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read a history that :meth:`save` wrote."""
        return cls(**json.loads(Path(path).read_text()))


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name, then give it its own: at every moment ``path`` is the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# --- The optimiser and one update ------------------------------------------------------------------------------------


def make_optimizer(
    model: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) that decays matrices and leaves gains and biases alone.

    A matrix is any parameter of two or more dimensions, embeddings included. ``eps`` is added after the bias
    correction, as torch does; the TensorFlow code of the papers adds it before. One fused kernel does the update
    where torch has one for this device.

    Raises:
        ValueError: the model has no parameter to train.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    _check(bool(parameters), f"model: this {type(model).__name__} has no parameter with requires_grad=True")
    matrices = {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay}
    vectors = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
    groups = [group for group in (matrices, vectors) if group["params"]]
    try:
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    except RuntimeError:  # an older torch has no fused kernel for this device
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


def _update(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], clip: float | None
) -> tuple[float, float]:
    """Make one update from the mean loss over all targets of ``batches``; return that loss and the gradient's norm.

    Each batch's loss is a mean over its own targets. Weighted by its share of all targets, the sum is the mean over one
    large batch, also where the counts differ. (The plain mean over batches would favour targets in short ones.) All
    targets are those of all processes, and so are loss and gradient: every process makes the same update.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    device = parameters[0].device
    counts = [_count_targets(batch) for batch in batches]
    total, loss = _sum(sum(counts), device), 0.0
    optimizer.zero_grad(set_to_none=True)
    for batch, count in zip(batches, counts, strict=True):
        if count:  # without targets the mean is 0/0
            with runtime.autocast():
                part = _loss(model, batch) * (count / total)
            part.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            loss += part.item()
    loss = _sum(loss, device)
    _sum_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip).item()
    if not (total and math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(f"loss {loss} and gradient norm {norm} over {total:.0f} targets")
    optimizer.step()
    return loss, norm


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    call = getattr(model, "training_loss", model)  # the same loss, where a model has a cheaper way to it
    output = call(**batch) if isinstance(batch, Mapping) else call(*batch)
    loss = output if isinstance(output, Tensor) else getattr(output, "loss", None)
    if not isinstance(loss, Tensor):
        raise TypeError(f"model returned a {type(output).__name__} without a loss; batches must hold the targets too")
    return loss


def _count_targets(batch: Batch) -> int:
    """Count the labels other than -100 in ``labels``, ``targets`` or the last item; the examples where it has none."""
    last = _labels(batch)
    if not isinstance(last, Tensor):
        return 1
    labels = not last.is_floating_point() and last.dtype != torch.bool
    return int((last != IGNORED).sum()) if labels else (len(last) if last.ndim else 1)


def _labels(batch: Batch) -> Any:
    if isinstance(batch, Mapping):
        return batch.get("labels", batch.get("targets", list(batch.values())[-1]))
    return batch[-1]


def _to_device(batch: Any, device: torch.device) -> Batch:
    """Move the tensors of a batch to where the model is."""

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    return _map(move, batch)


def _map(move: Callable[[Any], Any], batch: Any) -> Batch:
    if isinstance(batch, Mapping) and batch:
        return {name: move(value) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)) and batch:
        return [move(value) for value in batch]
    raise TypeError(f"batches yielded a {type(batch).__name__}; a tuple (ids, targets) or a dictionary fits")


# --- Several processes under torchrun, each with its own rows of every batch -----------------------------------------


def _processes() -> tuple[int, int]:
    """Return the rank of this process and how many train together, as torchrun says: 0 and 1 without it."""
    world = int(os.environ.get("WORLD_SIZE") or 1)
    return (int(os.environ["RANK"]) if world > 1 else 0), world


def _join(device: torch.device) -> None:
    """Join the group of all processes, for good: a second group could meet at addresses that the first left behind."""
    if _processes()[1] > 1 and not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def _own_rows(batch: Batch) -> Batch:
    """Return the rows of a batch that belong to this process: with two, every other one."""
    rank, world = _processes()
    if world == 1:
        return batch
    values = list(batch.values()) if isinstance(batch, Mapping) else batch
    sizes = sorted({len(value) for value in values if _has_rows(value)})
    each = f"{world} processes need a row an example in each tensor"
    _check(len(sizes) == 1, f"batches yielded tensors of {sizes} rows in one batch; {each}")
    _check(_has_rows(_labels(batch)), f"batches yielded labels that are no tensor of rows; {each}")
    fix = f"give at least {world} rows, one for each"
    _check(sizes[0] >= world, f"batches yielded a batch of size {sizes[0]}, too small for {world} processes; {fix}")
    return _map(lambda value: value[rank::world].contiguous() if _has_rows(value) else value, batch)


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _sum(number: float, device: torch.device) -> float:
    """Return the sum of the numbers that all processes have here."""
    if _processes()[1] == 1:
        return number
    total = torch.tensor(number, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.item()


def _sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Put the sum over all processes into every gradient; one that a process does not have counts as zero.

    All gradients of one dtype travel in one buffer. Its tail counts who has each of them: what nobody has stays None, so
    that the optimiser passes over it.
    """
    if _processes()[1] == 1:
        return
    for dtype in dict.fromkeys(p.dtype for p in parameters):
        alike = [p for p in parameters if p.dtype == dtype]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
        owners = gradients[0].new_tensor([float(p.grad is not None) for p in alike])
        buffer = torch.cat([*(g.flatten() for g in gradients), owners])
        distributed.all_reduce(buffer)
        *parts, owners = torch.split(buffer, [*(g.numel() for g in gradients), len(alike)])
        for p, gradient, part, has in zip(alike, gradients, parts, owners.tolist(), strict=True):
            p.grad = gradient.copy_(part.view_as(gradient)) if has else None


@torch.no_grad()
def _share_weights(model: nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if _processes()[1] == 1:
        return
    for value in [*model.parameters(), *model.buffers()]:
        copy = value.detach().contiguous()
        distributed.broadcast(copy, 0)
        value.copy_(copy)


def _exists(file: Path, device: torch.device) -> bool:
    """Return whether the file is there, for all processes and before the first of them may write it."""
    seen, world = _sum(int(file.exists()), device), _processes()[1]
    fix = "give a folder that all of them read"
    _check(seen in (0, world), f"checkpoint {file} is there for {seen:.0f} of {world} processes; {fix}")
    return seen > 0


def _seed_process(seed: int, step: int) -> None:
    """Start torch's random numbers of a step at a number of its own for each process, so that their dropout differs.

    Rows of other processes then get other masks, and a resumed run needs the random state of no process but the first.
    """
    rank, world = _processes()
    if world > 1:
        torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


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

    Under ``torchrun --nproc-per-node 2 script.py`` two processes draw the same batches, each works on every second row,
    and their gradients are added up: losses and weights are those of one process, up to rounding. Only dropout differs,
    since each process draws random numbers of its own, and layers that mix rows, such as batch normalisation. The
    processes stay joined in torch's default group; with GPUs, each must first choose its own by ``torch.cuda.set_device``.

    Args:
        model: called with a batch, returns an object with ``.loss``, the mean over the batch's targets. A model may have
            a method ``training_loss`` that returns this loss alone, and cheaper.
        batches: yields ``(ids, targets)``, the model's own argument tuple, or a dictionary of keyword arguments. Where
            it ends, it is started again. With ``config.accumulate`` a batch weighs as much as it has targets: labels
            other than -100 in its last item, or under the key ``labels`` or ``targets``. Then the update is that of one
            large batch, provided that the loss is one mean over those targets (a sum of two different means is not). The
            same holds for the rows of several processes; there every tensor of a batch needs one row an example.
        config: the settings. The run is a function of model, batches and config: random numbers start at
            ``config.seed``, and those of the caller go on afterwards as if there had been no training.
        evaluate: called as ``evaluate(model)`` in evaluation mode; its number or dictionary goes into the history.
            It has random numbers of its own, so evaluating more often does not change the training.
        checkpoint: a folder for the state of the run, written at the start, every ``config.checkpoint_every`` steps and
            at the end. A process killed at any moment leaves a whole one.
        resume: go on from the checkpoint, bit for bit as if there had been no break. ``batches`` must start from its
            beginning: those already used are drawn and thrown away. Without a checkpoint training starts at step 1. A
            finished run only loads the model and returns. ``config.steps`` may grow where that leaves the learning
            rates of the steps already made as they were.

    Raises:
        ValueError: ``batches`` ran out, a batch has fewer rows than there are processes, or the checkpoint belongs to
            other settings or to another model.
        TypeError: a batch is no tuple or dictionary, or the model returned no loss.
        FloatingPointError: the loss or the gradient is not finite; the model is as it was before that step.

    Used in: every chapter that trains.
    """
    _check(checkpoint is not None or not resume, "resume=True needs checkpoint=…, the folder to go on from")
    file = None if checkpoint is None else Path(checkpoint) / "training.pt"
    optimizer = make_optimizer(
        model, learning_rate=config.learning_rate, weight_decay=config.weight_decay, betas=config.betas
    )
    device = next(model.parameters()).device
    _join(device)
    with _random_numbers(config.seed), train_mode(model):
        stream, history = _draw(batches, device, config), History()
        if file and resume and _exists(file, device):
            history = _load(file, model, optimizer, config, stream)
        elif file:
            _save(file, model, optimizer, config, history)
        _share_weights(model)
        for step in _steps(history, config):
            start = time.perf_counter()
            rate = config.rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            _seed_process(config.seed, step)
            parts = list(islice(stream, config.accumulate))
            try:
                loss, norm = _update(model, optimizer, parts, config.clip)
            except FloatingPointError as error:
                fix = "lower learning_rate, lengthen warmup, or look at this batch"
                raise FloatingPointError(f"training stopped at step {step}: {error}; {fix}") from None
            history.append(step, loss, rate, norm, time.perf_counter() - start)
            if evaluate and _due(step, config.evaluate_every, config.steps):
                history.evaluations.append({**_evaluate(model, evaluate, config.seed), "step": step})
            if file and _due(step, config.checkpoint_every, config.steps):
                _save(file, model, optimizer, config, history)
    return history


def _steps(history: History, config: TrainConfig) -> Iterator[int]:
    """Yield the steps still to make, behind a progress bar that shows the mean of the last losses."""
    done = len(history.steps)
    if done == config.steps:
        return
    if _processes()[0] > 0:  # one bar is enough
        yield from range(done + 1, config.steps + 1)
        return
    bar = runtime.progress(range(done + 1, config.steps + 1), total=config.steps - done, desc="training", unit="step")
    for step in bar:
        yield step
        recent = history.loss[-20:]
        if hasattr(bar, "set_postfix_str"):
            bar.set_postfix_str(f"loss {sum(recent) / len(recent):.3f}", refresh=False)


def _draw(batches: Iterable[Batch], device: torch.device, config: TrainConfig) -> Iterator[Batch]:
    """Yield batches without end, on random numbers that are apart from those of dropout.

    So the order of the data never depends on the model, and a resumed run finds its place by drawing the same batches
    again. (NumPy's are shared, since copying their state takes longer than a small batch; no model of torch draws them.)
    """
    endless = _repeat(batches, config.steps * config.accumulate)
    inside = torch.Generator().manual_seed(config.seed + 1).get_state(), random.Random(config.seed + 1).getstate()
    while True:
        outside = torch.get_rng_state(), random.getstate()
        torch.set_rng_state(inside[0])
        random.setstate(inside[1])
        batch = next(endless)
        inside = torch.get_rng_state(), random.getstate()
        torch.set_rng_state(outside[0])
        random.setstate(outside[1])
        yield _own_rows(_to_device(batch, device))


def _repeat(batches: Iterable[Batch], needed: int) -> Iterator[Batch]:
    total, before = 0, -1
    while total > before:  # a pass without a batch: an empty list, or an iterator that is used up
        before = total
        for batch in batches:
            total += 1
            yield batch
    fix = "give a list or a DataLoader, which can start again, or a generator without end"
    raise ValueError(f"batches ran out after {total}, and the run needs {needed}; {fix}")


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _evaluate(model: nn.Module, evaluate: Callable[[Any], Any], seed: int) -> dict[str, float]:
    with _random_numbers(seed), eval_mode(model):
        result = evaluate(model)
    named = result if isinstance(result, Mapping) else {"value": result}
    return {name: float(value) for name, value in named.items()}


# --- Random numbers and checkpoints ----------------------------------------------------------------------------------


@contextmanager
def _random_numbers(seed: int) -> Iterator[None]:
    """Run a block on random numbers that start at ``seed``; those outside go on as if there had been no block."""
    outside = _random_state()
    runtime.seed_everything(seed)
    try:
        yield
    finally:
        _set_random_state(outside)


def _random_state() -> dict[str, Any]:
    """Return the state of all generators in types that ``torch.load(weights_only=True)`` admits."""
    name, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numbers = (name, torch.tensor(np.asarray(keys, dtype=np.int64)), *rest)
    return {"python": random.getstate(), "numpy": numbers, "torch": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():  # another machine may have other cards
        torch.cuda.set_rng_state_all(state["cuda"])


_FORMAT = 1
_FIXED = ("batch_size", "weight_decay", "betas", "clip", "accumulate", "seed")
_FIX = "take the same settings, or start anew with resume=False"


def _save(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, history: History
) -> None:
    """Write a checkpoint. Of several processes the first writes, and the others wait for it."""
    rank, world = _processes()
    if rank == 0:
        state = {
            "format": _FORMAT,
            "config": {name: getattr(config, name) for name in _FIXED},
            "history": json.dumps(history.to_dict()),
            "model": _raw(model).state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": _random_state(),
        }
        _replace(file, lambda target: torch.save(state, target))
    if world > 1:
        distributed.barrier()


def _load(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, stream: Iterator[Batch]
) -> History:
    """Bring model, optimiser, data and random numbers to where the checkpoint was written; return its history."""
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ValueError(f"checkpoint {file} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"checkpoint {file} is not of format {_FORMAT}, the one this version of nextword reads")
    history = History(**json.loads(state["history"]))
    _check_settings(file, state["config"], history, config)
    _check_shapes(file, state["model"], _raw(model).state_dict())
    optimizer.load_state_dict(state["optimizer"])  # first, because it refuses what does not fit
    _raw(model).load_state_dict(state["model"])
    if len(history.steps) < config.steps:
        for _ in islice(stream, len(history.steps) * config.accumulate):
            pass
        _set_random_state(state["random"])
    return history


def _raw(model: nn.Module) -> nn.Module:
    """Return the module inside a compiled one, whose keys carry no ``_orig_mod.``."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _check_settings(file: Path, saved: dict[str, Any], history: History, config: TrainConfig) -> None:
    """Refuse settings that would not have made the very steps that the checkpoint has behind it."""
    for name in _FIXED:
        value = getattr(config, name)
        _check(saved[name] == value, f"checkpoint {file} was written with {name}={saved[name]}, not {value}; {_FIX}")
    done = len(history.steps)
    _check(done <= config.steps, f"checkpoint {file} is at step {done}, beyond steps={config.steps}; {_FIX}")
    for step, rate in zip(history.steps, history.learning_rate, strict=True):
        now = config.rate(step)
        why = "learning_rate, schedule, warmup or steps differ"
        _check(now == rate, f"checkpoint {file} made step {step} at learning rate {rate}, not {now}: {why}; {_FIX}")


def _check_shapes(file: Path, saved: dict[str, Any], present: dict[str, Any]) -> None:
    def kind(state: dict[str, Any], name: str) -> str:
        value = state.get(name)
        return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    for name in [*saved, *present]:
        was, here = kind(saved, name), kind(present, name)
        _check(was == here, f"checkpoint {file} holds {was} as {name}, this model {here}; it belongs to another model")
