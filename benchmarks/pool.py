"""The overhead of the actor pool: one actor compared with a plain loop over the same shards, and two with one.

    python benchmarks/pool.py

The three alternate, so that other load on the machine affects all of them. It also prints the driver's cost per unit,
by the number of pending calls, which limits the number of GPUs that one driver can serve.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import ray
import torch
import tyro
from rich.console import Console
from rich.table import Table

from advlab import data, models
from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.session import session
from advlab.engine.shared_dataset import SharedDataset
from advlab.engine.worker import Resources
from advlab.studies.transfer.work import AttackUnit, Shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to measure."""

    model: str = "fc100-100-10"
    """Zoo name of the attacked model."""
    attack: str = "lbfgs"
    """Attack."""
    shard_size: int = 250
    """Images per shard; the default is the transfer study's."""
    shards: int = 8
    """Shards per turn."""
    rounds: int = 7
    """Turns of each."""
    contestants: str = "plain loop,1 actor,2 actors"
    """Who takes turns, comma separated; the first is what the others are compared with."""
    calls: str = "4,64,512"
    """Numbers of calls out at a time for the cost to the driver, comma separated."""
    empty_units: int = 2000
    """Units without work per number of calls."""


class Here:
    """What a unit finds on an actor, without an actor."""

    device = torch.device("cpu")

    def __init__(self, shared: dict[str, Any]) -> None:
        self.shared, self.input = shared, None

    def get(self, key: str) -> Any:
        return self.shared[key]

    def memo(self, _key: str, make: Callable[[], Any]) -> Any:
        return make()

    def note(self, text: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Empty:
    """A unit that does nothing."""

    name: str
    kind: str = "empty"

    def run(self, _resources: Resources) -> None:
        return None


def main(config: Config) -> None:
    torch.set_num_threads(1)
    network = models.load(config.model, data="mnist", seed=0)
    images = data.load("mnist", split="train")
    size = config.shard_size
    parts = {
        start: SharedDataset.of(images.subset(slice(start, start + size)))
        for start in range(0, size * config.shards, size)
    }
    shared = {f"model {config.model}": network, "references": None}
    scratch = Path(tempfile.mkdtemp())

    def units(turn: str) -> list[AttackUnit]:
        folder = str(scratch / turn)
        return [
            AttackUnit(Shard(folder, start, seed=0), config.model, config.attack, "random", key="k", reuse=None)
            for start in parts
        ]

    def loop(turn: str) -> None:
        here = Here(shared)
        for unit in units(turn):
            here.input = parts[unit.shard.start]
            unit.run(here)

    console = Console()
    with session(None):
        stored = {start: ray.put(part) for start, part in parts.items()}
        pools = {count: ActorPool(PoolOptions(actors=count, num_cpus=0.5), elastic=False) for count in (1, 2)}
        for pool in pools.values():
            for key, value in shared.items():
                pool.share(key, value)

        def on(count: int) -> Callable[[str], None]:
            def turn(name: str) -> None:
                assert not pools[count].run(units(name), inputs=lambda unit: stored[unit.shard.start])

            return turn

        all_of_them = {"plain loop": loop, "1 actor": on(1), "2 actors": on(2)}
        seconds = compare({name: all_of_them[name] for name in config.contestants.split(",")}, config.rounds)
        show(console, seconds, config)
        driver = {
            int(calls): driver_cost(int(calls), config.empty_units, pools[2]) for calls in config.calls.split(",")
        }
        show_driver(console, driver)
    shutil.rmtree(scratch)


def compare(contestants: dict[str, Callable[[str], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each turn; the first round, in which actors start, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run(f"{name} {turn}")
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def show(console: Console, seconds: dict[str, list[float]], config: Config) -> None:
    table = Table(title=f"{config.attack} on {config.model}, shards of {config.shard_size}, {config.rounds} rounds")
    first = next(iter(seconds))
    for head in ("", "s per shard", f"speed / {first}, median", "least", "most"):
        table.add_column(head, justify="left" if not head else "right")
    for name, turns in seconds.items():
        ratios = [a / b for a, b in zip(seconds[first], turns, strict=True)]
        values = (median(turns) / config.shards, median(ratios), min(ratios), max(ratios))
        table.add_row(name, *(f"{value:.3f}" for value in values))
    console.print(table)


def driver_cost(calls: int, units: int, pool: ActorPool) -> tuple[float, float]:
    """Seconds of the driver's processor, and of the clock, per unit, with so many calls out to two actors."""
    begin, cpu = time.perf_counter(), time.process_time()
    assert not pool.run([Empty(f"empty {number}") for number in range(units)], depth=calls // 2)
    return (time.process_time() - cpu) / units, (time.perf_counter() - begin) / units


def show_driver(console: Console, costs: dict[int, tuple[float, float]]) -> None:
    table = Table(title="a unit's cost to the driver")
    for head in ("calls out", "CPU ms per unit", "units/s"):
        table.add_column(head, justify="right")
    for calls, (cpu, wall) in costs.items():
        table.add_row(str(calls), f"{1000 * cpu:.2f}", f"{1 / wall:.0f}")
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
