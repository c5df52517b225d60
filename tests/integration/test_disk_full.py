"""A disk that is full, or turns read-only: one sentence, and nothing that was finished is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from advlab.errors import UserError
from advlab.store import Store

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer_matrix.py"
LIMITED = """
import resource, sys
from advlab.results import Store

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
store = Store(sys.argv[1])
store.write_bytes("small", b"x" * 40_000)
try:
    store.write_bytes("file", b"y" * 60_000)
except OSError as error:
    print(error)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounting.returncode:
        pytest.skip(f"no file system can be mounted here: {mounting.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


def noise(rows: int) -> pa.Table:
    return pa.table({"value": np.random.default_rng(0).random(rows)})


def test_a_full_disk_keeps_what_is_there(disk: Path) -> None:
    store = Store(disk / "study")
    store.write_table("kept.parquet", noise(10_000), key="k")
    store.write_table("replaced.parquet", noise(1_000), key="old")
    for name in ("new.parquet", "replaced.parquet"):
        with pytest.raises(OSError, match=rf"No space left on device: '{store.path(name)}'") as caught:
            store.write_table(name, noise(100_000), key="new")
        assert caught.value.errno == errno.ENOSPC
    assert sorted(os.listdir(store.root)) == ["kept.parquet", "replaced.parquet"]
    assert store.keys("") == {"kept.parquet": "k", "replaced.parquet": "old"}
    assert store.read_shard("kept.parquet").equals(noise(10_000))
    assert store.read_shard("replaced.parquet").equals(noise(1_000))


def test_a_limit_to_the_size_of_files_keeps_what_is_there(tmp_path: Path) -> None:
    Store(tmp_path).write_bytes("file", b"before")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"[Errno {errno.EFBIG}] File too large: '{tmp_path / 'file'}'\n"
    assert sorted(os.listdir(tmp_path)) == ["file", "small"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_a_disk_that_turns_read_only_keeps_what_is_there(disk: Path) -> None:
    store = Store(disk / "study")
    store.write_bytes("file", b"before")
    remount(disk, "ro")
    with pytest.raises(OSError, match=rf"Read-only file system: '{store.path('file')}'"):
        store.write_bytes("file", b"after")
    with pytest.raises(UserError, match=r"cannot be written \(.*Read-only file system.*\); choose a folder you may"):
        store.require_writable()
    assert store.read_bytes("file") == b"before"
    assert store.temporary_files() == []


@pytest.mark.slow
def test_a_study_on_a_disk_that_is_full_then_read_only_then_large(disk: Path) -> None:
    out = disk / "out"
    study = [
        sys.executable, str(SWEEP), "--models", "softmax1e-2,softmax1", "--controls", "gaussian-0.3,shuffled",
        "--examples", "60", "--shard-size", "10", "--out", str(out),
    ]  # fmt: skip

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def verify() -> subprocess.CompletedProcess[str]:
        return run([sys.executable, "-m", "advlab.results", "verify", str(out)])

    def sentence(done: subprocess.CompletedProcess[str]) -> str:
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]

    told = sentence(run(study))
    assert told.startswith("error: ")
    assert "No space left on device" in told
    held = {path: path.stat().st_ino for path in out.rglob("part-*.parquet")}
    assert held
    findings = verify().stdout.splitlines()
    assert "missing" in findings[0]
    assert not [line for line in findings if "checksum" in line or "temporary" in line or ".tmp" in line]

    remount(disk, "ro")
    told = sentence(run(study))
    assert f"error: --out '{out}' cannot be written ([Errno 30] Read-only file system" in told

    remount(disk, "rw,size=50m")
    done = run(study)
    assert done.returncode == 0, done.stderr
    assert verify().stdout == "sound: 5 sources × 2 targets\n"
    assert {path: path.stat().st_ino for path in held} == held  # none of it was made again
