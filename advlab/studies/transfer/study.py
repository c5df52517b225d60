"""The execution of a transfer study: prepare the models, attack each, evaluate all, and reduce to the matrix."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray
from torch import nn

from advlab import data
from advlab.engine.pool import ActorPool, complete, require_success
from advlab.engine.progress import OnProgress, Stage
from advlab.engine.session import host_count
from advlab.engine.shared_dataset import SharedDataset
from advlab.engine.worker import Unit
from advlab.models import Checkpoint, checkpoint, external
from advlab.models.study_models import stored
from advlab.report import Shown
from advlab.store import MANIFEST, address, weights_file
from advlab.studies.experiment import PoolExperiment
from advlab.studies.transfer import show
from advlab.studies.transfer.layout import MATRIX, Addresses, examples_part, predictions_part
from advlab.studies.transfer.plan import Plan, TransferConfig, prepare
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.view import View
from advlab.studies.transfer.work import AttackUnit, CountUnit, EvaluateUnit, Shard, TrainUnit

SHARDS_AT_ONCE = 16
"""Number of shards of images kept in the object store: units are assigned shard by shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferExperiment(PoolExperiment[Plan, TransferStudy]):
    kind = "transfer"

    def begin(self, plan: Plan) -> TransferStudy:
        return TransferStudy.begin(self.kind, plan.settings, self.common.out, attack=plan.attack_settings)

    def run(self, plan: Plan, study: TransferStudy, workers: ActorPool, on_progress: OnProgress) -> None:
        """Compute what is missing; ``on_progress({"attacked": …, "evaluated": …})``, in shards, after each unit."""
        workers.require_file(study.store.uri, MANIFEST, study.save_manifest)
        _prepare_models(plan, study, workers)
        addresses = Addresses(study.manifest, study.fingerprints, plan.attacked)
        is_counted = study.store.is_whole(MATRIX) and study.manifest["finished"] is not None
        if not _attack_and_evaluate(plan, study, workers, addresses, on_progress) and is_counted:
            return
        study.store.write_table(MATRIX, _count(study, workers, addresses))
        study.finish(host_count())

    @staticmethod
    def show(study: TransferStudy, width: int) -> Shown:
        return show.show(View(study), width)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferMatrix(TransferExperiment):
    """Attack every model once, classify every example with every model: the paper's Tables 1 and 2 and Figure 7."""

    settings: TransferConfig = field(default_factory=TransferConfig)

    reuse: str | None = None
    """Folder of another study: shards that would be the same are taken from it."""
    trust_code: str = ""
    """Comma-separated file: and python: models that a study of somebody else names, to be run all the same: read them
    first."""

    def prepare(self) -> Plan:
        return prepare(self.settings, self.reuse, self.trust_code)


def _prepare_models(plan: Plan, study: TransferStudy, pool: ActorPool) -> None:
    """Share every model with the pool: from the study, from the cache, or newly trained on the pool."""
    described = study.manifest.setdefault("models", {})
    missing: list[TrainUnit] = []
    for name in plan.models:
        if name in plan.external:
            network = plan.external[name]
            weights = checkpoint.weights_fingerprint(network.state_dict())
            _share(study, pool, name, network, address(weights, external.identity(name)))
        elif name in plan.trained:
            _adopt(study, pool, plan.trained[name].checkpoint, origin=plan.trained[name].origin)
        elif (found := stored(study.store, name) or checkpoint.find(plan.recipes[name])) is not None:
            _adopt(study, pool, found)
        else:
            missing.append(TrainUnit(plan.recipes[name]))
    if missing:
        missing.sort(key=lambda unit: unit.parameters, reverse=True)  # the longest first
        needed = {recipe.split: plan.trained_on[recipe.split] for recipe in (unit.recipe for unit in missing)}
        needed["test"] = data.load(plan.config.dataset, "test")
        for split, dataset in needed.items():
            pool.share(f"images {split}", SharedDataset.of(dataset))

        def adopt(_unit: Unit, content: bytes, _done: int) -> None:
            trained = Checkpoint.from_bytes(content)
            try:
                _adopt(study, pool, trained)
            finally:  # after it is stored in the study, or if that fails
                checkpoint.save(trained)

        complete(pool, missing, study.store.uri, "training", len(missing), adopt, depth=1)
        pool.unshare(*(f"images {split}" for split in needed))
    study.manifest["models"] = {name: described[name] for name in plan.models}
    named = {"name": plan.config.dataset, "split": plan.config.split}
    study.manifest["dataset"] = named | {"fingerprint": plan.attacked.fingerprint}
    study.save_manifest()


