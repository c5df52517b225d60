"""The units of work of a transfer study."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from advlab.attacks import registry
from advlab.data import Dataset
from advlab.distributed.pool import Resources
from advlab.models import Recipe, checkpoint
from advlab.results import Store
from advlab.results.layout import examples_part, predictions_part
from advlab.results.tables import examples_from_arrow, examples_to_arrow, predictions_to_arrow
from advlab.transfer import controls
from advlab.transfer.evaluate import Answers, answer
from advlab.transfer.generate import Examples, attack_dataset


def address(*decisive: Any) -> str:
    """The content address of a shard: SHA-256 of everything that decides its rows."""
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of a study's images.

    Attributes:
        store: URI of the study's folder.
        start, size: the range, in rows of the study's data.
        seed: of the study.
    """

    store: str
    start: int
    size: int
    seed: int

    def clean(self, resources: Resources) -> Dataset:
        """The undistorted images."""
        dataset: Dataset = resources.get("dataset")
        return dataset.subset(slice(self.start, self.start + self.size))


@dataclass(frozen=True, slots=True)
class TrainUnit:
    """Train one model; the answer is its checkpoint as bytes."""

    recipe: Recipe

    @property
    def name(self) -> str:
        return f"train {self.recipe.name}"

    @property
    def parameters(self) -> int:
        """Number of weights, a stand-in for how long it takes."""
        with torch.device("meta"):
            return sum(math.prod(p.shape) for p in self.recipe.build().parameters())

    def run(self, resources: Resources) -> bytes:
        def progress(step: int, values: dict[str, float]) -> None:
            told = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items())
            resources.note(f"{self.recipe.name}: step {step}, {told}")

        trained = checkpoint.train(
            self.recipe, resources.get("train"), resources.get("test"), device=resources.device, progress=progress
        )
        return trained.to_bytes()


@dataclass(frozen=True, slots=True)
class AttackUnit:
    """Attack one model on one shard and write its examples, or take them over from the study ``reuse``."""

    shard: Shard
    source: str
    attack: str
    target: str
    key: str
    reuse: str | None

    @property
    def name(self) -> str:
        return f"attack {self.source} {self.shard.start}"

    def run(self, resources: Resources) -> None:
        store, part = Store(self.shard.store), examples_part(self.source, self.shard.start)
        if store.holds(part, self.key):
            return
        if self.reuse is not None and (other := Store(self.reuse)).holds(part, self.key):
            store.write_bytes(part, other.read_bytes(part))
            return
        examples = attack_dataset(
            _model(resources, self.source),
            self.shard.clean(resources),
            registry.resolve(self.attack),
            self.target,
            seed=self.shard.seed,
            device=resources.device,
        )
        store.write_table(part, examples_to_arrow(examples), self.key)


@dataclass(frozen=True, slots=True)
class EvaluateUnit:
    """Show one shard of one source to several targets; its images are read, or made, once.

    Attributes:
        shard: which images.
        source: an attacked model or a control.
        attacked: the model whose examples are shown, or which the control is made from; None for plain noise.
        keys: content address per target.
    """

    shard: Shard
    source: str
    attacked: str | None
    keys: dict[str, str]

    @property
    def name(self) -> str:
        return f"evaluate {self.source} {self.shard.start}"

    def run(self, resources: Resources) -> None:
        store, start = Store(self.shard.store), self.shard.start
        clean = self.shard.clean(resources)
        examples: Examples | None = None
        if self.attacked is not None:
            examples = examples_from_arrow(store.read_shard(examples_part(self.attacked, start)))
            # an image may occur several times, once for each class it was attacked towards
            clean = clean.subset(torch.from_numpy(np.searchsorted(clean.index.numpy(), examples.index)))
        if self.source != self.attacked:
            examples = controls.make(self.source, clean, examples, seed=self.shard.seed)
        assert examples is not None

        def answers(model: str, images: np.ndarray) -> Answers:
            return answer(_model(resources, model), images, examples.label, device=resources.device)

        own = answers(self.source, examples.images) if self.source == self.attacked else None
        for target, key in self.keys.items():
            to_clean = resources.memo(
                f"clean {target} {start} {len(clean)}",
                lambda target=target: answers(target, clean.images.numpy()),  # type: ignore[misc]
            )
            to_distorted = own if own and target == self.source else answers(target, examples.images)
            table = predictions_to_arrow(examples, to_clean, to_distorted, own)
            store.write_table(predictions_part(self.source, target, start), table, key)


def _model(resources: Resources, name: str) -> nn.Module:
    network: nn.Module = resources.memo(
        f"on device {name}", lambda: resources.get(f"model {name}").to(resources.device)
    )
    return network
