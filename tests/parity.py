"""Comparing a model with an independent one: the same random parameters, then the same outputs and gradients.

Fresh parameters hide mistakes: biases are 0, norms do nothing, scores are small. So every parameter is drawn anew, and
all is compared in float64, where only the order of a sum may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jaxtyping
import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Mapping = dict[str, "str | tuple[str, slice]"]
"""Our parameter's name to theirs, and the rows of it where theirs holds several of ours."""


def randomised(model: Model, seed: int = 0, std: float = 0.2) -> Model:
    """Return the model in float64 with every parameter drawn anew: around 1 where it was 1, around 0 elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise + bool((parameter == 1).all()))
    return model


def normal(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def assert_close(actual: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-10, **settings: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, **settings)


def under(mapping: Mapping, ours: str, theirs: str) -> Mapping:
    """Return the mapping of a submodule as one of the whole model."""
    moved: Mapping = {}
    for mine, place in mapping.items():
        name, rows = place if isinstance(place, tuple) else (place, None)
        moved[ours + mine] = theirs + name if rows is None else (theirs + name, rows)
    return moved


def same_names(*names: str) -> Mapping:
    return {name: name for name in names}


def give_ours(ours: nn.Module, theirs: nn.Module, mapping: Mapping, spare: Iterable[str] = ()) -> None:
    """Copy our parameters into their model, which goes to float64. Both must be covered, save for ``spare`` of theirs."""
    mine, other = dict(ours.named_parameters()), dict(theirs.double().named_parameters())
    assert set(mapping) == set(mine)
    targets = {place if isinstance(place, str) else place[0] for place in mapping.values()}
    assert targets == set(other) - set(spare)
    with torch.no_grad():
        for name, place in mapping.items():
            _part(other, place).copy_(mine[name])


def assert_same_gradients(ours: nn.Module, theirs: nn.Module, mapping: Mapping) -> None:
    other = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert_close(parameter.grad, _part(other, mapping[name]), msg=lambda text, name=name: f"{name}: {text}")


def assert_every_gradient(model: nn.Module, skip: Callable[[str], bool] = lambda name: False) -> None:
    """Every parameter must have a gradient that is not 0."""
    for name, parameter in model.named_parameters():
        if not skip(name):
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-12, name


def assert_trains_after_translating(used: nn.Module, fresh: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """What inference mode leaves behind, such as a table of positions, must not disturb the backward pass."""
    source, target, labels = batch
    used.step(source)(target[:, :1])
    with torch.inference_mode():
        used(source, target)
    for model in (used, fresh):
        model(source, target, labels).loss.backward()
    for mine, other in zip(used.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


@contextmanager
def as_a_reader_sees_it() -> Iterator[None]:
    """Switch off the run-time checks of the tests, so that a message comes from the library itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def _part(tensors: dict[str, Any], place: str | tuple[str, slice]) -> Tensor:
    if isinstance(place, str):
        return tensors[place]
    return tensors[place[0]][place[1]]


def attention_in_torch(width: int) -> Mapping:
    """Return the mapping of MultiHeadAttention to torch's, whose three first projections are one matrix."""
    rows = {"query": slice(0, width), "key": slice(width, 2 * width), "value": slice(2 * width, 3 * width)}
    mapping: Mapping = {f"{name}.{kind}": (f"in_proj_{kind}", r) for name, r in rows.items() for kind in KINDS}
    return mapping | {f"out.{kind}": f"out_proj.{kind}" for kind in KINDS}


def block_in_torch(width: int, *, cross: bool) -> Mapping:
    """Return the mapping of Block to torch's TransformerEncoderLayer or TransformerDecoderLayer."""
    norms = ["attention_norm", "cross_norm", "feed_forward_norm"] if cross else ["attention_norm", "feed_forward_norm"]
    mapping: Mapping = {f"{norm}.{kind}": f"norm{i}.{kind}" for i, norm in enumerate(norms, 1) for kind in KINDS}
    for ours, theirs in (("up", "linear1"), ("down", "linear2")):
        mapping |= {f"feed_forward.{ours}.{kind}": f"{theirs}.{kind}" for kind in KINDS}
    mapping |= under(attention_in_torch(width), "attention.", "self_attn.")
    return mapping | (under(attention_in_torch(width), "cross_attention.", "multihead_attn.") if cross else {})


KINDS = ("weight", "bias")
