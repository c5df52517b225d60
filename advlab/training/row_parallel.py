"""Model parallelism for locally connected networks: every process holds some rows of every map, and their filters.

A filter of such a network is used at one position: so no process needs the filters of another, and only the few rows of
a map are sent by which neighbouring receptive fields overlap. Weights and optimiser states are DTensors sharded by
rows, so another number of processes can read a checkpoint. All processes of a group must make the same calls with the
same images: their communication in a backward pass then has the same order, as autograd traverses equal graphs in the
same order.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from advlab.errors import UserError
from advlab.models.quocnet import QuocNet, QuocNetShape, RowWise, Space

Interval = tuple[int, int]


def mesh(data: int, space: int, device: str) -> DeviceMesh:
    """A mesh of ``data`` × ``space`` processes; ranks that hold parts of one network are neighbours. Raises a UserError
    if the number of processes is another.
    """
    if data * space != dist.get_world_size():
        raise UserError(
            f"`data_parallel` {data} × `space` {space} needs {data * space} processes, and there are "
            f"{dist.get_world_size()}; start as many as it needs."
        )
    return init_device_mesh(device, (data, space), mesh_dim_names=("data", "space"))


def shares(rows: int, ranks: int) -> list[Interval]:
    """The rows of each process: the chunks of ``torch.chunk``, as DTensor distributes them."""
    chunk = -(-rows // ranks)
    return [(min(rank * chunk, rows), min((rank + 1) * chunk, rows)) for rank in range(ranks)]


def build(shape: QuocNetShape, space: DeviceMesh, *, seed: int, device: torch.device) -> QuocNet:
    """The network ``QuocNet(shape, seed=seed)``, of which this process only allocates its own rows. ``space`` is a mesh
    of one axis; raises a UserError if it has more processes than some map has rows.
    """
    network = QuocNet(shape, seed=None, device="meta")
    ranks = space.size()
    for number, stage in enumerate(network.chain(), start=1):
        for rows in (stage.rows, stage.pool.rows):
            if any(first == last for first, last in shares(rows, ranks)):
                raise UserError(
                    f"`space` {ranks} leaves a process without any of the {rows} rows of a map of stage {number}; "
                    "choose fewer."
                )
    network.space = Shared(space)
    for stage in network.chain():
        stage.space = network.space
        whole = stage.local.weight
        first, last = shares(len(whole), ranks)[space.get_local_rank()]
        own = torch.empty((last - first, *whole.shape[1:]), device=device)
        weight = DTensor.from_local(own, space, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())
        stage.local.weight = nn.Parameter(weight)
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device=device))
    network.initialise(seed)
    return network


@dataclass(frozen=True, slots=True)
class _Plan:
    """The rows that every process holds, and the rows that it needs."""

    group: dist.ProcessGroup
    rank: int
    held: list[Interval]
    wanted: list[Interval]

    def moved(self, source: Tensor, fetches: bool) -> Tensor:
        """The rows that this process needs, from those that all hold; or, transposed, the rows that it holds, the sums
        of those that all need.
        """
        have, want = (self.held, self.wanted) if fetches else (self.wanted, self.held)
        own, (begin, end) = have[self.rank], want[self.rank]
        result = source.new_zeros(*source.shape[:2], end - begin, source.shape[3])
        kept = _overlap(own, (begin, end))
        if kept[0] < kept[1]:
            _rows(result, kept, begin).copy_(_rows(source, kept, own[0]))
        sent = [(peer, _rows(source, part, own[0]).contiguous()) for peer, part in self._overlaps(own, want)]
        receive = self._overlaps((begin, end), have)
        arrived = [
            (peer, source.new_empty(*source.shape[:2], last - first, source.shape[3]))
            for peer, (first, last) in receive
        ]
        operations = [
            dist.P2POp(kind, tensor, dist.get_global_rank(self.group, peer), self.group)
            for kind, parts in ((dist.isend, sent), (dist.irecv, arrived))
            for peer, tensor in parts
        ]
        for request in dist.batch_isend_irecv(operations) if operations else ():
            request.wait()
        for (_, part), (_, tensor) in zip(receive, arrived, strict=True):
            (Tensor.copy_ if fetches else Tensor.add_)(_rows(result, part, begin), tensor)
        return result

    def _overlaps(self, own: Interval, others: list[Interval]) -> list[tuple[int, Interval]]:
        common = [(peer, _overlap(own, other)) for peer, other in enumerate(others) if peer != self.rank]
        return [(peer, (first, last)) for peer, (first, last) in common if first < last]


class Shared(Space):
    """A space of several processes."""

    def __init__(self, space: DeviceMesh) -> None:
        self.mesh, self.group = space, space.get_group()
        self.rank, self.ranks = space.get_local_rank(), space.size()

    def share(self, rows: int) -> Interval:
        return shares(rows, self.ranks)[self.rank]

    def enter(self, images: Tensor, step: RowWise) -> Tensor:
        """The images' gradient is summed over all processes."""
        begin, end = step.needs(*self.share(step.rows))
        images = images.view_as(images)
        if images.requires_grad:
            images.register_hook(self._summed)
        return images[:, :, begin:end]

    def fetch(self, mine: Tensor, step: RowWise) -> Tensor:
        return _Moved.apply(mine, self._plan(step), True)

    def give_back(self, needed: Tensor, step: RowWise) -> Tensor:
        return _Moved.apply(needed, self._plan(step), False)

    def leave(self, mine: Tensor, rows: int) -> Tensor:
        """Later steps are the same in every process, so each keeps the gradient of its rows."""
        shape = torch.Size((*mine.shape[:2], rows, mine.shape[3]))
        stride = torch.empty(shape, device="meta").stride()
        mine = mine.contiguous()
        return DTensor.from_local(
            mine, self.mesh, [Shard(2)], run_check=False, shape=shape, stride=stride
        ).full_tensor()

    def _summed(self, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def _plan(self, step: RowWise) -> _Plan:
        held = shares(step.rows_in, self.ranks)
        wanted = [step.needs(*part) for part in shares(step.rows, self.ranks)]
        return _Plan(self.group, self.rank, held, wanted)


class _Moved(torch.autograd.Function):
    """Own rows → needed rows, or the transpose; see `_Plan.moved`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: _Plan, fetches: bool) -> Tensor:
        ctx.plan, ctx.fetches = plan, fetches
        return plan.moved(rows, fetches)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Moved.apply(gradients[0], ctx.plan, not ctx.fetches), None, None


def _overlap(one: Interval, other: Interval) -> Interval:
    return max(one[0], other[0]), min(one[1], other[1])


def _rows(maps: Tensor, part: Interval, offset: int) -> Tensor:
    return maps[:, :, part[0] - offset : part[1] - offset]
