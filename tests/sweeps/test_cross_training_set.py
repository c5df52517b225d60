"""Tables 3 and 4 from outside, with linear models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify

REPOSITORY = Path(__file__).parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(REPOSITORY / "sweeps" / "cross_training_set.py"), *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)


def small(out: Path) -> subprocess.CompletedProcess[str]:
    models = ["--on-first", "softmax1", "--on-second", "softmax1"]
    return command(*models, "--examples", "40", "--shard-size", "20", "--seed", "1", "--out", str(out))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves") / "out"
    done = small(folder)
    assert done.returncode == 0, done.stderr
    assert "error on P1 %" in done.stdout
    return folder


def test_models_are_trained_on_their_half_alone(out: Path) -> None:
    study = TransferStudy.open(str(out))
    assert study.targets == ["softmax1@p1@1", "softmax1@p2@1"]
    recipes = [study.manifest["models"][name]["recipe"] for name in study.targets]
    assert [recipe["split"] for recipe in recipes] == ["p1@1", "p2@1"]
    halves = pq.read_table(out / "halves.parquet").to_pylist()
    for own, (row, entry) in zip(
        ("p1", "p2"), zip(halves, study.manifest["models"].values(), strict=True), strict=True
    ):
        assert row[f"{own}_error"] == pytest.approx(entry["report"]["train_error"])
        assert row["test_error"] == pytest.approx(entry["report"]["test_error"])


def test_amplified_examples_have_their_size(out: Path) -> None:
    study = TransferStudy.open(str(out))
    rms = {row["source"]: row["mean_rms"] for row in study.matrix().to_pylist()}
    for model in study.targets:
        assert rms[f"amplified-0.1-{model}"] == pytest.approx(0.1, abs=0.005)  # a row misclassified when clean has no r
        assert rms[f"amplified-0.1-clipped-{model}"] < 0.1
        assert rms[f"amplified-0.1-literal-{model}"] == pytest.approx(0.1 / 28, rel=0.05)
        assert rms[f"sphere-{model}"] == pytest.approx(rms[model], rel=1e-5)
    assert not [finding for finding in verify(study) if not finding.is_harmless]


def test_the_same_command_again_does_nothing(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert small(out).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before


def test_no_model_for_a_half_is_one_sentence(tmp_path: Path) -> None:
    done = command("--on-second", "", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "--on-second '' names no model" in done.stderr
    assert "Traceback" not in done.stderr
