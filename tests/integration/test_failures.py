"""Failures in a study: one sentence each, and finished work is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from advlab.data import Dataset

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer_matrix.py"
WITHOUT_PROJECT = str(Path(__file__).parents[1] / "engine" / "without_project")

MODELS = """
import os
import signal
import threading

import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(784, 10)

    def forward(self, images):
        if (images.sum((1, 2, 3)) - {brightness}).abs().min() < 1e-3:
            self.meet()
        return self.linear(images.flatten(1))

    def meet(self):
        pass


class Raises(Linear):
    def meet(self):
        raise ValueError("this digit is too much for me")


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{{one}}\\n{{two}}")


class RaisesOdd(Linear):
    def meet(self):
        raise Odd("too much", "for me")


class Kills(Linear):
    def meet(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Locked(Linear):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Lambda(Linear):
    def __init__(self):
        super().__init__()
        self.meet = lambda: None
"""


@pytest.fixture
def models(tmp_path: Path, mnist_train: Dataset) -> str:
    """Name, without the factory, of models that behave differently on image 3."""
    path = tmp_path / "models.py"
    path.write_text(MODELS.format(brightness=float(mnist_train.images[3].sum())))
    return f"file:{path}"


def study(out: Path, *arguments: str, examples: int = 6) -> subprocess.CompletedProcess[str]:
    """A study in shards of two images."""
    command = [
        sys.executable, str(SWEEP), "--attack", "minimum-norm", "--target", "nearest", "--controls", "",
        "--examples", str(examples), "--shard-size", "2", "--out", str(out), *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence on which a study ended."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert last.endswith(".")
    return last


def parts(folder: Path, pattern: str) -> list[str]:
    """The first rows of the shards that are there."""
    return sorted(path.stem.removeprefix("part-").lstrip("0") or "0" for path in folder.rglob(f"{pattern}/*.parquet"))


def test_a_model_that_raises_on_one_image(models: str, tmp_path: Path) -> None:
    told = refusal(study(tmp_path / "out", "--models", f"softmax1e-2,{models}:Raises"))
    assert "2 units of work failed" in told  # the attack on it, and showing it the other model's examples
    assert "ValueError: this digit is too much for me" in told
    assert "are kept" in told
    assert parts(tmp_path / "out/examples", "*softmax*") == ["0", "2", "4"]
    assert parts(tmp_path / "out/examples", "*Raises") == ["0", "4"]
    # its answers to the other's images are missing for that shard only, and the other's are complete
    predictions = tmp_path / "out/predictions/source=softmax1e-2"
    assert parts(predictions, "target=softmax1e-2") == ["0", "2", "4"]
    assert parts(predictions, "target=*Raises") == ["0", "4"]
    assert not (tmp_path / "out/matrix.parquet").exists()


def test_an_error_that_only_the_actor_can_read(models: str, tmp_path: Path) -> None:
    told = refusal(study(tmp_path / "out", "--models", f"{models}:RaisesOdd"))
    assert "1 unit of work failed" in told
    assert "Odd: too much for me" in told
    assert parts(tmp_path / "out", "examples/*") == ["0", "4"]


@pytest.mark.slow
def test_a_shard_that_kills_its_actor(models: str, tmp_path: Path) -> None:
    told = refusal(study(tmp_path / "out", "--models", f"{models}:Kills"))
    assert "1 unit of work failed" in told
    assert f"attack {models}:Kills 2" in told
    assert "lost 5 times" in told
    assert parts(tmp_path / "out", "examples/*") == ["0", "4"]
    assert parts(tmp_path / "out", "predictions/*/*") == ["0", "4"]


def test_a_model_that_cannot_be_sent(models: str, tmp_path: Path) -> None:
    told = refusal(study(tmp_path / "out", "--models", f"{models}:Locked"))
    assert f"model {models}:Locked cannot be sent to other processes" in told
    assert "cannot pickle '_thread.lock' object" in told


def test_a_model_with_a_lambda_is_welcome(models: str, tmp_path: Path) -> None:
    done = study(tmp_path / "out", "--models", f"{models}:Lambda")
    assert done.returncode == 0, done.stderr
    assert parts(tmp_path / "out", "predictions/*/*") == ["0", "2", "4"]


@pytest.fixture
def lacking_cluster() -> Iterator[Cluster]:
    """A machine on which Python does not find advlab."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": WITHOUT_PROJECT})
    yield cluster
    cluster.shutdown()


def test_a_machine_without_the_project(lacking_cluster: Cluster, models: str, tmp_path: Path) -> None:
    arguments = ["--models", f"{models}:Linear", "--address", lacking_cluster.address]
    told = refusal(study(tmp_path / "out", *arguments))
    assert "cannot run advlab (ModuleNotFoundError: No module named 'advlab')" in told
    assert "install the project there" in told

    lacking_cluster.add_node(num_cpus=1)
    done = study(tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    assert parts(tmp_path / "out", "predictions/*/*") == ["0", "2", "4"]
