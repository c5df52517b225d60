"""The training loops of docs/HARDENING.md run as printed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from advlab.data import Dataset
from advlab.engine.session import session
from advlab.hardening import snapshots
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import Alternating, Trainer
from advlab.models import error_rate
from advlab.models.mlp import MLP
from advlab.store import Store

PAGE = Path(__file__).parents[2] / "docs/HARDENING.md"
PLAIN, LOADER, LIGHTNING, RAY_TRAIN = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def names(thousand: Dataset, short: Settings, tmp_path: Path) -> dict[str, Any]:
    """What the loops are given: a pool that a run left behind, a number of steps, a folder."""
    trainer = Trainer(short, thousand, seed=0, source=Alternating())
    trainer.run(5)
    snapshots.save(Store(tmp_path / "pool"), "", trainer.pool, trainer.step, trainer.predictions(trainer.pool))
    torch.manual_seed(0)
    return {"__name__": "documented", "POOL": str(tmp_path / "pool"), "STEPS": 30, "OUT": str(tmp_path / "out")}


@pytest.fixture
def _ray() -> Iterator[None]:
    with session(None):
        yield


def test_the_plain_loop(names: dict[str, Any]) -> None:
    exec(PLAIN, names)
    assert float(names["loss"].detach()) < 2


def test_the_loop_of_lightning(names: dict[str, Any]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    exec(LOADER + LIGHTNING, names)
    trainer = names["trainer"]
    assert trainer.global_step == 30
    assert float(trainer.callback_metrics["loss"]) < 1.6  # a guess among ten classes costs 2.3


@pytest.mark.usefixtures("_ray")
def test_the_loop_of_ray_train(names: dict[str, Any], thousand: Dataset) -> None:
    exec(LOADER + RAY_TRAIN, names)
    network = MLP([784, 100, 100, 10], "relu")
    network.load_state_dict(torch.load(Path(names["OUT"]) / "network.pt", weights_only=True))
    assert error_rate(network, thousand.images, thousand.labels) < 0.5
