"""The penalty's norms, its gradient, and what training with it does."""

from __future__ import annotations

import pytest
import torch
from layer_penalties import LipschitzPenalty, fit, parseval_penalty
from torch import nn

from advlab.analysis import frame_bounds
from advlab.attacks import minimum_norm
from advlab.data import Dataset
from advlab.models.mlp import MLP


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(4 * 16, 5)
    )


def test_its_norms_are_those_of_the_layers_and_improve_from_call_to_call() -> None:
    model = network()
    penalty = LipschitzPenalty(model, (1, 8, 8))
    first = penalty.norms()
    for _ in range(200):
        last = penalty.norms()
    assert (first <= last * (1 + 1e-5)).all()
    assert float(last[1].detach()) == pytest.approx(frame_bounds(model[4]).upper, rel=1e-4)
    assert float(last[0].detach()) <= frame_bounds(model[0], 8, padding="zeros").upper * (1 + 1e-5)
    assert model.training


def test_its_gradient_lowers_the_norms_to_the_target() -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4
    penalty = LipschitzPenalty(model, (1, 8, 8), target=0.8)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        penalty().backward()
        optimiser.step()
    penalty.iterations = 200
    torch.testing.assert_close(penalty.norms().max().detach(), torch.tensor(0.8), atol=0.02, rtol=0)


def test_parseval_is_zero_for_orthonormal_rows_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3))
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    assert float(parseval_penalty(model).detach()) == pytest.approx(0, abs=1e-10)
    with torch.no_grad():
        model[0].weight *= 2
    assert float(parseval_penalty(model).detach()) == pytest.approx(9.0, rel=1e-5)


@pytest.mark.parametrize("kind", ["lipschitz", "parseval"])
def test_training_with_it_moves_the_boundary_away(kind: str, mnist_train: Dataset, mnist_test: Dataset) -> None:
    few = mnist_train.subset(slice(3000))
    distances, norms = [], []
    for strength in (0.0, 0.2):
        model = MLP([784, 50, 10], activation="relu")
        report = fit(model, few, seed=0, device=torch.device("cpu"), penalty=strength, kind=kind, epochs=6)  # type: ignore[arg-type]
        images, labels = mnist_test.images[:200], mnist_test.labels[:200]
        with torch.no_grad():
            right = model(images).argmax(1) == labels
        model.requires_grad_(False)
        found = minimum_norm(model, images[right], labels[right])
        distances.append(float(found.l2.median()))
        norms.append(report["largest_norm"])
        assert float(right.float().mean()) > 0.85
    assert norms[1] < norms[0]
    assert distances[1] > 1.1 * distances[0]
