"""The space of a sweep: its points, their names, and the recipes they stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.studies.architectures import space
from advlab.studies.architectures.space import Point, Space

SPACE = Space({"softmax": 1, "relu50-20-10": 3}, (1e-5, 1e-2), per_layer=False, seeds=(4, 5))


class Trial:
    """What Optuna asks with, answering the largest of everything."""

    def __init__(self, number: int, architecture: str) -> None:
        self.number, self.architecture = number, architecture
        self.asked: list[str] = []

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        self.asked.append(name)
        assert self.architecture in choices
        return self.architecture

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        self.asked.append(name)
        assert low < high
        assert log
        return high / 3


@pytest.mark.parametrize(
    ("point", "name"),
    [
        (Point("softmax", (1e-4,), 0), "softmaxλ1e-4#0"),
        (Point("softmax", (1.0,), 3), "softmaxλ1#3"),
        (Point("fc100-100-10", (1e-5, 1e-5, 1e-5), 3), "fc100-100-10λ1e-5#3"),
        (Point("relu5-10", (3.16e-4, 0.5), 1), "relu5-10λ3.16e-4_0.5#1"),
    ],
)
def test_names_tell_architecture_decay_and_seed(point: Point, name: str) -> None:
    assert point.name == name


def test_a_grid_has_every_setting_with_every_seed_that_makes_a_difference() -> None:
    names = [point.name for point in SPACE.grid()]
    assert names == ["softmaxλ1e-5#4", "softmaxλ1e-2#4"] + [
        f"relu50-20-10λ{decay}#{seed}" for decay in ("1e-5", "1e-2") for seed in (4, 5)
    ]


def test_a_grid_per_layer_has_every_combination() -> None:
    points = replace(SPACE, per_layer=True).grid()
    assert len(points) == 2 + 2**3 * 2
    assert len({point.name for point in points}) == len(points)
    assert Point("relu50-20-10", (1e-5, 1e-2, 1e-5), 5) in points


def test_random_points_are_distinct_within_bounds_and_those_of_their_seed() -> None:
    space = replace(SPACE, per_layer=True)
    points = space.random(40, seed=1)
    assert points == space.random(40, seed=1)
    assert points != space.random(40, seed=2)
    assert len({point.name for point in points}) == 40
    assert {point.architecture for point in points} == set(SPACE.architectures)
    for point in points:
        assert len(point.decays) == SPACE.architectures[point.architecture]
        assert all(1e-5 <= decay <= 1e-2 for decay in point.decays)
        assert all(float(f"{decay:.2e}") == decay for decay in point.decays)
    assert len({decay for point in points for decay in point.decays}) > 30
    same = {point.decays for point in SPACE.random(10, seed=1) if point.architecture != "softmax"}
    assert all(len(set(decays)) == 1 for decays in same)


def test_optuna_is_asked_for_what_matters_and_seeds_take_turns() -> None:
    point = SPACE.suggest(trial := Trial(3, "relu50-20-10"))["point"]
    assert trial.asked == ["architecture", "decay"]
    assert point == {"architecture": "relu50-20-10", "decays": (3.33e-3,) * 3, "seed": 5}
    replace(SPACE, per_layer=True).suggest(trial := Trial(0, "relu50-20-10"))
    assert trial.asked == ["architecture", "decay 0", "decay 1", "decay 2"]
    assert SPACE.suggest(Trial(3, "softmax"))["point"]["seed"] == 4


@pytest.mark.parametrize(
    ("architecture", "layers", "budget"),
    [
        ("softmax", 1, {"max_iterations": 30}),
        ("fc20-10", 2, {"max_iterations": 30}),
        ("relu20-30-10", 3, {"epochs": 2}),
        ("conv", 3, {"epochs": 2}),
    ],
)
def test_a_point_is_a_recipe_with_a_decay_for_every_layer(
    architecture: str, layers: int, budget: dict[str, Any], mnist_test: Dataset
) -> None:
    assert space.layers(architecture, mnist_test) == layers
    point = Point(architecture, (1e-3,) * layers, 7)
    recipe = point.recipe(mnist_test, epochs=2, max_iterations=30)
    is_convex = architecture == "softmax"  # such a model is one for all seeds
    assert (recipe.name, recipe.seed, recipe.split) == (point.name, 0 if is_convex else 7, "test")
    assert recipe.trainer_arguments["weight_decay"] == [1e-3] * layers
    assert budget.items() <= recipe.trainer_arguments.items()
    layer_count = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in recipe.build().modules())
    assert layer_count == layers
    other = replace(point, seed=8).recipe(mnist_test, epochs=2, max_iterations=30)
    assert (recipe.fingerprint == other.fingerprint) == is_convex


def test_networks_by_depth_and_width() -> None:
    assert space.networks(["sigmoid", "relu"], [1, 2], [50], 10) == [
        "fc50-10",
        "fc50-50-10",
        "relu50-10",
        "relu50-50-10",
    ]
    with pytest.raises(UserError, match="unknown activation 'gelu'; choose among sigmoid, relu"):
        space.networks(["gelu"], [1], [50], 10)


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ("resnet18", "unknown architecture 'resnet18'; choose softmax"),
        ("softmax1e-4", "unknown architecture 'softmax1e-4'"),
        ("ae400-10", "unknown architecture 'ae400-10'"),
        ("fc100-9", "has 9 outputs; mnist has 10 classes"),
    ],
)
def test_unknown_architectures_are_refused(architecture: str, sentence: str, mnist_test: Dataset) -> None:
    with pytest.raises(UserError, match=sentence):
        space.layers(architecture, mnist_test)
