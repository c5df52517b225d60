"""The study of architectures, weight decays and seeds by Ray Tune.

Tune schedules the trials; their results are in the study's folder: models with all measurements in ``models/``, and
rows in ``trials.parquet``. So a trial is done if its row and its model exist, and a sweep resumes from these only.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from advlab.command import CommonOptions
from advlab.engine.actors import Actors, PoolOptions
from advlab.engine.progress import OnProgress, Stage
from advlab.engine.shared_dataset import SharedDataset
from advlab.engine.tune import be_quiet, notes_folder, tuner, warmed
from advlab.store import Study, provenance
from advlab.studies.architectures import show as presentation
from advlab.studies.architectures.journal import Journal, point_of
from advlab.studies.architectures.plan import ArchitecturesConfig, ArchitecturesPlan, prepare
from advlab.studies.architectures.space import Point
from advlab.studies.architectures.trials import FINISHED
from advlab.studies.architectures.work import PERCENT, run_trial
from advlab.studies.experiment import Experiment

OBJECTIVES = {"validation_error": "min", "mean_rms": "max"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architectures(Experiment[ArchitecturesPlan, Study, None]):
    """Sweep architectures × weight decay × seeds by Ray Tune: validation error and minimum distortion of each model."""

    kind = "architectures"

    settings: ArchitecturesConfig = field(default_factory=ArchitecturesConfig)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    def prepare(self) -> ArchitecturesPlan:
        return prepare(self.settings)

    def workers(self, plan: ArchitecturesPlan) -> AbstractContextManager[None]:  # noqa: ARG002
        Actors(self.pool, elastic=self.elastic)  # raises if no trial fits; Tune starts its own actors
        return nullcontext()

    def begin(self, plan: ArchitecturesPlan) -> Study:
        return Study.begin(self.kind, plan.settings, self.common.out)

    def run(self, plan: ArchitecturesPlan, study: Study, workers: None, on_progress: OnProgress) -> None:  # noqa: ARG002
        be_quiet()  # errors are reported below
        journal = Journal(plan, study, on_progress)
        if study.manifest["finished"] is None:
            with Stage("trials", plan.total, done=min(journal.done, plan.total)) as journal.stage:
                if todo := journal.not_done():
                    _tuner(journal, self.pool, todo, scheduler=_scheduler(plan.config)).fit()
                if plan.points is None and (count := plan.total - journal.done) > 0:
                    searcher = _optuna(plan, journal.rows)
                    _tuner(journal, self.pool, count, scheduler=_scheduler(plan.config), search_alg=searcher).fit()
        if lost := journal.forget_lost():
            with Stage("lost models", len(lost)) as journal.stage:
                _tuner(journal, self.pool, lost).fit()
        journal.conclude()

    show = staticmethod(presentation.show)


class _Optuna(OptunaSearch):
    """Tune's link to Optuna; trials stopped before their distortion was measured count as pruned."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        whole = result is not None and result.get("mean_rms") is not None
        super().on_trial_complete(trial_id, result if whole else None, error)


def _tuner(journal: Journal, pool: PoolOptions, trials: list[Point] | int, **search: Any) -> tune.Tuner:
    """Tune's driver for given points, or for a number of points chosen by ``search_alg``."""
    plan, study, threads = journal.plan, journal.study, max(1, int(pool.num_cpus))
    images = {split: SharedDataset.of(dataset) for split, dataset in plan.images.items()}
    given: dict[str, Any] = {"out": study.store.uri, "code": provenance.code(), "settings": plan.config}
    given |= {"threads": threads, "use_gpu": pool.num_gpus > 0, "images": images}
    trainable = tune.with_parameters(run_trial, **given)
    if isinstance(trials, int):
        search["num_samples"] = trials
    else:
        search["param_space"] = {"point": tune.grid_search([asdict(point) for point in trials])}
    return tuner(trainable, notes_folder(study, "sweep"), pool, journal, **search)


def _optuna(plan: ArchitecturesPlan, rows: list[dict[str, Any]]) -> _Optuna:
    """A search initialised with the results of earlier commands."""
    space = plan.space
    chosen = optuna.distributions.CategoricalDistribution(list(space.architectures))
    drawn = optuna.distributions.FloatDistribution(*space.bounds, log=True)
    known = []
    for row in rows:
        answers = space.answers(point_of(row))
        values = [row[metric] for metric in OBJECTIVES]
        whole = row["status"] == FINISHED and None not in values
        known.append(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.PRUNED,
                values=values if whole else None,
                params=answers,
                distributions={name: chosen if name == "architecture" else drawn for name in answers},
            )
        )
    return _Optuna(**warmed(space.suggest, OBJECTIVES, known, plan.config.seed))


def _scheduler(config: ArchitecturesConfig) -> AsyncHyperBandScheduler | None:
    """Successive halving by thirds (Li et al. 2020); the share of its budget is a trial's time."""
    if config.scheduler == "none":
        return None
    return AsyncHyperBandScheduler(
        time_attr=PERCENT, metric="validation_error", mode="min", grace_period=10, max_t=100, reduction_factor=3
    )
