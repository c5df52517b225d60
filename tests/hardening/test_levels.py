"""A network is cut behind its activations, and its parts put together are the network."""

from __future__ import annotations

import math

import pytest
import torch

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.hardening import Levels
from advlab.models.alexnet import AlexNet
from advlab.models.convnet import ConvNet
from advlab.models.mlp import MLP


@pytest.mark.parametrize(("activation", "box"), [("sigmoid", (0, 1)), ("relu", (0, math.inf)), ("tanh", (-1, 1))])
def test_every_tail_goes_on_where_its_level_ends(
    activation: str, box: tuple[float, float], mnist_train: Dataset
) -> None:
    network = MLP([784, 20, 15, 10], activation, dropout=0.5).eval().requires_grad_(False)
    levels = Levels(network)
    images = mnist_train.images[:7]
    found = levels.activations(images)
    assert [x.shape[1] for x in found] == [1, 20, 15]
    assert levels.boxes == [(0, 1), box, box]
    for level, x in enumerate(found):
        assert torch.equal(levels.tail(level)(x), network(images))
        low, high = levels.boxes[level]
        assert low <= float(x.min()) <= float(x.max()) <= high


def test_the_cut_follows_training() -> None:
    network = MLP([4, 3, 2])
    levels = Levels(network)
    torch.nn.init.zeros_(network[3].weight)  # type: ignore[arg-type]
    assert float(levels.tail(1)(torch.ones(1, 3)).detach().abs().max()) == float(network[3].bias.detach().abs().max())  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (ConvNet(filters=2, hidden=4), [(1, 28, 28), (2, 24, 24), (4,), (10,)]),
        (
            AlexNet(classes=10, size=28, width=0.05, channels=1, variant="torchvision"),
            [(1, 28, 28), (4, 28, 28), (10, 13, 13), (20, 6, 6), (12, 6, 6), (12, 6, 6), (204,), (204,), (10,)],
        ),
        (
            torch.nn.Sequential(
                torch.nn.Sequential(torch.nn.Conv2d(1, 2, 5), torch.nn.BatchNorm2d(2), torch.nn.Tanh()),
                torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(288, 10)),
            ),
            [(1, 28, 28), (2, 24, 24), (10,)],
        ),
    ],
)
def test_maps_are_cut_before_they_are_pooled(
    network: torch.nn.Sequential, shapes: list[tuple[int, ...]], mnist_train: Dataset
) -> None:
    network.eval().requires_grad_(False)
    levels = Levels(network)
    assert levels.shapes(mnist_train.images) == shapes
    images = mnist_train.images[:5]
    for level, x in enumerate(levels.activations(images)):
        assert tuple(x.shape[1:]) == shapes[level]
        torch.testing.assert_close(levels.tail(level)(x), network(images))


def test_a_network_without_an_order_is_refused() -> None:
    class Odd(torch.nn.Module):
        pass

    with pytest.raises(UserError, match="Odd is not an nn"):
        Levels(Odd())
