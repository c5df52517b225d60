"""A network in several processes: split by rows of its maps, or its parameters by FSDP2; and its checkpoints.

All of it works on gloo and CPUs as on NCCL and GPUs. ``torch.distributed`` must be initialised.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from advlab.errors import UserError
from advlab.models.local import LocalLinear
from advlab.models.quocnet import QuocNet, QuocNetShape
from advlab.optim.adam_mini import AdamMini
from advlab.training import distributed_checkpoint, row_parallel

Kind = Literal["spatial", "fsdp"]


@dataclass(frozen=True, slots=True)
class Parallel:
    """A network and how it is spread.

    Attributes:
        network: of which this process holds a part.
        kind: ``spatial``: every group of ``space`` processes holds one copy, and sees one part of the batch.
            ``fsdp``: all processes hold one copy between them, and each sees a part of the batch of its own.
        mesh: data × space.
    """

    network: QuocNet
    kind: Kind
    mesh: DeviceMesh

    @property
    def parts(self) -> int:
        """Into how many parts a batch is cut."""
        return self.mesh["data"].size()

    def part(self, batch: Tensor) -> Tensor:
        """This process's part of a batch.

        Raises:
            UserError: a batch that cannot be cut evenly.
        """
        if len(batch) % self.parts:
            raise UserError(f"a batch of {len(batch)} cannot be cut into {self.parts} parts; choose a multiple.")
        return batch.chunk(self.parts)[self.mesh["data"].get_local_rank()]

    def average_gradients(self) -> None:
        """Bring the gradients of all parts of the batch together; FSDP has done so already."""
        if self.kind == "fsdp" or self.parts == 1:
            return
        for weight in self.network.parameters():
            if weight.grad is not None:
                own = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
                dist.all_reduce(own, group=self.mesh.get_group("data"))
                own /= self.parts

    def total(self, own: Tensor) -> Tensor:
        """The sum over rows and the mean over the parts of the batch, of a number that each process has a part of."""
        total = own.detach().clone()
        dist.all_reduce(total)
        return total / self.parts

    def filters(self, places: int) -> Tensor:
        """[n, C, K, K]: the first stage's filters at about ``places``² places spread over the image, on the CPU."""
        layer = self.network.stages[0].local
        assert isinstance(layer, LocalLinear)
        rows, columns = layer.weight.shape[:2]
        first, own = layer.first_row, layer.own_weight().detach()
        step = max(1, rows // places)
        chosen = own[-first % step :: step, :: max(1, columns // places)].flatten(0, 1).cpu()
        parts: list[Tensor] = [chosen] * dist.get_world_size()
        dist.all_gather_object(parts, chosen)
        if self.kind == "spatial":  # all groups hold the same
            parts = parts[: self.mesh["space"].size()]
        side = layer.side
        # [n, M, D], D by column, row and channel
        return torch.cat(parts).view(-1, side, side, layer.channels).permute(0, 3, 2, 1)


def build(
    kind: Kind,
    shape: QuocNetShape,
    *,
    data: int,
    space: int,
    seed: int,
    device: torch.device,
    precision: torch.dtype | None = None,
) -> Parallel:
    """A fresh network, its weights those of ``QuocNet(shape, seed=seed)``; nowhere is all of it allocated.

    Args:
        kind: see `Parallel`; FSDP has no use for ``space`` > 1.
        shape: of the network.
        data, space: the mesh.
        seed: of the weights.
        device: where to put them.
        precision: in which the local layers make their products; with FSDP also that in which weights travel.

    Raises:
        UserError: a mesh that does not fit the processes, or the network.
    """
    if kind == "fsdp" and space != 1:
        raise UserError(f"`parallelism` fsdp only splits batches; give `data_parallel` {data * space} and `space` 1.")
    mesh = row_parallel.mesh(data, space, device.type)
    if kind == "spatial":
        network = row_parallel.build(shape, mesh["space"], seed=seed, device=device)
    else:
        network = _fully_sharded(shape, mesh["data"], seed, device, precision)
    network.set_precision(precision)
    return Parallel(network, kind, mesh)


def _fully_sharded(
    shape: QuocNetShape, data: DeviceMesh, seed: int, device: torch.device, precision: torch.dtype | None
) -> QuocNet:
    network = QuocNet(shape, seed=None, device="meta")
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=precision, cast_forward_inputs=False)
    for stage in network.stages:
        fully_shard(stage, mesh=data, mp_policy=policy)
    fully_shard(network, mesh=data, mp_policy=policy)
    register_fsdp_forward_method(network, "objectives")
    network.to_empty(device=device)
    network.initialise(seed)
    return network


def save(path: str | os.PathLike[str], network: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint from all processes, each its own part; one process that is alone writes all."""
    state_dict_saver.save(_state(network, optimiser, step), checkpoint_id=path, no_dist=not dist.is_initialized())


def load(path: str | os.PathLike[str], network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Read a checkpoint, whichever number of processes wrote it and however they were spread; returns its step.

    Raises:
        UserError: it cannot be read, see `distributed_checkpoint.read`.
    """
    state = _state(network, optimiser, 0)
    distributed_checkpoint.read(state, path)
    set_state_dict(network, optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"])
    return int(state["step"])


def load_network(path: str | os.PathLike[str], network: nn.Module) -> None:
    """Read the network alone; raises as ``load``."""
    distributed_checkpoint.read({"model": network.state_dict()}, path)


def _state(network: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    model, moments = get_state_dict(network, optimiser)
    return {"model": model, "optimiser": moments, "step": torch.tensor(step)}


def optimiser(name: Literal["adam-mini", "sgd"], network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """`AdamMini`; or plain gradient descent, which keeps nothing beside the weights and their gradients."""
    make: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam-mini": AdamMini, "sgd": torch.optim.SGD}
    return make[name](network.parameters(), lr=learning_rate)
