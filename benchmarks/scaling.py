"""Simulation of a large study with measured costs: bottlenecks, and the best shard size.

    python benchmarks/scaling.py

The driver's time and memory for planning (content addresses) are measured on this machine. Its cost of assigning a unit
is that printed by ``benchmarks/pool.py``. The other costs are options.
"""

from __future__ import annotations

import heapq
import random
import time
import tracemalloc
from collections import deque
from dataclasses import dataclass, replace
from itertools import product

import torch
import tyro
from rich.console import Console
from rich.table import Table

from advlab.data import Dataset
from advlab.studies.transfer.layout import Addresses
from advlab.studies.transfer.work import AttackUnit, EvaluateUnit, Shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What is simulated."""

    models: int = 100
    """N: attacked models, which are the targets too."""
    images: int = 1_200_000
    """M: images attacked per model."""
    gpus: int = 256
    """G: actors of one GPU each."""
    shard_size: int = 5000
    """Images per shard."""
    attack_seconds: float = 0.1
    """To attack one image: 50 evaluations of 2 ms, about a ResNet-50 on one data-centre GPU."""
    answer_seconds: float = 0.0004
    """To classify one image."""
    write_seconds: float = 0.03
    """To put one file into an object store."""
    image_bytes: int = 602_112
    """224 × 224 × 3 in float32."""
    read_bytes_per_second: float = 1e9
    """An actor's share of its machine's network."""
    driver_seconds: float = 0.002
    """Of the driver, per unit: what benchmarks/pool.py prints, rounded up."""
    lifetime_seconds: float = 6 * 3600.0
    """Mean life of a spot machine."""
    absence_seconds: float = 300.0
    """Until another takes its place."""
    depth: int = 2
    """Units queued on an actor."""

    @property
    def shards(self) -> int:
        """Per model."""
        return -(-self.images // self.shard_size)

    @property
    def attack(self) -> float:
        """Seconds of a unit that attacks: clean images in, distorted ones out."""
        travel = 2 * self.shard_size * self.image_bytes / self.read_bytes_per_second
        return self.shard_size * self.attack_seconds + self.write_seconds + travel

    @property
    def evaluate(self) -> float:
        """Seconds of a unit that shows a shard to all models: images in, one file per target out."""
        travel = 2 * self.shard_size * self.image_bytes / self.read_bytes_per_second
        return self.models * (self.shard_size * self.answer_seconds + self.write_seconds) + travel

    @property
    def work(self) -> float:
        """Seconds that all units together take."""
        return self.models * self.shards * (self.attack + self.evaluate)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A simulated study.

    Attributes:
        seconds: from start to end.
        useful: share of the actors' time spent on units that were finished.
        driver: share of its time that the driver was busy.
        lost: units that died with their machine.
    """

    seconds: float
    useful: float
    driver: float
    lost: int


def simulate(costs: Costs, seed: int = 0) -> Outcome:
    """Units wait in one queue for a driver that serves one call at a time; each finished attack adds an evaluation."""
    dice = random.Random(seed)
    todo = deque([costs.attack] * (costs.models * costs.shards))
    queued: list[deque[float]] = [deque() for _ in range(costs.gpus)]
    death = [dice.expovariate(1 / costs.lifetime_seconds) for _ in range(costs.gpus)]
    busy, idle = [False] * costs.gpus, set[int]()
    events: list[tuple[float, int, int, str]] = []  # (time, order, actor, what happens)
    driver, served, lost, finished, order = 0.0, 0, 0, 0, 0
    total = 2 * len(todo)

    def start(actor: int, now: float) -> None:
        nonlocal order
        busy[actor] = True
        end = now + queued[actor][0]
        dies = end > death[actor]
        order += 1
        heapq.heappush(events, (max(now, death[actor]), order, actor, "dies") if dies else (end, order, actor, "ends"))

    def fill(actor: int, now: float) -> None:
        nonlocal driver, served
        while todo and len(queued[actor]) < costs.depth:
            driver = max(driver, now) + costs.driver_seconds
            served += 1
            queued[actor].append(todo.popleft())
        if queued[actor] and not busy[actor]:
            start(actor, max(now, driver if len(queued[actor]) == 1 else now))
        (idle.discard if queued[actor] else idle.add)(actor)

    for actor in range(costs.gpus):
        fill(actor, 0.0)
    now = 0.0
    while finished < total:
        now, _, actor, event = heapq.heappop(events)
        if event == "dies":
            lost += 1
            todo.extendleft(queued[actor])
            queued[actor].clear()
            back, order = now + costs.absence_seconds, order + 1
            death[actor] = back + dice.expovariate(1 / costs.lifetime_seconds)
            heapq.heappush(events, (back, order, actor, "is back"))
        else:
            busy[actor] = False
            if event == "ends":
                finished += 1
                if queued[actor].popleft() == costs.attack:
                    todo.appendleft(costs.evaluate)
            fill(actor, now)
        if todo and idle:
            fill(min(idle), now)
    return Outcome(now, costs.work / (now * costs.gpus), served * costs.driver_seconds / now, lost)


