"""Bounds of whole networks are never below what is measured."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.analysis import frame_bounds
from advlab.analysis.amplification import jacobian_norms, layer_norm, pair_gains
from advlab.analysis.layer_graph import Network
from advlab.analysis.lipschitz import product_bounds
from advlab.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")


class Residual(nn.Module):
    """Branches, a concatenation, functional calls, constants, and a batch norm to fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(8, 3)
        self.register_buffer("scale", torch.tensor([0.5, 2.0]).view(2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.first((images - 0.5) / self.scale * 2))
        x = x + self.norm(self.second(x))
        x = torch.cat([functional.max_pool2d(x, 2), functional.adaptive_avg_pool2d(x, 3)], 1)
        return self.last(x.mean((2, 3)))


@pytest.fixture
def residual() -> nn.Module:
    torch.manual_seed(0)
    model = Residual().double()
    model(torch.randn(50, 2, 6, 6, dtype=torch.float64))  # statistics for the batch norm
    return model.eval().requires_grad_(False)


def test_no_jacobian_exceeds_the_bound_at_any_layer(residual: nn.Module) -> None:
    network = Network(residual, (2, 6, 6))
    bounds = product_bounds(network)
    images = torch.rand(20, 2, 6, 6, dtype=torch.float64)
    others = torch.rand(20, 2, 6, 6, dtype=torch.float64)
    checked = 0
    for node in network.nodes:
        if node.op in ("call_module", "call_function"):
            function = network.until(node)
            most = bounds[node] * (1 + 1e-12)  # some bounds are attained
            assert float(jacobian_norms(function, images).max()) <= most, node
            assert float(pair_gains(function, images, others).max()) <= most, node
            checked += 1
    assert checked >= 10
    assert [layer.name for layer in network.layers] == ["first", "second", "last"]


def test_a_chain_multiplies() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 4)).eval()
    network = Network(model, (6,))
    bounds = product_bounds(network)
    expected = frame_bounds(model[1]).upper / 4 * frame_bounds(model[3]).upper
    assert bounds[network.nodes[-1]] == pytest.approx(expected, rel=1e-12)


def test_a_batch_norm_is_taken_together_with_its_convolution(residual: Residual) -> None:
    network = Network(residual, (2, 6, 6))
    bounds = product_bounds(network)
    (norm,) = [node for node in network.nodes if node.target == "norm"]
    (second,) = [node for node in network.nodes if node.target == "second"]
    apart = frame_bounds(residual.second, 6, padding="zeros").upper
    scale = float((residual.norm.weight / (residual.norm.running_var + residual.norm.eps).sqrt()).abs().max())
    together = bounds[norm] / bounds[second.args[0]]  # type: ignore[index]
    assert together < apart * scale


def test_a_product_of_branches_is_unbounded() -> None:
    class Gate(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * torch.sigmoid(images)

    network = Network(Gate(), (3,))
    assert product_bounds(network)[network.nodes[-1]] == math.inf


def test_jacobian_norms_find_the_norm_of_a_linear_map() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 7, dtype=torch.float64)
    exact = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    found = jacobian_norms(layer, torch.randn(3, 12, dtype=torch.float64), iterations=300)
    torch.testing.assert_close(found, torch.full((3,), exact, dtype=torch.float64))
    assert layer_norm(layer, (12,), iterations=300) == pytest.approx(exact, rel=1e-9)


def test_layers_that_work_in_place_have_jacobians_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.LocalResponseNorm(3)).eval()
    images = torch.rand(3, 1, 8, 8)
    network = Network(model.requires_grad_(False), (1, 8, 8))
    last = [node for node in network.nodes if node.op == "call_module"][-1]
    gains = jacobian_norms(network.until(last), images)
    exact = [torch.linalg.matrix_norm(torch.func.jacrev(model)(image[None]).reshape(4 * 9, 64), 2) for image in images]
    assert (gains <= torch.stack(exact) * (1 + 1e-5)).all()
    assert (gains >= 0.9 * torch.stack(exact)).all()


def test_layer_norms_lie_below_the_zero_padding_bound_and_near_it() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 5, stride=2, padding=2)
    bound = frame_bounds(layer, 16, padding="zeros").upper
    assert 0.8 * bound < layer_norm(layer, (3, 16, 16)) <= bound * (1 + 1e-6)


def test_equal_images_have_no_gain() -> None:
    gains = pair_gains(nn.Identity(), torch.zeros(2, 3), torch.tensor([[0.0, 0, 0], [1, 0, 0]]))
    assert gains.isnan().tolist() == [True, False]


def test_mistakes_are_reported() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(UserError, match=r"the Branching cannot be traced by torch.fx"):
        Network(Branching(), (3,))
    with pytest.raises(UserError, match=r"does not take images of shape \[1, 8, 8\]"):
        Network(nn.Conv2d(3, 1, 3), (1, 8, 8))
