"""Recipes out of files that anybody may have written: looked up, never run; built only for the weights beside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from advlab import models
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import Checkpoint, Recipe, checkpoint, external, registry, zoo

FULL_BATCH = "advlab.training.full_batch:fit"


def content(weights: dict[str, torch.Tensor] | None = None, **changes: Any) -> bytes:
    """A checkpoint file of a small network, its recipe changed."""
    values: dict[str, Any] = {
        "name": "tiny", "network": "advlab.models.mlp:MLP", "network_arguments": {"widths": [6, 3]},
        "trainer": FULL_BATCH, "trainer_arguments": {}, "data": "mnist", "split": "train", "seed": 0,
    } | changes  # fmt: skip
    held = weights or {"1.weight": torch.zeros(3, 6), "1.bias": torch.zeros(3)}
    return save(held, {"recipe": json.dumps(values), "report": "{}"})


def test_recipes_of_every_kind_are_looked_up(mnist_test: Dataset) -> None:
    for name in (*zoo.SHOWN_NAMES, "softmax1e-3-plain"):
        recipe = zoo.recipe(name, mnist_test)
        with torch.device("meta"):
            weights = dict(recipe.build().state_dict())
        recipe.require_fits(weights)
        assert callable(registry.find("trainer", recipe.trainer))


def test_alexnet_of_an_earlier_study_is_known() -> None:
    settings = {"mean": [0.5], "std": [0.2], "size": 28, "classes": 3, "dropout": 0.5, "variant": "groups"}
    arguments: dict[str, Any] = {**settings, "width": 0.1, "channels": 1}
    recipe = Recipe(
        name="a", network="advlab.models.alexnet:classifier", network_arguments=arguments,
        trainer="advlab.training.image_classifier:fit",
    )  # fmt: skip
    made = Checkpoint(recipe, dict(recipe.build().state_dict()), {})
    again = Checkpoint.from_bytes(made.to_bytes()).network()
    assert again(torch.rand(2, 1, 28, 28)).shape == (2, 3)


@pytest.mark.parametrize(
    "network",
    [
        "os:system", "subprocess:run", "builtins:exec", "advlab.models.external:load", "pkgutil:resolve_name",
        "advlab.models.alexnet:random", "advlab.models.mlp:MLP.__init__", "advlab.models.mlp", "", "torch.nn:Linear",
        "advlab.training.full_batch:fit",  # a trainer is not a network
    ],
)  # fmt: skip
def test_what_is_not_in_the_table_is_one_sentence(network: str) -> None:
    found = Checkpoint.from_bytes(content(network=network, network_arguments={"command": "true"}))
    with pytest.raises(
        UserError, match=r"^model 'tiny' cannot be built: network '.*' is unknown here, so it is not run"
    ):
        found.network()


def test_nothing_is_imported_for_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = Checkpoint.from_bytes(content(network="planted:make", trainer="planted:fit"))
    with pytest.raises(UserError, match="unknown here"):
        found.network()
    assert "planted" not in sys.modules


def test_an_unknown_trainer_matters_only_to_who_trains(mnist_test: Dataset) -> None:
    found = Checkpoint.from_bytes(content(trainer="os:system"))
    assert found.network()(torch.rand(2, 6)).shape == (2, 3)
    with pytest.raises(UserError, match="trainer 'os:system' is unknown here, so it is not run"):
        checkpoint.train(found.recipe, mnist_test, mnist_test, device=torch.device("cpu"))


def test_code_that_this_process_registers_is_found() -> None:
    def make(width: int) -> nn.Module:
        return nn.Linear(width, 2)

    held = {"weight": torch.ones(2, 4), "bias": torch.zeros(2)}
    found = Checkpoint.from_bytes(content(held, network="mine", network_arguments={"width": 4}))
    with pytest.raises(UserError, match="register it first"):
        found.network()
    models.register("network", "mine", make)
    try:
        assert torch.equal(found.network()(torch.ones(1, 4)), torch.full((1, 2), 4.0))
    finally:
        del registry._registered["network", "mine"]
    with pytest.raises(UserError, match="one of advlab's own"):
        models.register("network", "advlab.models.mlp:MLP", make)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network_arguments": {"widths": [10**6, 10**6]}}, "needs far more weights than its file has"),
        ({"network_arguments": {"widths": [6, *[1] * 9000, 3]}}, "needs far more weights than its file has"),
        ({"network_arguments": {"widths": [6, *[1] * 10_000, 3]}}, "too many arguments"),
        ({"network_arguments": {"widths": [6, 10**40]}}, "a whole number of 133 bits"),
        ({"network_arguments": {"widths": [6, 4, 3]}}, "needs '1.bias' of shape (4,), its file has (3,)"),
        ({"network_arguments": {"widths": [6, 3], "dropout": float("nan")}}, "has nan, which is not a number"),
        ({"network_arguments": {"widths": "63"}}, "argument widths='63' is not of the type"),
        ({"network_arguments": {"widths": [6.5, 3]}}, "argument widths='[6.5, 3]' is not of the type"),
        ({"network_arguments": {"widths": [6, 3], "activation": 1}}, "argument activation='1' is not of the type"),
        ({"network_arguments": {"widths": [6, 3], "out": "/tmp/x"}}, "arguments are not those of its network"),
        ({"network_arguments": {}}, "arguments are not those of its network"),
        ({"network_arguments": {"widths": [6, 4, 3], "activation": "exec"}}, "arguments do not give a network"),
        ({"network_arguments": {"widths": [[[[[[[[[6]]]]]]]]]}}, "too many arguments"),
        (
            {"network": "advlab.models.convnet:ConvNet", "network_arguments": {"size": 10**7}},
            "needs far more weights than its file has",
        ),
    ],
)  # fmt: skip
def test_arguments_are_those_of_the_weights_beside_them(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        Checkpoint.from_bytes(content(**changes)).network()
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""}, {"name": 3}, {"name": "a\nb"}, {"name": "a\x1b[2J"}, {"name": "\ud800"}, {"name": "x" * 300},
        {"name": "file:/tmp/x.py:make"}, {"name": "python:os:system"}, {"name": "study:/tmp"}, {"seed": "0"},
        {"name": "untrusted:file:x.py:make"}, {"network": None}, {"network_arguments": [1]}, {"seed": True},
    ],
)  # fmt: skip
def test_a_recipe_of_other_types_or_names_is_not_read(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a complete advlab checkpoint"):
        Checkpoint.from_bytes(content(**changes))


def test_metadata_nested_without_end_is_a_value_error() -> None:
    deep = save({"x": torch.zeros(1)}, {"recipe": "[" * 100_000, "report": "{}"})
    with pytest.raises(ValueError, match="not a complete advlab checkpoint"):
        Checkpoint.from_bytes(deep)


@pytest.mark.parametrize(
    ("name", "expected"), [("file:a.py:b", True), ("python:a:b", True), ("torchvision:x", False), ("conv", False)]
)
def test_what_is_code(name: str, expected: bool) -> None:
    assert external.is_code(name) is expected


@pytest.mark.parametrize("obstacle", ["file", "unreadable"])
def test_a_cache_that_cannot_be_used_is_a_warning(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = Checkpoint.from_bytes(content())
    monkeypatch.setenv("ADVLAB_CACHE", str(tmp_path))
    if obstacle == "file":
        (tmp_path / "models").write_text("in the way of the folder")
    else:
        (tmp_path / "models" / f"{found.recipe.fingerprint}.safetensors").mkdir(parents=True)
    checkpoint.save(found)
    assert "tiny is not kept in the cache" in caplog.text
    assert checkpoint.find(found.recipe) is None
    assert not list(tmp_path.rglob(".*"))