def planning(costs: Costs) -> dict[str, float]:
    """Measured: seconds and bytes of the driver for one attack and one evaluation."""
    shard = Dataset(
        "none", "train", torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64),
        ("",),
    )  # fmt: skip
    names = [f"model-{number:03d}" for number in range(costs.models)]
    manifest = {
        "config": {"attack": "minimum-norm", "target": "nearest", "seed": 0, "shard_size": 1},
        "attack": {"max_evaluations": 96},
    }
    addresses = Addresses(manifest, dict.fromkeys(names, "0" * 64), shard)
    where = Shard("s3://bucket/study", 0, 0)
    begin = time.perf_counter()
    keys = [addresses.predictions(source, target, 0) for source, target in product(names[:10], names)]
    seconds = (time.perf_counter() - begin) / len(keys)
    tracemalloc.start()
    attacks = [
        AttackUnit(where, names[0], "minimum-norm", "nearest", addresses.examples(names[0], 0), None)
        for _ in range(1000)
    ]
    attack_bytes = tracemalloc.get_traced_memory()[0] / len(attacks)
    evaluations = [
        EvaluateUnit(where, name, {name: {target: addresses.predictions(name, target, 0) for target in names}})
        for name in names
    ]
    evaluation_bytes = tracemalloc.get_traced_memory()[0] / len(evaluations) - 1000 * attack_bytes / len(evaluations)
    tracemalloc.stop()
    return {"address": seconds, "attack": attack_bytes, "evaluation": evaluation_bytes}


def show(title: str, head: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title)
    for text in head:
        table.add_column(text, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def main(costs: Costs) -> None:
    plan = planning(costs)
    rows = []
    for size in (250, 1000, 5000, 20_000, 100_000):
        case = replace(costs, shard_size=size)
        outcome = simulate(case)
        files = case.shards * case.models * (1 + case.models)
        rows.append(
            [
                f"{size:,}", f"{case.attack:,.0f}", f"{case.evaluate:,.0f}", f"{outcome.seconds / 3600:.1f}",
                f"{outcome.useful:.1%}", f"{outcome.driver:.2%}", f"{outcome.lost:,}", f"{files / 1e6:.1f} M",
                f"{files * plan['address'] / 60:.1f}", f"{case.models * case.shards * plan['attack'] / 2**20:,.0f}",
                f"{16 * size * case.image_bytes / 2**30:.1f}",
            ]
        )  # fmt: skip
    show(
        f"{costs.models} models × {costs.images:,} images × {costs.gpus} GPUs, by shard size",
        ["shard", "attack s", "evaluate s", "hours", "useful", "driver busy", "units lost", "files", "planning min",
         "driver's units MiB", "object store GiB"],
        rows,
    )  # fmt: skip
    rows = []
    for gpus, size in product((16, 64, 256, 1024), (250, costs.shard_size)):
        outcome = simulate(replace(costs, gpus=gpus, shard_size=size))
        limit = (replace(costs, shard_size=size).attack + replace(costs, shard_size=size).evaluate) / 2
        rows.append(
            [
                f"{gpus:,}", f"{size:,}", f"{outcome.seconds / 3600:.1f}", f"{outcome.useful:.1%}",
                f"{outcome.driver:.1%}", f"{limit / costs.driver_seconds:,.0f}",
            ]
        )  # fmt: skip
    show("by GPUs", ["GPUs", "shard", "hours", "useful", "driver busy", "GPUs one driver can feed"], rows)
    print(
        f"measured here: {1e6 * plan['address']:.1f} µs per content address, {plan['attack']:.0f} bytes per attack and "
        f"{plan['evaluation'] / 1024:.1f} KiB per evaluation in the driver"
    )


if __name__ == "__main__":
    main(tyro.cli(Costs, description=__doc__))
