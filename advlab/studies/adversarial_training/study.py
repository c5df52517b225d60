"""The ablation of adversarial training: every variant with several seeds, each run a unit of work."""

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import ray
import torch

from advlab import data
from advlab.command import CommonOptions, listed, require_at_least
from advlab.data import Dataset
from advlab.engine import launcher
from advlab.engine.actors import PoolOptions
from advlab.engine.launcher import Devices, OnRay, require_resources
from advlab.engine.pool import ActorPool, complete
from advlab.engine.progress import OnProgress, Stage
from advlab.engine.session import host_count
from advlab.errors import UserError
from advlab.hardening import snapshots
from advlab.hardening.settings import VARIANTS, is_variant, variant
from advlab.hardening.trainer import build, cut
from advlab.models import external
from advlab.report import Shown
from advlab.store import MANIFEST, Study, address
from advlab.studies.adversarial_training import show, tuning
from advlab.studies.adversarial_training.work import HardeningConfig, TrainUnit
from advlab.studies.experiment import Experiment

VERSION = 1
"""Version of the computation: runs of other versions are repeated."""
RESULTS = "results.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout(Devices):
    """Distribution of each run over workers: it changes results of runs without a pool by rounding only, and those of
    runs with one like another seed."""

    workers: int = 1
    """Number of Ray Train workers per run, each with a part of every batch and of the pool."""

    @property
    def shared(self) -> bool:
        """Whether Ray Train trains the runs one after another, rather than the actor pool in parallel."""
        return self.workers > 1 or self.gpus


@dataclass(frozen=True, slots=True)
class HardeningPlan:
    """An ablation, checked: its settings, its variants, the levels of its network, and the images."""

    config: HardeningConfig
    variants: list[str]
    levels: int
    train: Dataset
    held_out: Dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialTraining(Experiment[HardeningPlan, Study, ActorPool | None]):
    """Train on a continuously refreshed pool of adversarial examples, and compare with baselines (section 4.1)."""

    kind = "hardening"

    settings: HardeningConfig = field(default_factory=HardeningConfig)
    layout: Layout = field(default_factory=Layout)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool_options: PoolOptions = field(default_factory=PoolOptions)

    def prepare(self) -> HardeningPlan:
        config, layout = self.settings, self.layout
        require_at_least(config, seeds=1, seed=0, snapshot_epochs=1, distortions=1, generators=1, tune=0)
        require_at_least(layout, workers=1)
        if config.frozen and config.pool is None:
            raise UserError("--frozen needs a pool; give its folder with --pool.")
        names = listed(config.variants)
        if not names:
            raise UserError(f"--variants names no variant; choose among {', '.join(VARIANTS)}.")
        if config.pool is not None:
            snapshots.load(config.pool)  # now, and not by a worker that has waited for its turn
        train, held_out = _images(config)
        _require_shares(config, layout, len(train))
        levels, _ = cut(build(config.training, train), config.training, train)
        for name in names:
            variant(name, config.training, levels.count)
        return HardeningPlan(config, names, levels.count, train, held_out)

    def workers(self, plan: HardeningPlan) -> AbstractContextManager[ActorPool | None]:  # noqa: ARG002
        if self.layout.shared:
            require_resources(self.layout.workers, self.layout, elastic=self.elastic)
            return nullcontext()
        return ActorPool(self._size(), elastic=self.elastic)

    def _size(self) -> PoolOptions:
        """Pool options that leave a CPU for each generator, if there are enough."""
        options = self.pool_options
        if self.settings.mode == "synchronous":
            return options
        cpus = ray.cluster_resources().get("CPU", 1)
        most = max(1, int(cpus / (options.num_cpus + self.settings.generators)))
        return replace(options, actors=min(options.actors or most, most))

    def begin(self, plan: HardeningPlan) -> Study:
        config = asdict(plan.config)
        for choice in ("variants", "seeds", "seed"):  # more of these extend the same study
            del config[choice]
        config["training"] = plan.config.training.decisive()
        return Study.begin(self.kind, config, self.common.out)

    def run(self, plan: HardeningPlan, study: Study, workers: ActorPool | None, on_progress: OnProgress) -> None:
        """Search for settings if ``--tune`` is given, and do the runs that are not done yet.

        With a layout of several workers or of GPUs the runs follow one another, each by workers of Ray Train with
        checkpoints in ``train/``. Writes ``results.parquet`` (one row per variant and seed), ``runs/`` (the same, a
        file each), ``curves/`` (one row per epoch), ``models/`` and ``pools/`` (the newest snapshots of every run).
        """
        if plan.config.tune:
            variants = {name: variant(name, plan.config.training, plan.levels) for name in plan.variants}
            images = {split: data.load(plan.config.dataset, split) for split in ("fit", "validation")}
            images["fit"] = images["fit"].subset(slice(len(plan.train)))
            tuning.choose(study, variants, plan.config.tune, self._size(), images, on_progress)
        store, seeds = study.store, range(plan.config.seed, plan.config.seed + plan.config.seeds)
        units = [_unit(plan, study, name, seed) for seed in seeds for name in plan.variants]
        missing = [unit for unit in units if not store.holds(unit.part, unit.key)]

        def record(unit: TrainUnit, _answer: Any, _done: int) -> None:
            prefix = f"{unit.variant}/{unit.seed}"
            for row in store.read_table(f"curves/{unit.stem}.parquet").to_pylist():
                on_progress({f"{prefix}/{name}": value for name, value in row.items() if value is not None})
            write_results(plan, study)

        if workers is None:
            with Stage("training", len(units), done=len(units) - len(missing)) as stage:
                for unit in missing:
                    folder = f"train/{unit.stem}"
                    launcher.fit(
                        study, _work, {"unit": unit}, self.layout, self.layout.workers, restart=True, folder=folder
                    )
                    stage.advance(unit.name)
                    record(unit, None, stage.done)
        else:
            workers.require_file(store.uri, MANIFEST, study.save_manifest)
            workers.share("train", plan.train)
            workers.share("held out", plan.held_out)
            complete(workers, missing, store.uri, "training", len(units), record, depth=1)
        write_results(plan, study)
        if study.manifest["finished"] is None:
            study.finish(host_count())

    @staticmethod
    def show(study: Study, _width: int) -> Shown:
        return Shown(tables=[show.ablation_table(study)], rows={"results": study.store.read_table(RESULTS)})


