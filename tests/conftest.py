"""Shape annotations of the library are checked at run time in the tests, never on a reader's machine."""

import os

os.environ["NEXTWORD_PROGRESS"] = "0"
os.environ.setdefault("NEXTWORD_PRESET", "cpu")

from jaxtyping import install_import_hook

install_import_hook("nextword", "shapes.checked")

import pytest
import torch

from nextword import runtime


@pytest.fixture(autouse=True)
def _deterministic():
    """Give every test the same random state and one kind of arithmetic."""
    runtime.seed_everything(0)
    torch.use_deterministic_algorithms(True)
