"""The measures of why examples transfer, on models whose gradients are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from advlab.analysis import alignment
from advlab.models.mlp import MLP


def linear(weight: torch.Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], len(weight), bias=False)
    layer.weight.data = weight
    return layer


def test_gradients_are_those_of_the_loss() -> None:
    torch.manual_seed(0)
    model, images, labels = MLP([6, 5, 3]).double(), torch.rand(7, 1, 2, 3).double(), torch.arange(7) % 3
    found = alignment.input_gradients(model, images, labels, batch_size=3)
    for row in range(7):
        loss = lambda x, y=labels[row]: nn.functional.cross_entropy(model(x), y[None])  # noqa: E731
        assert found.loss[row] == pytest.approx(loss(images[row : row + 1]).item())
        exact = torch.autograd.functional.jacobian(loss, images[row : row + 1]).flatten()
        torch.testing.assert_close(found.gradient[row], exact)


def test_alignment_is_a_cosine_and_size_a_norm() -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(20, 4), torch.zeros(20, dtype=torch.long)
    weight = torch.randn(3, 4)
    same, opposite = (alignment.input_gradients(linear(w), images, labels) for w in (weight, -weight))
    assert alignment.gradient_alignment(same, same) == pytest.approx(1)
    assert alignment.gradient_alignment(same, opposite) < 0
    assert alignment.gradient_size(same) == pytest.approx(float(same.gradient.square().sum(1).sqrt().mean()))


def test_replicas_that_agree_do_not_vary() -> None:
    images, labels = torch.rand(20, 4), torch.zeros(20, dtype=torch.long)
    one, other = (alignment.input_gradients(linear(torch.full((3, 4), v)), images, labels) for v in (1.0, 2.0))
    assert alignment.loss_variability([one, one]) == 0
    shifted = alignment.Gradients(other.loss + 2, other.gradient)
    assert alignment.loss_variability([other, shifted]) == pytest.approx(2)


def test_a_linear_law_is_recovered_and_noise_is_not_explained() -> None:
    generator = np.random.default_rng(0)
    a, b, noise = generator.normal(size=(3, 60))
    sources = [f"model {k % 6}" for k in range(60)]
    exact = alignment.regress({"a": a, "b": b}, 2 * a + 0.01 * noise, sources)
    assert exact.r2 > 0.999
    assert exact.left_out_r2 > 0.999
    assert exact.weights["a"] == pytest.approx(1, abs=0.01)
    assert exact.p["a"] < 1e-10
    random = alignment.regress({"a": a, "b": b}, noise, sources)
    assert random.r2 < 0.2
    assert random.p["a"] > 0.01
    with pytest.raises(ValueError, match="too few"):
        alignment.regress({"a": a[:2], "b": b[:2]}, a[:2], sources[:2])
