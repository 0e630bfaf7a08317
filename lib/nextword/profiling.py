"""What a computation costs beyond its number of operations: how many of them must wait for one another.

Used in: 2016_gnmt, 2017_transformer.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def critical_path(tensor: Tensor) -> int:
    """Return how many operations, each waiting for the last, lead to ``tensor``: its autograd graph knows which.

    However much hardware there is, these cannot run at the same time. An operation is what torch takes for one: a fused
    LSTM over a whole sentence counts once, and hides its steps.

    Raises:
        ValueError: ``tensor`` comes from no operation that a gradient could pass.

    Example:
        >>> import torch
        >>> x = torch.ones(1, requires_grad=True)
        >>> critical_path(x.exp() + x.exp().sin())  # exp, sin, +, and the leaf itself
        4
    """
    if tensor.grad_fn is None:
        raise ValueError("tensor has no graph: it must be computed from something that requires a gradient")
    length: dict[Any, int] = {}  # the longest chain that ends in each operation
    stack = [tensor.grad_fn]  # instead of recursion, which Python stops after a thousand calls
    while stack:
        inputs = [node for node, _ in stack[-1].next_functions if node is not None]
        waiting = [node for node in inputs if node not in length]
        stack.extend(waiting)
        if not waiting:  # everything that this operation needs has been measured
            length[stack.pop()] = 1 + max((length[node] for node in inputs), default=0)
    return length[tensor.grad_fn]
