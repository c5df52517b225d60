"""Small classifiers, trained once per session by the project's own trainers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advlab.attacks.result import Adversarial
from advlab.data import Dataset
from advlab.models.mlp import MLP
from advlab.training import full_batch


@pytest.fixture(scope="session")
def softmax(mnist_train: Dataset) -> nn.Module:
    """Logistic regression on 3,000 images: convex, so converged."""
    return _trained(MLP([784, 10]), mnist_train, weight_decay=1e-2)


@pytest.fixture(scope="session")
def sigmoid(mnist_train: Dataset) -> nn.Module:
    """A 784-40-40-10 sigmoid network on 3,000 images."""
    return _trained(MLP([784, 40, 40, 10]), mnist_train, weight_decay=1e-5, max_iterations=150)


def _trained(network: nn.Module, dataset: Dataset, **arguments: Any) -> nn.Module:
    full_batch.fit(network, dataset.subset(slice(3000)), seed=0, device=torch.device("cpu"), **arguments)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def right() -> Callable[..., tuple[Tensor, Tensor]]:
    """``right(model, dataset, n)``: the first n images that the model classifies correctly, with their labels."""

    def choose(model: nn.Module, dataset: Dataset, n: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            rows = (model(dataset.images[: 10 * n]).argmax(1) == dataset.labels[: 10 * n]).nonzero().squeeze(1)[:n]
        return dataset.images[rows], dataset.labels[rows]

    return choose


@pytest.fixture(scope="session")
def take() -> Callable[[Adversarial, Tensor], Adversarial]:
    """``take(result, rows)``: the result of some of the rows."""

    def choose(found: Adversarial, rows: Tensor) -> Adversarial:
        return Adversarial(*(getattr(found, name)[rows] for name in Adversarial.__slots__))

    return choose
