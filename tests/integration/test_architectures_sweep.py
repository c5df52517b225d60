"""A sweep of 24 trials on MNIST whose driver is killed in the middle, and its models in a transfer matrix."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify

SWEEPS = Path(__file__).parents[2] / "sweeps"
TRIALS = 24
SETTINGS = [
    "--architectures", "softmax,relu16-10", "--decays", "1e-5,1e-4,1e-3,1e-2,1e-1,1", "--seeds", "3",
    "--epochs", "1", "--max-iterations", "10", "--examples", "30",
]  # fmt: skip

pytestmark = pytest.mark.slow


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SWEEPS / script), *arguments]
    environment = {**os.environ, "COLUMNS": "160"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes)


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    printed, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    return printed, told


def wait_for_models(out: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while len(list(out.glob("models/*.safetensors"))) < number and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.timeout(1800)
def test_a_sweep_survives_its_driver_and_becomes_a_matrix(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    process = start("architectures.py", *SETTINGS, "--out", str(out))
    wait_for_models(out, TRIALS // 3, process)
    process.kill()
    process.communicate()
    made = {path: path.stat().st_ino for path in out.glob("models/*.safetensors")}
    assert TRIALS // 3 <= len(made) < TRIALS
    for notes in (out / "tune").rglob("*.pkl"):  # nothing reads them
        notes.write_bytes(b"cos\nabort\n(tR.")

    printed, told = finish(start("architectures.py", *SETTINGS, "--out", str(out)))
    assert f"of {TRIALS} already done" in told
    assert f"{TRIALS} of {TRIALS} trials finished" in printed
    assert {path: path.stat().st_ino for path in made} == made  # an atomic write would give a new inode
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    assert len({row["fingerprint"] for row in rows if row["status"] == "finished"}) == TRIALS
    decayed = {row["weight_decay"][0]: row for row in rows if row["architecture"] == "softmax"}
    assert decayed[1.0]["validation_error"] > decayed[1e-4]["validation_error"]
    assert (out / "figures/weight_decay.png").stat().st_size > 10_000

    attack = ["--attack", "minimum-norm", "--target", "nearest", "--controls", "", "--split", "test"]
    sizes = ["--examples", "10", "--shard-size", "10"]
    finish(start("transfer_matrix.py", "--models", f"study:{out}", *attack, *sizes, "--out", str(tmp_path / "matrix")))
    study = TransferStudy.open(str(tmp_path / "matrix"))
    assert study.fingerprints == {row["trial"]: row["fingerprint"] for row in rows}
    assert len(study.matrix()) == TRIALS**2
    assert list(verify(study)) == []


@pytest.mark.timeout(900)
def test_ctrl_c_says_what_to_do(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    process = start("architectures.py", *SETTINGS, "--out", str(out))
    wait_for_models(out, 1, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the driver and all its children
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command continues from there" in told
    assert "Traceback" not in told
