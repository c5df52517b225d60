"""Profile of minimum_norm: the time of the network's forward and backward passes, and of its own bookkeeping.

python benchmarks/attack_profile.py --models fc100-100-10,relu300-150-10

Processor time of one thread. The floor is the time of the network's matrix products at the speed that
this machine reaches on the first layer's product.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import tyro
from torch import Tensor, nn

from advlab import data, models
from advlab.attacks import minimum_norm
from advlab.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to profile."""

    models: str = "fc100-100-10,relu300-150-10"
    """Fully connected networks of the zoo, comma separated."""
    images: int = 1000
    """Test images, attacked as one batch."""
    max_evaluations: int = 96
    """Budget per image."""
    repeats: int = 3
    """Runs; the fastest counts."""


@dataclass
class Stopwatch:
    """Wraps a function and adds up its processor time and, with ``rows``, the rows it was given."""

    function: Callable[..., Any]
    seconds: float = field(default=0.0, init=False)
    rows: int = field(default=0, init=False)

    def __call__(self, first: Tensor, *args: Any, **options: Any) -> Any:
        begin = time.process_time()
        try:
            return self.function(first, *args, **options)
        finally:
            self.seconds += time.process_time() - begin
            self.rows += len(first) if first.ndim else len(args[0])


def gemm_rate(rows: int, fan_in: int, fan_out: int, *, repeats: int = 200) -> float:
    """FLOP/s of the product [rows, fan_in] × [fan_in, fan_out]."""
    a, b = torch.randn(rows, fan_in), torch.randn(fan_in, fan_out)
    begin = time.process_time()
    for _ in range(repeats):
        a @ b
    return 2 * rows * fan_in * fan_out * repeats / (time.process_time() - begin)


def profile(name: str, config: Config) -> dict[str, float]:
    """Milliseconds per image of the fastest run, by part."""
    network = models.load(name, data="mnist", seed=0)
    test = data.load("mnist", split="test").subset(slice(config.images))
    weights = [part.weight for part in network.modules() if isinstance(part, nn.Linear)]
    minimum_norm(network, test.images[:2], test.labels[:2])  # first calls allocate
    best: dict[str, float] = {"total": float("inf")}
    for _ in range(config.repeats):
        forward, backward = Stopwatch(network), Stopwatch(torch.autograd.grad)
        with patch("torch.autograd.grad", backward):
            begin = time.process_time()
            minimum_norm(
                forward,
                test.images,
                test.labels,
                max_evaluations=config.max_evaluations,
                batch_size=config.images,
            )
            total = time.process_time() - begin
        flops = 2 * sum(weight.numel() for weight in weights) * (forward.rows + backward.rows)
        floor = flops / gemm_rate(config.images, weights[0].shape[1], weights[0].shape[0])
        scale = 1000 / config.images
        if scale * total < best["total"]:
            best = {
                "total": scale * total,
                "forward": scale * forward.seconds,
                "backward": scale * backward.seconds,
                "floor": scale * floor,
                "evaluations": forward.rows / config.images,
            }
    return best


def run(config: Config) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| model | evaluations | ms / image | forward | backward | bookkeeping | floor, ms / image |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in config.models.split(","):
        part = profile(name, config)
        forward, backward = part["forward"] / part["total"], part["backward"] / part["total"]
        print(
            f"| {name} | {part['evaluations']:.0f} | {part['total']:.2f} | {forward:.0%} | {backward:.0%} "
            f"| {1 - forward - backward:.0%} | {part['floor']:.2f} |"
        )


if __name__ == "__main__":
    try:
        run(tyro.cli(Config))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
