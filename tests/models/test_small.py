"""Small networks compute what their names say, start from the seed alone, and treat every image by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advlab.models.mlp import initialise
from advlab.models.small import Conv3x3, Quantised, ResNet, ViT, WinnersTakeAll

NETWORKS = {
    "conv3x3": lambda: Conv3x3(filters=(4, 6)),
    "kwta": lambda: Conv3x3(filters=(4, 6), activation="kwta", setting=0.2),
    "quantised": lambda: Conv3x3(filters=(4, 6), activation="quantised", setting=3),
    "resnet": lambda: ResNet(channels=1, width=4),
    "vit": lambda: ViT(width=8, blocks=2),
}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_generator_alone_decides_the_initial_weights(kind: str) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = NETWORKS[kind]()
        initialise(network, "glorot", torch.Generator().manual_seed(0))
        states.append(network.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_image_is_classified_by_itself_and_has_a_gradient(kind: str, images: torch.Tensor) -> None:
    network = NETWORKS[kind]().double().eval()
    x = images.double().requires_grad_()
    logits = network(x)
    assert logits.shape == (5, 10)
    torch.testing.assert_close(network(x[2:3]), logits[2:3])
    (gradient,) = torch.autograd.grad(logits[2].max(), x)
    assert gradient[2].abs().sum() > 0
    assert not gradient[[0, 1, 3, 4]].any()


def test_winners_take_all() -> None:
    units = torch.tensor([[[3.0, -1.0], [2.0, 0.5]], [[-4.0, -1.0], [-2.0, -3.0]]], requires_grad=True)
    passed = WinnersTakeAll(0.5)(units)
    assert passed.tolist() == [[[3.0, 0.0], [2.0, 0.0]], [[0.0, -1.0], [-2.0, 0.0]]]
    (gradient,) = torch.autograd.grad(passed.sum(), units)
    assert torch.equal(gradient, (passed != 0).float())


def test_quantised_levels_and_straight_through_gradient() -> None:
    units = torch.tensor([-1.0, 0.2, 0.9, 2.4, 5.0], requires_grad=True)
    passed = Quantised(bits=2, top=3.0)(units)
    torch.testing.assert_close(passed, torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0]))
    (gradient,) = torch.autograd.grad(passed.sum(), units)
    assert gradient.tolist() == [0, 1, 1, 1, 0]


def test_depth_and_width_of_a_resnet() -> None:
    network = ResNet(channels=3, depth=14, width=4)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == 14  # the last layer is linear
    assert [m.out_channels for m in convolutions][::4] == [4, 4, 8, 16]
