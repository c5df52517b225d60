"""The process that drives a study needs no more memory for sixty times as many examples."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advlab.studies.transfer.results import TransferStudy

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer_matrix.py"

pytestmark = pytest.mark.slow


def peak_of_driver(out: Path, examples: int) -> float:
    """The driver's own memory at its largest, in MB, without the object store's, which all processes share."""
    command = [
        sys.executable, str(SWEEP), "--models", "softmax1e-2", "--attack", "minimum-norm", "--target", "nearest",
        "--controls", "gaussian-0.3", "--examples", str(examples), "--out", str(out),
    ]  # fmt: skip
    largest = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"^RssAnon:\s+(\d+) kB", status.read_text(), re.MULTILINE)
            largest = max(largest, int(found[1]) if found else 0)
            time.sleep(0.05)
    assert process.returncode == 0
    assert TransferStudy.open(str(out)).matrix().column("n").to_pylist() == [examples] * 2
    return largest / 1000


@pytest.mark.timeout(1800)
def test_the_driver_does_not_grow_with_the_number_of_examples(tmp_path: Path) -> None:
    few, many = (peak_of_driver(tmp_path / str(examples), examples) for examples in (1_000, 60_000))
    print(f"driver: {few:.0f} MB for 1,000 examples, {many:.0f} MB for 60,000")
    assert many < few + 100
