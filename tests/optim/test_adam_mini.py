"""Adam with one rate per filter, beside Adam."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advlab.optim.adam_mini import AdamMini


def gradients(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(6)]


def test_it_is_adam_for_filters_of_one_number() -> None:
    mine, theirs = (nn.Parameter(torch.ones(2, 3, 4, 1)) for _ in range(2))
    moving = [AdamMini([mine], lr=0.1), torch.optim.Adam([theirs], lr=0.1)]
    for gradient in gradients(2, 3, 4, 1):
        mine.grad, theirs.grad = gradient, gradient
        for each in moving:
            each.step()
    torch.testing.assert_close(mine, theirs)


def test_filters_stay_in_the_span_of_their_gradients() -> None:
    """What Adam does not, as it divides every number by its own deviation."""
    basis = torch.linalg.qr(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)))[0]
    for make, stays in ((AdamMini, True), (torch.optim.Adam, False)):
        weight = nn.Parameter(torch.zeros(2, 2, 5, 20))
        moving = make([weight], lr=0.1)
        for coordinates in gradients(2, 2, 5, 3):
            weight.grad = torch.einsum("dk,rsmk->rsmd", basis, coordinates)
            moving.step()
        outside = weight - torch.einsum("dk,ek,rsme->rsmd", basis, basis, weight)
        assert bool(outside.norm() < 1e-5 * weight.norm()) == stays


def test_it_keeps_one_number_per_weight() -> None:
    weight = nn.Parameter(torch.ones(2, 2, 3, 50))
    moving = AdamMini([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    moving.step()
    assert sum(value.numel() for value in moving.state[weight].values()) < 1.05 * weight.numel()
