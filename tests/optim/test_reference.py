"""SciPy behind the contract of the batched solver."""

from __future__ import annotations

import torch
from torch import Tensor

from advlab.optim import lbfgsb, reference


def test_same_answers_as_the_batched_solver() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(5, 12, 12, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.mT + torch.eye(12, dtype=torch.float64)
    centre = 2 * torch.randn(5, 12, generator=generator, dtype=torch.float64)

    def quadratic(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        residual = x - centre[rows]
        gradient = torch.einsum("bij,bj->bi", matrix[rows], residual)
        return (residual * gradient).sum(1) / 2, gradient

    start = torch.zeros(5, 12, dtype=torch.float64)
    ours = lbfgsb.minimize(quadratic, start, -0.5, 0.5, gtol=1e-9, ftol=0)
    theirs = reference.minimize(quadratic, start, -0.5, 0.5, gtol=1e-9, ftol=0)
    torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.fun, theirs.fun)
    assert (theirs.status == lbfgsb.Status.CONVERGED).all()
    assert theirs.x.abs().max() <= 0.5
    assert (theirs.evaluations >= theirs.iterations).all()
