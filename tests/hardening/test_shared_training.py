"""Several processes share a run: the same steps as one takes, a pool in shards, equal weights in the end."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist
from torch import nn

from advlab import data
from advlab.data import Dataset
from advlab.hardening.settings import Settings, variant
from advlab.hardening.trainer import Alternating, Frozen, Trainer
from advlab.models import error_rate

pytestmark = pytest.mark.usefixtures("mnist_train")
SETTINGS = Settings(hidden=(30, 20), epochs=3, batch_size=75, capacity=201, refresh=41, learning_rate=5e-3)
"""Batches of 75 and, at the end of an epoch, 25 images; neither they nor the pool can be halved."""


def images() -> Dataset:
    return data.load("mnist").subset(slice(1000))


def trained(settings: Settings, steps: int | None = None) -> dict[str, Any]:
    """What a process has in the end, and what it is told after every epoch, or after so many steps."""
    trainer = Trainer(settings, images(), seed=1, source=Alternating())
    told = [trainer.run(steps or trainer.steps_per_epoch) for _ in range(1 if steps else settings.epochs)]
    whole = trainer.whole_pool()
    return {
        "told": told,
        "weights": trainer.network.state_dict(),
        "shard": trainer.pool.state(),
        "whole": whole and whole.state(),
        "capacity": trainer.pool.capacity,
    }


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_a_pool_two_processes_learn_as_one_does(tmp_path: Path) -> None:
    settings = variant("weight-decay", SETTINGS)
    alone = trained(settings)
    for found in processes.run(trained, 2, tmp_path, settings):
        for ours, theirs in zip(found["told"], alone["told"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        for name, weight in alone["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=1e-3, atol=1e-5)


def test_with_a_pool_they_learn_and_stay_together(tmp_path: Path, mnist_train: Dataset) -> None:
    settings = variant("all", replace(SETTINGS, epochs=10, replacement="easiest", learning_rate=2e-2))
    first, *others = processes.run(trained, 3, tmp_path, settings)
    assert first["told"][-1]["loss"] < 0.75 * first["told"][0]["loss"]
    assert first["told"][-1]["examples"] == 4 * 1000
    judged = Trainer(settings, images(), seed=0, source=Frozen())
    judged.network.load_state_dict(first["weights"])
    seen = mnist_train.subset(slice(1000, 3000))
    assert error_rate(judged.network, seen.images, seen.labels) < 0.3
    for other in others:
        assert other["told"] == first["told"]
        assert other["whole"] is None
        assert_equal(other["weights"], first["weights"])
        assert not torch.equal(other["shard"]["0.values"][:60], first["shard"]["0.values"][:60])
    shards = [found["shard"] for found in (first, *others)]
    assert [found["capacity"] for found in (first, *others)] == [len(shard["1.births"]) for shard in shards] == [67] * 3
    for name, column in first["whole"].items():
        assert torch.equal(column, torch.cat([shard[name] for shard in shards]))


def normalising() -> nn.Module:
    """A network that keeps statistics of its activations."""
    hidden = [nn.Linear(784, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(20, 10))


def of_all_kinds() -> list[dict[str, Any]]:
    few = replace(SETTINGS, capacity=40)
    networks = [("all", "conv"), ("virtual", None), ("all", f"python:{__name__}:normalising")]
    return [trained(variant(name, replace(few, network=network), 3), 4) for name, network in networks]


def test_weights_are_equal_whatever_is_trained(tmp_path: Path) -> None:
    for first, second in zip(*processes.run(of_all_kinds, 2, tmp_path), strict=True):
        learnt = [name for name in first["weights"] if not name.endswith(("running_mean", "running_var"))]
        assert_equal(*({name: found["weights"][name] for name in learnt} for found in (first, second)))
        assert first["told"][0]["loss"] > 0


def stopped_and_resumed() -> dict[str, Any]:
    settings = variant("all", SETTINGS)
    whole = Trainer(settings, images(), seed=1, source=Alternating())
    whole.run(5)
    state = copy.deepcopy(whole.state())
    shards: list[Any] = [None, None]
    dist.all_gather_object(shards, whole.pool.state())
    whole.run(4)
    again = Trainer(settings, images(), seed=1, source=Alternating())
    again.restore(state)
    again.take_shard(shards)
    again.run(4)
    weights = [trainer.network.state_dict() for trainer in (whole, again)]
    return {"state": state, "shards": shards, "weights": weights, "pools": [whole.pool.state(), again.pool.state()]}


def dealt(state: dict[str, Any], shards: list[dict[str, Any]]) -> dict[str, Any]:
    trainer = Trainer(variant("all", SETTINGS), images(), seed=1, source=Alternating())
    trainer.restore(copy.deepcopy(state))  # processes that are spawned share the memory of what they are given
    trainer.take_shard(shards)
    given = trainer.pool.layers[0].values.clone()
    trainer.run(4)
    return {"given": given, "weights": trainer.network.state_dict(), "capacity": trainer.pool.capacity}


def test_a_run_goes_on_with_its_shards_or_has_them_redistributed(tmp_path: Path) -> None:
    two = processes.run(stopped_and_resumed, 2, tmp_path / "two")
    for found in two:
        assert_equal(*found["weights"])  # to the bit
        assert_equal(*found["pools"])
    shards = two[0]["shards"]
    three = processes.run(dealt, 3, tmp_path / "three", two[0]["state"], shards)
    before = torch.cat([shard["0.values"] for shard in shards])
    after = torch.cat([found["given"] for found in three])
    assert sorted(before.sum(1).tolist()) == sorted(after.sum(1).tolist())
    assert all(len(found["given"]) == found["capacity"] == 67 for found in three)
    assert_equal(three[0]["weights"], three[2]["weights"])
