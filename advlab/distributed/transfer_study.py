"""The main job: train or find the models, attack each once, show every example to all, and reduce to a matrix."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from torch import nn

from advlab import data
from advlab.attacks import registry, targets
from advlab.data import Dataset
from advlab.distributed.pool import Failure, Pool, Unit
from advlab.distributed.progress import Stage
from advlab.distributed.session import host_count
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, every setting checked.

    Attributes:
        config: the settings as given.
        settings: the settings in full, as ``study.json`` keeps them; they decide what the same study is.
        attack_settings: the attack's arguments and the version of its code; they decide it too.
        attacked: the images to attack.
        trained_on: the images zoo models are trained on.
        models: names of the models.
        external: those of them that come from elsewhere.
        controls: names of the noise sources.
        reuse: folder of another study whose shards are taken over where they are the same.
    """

    config: TransferConfig
    settings: dict[str, Any]
    attack_settings: dict[str, Any]
    attacked: Dataset
    trained_on: Dataset
    models: list[str]
    external: dict[str, nn.Module]
    controls: list[str]
    reuse: str | None


@dataclass(slots=True)
class _Work:
    """A study under way: the plan, the folder, the pool, and the models' fingerprints."""

    plan: Plan
    study: Study
    pool: Pool
    fingerprints: dict[str, str] = field(default_factory=dict)


def prepare(config: TransferConfig, reuse: str | None = None) -> Plan:
    """Check the settings and load the data and the external models; nothing is written.

    Raises:
        UserError: an unknown data set, split, model, attack, target or control; an impossible number; no study in
            ``reuse``.
    """
    names = zoo.expand(config.models)
    noise = [control.strip() for control in config.controls.split(",") if control.strip()]
    controls.validate(noise, names)
    full = data.load(config.dataset, config.split)
    trained_on = full if config.train_split == config.split else data.load(config.dataset, config.train_split)
    if not 1 <= config.examples <= len(full):
        raise UserError(
            f"--examples {config.examples} is impossible: {config.dataset} {config.split} has {len(full)} images; "
            f"choose 1 to {len(full)}."
        )
    if config.shard_size < 1:
        raise UserError(f"--shard-size {config.shard_size} is impossible; choose at least 1.")
    if config.seed < 0:
        raise UserError(f"--seed {config.seed} is impossible; choose 0 or more.")
    if config.target not in (*targets.POLICIES, "all"):
        parse_class(config.target, full.num_classes)
    for name in names:
        if not external.is_external(name):
            zoo.recipe(name, trained_on)
    return Plan(
        config=config,
        settings=asdict(config) | {"models": names, "controls": noise},
        attack_settings=registry.settings(config.attack),
        attacked=full.subset(slice(config.examples)),
        trained_on=trained_on,
        models=names,
        external={name: external.load(name) for name in names if external.is_external(name)},
        controls=controls.expand(noise, names),
        reuse=None if reuse is None else Study.open(reuse).store.uri,
    )


def begin(plan: Plan, out: str | None) -> Study:
    """Start a study, or continue it where ``out`` holds part of it.

    Args:
        plan: what to compute.
        out: folder of the study; a folder below ``runs/`` that is named after the settings when absent.

    Raises:
        UserError: a folder that cannot be used.
    """
    manifest = {
        "kind": "transfer",
        "config": plan.settings,
        "attack": plan.attack_settings,
        "seed": plan.config.seed,
        **provenance.describe(sys.argv),
        "finished": None,
        "hosts": None,
    }
    return Study.begin(out or f"runs/transfer-{study_identity(manifest)[:8]}", manifest)


def run(
    plan: Plan, study: Study, pool: Pool, *, on_progress: Callable[[dict[str, int]], None] = lambda _: None
) -> None:
    """Do what is not yet done of a study; Ray must be connected.

    Args:
        plan: what the study was begun with.
        study: where it lies.
        pool: who does it.
        on_progress: called as ``on_progress({"attacked": …, "evaluated": …})``, in shards, after each unit.

    Raises:
        UserError: units of work that failed; the others are done and kept.
    """
    work = _Work(plan, study, pool)
    if "models" in study.manifest and study.manifest["finished"] is None:
        study.manifest.setdefault("resumed", []).append(provenance.describe(sys.argv))
    _prepare_models(work)
    if not _attack_and_evaluate(work, on_progress) and study.store.exists(MATRIX):
        return
    study.store.write_table(MATRIX, matrix.build(study.store, study.sources, study.targets))
    study.manifest["finished"] = provenance.now()
    study.manifest["hosts"] = host_count()
    study.save_manifest()


