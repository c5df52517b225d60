"""The cost of a refreshed pool for the trainer: examples per second with and without generators.

    python benchmarks/hardening.py

Runs alternate, so that other load on the machine affects all. Rows drawn from the pool count as examples. A step of
more rows has less overhead per row, so training with a pool is compared with training without one, at the same number
of clean images and at the same number of rows per step, and with a pool that is not refreshed, which isolates the cost
of the generators. The ratios are only meaningful if the generator has its own core.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table

from advlab import data
from advlab.data import Dataset
from advlab.engine.session import session
from advlab.hardening.settings import Settings, variant
from advlab.hardening.trainer import Frozen, Trainer
from advlab.studies.adversarial_training.generators import Generators


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to measure."""

    rounds: int = 7
    """Rounds of runs."""
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


def without_pool(settings: Settings, train: Dataset, batch_size: int, steps: int, seed: int) -> tuple[float, float]:
    """The same for training on clean images alone."""
    trainer = Trainer(replace(settings, levels=(), batch_size=batch_size), train, seed=seed, source=Frozen())
    trainer.run(50)
    return rate(trainer, steps)


def turn(train: Dataset, settings: Settings, config: Config, seed: int) -> dict[str, float]:
    """Ratios of one round of runs, the one with a refreshed pool over each of the others."""
    per_step = settings.batch_size * (1 + len(settings.levels))
    plain = without_pool(settings, train, settings.batch_size, config.steps, seed)
    large = without_pool(settings, train, per_step, config.steps, seed)
    with closing(Generators(train, settings, config.generators, seed=seed)) as source:
        pooled = Trainer(settings, train, seed=seed, source=source)
        while len(pooled.pool) < settings.capacity * len(settings.levels):
            pooled.run(10)
        before = source.arrived
        refreshed = rate(pooled, config.steps)
        arrived = (source.arrived - before) / config.steps
    pooled.source = Frozen()
    frozen = rate(pooled, config.steps)
    return {
        f"rows, over training without a pool, {settings.batch_size} clean rows per step": refreshed[0] / plain[0],
        f"rows, over training without a pool, {per_step} clean rows per step": refreshed[0] / large[0],
        "rows, over a pool that nobody refreshes": refreshed[0] / frozen[0],
        f"clean images, over training without a pool, {settings.batch_size} per step": refreshed[1] / plain[1],
        "images attacked at all levels per step": arrived,
    }


def main(config: Config) -> None:
    torch.set_num_threads(1)
    train = data.load("mnist", "train")
    settings = variant("all", Settings(epochs=1000))
    with session(None):
        rounds = [turn(train, settings, config, seed) for seed in range(config.rounds)]
    table = Table(
        title=f"{settings.batch_size} clean images per step, {config.generators} generator(s): rates per second"
    )
    for heading in ("ratio of", "median", "least", "most"):
        table.add_column(heading, justify="left" if heading == "ratio of" else "right")
    for name in rounds[0]:
        values = [told[name] for told in rounds]
        table.add_row(name, *(f"{value:.3f}" for value in (median(values), min(values), max(values))))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
