"""A worker of a QuocNet run, on Ray Train or alone, with a part of the network.

All workers make the same calls (`advlab.training.quocnet_parallel`), and the first one writes. Finished work is in
files: the loss of every step, scores, attacked images.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from advlab import data
from advlab.analysis import linear_probe
from advlab.attacks import minimum_norm, references
from advlab.command import also
from advlab.data import Dataset
from advlab.engine.launcher import Launcher, TrainLayout
from advlab.engine.progress import Reporter
from advlab.models.quocnet import BinaryClassifier, QuocNet, preset
from advlab.store import Store
from advlab.training import quocnet_parallel
from advlab.training.quocnet_parallel import Kind, Parallel
from advlab.training.rica import Settings, Step, images_of, train

SCORES, ATTACKED, FILTERS = "scores.parquet", "attacked.parquet", "filters.parquet"
SHOWN_PLACES = 6
"""Rows and columns of positions whose filters are stored for display."""
WHITENED_BY = 2_000_000
"""Number of pixels, in whole images, from whose statistics the whitening filter is computed."""
FEATURE_BATCH = 250


@dataclass(frozen=True, kw_only=True, slots=True)
class QuocNetConfig:
    """Settings that determine the weights and the attacked images of a run."""

    model: str = "quocnet-small"
    """quocnet-1b (the paper's size), quocnet-small or quocnet-tiny (for 32 × 32 pixels)."""
    data: Annotated[str, also("--dataset")] = "cifar10"
    """Training images: cifar10 or folder:PATH, resized to the model's size."""
    examples: Annotated[int | None, also("--images")] = None
    """Number of training images, from the first; all by default."""
    steps: int = 2500
    """Number of training steps."""
    batch_size: int = 64
    """Images per step, over all workers."""
    learning_rate: float = 0.02
    """Learning rate of the first step; it falls to zero along half a cosine."""
    sparsity: float = 0.2
    """Weight of the pooled units' activity against the reconstruction (λ)."""
    joint: bool = False
    """Let the gradient of a stage's cost update the stages below it, too, as Le et al. (2012) do."""
    optimiser: Literal["adam-mini", "sgd"] = "adam-mini"
    """adam-mini: Adam with one rate per filter, not per weight. sgd: without momentum, needs the least memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type in which the local layers compute products; weights stay float32."""
    positive: str = "automobile"
    """Class that the classifier on the top features separates from all others; no classifier if the data lack it."""
    attacked: int = 24
    """Number of correctly classified held-out images of that class to attack."""
    seed: int = 0
    """Seed of the weights, and of the order of the images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout(TrainLayout):
    """Distribution of the work; it changes results by rounding only."""

    space: int = 1
    """Number of workers that share one network, each with some rows of its maps."""
    data_parallel: int = 1
    """Number of such groups, each with a part of every batch."""
    parallelism: Kind = "spatial"
    """spatial splits the maps; fsdp splits the parameters (FSDP2), and every worker has a part of the batch."""

    @property
    def fewest(self) -> int:
        return self.space * self.data_parallel


def work(config: QuocNetConfig, layout: Layout, store: Store, launcher: Launcher) -> None:
    """Train, from the newest checkpoint if there is one; classify; attack."""
    torch.set_num_threads(layout.threads)
    device = launcher.device
    dataset = images(config, "train")
    parallel = _build(config, layout, dataset, device)
    optimiser = quocnet_parallel.optimiser(config.optimiser, parallel.network, config.learning_rate)
    with launcher.newest() as folder:
        first = 0 if folder is None else quocnet_parallel.load(folder, parallel.network, optimiser)
    settings = Settings(**{field.name: getattr(config, field.name) for field in fields(Settings)})
    every = layout.checkpoint_every or config.steps
    steps = train(parallel, optimiser, dataset, settings, first=first, device=device)
    writing = launcher.rank == 0
    if writing:
        steps = _reported(steps, Reporter(store, config.steps))
    while taken := tuple(islice(steps, every)):
        last = taken[-1].step + 1
        if writing:  # a repeated step overwrites its own file
            rows = pa.Table.from_pylist([step._asdict() for step in taken])
            store.write_table(f"losses/part-{taken[0].step:08d}.parquet", rows)
        metrics = {
            "step": last,
            "loss": float(np.mean([step.loss for step in taken])),
            "images_per_second": config.batch_size / float(np.median([step.seconds for step in taken])),
        }
        with tempfile.TemporaryDirectory(prefix="advlab-") as folder:
            if layout.checkpoint_every:
                quocnet_parallel.save(folder, parallel.network, optimiser, last)
            launcher.report(metrics, folder if layout.checkpoint_every else None)
    filters = parallel.filters(SHOWN_PLACES)
    if writing:
        store.write_table(FILTERS, pa.table({"filter": list(filters.flatten(1).numpy())}))
    if config.positive in dataset.class_names:
        _detect(config, parallel, dataset, store, device, writing=writing)


def _reported(steps: Iterator[Step], reporter: Reporter) -> Iterator[Step]:
    for step in steps:
        reporter.step(step.step + 1, loss=step.loss)
        yield step


def _build(config: QuocNetConfig, layout: Layout, dataset: Dataset, device: torch.device) -> Parallel:
    parallel = quocnet_parallel.build(
        layout.parallelism,
        preset(config.model),
        data=layout.data_parallel,
        space=layout.space,
        seed=config.seed,
        device=device,
        precision=torch.bfloat16 if config.precision == "bfloat16" else None,
    )
    size = parallel.network.shape.size
    sample = images_of(dataset, slice(WHITENED_BY // size**2), size)
    parallel.network.fit_whitening(sample.to(device))
    return parallel


def _detect(
    config: QuocNetConfig, parallel: Parallel, dataset: Dataset, store: Store, device: torch.device, *, writing: bool
) -> None:
    """Fit the classifier on the top features, score held-out images, and attack it."""
    network = parallel.network
    network.requires_grad_(False)
    held_out = images(config, "test")
    positive = dataset.class_names.index(config.positive)
    weight, bias = linear_probe.fit(_features(network, dataset, device), dataset.labels == positive)
    scores = _features(network, held_out, device) @ weight + bias
    truth = held_out.labels == positive
    if writing:
        judged = {"index": held_out.index.numpy(), "positive": truth.numpy(), "score": scores.numpy()}
        store.write_table(SCORES, pa.table(judged))
    rows = (truth & (scores > 0)).nonzero().squeeze(1)[: config.attacked]
    if not len(rows):
        return
    classifier = BinaryClassifier(network, weight.to(device), bias.to(device))
    clean = images_of(held_out, rows, network.shape.size).to(device)
    known = images_of(references.among(dataset), slice(None), network.shape.size).to(device)
    found = minimum_norm(classifier, clean, torch.ones_like(rows, device=device), references=known)
    if writing:
        columns = ("success", "l2", "rms", "evaluations")
        attacked = {"index": held_out.index[rows].numpy()}
        attacked |= {name: getattr(found, name).cpu().numpy() for name in columns}
        images_of_both = {"original": clean, "image": found.images}
        pixels = {name: list(shown.flatten(1).cpu().numpy()) for name, shown in images_of_both.items()}
        store.write_table(ATTACKED, pa.table(attacked | pixels))


@torch.no_grad()
def _features(network: QuocNet, dataset: Dataset, device: torch.device) -> Tensor:
    """[N, F] on the CPU, the same in every worker."""
    starts = range(0, len(dataset), FEATURE_BATCH)
    size = network.shape.size
    batches = (images_of(dataset, slice(start, start + FEATURE_BATCH), size) for start in starts)
    return torch.cat([network(batch.to(device)).cpu() for batch in batches])


def images(config: QuocNetConfig, split: str) -> Dataset:
    loaded = data.load(config.data, split, size=preset(config.model).size)
    return loaded if config.examples is None else loaded.subset(slice(config.examples))
