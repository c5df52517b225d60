"""``sweeps/adversarial_training.py`` as users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_workers
import pyarrow.parquet as pq
import pytest
import torch

from advlab.command import CommonOptions
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.hardening import snapshots
from advlab.hardening.settings import Settings, variant
from advlab.hardening.trainer import Alternating, Trainer
from advlab.studies.adversarial_training.study import AdversarialTraining, Layout
from advlab.studies.adversarial_training.tuning import Space
from advlab.studies.adversarial_training.work import HardeningConfig

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
@pytest.mark.slow
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

    other = HardeningConfig(examples=600, training=Settings(learning_rate=0.1))
    require_another(other, out)


def require_another(config: HardeningConfig, out: str) -> None:
    other = AdversarialTraining(settings=config, common=CommonOptions(out=out))
    plan = other.prepare()
    with pytest.raises(UserError, match="holds another study"):
        other.begin(plan)


@pytest.mark.usefixtures("mnist_test")
@pytest.mark.slow
def test_a_convolutional_network_of_the_zoo(tmp_path: Path) -> None:
    """Another network is another study; one that is trained already has left a pool to begin with."""
    out, arguments = tmp_path / "out", ("--variants", "layer-1", "--seeds", "1", "--examples", "200")
    done = sweep(*arguments, "--network", "conv", "--out", str(out))
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(out / "results.parquet").to_pylist()
    assert json.loads(row["settings"])["network"] == "conv"
    assert all(row[f"distortion_{level}"] > 0 for level in range(3))
    pool = out / "pools/variant=layer-1/seed-0000"
    maps = pq.read_table(pool / json.loads((pool / "newest.json").read_text())["files"]["1"])
    assert len(maps["image"][0]) == 32 * 24 * 24
    require_another(HardeningConfig(variants="layer-1", examples=200), str(out))
    done = sweep(*arguments, "--pool", str(pool), "--frozen", "--out", str(tmp_path / "other"))
    assert done.returncode == 2
    assert "holds 18432 activations per example at level 1, and --hidden (100, 100) does not" in done.stderr


@pytest.mark.usefixtures("mnist_test")
def test_a_run_that_diverges_is_reported_and_leaves_no_row(tmp_path: Path) -> None:
    done = sweep(
        "--variants", "weight-decay", "--seeds", "1", "--learning-rate", "1e30", "--out", str(tmp_path / "out")
    )
    assert done.returncode == 2
    assert "weight-decay, seed 0: the loss is NaN or infinite in epoch 1; lower --learning-rate" in done.stderr
    assert not (tmp_path / "out/results.parquet").exists()


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
def test_two_workers_share_runs_and_one_is_killed(tmp_path: Path, mnist_train: Dataset) -> None:
    """Killed in the first run: its losses are those of one process all the same; the second leaves a whole pool."""
    arguments = [*SMALL, "--variants", "weight-decay,all", "--seeds", "1", "--epochs", "12", "--workers", "2"]
    checkpoints = tmp_path / "out/train/variant=weight-decay/seed-0000"
    study = killed_workers.run(
        "adversarial_training.py",
        arguments,
        tmp_path / "out",
        lambda: len(list(checkpoints.glob("checkpoint_*"))) >= 2,
    )
    curves = {
        name: study.store.read_table(f"curves/variant={name}/seed-0000.parquet").to_pylist()
        for name in ("weight-decay", "all")
    }
    settings = variant("weight-decay", Settings(epochs=12, batch_size=100, capacity=200, refresh=50))
    alone = Trainer(settings, mnist_train.subset(slice(600)), seed=0, source=Alternating())
    losses = [alone.run(alone.steps_per_epoch)["loss"] for _ in range(12)]
    assert [row["loss"] for row in curves["weight-decay"]] == pytest.approx(losses, rel=1e-3)
    assert [row["epoch"] for row in curves["all"]] == list(range(1, 13))
    assert curves["all"][-1]["loss"] < 0.75 * curves["all"][0]["loss"]
    assert curves["all"][-1]["examples"] == 4 * 600
    rows = {row["variant"]: row for row in study.store.read_table("results.parquet").to_pylist()}
    assert set(rows) == {"weight-decay", "all"}
    assert all(0 < row["test_error"] < 0.5 and row["distortion_2"] > 0 for row in rows.values())
    pool, pointer = snapshots.load(str(tmp_path / "out/pools/variant=all/seed-0000"))
    assert pointer["step"] == 72
    assert [len(held) for held in pool.layers.values()] == [200, 200, 200]
    newest = killed_workers.checkpoints(tmp_path / "out/train/variant=all/seed-0000")[72]
    shards = [torch.load(path, weights_only=True) for path in sorted(newest.glob("shard-*.pt"))]
    assert torch.equal(torch.cat([shard["0.values"] for shard in shards]), pool.layers[0].values)


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
        (HardeningConfig(pool="/nowhere"), "holds no pool: there is no newest.json"),
        (HardeningConfig(variants="best"), "unknown variant 'best'"),
        (HardeningConfig(seeds=0), "--seeds 0"),
        (HardeningConfig(frozen=True), "--frozen"),
        (HardeningConfig(variants=" "), "--variants"),
        (HardeningConfig(examples=70_000), "1 to 60000"),
        (HardeningConfig(variants="layer-2", training=Settings(hidden=(50,))), "levels 0 to 1"),
        (HardeningConfig(variants="layer-3", training=Settings(network="conv")), "levels 0 to 2"),
        (HardeningConfig(variants="all", training=Settings(network="ae400-10")), "is not an nn.Sequential"),
        (
            HardeningConfig(training=Settings(network="conv")),
            "leave out `dropout`, and the variant of that name among the `variants`",
        ),
    ],
)
def test_mistakes_are_reported_before_any_work(config: HardeningConfig, told: str) -> None:
    with pytest.raises(UserError, match=told):
        AdversarialTraining(settings=config).prepare()


@pytest.mark.parametrize(
    ("config", "layout", "told"),
    [
        (HardeningConfig(), Layout(workers=0), "--workers 0 is impossible"),
        (HardeningConfig(mode="asynchronous"), Layout(gpus=True), "--mode asynchronous has a single trainer"),
        (HardeningConfig(), Layout(workers=126), "--batch-size 125 cannot be split into 126 parts"),
        (HardeningConfig(training=Settings(refresh=2)), Layout(workers=3), "--refresh 2 cannot be split into 3"),
        (HardeningConfig(training=Settings(capacity=2)), Layout(workers=3), "--capacity 2 cannot be split into 3"),
        (HardeningConfig(examples=251), Layout(workers=2), "leaves 1 of 251 images for the last batch of an epoch"),
    ],
)
def test_work_that_cannot_be_shared_is_reported_before_any(config: HardeningConfig, layout: Layout, told: str) -> None:
    with pytest.raises(UserError, match=told):
        AdversarialTraining(settings=config, layout=layout).prepare()
