"""The processes that share a training run: which part of a batch and of the pool is whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that share a run; all of them must make the same calls.

    Attributes:
        device: where this process computes.
        rank: its number.
        size: how many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> Ranks:
        """Those of ``torch.distributed``, or this process alone where that is not initialised."""
        return cls(device, dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls(device)

    def share(self, total: int) -> int:
        """How many of ``total`` things are this process's: the first processes have one more where it must be."""
        return total // self.size + (self.rank < total % self.size)

    def own(self, rows: Tensor) -> Tensor:
        """Which rows [b] of a batch [B] are this process's."""
        return rows.tensor_split(self.size)[self.rank]

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network, with gradients that are means over all processes."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=None if self.device.type == "cpu" else [self.device])

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums over processes."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        told: list[float] = summed.tolist()
        return told

    def means(self, values: Sequence[float], weight: float) -> list[float]:
        """Means over processes, each of which counts by its weight; nothing where no process has any."""
        if self.size == 1:
            return list(values) if weight else []
        *summed, weights = self.sums([*(weight * value for value in values), weight])
        return [value / weights for value in summed] if weights else []

    def gathered(self, what: Any) -> list[Any]:
        """What every process holds, by rank, for the first of them; nothing for the others."""
        if self.size == 1:
            return [what]
        found = [None] * self.size if self.rank == 0 else None
        dist.gather_object(what, found)
        return found or []
