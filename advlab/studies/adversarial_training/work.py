"""One training run of the ablation, by a unit of work or by several workers; resumable."""

import json
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from advlab.command import also
from advlab.data import Dataset
from advlab.engine.launcher import Launcher
from advlab.engine.worker import Resources
from advlab.errors import UserError
from advlab.hardening import attack, snapshots
from advlab.hardening.levels import Levels
from advlab.hardening.pool import Pool
from advlab.hardening.settings import VARIANTS, Settings
from advlab.hardening.trainer import CPU, Alternating, Frozen, Source, Trainer, build, cut
from advlab.models import error_rate
from advlab.store import Store
from advlab.studies.adversarial_training.generators import Generators
from advlab.training import trainer_state

STATE = "state.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class HardeningConfig:
    """Settings that determine the rows of an ablation."""

    dataset: Annotated[str, also("--data")] = "mnist"
    """mnist, fashion_mnist or cifar10."""
    variants: str = ",".join(VARIANTS)
    """Comma-separated variants to compare."""
    split: Literal["train", "fit"] = "train"
    """train: train on all training images and measure on the test set; fit: train without the last 10,000 and measure
    on these only, to choose hyper-parameters."""
    seeds: int = 5
    """Number of runs of each variant, with consecutive seeds."""
    seed: int = 0
    """First seed."""
    examples: Annotated[int | None, also("--images")] = None
    """Number of training images, from the first; all by default."""
    mode: Literal["synchronous", "asynchronous"] = "synchronous"
    """synchronous: attack and train in turn, reproducible to the bit; asynchronous: generators run in parallel."""
    generators: int = 1
    """Generators of each run in asynchronous mode; each needs a CPU."""
    snapshot_epochs: int = 5
    """Epochs between snapshots of a run, of which a crash can lose one interval."""
    distortions: int = 300
    """Number of held-out images whose minimum distortion is measured at every level."""
    tune: int = 0
    """Number of settings of each variant to try first on the validation split; the best replace those given. 0 for no
    search."""
    pool: str | None = None
    """Folder of the pool of another run, to start with."""
    frozen: bool = False
    """Do not refresh that pool."""
    training: Settings = field(default_factory=Settings)
    """Settings shared by the variants; a variant's own settings take precedence."""

    @property
    def held_out(self) -> str:
        """The split that runs are evaluated on."""
        return "test" if self.split == "train" else "validation"

    @property
    def beside(self) -> int:
        """Actors that make examples beside the trainer; with 0 attacks and training alternate."""
        return self.generators if self.mode == "asynchronous" else 0


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The state of a single trainer of the run ``key``, stored beside the snapshot of its pool."""

    store: Store
    folder: str
    key: str

    def resume(self, trainer: Trainer) -> list[dict[str, float]]:
        """Restore the last stored state of the same run, if there is one; returns the curve up to there."""
        if not self.store.exists(f"{self.folder}/{snapshots.POINTER}"):
            return []
        pool, pointer = snapshots.read(self.store, self.folder)
        if pointer["extra"].get("key") != self.key:
            return []
        state = snapshots.read_trainer(self.store, self.folder, pointer)
        with trainer_state.restoring(self.store.path(self.folder)):
            trainer.restore(state)
            trainer.take_shard([pool.state()])
            return _curve(pointer["extra"])

    def keep(self, trainer: Trainer, curve: list[dict[str, float]]) -> None:
        """Store the current state of the trainer and its pool."""
        extra = {"key": self.key, "curve": curve}
        predictions = trainer.predictions(trainer.pool)
        state = trainer.state()
        snapshots.save(self.store, self.folder, trainer.pool, trainer.step, predictions, trainer=state, extra=extra)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The state of workers that share a run: checkpoints of Ray Train, each worker's shard included.

    A snapshot of the whole pool is also written for other readers; the workers do not need it.
    """

    launcher: Launcher
    store: Store
    folder: str
    key: str

    def resume(self, trainer: Trainer) -> list[dict[str, float]]:
        """See `Snapshots`; shards of another number of workers are redistributed."""
        with self.launcher.newest() as folder:
            if folder is None:
                return []
            store = Store(folder)
            state = trainer_state.read(store, STATE)
            if state.get("key") != self.key:
                return []
            shards = [trainer_state.read(store, name) for name in store.files() if name.startswith("shard-")]
        with trainer_state.restoring(folder):
            trainer.restore(state["trainer"])
            trainer.take_shard(shards)
            return _curve(state)

    def keep(self, trainer: Trainer, curve: list[dict[str, float]]) -> None:
        whole = trainer.whole_pool()
        if whole is not None:
            snapshots.save(self.store, self.folder, whole, trainer.step, trainer.predictions(whole))
        with tempfile.TemporaryDirectory(prefix="advlab-") as folder:
            rank = trainer.ranks.rank
            torch.save(trainer.pool.state(), Path(folder) / f"shard-{rank:05d}.pt")
            if rank == 0:
                state = {"key": self.key, "curve": curve, "trainer": trainer.state()}
                torch.save(state, Path(folder) / STATE)
            self.launcher.report({"step": trainer.step, "loss": curve[-1]["loss"]}, folder)


def _curve(state: dict[str, Any]) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = state["curve"]
    if not all(isinstance(row["cpu_seconds"] + row["seconds"] + row["loss"], float) for row in rows):
        raise ValueError("its curve has rows without numbers")
    return rows


