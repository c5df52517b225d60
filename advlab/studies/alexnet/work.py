"""A worker of an AlexNet run, on Ray Train or alone.

Every worker has the whole network and its share of every batch; all make the same calls, and the first one writes.
Finished work is in files: one row of the learning curve per epoch, and the trained model.
"""

import math
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import torch
from torch import Tensor

from advlab import data
from advlab.command import also
from advlab.data import Dataset
from advlab.data.folder import is_folder
from advlab.engine.launcher import Launcher, TrainLayout
from advlab.engine.progress import Reporter
from advlab.errors import UserError
from advlab.models import Checkpoint, Recipe, alexnet
from advlab.models.alexnet import Variant
from advlab.store import Store, weights_file
from advlab.training import image_classifier, trainer_state
from advlab.training.image_classifier import DEFAULTS, Colours, Name, Precision, Run, Settings, Tally

CURVE, STATE = "curve", "state.pt"
JUDGED = 10_000
"""Largest number of training images on which the training error of the finished network is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlexNetConfig:
    """Settings that determine the weights of a run."""

    name: str = "alexnet"
    """Name of the model in other studies: two AlexNets in one matrix need different names."""
    variant: Variant = "krizhevsky"
    """krizhevsky (one tower, local response normalisation), groups (the original two towers) or torchvision (one tower
    without normalisation)."""
    width: float = 1.0
    """Factor for the numbers of maps and units."""
    dropout: float = 0.5
    """Probability of dropping inputs of the first two fully connected layers."""
    data: Annotated[str, also("--dataset")] = "cifar10"
    """cifar10, folder:PATH or imagenet:PATH (folders of classes in PATH/train and PATH/val)."""
    size: int | None = None
    """Height and width of the crops, in pixels; by default 32 for cifar10 and 227 for photos."""
    examples: Annotated[int | None, also("--images")] = None
    """Number of training images, a fixed random choice; by default all that are not held out."""
    held_out: int = 5000
    """Number of training images held out as the validation set of the learning curve."""
    recipe: Name = "2012"
    """2012 (SGD with momentum, rate divided by ten at 1/3, 2/3 and 8/9 of the run, lighting noise) or modern (AdamW,
    half a cosine, label smoothing)."""
    epochs: int = 90
    """Passes over the images."""
    batch_size: int = 128
    """Images per step, over all workers."""
    learning_rate: float | None = None
    """Peak learning rate; by default 0.01 for recipe 2012 and 0.001 for modern."""
    weight_decay: float | None = None
    """Weight decay; by default 0.0005 for recipe 2012 and 0.05 for modern."""
    precision: Precision = "float32"
    """Type in which products are computed; weights stay float32."""
    seed: int = 0
    """Seed of the weights, the order, crops and dropout."""

    def pixels(self) -> int:
        """Height and width of the crops."""
        return self.size or (alexnet.SIZE if is_folder(self.data) else 32)

    def settings(self) -> Settings:
        rate, decay = DEFAULTS[self.recipe]
        given = {field.name: getattr(self, field.name) for field in fields(Settings)} | {"size": self.pixels()}
        by_default = {"learning_rate": rate, "weight_decay": decay}
        return Settings(**given | {name: value for name, value in by_default.items() if given[name] is None})

    def images(self, split: str) -> Dataset:
        """The images of a split, before cropping."""
        if not is_folder(self.data):
            return data.load(self.data, split)
        return data.load(self.data, split, size=image_classifier.stored_size(self.pixels()), margin=1.0)

    def model(self, colours: Colours, dataset: Dataset) -> Recipe:
        """The recipe of the model, which other studies read."""
        trained = asdict(self.settings())
        shape: dict[str, Any] = {"mean": colours.mean, "std": colours.std, "size": self.pixels()}
        shape |= {"classes": dataset.num_classes, "dropout": self.dropout}
        return Recipe(
            name=self.name,
            network=f"{alexnet.__name__}:classifier",
            network_arguments=shape | {"variant": self.variant, "width": self.width},
            trainer=f"{image_classifier.__name__}:fit",
            trainer_arguments={"held_out": self.held_out, "examples": self.examples}
            | {key: value for key, value in trained.items() if key != "seed"},
            data=self.data,
            split="train",
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout(TrainLayout):
    """Distribution of the work; it changes weights by rounding only."""

    workers: int = 1
    """Number of workers, each with a share of every batch."""
    min_workers: int | None = None
    """Smallest number of workers with which training continues when machines are lost; --workers by default."""
    accumulate: int = 1
    """Number of parts into which a worker splits its share of a batch, to save memory."""
    peak_tflops: float | None = None
    """A worker's peak, from which utilisation is computed; by default that of a large matrix product, measured."""

    @property
    def fewest(self) -> int:
        return self.min_workers or self.workers


def curve(store: Store) -> list[dict[str, float]]:
    """The learning curve of a run: the rows of its finished epochs, in order."""
    return [row for name in store.files(CURVE, suffix=".parquet") for row in store.read_table(name).to_pylist()]


