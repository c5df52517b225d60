"""Projections: against SciPy's solver, and by their optimality conditions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from advlab.attacks.projection import project_halfspace, project_polytope


def random_problem(seed: int, batch: int, size: int, planes: int):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(batch, size, generator=generator, dtype=torch.float64)
    inside = torch.rand(batch, size, generator=generator, dtype=torch.float64)
    normals = torch.randn(batch, planes, size, generator=generator, dtype=torch.float64)
    slack = 0.1 * torch.rand(batch, planes, generator=generator, dtype=torch.float64)
    return points, normals, torch.einsum("bmn,bn->bm", normals, inside) + slack


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), batch=st.sampled_from([1, 3, 8]), size=st.integers(1, 40))
def test_halfspace_projection_satisfies_the_optimality_conditions(seed, batch, size):
    points, normals, offsets = random_problem(seed, batch, size, 1)
    x, multipliers = project_halfspace(points, normals[:, 0], offsets[:, 0], 0.0, 1.0)
    excess = (normals[:, 0] * x).sum(1) - offsets[:, 0]
    assert (x >= 0).all()
    assert (x <= 1).all()
    assert (excess < 1e-9).all()
    assert (multipliers >= 0).all()
    assert (multipliers * excess).abs().max() < 1e-9
    torch.testing.assert_close(x, (points - multipliers[:, None] * normals[:, 0]).clamp(0, 1))


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    batch=st.sampled_from([1, 3, 8]),
    size=st.integers(1, 40),
    planes=st.integers(1, 9),
)
def test_polytope_projection_satisfies_the_optimality_conditions(seed, batch, size, planes):
    points, normals, offsets = random_problem(seed, batch, size, planes)
    x, multipliers = project_polytope(points, normals, offsets, 0.0, 1.0, iterations=500)
    excess = torch.einsum("bmn,bn->bm", normals, x) - offsets
    assert (x >= 0).all()
    assert (x <= 1).all()
    assert (multipliers >= 0).all()
    assert (excess < 1e-7).all()
    assert (multipliers * excess).abs().max() < 1e-7
    torch.testing.assert_close(x, (points - torch.einsum("bm,bmn->bn", multipliers, normals)).clamp(0, 1))


def test_polytope_projection_agrees_with_scipy():
    points, normals, offsets = random_problem(3, 4, 12, 5)
    x, _ = project_polytope(points, normals, offsets, 0.0, 1.0)
    for row in range(4):
        a, b, p = normals[row].numpy(), offsets[row].numpy(), points[row].numpy()
        reference = minimize(
            lambda v, p=p: 0.5 * ((v - p) ** 2).sum(),
            np.full(12, 0.5),
            jac=lambda v, p=p: v - p,
            bounds=[(0, 1)] * 12,
            constraints={"type": "ineq", "fun": lambda v, a=a, b=b: b - a @ v, "jac": lambda _, a=a: -a},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert (x[row] - points[row]).square().sum() / 2 <= reference.fun + 1e-8
        np.testing.assert_allclose(x[row], reference.x, atol=1e-5)


def test_points_inside_stay():
    points = torch.full((2, 5), 0.5)
    x, multipliers = project_halfspace(points, torch.ones(2, 5), torch.full((2,), 3.0), 0.0, 1.0)
    assert torch.equal(x, points)
    assert (multipliers == 0).all()


def test_an_unreachable_halfspace_leads_to_the_nearest_corner():
    x, _ = project_halfspace(torch.full((1, 4), 0.5), torch.ones(1, 4), torch.tensor([-1.0]), 0.0, 1.0)
    assert torch.equal(x, torch.zeros(1, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_normals_are_harmless(dtype):
    points = torch.rand(3, 6, dtype=dtype)
    x, _ = project_halfspace(points, torch.zeros(3, 6, dtype=dtype), torch.full((3,), -1.0, dtype=dtype), 0.0, 1.0)
    assert torch.equal(x, points)
    x, _ = project_polytope(points, torch.zeros(3, 2, 6, dtype=dtype), torch.zeros(3, 2, dtype=dtype), 0.0, 1.0)
    assert torch.equal(x, points)


def test_rows_do_not_depend_on_their_batch():
    points, normals, offsets = random_problem(5, 8, 20, 4)
    together, _ = project_polytope(points, normals, offsets, 0.0, 1.0)
    for row in range(8):
        one = slice(row, row + 1)
        alone, _ = project_polytope(points[one], normals[one], offsets[one], 0.0, 1.0)
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-9)
