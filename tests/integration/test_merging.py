"""Two studies of different models, one of them damaged, become one study: repaired, merged, completed, verified."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from advlab.store import Store

REPOSITORY = Path(__file__).parents[2]


def run(*command: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, check=False, cwd=REPOSITORY
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def study(out: Path, models: str) -> None:
    run(
        "sweeps/transfer_matrix.py", "--models", models, "--controls", "gaussian-0.3,shuffled", "--examples", "40",
        "--shard-size", "20", "--out", str(out),
    )  # fmt: skip


@pytest.mark.slow
def test_repaired_merged_completed_verified(tmp_path: Path) -> None:
    whole, one, other, out = (tmp_path / name for name in ("whole", "one", "other", "out"))
    study(whole, "softmax1e-2,softmax1")
    study(one, "softmax1e-2")
    study(other, "softmax1")

    flipped = one / "examples/source=softmax1e-2/part-00000000.parquet"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 0xFF
    flipped.write_bytes(content)
    cut = one / "predictions/source=gaussian-0.3/target=softmax1e-2/part-00000020.parquet"
    cut.write_bytes(cut.read_bytes()[:-1])
    printed = run("-m", "advlab.results", "verify", str(one), "--repair", code=1).splitlines()
    assert printed[:3] == [
        f"{flipped.relative_to(one)}: its checksum is wrong; removed",
        f"{cut.relative_to(one)}: its checksum is wrong; removed",
        "not sound: 2 damaged",
    ]
    run(*shlex.split(printed[-1])[1:])
    assert run("-m", "advlab.results", "verify", str(one)) == "sound: 3 sources × 1 targets\n"

    printed = run("-m", "advlab.results", "merge", str(one), str(other), "--out", str(out)).splitlines()
    missing = run("-m", "advlab.results", "verify", str(out), code=1).splitlines()[:-3]
    assert printed[1].startswith(f"{len(missing)} shards are in none of the studies")
    kept = {path: path.stat().st_ino for path in out.rglob("part-*.parquet")}
    run(*shlex.split(printed[-1])[1:])
    assert {path: path.stat().st_ino for path in kept} == kept
    assert run("-m", "advlab.results", "verify", str(out)) == "sound: 5 sources × 2 targets\n"
    found, expected = Store(out), Store(whole)
    assert found.files(suffix=".parquet") == expected.files(suffix=".parquet")
    for name in expected.files(suffix=".parquet"):
        assert found.read_bytes(name) == expected.read_bytes(name), name
