"""What every use of Ray Tune has in common: it says nothing of its own and writes none of its own logs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import optuna
from ray import tune

from advlab import data
from advlab.distributed.crew import PoolOptions
from advlab.results import Study

ATTEMPTS_AFTER_LOSS = 2
"""How often Tune begins a trial anew whose worker or machine was lost."""

_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: results lie in Parquet
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # reports on the way may lack a metric
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends this command as it ends the others
    "TUNE_GLOBAL_CHECKPOINT_S": "2",  # seconds of a search's notes that a killed driver loses
    "RAY_AIR_NEW_OUTPUT": "0",
}


def be_quiet() -> None:
    """To be called before a ``Tuner`` is made; what goes wrong is for the caller to tell."""
    os.environ.update(_SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def notes_folder(study: Study) -> Path:
    """Where Tune keeps its notes: in the study's folder, or, where that is remote, in the cache of this machine."""
    if study.store.is_local:
        return Path(study.store.path("tune"))
    return data.cache_dir() / "tune" / study.manifest["identity"][:16]


def tuner(
    trainable: Any,
    folder: Path,
    options: PoolOptions,
    listener: tune.Callback,
    *,
    param_space: dict[str, Any] | None,
    **search: Any,
) -> tune.Tuner:
    """Tune's own driver, where it was when it was killed; a new one where ``folder`` holds no notes.

    Args:
        trainable: what a trial does.
        folder: of the notes; a new driver begins it.
        options: CPUs and GPUs of a trial, and how many at a time.
        listener: told of trials.
        param_space: see Tune.
        search: number of samples, search algorithm, scheduler and so on, see ``TuneConfig``.
    """
    demand = {name.lower(): amount for name, amount in options.demand.items()}
    sized = tune.with_resources(trainable, demand)
    if tune.Tuner.can_restore(folder):
        return tune.Tuner.restore(str(folder), sized, resume_unfinished=True, restart_errored=True)
    return tune.Tuner(
        sized,
        param_space=param_space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=options.actors, trial_dirname_creator=_trial_folder, reuse_actors=True, **search
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=ATTEMPTS_AFTER_LOSS),
            callbacks=[listener],
        ),
    )


def _trial_folder(trial: Any) -> str:
    """The name of a trial's folder there; Tune's own would hold all its settings."""
    return str(trial.trial_id)
