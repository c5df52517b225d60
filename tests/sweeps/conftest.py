"""Running the commands as users do: as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
Sweep = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Arguments of a study of a minute's work at most: two linear models, sixty images."""
    models = ["--models", "softmax1e-2,softmax1", "--controls", "gaussian-0.3,shuffled"]
    return [*models, "--examples", "60", "--shard-size", "20"]


@pytest.fixture(scope="session")
def command_line() -> Callable[..., list[str]]:
    """Arguments → the whole command line of the transfer study."""
    return lambda *arguments: [sys.executable, str(REPOSITORY / "sweeps" / "transfer_matrix.py"), *arguments]


@pytest.fixture(scope="session")
def transfer_matrix(command_line: Callable[..., list[str]]) -> Sweep:
    """Runs ``sweeps/transfer_matrix.py`` with arguments, in an environment of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(*arguments),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "COLUMNS": "160", **environment},
        )

    return run


@pytest.fixture(scope="session")
def small_study(transfer_matrix: Sweep, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with W&B run files, and what it printed in ``printed.txt`` beside it.

    The environment names a cluster that is not there: without ``--address`` it does not count.
    """
    folder = tmp_path_factory.mktemp("small")
    done = transfer_matrix(*small, "--out", str(folder / "out"), "--wandb", "offline", RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder / "out"
