"""Names to recipes, and what makes two recipes the same."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from torch import nn

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import PAPER, Recipe, zoo

RECIPE = Recipe(
    name="a",
    network="advlab.models.mlp:MLP",
    network_arguments={"widths": [784, 10]},
    trainer="advlab.training.full_batch:fit",
    trainer_arguments={"weight_decay": 1e-4},
)
OTHER = {
    "network": "advlab.models.convnet:ConvNet",
    "network_arguments": {"widths": [784, 20, 10]},
    "trainer": "advlab.training.minibatch:fit",
    "trainer_arguments": {"weight_decay": 1e-3},
    "data": "fashion_mnist",
    "split": "p1",
    "seed": 1,
}


def test_every_field_but_the_name_is_part_of_the_identity() -> None:
    assert set(OTHER) == {field.name for field in fields(Recipe)} - {"name"}
    assert replace(RECIPE, name="b").fingerprint == RECIPE.fingerprint
    changed = {replace(RECIPE, **{field: value}).fingerprint for field, value in OTHER.items()}  # type: ignore[arg-type]
    assert len(changed | {RECIPE.fingerprint}) == len(OTHER) + 1


def test_identity_survives_json_and_the_order_of_keys() -> None:
    again = Recipe(**json.loads(json.dumps(RECIPE.to_json())))
    assert again == RECIPE
    assert again.fingerprint == RECIPE.fingerprint
    first = replace(RECIPE, trainer_arguments={"a": 1, "b": 2})
    assert first.fingerprint == replace(RECIPE, trainer_arguments={"b": 2, "a": 1}).fingerprint


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("softmax1e-4", []),
        ("softmax1", []),
        ("softmax0.5", []),
        ("fc100-100-10", [100, 100]),
        ("fc123-456-10", [123, 456]),
        ("fc7-10", [7]),
        ("relu300-150-10", [300, 150]),
    ],
)
def test_widths_come_from_the_name(name: str, hidden: list[int], mnist_test: Dataset) -> None:
    recipe = zoo.recipe(name, mnist_test, seed=5)
    assert (recipe.name, recipe.data, recipe.split) == (name, "mnist", "test")
    widths = [module.out_features for module in recipe.build().modules() if isinstance(module, nn.Linear)]
    assert widths == [*hidden, 10]


def test_weight_decays_of_table_1(mnist_test: Dataset) -> None:
    def decay(name: str) -> object:
        return zoo.recipe(name, mnist_test).trainer_arguments["weight_decay"]

    assert [decay(name) for name in PAPER[:3]] == [1e-4, 1e-2, 1.0]
    assert decay("fc100-100-10") == decay("fc200-200-10") == [1e-5, 1e-5, 1e-6]
    assert decay("ae400-10") == 1e-6


@pytest.mark.parametrize("name", zoo.SHOWN_NAMES)
def test_shown_names_build_classifiers_of_the_data(name: str, mnist_test: Dataset) -> None:
    network = zoo.recipe(name, mnist_test).build().eval()
    assert network(mnist_test.images[:2]).shape == (2, 10)


def test_equal_models_under_two_names_are_one(mnist_test: Dataset) -> None:
    first, second = zoo.recipe("softmax1e-4", mnist_test), zoo.recipe("softmax0.0001", mnist_test)
    assert first.fingerprint == second.fingerprint


def test_expand() -> None:
    assert zoo.expand("paper") == list(PAPER)
    assert zoo.expand("conv, paper ,softmax1,conv") == ["conv", *PAPER]
    assert zoo.expand("file:/a/b.py:make") == ["file:/a/b.py:make"]


@pytest.mark.parametrize("names", ["", " , "])
def test_expand_refuses_nothing(names: str) -> None:
    with pytest.raises(UserError, match="`models` names no model"):
        zoo.expand(names)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet", "unknown model 'resnet'; choose among softmax1e-4"),
        ("softmax", "unknown model 'softmax'"),
        ("fc10", "unknown model 'fc10'"),
        ("fc100-100-10x", "unknown model"),
        ("conv2", "unknown model"),
        ("softmax1e-4e", "'1e-4e' is not a weight decay; write e.g. softmax1e-4"),
        ("softmax1e999", "'1e999' is not a weight decay"),
        ("fc100-100-9", "has 9 outputs; mnist has 10 classes, so the name must end in -10"),
        ("relu0-10", "no width may be 0"),
        ("ae400-11", "has 11 outputs"),
        ("conv3x3-16-0", "no layer may be empty"),
        ("conv3x3-4-4-4-4", "its poolings must fit 28 pixels"),
        ("conv3x3-16-kwta1.5", "write e.g. -kwta0.2"),
        ("conv3x3-16-quantised2.5", "-quantised3"),
        ("resnet-9", "its depth must be 8, 14, 20"),
        ("vit-30-4", "its width must be a multiple of 4"),
        ("fc100-10-linf0.3", "fc100-10 is not trained by minibatches"),
        ("conv-l2-0", "0 must be positive"),
        ("conv-linf", "unknown model 'conv-linf'"),
    ],
)
def test_refusals_name_the_model_and_the_mend(name: str, sentence: str, mnist_test: Dataset) -> None:
    with pytest.raises(UserError, match=sentence):
        zoo.recipe(name, mnist_test)


def test_a_softmax_may_name_another_reading_of_the_papers_text(mnist_test: Dataset) -> None:
    def told(name: str) -> tuple[float, str, float]:
        given = zoo.recipe(name, mnist_test).trainer_arguments
        return given["weight_decay"], given["decay_convention"], given["loss_tolerance"]

    assert told("softmax1e-4") == (1e-4, "half", 1e-7)
    assert told("softmax1e-4-plain") == (1e-4, "plain", 1e-7)
    assert told("softmax1-per-unit-early") == (1.0, "per-unit", 1e-4)


def test_a_model_may_name_the_split_it_is_trained_on(mnist_test: Dataset) -> None:
    assert zoo.training_split("fc100-100-10@p1@3", "train") == "p1@3"
    assert zoo.training_split("fc100-100-10", "train") == "train"
    named, plain = (zoo.recipe(name, mnist_test) for name in ("softmax1@p1", "softmax1"))
    assert named.fingerprint == plain.fingerprint


def test_a_convex_model_has_no_seed_of_its_own(mnist_test: Dataset) -> None:
    for name, is_convex in (("softmax1e-2", True), ("fc5-10", False)):
        prints = {zoo.recipe(name, mnist_test, seed=seed).fingerprint for seed in range(3)}
        assert (len(prints) == 1) == is_convex


def test_the_end_of_a_name_says_how_a_network_is_trained(mnist_test: Dataset) -> None:
    plain, linf, l2, distilled = (
        zoo.recipe(name, mnist_test)
        for name in ("conv3x3-4-6", "conv3x3-4-6-linf0.3", "conv3x3-4-6-l2-1.5", "conv3x3-4-6-distilled50")
    )
    assert plain.network_arguments == linf.network_arguments == distilled.network_arguments
    assert [recipe.trainer.rpartition(":")[2] for recipe in (plain, linf, l2, distilled)] == [
        "fit", "harden", "harden", "distil",
    ]  # fmt: skip
    assert (linf.trainer_arguments["norm"], linf.trainer_arguments["radius"]) == ("linf", 0.3)
    assert (l2.trainer_arguments["norm"], l2.trainer_arguments["radius"]) == ("l2", 1.5)
    assert distilled.trainer_arguments["temperature"] == 50
    # hardening takes epochs and a rate of its own, distillation those of the network
    assert linf.trainer_arguments["epochs"] > plain.trainer_arguments["epochs"] == distilled.trainer_arguments["epochs"]


def test_activations_come_from_the_name(mnist_test: Dataset) -> None:
    def told(name: str) -> tuple[object, object, object]:
        given = zoo.recipe(name, mnist_test).network_arguments
        return given["filters"], given["activation"], given.get("setting")

    assert told("conv3x3-4-6") == ([4, 6], "relu", None)
    assert told("conv3x3-4-kwta0.2") == ([4], "kwta", 0.2)
    assert told("conv3x3-4-6-quantised3-linf0.1") == ([4, 6], "quantised", 3)
