"""The units of work of a transfer study."""

import math
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from advlab.attacks import registry
from advlab.data import Dataset
from advlab.engine.worker import Resources
from advlab.errors import UserError, one_line
from advlab.models import Recipe, checkpoint
from advlab.store import Store
from advlab.studies.transfer import matrix
from advlab.studies.transfer.layout import examples_folder, examples_part, predictions_part
from advlab.studies.transfer.rows import examples_from_arrow, examples_to_arrow, predictions_to_arrow
from advlab.studies.transfer.verify import sound_examples
from advlab.transfer import controls
from advlab.transfer.evaluate import Answers, answer
from advlab.transfer.generate import Examples, attack_dataset


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of a study's images from row ``start`` on; units that need the images get them as ``SharedDataset``."""

    store: str
    start: int
    seed: int


@dataclass(frozen=True, slots=True)
class TrainUnit:
    """Train one model on the images shared as ``images SPLIT``; the answer is its checkpoint as bytes."""

    recipe: Recipe

    @property
    def name(self) -> str:
        return f"train {self.recipe.name}"

    @property
    def kind(self) -> str:
        return self.name

    @property
    def parameters(self) -> int:
        """Number of weights, as a proxy for the duration."""
        with torch.device("meta"):
            return sum(math.prod(p.shape) for p in self.recipe.build().parameters())

    def run(self, resources: Resources) -> bytes:
        def progress(step: int, values: dict[str, float]) -> None:
            metrics = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items())
            resources.note(f"{self.recipe.name}: step {step}, {metrics}")

        train, test = (resources.get(f"images {split}").dataset() for split in (self.recipe.split, "test"))
        return checkpoint.train(self.recipe, train, test, device=resources.device, progress=progress).to_bytes()


@dataclass(frozen=True, slots=True)
class AttackUnit:
    """Attack one model on one shard and write its examples, or copy them from the study ``reuse``."""

    shard: Shard
    source: str
    attack: str
    target: str
    key: str
    reuse: str | None

    @property
    def name(self) -> str:
        return f"attack {self.source} {self.shard.start}"

    @property
    def kind(self) -> str:
        return f"attack {self.source}"

    def run(self, resources: Resources) -> None:
        store, part = Store(self.shard.store), examples_part(self.source, self.shard.start)
        if store.holds(part, self.key):
            return
        clean = resources.input.dataset()
        if self.reuse is not None and (other := Store(self.reuse)).holds(part, self.key):
            found = sound_examples(other, part, self.key, clean, self.target)
            if found is not None:
                store.write_bytes(part, found[0])
                return
        references = resources.get("references")
        examples = attack_dataset(
            _model(resources, self.source),
            clean,
            registry.resolve(self.attack),
            self.target,
            seed=self.shard.seed,
            device=resources.device,
            references=None if references is None else torch.tensor(references, device=resources.device),
        )
        if not store.holds(part, self.key):  # an actor that seemed lost may have been first, and its file may be in use
            store.write_table(part, examples_to_arrow(examples), self.key)


@dataclass(frozen=True, slots=True)
class EvaluateUnit:
    """Evaluate several targets on a shard's images: those of one attacked model and of the controls made from them.

    The attacked examples are read once, for all targets; ``attacked`` is None for controls without a model.
    ``keys`` has, by source and target, the content address of the predictions.
    """

    shard: Shard
    attacked: str | None
    keys: dict[str, dict[str, str]]

    @property
    def name(self) -> str:
        return f"evaluate {self.attacked or ', '.join(self.keys)} {self.shard.start}"

    @property
    def kind(self) -> str:
        return f"evaluate {sum(map(len, self.keys.values()))}"

    def run(self, resources: Resources) -> None:
        """Raises a UserError that names the first target that failed, once all others are done."""
        clean = resources.input.dataset()
        attacked: Examples | None = None
        if self.attacked is not None:
            store = Store(self.shard.store, repairing=True)
            attacked = examples_from_arrow(store.read_shard(examples_part(self.attacked, self.shard.start)))
            # an image may occur several times, once per target class
            clean = clean.subset(torch.from_numpy(np.searchsorted(clean.index.numpy(), attacked.index)))
        failures: list[str] = []
        for source, keys in self.keys.items():
            own = attacked if source == self.attacked else None
            examples = own or controls.make(source, clean, attacked, seed=self.shard.seed)
            failures += self._show(resources, source, examples, clean, keys)
        if failures:
            raise UserError(failures[0])

    def _show(
        self, resources: Resources, source: str, examples: Examples, clean: Dataset, keys: dict[str, str]
    ) -> list[str]:
        """Evaluate all targets on a source's images; returns the errors, one per failed target."""
        store, start = Store(self.shard.store), self.shard.start

        @cache
        def to_distorted(model: str) -> Answers:
            return _answers(resources, model, examples.images, examples.label)

        def to_clean(model: str) -> Answers:
            make = partial(_answers, resources, model, clean.images.numpy(), examples.label)
            return resources.memo(f"clean {model} {start} {len(clean)}", make)

        failures: list[str] = []
        for target, key in keys.items():
            try:
                own = to_distorted(source) if source == self.attacked else None
                table = predictions_to_arrow(examples, to_clean(target), to_distorted(target), own)
            except UserError as error:
                failures.append(str(error))
            else:
                store.write_table(predictions_part(source, target, start), table, key)
        return failures


@dataclass(frozen=True, slots=True)
class CountUnit:
    """Count one source's predictions; the answer is its rows of the matrix.

    ``files`` has, by target, the files of its predictions and the content address that each must have.
    """

    store: str
    source: str
    files: dict[str, dict[str, str]]

    kind = "count"

    @property
    def name(self) -> str:
        return f"count {self.source}"

    def run(self, _resources: Resources) -> pa.Table:
        """Reads all bytes of the predictions, and only the footers of the examples, whose rows are not counted."""
        store = Store(self.store, repairing=True)
        store.require_whole(examples_folder(self.source))
        return matrix.build(store, {(self.source, target): files for target, files in self.files.items()})


def _model(resources: Resources, name: str) -> nn.Module:
    network: nn.Module = resources.get(f"model {name}")
    return network.to(resources.device)


def _answers(resources: Resources, model: str, images: np.ndarray, labels: np.ndarray) -> Answers:
    try:
        return answer(_model(resources, model), images, labels, device=resources.device)
    except Exception as error:  # the model may raise anything
        raise UserError(f"model {model!r} raised {type(error).__name__}: {one_line(error)}") from error
