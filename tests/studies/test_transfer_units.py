"""Units of a transfer study, run in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from advlab import data
from advlab.attacks import minimum_norm, references, registry
from advlab.data import Dataset
from advlab.engine.shared_dataset import SharedDataset
from advlab.errors import UserError
from advlab.models.mlp import MLP
from advlab.store import Store
from advlab.store.schema import image_column
from advlab.studies.transfer.layout import Addresses, examples_part, predictions_part
from advlab.studies.transfer.plan import TransferConfig, prepare
from advlab.studies.transfer.work import AttackUnit, CountUnit, EvaluateUnit, Shard

NAMES = ["one", "two", "three"]


class Actor:
    """What a unit finds on an actor, without the actor."""

    def __init__(self, shared: dict[str, Any], given: SharedDataset) -> None:
        self.device, self.input = torch.device("cpu"), given
        self._shared, self._memo = shared, dict[str, Any]()

    def get(self, key: str) -> Any:
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
    return Actor(models | {"references": None}, SharedDataset.of(mnist_test.subset(slice(6))))


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


@pytest.mark.parametrize(
    "changed",
    [
        lambda table: table.slice(1),
        lambda table: table.drop_columns("c"),
        lambda table: table.set_column(0, table.schema.field("index"), pa.array(range(1, 7))),
        lambda table: table.set_column(1, table.schema.field("label"), pa.array([0] * 6)),
        lambda table: table.set_column(5, table.schema.field("rms"), pa.array([0.01] * 6)),
        lambda table: table.set_column(10, table.schema.field("image"), image_column(np.full((6, 784), 2.0))),
    ],
)
def test_rows_that_their_address_does_not_cover_are_not_taken_over(
    changed: Callable[[pa.Table], pa.Table], actor: Actor, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    part = examples_part("one", 0)
    sound = store.read_bytes(part)
    store.write_table(part, changed(store.read_table(part)), "a")  # whole, of the right address
    out = tmp_path_factory.mktemp("out")
    attack(out, reuse=store.uri).run(actor)
    assert Store(out).read_bytes(part) == sound


def test_counting_finds_examples_that_were_cut_short(actor: Actor, store: Store) -> None:
    evaluation(store).run(actor)
    count = CountUnit(store.uri, "one", {name: {predictions_part("one", name, 0): f"one {name}"} for name in NAMES})
    assert count.run(actor).column("n").to_pylist() == [6, 6, 6]
    content = store.read_bytes(examples_part("one", 0))
    store.write_bytes(examples_part("one", 0), content[: len(content) // 2])
    with pytest.raises(UserError, match=r"part-00000000.parquet' was damaged and has been removed"):
        count.run(actor)
    assert not store.exists(examples_part("one", 0))


def planned(**changes: Any) -> tuple[str, dict[str, Any], int]:
    """The address of a model's first examples, the attack's settings, and how many references it gets."""
    config: dict[str, Any] = {"split": "test", "models": "softmax1", "examples": 5, "shard_size": 5} | changes
    plan = prepare(TransferConfig(**config))
    addresses = Addresses({"config": plan.settings, "attack": plan.attack_settings}, {"softmax1": "0"}, plan.attacked)
    return addresses.examples("softmax1", 0), plan.attack_settings, len(plan.references or ())


@pytest.mark.parametrize("attack", ["lbfgs", "minimum-norm:32"])
def test_examples_are_what_their_references_made_them_however_many_there_are(
    attack: str, mnist_train: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, settings, count = planned(attack=attack)
    assert settings["references"] == mnist_train.subset(slice(512)).fingerprint
    assert (few, settings, count) == planned(attack=attack, examples=7)
    monkeypatch.setattr(references, "KNOWN_BYTES", 100 * mnist_train.images[0].nbytes + 1)
    other, settings, count = planned(attack=attack)
    assert other != few
    assert (count, settings["references"]) == (100, mnist_train.subset(slice(100)).fingerprint)


def test_attacks_of_foolbox_know_of_no_references(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("foolbox")
    address, settings, count = planned(attack="foolbox:L2DeepFoolAttack", target="nearest")
    assert "references" not in settings
    assert count == 0
    monkeypatch.setattr(references, "KNOWN", 3)
    assert planned(attack="foolbox:L2DeepFoolAttack", target="nearest")[0] == address


def test_a_folder_without_a_training_split_is_its_own_reference(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "val" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 60 * number, dtype=np.uint8)).save(path)
    name = f"imagenet:{tmp_path}"
    settings, count = planned(dataset=name, examples=2, train_split="test")[1:]
    assert (count, settings["references"]) == (4, data.load(name, "test").fingerprint)


def test_the_attack_gets_the_shared_references(
    actor: Actor, mnist_train: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, got = mnist_train.images[:3], []

    def spy(*args: Any, **kwargs: Any) -> Any:
        got.append(kwargs.pop("references"))
        return minimum_norm(*args, **kwargs)

    monkeypatch.setattr(registry, "resolve", lambda _name: spy)
    shared = actor._shared | {"references": known.numpy()}
    attack(tmp_path).run(Actor(shared, actor.input))
    assert torch.equal(got[0], known)
