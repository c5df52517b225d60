"""QuocNet by Ray Train: learnt without labels, then a car classifier on its features, then its adversarial examples.

Every worker holds a part of the network (`advlab.training.parallel`), all of them make the same calls, and the first
one writes. What is finished lies in files: the loss of every step, checkpoints, scores, attacked images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from advlab import data
from advlab.analysis import detector
from advlab.attacks import minimum_norm
from advlab.data import Dataset
from advlab.distributed.session import host_count
from advlab.errors import UserError
from advlab.models.quocnet import BinaryClassifier, QuocNet, preset
from advlab.results import Study
from advlab.results.store import Store
from advlab.training import parallel
from advlab.training.parallel import Kind, Parallel
from advlab.training.reconstruction import Settings, Step, images_of, train

SCORES, ATTACKED, FILTERS = "scores.parquet", "attacked.parquet", "filters.parquet"
SHOWN_PLACES = 6
"""Rows and columns of places whose filters are kept to be shown."""
WHITENED_BY = 2000
"""Images whose statistics set the whitening filter."""
FEATURE_BATCH = 250
FAILURES = 3
"""Deaths of workers from which training goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuocNetConfig:
    """What decides the weights and the attacked images of a run."""

    model: str = "quocnet-small"
    """quocnet-1b (the paper's size), quocnet-small or quocnet-tiny (for 32 × 32 pixels)."""

    data: str = "cifar10"
    """Images to learn from: cifar10 or folder:PATH; brought to the model's size."""

    examples: int | None = None
    """The first so many of them; all when absent."""

    steps: int = 3000
    """Minibatches to learn from."""

    batch_size: int = 64
    """Images per minibatch, over all workers."""

    learning_rate: float = 0.01
    """Of the first step; it falls to nothing along half a cosine."""

    sparsity: float = 0.3
    """Weight of the pooled units' activity against the reconstruction (λ)."""

    optimiser: Literal["adam", "sgd"] = "adam"
    """sgd keeps nothing beside the weights and their gradients."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Type in which the local layers make their products; weights stay float32."""

    positive: str = "automobile"
    """Class that the classifier on the top features tells from all others; none is made where the data lack it."""

    attacked: int = 24
    """Held-out images of that class, read rightly, to make adversarial examples of."""

    seed: int = 0
    """Seed of the weights, and of the order of the images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the work is spread; the results are the same but for rounding."""

    space: int = 1
    """Workers that share one network, each holding some rows of its maps."""

    data_parallel: int = 1
    """Such groups, each working on a part of every minibatch."""

    parallelism: Kind = "spatial"
    """spatial splits the maps; fsdp the parameters (FSDP2), and then every worker has a part of the minibatch."""

    gpus: bool = False
    """One GPU per worker, NCCL; otherwise one CPU each, gloo."""

    checkpoint_every: int = 200
    """Steps between checkpoints; 0 writes none, and a dead worker then costs everything."""

    threads: int = 1
    """Threads per worker on CPUs."""


def begin(config: QuocNetConfig, layout: Layout, out: str | None) -> Study:
    """Start a run, or continue it where ``out`` holds part of it.

    Raises:
        UserError: an unknown model, an impossible number, or a folder that cannot be used.
    """
    preset(config.model)
    groups = layout.data_parallel
    for option, value, least in (
        ("--steps", config.steps, 1),
        ("--batch-size", config.batch_size, 1),
        ("--space", layout.space, 1),
        ("--data-parallel", groups, 1),
    ):
        if value < least:
            raise UserError(f"{option} {value} is impossible; choose at least {least}.")
    if config.batch_size % groups:
        raise UserError(f"--batch-size {config.batch_size} cannot be cut into {groups} parts; choose a multiple.")
    if layout.parallelism == "fsdp" and layout.space > 1:
        workers = groups * layout.space
        raise UserError(f"--parallelism fsdp cuts batches alone; give --data-parallel {workers} --space 1.")
    dataset = _dataset(config, "train")
    if not config.batch_size <= len(dataset):
        raise UserError(f"--batch-size {config.batch_size} is more than the {len(dataset)} images of {config.data}.")
    return Study.begin("quocnet", asdict(config), out)


