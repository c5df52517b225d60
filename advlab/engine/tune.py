"""Common settings of all uses of Ray Tune: no output and no log files of its own.

Tune resumes from pickles, which could run code of whoever wrote the folder. They are never read: finished trials are in
the rows and models of the study, and Tune is started with the others only.
"""

import logging
import os
import uuid
from pathlib import Path
from typing import Any, ClassVar, Protocol

import optuna
from ray import tune

from advlab import data
from advlab.engine.actors import PoolOptions
from advlab.store import Study

ATTEMPTS_AFTER_LOSS = 2
"""How often Tune restarts a trial whose worker or machine was lost."""
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: results are in Parquet
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # intermediate reports may lack a metric
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends this command like the others
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # seconds between writing state that is never read
    "RAY_AIR_NEW_OUTPUT": "0",
}


class Journal(Protocol):
    """The receiver of the trials' reports."""

    def heard(self, trial: Any, result: dict[str, Any]) -> None:
        """A trial reported."""

    def ended(self, trial: Any, failed: bool) -> None:
        """A trial will not report any more."""


def be_quiet() -> None:
    """Silence Tune; to be called before a ``Tuner`` is made. The caller reports errors."""
    os.environ.update(_SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def notes_folder(study: Study, name: str) -> Path:
    """A new folder for Tune: in the study's folder, or in the cache of this machine if that is remote."""
    study.store.require_own("tune")
    cached = data.cache_dir() / "tune" / study.manifest["identity"][:16]
    return (Path(study.store.path("tune")) if study.store.is_local else cached) / f"{name}-{uuid.uuid4().hex[:8]}"


def warmed(space: Any, objectives: dict[str, str], known: list[optuna.trial.FrozenTrial], seed: int) -> dict[str, Any]:
    """Arguments of ``OptunaSearch`` for a search that continues from known trials.

    ``objectives`` has ``min`` or ``max`` by metric; ``seed`` is that of the first command: a continued search draws
    other points.
    """
    storage, name = optuna.storages.InMemoryStorage(), "advlab"
    to = {"min": optuna.study.StudyDirection.MINIMIZE, "max": optuna.study.StudyDirection.MAXIMIZE}
    directions = [to[mode] for mode in objectives.values()]
    optuna.create_study(storage=storage, study_name=name, directions=directions).add_trials(known)
    many = len(objectives) > 1
    metric, mode = (list(names) if many else next(iter(names)) for names in (objectives, objectives.values()))
    search = {"space": space, "metric": metric, "mode": mode}
    return search | {"storage": storage, "study_name": name, "seed": seed + len(known)}


def tuner(
    trainable: Any,
    folder: Path,
    options: PoolOptions,
    journal: Journal,
    *,
    param_space: dict[str, Any] | None = None,
    **search: Any,
) -> tune.Tuner:
    """Tune's driver of trials of the size that ``options`` give; its state goes to ``folder``, see ``notes_folder``.

    ``search`` is the number of samples, the search algorithm, the scheduler and so on, see ``TuneConfig``.
    """
    Listener.journal = journal
    demand = {name.lower(): amount for name, amount in options.demand.items()}
    return tune.Tuner(
        tune.with_resources(trainable, demand),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=options.actors,
            trial_dirname_creator=lambda trial: str(trial.trial_id),  # Tune's own name contains all settings
            reuse_actors=True,
            **search,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=ATTEMPTS_AFTER_LOSS),
            callbacks=[Listener()],
        ),
    )


class Listener(tune.Callback):
    """Tells the journal what happens to trials; Tune pickles it to its notes, so it holds nothing itself."""

    journal: ClassVar[Journal]

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        self.journal.heard(trial, result)

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self.journal.ended(trial, failed=False)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self.journal.ended(trial, failed=True)
