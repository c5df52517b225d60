"""Full-batch L-BFGS reaches the optimum and says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional

from advlab.data import Dataset
from advlab.models.mlp import MLP
from advlab.training import full_batch
from advlab.training.decay import WeightDecay

CPU = torch.device("cpu")


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize(
    ("dtype", "tolerance", "error"),
    [
        (torch.float64, 1e-7, 1e-9),
        (torch.float32, 1e-4, 1e-5),  # the float32 loss stops falling at gradients of 1e-5 to 2e-5, as the CPU rounds
    ],
)
def test_softmax_reaches_the_convex_optimum(few: Dataset, dtype: torch.dtype, tolerance: float, error: float) -> None:
    torch.manual_seed(0)
    network = MLP([784, 10]).to(dtype)
    report = full_batch.minimise_cross_entropy(
        network,
        few.images.to(dtype),
        few.labels,
        penalty=WeightDecay(network, 0.1, "half"),
        progress=None,
        gradient_tolerance=tolerance,
        loss_tolerance=0.0,
        max_iterations=5000,
    )
    assert "PROJECTED GRADIENT" in report["stop"]
    assert report["gradient_norm"] <= tolerance

    images, labels = few.images.flatten(1).double(), few.labels

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(vector).requires_grad_()
        weight, bias = parameters[:7840].view(10, 784), parameters[7840:]
        loss = functional.cross_entropy(images @ weight.T + bias, labels) + 0.05 * weight.square().sum()
        (gradient,) = torch.autograd.grad(loss, parameters)
        return loss.item(), gradient.numpy()

    optimum = minimize(
        objective, np.zeros(7850), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0, "maxiter": 5000}
    )
    value, gradient = objective(flat(network).double().numpy())
    assert value == pytest.approx(optimum.fun, rel=error)
    assert np.abs(gradient).max() <= 1.1 * tolerance
    assert report["loss"] == pytest.approx(value, rel=error)


def test_loss_tolerance_stops_earlier(few: Dataset) -> None:
    loose, tight = (
        full_batch.fit(MLP([784, 10]), few, seed=0, device=CPU, weight_decay=0.1, loss_tolerance=tolerance)
        for tolerance in (1e-2, 1e-7)
    )
    assert loose["iterations"] < tight["iterations"]
    assert loose["loss"] > tight["loss"]


def test_chunks_do_not_change_the_gradient(few: Dataset) -> None:
    def fit(chunk: int) -> tuple[dict[str, Any], torch.Tensor]:
        network = MLP([784, 12, 10])
        torch.manual_seed(0)
        nn.init.normal_(network[1].weight, std=0.1)  # type: ignore[arg-type]
        nn.init.normal_(network[3].weight, std=0.1)  # type: ignore[arg-type]
        for layer in (1, 3):
            nn.init.zeros_(network[layer].bias)  # type: ignore[arg-type]
        report = full_batch.minimise_cross_entropy(
            network,
            few.images,
            few.labels,
            penalty=WeightDecay(network, 1e-3, "half"),
            progress=None,
            gradient_tolerance=0.0,
            loss_tolerance=0.0,
            max_iterations=5,
            chunk=chunk,
        )
        return report, flat(network)

    whole, weights = fit(400)
    for chunk in (7, 150):
        report, other = fit(chunk)
        assert report["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert report["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-3)
        torch.testing.assert_close(other, weights, rtol=1e-3, atol=1e-5)


def test_seeds_reproduce_to_the_bit(few: Dataset) -> None:
    def fit(seed: int) -> torch.Tensor:
        network = MLP([784, 8, 10])
        full_batch.fit(network, few, seed=seed, device=CPU, weight_decay=1e-4, max_iterations=10)
        return flat(network)

    assert torch.equal(fit(0), fit(0))
    assert not torch.equal(fit(0), fit(1))


def test_network_ends_in_eval_mode_without_gradients(few: Dataset) -> None:
    network = MLP([784, 10])
    full_batch.fit(network, few, seed=0, device=CPU, max_iterations=2)
    assert not network.training
    assert all(p.grad is None for p in network.parameters())


def test_progress_tells_a_falling_loss(few: Dataset) -> None:
    told: list[tuple[int, float]] = []
    report = full_batch.fit(
        MLP([784, 10]),
        few,
        seed=0,
        device=CPU,
        weight_decay=0.01,
        max_iterations=12,
        progress=lambda step, values: told.append((step, values["loss"])),
    )
    assert [step for step, _ in told] == list(range(1, report["iterations"] + 1))
    losses = [loss for _, loss in told]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == report["loss"]
    assert report["evaluations"] >= report["iterations"] == 12


def test_frozen_parameters_stay(few: Dataset) -> None:
    network = MLP([784, 8, 10])
    network[1].requires_grad_(False)
    torch.manual_seed(0)
    before = network[1].weight.detach().clone()  # type: ignore[operator]
    full_batch.minimise_cross_entropy(
        network,
        few.images,
        few.labels,
        penalty=WeightDecay(network[3], 0.0, "half"),
        progress=None,
        gradient_tolerance=0.0,
        loss_tolerance=0.0,
        max_iterations=3,
    )
    assert torch.equal(network[1].weight, before)  # type: ignore[arg-type]