def _adopt(study: TransferStudy, pool: ActorPool, trained: Checkpoint, **described: Any) -> None:
    """Store a model in the study, before anything else, and share it."""
    name = trained.recipe.name
    if stored(study.store, name) is None:
        study.store.write_bytes(weights_file(name), trained.to_bytes())
    described |= {"recipe": trained.recipe.to_json(), "report": trained.report}
    _share(study, pool, name, trained.network(), trained.fingerprint, **described)


def _share(
    study: TransferStudy, pool: ActorPool, name: str, network: nn.Module, fingerprint: str, **described: Any
) -> None:
    study.record_model(name, fingerprint, **described)
    pool.share(f"model {name}", network)


def _attack_and_evaluate(
    plan: Plan, study: TransferStudy, pool: ActorPool, addresses: Addresses, on_progress: OnProgress
) -> bool:
    """Attack missing shards, evaluate each on the models without predictions for it; returns whether there were any."""
    config, store, starts = plan.config, study.store, study.starts
    shards = {start: Shard(store.uri, start, config.seed) for start in starts}
    held = store.keys("examples") | store.keys("predictions")
    # sources by the model whose examples they are made from (itself and some controls); None for other controls
    attacked = {source: study.attacked(source) for source in study.sources}
    made_from = {name: [source for source, of in attacked.items() if of == name] for name in (*plan.models, None)}

    def evaluation(attacked: str | None, start: int, *, again: bool = False) -> list[EvaluateUnit]:
        missing: dict[str, dict[str, str]] = {}
        for source in made_from[attacked]:
            for target in plan.models:
                key = addresses.predictions(source, target, start)
                if again or held.get(predictions_part(source, target, start)) != key:
                    missing.setdefault(source, {})[target] = key
        return [EvaluateUnit(shards[start], attacked, missing)] if missing else []

    units: list[AttackUnit | EvaluateUnit] = []
    for start in starts:
        for source in plan.models:
            key = addresses.examples(source, start)
            if held.get(examples_part(source, start)) == key:
                units += evaluation(source, start)
            else:
                units.append(AttackUnit(shards[start], source, config.attack, config.target, key, plan.reuse))
        units += evaluation(None, start)

    to_attack = [unit for unit in units if isinstance(unit, AttackUnit)]
    to_evaluate = sum(len(unit.keys) for unit in units if isinstance(unit, EvaluateUnit))
    to_evaluate += sum(len(made_from[unit.source]) for unit in to_attack)
    totals = {"attacked": len(starts) * len(plan.models), "evaluated": len(starts) * len(study.sources)}
    done = {"attacked": totals["attacked"] - len(to_attack), "evaluated": totals["evaluated"] - to_evaluate}

    @lru_cache(maxsize=SHARDS_AT_ONCE)
    def placed(start: int) -> ray.ObjectRef:
        return ray.put(SharedDataset.of(plan.attacked.subset(slice(start, start + config.shard_size))))

    pool.share("references", None if plan.references is None else plan.references.images.numpy())
    with Stage("attacking", sum(totals.values()), done=sum(done.values())) as stage:

        def follow(unit: Any, _answer: Any) -> Iterable[Unit]:
            before, more = sum(done.values()), []
            if isinstance(unit, AttackUnit):
                more = evaluation(unit.source, unit.shard.start, again=True)
                done["attacked"] += 1
            else:
                done["evaluated"] += len(unit.keys)
            stage.advance(unit.name, sum(done.values()) - before)
            on_progress(done)
            return more

        def given(unit: Any) -> ray.ObjectRef:
            return placed(unit.shard.start)

        require_success(pool.run(units, follow, inputs=given, on_status=stage.say), store.uri)
    return bool(units)


def _count(study: TransferStudy, pool: ActorPool, addresses: Addresses) -> pa.Table:
    """The matrix; each source's rows are counted on the pool."""
    rows: dict[str, pa.Table] = {}

    def collect(unit: CountUnit, table: pa.Table, _done: int) -> None:
        rows[unit.source] = table

    def files(source: str) -> dict[str, dict[str, str]]:
        return {target: addresses.prediction_files(source, target, study.starts) for target in study.targets}

    units = [CountUnit(study.store.uri, source, files(source)) for source in study.sources]
    complete(pool, units, study.store.uri, "counting", len(units), collect)
    return pa.concat_tables([rows[source] for source in study.sources])