def work(config: AlexNetConfig, layout: Layout, store: Store, launcher: Launcher) -> None:
    """Train, from the newest checkpoint if there is one, and measure the errors."""
    torch.set_num_threads(layout.threads)
    dataset = config.images("train")
    rows, held_out = image_classifier.share(len(dataset), config.held_out, config.examples)
    colours = image_classifier.colours(dataset, rows)
    recipe = config.model(colours, dataset)
    network = recipe.build()
    alexnet.initialise(network, config.seed)
    settings = config.settings()
    device = launcher.device
    run = Run(network.to(device), dataset, rows, settings, colours.axes, device, layout.accumulate)
    job = _Job(config, layout, store, launcher, run, held_out)
    job.train()
    job.finish(recipe)


class _Job:
    def __init__(
        self, config: AlexNetConfig, layout: Layout, store: Store, launcher: Launcher, run: Run, held_out: Tensor
    ) -> None:
        self.config, self.layout, self.store, self.launcher = config, layout, store, launcher
        self.run, self.held_out = run, held_out
        self.optimiser = image_classifier.optimiser(run.network, run.settings)
        self.sums = [0.0] * 4  # of the current epoch: loss, correct predictions, examples, seconds; in checkpoints
        flops = image_classifier.training_flops(run.network.eval(), run.settings.size)
        peak = 1e12 * (layout.peak_tflops or 0) or image_classifier.product_flops(run.device, run.settings.precision)
        self.share_of_peak = flops / (peak * run.ranks.size)

    def train(self) -> None:
        """Take the steps after the checkpoint; write a row of the curve after each epoch."""
        run, every = self.run, self.layout.checkpoint_every
        per_epoch = run.settings.steps_per_epoch(len(run.rows))
        tally = Tally(run.device)
        reporter = Reporter(self.store, run.steps)
        latest: dict[str, float] = {}
        started = time.perf_counter()
        for step in run.train(self.optimiser, tally, self._resume()):
            done = step + 1
            if self.launcher.rank == 0:
                reporter.step(done, **latest)
            ends = done % per_epoch == 0
            saves = bool(every) and (done % every == 0 or ends)
            if not (saves or ends):
                continue
            taken = [*tally.take(), time.perf_counter() - started]
            self.sums = [so_far + now for so_far, now in zip(self.sums, taken, strict=True)]
            metrics = self._metrics(done)
            latest = {name: metrics[name] for name in ("train_loss", "train_accuracy", "images_per_second")}
            if not math.isfinite(metrics["train_loss"]):
                raise UserError(f"the loss is NaN or infinite at step {done}; lower --learning-rate.")
            if ends:
                loss, wrong, seen = run.evaluate(run.dataset, self.held_out)
                metrics |= {"validation_loss": loss, "validation_accuracy": 1 - wrong / seen} if seen else {}
                if self.launcher.rank == 0:
                    # an epoch that was repeated replaces its row
                    row = pa.Table.from_pylist([metrics])
                    self.store.write_table(f"{CURVE}/epoch-{done // per_epoch:05d}.parquet", row)
                self.sums = [0.0] * 4
            self._report(metrics, saves=saves)
            started = time.perf_counter()

    def finish(self, recipe: Recipe) -> None:
        """Save the finished network with its errors; the test images are used here for the first time."""
        run, network = self.run, self.run.network
        training_loss, wrong, seen = run.evaluate(run.dataset, run.rows[:JUDGED])
        _, held_wrong, held_seen = run.evaluate(run.dataset, self.held_out)
        test = self.config.images("test")
        _, test_wrong, test_seen = run.evaluate(test, torch.arange(len(test)))
        if self.launcher.rank:
            return
        report = {
            "loss": training_loss,
            "iterations": run.steps,
            "stop": f"{run.settings.epochs} epochs",
            "train_error": wrong / seen,
            "test_error": test_wrong / test_seen,
            "test_errors": test_wrong,
            "test_images": test_seen,
            "parameters": sum(p.numel() for p in network.parameters()),
        }
        if held_seen:
            report["validation_error"] = held_wrong / held_seen
        weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        self.store.write_bytes(weights_file(self.config.name), Checkpoint(recipe, weights, report).to_bytes())

    def _metrics(self, done: int) -> dict[str, float]:
        loss, right, seen, seconds = self.sums
        settings = self.run.settings
        return {
            "epoch": done / settings.steps_per_epoch(len(self.run.rows)),
            "step": done,
            "train_loss": loss / seen,
            "train_accuracy": right / seen,
            "learning_rate": image_classifier.rate(settings, done - 1, self.run.steps),
            "images_per_second": seen / seconds,
            "utilisation": seen / seconds * self.share_of_peak,
            "seconds": seconds,
        }

    def _resume(self) -> int:
        """Load the newest checkpoint; returns the next step."""
        with self.launcher.newest() as folder:
            if folder is None:
                return 0
            state = trainer_state.read(Store(folder), STATE, self.run.device)
        with trainer_state.restoring(folder):
            self.run.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            loss, right, seen = map(float, state["sums"])
            self.sums = [loss, right, seen, float(state["seconds"])]
            return trainer_state.step(state, self.run.steps)

    def _report(self, metrics: dict[str, float], *, saves: bool) -> None:
        """Report progress, with a checkpoint from the first worker, as all hold the same state."""
        if not (saves and self.launcher.rank == 0):
            self.launcher.report(metrics, None)
            return
        state: dict[str, Any] = {
            "network": self.run.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": metrics["step"],
            "sums": self.sums[:3],
            "seconds": self.sums[3],
        }
        with tempfile.TemporaryDirectory(prefix="advlab-") as folder:
            torch.save(state, Path(folder) / STATE)
            self.launcher.report(metrics, folder)
