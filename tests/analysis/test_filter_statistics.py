"""Localisation and orientation of filters whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from advlab.analysis.filter_statistics import localisation, orientation

SIDE = 8


def profile(angle: float, elongation: float, frequency: float) -> Tensor:
    """[3, 8, 8]: a Gabor function in opponent colours, across ``angle``."""
    places = torch.arange(SIDE, dtype=torch.float64) - 3.5
    down, along = torch.meshgrid(places, places, indexing="ij")
    across = math.cos(angle) * along + math.sin(angle) * down
    other = math.cos(angle) * down - math.sin(angle) * along
    envelope = torch.exp(-0.5 * (across.square() + (other / elongation).square()))
    return torch.tensor([1.0, -1.0, 0.2])[:, None, None] * envelope * torch.cos(2 * math.pi * frequency * across)


@pytest.mark.parametrize("angle", [0.0, 0.6, math.pi / 2, 2.5])
def test_an_edge_is_oriented_whatever_its_angle_and_a_spot_is_not(angle: float) -> None:
    edge, spot = orientation(torch.stack([profile(angle, 2, 0.2), profile(angle, 1, 0)])).tolist()
    assert edge > 0.6
    assert spot < 0.1


def test_noise_is_neither_localised_nor_oriented() -> None:
    noise = torch.randn(200, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert 0.25 < float(localisation(noise).median()) < 0.4
    assert float(orientation(noise).median()) < 0.3


def test_localisation_is_a_share_of_energy() -> None:
    inside, across = torch.zeros(2, 2, 3, SIDE, SIDE).unbind(1)
    inside[0, :, 1, 3:5] = 1
    across[0, 0, 0, 0], across[0, 1, 7, 7] = 1, math.sqrt(3)
    filters = torch.stack([inside[0], across[0], torch.zeros(3, SIDE, SIDE)])
    torch.testing.assert_close(localisation(filters), torch.tensor([1.0, 0.75, 0.0]))
    assert float(orientation(filters)[2]) < 1e-6  # a filter of zeros
