"""Ray Tune goes on from the rows of a study, without a cluster: what it is asked to do, and what Optuna knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from advlab.data import Dataset
from advlab.hardening.settings import Settings, variant
from advlab.store import Study
from advlab.studies.adversarial_training import tuning
from advlab.studies.architectures import study as architectures_study
from advlab.studies.architectures import trials
from advlab.studies.architectures.journal import Journal
from advlab.studies.architectures.plan import ArchitecturesConfig, ArchitecturesPlan
from advlab.studies.architectures.space import Point, Space

SPACE = Space({"softmax": 1, "relu8-10": 2}, (1e-4, 1e-2), per_layer=True, seeds=(0, 1))


def plan(search: str, dataset: Dataset) -> ArchitecturesPlan:
    config = ArchitecturesConfig(search=search, trials=5, epochs=1, examples=1)
    points = None if search == "optuna" else SPACE.random(5, 0)
    return ArchitecturesPlan(
        config, {"trials": 5}, SPACE, dict.fromkeys(("fit", "validation", "test"), dataset), points
    )


def row(point: Point, status: str, error: float | None = 0.1, rms: float | None = 0.2) -> dict[str, Any]:
    return {
        "trial": point.name, "architecture": point.architecture, "weight_decay": list(point.decays),
        "seed": point.seed, "status": status, "validation_error": error, "mean_rms": rms, "checkpoint": None,
    }  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The trials that Tune is asked for."""
    calls: list[Any] = []

    def note(_journal: Any, _pool: Any, wanted: Any, **search: Any) -> Any:
        calls.append((wanted, search))
        return SimpleNamespace(fit=lambda: None)

    monkeypatch.setattr(architectures_study, "_tuner", note)
    monkeypatch.setattr(Journal, "conclude", lambda _: None)
    return calls


def run(made: ArchitecturesPlan, out: Path, rows: list[dict[str, Any]]) -> None:
    study = Study.begin("architectures", {"seed": 0}, str(out))
    trials.write(study.store, rows)
    architectures_study.Architectures().run(made, study, None, lambda _: None)


def test_points_without_a_result_are_asked_for(asked: list[Any], tmp_path: Path, mnist_test: Dataset) -> None:
    made = plan("random", mnist_test)
    assert made.points is not None
    one, two, three, *others = made.points
    run(made, tmp_path, [row(one, "stopped", rms=None), row(two, "stopped"), row(three, "failed")])
    ((wanted, _),) = asked
    assert wanted == [three, *others]


def test_optuna_is_asked_for_what_is_missing_and_knows_the_rest(
    asked: list[Any], tmp_path: Path, mnist_test: Dataset
) -> None:
    one, two, three, *_ = SPACE.random(5, 0)
    rows = [row(one, "stopped", rms=None), row(two, "failed"), row(three, "stopped")]
    run(plan("optuna", mnist_test), tmp_path, rows)
    (failed, _), (count, search) = asked
    assert failed == [two]
    assert count == 3
    point = search["search_alg"].suggest("a")["point"]
    assert 1e-4 <= min(point["decays"]) <= max(point["decays"]) <= 1e-2


def test_what_is_known_of_trials_is_what_their_rows_say(mnist_test: Dataset) -> None:
    one, two, *_ = SPACE.random(5, 0)
    rows = [row(one, "finished", 0.1, 0.3), row(two, "stopped", 0.4, None)]
    known = architectures_study._optuna(plan("optuna", mnist_test), rows)._ot_study.trials
    assert [trial.state for trial in known] == [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]
    assert known[0].values == [0.1, 0.3]
    assert known[0].params == SPACE.answers(one)
    fresh, later = (architectures_study._optuna(plan("optuna", mnist_test), kept) for kept in ([], rows))
    assert fresh.suggest("a") != later.suggest("a")  # other points than those drawn before


def test_answers_come_to_their_point_again() -> None:
    for space in (SPACE, replace(SPACE, per_layer=False)):
        for point in space.random(6, 1):
            fixed = optuna.trial.FixedTrial(space.answers(point), number=point.seed)
            assert space.suggest(fixed)["point"]["decays"] == point.decays


def test_tuning_goes_on_from_its_rows() -> None:
    space = tuning.Space(variant("layer-1", Settings()))
    points = [dict.fromkeys(space.sample(), 0.2) | {"learning_rate": 2e-3, "weight_decay": 1e-4} for _ in range(2)]
    rows = [point | {"epochs": 3, tuning.METRIC: 0.1} for point in points]
    search = tuning._optuna(space, rows)
    assert [(trial.value, trial.params) for trial in search._ot_study.trials] == [(0.1, point) for point in points]
    assert set(search.suggest("a")) == set(space.sample())
