"""Shapes, determinism and meaning of the networks."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from advlab.models import error_rate
from advlab.models.autoencoder import AutoencoderClassifier
from advlab.models.convnet import ConvNet
from advlab.models.external import Normalised, resized
from advlab.models.mlp import MLP, initialise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28), (0, 1, 28, 28)])
@pytest.mark.parametrize("widths", [[784, 10], [784, 30, 20, 10]])
def test_mlp_reads_images_of_any_shape(shape: tuple[int, ...], widths: list[int]) -> None:
    assert MLP(widths)(torch.rand(shape)).shape == (shape[0], 10)


def test_mlp_without_hidden_layer_is_affine() -> None:
    network = MLP([6, 3])
    a, b = torch.rand(2, 4, 6)
    torch.testing.assert_close(network((a + b) / 2), (network(a) + network(b)) / 2)


@pytest.mark.parametrize(("activation", "kind"), [("sigmoid", nn.Sigmoid), ("relu", nn.ReLU), ("tanh", nn.Tanh)])
def test_mlp_has_one_activation_between_layers(activation: str, kind: type[nn.Module]) -> None:
    network = MLP([8, 5, 4, 3], activation)
    assert sum(isinstance(m, kind) for m in network) == 2
    assert isinstance(network[-1], nn.Linear)


def test_mlp_dropout_is_only_for_training() -> None:
    network = MLP([8, 50, 3], dropout=0.5)
    images = torch.rand(4, 8)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_convnet_shapes(channels: int, size: int) -> None:
    network = ConvNet(channels, size, filters=4, hidden=8, classes=7)
    assert network(torch.rand(2, channels, size, size)).shape == (2, 7)


def test_autoencoder_shapes_and_ranges() -> None:
    network = AutoencoderClassifier(784, 40, 10)
    images = torch.rand(6, 1, 28, 28)
    code = network.encode(images)
    assert code.shape == (6, 40)
    assert ((code > 0) & (code < 1)).all()
    assert network.decode(code).shape == (6, 784)
    assert network(images).shape == (6, 10)
    torch.testing.assert_close(network(images.flatten(1)), network(images))


def test_reconstruction_loss_adds_up() -> None:
    network = AutoencoderClassifier(6, 3, 2)
    images = torch.rand(5, 6)
    plain = network.reconstruction_loss(images, 0.05, 0.0)
    reconstruction = torch.sigmoid(network.decode(network.encode(images)))
    expected = -(images * reconstruction.log() + (1 - images) * (1 - reconstruction).log()).sum() / 5
    torch.testing.assert_close(plain, expected)
    # the penalty vanishes where every unit is as active as wanted
    with torch.no_grad():
        network.encoder.weight.zero_()
        network.encoder.bias.zero_()
    half = network.reconstruction_loss(images, 0.5, 10.0) - network.reconstruction_loss(images, 0.5, 0.0)
    assert abs(half.item()) < 1e-5
    rare = network.reconstruction_loss(images, 0.1, 10.0) - network.reconstruction_loss(images, 0.1, 0.0)
    divergence = 0.1 * torch.tensor(0.2).log() + 0.9 * torch.tensor(1.8).log()
    torch.testing.assert_close(rare, 30 * divergence, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", ["glorot", "wide", "kaiming", "sparse"])
def test_initial_weights_follow_the_seed(scheme: str) -> None:
    first, second, other = MLP([20, 9, 4]), MLP([20, 9, 4]), MLP([20, 9, 4])
    for network, seed in ((first, 3), (second, 3), (other, 4)):
        initialise(network, scheme, seeded(seed))
    assert torch.equal(first[1].weight, second[1].weight)  # type: ignore[arg-type]
    assert not torch.equal(first[1].weight, other[1].weight)  # type: ignore[arg-type]
    assert (first[3].bias == 0).all()  # type: ignore[union-attr]


def test_initial_weights_have_their_schemes_moments() -> None:
    layer = nn.Linear(400, 300)
    initialise(nn.Sequential(layer, nn.Linear(300, 2)), "glorot", seeded())
    assert layer.weight.var().item() == pytest.approx(2 / 700, rel=0.05)
    initialise(nn.Sequential(layer, nn.Linear(300, 2)), "wide", seeded())
    assert layer.weight.var().item() == pytest.approx(16 * 2 / 700, rel=0.05)
    initialise(nn.Sequential(layer, nn.Linear(300, 2)), "kaiming", seeded())
    assert layer.weight.var().item() == pytest.approx(2 / 400, rel=0.05)
    initialise(nn.Sequential(layer, nn.Linear(300, 2)), "sparse", seeded())
    assert ((layer.weight != 0).sum(1) == 15).all()


def test_a_convex_model_starts_at_zero() -> None:
    network = MLP([5, 3])
    initialise(network, "glorot", seeded())
    assert (network[1].weight == 0).all()  # type: ignore[union-attr]


def test_unknown_initialisation() -> None:
    with pytest.raises(ValueError, match="unknown initialisation 'he'; choose glorot, wide, kaiming or sparse"):
        initialise(MLP([5, 3]), "he", seeded())


def test_normalised_keeps_the_box_for_attacks() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    network = Normalised(inner, [0.5, 0.4, 0.3], [0.2, 0.1, 0.3])
    images = torch.rand(3, 3, 2, 2)
    by_hand = torch.stack([(images[:, 0] - 0.5) / 0.2, (images[:, 1] - 0.4) / 0.1, (images[:, 2] - 0.3) / 0.3], 1)
    torch.testing.assert_close(network(images), inner(by_hand))
    assert set(network.state_dict()) == {"mean", "std", "network.1.weight", "network.1.bias"}


def test_normalised_resizes_what_has_another_size() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    network = Normalised(inner, [0.5] * 3, [0.2] * 3, size=8)
    own, larger = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 12, 10, requires_grad=True)
    assert torch.equal(network(own), inner((own - 0.5) / 0.2))
    network(larger).sum().backward()
    assert larger.grad is not None
    assert larger.grad.abs().min() > 0
    assert any(node.target is resized for node in fx.symbolic_trace(network).graph.nodes)


def test_error_rate_counts_and_restores_the_mode() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3))  # type: ignore[operator]
        network[0].bias.zero_()  # type: ignore[operator]
    network.train()
    images, labels = torch.eye(3).repeat(4, 1), torch.tensor([0, 1, 0]).repeat(4)
    assert error_rate(network, images, labels, batch_size=5) == pytest.approx(1 / 3)
    assert network.training
