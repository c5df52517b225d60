"""Factors of pooling, activations and normalisation against explicit matrices and measured Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advlab.analysis.amplification import jacobian_norms
from advlab.analysis.lipschitz_constants import layer_factor, local_response_factor

Dense = Callable[[nn.Module, tuple[int, ...]], Tensor]


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2), nn.AvgPool2d(3, 2), nn.AvgPool2d(3, 2, padding=1), nn.AvgPool2d((2, 3), (1, 2)),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, divisor_override=2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((3, None)),
        nn.AdaptiveAvgPool2d(6),
    ],
    ids=repr,
)  # fmt: skip
def test_average_pooling_is_exact(pool: nn.Module, dense_of: Dense) -> None:
    shape = (2, 8, 7)
    norm = float(torch.linalg.matrix_norm(dense_of(pool, shape), 2))
    assert layer_factor(pool, shape) == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "factor"),
    [(2, 2, 1, 1.0), (3, 2, 1, 2.0), (3, 1, 1, 3.0), (2, 3, 1, 1.0), ((3, 2), (2, 2), 1, 2**0.5), (3, 2, 2, 3.0)],
)
def test_max_pooling_counts_the_windows_of_an_entry_and_that_is_tight(
    kernel: int, stride: int, dilation: int, factor: float
) -> None:
    pool = nn.MaxPool2d(kernel, stride, dilation=dilation)
    assert layer_factor(pool, (1, 20, 20)) == pytest.approx(factor)
    gains = []
    for row in range(20):
        for column in range(20):
            image = torch.zeros(1, 1, 20, 20)
            image[..., row, column] = 1.0  # the maximum of all its windows
            gains.append(float(pool(image).norm()))
    assert max(gains) == pytest.approx(factor)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("size", "alpha", "beta", "k"), [(5, 1e-4, 0.75, 2.0), (5, 10.0, 0.75, 2.0), (3, 5.0, 1.5, 0.5)]
)
def test_local_response_normalisation_is_bounded(size: int, alpha: float, beta: float, k: float) -> None:
    torch.manual_seed(0)
    layer = nn.LocalResponseNorm(size, alpha, beta, k)
    scales = torch.logspace(-2, 2, 400, dtype=torch.float64)[:, None, None, None]
    gains = jacobian_norms(layer, torch.randn(400, 8, 1, 1, dtype=torch.float64) * scales, iterations=20)
    assert float(gains.max()) <= layer_factor(layer, (8, 1, 1))
    assert float(gains.max()) >= 0.5 * k**-beta
    assert layer_factor(layer, (8, 1, 1)) == local_response_factor(size, beta, k)


@pytest.mark.parametrize(
    "layer",
    [nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.GELU(), nn.Mish(), nn.Hardswish(), nn.LeakyReLU(2.0),
     nn.ELU(1.5), nn.PReLU(), nn.Softplus()],
    ids=repr,
)  # fmt: skip
def test_slopes(layer: nn.Module) -> None:
    points = torch.linspace(-8, 8, 200_001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(layer.double()(points).sum(), points)
    steepest = float(slopes.abs().max())
    factor = layer_factor(layer, (1,))
    assert steepest <= factor
    assert factor <= steepest * 1.001


def test_batch_norm_uses_its_running_variance() -> None:
    layer = nn.BatchNorm2d(3).eval()
    layer.running_var = torch.tensor([4.0, 0.25, 1.0])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -3.0, 1.0]))
    assert layer_factor(layer, (3, 2, 2)) == pytest.approx(6.0, rel=1e-4)


def test_what_has_no_known_factor_is_unbounded() -> None:
    assert layer_factor(nn.LayerNorm(4), (4,)) == math.inf
    assert layer_factor(nn.BatchNorm1d(3, track_running_stats=False), (3,)) == math.inf
