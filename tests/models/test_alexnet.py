"""AlexNet's variants and sizes, and its repeatable noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advlab.errors import UserError
from advlab.models import alexnet, counter_rng
from advlab.models.alexnet import AlexNet
from advlab.models.counter_rng import KeyedDropout


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("krizhevsky", 62_378_344), ("groups", 60_965_224), ("torchvision", 61_100_840)],
)
def test_sizes_are_the_published_ones(variant: alexnet.Variant, parameters: int) -> None:
    """torchvision's own count; Krizhevsky et al. say 60 million."""
    with torch.device("meta"):
        network = AlexNet(variant=variant)
    assert sum(weight.numel() for weight in network.parameters()) == parameters


@pytest.mark.parametrize("variant", ["krizhevsky", "groups", "torchvision"])
@pytest.mark.parametrize("size", [16, 32, 63, 64, 127, 128, 224])
def test_it_adapts_to_the_size(variant: alexnet.Variant, size: int) -> None:
    network = alexnet.classifier([0.5] * 3, [0.2] * 3, size, classes=7, variant=variant, width=0.05).eval()
    images = torch.rand(2, 3, size, size)
    assert network(images).shape == (2, 7)
    assert network(torch.rand(2, 3, size + 9, size + 9)).shape == (2, 7)


def test_towers_meet_in_the_third_layer_alone() -> None:
    groups = [module.groups for module in AlexNet(variant="groups", width=0.05) if isinstance(module, nn.Conv2d)]
    assert groups == [1, 2, 1, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "lenet"}, "unknown variant 'lenet' of AlexNet; choose krizhevsky, groups, torchvision"),
        ({"size": 15}, "images of 15 pixels; choose at least 16"),
        ({"width": 0.0}, "a width of 0; choose more than 0"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AlexNet(**arguments)  # type: ignore[arg-type]


def test_initial_weights_follow_the_seed() -> None:
    networks = [AlexNet(size=16, width=0.05) for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        alexnet.initialise(network, seed)
    first, same, other = (network[0].weight for network in networks)
    assert torch.equal(first, same)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_numbers_belong_to_their_key_whatever_the_batch() -> None:
    keys = counter_rng.keys(3, 1, torch.arange(4000))
    drawn = counter_rng.uniform(keys, 50, 1)
    assert torch.equal(drawn[17:19], counter_rng.uniform(keys[17:19], 50, 1))
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.005)
    assert drawn.std().item() == pytest.approx(12**-0.5, abs=0.005)
    neighbours = [drawn[:-1], drawn[1:], drawn.roll(1, 1)[1:], counter_rng.uniform(keys, 50, 2)[1:]]
    correlation = torch.corrcoef(torch.stack([part.flatten() for part in neighbours]))
    assert (correlation - torch.eye(4)).abs().max() < 0.01
    assert not torch.equal(keys, counter_rng.keys(3, 2, torch.arange(4000)))
    assert not torch.equal(keys, counter_rng.keys(4, 1, torch.arange(4000)))


def test_dropout_keeps_the_mean_and_is_only_for_training() -> None:
    dropout, values = KeyedDropout(0.25, stream=1), torch.ones(200, 100)
    counter_rng.give_keys(dropout, counter_rng.keys(0, 0, torch.arange(200)))
    dropped = dropout(values)
    assert torch.equal(dropped, dropout(values))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(dropout.eval()(values), values)
    counter_rng.give_keys(dropout, None)
    assert not torch.equal(dropout.train()(values), dropped)
