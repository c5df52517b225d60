"""QuocNet's parts against their definitions, and that learning without labels learns."""

from __future__ import annotations

import pytest
import torch

from advlab import data
from advlab.errors import UserError
from advlab.models.quocnet import (
    BinaryClassifier,
    ContrastNormalisation,
    L2Pool,
    QuocNet,
    QuocNetShape,
    StageShape,
    Whitening,
    parameter_count,
    preset,
)
from advlab.optim.adam_mini import AdamMini

TINY = preset("quocnet-tiny")


def test_the_papers_network_has_a_billion_weights() -> None:
    """Nothing is allocated for the count."""
    assert parameter_count(preset("quocnet-1b")) == 8 * (183**2 * 972 + 162**2 * 2592 + 141**2 * 2592) == 1_216_858_464


def test_an_unknown_model_names_the_choices() -> None:
    with pytest.raises(UserError, match="'quocnet'; choose one of quocnet-1b, quocnet-small"):
        preset("quocnet")


def test_stages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="20 pixels are too small for 2 stages"):
        QuocNet(QuocNetShape(size=20, stages=(StageShape(field=12), StageShape(field=12))), device="meta", seed=None)


def test_l2_pooling() -> None:
    maps = torch.randn(2, 3, 7, 7)
    pooled = L2Pool(7, 3, 2)(maps)
    assert pooled.shape == (2, 3, 3, 3)
    torch.testing.assert_close(pooled[1, 2, 1, 2], (maps[1, 2, 2:5, 4:7].square().sum() + 1e-4).sqrt())


def test_contrast_normalisation_is_that_of_le_et_al() -> None:
    layer = ContrastNormalisation(9, 9, 5)
    layer.reset()
    maps = torch.rand(1, 2, 9, 9)
    found = layer(maps, 0, 9)
    window = layer.window[0, 0]
    assert float(window.sum()) == pytest.approx(1)

    def centred(row: int, column: int) -> torch.Tensor:
        part = maps[0, :, row - 2 : row + 3, column - 2 : column + 3]
        return maps[0, :, row, column] - (window * part.mean(0)).sum()

    around = torch.stack([torch.stack([centred(4 + i, 4 + j) for j in range(-2, 3)]) for i in range(-2, 3)])
    deviation = (window * around.square().mean(2)).sum().sqrt()
    torch.testing.assert_close(found[0, :, 4, 4], centred(4, 4) / deviation)
    constant = layer(torch.full((1, 2, 9, 9), 0.7), 0, 9)
    assert float(constant.abs().max()) < 1e-3  # also at the border


def test_whitening_whitens() -> None:
    images = data.load("cifar10", "test").images[:300]
    layer = Whitening(3, 32, 5)
    layer.reset()
    torch.testing.assert_close(layer(images, 0, 32), images)
    layer.fit(images, floor=0.001)
    inner = layer(images, 0, 32)[:, :, 3:-3, 3:-3]
    neighbours = torch.stack([inner[..., :-1].flatten(), inner[..., 1:].flatten()])
    raw = torch.stack([images[..., :-1].flatten(), images[..., 1:].flatten()])
    assert float(raw.corrcoef()[0, 1]) > 0.9
    assert abs(float(neighbours.corrcoef()[0, 1])) < 0.3


def test_fresh_filters_have_the_spectrum_of_the_whitened_images() -> None:
    """Nothing in the directions that photos lack, such as a chequerboard of opponent colours."""
    images = data.load("cifar10", "test").images[:300]
    network = QuocNet(QuocNetShape(size=32, whiten=7, stages=(StageShape(field=8, stride=2),)), seed=0)
    rough = network.chain()[0].local.weight.detach().clone()
    network.fit_whitening(images)
    smooth = network.chain()[0].local.weight.detach()
    signs = torch.tensor([1.0, -1.0]).repeat(4)
    board = torch.einsum("x,y,c->xyc", signs, signs, torch.tensor([1.0, -1.0, 0.0])).flatten()
    there, before = ((board * weight).sum(3).norm() for weight in (smooth, rough))
    assert there < 0.1 * before
    lengths = smooth.norm(dim=3)
    torch.testing.assert_close(lengths, network.chain()[0].local.length.expand_as(lengths))
    assert 0.5 < float(lengths[0, 0, 0]) < 1


def test_stages_learn_from_their_own_costs_unless_jointly() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for joint in (False, True):
        network = QuocNet(TINY)
        _, second, _ = network.objectives(images, joint)
        second.activity.backward()
        assert (network.chain()[0].local.weight.grad is not None) == joint
        assert network.chain()[1].local.weight.grad is not None


def test_equal_seeds_give_equal_weights() -> None:
    one, two, other = QuocNet(TINY, seed=1), QuocNet(TINY, seed=1), QuocNet(TINY, seed=2)
    assert torch.equal(one.stages[1].local.weight, two.stages[1].local.weight)  # type: ignore[union-attr]
    assert not torch.equal(one.stages[1].local.weight, other.stages[1].local.weight)  # type: ignore[union-attr]


def test_the_cost_falls_and_reconstruction_improves() -> None:
    images = data.load("cifar10", "test").images[:64]
    network = QuocNet(TINY)
    network.fit_whitening(images)
    optimiser = AdamMini(network.parameters(), 0.05)
    costs, errors = [], []
    for _ in range(12):
        parts = network.objectives(images)
        cost = network.loss(parts, 0.1)
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
        network.keep_lengths()
        costs.append(float(cost.detach()))
        errors.append([float(part.error.detach() / part.energy.detach()) for part in parts])
    assert costs[-1] < 0.5 * costs[0]
    assert all(last < first for first, last in zip(errors[0], errors[-1], strict=True))


def test_a_binary_classifier_reads_the_sign_of_the_score() -> None:
    classifier = BinaryClassifier(lambda images: images.flatten(1), torch.tensor([1.0, -1.0]), torch.tensor(0.5))
    logits = classifier(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
    assert logits.argmax(1).tolist() == [1, 0]
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], torch.tensor([1.5, -2.5]))
