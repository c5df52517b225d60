"""Sweeps over architectures: what is kept, what is not done twice, and their models in another study."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from advlab import models
from advlab.command import CommonOptions
from advlab.data import Dataset
from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.errors import UserError
from advlab.models import Checkpoint
from advlab.store import Study
from advlab.studies.architectures import plan as architectures_plan
from advlab.studies.architectures import show, trials
from advlab.studies.architectures import study as architectures_study
from advlab.studies.architectures.plan import ArchitecturesConfig
from advlab.studies.architectures.study import Architectures
from advlab.studies.transfer.plan import TransferConfig
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.study import TransferMatrix

CONFIG = ArchitecturesConfig(
    architectures="softmax,relu8-10", decays="1e-2,1e-4", epochs=1, max_iterations=4, examples=20
)
POOL = PoolOptions(actors=1)
NAMES = ["softmaxλ1e-4#0", "softmaxλ1e-2#0", "relu8-10λ1e-2#0"]


def run(config: ArchitecturesConfig, out: Path, on_progress: OnProgress = lambda _: None) -> TransferStudy:
    architectures = Architectures(settings=config, common=CommonOptions(out=str(out)), pool=POOL)
    plan = architectures.prepare()
    # three trials are enough
    plan = replace(plan, points=plan.points and [point for point in plan.points if point.name in NAMES])
    study = architectures.begin(plan)
    architectures.run(plan, study, None, on_progress)
    return study


@pytest.fixture(scope="module")
def sweep(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> TransferStudy:  # noqa: ARG001
    heard: list[dict[str, Any]] = []
    study = run(CONFIG, tmp_path_factory.mktemp("sweep"), on_progress=heard.append)
    assert [numbers["trials"] for numbers in heard] == [1, 2, 3]
    return study


def test_every_trial_has_a_row_and_a_model_that_bears_it_out(sweep: TransferStudy, mnist_train: Dataset) -> None:
    rows = trials.read(sweep.store)
    assert [row["trial"] for row in rows] == NAMES
    validation = mnist_train.subset(slice(50_000, None))
    for row in rows:
        made = Checkpoint.from_bytes(sweep.store.read_bytes(row["checkpoint"]))
        assert made.fingerprint == row["fingerprint"] == sweep.fingerprints[row["trial"]]
        assert json.loads(row["recipe"]) == made.recipe.to_json()
        assert (made.recipe.name, made.recipe.split, made.recipe.seed) == (row["trial"], "fit", row["seed"])
        assert row["validation_error"] == models.error_rate(made.network(), validation.images, validation.labels)
        assert 0.05 < row["validation_error"] < 0.6
        assert (row["status"], row["attacked"], row["attack_success_rate"]) == ("finished", 20, 1.0)
        assert row["mean_rms"] == pytest.approx(row["mean_l2"] / 28)
        assert row["seconds"] > row["training_seconds"] > 0
    assert [row["epochs"] for row in rows] == [None, None, 1]
    assert rows[0]["iterations"] == 4
    assert sweep.manifest["finished"]
    assert show.table(sweep).row_count == 3
    assert show.figure(sweep).startswith(b"\x89PNG")


def test_a_finished_sweep_is_not_computed_again(sweep: TransferStudy) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_ino for path in Path(sweep.store.root).rglob("*") if path.is_file()}

    before = files()
    run(CONFIG, Path(sweep.store.root))
    assert files() == before


def test_what_is_lost_is_made_again_and_nothing_else(sweep: TransferStudy) -> None:
    rows = trials.read(sweep.store)
    kept, lost = (sweep.store.path(row["checkpoint"]) for row in rows[:2])
    before = Path(kept).stat().st_ino, Path(lost).stat().st_ino
    Path(lost).unlink()
    sweep.store.delete(trials.TRIALS)
    sweep.manifest["finished"] = None  # as a driver leaves it that is killed late
    sweep.save_manifest()
    trials.write(sweep.store, rows[1:2])  # the row of the lost model
    heard: list[dict[str, Any]] = []
    study = run(CONFIG, Path(sweep.store.root), on_progress=heard.append)
    assert Path(kept).stat().st_ino == before[0]
    assert Path(lost).exists()
    assert len(heard) == 1
    again = trials.read(study.store)
    assert [row["fingerprint"] for row in again] == [row["fingerprint"] for row in rows]
    assert study.manifest["finished"]
    assert study.manifest["resumed"]


def test_its_models_go_into_a_transfer_matrix_by_one_name(sweep: TransferStudy, tmp_path: Path) -> None:
    config = TransferConfig(
        models=f"study:{sweep.store.uri},softmax1e-2", split="test", examples=10, controls="shuffled",
        attack="minimum-norm", target="nearest",
    )  # fmt: skip
    for _ in range(2):  # the second time finds everything there
        matrix = TransferMatrix(settings=config, common=CommonOptions(out=str(tmp_path / "matrix")))
        plan = matrix.prepare()
        study = matrix.begin(plan)
        with ActorPool(POOL, elastic=False) as pool:
            matrix.run(plan, study, pool, lambda _: None)
    assert study.targets == [*NAMES, "softmax1e-2"]
    assert {name: study.fingerprints[name] for name in NAMES} == sweep.fingerprints
    rows = study.matrix().to_pylist()
    assert len(rows) == 4 * 8
    assert all(row["error_rate"] == 1 for row in rows if row["source"] == row["target"])
    assert f"--models study:{sweep.store.uri},softmax1e-2" in study.command
    assert show.figure(sweep, study) != show.figure(sweep)


@pytest.mark.usefixtures("local_ray")
def test_optuna_with_asha_does_as_many_trials_as_asked_for(tmp_path: Path) -> None:
    config = replace(CONFIG, search="optuna", trials=4, scheduler="asha", max_iterations=20, seeds=2, per_layer=True)
    rows = trials.read(run(config, tmp_path / "out").store)
    assert len({row["trial_id"] for row in rows}) == 4
    assert {row["status"] for row in rows} <= {"finished", "stopped"}
    decays = np.concatenate([row["weight_decay"] for row in rows])
    assert ((decays >= 1e-4) & (decays <= 1e-2)).all()


@pytest.mark.usefixtures("local_ray")
def test_trials_that_fail_are_reported_in_a_sentence_and_done_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architectures_study.provenance, "code", lambda: "another version")
    monkeypatch.setattr("advlab.engine.tune.ATTEMPTS_AFTER_LOSS", 0)
    with pytest.raises(UserError, match=r"3 of 3 trials failed.*another version of advlab.*run the same command again"):
        run(CONFIG, tmp_path / "out")
    assert {row["status"] for row in trials.read(Study.open(str(tmp_path / "out")).store)} == {"failed"}
    monkeypatch.undo()
    assert {row["status"] for row in trials.read(run(CONFIG, tmp_path / "out").store)} == {"finished"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": "resnet18"}, "unknown architecture 'resnet18'; choose softmax"),
        ({"architectures": ""}, "--architectures names none"),
        ({"architectures": "fc5-9"}, "has 9 outputs"),
        ({"decays": "1e-4,0"}, "--decays: '0' is not a λ greater than 0"),
        ({"decays": "-1e-4"}, "'-1e-4' is not a λ"),
        ({"decays": "inf"}, "'inf' is not a λ"),
        ({"decays": "much"}, "'much' is not a λ"),
        ({"decays": ""}, "--decays names none"),
        ({"decays": "1", "search": "random"}, "not a range to draw from"),
        ({"search": "bayes"}, "unknown search 'bayes'; choose among grid, random, optuna"),
        ({"trials": 3}, "--trials 3 is only for random and optuna"),
        ({"trials": 0, "search": "random"}, "--trials 0 is impossible"),
        ({"seeds": 0}, "--seeds 0 is impossible"),
        ({"epochs": 0}, "--epochs 0"),
        ({"max_iterations": 0}, "--max-iterations 0"),
        ({"examples": 10_001}, "--examples 10001 is impossible: mnist has 10000 validation images"),
        ({"seed": -1}, "--seed -1"),
        ({"depths": "1"}, "--depths and --widths belong together"),
        ({"depths": "0", "widths": "5"}, "--depths '0' is not a number of at least 1"),
        ({"depths": "1", "widths": "5", "activations": "gelu"}, "unknown activation 'gelu'"),
        ({"dataset": "cifar"}, "'cifar'"),
    ],
    ids=lambda value: " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else None,
)
def test_impossible_settings_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        architectures_plan.prepare(replace(CONFIG, **changes))


@pytest.mark.usefixtures("local_ray")
def test_a_trial_that_fits_no_machine_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = Architectures(settings=CONFIG, common=CommonOptions(out=str(out)), pool=PoolOptions(num_gpus=64))
    assert ray.is_initialized()
    with pytest.raises(UserError, match="fits this machine"):
        options.execute()
    assert not out.exists()