def run(study: Study, layout: Layout) -> None:
    """Train, classify and attack, where that is not done yet; Ray must be connected.

    Raises:
        UserError: workers kept failing; what is finished is kept.
    """
    if study.manifest["finished"] is not None:
        return
    workers = layout.space * layout.data_parallel
    every = layout.checkpoint_every
    trainer = TorchTrainer(
        _work,
        train_loop_config={"config": study.config, "layout": asdict(layout), "out": study.store.uri},
        torch_config=TorchConfig(backend="nccl" if layout.gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=layout.gpus),
        run_config=RunConfig(
            name="train",
            storage_path=study.store.uri,
            failure_config=FailureConfig(max_failures=FAILURES if every else 0),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"training ended early ({reason[-1] if reason else 'no reason given'}); what is finished is kept in "
            f"{study.store.uri!r}: mend that and run the same command again."
        ) from error
    study.manifest["result"] = _summary(study.store)
    study.finish(host_count())


def losses(store: Store) -> pa.Table:
    """``step``, ``loss``, ``errors`` (per stage) and ``seconds`` of every step."""
    return pa.concat_tables(store.read_table(name) for name in store.files("losses", suffix=".parquet"))


def _work(given: dict[str, Any]) -> None:
    """What every worker does."""
    config, layout, store = QuocNetConfig(**given["config"]), Layout(**given["layout"]), Store(given["out"])
    torch.set_num_threads(layout.threads)
    device = ray.train.torch.get_device()
    dataset = _dataset(config, "train")
    made = _build(config, layout, dataset, device)
    optimiser = parallel.optimiser(config.optimiser, made.network, config.learning_rate)
    first, checkpoint = 0, ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            first = parallel.load(folder, made.network, optimiser)
    settings = Settings(
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        sparsity=config.sparsity,
        seed=config.seed,
    )
    every = layout.checkpoint_every or config.steps
    steps = train(made, optimiser, dataset, settings, first=first, device=device)
    while taken := tuple(islice(steps, every)):
        _keep(taken, made, optimiser, store, config.batch_size, saving=bool(layout.checkpoint_every))
    filters = made.filters(SHOWN_PLACES)
    _write(store, FILTERS, lambda: pa.table({"filter": list(filters.flatten(1).numpy())}))
    if config.positive in dataset.class_names:
        _detect(config, made, dataset, store, device)


def _build(config: QuocNetConfig, layout: Layout, dataset: Dataset, device: torch.device) -> Parallel:
    made = parallel.build(
        layout.parallelism,
        preset(config.model),
        data=layout.data_parallel,
        space=layout.space,
        seed=config.seed,
        device=device,
        precision=torch.bfloat16 if config.precision == "bfloat16" else None,
    )
    sample = images_of(dataset, slice(min(WHITENED_BY, len(dataset))), made.network.shape.size)
    made.network.whitening.fit(sample.to(device))
    return made


def _keep(
    taken: tuple[Step, ...],
    made: Parallel,
    optimiser: torch.optim.Optimizer,
    store: Store,
    batch_size: int,
    *,
    saving: bool,
) -> None:
    """Write the losses of these steps, and a checkpoint after them; a repeated step overwrites its own file."""
    last = taken[-1].step + 1
    if ray.train.get_context().get_world_rank() == 0:
        rows = pa.Table.from_pylist([step._asdict() for step in taken])
        store.write_table(f"losses/part-{taken[0].step:08d}.parquet", rows)
    told = {
        "step": last,
        "loss": float(np.mean([step.loss for step in taken])),
        "images_per_second": batch_size / float(np.median([step.seconds for step in taken])),
    }
    if not saving:
        ray.train.report(told)
        return
    with tempfile.TemporaryDirectory(prefix="advlab-") as folder:
        parallel.save(folder, made.network, optimiser, last)
        ray.train.report(told, checkpoint=Checkpoint.from_directory(folder), checkpoint_dir_name=f"step-{last:08d}")


def _detect(config: QuocNetConfig, made: Parallel, dataset: Dataset, store: Store, device: torch.device) -> None:
    """The classifier on the top features, its scores on held-out images, and adversarial examples for it."""
    network = made.network
    network.requires_grad_(False)
    held_out = _dataset(config, "test")
    positive = dataset.class_names.index(config.positive)
    weight, bias = detector.fit(_features(network, dataset, device), dataset.labels == positive)
    scores = _features(network, held_out, device) @ weight + bias
    truth = held_out.labels == positive
    _write(
        store,
        SCORES,
        lambda: pa.table({"index": held_out.index.numpy(), "positive": truth.numpy(), "score": scores.numpy()}),
    )
    rows = (truth & (scores > 0)).nonzero().squeeze(1)[: config.attacked]
    if not len(rows):
        return
    classifier = BinaryClassifier(network, weight.to(device), bias.to(device))
    images = images_of(held_out, rows, network.shape.size).to(device)
    found = minimum_norm(classifier, images, torch.ones_like(rows, device=device))
    _write(
        store,
        ATTACKED,
        lambda: pa.table(
            {
                "index": held_out.index[rows].numpy(),
                "success": found.success.cpu().numpy(),
                "l2": found.l2.cpu().numpy(),
                "rms": found.rms.cpu().numpy(),
                "evaluations": found.evaluations.cpu().numpy(),
                "original": list(images.flatten(1).cpu().numpy()),
                "image": list(found.images.flatten(1).cpu().numpy()),
            }
        ),
    )


@torch.no_grad()
def _features(network: QuocNet, dataset: Dataset, device: torch.device) -> Tensor:
    """[N, F] on the CPU, every worker the same."""
    starts = range(0, len(dataset), FEATURE_BATCH)
    size = network.shape.size
    batches = (images_of(dataset, slice(start, start + FEATURE_BATCH), size) for start in starts)
    return torch.cat([network(batch.to(device)).cpu() for batch in batches])


def _dataset(config: QuocNetConfig, split: str) -> Dataset:
    loaded = data.load(config.data, split, size=preset(config.model).size)
    return loaded if config.examples is None else loaded.subset(slice(config.examples))


def _write(store: Store, name: str, make: Callable[[], Any]) -> None:
    """Write a file, in the first worker alone."""
    if ray.train.get_context().get_world_rank() == 0:
        store.write_table(name, make())


def _summary(store: Store) -> dict[str, Any]:
    """What the run came to, for its manifest."""
    steps = losses(store)
    summary: dict[str, Any] = {
        "loss": float(np.mean(steps["loss"].to_numpy()[-50:])),
        "seconds_per_step": float(np.median(steps["seconds"].to_numpy())),
    }
    if store.exists(SCORES):
        table = store.read_table(SCORES)
        score, truth = (torch.tensor(table[name].to_numpy(zero_copy_only=False)) for name in ("score", "positive"))
        summary["detection"] = asdict(detector.detection(score, truth))
    if store.exists(ATTACKED):
        table = store.read_table(ATTACKED, ["success", "rms"])
        success = table["success"].to_numpy(zero_copy_only=False)
        summary |= {
            "attacked": len(table),
            "fooled": int(success.sum()),
            "mean_rms": float(table["rms"].to_numpy().mean()),
        }
    return summary
