"""``sweeps/adversarial_training.py`` as users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from advlab.distributed.hardening import study as hardening_study
from advlab.distributed.hardening.study import HardeningConfig
from advlab.distributed.hardening.tuning import Space
from advlab.errors import UserError
from advlab.hardening.settings import Settings, variant

REPOSITORY = Path(__file__).parents[2]
SMALL = [
    "--examples", "600", "--epochs", "2", "--batch-size", "100", "--capacity", "200", "--refresh", "50",
    "--distortions", "20", "--snapshot-epochs", "1", "--actors", "1",
]  # fmt: skip


def sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "sweeps/adversarial_training.py"), *SMALL, *arguments]
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)


@pytest.mark.usefixtures("mnist_test")
def test_variants_and_seeds_join_one_study(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = sweep("--variants", "weight-decay,all", "--seeds", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    first = {row["variant"]: row for row in pq.read_table(tmp_path / "out/results.parquet").to_pylist()}
    assert set(first) == {"weight-decay", "all"}
    assert 0 < first["all"]["test_error"] < 0.5
    assert first["all"]["validation_error"] is None
    assert all(first["all"][f"distortion_{level}"] > 0 for level in range(3))
    assert json.loads(first["all"]["settings"])["levels"] == [0, 1, 2]
    assert pq.read_table(tmp_path / "out/curves/variant=all/seed-0000.parquet").num_rows == 2

    done = sweep("--variants", "all", "--seeds", "2", "--out", out)  # resumed: one seed more
    assert done.returncode == 0, done.stderr
    assert "weight-decay" in done.stdout
    assert "95% interval" in done.stdout
    rows = pq.read_table(tmp_path / "out/results.parquet").to_pylist()
    assert [(row["variant"], row["seed"]) for row in rows] == [("all", 0), ("all", 1), ("weight-decay", 0)]
    assert rows[0] == first["all"]

    other = hardening_study.prepare(HardeningConfig(examples=600, training=Settings(learning_rate=0.1)))
    with pytest.raises(UserError, match="holds another study"):
        hardening_study.begin(other, out)


@pytest.mark.slow
@pytest.mark.usefixtures("mnist_test")
def test_a_killed_trainer_goes_on_with_the_pool_it_had(tmp_path: Path) -> None:
    """Everything is killed at once after a snapshot; the row at the end is that of a run left alone, to the bit."""
    arguments = ("--variants", "all", "--seeds", "1", "--epochs", "12", "--out")
    left_alone = sweep(*arguments, str(tmp_path / "alone"))
    assert left_alone.returncode == 0, left_alone.stderr
    newest = tmp_path / "killed/pools/variant=all/seed-0000/newest.json"
    command = [sys.executable, str(REPOSITORY / "sweeps/adversarial_training.py"), *SMALL, *arguments]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], start_new_session=True)
    while not newest.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = json.loads(newest.read_text())["step"]
    assert reached < 72  # 12 epochs of 6 steps: it was in the midst of it
    resumed = sweep(*arguments, str(tmp_path / "killed"))
    assert resumed.returncode == 0, resumed.stderr
    rows = [pq.read_table(tmp_path / name / "results.parquet").to_pylist()[0] for name in ("alone", "killed")]
    for row in rows:
        del row["seconds"], row["cpu_seconds"]
    assert rows[0] == rows[1]
    curves = [pq.read_table(tmp_path / name / "curves/variant=all/seed-0000.parquet") for name in ("alone", "killed")]
    assert curves[0].num_rows == 12
    assert curves[0]["loss"] == curves[1]["loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("mnist_test")
def test_settings_are_tuned_on_validation_before_anything_is_measured(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    arguments = ("--variants", "all", "--seeds", "1", "--tune", "4", "--out", out)
    done = sweep(*arguments)
    assert done.returncode == 0, done.stderr
    trials = pq.read_table(tmp_path / "out/tuning/variant=all.parquet").to_pylist()
    assert len(trials) == 4
    best = min((row for row in trials if row["epochs"] == 2), key=lambda row: row["validation_error"])
    settings = json.loads(pq.read_table(tmp_path / "out/results.parquet")["settings"][0].as_py())
    assert settings["sizes"] == [best[f"size_{level}"] for level in range(3)]
    assert settings["dropout"] == best["dropout"]
    again = sweep(*arguments)
    assert again.returncode == 0
    assert "tuning" not in again.stderr


def test_a_point_of_the_space_settles_the_levels_in_use() -> None:
    space = Space(variant("layer-1", Settings()))
    point = dict.fromkeys(space.sample(), 0.5)
    assert set(point) == {"learning_rate", "weight_decay", "dropout", "size_1", "mixing_1"}
    settled = space.settle(point)
    assert settled.sizes == (0.0, 0.5, 0.0)
    assert settled.mixing == (1.0, 0.5, 1.0)
    assert settled.levels == (1,)


def test_a_baseline_is_tuned_in_what_it_is_about() -> None:
    for name, other in (("weight-decay", "dropout"), ("dropout", "weight_decay")):
        space = Space(variant(name, Settings()))
        assert set(space.sample()) == {"learning_rate", name.replace("-", "_")}
        assert getattr(space.settle(dict.fromkeys(space.sample(), 0.1)), other) == 0


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (HardeningConfig(variants="best"), "unknown variant 'best'"),
        (HardeningConfig(seeds=0), "--seeds 0"),
        (HardeningConfig(frozen=True), "--frozen"),
        (HardeningConfig(variants=" "), "--variants"),
        (HardeningConfig(examples=70_000), "1 to 60000"),
        (HardeningConfig(variants="layer-2", training=Settings(hidden=(50,))), "levels 0 to 1"),
    ],
)
def test_mistakes_are_told_before_any_work(config: HardeningConfig, told: str) -> None:
    with pytest.raises(UserError, match=told):
        hardening_study.prepare(config)
