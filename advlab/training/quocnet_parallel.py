"""QuocNet in processes of ``torch.distributed`` (gloo or NCCL), by rows of its maps or FSDP2; its checkpoints."""

import os
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
from advlab.models.quocnet import QuocNet, QuocNetShape
from advlab.optim.adam_mini import AdamMini
from advlab.training import distributed_checkpoint, row_parallel

Kind = Literal["spatial", "fsdp"]


@dataclass(frozen=True, slots=True)
class Parallel:
    """The part of a network that this process holds, and its distribution over a ``mesh`` of data × space processes.

    In kind ``spatial``, every group of ``space`` processes shares one copy and one part of the batch; in ``fsdp``, all
    processes share one copy, and each has its own part of the batch.
    """

    network: QuocNet
    kind: Kind
    mesh: DeviceMesh

    @property
    def parts(self) -> int:
        return self.mesh["data"].size()

    def part(self, batch: Tensor) -> Tensor:
        """This process's part of a batch; raises a UserError if it cannot be split evenly."""
        if len(batch) % self.parts:
            raise UserError(f"a batch of {len(batch)} cannot be split into {self.parts} parts; choose a multiple.")
        return batch.chunk(self.parts)[self.mesh["data"].get_local_rank()]

    def average_gradients(self) -> None:
        """Average the gradients over all parts of the batch; FSDP has already done so."""
        if self.kind == "fsdp" or self.parts == 1:
            return
        for weight in self.network.parameters():
            if weight.grad is not None:
                own = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
                dist.all_reduce(own, group=self.mesh.get_group("data"))
                own /= self.parts

    def total(self, own: Tensor) -> Tensor:
        """Sum a number over rows and average it over the parts of the batch; each process has one term."""
        total = own.detach().clone()
        dist.all_reduce(total)
        return total / self.parts

    def filters(self, places: int) -> Tensor:
        """[n, C, K, K]: the first stage's filters at about ``places``² positions spread over the image, on the CPU."""
        layer = self.network.chain()[0].local
        rows, columns = layer.weight.shape[:2]
        first, own = layer.first_row, layer.own_weight().detach()
        step = max(1, rows // places)
        chosen = own[-first % step :: step, :: max(1, columns // places)].flatten(0, 1).cpu()
        parts: list[Tensor] = [chosen] * dist.get_world_size()
        dist.all_gather_object(parts, chosen)
        if self.kind == "spatial":  # all groups hold the same filters
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
    """A new network with the weights of ``QuocNet(shape, seed=seed)``; no process allocates all of it.

    The mesh is ``data`` × ``space``; FSDP needs ``space`` 1. Products in the local layers have ``precision``, and with
    FSDP also the weights that are sent. Raises a UserError if the mesh does not fit the processes, or the network.
    """
    if kind == "fsdp" and space != 1:
        raise UserError(f"`parallelism` fsdp only splits batches; give `data_parallel` {data * space} and `space` 1.")
    mesh = row_parallel.mesh(data, space, device.type)
    if kind == "spatial":
        network = row_parallel.build(shape, mesh["space"], seed=seed, device=device)
    else:
        network = _fully_sharded(shape, mesh["data"], seed, device, precision)
    for stage in network.chain():
        stage.local.precision = precision
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
    """Write a checkpoint, each process its own part; a single process writes all of it."""
    state_dict_saver.save(_state(network, optimiser, step), checkpoint_id=path, no_dist=not dist.is_initialized())


def load(path: str | os.PathLike[str], network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Read a checkpoint of any number of processes and any layout; returns its step; raises as
    `distributed_checkpoint.read`.
    """
    state = _state(network, optimiser, 0)
    distributed_checkpoint.read(state, path)
    set_state_dict(network, optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"])
    return int(state["step"])


def _state(network: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    model, moments = get_state_dict(network, optimiser)
    return {"model": model, "optimiser": moments, "step": torch.tensor(step)}


def optimiser(name: Literal["adam-mini", "sgd"], network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """`AdamMini`, or plain gradient descent, which needs no memory besides the weights and their gradients."""
    kind = AdamMini if name == "adam-mini" else torch.optim.SGD
    return kind(network.parameters(), lr=learning_rate)
