"""The critical path of graphs whose length is known."""

import pytest
import torch

from nextword.profiling import critical_path


def test_the_critical_path_is_the_longest_way_through_the_graph():
    x = torch.ones(2, requires_grad=True)
    assert critical_path(x.exp()) == 2  # the operation, and the leaf's own node
    y = x
    for _ in range(7):
        y = y.sin()
    assert critical_path(y) == 8
    assert critical_path(x.exp() + y) == 9
    z = x
    for _ in range(30):  # each node twice: all ways through this graph could not be walked one by one
        z = z * z
    assert critical_path(z) == 31


def test_a_path_may_be_longer_than_pythons_stack():
    x = torch.ones(1, requires_grad=True)
    for _ in range(3000):
        x = x + 1
    assert critical_path(x) == 3001


def test_no_path_without_a_graph():
    with pytest.raises(ValueError, match="tensor has no graph"):
        critical_path(torch.ones(2))
