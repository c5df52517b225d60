"""Hardening makes examples within its ball and a network that withstands them; distillation saturates the softmax."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from advlab.data import Dataset
from advlab.models import error_rate
from advlab.models.mlp import MLP
from advlab.training import minibatch, robust
from advlab.training.robust import Norm

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(few: Dataset) -> nn.Module:
    network = MLP([784, 32, 10], "relu")
    minibatch.fit(network, few, seed=0, device=CPU, epochs=15, batch_size=50, learning_rate=5e-3)
    return network


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 1.5)])
def test_examples_stay_within_ball_and_box_and_raise_the_loss(
    norm: Norm, radius: float, plain: nn.Module, few: Dataset
) -> None:
    x, y = few.images[:50], few.labels[:50]
    examples = robust.pgd(plain, x, y, norm, radius, steps=5)
    moved = (examples - x).flatten(1)
    lengths = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
    assert (lengths <= radius * (1 + 1e-5)).all()
    assert lengths.max() > 0.9 * radius
    assert examples.min() >= 0
    assert examples.max() <= 1
    clean, attacked = (functional.cross_entropy(plain(rows), y) for rows in (x, examples))
    assert attacked > clean + 1


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 1.5)])
def test_a_hardened_network_withstands_more(norm: Norm, radius: float, plain: nn.Module, few: Dataset) -> None:
    network = MLP([784, 32, 10], "relu")
    robust.harden(network, few, seed=0, device=CPU, norm=norm, radius=radius, epochs=15, batch_size=50)

    def error(attacked: nn.Module) -> float:
        examples = robust.pgd(attacked, few.images, few.labels, norm, radius, steps=10)
        return error_rate(attacked, examples, few.labels)

    assert error(network) < 0.5 < 0.7 < error(plain)
    assert not network.training


def test_attacking_leaves_batch_statistics_alone(few: Dataset) -> None:
    normalised = nn.BatchNorm1d(784)
    network = nn.Sequential(nn.Flatten(), normalised, nn.Linear(784, 10))
    report = robust.harden(network, few, seed=0, device=CPU, epochs=1, batch_size=100, steps=3)
    assert normalised.num_batches_tracked == report["iterations"] == 4


def test_hardening_repeats_itself_to_the_bit(few: Dataset) -> None:
    def fit(seed: int) -> torch.Tensor:
        network = MLP([784, 10])
        robust.harden(network, few, seed=seed, device=CPU, epochs=1)
        return network[1].weight.detach()  # type: ignore[union-attr]

    assert torch.equal(fit(0), fit(0))
    assert not torch.equal(fit(0), fit(1))


def test_a_distilled_network_is_right_and_saturated(plain: nn.Module, few: Dataset) -> None:
    network = MLP([784, 32, 10], "relu")
    options = {"epochs": 30, "batch_size": 50, "learning_rate": 1e-2}
    robust.distil(network, few, seed=0, device=CPU, temperature=20, **options)
    assert error_rate(network, few.images, few.labels) < 0.05

    def sure(classifier: nn.Module) -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(classifier(few.images), few.labels, reduction="none").median())

    assert sure(network) < 1e-2 * sure(plain)
