"""The main job: train or find the models, attack each once, show every example to all, and reduce to a matrix."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import ray
from torch import nn

from advlab import data
from advlab.attacks import registry, targets
from advlab.data import Dataset
from advlab.distributed.pool import Failure, Pool, PoolOptions, Unit
from advlab.distributed.progress import Stage
from advlab.distributed.session import default_actors, host_count
from advlab.distributed.units import AttackUnit, EvaluateUnit, Shard, TrainUnit, address
from advlab.errors import UserError
from advlab.models import Checkpoint, checkpoint, external, zoo
from advlab.results import Store, Study, matrix, provenance
from advlab.results.layout import MATRIX, examples_part, predictions_part, weights_file
from advlab.results.study import study_identity
from advlab.transfer import controls
from advlab.transfer.generate import parse_class


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferConfig:
    """What decides the rows of a transfer study."""

    dataset: str = "mnist"
    """Data set: mnist or fashion_mnist."""

    split: str = "train"
    """Split whose images are attacked: train, test, fit, validation, p1 or p2."""

    train_split: str = "train"
    """Split the zoo models are trained on."""

    models: str = "paper"
    """Comma-separated zoo names (paper = the six of Table 1), torchvision:NAME, timm:NAME, file:PATH.py:FACTORY."""

    examples: int = 1000
    """Number of images attacked per model: the first of the split."""

    attack: str = "lbfgs"
    """lbfgs (the paper's), minimum-norm (ours) or foolbox:CLASS."""

    target: str = "random"
    """random, nearest, runner-up, least-likely, all, or a class."""

    controls: str = "gaussian-0.1,gaussian-0.3,shuffled"
    """Comma-separated noise sources: gaussian-SIGMA, gaussian-SIGMA-clipped, shuffled."""

    shard_size: int = 250
    """Images per shard, the unit of work and of loss."""

    seed: int = 0
    """Seed of training, of random targets and of noise."""


@dataclass(slots=True)
class _Plan:
    """A study under way: its folder, its data, and what identifies its models."""

    config: TransferConfig
    study: Study
    sliced: Dataset
    names: list[str]
    noise: list[str]
    reuse: str | None
    fingerprints: dict[str, str] = field(default_factory=dict)


def resolve(config: TransferConfig) -> tuple[Dataset, dict[str, Any]]:
    """The images to attack and the study's settings in full; refuses whatever is wrong with them.

    Raises:
        UserError: an unknown data set, split, model, attack, target or control, or an impossible number of examples.
    """
    names = zoo.expand(config.models)
    noise = [control.strip() for control in config.controls.split(",") if control.strip()]
    full = data.load(config.dataset, config.split)
    if not 1 <= config.examples <= len(full):
        raise UserError(
            f"--examples {config.examples} is impossible: {config.dataset} {config.split} has {len(full)} images; "
            f"choose 1 to {len(full)}."
        )
    if config.shard_size < 1:
        raise UserError(f"--shard-size {config.shard_size} is impossible; choose at least 1.")
    for name in names:
        if not external.is_external(name):
            zoo.recipe(name, full)
    registry.resolve(config.attack)
    if config.target not in (*targets.POLICIES, "all"):
        parse_class(config.target, full.num_classes)
    controls.validate(noise, names)
    return full.subset(slice(config.examples)), asdict(config) | {"models": names, "controls": noise}


def begin(config: TransferConfig, out: str | None) -> Study:
    """Start a study, or continue it where ``out`` holds part of it.

    Args:
        config: what to compute.
        out: folder of the study; a folder below ``runs/`` that is named after the settings when absent.

    Raises:
        UserError: settings that cannot be, or a folder that cannot be used.
    """
    _, settings = resolve(config)
    manifest = {"kind": "transfer", "config": settings, **provenance.describe(sys.argv)}
    return Study.begin(out or f"runs/transfer-{study_identity(manifest)[:8]}", manifest)


def run(
    config: TransferConfig,
    study: Study,
    pool_options: PoolOptions,
    *,
    reuse: str | None = None,
    on_progress: Callable[[dict[str, int]], None] = lambda _: None,
) -> None:
    """Do what is not yet done of a study; Ray must be connected.

    Args:
        config: the settings the study was begun with.
        study: where it lies.
        pool_options: size of the actor pool.
        reuse: folder of another study whose shards are taken over where they are the same.
        on_progress: called as ``on_progress({"attacked": …, "evaluated": …})``, in shards, after each unit.

    Raises:
        UserError: units of work that failed; the others are done and kept.
    """
    sliced, settings = resolve(config)
    plan = _Plan(config, study, sliced, settings["models"], settings["controls"], reuse)
    actors = pool_options.actors or default_actors(pool_options.num_cpus, pool_options.num_gpus)
    pool = Pool(pool_options, actors)
    _prepare_models(plan, pool)
    _attack_and_evaluate(plan, pool, on_progress)
    study.store.write_table(MATRIX, matrix.reduce(study.store, study.sources, study.targets))
    study.manifest["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    study.manifest["hosts"] = host_count()
    study.save_manifest()


def _prepare_models(plan: _Plan, pool: Pool) -> None:
    """Share every model with the pool: from the study, from the cache, or trained on the pool now."""
    store, described = plan.study.store, plan.study.manifest.setdefault("models", {})
    full = data.load(plan.config.dataset, plan.config.train_split)
    missing: list[TrainUnit] = []
    for name in plan.names:
        if external.is_external(name):
            network = external.load(name)
            for module in external.loaded_files:
                ray.cloudpickle.register_pickle_by_value(module)
            _share(plan, pool, name, network, checkpoint.weights_fingerprint(network.state_dict()))
            continue
        recipe = zoo.recipe(name, full, seed=plan.config.seed)
        found = _stored(store, name) or checkpoint.find(recipe)
        if found is None:
            missing.append(TrainUnit(recipe))
        else:
            _adopt(plan, pool, found)
    if missing:
        missing.sort(key=lambda unit: unit.parameters, reverse=True)  # so that no long one is left for last
        pool.share("train", full)
        pool.share("test", data.load(plan.config.dataset, "test"))
        with Stage("training", len(missing)) as stage:

            def adopt(unit: Unit, content: bytes) -> Iterable[Unit]:
                trained = Checkpoint.from_bytes(content)
                checkpoint.save(trained)
                _adopt(plan, pool, trained)
                stage.advance(unit.name)
                return ()

            _require_success(pool.run(missing, adopt, on_status=stage.say, depth=1), plan.study)
    ordered = {name: described[name] for name in plan.names}
    plan.study.manifest["models"] = ordered
    plan.study.manifest["dataset"] = {
        "name": plan.config.dataset,
        "split": plan.config.split,
        "fingerprint": plan.sliced.fingerprint,
    }
    plan.study.save_manifest()


def _stored(store: Store, name: str) -> Checkpoint | None:
    if not store.exists(weights_file(name)):
        return None
    try:
        return Checkpoint.from_bytes(store.read_bytes(weights_file(name)))
    except ValueError:
        return None


def _weights_file(name: str) -> str:
    return f"models/{name}.safetensors"


def _adopt(plan: _Plan, pool: Pool, trained: Checkpoint) -> None:
    name = trained.recipe.name
    if not plan.study.store.exists(weights_file(name)):
        plan.study.store.write_bytes(weights_file(name), trained.to_bytes())
    described = {"recipe": trained.recipe.to_json(), "report": trained.report}
    _share(plan, pool, name, trained.network(), trained.fingerprint, **described)


def _share(plan: _Plan, pool: Pool, name: str, network: nn.Module, fingerprint: str, **described: Any) -> None:
    earlier = plan.study.manifest["models"].get(name, {}).get("fingerprint", fingerprint)
    if earlier != fingerprint:
        raise UserError(
            f"model {name!r} has other weights than when the study in {plan.study.store.uri!r} began; "
            "choose another --out, or bring those weights back."
        )
    plan.study.manifest["models"][name] = {"fingerprint": fingerprint, **described}
    plan.fingerprints[name] = fingerprint
    pool.share(f"model {name}", network)


def _attack_and_evaluate(plan: _Plan, pool: Pool, on_progress: Callable[[dict[str, int]], None]) -> None:
    """Attack every shard that is not there yet; as each is there, show it to every model that has not seen it."""
    config, store = plan.config, plan.study.store
    pool.share("dataset", plan.sliced)
    starts = range(0, config.examples, config.shard_size)
    shard_data = {start: plan.sliced.subset(slice(start, start + config.shard_size)).fingerprint for start in starts}
    noise = controls.expand(plan.noise, plan.names)

    def attack_key(source: str, start: int) -> str:
        return address(
            "attack", plan.fingerprints[source], shard_data[start], config.attack, config.target, config.seed
        )

    def evaluation(source: str, start: int) -> EvaluateUnit | None:
        attacked = controls.attacked_model(source) if source in noise else source
        origin = attack_key(attacked, start) if attacked else shard_data[start]
        keys = {
            target: address("evaluate", source, config.seed, origin, plan.fingerprints[target]) for target in plan.names
        }
        missing = {
            target: key for target, key in keys.items() if not store.holds(predictions_part(source, target, start), key)
        }
        if not missing:
            return None
        shard = Shard(store.uri, start, config.shard_size, config.seed)
        return EvaluateUnit(shard, source, attacked, missing)

    dependents = {
        name: [name, *(control for control in noise if controls.attacked_model(control) == name)] for name in plan.names
    }

    def evaluations_of(attacked: str, start: int) -> list[Unit]:
        return [unit for source in dependents[attacked] if (unit := evaluation(source, start))]

    work: list[Unit] = []
    for start in starts:
        for source in plan.names:
            key = attack_key(source, start)
            if store.holds(examples_part(source, start), key):
                work += evaluations_of(source, start)
            else:
                shard = Shard(store.uri, start, config.shard_size, config.seed)
                work.append(AttackUnit(shard, source, config.attack, config.target, key, plan.reuse))
        for control in noise:
            if controls.attacked_model(control) is None and (unit := evaluation(control, start)):
                work.append(unit)

    totals = {"attacked": len(starts) * len(plan.names), "evaluated": len(starts) * len(plan.study.sources)}
    to_attack = [unit for unit in work if isinstance(unit, AttackUnit)]
    to_evaluate = len(work) - len(to_attack) + sum(len(dependents[unit.source]) for unit in to_attack)
    done = {"attacked": totals["attacked"] - len(to_attack), "evaluated": totals["evaluated"] - to_evaluate}
    with Stage("attacking", sum(totals.values()), done=sum(done.values())) as stage:

        def follow(unit: Unit, _answer: Any) -> Iterable[Unit]:
            done["attacked" if isinstance(unit, AttackUnit) else "evaluated"] += 1
            stage.advance(unit.name)
            on_progress(done)
            return evaluations_of(unit.source, unit.shard.start) if isinstance(unit, AttackUnit) else ()

        _require_success(pool.run(work, follow, on_status=stage.say), plan.study)


def _require_success(failures: list[Failure], study: Study) -> None:
    if failures:
        first = failures[0]
        raise UserError(
            f"{len(failures)} unit{'s' * (len(failures) > 1)} of work failed, the first being {first.unit.name!r} "
            f"({first.reason}); the finished ones are kept in {study.store.uri!r}: run the same command again "
            "once the cause is gone."
        )
