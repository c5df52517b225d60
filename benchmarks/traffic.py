"""Counters of the bytes that processes send to each other, at PyTorch's interface to the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Shares = Callable[[int], float]

SENT: dict[str, Shares] = {
    "send": lambda ranks: 1.0,  # noqa: ARG005
    "allreduce_": lambda ranks: 2 * (ranks - 1) / ranks,
    "allgather_": lambda ranks: (ranks - 1) / ranks,
    "_allgather_base_": lambda ranks: (ranks - 1) / ranks,
    "_reduce_scatter_base_": lambda ranks: (ranks - 1) / ranks,
    "reduce_scatter_": lambda ranks: (ranks - 1) / ranks,
}
"""Bytes that a process sends by the ring algorithms, in shares of the largest tensor that the call is about."""


class Traffic(TorchDispatchMode):
    """Counts, while it is entered, the bytes this process sends: forward, backward and FSDP's hooks alike.

    Attributes:
        sent: bytes by kind of call.
        calls: how often.
    """

    def __init__(self, ranks: int | None = None) -> None:
        super().__init__()
        self.ranks = ranks or dist.get_world_size()
        self.sent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __torch_dispatch__(
        self, function: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kind = function._schema.name
        if kind.startswith("c10d::"):
            name = kind.removeprefix("c10d::")
            if name in SENT:
                self.sent[name] += round(_bytes(args, name) * SENT[name](self.ranks))
                self.calls[name] += 1
        return function(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Bytes sent in all."""
        return sum(self.sent.values())


def _bytes(arguments: tuple[Any, ...], name: str) -> int:
    """Of a call's whole data: what is sent, or what all processes hold together of what is gathered."""
    sides: list[int] = []
    for argument in arguments:
        tensors = [leaf for leaf in tree_leaves(argument) if isinstance(leaf, Tensor)]
        if tensors:
            sides.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
    return sides[0] if name in ("send", "allreduce_") else max(sides, default=0)
