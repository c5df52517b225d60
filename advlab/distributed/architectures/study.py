"""A sweep over architectures, weight decays and seeds by Ray Tune, and what is kept of it.

Tune decides what runs where and keeps notes for going on; what a trial found lies in the study's folder: its model with
all measurements in ``models/``, and a row in ``trials.parquet``. So a trial is done when its model is there, whatever
Tune's notes say.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from advlab.distributed.architectures.journal import Journal, Listener
from advlab.distributed.architectures.plan import ArchitecturesConfig, ArchitecturesPlan
from advlab.distributed.architectures.trial import PERCENT, TrialSettings, run_trial
from advlab.distributed.arrays import Arrays
from advlab.distributed.crew import Crew, PoolOptions
from advlab.distributed.tune import be_quiet, notes_folder, tuner
from advlab.models.search import Point
from advlab.results import Study, provenance

OBJECTIVES = {"validation_error": "min", "mean_rms": "max"}


def begin(plan: ArchitecturesPlan, out: str | None) -> Study:
    """Start a sweep, or continue it where ``out`` holds part of it.

    Raises:
        UserError: a folder that cannot be used.
    """
    return Study.begin("architectures", plan.settings, out)


def run(
    plan: ArchitecturesPlan,
    study: Study,
    pool: PoolOptions,
    *,
    elastic: bool,
    on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Do the trials that are not done yet; Ray must be connected.

    Args:
        plan: what the study was begun with.
        study: where it lies.
        pool: size of a trial; ``actors`` is the most trials at a time.
        elastic: whether machines can join.
        on_progress: told the numbers of each trial as it finishes.

    Returns:
        The rows of all trials.

    Raises:
        UserError: no trial fits the machine, or trials failed; the others are done and kept.
    """
    Crew(pool, elastic=elastic)  # says so if not one fits
    be_quiet()  # what goes wrong is told below
    journal = Journal(plan, study, on_progress)
    if study.manifest["finished"] is None:
        if journal.rows:
            study.manifest.setdefault("resumed", []).append(provenance.describe(sys.argv))
            study.save_manifest()
        with journal.following("trials", plan.total, journal.done):
            _tuner(plan, study, pool).fit()
    if lost := journal.forget_lost():  # Tune takes them for done
        with journal.following("lost models", len(lost)):
            _tuner(plan, study, pool, lost).fit()
    journal.conclude()
    return journal.rows


def _tuner(plan: ArchitecturesPlan, study: Study, pool: PoolOptions, again: list[Point] | None = None) -> tune.Tuner:
    """Tune's own driver, where it was when it was killed; a new one for the points to be done ``again``."""
    settings = TrialSettings(
        store=study.store.uri,
        code=provenance.code(),
        epochs=plan.config.epochs,
        max_iterations=plan.config.max_iterations,
        examples=plan.config.examples,
        threads=max(1, int(pool.num_cpus)),
        use_gpu=pool.num_gpus > 0,
    )
    images = {split: Arrays.of(dataset) for split, dataset in plan.images.items()}
    trainable = tune.with_parameters(run_trial, settings=settings, images=images)
    name = "sweep" if again is None else f"again-{uuid.uuid4().hex[:8]}"
    points = plan.points if again is None else again
    searcher = None
    if points is None:
        metrics, modes = list(OBJECTIVES), list(OBJECTIVES.values())
        searcher = _Optuna(space=plan.space.suggest, metric=metrics, mode=modes, seed=plan.config.seed)
    return tuner(
        trainable,
        notes_folder(study) / name,
        pool,
        Listener(),
        param_space=None if points is None else {"point": tune.grid_search([asdict(point) for point in points])},
        num_samples=plan.total if points is None else 1,
        search_alg=searcher,
        scheduler=_scheduler(plan.config) if again is None else None,
    )


def _scheduler(config: ArchitecturesConfig) -> AsyncHyperBandScheduler | None:
    """Successive halving by thirds (Li et al. 2020); the share of its budget is a trial's time."""
    if config.scheduler == "none":
        return None
    return AsyncHyperBandScheduler(
        time_attr=PERCENT, metric="validation_error", mode="min", grace_period=10, max_t=100, reduction_factor=3
    )


class _Optuna(OptunaSearch):
    """Tune's link to Optuna; trials given up before their distortion was measured count as pruned."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        whole = result is not None and result.get("mean_rms") is not None
        super().on_trial_complete(trial_id, result if whole else None, error)
