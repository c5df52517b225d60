"""The readings of the paper's λ Σ w² / k."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from advlab.models.mlp import MLP
from advlab.training.decay import Convention, WeightDecay


def network() -> nn.Module:
    """4-3-2 with all weights 2 and all biases 5: Σ w² is 48 and 24."""
    net = MLP([4, 3, 2])
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.fill_(2.0 if name.endswith("weight") else 5.0)
    return net


@pytest.mark.parametrize(
    ("convention", "penalty"),
    [
        ("half", 0.5 * (0.1 * 48 + 0.01 * 24)),
        ("plain", 0.1 * 48 + 0.01 * 24),
        ("per-unit", 0.1 * 48 / 3 + 0.01 * 24 / 2),
    ],
)
def test_conventions_by_hand(convention: Convention, penalty: float) -> None:
    assert WeightDecay(network(), [0.1, 0.01], convention)().item() == pytest.approx(penalty)


def test_one_strength_serves_all_layers() -> None:
    net = network()
    assert WeightDecay(net, 0.1, "plain")().item() == WeightDecay(net, [0.1, 0.1], "plain")().item()
    assert WeightDecay(net, 0, "plain")().item() == 0


@pytest.mark.parametrize(("convention", "factor"), [("half", 1.0), ("plain", 2.0), ("per-unit", 2 / 3)])
def test_gradient_pulls_weights_and_spares_biases(convention: Convention, factor: float) -> None:
    net = network()
    WeightDecay(net, 0.1, convention)().backward()
    first = net[1]  # type: ignore[index]
    torch.testing.assert_close(first.weight.grad, 0.1 * factor * first.weight.detach())
    assert first.bias.grad is None


def test_convolutions_are_layers_too() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    assert WeightDecay(net, [1.0, 1.0], "per-unit")().item() == pytest.approx(18 / 2 + 40 / 5)


def test_as_many_strengths_as_layers() -> None:
    with pytest.raises(ValueError, match="3 weight decays for 2 layers; give one, or one per layer"):
        WeightDecay(network(), [1.0, 2.0, 3.0], "half")


def test_no_other_conventions() -> None:
    assert get_args(Convention) == ("half", "plain", "per-unit")
