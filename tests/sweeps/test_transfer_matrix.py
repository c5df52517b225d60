"""The main command from outside: its files, its refusals, its resumption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import killed_workers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advlab.data import Dataset
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify

Sweep = Callable[..., "subprocess.CompletedProcess[str]"]
CommandLine = Callable[..., list[str]]
MODELS = ["softmax1e-2", "softmax1"]


def rows(out: Path) -> dict[str, pa.Table]:
    """Every Parquet file of a study by its place, without what may differ between two runs (there is nothing)."""
    return {str(path.relative_to(out)): pq.read_table(path) for path in sorted(out.rglob("part-*.parquet"))}


def test_prints_the_finding_and_the_matrix_with_intervals(small_study: Path) -> None:
    printed = (small_study.parent / "printed.txt").read_text()
    for text in ("classifies correctly when clean", "softmax1e-2", "gaussian-0.3", "100.0", "report.html"):
        assert text in printed
    assert "(35.2)" not in printed  # the paper's numbers are about more than sixty images


def test_writes_the_files_of_the_contract(small_study: Path) -> None:
    parts = [f"part-{start:08d}.parquet" for start in (0, 20, 40)]
    sources = [*MODELS, "gaussian-0.3", *(f"shuffled-{model}" for model in MODELS)]
    for model in MODELS:
        assert sorted(p.name for p in (small_study / f"examples/source={model}").iterdir()) == parts
    for source in sources:
        for target in MODELS:
            folder = small_study / f"predictions/source={source}/target={target}"
            assert sorted(p.name for p in folder.iterdir()) == parts
    matrix = pq.read_table(small_study / "matrix.parquet").to_pylist()
    assert [(row["source"], row["target"]) for row in matrix] == [(s, t) for s in sources for t in MODELS]
    manifest = json.loads((small_study / "study.json").read_text())
    assert manifest["config"]["models"] == MODELS
    assert manifest["finished"] >= manifest["started"]
    assert manifest["hosts"] == 1
    assert manifest["seed"] == 0
    assert manifest["versions"]["torch"]
    assert manifest["dataset"]["fingerprint"]
    assert all(model["fingerprint"] and model["recipe"]["trainer"] for model in manifest["models"].values())
    assert (small_study / "report.html").stat().st_size > 10_000
    assert {p.suffix for p in (small_study / "figures").iterdir()} == {".png"}


def test_the_command_leaves_a_wandb_run(small_study: Path) -> None:
    (run_file,) = small_study.glob("wandb/offline-run-*/run-*.wandb")
    content = run_file.read_bytes()  # decoded record by record in tests/report
    identity = json.loads((small_study / "study.json").read_text())["identity"]
    for text in (identity[:12], "softmax1e-2,softmax1"[:11], "matrix", "study.json", "evaluated"):
        assert text.encode() in content


def test_every_model_misclassifies_all_its_own_examples(small_study: Path) -> None:
    for row in pq.read_table(small_study / "matrix.parquet").to_pylist():
        if row["source"] == row["target"]:
            assert row["error_rate"] == row["conditional_error_rate"] == 1.0


def test_examples_lie_in_the_box_and_their_sizes_are_true(small_study: Path, mnist_train: Dataset) -> None:
    study = TransferStudy.open(str(small_study))
    for model in MODELS:
        table = study.examples(model)
        images = study.images(table).astype(np.float64)
        assert images.min() >= 0
        assert images.max() <= 1
        assert table["success"].to_pylist() == [True] * 60
        clean = mnist_train.images[table["index"].to_numpy()].numpy()
        difference = (images - clean).reshape(60, -1)
        np.testing.assert_allclose(table["rms"], np.sqrt((difference**2).mean(1)), atol=1e-9)
        np.testing.assert_allclose(table["l2"], np.linalg.norm(difference, axis=1), atol=1e-9)
        np.testing.assert_allclose(table["linf"], np.abs(difference).max(1), atol=1e-9)
        assert (table["label"].to_numpy() != table["target"].to_numpy()).all()


def test_a_killed_study_is_finished_by_the_same_command(
    small_study: Path, small: list[str], transfer_matrix: Sweep, command_line: CommandLine, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command_line(*small, "--out", str(out)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while len(list(out.rglob("part-*.parquet"))) < 4 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "matrix.parquet").exists()
    finished = {path: path.stat().st_ino for path in out.rglob("part-*.parquet")}
    assert finished

    done = transfer_matrix(*small, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_ino for path in finished} == finished  # an atomic write would give a new inode
    expected, found = rows(small_study), rows(out)
    assert expected.keys() == found.keys()
    for name, table in expected.items():
        assert table.equals(found[name]), name
    assert pq.read_table(out / "matrix.parquet").equals(pq.read_table(small_study / "matrix.parquet"))


def test_a_finished_study_is_not_computed_again(small_study: Path, small: list[str], transfer_matrix: Sweep) -> None:
    before = {path: path.stat().st_ino for path in small_study.rglob("part-*.parquet")}
    done = transfer_matrix(*small, "--out", str(small_study))
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_ino for path in small_study.rglob("part-*.parquet")} == before


def test_a_larger_study_takes_over_the_shards_it_shares(
    small_study: Path, transfer_matrix: Sweep, tmp_path: Path
) -> None:
    arguments = ["--models", "softmax1e-2", "--examples", "40", "--shard-size", "20", "--controls", ""]
    taken = small_study / "examples/source=softmax1e-2/part-00000020.parquet"
    done = transfer_matrix(*arguments, "--out", str(tmp_path / "out"), "--reuse", str(small_study))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/examples/source=softmax1e-2/part-00000020.parquet").read_bytes() == taken.read_bytes()


def test_ctrl_c_says_what_to_do_and_exits_130(small: list[str], command_line: CommandLine, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command_line(*small, "--examples", "6000", "--out", str(tmp_path / "out")),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.rglob("part-*.parquet")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command continues from there" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_a_study_whose_manifest_is_removed_ends_and_loses_nothing(
    small: list[str], command_line: CommandLine, transfer_matrix: Sweep, tmp_path: Path
) -> None:
    """An actor that takes the place of another asks for the file, as a machine that joins does."""
    out = tmp_path / "out"
    command = [*small, "--attack", "minimum-norm:32", "--examples", "600", "--actors", "1", "--out", str(out)]
    process = subprocess.Popen(command_line(*command), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    killed_workers.wait_until(lambda: process.poll() is not None or any(out.rglob("part-*.parquet")))
    (out / "study.json").unlink()
    for worker in killed_workers.below(process.pid, b"ray::_Worker"):
        os.kill(worker, signal.SIGKILL)
    _, printed = process.communicate(timeout=300)
    assert process.returncode == 2, printed
    assert f"'{out}/study.json' was removed while its study was running; it is written again" in printed
    assert "Traceback" not in printed

    kept = {path: path.stat().st_ino for path in [*out.rglob("part-*.parquet"), *out.rglob("*.safetensors")]}
    assert len(kept) > 2
    done = transfer_matrix(*command)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_ino for path in kept} == kept
    assert all(finding.is_harmless for finding in verify(TransferStudy.open(str(out))))  # what the kill interrupted


@pytest.mark.slow
def test_a_damaged_file_is_named_removed_and_made_again(
    small_study: Path, small: list[str], transfer_matrix: Sweep, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(small_study, out, ignore=shutil.ignore_patterns("wandb"))
    examples = out / "examples/source=softmax1/part-00000000.parquet"
    content = bytearray(examples.read_bytes())
    content[len(content) // 2] ^= 0xFF
    examples.write_bytes(content)
    (out / "predictions/source=softmax1/target=softmax1e-2/part-00000000.parquet").unlink()
    (out / "matrix.parquet").unlink()

    done = transfer_matrix(*small, "--out", str(out))
    assert done.returncode == 2
    assert "was damaged and has been removed" in done.stderr
    assert str(examples) in done.stderr
    done = transfer_matrix(*small, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert rows(out).keys() == rows(small_study).keys()
    assert all(table.equals(rows(out)[name]) for name, table in rows(small_study).items())


@pytest.mark.parametrize("address", ["127.0.0.1:9", "auto"])
def test_refuses_a_cluster_that_is_not_there(address: str, transfer_matrix: Sweep, tmp_path: Path) -> None:
    done = transfer_matrix("--models", "softmax1", "--out", str(tmp_path / "out"), "--address", address)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"error: no Ray cluster answers at --address '{address}'")
    assert not (tmp_path / "out").exists()
