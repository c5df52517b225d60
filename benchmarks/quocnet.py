"""The communication of a split locally connected network, and the speed of its layer compared with a lower bound.

    python benchmarks/quocnet.py traffic [--model quocnet-small] [--batch 8] [--ranks 2]
    python benchmarks/quocnet.py layer [--repeats 5]

`traffic`: bytes that the busiest process sends in a training step, split by rows of the maps or by FSDP2: computed
from the shapes for every model, and for `--model` counted where PyTorch sends tensors, in real processes on gloo.
`layer`: the local layer compared with unfold + einsum and with a floor: its multiplications at the speed of a large
matrix product, or reading its weights once at the speed of a large sum, whichever takes longer. Both speeds are
measured just before on the same thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional
from traffic import Traffic

from advlab.models.local import LocalLinear
from advlab.models.quocnet import PRESETS, QuocNet, RowWise, parameter_count, preset
from advlab.training import quocnet_parallel, row_parallel

FLOAT = 4
LAYERS = [
    ("quocnet-small, stage 1", 3, (32, 32), 8, 8, 2, 64),
    ("16 rows of quocnet-1b's stage 1", 3, (33, 200), 8, 18, 1, 1),
    ("8 rows of quocnet-1b's stage 2", 8, (25, 179), 8, 18, 1, 1),
    ("8 rows of quocnet-1b's stage 2", 8, (25, 179), 8, 18, 1, 16),
]
"""(name, channels, size, maps, side, stride, images)."""


def halo(step: RowWise, width: int, channels: int, ranks: int, rank: int, *, back: bool) -> int:
    """Bytes per image that a process sends to fetch a step's rows, or on the way ``back``."""
    held = row_parallel.shares(step.rows_in, ranks)
    wanted = [step.needs(*part) for part in row_parallel.shares(step.rows, ranks)]
    own, others = (wanted[rank], held) if back else (held[rank], wanted)
    overlaps = [min(own[1], end) - max(own[0], begin) for peer, (begin, end) in enumerate(others) if peer != rank]
    return sum(rows for rows in overlaps if rows > 0) * width * channels * FLOAT


def spatial_bytes(name: str, ranks: int, batch: int) -> int:
    """Bytes that the busiest process sends in a step, by rows, every stage learning from its own cost."""
    network = QuocNet(preset(name), seed=None, device="meta")
    sent = [0] * ranks
    for rank in range(ranks):
        channels, width = network.shape.channels, network.shape.size
        for stage in network.stages:
            places, maps = stage.local.weight.shape[1], stage.maps
            for step, columns, depth in (
                (stage, width, channels),
                (stage.pool, places, maps),
                (stage.normalise, stage.size[1], maps),
            ):
                there, back = (halo(step, columns, depth, ranks, rank, back=way) for way in (False, True))
                if step is stage:  # an input gets no gradient; its reconstruction goes the other way, its gradient this
                    sent[rank] += there + back + there
                elif step is stage.pool:
                    sent[rank] += there + back
                else:  # its output is the next stage's input
                    sent[rank] += there
            channels, width = maps, stage.size[1]
    return max(sent) * batch


def fsdp_bytes(name: str, ranks: int) -> int:
    """The same by FSDP2: weights gathered forwards and backwards, gradients scattered."""
    return 3 * parameter_count(preset(name)) * FLOAT * (ranks - 1) // ranks


