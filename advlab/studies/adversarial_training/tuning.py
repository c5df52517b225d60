"""The search for a variant's settings by Ray Tune, on the validation split only."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
import pyarrow as pa
import torch
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from advlab.data import Dataset
from advlab.engine.actors import PoolOptions
from advlab.engine.progress import OnProgress, Stage
from advlab.engine.shared_dataset import SharedDataset
from advlab.engine.tune import be_quiet, notes_folder, tuner, warmed
from advlab.errors import UserError
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import Alternating, Trainer
from advlab.models import error_rate
from advlab.store import Store, Study

METRIC = "validation_error"


@dataclass(frozen=True, slots=True)
class Space:
    """The search space of a variant: rates on a logarithmic scale, and sizes and weights of the levels in use.

    In a variant without adversarial examples, a weight decay or dropout of 0 stays 0, so that it matches its name.
    """

    settings: Settings

    def sample(self) -> dict[str, Any]:
        """The space in Tune's format."""
        adversarial = bool(self.settings.levels or self.settings.virtual)
        space = {"learning_rate": tune.loguniform(1e-3, 8e-3)}
        if adversarial or self.settings.weight_decay:
            space["weight_decay"] = tune.loguniform(1e-6, 1e-3)
        if self.settings.network is None and (adversarial or self.settings.dropout):
            space["dropout"] = tune.uniform(0.0, 0.3)
        for level in self.settings.levels:
            space[f"size_{level}"] = tune.loguniform(0.02, 0.3)
            space[f"mixing_{level}"] = tune.uniform(0.2, 2.0)
        if self.settings.virtual:
            space["virtual"] = tune.loguniform(0.02, 0.3)
        return space

    def settle(self, point: dict[str, float]) -> Settings:
        """The settings of a point of the space."""
        sizes, mixing = list(self.settings.sizes), list(self.settings.mixing)
        for level in self.settings.levels:
            sizes[level], mixing[level] = point[f"size_{level}"], point[f"mixing_{level}"]
        names = ("learning_rate", "weight_decay", "dropout", "virtual")
        rates: dict[str, Any] = {name: point.get(name, 0.0) for name in names}
        return replace(self.settings, sizes=tuple(sizes), mixing=tuple(mixing), **rates)


def choose(
    study: Study,
    variants: dict[str, Settings],
    trials: int,
    options: PoolOptions,
    images: dict[str, Dataset],
    on_progress: OnProgress,
) -> None:
    """Try ``trials`` settings of each variant; those with the smallest validation error are stored in the manifest.

    A trial trains with seed 0 on the training images without the last 10,000, and is evaluated on these; it is stopped
    early if others were better after as many epochs (successive halving, Li et al. 2020). The search is Optuna's
    tree-structured Parzen estimator (Bergstra et al. 2011). A killed search resumes with the unfinished trials.

    Writes ``tuning/variant=….parquet``, one row per trial: its point, ``epochs`` and ``validation_error``. Raises a
    UserError when no trial of a variant finished.
    """
    be_quiet()
    shared = {split: SharedDataset.of(dataset) for split, dataset in images.items()}
    chosen = study.manifest.setdefault("chosen", {})
    for name, settings in variants.items():
        if name in chosen:
            continue
        space, epochs = Space(settings), settings.epochs
        trainable = tune.with_parameters(_trial, space=space, images=shared, threads=max(1, int(options.num_cpus)))
        patience = max(1, epochs // 5)
        scheduler = AsyncHyperBandScheduler("epochs", grace_period=patience, max_t=epochs, reduction_factor=3)
        file = f"tuning/variant={name}.parquet"
        rows: list[dict[str, Any]] = study.store.read_shard(file).to_pylist() if study.store.exists(file) else []
        folder = notes_folder(study, name)
        with Stage(f"tuning {name}", trials, done=min(len(rows), trials)) as stage:
            journal = _Journal(stage, name, epochs, on_progress, study.store, file, rows)
            if len(rows) < trials:
                search: dict[str, Any] = {"search_alg": _optuna(space, rows), "scheduler": scheduler}
                search |= {"metric": METRIC, "mode": "min", "num_samples": trials - len(rows)}
                tuner(trainable, folder, options, journal, **search).fit()
        whole = [row for row in rows if row["epochs"] == epochs]
        if not whole:
            raise UserError(f"no trial of {name!r} finished; see {folder} for the errors.")
        chosen[name] = _point(min(whole, key=lambda row: row[METRIC]))
        study.save_manifest()


def settled(study: Study, name: str, settings: Settings) -> Settings:
    """The settings of a variant in a study: the tuned ones if there are any, else the given ones."""
    chosen = study.manifest.get("chosen", {})
    return Space(settings).settle(chosen[name]) if name in chosen else settings


def _optuna(space: Space, rows: list[dict[str, Any]]) -> OptunaSearch:
    """A search initialised with the results of earlier commands."""
    distributions = OptunaSearch.convert_search_space(space.sample())
    make = partial(optuna.trial.create_trial, distributions=distributions)
    known = [make(value=row[METRIC], params=_point(row)) for row in rows]
    return OptunaSearch(**warmed(distributions, {METRIC: "min"}, known, 0))


def _point(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key not in ("epochs", METRIC)}


def _trial(config: dict[str, float], *, space: Space, images: dict[str, SharedDataset], threads: int) -> None:
    """Train with the settings of a point; reports the validation error after each epoch."""
    torch.set_num_threads(threads)
    validation = images["validation"].dataset()
    trainer = Trainer(space.settle(config), images["fit"].dataset(), seed=0, source=Alternating())
    for epoch in range(1, trainer.settings.epochs + 1):
        trainer.run(trainer.steps_per_epoch)
        trainer.network.eval()
        tune.report({"epochs": epoch, METRIC: error_rate(trainer.network, validation.images, validation.labels)})


@dataclass(frozen=True, slots=True)
class _Journal:
    """Writes the results of a variant's trials, and tells of them."""

    stage: Stage
    variant: str
    epochs: int
    on_progress: OnProgress
    store: Store
    file: str
    rows: list[dict[str, Any]]

    def heard(self, trial: Any, result: dict[str, Any]) -> None:  # noqa: ARG002
        error = f"validation error {100 * result[METRIC]:.2f}%"
        self.stage.say(f"epoch {result['epochs']} of {self.epochs}, {error}")

    def ended(self, trial: Any, failed: bool) -> None:
        if failed:
            return
        found = {key: trial.last_result[key] for key in ("epochs", METRIC)}
        self.rows.append({**trial.config, **found})
        self.store.write_table(self.file, pa.Table.from_pylist(self.rows))
        self.stage.advance(f"validation error {100 * found[METRIC]:.2f}% after {found['epochs']} epochs")
        self.on_progress({f"tuning/{self.variant}/{METRIC}": found[METRIC]})
