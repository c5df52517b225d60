"""One training run of the ablation, as a unit of work that is resumed from its own snapshots."""

from __future__ import annotations

import json
import math
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from safetensors.torch import save as save_safetensors
from torch import nn

from advlab.data import Dataset
from advlab.distributed.hardening.generators import Generators
from advlab.distributed.worker import Resources
from advlab.errors import UserError
from advlab.hardening import attack
from advlab.hardening.levels import Levels
from advlab.hardening.pool import Pool
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import Alternating, Frozen, Source, Trainer, build, cut
from advlab.models import error_rate
from advlab.results import Store, pools


@dataclass(frozen=True, slots=True)
class TrainUnit:
    """Train one variant from one seed, and measure it.

    Attributes:
        store: URI of the study's folder.
        variant: its name.
        seed: of the run.
        settings: what the variant is.
        key: content address of the row it makes.
        held_out: ``test`` or ``validation``, what it is measured on.
        generators: actors that make examples beside the trainer; 0 alternates.
        snapshot_epochs: between two snapshots.
        distortions: held-out images whose minimal distortion is measured.
        pool: folder of a pool to begin with, or None.
        frozen: whether that pool stays as it is.
    """

    store: str
    variant: str
    seed: int
    settings: Settings
    key: str
    held_out: str
    generators: int
    snapshot_epochs: int
    distortions: int
    pool: str | None
    frozen: bool

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def kind(self) -> str:
        return self.variant

    @property
    def part(self) -> str:
        """The file of its row."""
        return f"runs/variant={self.variant}/seed-{self.seed:04d}.parquet"

    def run(self, resources: Resources) -> None:
        images, held_out = resources.get("train"), resources.get("held out")
        source: Source = Frozen() if self.frozen else Alternating()
        block: Any = nullcontext()
        if self.generators and self.settings.levels and not self.frozen:
            source = Generators(images, self.settings, self.generators, seed=self.seed)
            block = closing(source)
        with block:
            self._train(resources, images, held_out, source)

    def _train(self, resources: Resources, images: Dataset, held_out: Dataset, source: Source) -> None:
        store = Store(self.store)
        trainer = Trainer(self.settings, images, seed=self.seed, source=source, pool=self._first_pool(images))
        stem = f"variant={self.variant}/seed-{self.seed:04d}"
        curve = resume(trainer, store, f"pools/{stem}", self.key)
        while trainer.step < trainer.total:
            began, cpu = time.perf_counter(), time.process_time()
            told = trainer.run(trainer.steps_per_epoch)
            told["seconds"], told["cpu_seconds"] = time.perf_counter() - began, time.process_time() - cpu
            epoch = trainer.step // trainer.steps_per_epoch
            curve.append({"epoch": float(epoch), **told})
            resources.note(f"{self.name}: epoch {epoch} of {self.settings.epochs}, loss {told['loss']:.4f}")
            if epoch % self.snapshot_epochs == 0 or trainer.step == trainer.total:
                snapshot(trainer, store, f"pools/{stem}", self.key, curve)
        trainer.network.eval()
        store.write_bytes(f"models/{stem}.safetensors", save_safetensors(trainer.network.state_dict()))
        store.write_table(f"curves/{stem}.parquet", pa.Table.from_pylist(curve))
        store.write_table(self.part, pa.Table.from_pylist([self._row(trainer, curve, held_out)]), self.key)

    def _first_pool(self, images: Dataset) -> Pool | None:
        if self.pool is None or not self.settings.levels:
            return None
        pool, _ = pools.load(self.pool)
        _, shapes = cut(build(self.settings, images), self.settings, images)
        widths = dict(enumerate(map(math.prod, shapes)))
        network = f"--network {self.settings.network}" if self.settings.network else f"--hidden {self.settings.hidden}"
        for level, held in pool.layers.items():
            width = held.values.shape[1]
            if widths.get(level) != width:
                raise UserError(
                    f"--pool {self.pool!r} holds {width} activations per example at level {level}, and {network} "
                    "does not; take another pool, or that network."
                )
            held.births.zero_()  # steps of another run mean nothing in this one
        return pool

    def _row(self, trainer: Trainer, curve: list[dict[str, float]], held_out: Dataset) -> dict[str, Any]:
        error = error_rate(trainer.network, held_out.images, held_out.labels)
        train = trainer.dataset
        first = held_out.subset(slice(self.distortions))
        return {
            "variant": self.variant,
            "seed": self.seed,
            "test_error": error if self.held_out == "test" else None,
            "validation_error": error if self.held_out == "validation" else None,
            "train_error": error_rate(trainer.network, train.images, train.labels),
            "loss": curve[-1]["loss"],
            **distortions(trainer.network, first),
            "seconds": sum(row["seconds"] for row in curve),
            "cpu_seconds": sum(row["cpu_seconds"] for row in curve),
            "settings": json.dumps(self.settings.decisive()),
        }


def distortions(network: nn.Module, images: Dataset) -> dict[str, float]:
    """How far the nearest misread point is at every level: ``distortion_k``, the median L2 norm, and
    ``relative_distortion_k``, the median share of the activation's own norm, over images read rightly."""
    levels = Levels(network)
    found: dict[str, float] = {}
    right = network(images.images).argmax(1) == images.labels
    clean, labels = images.images[right], images.labels[right]
    for level in range(levels.count) if len(labels) else ():
        nearest, norms = attack.minimal(levels, clean, labels, level)
        l2 = nearest.l2[nearest.success]
        found[f"distortion_{level}"] = float(l2.median())
        found[f"relative_distortion_{level}"] = float((l2 / norms[nearest.success]).median())
    return found


def snapshot(trainer: Trainer, store: Store, folder: str, key: str, curve: list[dict[str, float]]) -> None:
    """Keep the trainer and its pool as they are."""
    extra = {"key": key, "curve": curve}
    readings = trainer.readings()
    pools.save(store, folder, trainer.pool, trainer.step, readings, trainer=trainer.state(), extra=extra)


def resume(trainer: Trainer, store: Store, folder: str, key: str) -> list[dict[str, float]]:
    """Go on from the newest snapshot of the same run, if there is one; returns the curve up to there."""
    if not store.exists(f"{folder}/{pools.POINTER}"):
        return []
    pool, pointer = pools.read(store, folder)
    if pointer["extra"].get("key") != key:
        return []
    trainer.restore(pools.read_trainer(store, folder, pointer))
    trainer.pool = pool
    curve: list[dict[str, float]] = pointer["extra"]["curve"]
    return curve