def _images(config: HardeningConfig) -> tuple[Dataset, Dataset]:
    train = data.load(config.dataset, config.split)
    examples = len(train) if config.examples is None else config.examples
    if not 1 <= examples <= len(train):
        raise UserError(f"--examples {examples} is impossible; choose 1 to {len(train)}.")
    held_out = data.load(config.dataset, config.held_out)
    return train.subset(slice(examples)), held_out


def _require_shares(config: HardeningConfig, layout: Layout, examples: int) -> None:
    """Raise a UserError unless every worker has a share of every step."""
    settings, workers = config.training, layout.workers
    if layout.shared and config.mode == "asynchronous":
        raise UserError(
            "--mode asynchronous has a single trainer on a CPU; leave out --workers and --gpus, or choose synchronous."
        )
    for name in ("batch_size", "refresh", "capacity"):
        if (value := getattr(settings, name)) < workers:
            option = f"--{name.replace('_', '-')} {value}"
            raise UserError(f"{option} cannot be split into {workers} parts; choose at least that many.")
    last = examples % settings.batch_size or settings.batch_size
    if last < workers:
        raise UserError(
            f"--batch-size {settings.batch_size} leaves {last} of {examples} images for the last batch of an epoch, "
            f"too few for {workers} workers; choose another."
        )


def _work(given: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    given["unit"].run_among(OnRay(), *_images(given["unit"].config))


def write_results(plan: HardeningPlan, study: Study) -> None:
    """Collect the rows of all finished runs, including those of earlier commands."""
    found = [re.fullmatch(r"runs/variant=(.+)/seed-(\d+)\.parquet", name) for name in study.store.files("runs")]
    named = sorted((match[1], int(match[2])) for match in found if match and is_variant(match[1]))
    units = [_unit(plan, study, name, seed) for name, seed in named]
    done = [unit.part for unit in units if study.store.holds(unit.part, unit.key)]
    rows = [row for part in done for row in study.store.read_shard(part).to_pylist()]
    study.store.write_table(RESULTS, pa.Table.from_pylist(rows))


def _unit(plan: HardeningPlan, study: Study, name: str, seed: int) -> TrainUnit:
    """One run; its key is a hash of everything that determines its row."""
    config = plan.config
    settings = tuning.settled(study, name, variant(name, config.training, plan.levels))
    content = [plan.train.fingerprint, plan.held_out.fingerprint]
    if settings.network is not None and external.is_external(settings.network):
        content.append(external.identity(settings.network))
    decisive = config.distortions, config.beside, config.pool, config.frozen
    key = address("hardening", VERSION, *content, settings.decisive(), seed, *decisive)
    return TrainUnit(study.store.uri, name, seed, settings, key, config)
