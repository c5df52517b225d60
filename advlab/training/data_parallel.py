"""Data parallelism: the part of a batch, and of a pool, that belongs to each process of a training run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process, the ``rank``-th of ``size`` that share a run; all of them must make the same calls."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> Self:
        """The processes of ``torch.distributed``, or only this one if that is not initialised."""
        return cls(device, dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls(device)

    def share(self, total: int) -> int:
        """This process's share of ``total`` items; the first processes have one more if it does not divide evenly."""
        return total // self.size + (self.rank < total % self.size)

    def own(self, rows: Tensor) -> Tensor:
        """This process's rows [b] of a batch [B]."""
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
        return summed.tolist()

    def means(self, values: Sequence[float], weight: float) -> list[float]:
        """Means over processes, weighted; empty if all weights are zero."""
        if self.size == 1:
            return list(values) if weight else []
        *summed, weights = self.sums([*(weight * value for value in values), weight])
        return [value / weights for value in summed] if weights else []

    def gathered(self, what: Any) -> list[Any]:
        """The values of all processes, by rank, in the first process; an empty list in the others."""
        if self.size == 1:
            return [what]
        found = [None] * self.size if self.rank == 0 else None
        dist.gather_object(what, found)
        return found or []
