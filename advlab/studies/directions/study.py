"""The study of units and other directions: the images that stimulate them most, and tests of their similarity.

It makes three passes over shards of the image set: moments of the features, the top k of every direction, and the
features of the chosen images. Activations are discarded after each batch.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import ray

from advlab import data
from advlab.analysis import statistics
from advlab.analysis.directions import BASES, Moments, directions
from advlab.analysis.features import Features, Top
from advlab.command import also, require_at_least
from advlab.engine.pool import ActorPool, complete
from advlab.engine.progress import OnProgress
from advlab.engine.session import host_count
from advlab.errors import UserError
from advlab.models.resolve import resolve
from advlab.store import MANIFEST, Study, address
from advlab.studies.directions import show as presentation
from advlab.studies.directions.work import ShardUnit, moments_from_arrow, packed
from advlab.studies.experiment import ModelExperiment, ModelPlan

VERSION = 1
"""Version of the computation: shards of other versions are computed again."""
CHANCE = "random images"
WINNERS, SETS, TESTS = "winners.parquet", "sets.parquet", "tests.parquet"
SHARDS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitsConfig:
    """Settings that determine the rows of a study of units."""

    model: str
    """A zoo name, torchvision:NAME[@WEIGHTS or @random], timm:NAME, file:PATH.py:FACTORY, python:MODULE:FACTORY, or the
    path of a checkpoint (.safetensors)."""
    layer: str = ""
    """Module whose output is used, by its name in the network; by default the input of the last linear layer."""
    data: Annotated[str, also("--dataset")] = "mnist"
    """The image set: mnist, fashion_mnist or folder:PATH."""
    split: str = "test"
    """Split of the image set."""
    train_data: str = "mnist"
    """Data set a zoo model is trained on."""
    input_size: int | None = None
    """Height and width that a folder's images are resized to; by default as the model's name implies, or 224."""
    examples: Annotated[int | None, also("--images")] = None
    """Number of images, from the first; all by default."""
    directions: int = 100
    """Directions per basis; fewer if the layer has fewer."""
    top: int = 9
    """Images kept per direction."""
    labels: Literal["given", "predicted"] = "given"
    """Labels for purity and entropy: those of the data set (given), or the model's predictions."""
    shard_size: int = 1000
    """Images per shard, the unit of work."""
    seed: int = 0
    """Seed of training, directions, random image sets and tests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Units(ModelExperiment):
    """Find the images that most stimulate units and other directions, and test whether units differ: Figures 1 to 4."""

    kind = "units"

    settings: UnitsConfig

    def prepare(self) -> ModelPlan:
        """Load the model and list the images; those of a folder are not decoded."""
        config = self.settings
        require_at_least(config, directions=2, top=2, shard_size=1, seed=0)
        subject = resolve(config.model, config.train_data, config.seed)
        Features(subject.model, config.layer)
        images = data.load(config.data, config.split, size=config.input_size or subject.input_size)
        examples = len(images) if config.examples is None else config.examples
        if not config.top <= examples <= len(images):
            raise UserError(
                f"--examples {examples} is impossible: {config.data} {config.split} has {len(images)} images; "
                f"choose {config.top} (--top) to {len(images)}."
            )
        return ModelPlan(config, subject, images.subset(slice(examples)))

    def run(self, plan: ModelPlan, study: Study, workers: ActorPool, on_progress: OnProgress) -> None:
        """Make the missing parts of the three passes, then compute the statistics.

        Writes ``winners.parquet`` (basis, direction, rank, row, index, label, score), ``sets.parquet`` (one row per
        direction: its statistics) and ``tests.parquet`` (comparisons of bases).
        """
        config, pool = plan.config, workers
        pool.require_file(study.store.uri, MANIFEST, study.save_manifest)
        pool.share("model", plan.subject.model)
        passes = _Passes(plan, study, pool, on_progress)
        moments = reduce(Moments.__add__, map(moments_from_arrow, passes.go("moments", {})))
        vectors = {basis: directions(basis, config.directions, moments, config.seed) for basis in BASES}
        stacked = np.concatenate(list(vectors.values()))
        pool.share("directions", stacked)
        digest = hashlib.sha256(stacked.tobytes()).hexdigest()
        shape = len(stacked), -1
        tops = (
            Top(table["score"].to_numpy().reshape(shape), table["row"].to_numpy().reshape(shape))
            for table in passes.go("top", {}, digest, config.top)
        )
        best = reduce(Top.merge, tops)
        generator = np.random.default_rng([config.seed, len(BASES)])
        count = len(plan.images)
        random = np.stack([generator.choice(count, config.top, replace=False) for _ in range(config.directions)])
        wanted = np.unique(np.concatenate([best.index.ravel(), random.ravel()]))
        chosen = pa.concat_tables(passes.go("chosen", passes.by_shard(wanted)))
        if not passes.made and all(study.store.exists(name) for name in (WINNERS, SETS, TESTS)):
            return
        names = [basis for basis, found in vectors.items() for _ in found] + [CHANCE] * len(random)
        number = [i for found in (*vectors.values(), random) for i in range(len(found))]
        scores = np.concatenate([best.score, np.full(random.shape, np.nan, np.float32)])
        _conclude(study, np.array(names), np.array(number), np.concatenate([best.index, random]), scores, chosen)

    show = staticmethod(presentation.show)


class _Passes:
    """Passes over the shards of a study, each shard once."""

    def __init__(self, plan: ModelPlan, study: Study, pool: ActorPool, on_progress: OnProgress) -> None:
        self.plan, self.study, self.pool, self.on_progress = plan, study, pool, on_progress
        self.made = 0
        self.starts = range(0, len(plan.images), plan.config.shard_size)
        self.shards = {start: plan.images.subset(slice(start, start + plan.config.shard_size)) for start in self.starts}
        self.content = {start: shard.fingerprint for start, shard in self.shards.items()}
        self._stored = lru_cache(maxsize=SHARDS_AT_ONCE)(lambda start: ray.put(packed(self.shards[start])))

    def by_shard(self, rows: np.ndarray) -> dict[int, tuple[int, ...]]:
        """Rows of the image set by shard, relative to its first row."""
        starts = rows // self.plan.config.shard_size * self.plan.config.shard_size
        return {start: tuple((rows[starts == start] - start).tolist()) for start in np.unique(starts).tolist()}

    def go(self, kind: str, rows: dict[int, tuple[int, ...]], *decisive: Any) -> list[pa.Table]:
        """The tables of one pass, shard by shard; existing ones are read."""
        config, store = self.plan.config, self.study.store
        units: dict[int, ShardUnit] = {}
        for start in rows or self.starts:
            known = (kind, VERSION, self.plan.subject.fingerprint, config.layer, self.content[start], *decisive)
            key = address(*known, rows.get(start), config.labels)
            name = f"{kind}/part-{start:08d}.parquet"
            settings = (config.layer, config.top, config.labels == "predicted", rows.get(start))
            units[start] = ShardUnit(store.uri, name, key, start, *settings)
        missing = [unit for unit in units.values() if not store.holds(unit.name, unit.key)]
        self.made += len(missing)
        title = {"moments": "moments", "top": "top images", "chosen": "chosen images"}[kind]

        def record(_unit: Any, _answer: Any, done: int) -> None:
            self.on_progress({kind: done})

        complete(self.pool, missing, store.uri, title, len(units), record, inputs=lambda unit: self._stored(unit.start))
        return [store.read_shard(unit.name) for unit in units.values()]


def _conclude(
    study: Study, basis: np.ndarray, number: np.ndarray, rows: np.ndarray, scores: np.ndarray, chosen: pa.Table
) -> None:
    """Statistics of every set of images [S, k], comparisons, and the tables."""
    place = np.searchsorted(chosen["row"].to_numpy(), rows)
    labels, index = chosen["label"].to_numpy()[place], chosen["index"].to_numpy()[place]
    at_random = place[basis == CHANCE].ravel()
    described = {}
    for name in ("feature", "thumbnail"):
        flat = chosen[name].combine_chunks().flatten().to_numpy().reshape(len(chosen), -1)
        described[name] = flat - flat[at_random].mean(0)  # the mean of the image set, estimated from a random sample
    values = {
        "purity": statistics.purity(labels),
        "entropy": statistics.entropy(labels),
        "feature_similarity": statistics.pairwise_similarity(described["feature"][place]),
        "pixel_similarity": statistics.pairwise_similarity(described["thumbnail"][place]),
    }
    samples = {
        name: {statistic: value[basis == name] for statistic, value in values.items()}
        for name in dict.fromkeys(basis.tolist())
    }
    tests = statistics.compare_all(samples, "natural", CHANCE, study.config["seed"])
    k = rows.shape[1]
    winners = {
        "basis": np.repeat(basis, k),
        "direction": np.repeat(number, k),
        "rank": np.tile(np.arange(k), len(rows)),
        "row": rows.ravel(),
        "index": index.ravel(),
        "label": labels.ravel(),
        "score": pa.array(scores.ravel(), mask=np.isnan(scores.ravel())),  # random images have none
    }
    study.store.write_table(WINNERS, pa.table(winners))
    study.store.write_table(SETS, pa.table({"basis": basis, "direction": number, **values}))
    study.store.write_table(TESTS, pa.Table.from_pylist(tests))
    if study.manifest["finished"] is None:
        study.manifest["verdict"] = statistics.verdict(tests, "natural")
        study.finish(host_count())
