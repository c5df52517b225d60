"""What every use of Ray Tune has in common: it says nothing of its own and writes none of its own logs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import optuna

from advlab import data
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


def trial_folder(trial: Any) -> str:
    """The name of a trial's folder there; Tune's own would hold all its settings."""
    return str(trial.trial_id)
