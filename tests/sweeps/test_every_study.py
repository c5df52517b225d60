"""Every study by one protocol: killed, it goes on; it says so in its manifest, and W&B hears of it while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from offline_runs import points

from advlab import studies
from advlab.store import Study

REPOSITORY = Path(__file__).parents[2]
STUDIES = {
    "transfer": (
        "transfer_matrix --models softmax1e-2,softmax1 --examples 2000 --shard-size 40 --attack minimum-norm "
        "--controls gaussian-0.3 --actors 1",
        "predictions",
    ),
    "architectures": (
        "architectures --architectures softmax --decays 1e-3,1e-2,1e-1,1 --max-iterations 20 --examples 20 --actors 1",
        "trials.parquet",
    ),
    "hardening": (
        "adversarial_training --variants weight-decay,dropout --seeds 2 --epochs 2 --examples 4000 --distortions 10 "
        "--hidden 20 --actors 1",
        "runs",
    ),
    "units": ("units --model softmax1 --data mnist --directions 3 --top 3 --shard-size 200 --actors 1", "moments"),
    "spectral": ("spectral --model torchvision:alexnet@random --images 1 --iterations 2 --actors 1", "layers"),
    "alexnet": (
        "alexnet --alone --variant torchvision --width 0.05 --size 16 --examples 2000 --held-out 60 --epochs 8 "
        "--batch-size 10 --recipe modern --checkpoint-every 40",
        "curve",
    ),
    "quocnet": (
        "quocnet --alone --model quocnet-tiny --examples 600 --steps 60 --batch-size 16 --sparsity 0.1 --attacked 2 "
        "--learning-rate 0.003 --checkpoint-every 5",
        "losses",
    ),
}
"""By kind, a command that takes a few seconds, and the file or folder that tells that some of it is done."""


def test_none_is_forgotten() -> None:
    assert STUDIES.keys() == studies.KINDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDIES)
def test_a_killed_study_goes_on_and_says_so(kind: str, tmp_path: Path) -> None:
    command, sign = STUDIES[kind]
    sweep, *arguments = command.split()
    line = [sys.executable, str(REPOSITORY / f"sweeps/{sweep}.py"), *arguments, "--out", str(tmp_path / "out")]
    line += ["--wandb", "offline"]
    first = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / sign).exists():
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert Study.open(str(tmp_path / "out")).manifest["finished"] is None
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "160"})
    assert done.returncode == 0, done.stderr
    study = Study.open(str(tmp_path / "out"))
    assert study.manifest["finished"] is not None
    assert [resumed["command"] for resumed in study.manifest["resumed"]] == [line[1:]]
    runs = sorted((tmp_path / "out/wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    logged = points(runs[-1])
    assert len(logged) > 1
    assert logged[0]["_timestamp"] < logged[-1]["_timestamp"]
    again = [sys.executable, "-m", "advlab.report", str(tmp_path / "out")]
    shown = subprocess.run(again, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split("rows:")[1] == done.stdout.split("rows:")[1]
