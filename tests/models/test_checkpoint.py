"""Checkpoints as bytes and in the cache, where a model is trained once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advlab import models
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import Checkpoint, Recipe, checkpoint, zoo
from advlab.models.recipe import UnknownRecipe


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the trainings so far; the zoo's softmax uses a trainer that keeps this list."""
    counted: list[int] = []

    def fit(
        network: nn.Module, dataset: Dataset, *, seed: int, weight_decay: float, **_others: Any
    ) -> dict[str, float]:
        """Not a good trainer, but a deterministic one."""
        counted.append(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        return {"loss": weight_decay, "examples": len(dataset)}

    models.register("trainer", "counting", fit)
    monkeypatch.setattr(zoo, "FULL_BATCH", "counting")
    return counted


def example() -> Checkpoint:
    recipe = Recipe(
        name="tiny",
        network="advlab.models.mlp:MLP",
        network_arguments={"widths": [6, 3]},
        trainer="advlab.training.full_batch:fit",
    )
    weights = {name: value.detach().clone() for name, value in recipe.build().state_dict().items()}
    return Checkpoint(recipe, weights, {"loss": 0.25, "stop": "CONVERGENCE"})


def test_round_trip_through_bytes() -> None:
    before = example()
    after = Checkpoint.from_bytes(before.to_bytes())
    assert (after.recipe, after.report, after.fingerprint) == (before.recipe, before.report, before.fingerprint)
    assert all(torch.equal(after.weights[name], value) for name, value in before.weights.items())
    network = after.network()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_torn_bytes_are_a_value_error(data: st.DataObject) -> None:
    content = example().to_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(ValueError, match="not a complete advlab checkpoint"):
        Checkpoint.from_bytes(content[:length])


def test_a_recipe_of_another_version_is_told_from_a_torn_one() -> None:
    foreign = example().to_bytes().replace(b'\\"split\\"', b'\\"spilt\\"')
    with pytest.raises(UnknownRecipe, match="its recipe has 'spilt', which this version of advlab does not know"):
        Checkpoint.from_bytes(foreign)


def test_fingerprint_sees_every_bit_name_shape_and_type() -> None:
    weights = example().weights
    prints = {checkpoint.weights_fingerprint(weights)}
    flipped = {name: value.clone() for name, value in weights.items()}
    flipped["1.bias"].view(torch.int32)[2] ^= 1
    prints.add(checkpoint.weights_fingerprint(flipped))
    prints.add(checkpoint.weights_fingerprint({**weights, "1.weight": weights["1.weight"].view(6, 3)}))
    prints.add(checkpoint.weights_fingerprint({**weights, "1.bias": weights["1.bias"].view(torch.int32)}))
    prints.add(checkpoint.weights_fingerprint({"1.weight": weights["1.weight"], "2.bias": weights["1.bias"]}))
    assert len(prints) == 5
    assert checkpoint.weights_fingerprint(dict(reversed(list(weights.items())))) in prints


def test_a_model_is_trained_once(calls: list[int], empty_cache: Path, mnist_test: Dataset) -> None:
    first = models.load("softmax1e-3", "mnist", split="test")
    second = models.load("softmax1e-3", mnist_test)
    assert calls == [0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training
    models.load("softmax1e-3", mnist_test, seed=1)  # a convex model is one for all seeds
    models.load("softmax1e-2", mnist_test)
    models.load("fc2-10", mnist_test, seed=1)
    assert calls == [0, 0, 1]
    described = [json.loads(path.read_text()) for path in (empty_cache / "models").glob("*.json")]
    assert {d["recipe"]["name"] for d in described} == {"softmax1e-3", "softmax1e-2", "fc2-10"}
    assert all(0 <= d["report"]["test_error"] <= 1 and d["report"]["examples"] == 10_000 for d in described)


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, None])
def test_a_damaged_entry_is_trained_again(
    damage: bytes | None, calls: list[int], empty_cache: Path, mnist_test: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    models.load("softmax1e-3", mnist_test)
    (path,) = (empty_cache / "models").glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    models.load("softmax1e-3", mnist_test)
    assert calls == [0, 0]
    assert "is damaged; training the model again" in caplog.text
    assert Checkpoint.from_bytes(path.read_bytes()).weights.keys() == Checkpoint.from_bytes(whole).weights.keys()
    assert not list(path.parent.glob(".*"))


@pytest.mark.usefixtures("calls", "empty_cache")
def test_a_cached_model_bears_the_name_it_is_asked_by(mnist_test: Dataset) -> None:
    models.load("softmax1e-3", mnist_test)
    found = checkpoint.find(zoo.recipe("softmax0.001", mnist_test))
    assert found is not None
    assert found.recipe.name == "softmax0.001"


def test_part_of_a_split_is_refused(calls: list[int], empty_cache: Path, mnist_test: Dataset) -> None:
    with pytest.raises(UserError, match="the 100 images given are not the 10000 images of mnist test"):
        models.load("softmax1e-3", mnist_test.subset(slice(100)))
    assert calls == []
    assert not (empty_cache / "models").exists()


def test_training_by_recipe_reports_errors_and_size(mnist_train: Dataset, mnist_test: Dataset) -> None:
    small, test = mnist_train.subset(slice(500)), mnist_test.subset(slice(500))
    recipe = zoo.recipe("softmax1e-1", small)
    recipe = replace(recipe, trainer_arguments={**recipe.trainer_arguments, "max_iterations": 20})
    first, second = (checkpoint.train(recipe, small, test, device=torch.device("cpu")) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.report["parameters"] == 7850
    assert first.report["train_error"] < 0.2
    assert first.report["train_error"] == models.error_rate(first.network(), small.images, small.labels)
    assert first.report["test_error"] == models.error_rate(first.network(), test.images, test.labels)