def _prepare_models(work: _Work) -> None:
    """Share every model with the pool: from the study, from the cache, or trained on the pool now."""
    plan, study = work.plan, work.study
    described = study.manifest.setdefault("models", {})
    for module in external.loaded_files:
        ray.cloudpickle.register_pickle_by_value(module)
    missing: list[TrainUnit] = []
    for name in plan.models:
        if name in plan.external:
            network = plan.external[name]
            weights = checkpoint.weights_fingerprint(network.state_dict())
            _share(work, name, network, address(weights, external.identity(name)))
            continue
        recipe = zoo.recipe(name, plan.trained_on, seed=plan.config.seed)
        found = _stored(study.store, name) or checkpoint.find(recipe)
        if found is None:
            missing.append(TrainUnit(recipe))
        else:
            _adopt(work, found)
    if missing:
        missing.sort(key=lambda unit: unit.parameters, reverse=True)  # so that no long one is left for last
        work.pool.share("train", plan.trained_on)
        work.pool.share("test", data.load(plan.config.dataset, "test"))
        with Stage("training", len(missing)) as stage:

            def adopt(unit: Unit, content: bytes) -> Iterable[Unit]:
                trained = Checkpoint.from_bytes(content)
                checkpoint.save(trained)
                _adopt(work, trained)
                stage.advance(unit.name)
                return ()

            _require_success(work.pool.run(missing, adopt, on_status=stage.say, depth=1), study)
    study.manifest["models"] = {name: described[name] for name in plan.models}
    study.manifest["dataset"] = {
        "name": plan.config.dataset,
        "split": plan.config.split,
        "fingerprint": plan.attacked.fingerprint,
    }
    study.save_manifest()


def _stored(store: Store, name: str) -> Checkpoint | None:
    """The study's own copy of a model; a damaged one is removed."""
    if not store.exists(weights_file(name)):
        return None
    try:
        return Checkpoint.from_bytes(store.read_bytes(weights_file(name)))
    except ValueError:
        store.delete(weights_file(name))
        return None


def _adopt(work: _Work, trained: Checkpoint) -> None:
    name, store = trained.recipe.name, work.study.store
    if not store.exists(weights_file(name)):
        store.write_bytes(weights_file(name), trained.to_bytes())
    described = {"recipe": trained.recipe.to_json(), "report": trained.report}
    _share(work, name, trained.network(), trained.fingerprint, **described)


def _share(work: _Work, name: str, network: nn.Module, fingerprint: str, **described: Any) -> None:
    models = work.study.manifest["models"]
    if models.get(name, {}).get("fingerprint", fingerprint) != fingerprint:
        raise UserError(
            f"model {name!r} is another than when the study in {work.study.store.uri!r} began; "
            "choose another --out, or bring that model back."
        )
    models[name] = {"fingerprint": fingerprint, **described}
    work.fingerprints[name] = fingerprint
    work.pool.share(f"model {name}", network)


def _attack_and_evaluate(work: _Work, on_progress: Callable[[dict[str, int]], None]) -> bool:
    """Attack every shard that is not there yet; as each is there, show it to every model that has not seen it.

    Returns whether there was anything to do.
    """
    plan, config, store = work.plan, work.plan.config, work.study.store
    work.pool.share("dataset", plan.attacked)
    starts = range(0, config.examples, config.shard_size)
    shards = {start: Shard(store.uri, start, config.shard_size, config.seed) for start in starts}
    content = {start: plan.attacked.subset(slice(start, start + config.shard_size)).fingerprint for start in starts}
    held = store.keys("examples") | store.keys("predictions")
    dependents = {
        name: [name, *(control for control in plan.controls if controls.attacked_model(control) == name)]
        for name in plan.models
    }

    def attack_key(source: str, start: int) -> str:
        decisive = plan.attack_settings, config.attack, config.target, config.seed
        return address("attack", work.fingerprints[source], content[start], *decisive)

    def evaluation(source: str, start: int) -> list[Unit]:
        attacked = controls.attacked_model(source) if source in plan.controls else source
        origin = attack_key(attacked, start) if attacked else content[start]
        keys = {
            target: address("evaluate", source, config.seed, origin, work.fingerprints[target])
            for target in plan.models
        }
        missing = {t: key for t, key in keys.items() if held.get(predictions_part(source, t, start)) != key}
        return [EvaluateUnit(shards[start], source, attacked, missing)] if missing else []

    def evaluations_of(attacked: str, start: int) -> list[Unit]:
        return [unit for source in dependents[attacked] for unit in evaluation(source, start)]

    units: list[Unit] = []
    for start in starts:
        for source in plan.models:
            key = attack_key(source, start)
            if held.get(examples_part(source, start)) == key:
                units += evaluations_of(source, start)
            else:
                units.append(AttackUnit(shards[start], source, config.attack, config.target, key, plan.reuse))
        for control in plan.controls:
            if controls.attacked_model(control) is None:
                units += evaluation(control, start)

    totals = {"attacked": len(starts) * len(plan.models), "evaluated": len(starts) * len(work.study.sources)}
    to_attack = [unit for unit in units if isinstance(unit, AttackUnit)]
    to_evaluate = len(units) - len(to_attack) + sum(len(dependents[unit.source]) for unit in to_attack)
    done = {"attacked": totals["attacked"] - len(to_attack), "evaluated": totals["evaluated"] - to_evaluate}
    with Stage("attacking", sum(totals.values()), done=sum(done.values())) as stage:

        def follow(unit: Unit, _answer: Any) -> Iterable[Unit]:
            done["attacked" if isinstance(unit, AttackUnit) else "evaluated"] += 1
            stage.advance(unit.name)
            on_progress(done)
            return evaluations_of(unit.source, unit.shard.start) if isinstance(unit, AttackUnit) else ()

        _require_success(work.pool.run(units, follow, on_status=stage.say), work.study)
    return bool(units)


def _require_success(failures: list[Failure], study: Study) -> None:
    if failures:
        first = failures[0]
        raise UserError(
            f"{len(failures)} unit{'s' * (len(failures) > 1)} of work failed, the first being {first.unit.name!r} "
            f"({first.reason}); the finished ones are kept in {study.store.uri!r}: run the same command again "
            "once the cause is gone."
        )