@dataclass(frozen=True, slots=True)
class TrainUnit:
    """Train one variant with one seed, and evaluate it; ``key`` is the content address of its row."""

    store: str
    variant: str
    seed: int
    settings: Settings
    key: str
    config: HardeningConfig

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def kind(self) -> str:
        return self.variant

    @property
    def part(self) -> str:
        return f"runs/{self.stem}.parquet"

    @property
    def stem(self) -> str:
        return f"variant={self.variant}/seed-{self.seed:04d}"

    def run(self, resources: Resources) -> None:
        images, held_out = resources.get("train"), resources.get("held out")
        source: Source = Frozen() if self.config.frozen else Alternating()
        block: Any = nullcontext()
        if self.config.beside and self.settings.levels and not self.config.frozen:
            source = Generators(images, self.settings, self.config.beside, seed=self.seed)
            block = closing(source)
        with block:
            keeper = Snapshots(Store(self.store), f"pools/{self.stem}", self.key)
            self._train(images, held_out, source, keeper, CPU, resources.note)

    def run_among(self, launcher: Launcher, images: Dataset, held_out: Dataset) -> None:
        """Run as one of the workers that share this run."""
        if launcher.device.type == "cuda":
            torch.cuda.set_device(launcher.device)
        source: Source = Frozen() if self.config.frozen else Alternating()
        keeper = Checkpoints(launcher, Store(self.store), f"pools/{self.stem}", self.key)
        self._train(images, held_out, source, keeper, launcher.device, lambda _: None)

    def _train(
        self,
        images: Dataset,
        held_out: Dataset,
        source: Source,
        keeper: Snapshots | Checkpoints,
        device: torch.device,
        note: Callable[[str], None],
    ) -> None:
        pool = self._first_pool(images)
        trainer = Trainer(self.settings, images, seed=self.seed, source=source, pool=pool, device=device)
        curve = keeper.resume(trainer)
        while trainer.step < trainer.total:
            began, cpu = time.perf_counter(), time.process_time()
            metrics = trainer.run(trainer.steps_per_epoch)
            metrics["seconds"] = time.perf_counter() - began
            (metrics["cpu_seconds"],) = trainer.ranks.sums([time.process_time() - cpu])
            epoch = trainer.step // trainer.steps_per_epoch
            if not math.isfinite(metrics["loss"]):
                raise UserError(f"{self.name}: the loss is NaN or infinite in epoch {epoch}; lower --learning-rate.")
            curve.append({"epoch": float(epoch), **metrics})
            note(f"{self.name}: epoch {epoch} of {self.settings.epochs}, loss {metrics['loss']:.4f}")
            if epoch % self.config.snapshot_epochs == 0 or trainer.step == trainer.total:
                keeper.keep(trainer, curve)
        if trainer.ranks.rank:
            return
        trainer.network.eval()
        store = Store(self.store)
        store.write_bytes(f"models/{self.stem}.safetensors", save_safetensors(trainer.network.state_dict()))
        store.write_table(f"curves/{self.stem}.parquet", pa.Table.from_pylist(curve))
        store.write_table(self.part, pa.Table.from_pylist([self._row(trainer, curve, held_out)]), self.key)

    def _first_pool(self, images: Dataset) -> Pool | None:
        if self.config.pool is None or not self.settings.levels:
            return None
        pool, _ = snapshots.load(self.config.pool)
        _, shapes = cut(build(self.settings, images), self.settings, images)
        widths = dict(enumerate(map(math.prod, shapes)))
        network = f"--network {self.settings.network}" if self.settings.network else f"--hidden {self.settings.hidden}"
        for level, held in pool.layers.items():
            width = held.values.shape[1]
            if widths.get(level) != width:
                raise UserError(
                    f"--pool {self.config.pool!r} holds {width} activations per example at level {level}, and "
                    f"{network} does not; choose another pool, or that network."
                )
            held.births.zero_()  # step numbers of another run have no meaning in this one
        return pool

    def _row(self, trainer: Trainer, curve: list[dict[str, float]], held_out: Dataset) -> dict[str, Any]:
        error = error_rate(trainer.network, held_out.images, held_out.labels)
        train = trainer.dataset
        first = held_out.subset(slice(self.config.distortions))
        return {
            "variant": self.variant,
            "seed": self.seed,
            "test_error": error if self.config.held_out == "test" else None,
            "validation_error": error if self.config.held_out == "validation" else None,
            "train_error": error_rate(trainer.network, train.images, train.labels),
            "loss": curve[-1]["loss"],
            **distortions(trainer.network, first),
            "seconds": sum(row["seconds"] for row in curve),
            "cpu_seconds": sum(row["cpu_seconds"] for row in curve),
            "settings": json.dumps(self.settings.decisive()),
        }


def distortions(network: nn.Module, images: Dataset) -> dict[str, float]:
    """Distance to the nearest misclassified point at every level: ``distortion_k``, its median L2 norm, and
    ``relative_distortion_k``, its median relative to the activation's norm, over correctly classified images."""
    levels = Levels(network)
    found: dict[str, float] = {}
    images = images.to(next(network.parameters()).device)
    right = network(images.images).argmax(1) == images.labels
    clean, labels = images.images[right], images.labels[right]
    for level in range(levels.count) if len(labels) else ():
        nearest, norms = attack.minimal(levels, clean, labels, level)
        l2 = nearest.l2[nearest.success]
        found[f"distortion_{level}"] = float(l2.median())
        found[f"relative_distortion_{level}"] = float((l2 / norms[nearest.success]).median())
    return found
