"""Units of a transfer study, run in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advlab.attacks import registry
from advlab.data import Dataset
from advlab.distributed.arrays import Arrays
from advlab.distributed.transfer.work import AttackUnit, CountUnit, EvaluateUnit, Shard
from advlab.errors import UserError
from advlab.models.mlp import MLP
from advlab.results import Store
from advlab.results.layout import examples_part, predictions_part

NAMES = ["one", "two", "three"]


class Actor:
    """What a unit finds on an actor, without the actor."""

    def __init__(self, shared: dict[str, nn.Module], given: Arrays) -> None:
        self.device, self.input = torch.device("cpu"), given
        self._shared, self._memo = shared, dict[str, Any]()

    def get(self, key: str) -> nn.Module:
        return self._shared[key]

    def memo(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def actor(mnist_test: Dataset) -> Actor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {f"model {name}": MLP([784, 10]).requires_grad_(False) for name in NAMES}
    return Actor(models, Arrays.of(mnist_test.subset(slice(6))))


@pytest.fixture
def store(actor: Actor, tmp_path: Path) -> Store:
    """A study in which ``one`` has been attacked."""
    attack(tmp_path).run(actor)
    return Store(tmp_path)


def attack(folder: Path, reuse: str | None = None) -> AttackUnit:
    return AttackUnit(Shard(str(folder), 0, seed=0), "one", "minimum-norm", "nearest", key="a", reuse=reuse)


def evaluation(store: Store) -> EvaluateUnit:
    keys = {source: {target: f"{source} {target}" for target in NAMES} for source in ("one", "shuffled-one")}
    return EvaluateUnit(Shard(store.uri, 0, seed=0), "one", keys)


def test_attacked_images_are_read_once_however_many_models_see_them(
    actor: Actor, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    read_bytes = Store.read_bytes

    def count(self: Store, relative: str) -> bytes:
        read[relative] += 1
        return read_bytes(self, relative)

    monkeypatch.setattr(Store, "read_bytes", count)
    evaluation(store).run(actor)
    assert len(store.files("predictions")) == 6
    assert read == {examples_part("one", 0): 1}


def test_a_shard_that_is_there_is_not_attacked_again(
    actor: Actor, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "resolve", lambda name: pytest.fail(f"{name} is not needed"))
    attack(Path(store.uri)).run(actor)


def test_what_another_study_has_is_taken_over_unless_it_is_damaged(
    actor: Actor, store: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = examples_part("one", 0)
    content = store.read_bytes(part)
    flipped = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
    store.write_bytes(part, flipped)
    first = tmp_path_factory.mktemp("first")
    attack(first, reuse=store.uri).run(actor)
    assert Store(first).read_bytes(part) == content  # attacked again

    store.write_bytes(part, content)
    monkeypatch.setattr(registry, "resolve", lambda name: pytest.fail(f"{name} is not needed"))
    second = tmp_path_factory.mktemp("second")
    attack(second, reuse=store.uri).run(actor)
    assert Store(second).read_bytes(part) == content


def test_counting_finds_examples_that_were_cut_short(actor: Actor, store: Store) -> None:
    evaluation(store).run(actor)
    count = CountUnit(store.uri, "one", {name: {predictions_part("one", name, 0): f"one {name}"} for name in NAMES})
    assert count.run(actor).column("n").to_pylist() == [6, 6, 6]
    content = store.read_bytes(examples_part("one", 0))
    store.write_bytes(examples_part("one", 0), content[: len(content) // 2])
    with pytest.raises(UserError, match=r"part-00000000.parquet' was damaged and has been removed"):
        count.run(actor)
    assert not store.exists(examples_part("one", 0))
