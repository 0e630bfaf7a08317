"""The library computes what it computed when ``golden.json.gz`` was stored: every case of ``golden.py``, again.

With ``NEXTWORD_GOLDEN=exact`` to the last bit, on a processor and a torch as there; else up to rounding.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import golden
import pytest

Tolerance = tuple[float, float]
ROUNDING, AUTOCAST = (1e-4, 1e-6), (2e-2, 1e-6)
"""Relative and absolute differences that floats may have on another processor."""


@pytest.fixture(scope="module")
def stored() -> golden.Values:
    return golden.read()


def exact(stored: golden.Values) -> bool:
    same = all(stored[name] == value for name, value in golden.machine().items())
    return same and os.environ.get("NEXTWORD_GOLDEN") == "exact"


def differences(found: Any, stored: Any, tolerance: Tolerance | None, at: str = "") -> Iterator[str]:
    """Yield where two values differ, floats by more than is tolerated; with None, in a single bit."""
    if isinstance(found, dict) and isinstance(stored, dict):
        allowed = tolerance and _of_a_tensor(stored, tolerance)
        for name in {**stored, **found}:
            if name in found and name in stored:
                each = allowed.get(name, tolerance) if allowed else tolerance
                yield from differences(found[name], stored[name], each, f"{at} / {name}")
            else:
                yield f"{at} / {name} is {'no longer computed' if name in stored else 'not stored'}"
    elif isinstance(found, list) and isinstance(stored, list) and len(found) == len(stored):
        for i, (one, other) in enumerate(zip(found, stored, strict=True)):
            yield from differences(one, other, tolerance, f"{at}[{i}]")
    elif not _same(found, stored, tolerance):
        yield f"{at} is {found!r}, stored as {stored!r}"


def _of_a_tensor(stored: golden.Values, tolerance: Tolerance) -> dict[str, Tolerance]:
    """Return what a large tensor's entries and their sum may differ by: small ones are rounded as the others are."""
    if "squares" not in stored:
        return {}
    (rtol, atol), n = tolerance, math.prod(stored["shape"])
    atol *= max(1.0, math.sqrt(stored["squares"] / n))
    return {"entries": (rtol, atol), "sum": (rtol, n * atol)}


def _same(found: Any, stored: Any, tolerance: Tolerance | None) -> bool:
    if repr(found) == repr(stored):  # tells 1 from 1.0 and -0.0 from 0.0
        return True
    if tolerance is None or not (isinstance(found, float) and isinstance(stored, float)):
        return False
    rtol, atol = tolerance
    return abs(found - stored) <= atol + rtol * abs(stored)


@pytest.mark.parametrize("name", golden.CASES)
def test_a_case_gives_what_is_stored(name: str, stored: golden.Values) -> None:
    tolerance = None if exact(stored) else AUTOCAST if name.startswith("bf16") else ROUNDING
    found = list(differences(golden.compute(name), stored["cases"][name], tolerance))
    assert not found, f"{len(found)} values differ:\n" + "\n".join(found[:12])


def test_every_stored_case_is_computed(stored: golden.Values) -> None:
    assert list(stored["cases"]) == list(golden.CASES)
    assert golden.STORED.stat().st_size < 300_000


def test_a_single_bit_is_seen() -> None:
    assert not list(differences({"a": [1.0, float("nan")]}, {"a": [1.0, float("nan")]}, None))
    assert list(differences(0.0, -0.0, None)) == [" is 0.0, stored as -0.0"]
    assert list(differences(1.0 + 2**-52, 1.0, None)) and not list(differences(1.0 + 2**-52, 1.0, ROUNDING))
    assert list(differences([1], [1.0], ROUNDING)) and list(differences({"a": 1}, {"b": 1}, ROUNDING))