def count(rank: int, kind: quocnet_parallel.Kind, ranks: int, name: str, batch: int, folder: str) -> None:
    """Take two steps and save what this process sent in the second."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{kind}", rank=rank, world_size=ranks)
    data, space = (1, ranks) if kind == "spatial" else (ranks, 1)
    parallel = quocnet_parallel.build(kind, preset(name), data=data, space=space, seed=0, device=torch.device("cpu"))
    size = parallel.network.shape.size
    images = torch.rand(batch, parallel.network.shape.channels, size, size)
    for _ in range(2):  # FSDP settles some things in its first step
        with Traffic() as traffic:
            parallel.network.loss(parallel.network.objectives(parallel.part(images)), 0.1).backward()
    held = sum(weight.to_local().numel() * FLOAT for weight in parallel.network.parameters())
    torch.save((traffic.total, dict(traffic.calls), held), f"{folder}/{kind}-{rank}")
    dist.barrier()
    dist.destroy_process_group()


def traffic(options: argparse.Namespace) -> None:
    print("| model | processes | batch | weights per process, MB | by rows, MB | FSDP2, MB | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in PRESETS:
        for ranks in (2, 4) if name != "quocnet-small" else (2,):
            for batch in (1, options.batch):
                rows, weights = spatial_bytes(name, ranks, batch), fsdp_bytes(name, ranks)
                held = FLOAT * parameter_count(preset(name)) / ranks
                print(
                    f"| {name} | {ranks} | {batch} | {held / 1e6:.1f} | {rows / 1e6:.3f} | {weights / 1e6:.1f} | "
                    f"{weights / rows:.0f} |"
                )
    print(f"\ncounted, {options.model}, {options.ranks} processes, batch {options.batch}, float32:\n")
    kinds: tuple[quocnet_parallel.Kind, ...] = ("spatial", "fsdp")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(count, (kind, options.ranks, options.model, options.batch, folder), nprocs=options.ranks)
            answers = [torch.load(Path(folder, f"{kind}-{rank}")) for rank in range(options.ranks)]
        sent, calls, held = max(answers)
        expected = (
            spatial_bytes(options.model, options.ranks, options.batch)
            if kind == "spatial"
            else fsdp_bytes(options.model, options.ranks)
        )
        print(f"{kind}: {sent:,} bytes sent (worked out: {expected:,}), {held:,} bytes of weights held, calls {calls}")


def layer(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    speed, bandwidth = machine()
    print(f"matrix product {speed / 1e9:.1f} GFLOP/s, memory read {bandwidth / 1e9:.1f} GB/s, one thread\n")
    print("| layer | images | way | forward ms | floor ms | forward and backward ms | floor ms |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for name, channels, size, maps, side, stride, images in LAYERS:
        local = LocalLinear(channels, size, maps, side, stride)
        torch.nn.init.normal_(local.weight, std=0.01)
        x = torch.rand(images, channels, *size, requires_grad=True)
        weights = local.weight.numel()
        floor = max(2 * weights * images / speed, FLOAT * weights / bandwidth)
        ways: list[tuple[str, Callable[[Tensor], Tensor]]] = [
            ("row bands", local),
            ("unfold + einsum", lambda x, layer=local: unfolded(x, layer)),  # type: ignore[misc]
        ]
        torch.testing.assert_close(ways[0][1](x), ways[1][1](x), rtol=1e-4, atol=1e-4)
        for way, call in ways:
            forward = clock(lambda call=call, x=x: call(x.detach()), options.repeats)  # type: ignore[misc]
            both = clock(lambda call=call, x=x, local=local: learn(call(x), local), options.repeats)  # type: ignore[misc]
            times = f"{1e3 * forward:.1f} | {1e3 * floor:.1f} | {1e3 * both:.1f} | {3e3 * floor:.1f}"
            print(f"| {name} | {images} | {way} | {times} |", flush=True)


def learn(codes: Tensor, local: LocalLinear) -> None:
    """Backwards, as in a training step: the gradient of the weights is new memory each time."""
    local.weight.grad = None
    codes.backward(torch.ones_like(codes))


def unfolded(images: Tensor, layer: LocalLinear) -> Tensor:
    """The layer as it is mostly written: all patches of the image, then one contraction."""
    rows, places, maps, _ = layer.weight.shape
    patches = functional.unfold(images, layer.side, stride=layer.stride)  # [B, C·K·K, R·S], by channel, row, column
    weight = layer.weight.view(rows * places, maps, layer.side, layer.side, layer.channels).permute(0, 1, 4, 3, 2)
    codes = torch.einsum("bdp,pmd->bmp", patches, weight.flatten(2))
    return codes.view(len(images), maps, rows, places)


def machine() -> tuple[float, float]:
    """Floating point operations and bytes read per second, on one thread."""
    square, long = torch.rand(1024, 1024), torch.rand(64_000_000)
    return 2 * 1024**3 / clock(lambda: square @ square, 5), FLOAT * len(long) / clock(long.sum, 5)


def clock(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of processor time, as others may be at work; once without looking at the clock first."""
    call()
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["traffic", "layer"])
    parser.add_argument("--model", default="quocnet-small", choices=list(PRESETS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    {"traffic": traffic, "layer": layer}[options.what](options)


if __name__ == "__main__":
    main()
