"""The exact minimum for linear classifiers: certified by its dual, and never beaten."""

import numpy as np
import pytest
import torch
from linear_exact import linear_minimum
from scipy.optimize import minimize
from torch import nn


def classifier(size: int = 20, num_classes: int = 5, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(size, num_classes)


@pytest.mark.parametrize("num_classes", [2, 5, 10])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_dual_certifies_the_optimum(num_classes, targeted):
    layer = classifier(30, num_classes)
    images = torch.rand(40, 30)
    labels = layer(images).argmax(1)
    target = (labels + 1) % num_classes if targeted else None
    found = linear_minimum(layer, images, labels, target)
    reached = found.l2.isfinite()
    assert reached.float().mean() > 0.5
    assert found.gap[reached].max() < 1e-8
    assert (found.images >= 0).all()
    assert (found.images <= 1).all()
    logits = nn.functional.linear(found.images, layer.weight.double(), layer.bias.double())
    wanted = logits.gather(1, found.target[:, None]).squeeze(1)
    rival = logits.amax(1) if targeted else logits.gather(1, labels[:, None]).squeeze(1)
    assert (wanted - rival)[reached].min() > -1e-7


def test_agrees_with_scipy_on_targeted_problems():
    layer = classifier()
    images = torch.rand(5, 20)
    labels = layer(images).argmax(1)
    target = (labels + 2) % 5
    found = linear_minimum(layer, images, labels, target)
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    for row in range(5):
        t, p = int(target[row]), images[row].double().numpy()
        a, b = weight - weight[t], bias[t] - bias
        reference = minimize(
            lambda v, p=p: ((v - p) ** 2).sum(),
            np.full(20, 0.5),
            jac=lambda v, p=p: 2 * (v - p),
            bounds=[(0, 1)] * 20,
            constraints={"type": "ineq", "fun": lambda v, a=a, b=b: b - a @ v, "jac": lambda _, a=a: -a},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        if reference.success:
            assert float(found.l2[row]) == pytest.approx(reference.fun**0.5, rel=1e-6)
        else:
            assert not bool(found.l2[row].isfinite())


def test_nearest_is_the_smallest_pairwise_distance_without_a_box():
    layer = classifier(7, 3)
    images = torch.rand(6, 7)
    logits = layer(images)
    labels = logits.argmax(1)
    found = linear_minimum(layer, images, labels, bounds=(-100.0, 100.0))
    distances = (logits.gather(1, labels[:, None]) - logits) / (layer.weight[labels][:, None] - layer.weight).norm(
        dim=2
    )
    distances = distances.scatter(1, labels[:, None], torch.inf)
    torch.testing.assert_close(found.l2, distances.amin(1).double(), rtol=1e-5, atol=1e-7)
    assert torch.equal(found.target, distances.argmin(1))


def test_images_across_the_boundary_have_distance_zero():
    layer = classifier()
    images = torch.rand(10, 20)
    labels = layer(images).argmin(1)
    assert linear_minimum(layer, images, labels).l2.max() == 0


def test_a_constant_classifier_is_out_of_reach():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([1.0, 0.0]))
    assert linear_minimum(layer, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64)).l2.isinf().all()


def test_refuses_images_of_another_size():
    with pytest.raises(ValueError, match="20"):
        linear_minimum(classifier(), torch.rand(2, 21), torch.zeros(2, dtype=torch.int64))


def test_empty_batches():
    found = linear_minimum(classifier(), torch.rand(0, 20), torch.zeros(0, dtype=torch.int64))
    assert len(found.l2) == 0
