"""What a refreshed pool costs the trainer: examples per second with generators of their own, and without a pool.

    python benchmarks/hardening.py

Pairs of runs take turns, so that whatever else the machine does hits both. Rows drawn from the pool count as examples:
that is what the trainer trains on. The generator needs a core of its own for the ratio to mean anything.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median

import torch
import tyro
from rich.console import Console

from advlab import data
from advlab.data import Dataset
from advlab.distributed.hardening.generators import Generators
from advlab.distributed.session import session
from advlab.hardening.settings import Settings, variant
from advlab.hardening.trainer import Frozen, Trainer

BATCH = 250


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to measure."""

    pairs: int = 7
    """Pairs of runs."""
    steps: int = 1000
    """Steps of each run, after as many as it takes for the pool to fill."""
    generators: int = 1
    """Actors that make examples."""


def rate(trainer: Trainer, steps: int) -> tuple[float, float]:
    """Rows trained on, and clean images among them, per second."""
    began = time.perf_counter()
    rows = trainer.run(steps)["examples"]
    seconds = time.perf_counter() - began
    return rows / seconds, steps * trainer.settings.batch_size / seconds


def pair(train: Dataset, settings: Settings, config: Config, seed: int) -> tuple[float, float]:
    """With a pool over without: rows per second, and clean images per second."""
    plain = Trainer(replace(settings, levels=()), train, seed=seed, source=Frozen())
    plain.run(50)
    without = rate(plain, config.steps)
    with closing(Generators(train, settings, config.generators, seed=seed)) as source:
        pooled = Trainer(settings, train, seed=seed, source=source)
        while len(pooled.pool) < settings.capacity * len(settings.levels):
            pooled.run(10)
        beside = rate(pooled, config.steps)
    return beside[0] / without[0], beside[1] / without[1]


def main(config: Config) -> None:
    torch.set_num_threads(1)
    train = data.load("mnist", "train")
    settings = variant("all", Settings(batch_size=BATCH, epochs=1000))
    with session(None):
        ratios = [pair(train, settings, config, seed) for seed in range(config.pairs)]
    rows, images = zip(*ratios, strict=True)
    console = Console()
    for name, values in (("rows trained on", rows), ("clean images", images)):
        spread = f"least {min(values):.3f}, most {max(values):.3f}"
        console.print(f"{name} per second, with the pool / without, median: {median(values):.3f} ({spread})")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
