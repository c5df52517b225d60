"""``sweeps/architectures.py`` and ``--models study:DIR`` from outside: mistakes end with one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from advlab.studies.transfer.results import TransferStudy

SWEEP = Path(__file__).parents[2] / "sweeps" / "architectures.py"


def architectures(*arguments: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, str(SWEEP), *arguments], {**os.environ, "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--architectures", "resnet18"], "unknown architecture 'resnet18'"),
        (["--decays", "1e-3,0"], "'0' is not a λ greater than 0"),
        (["--search", "bayes"], "unknown search 'bayes'"),
        (["--num-gpus", "64"], "fits this machine"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_a_sweep_refuses_with_one_sentence(arguments: list[str], named: str, tmp_path: Path) -> None:
    done = architectures(*arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_study_without_models_has_none_to_give(
    transfer_matrix: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    TransferStudy.begin("architectures", {"seed": 0}, str(tmp_path / "empty"))
    done = transfer_matrix("--models", f"study:{tmp_path / 'empty'}", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "names no model" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
