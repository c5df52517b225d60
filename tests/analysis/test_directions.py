"""Bases of directions."""

from __future__ import annotations

import numpy as np
import pytest

from advlab.analysis.directions import BASES, Moments, directions
from advlab.errors import UserError


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    generator = np.random.default_rng(0)
    mixed = generator.standard_normal((500, 12)) @ generator.standard_normal((12, 12))
    mixed[:, 3] = 0.7  # a dead unit
    return mixed.astype(np.float32)


def test_moments_of_parts_add_up(features: np.ndarray) -> None:
    whole, parts = Moments.of(features), Moments.of(features[:123]) + Moments.of(features[123:])
    np.testing.assert_allclose(parts.covariance, whole.covariance, atol=1e-10)
    np.testing.assert_allclose(whole.covariance, np.cov(features.T, bias=True), atol=1e-5)
    assert (parts.low == features.min(0)).all()
    assert (parts.high == features.max(0)).all()


@pytest.mark.parametrize("basis", BASES)
def test_directions_are_unit_vectors_of_the_seed(basis: str, features: np.ndarray) -> None:
    moments = Moments.of(features)
    found = directions(basis, 8, moments, seed=1)
    assert found.shape == (8, 12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (directions(basis, 8, moments, seed=1) == found).all()
    if basis != "random":
        np.testing.assert_allclose(found @ found.T, np.eye(8), atol=1e-5)
    if basis != "pca":
        assert (directions(basis, 8, moments, seed=2) != found).any()


def test_dead_units_are_left_out(features: np.ndarray) -> None:
    found = directions("natural", 100, Moments.of(features), seed=0)
    assert found.shape == (11, 12)
    assert not found[:, 3].any()
    with pytest.raises(UserError, match="no unit of that layer varies"):
        directions("natural", 5, Moments.of(np.ones((4, 3), np.float32)), seed=0)


def test_principal_components_come_in_order_of_variance(features: np.ndarray) -> None:
    variances = (features @ directions("pca", 11, Moments.of(features), seed=0).T).var(0)
    assert (np.diff(variances) <= 1e-4).all()


def test_a_rotation_is_uniform() -> None:
    """The first coordinate of a uniform direction in n dimensions has mean 0 and variance 1/n."""
    moments = Moments.of(np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32))
    first = np.array([directions("rotation", 6, moments, seed=seed)[0, 0] for seed in range(400)])
    assert abs(first.mean()) < 4 / np.sqrt(6 * 400)
    assert first.var() == pytest.approx(1 / 6, rel=0.25)
