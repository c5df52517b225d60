"""Statistics of image sets and comparisons of bases."""

from __future__ import annotations

import numpy as np
import pytest

from advlab.analysis import statistics


def test_purity_and_entropy_by_hand() -> None:
    labels = np.array([[1, 1, 1, 1], [0, 1, 2, 3], [5, 5, 7, 7]])
    np.testing.assert_allclose(statistics.purity(labels), [1, 0.25, 0.5])
    np.testing.assert_allclose(statistics.entropy(labels), [0, 2, 1])


def test_pairwise_similarity_is_the_mean_cosine_of_pairs() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 4, 5))
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    expected = [np.mean([a @ b for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in unit]
    np.testing.assert_allclose(statistics.pairwise_similarity(vectors), expected)
    assert statistics.pairwise_similarity(np.zeros((1, 3, 2))).tolist() == [0.0]


def test_a_permutation_test_holds_its_level_and_sees_what_is_there() -> None:
    generator = np.random.default_rng(0)
    p = [statistics.compare(generator.random(20), generator.random(20), seed).p for seed in range(60)]
    assert np.mean(np.array(p) < 0.05) < 0.15  # 0.05 expected; a binomial of 60 stays below 9 but once in 5,000
    apart = statistics.compare(generator.normal(1, 1, 60), generator.normal(0, 1, 60), 0)
    assert apart.p < 0.001
    assert apart.ci_low < apart.difference < apart.ci_high
    assert 0.5 < apart.hedges_g < 1.5
    assert 0.2 < apart.cliffs_delta < 0.9


def test_samples_without_variance_are_alike() -> None:
    same = statistics.compare(np.ones(10), np.ones(12), 0)
    assert (same.difference, same.hedges_g, same.cliffs_delta, same.p) == (0, 0, 0, 1)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(statistics.holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_verdict_follows_the_tests(shift: float) -> None:
    generator = np.random.default_rng(1)

    def sample(mean: float) -> dict[str, np.ndarray]:
        return {name: generator.normal(mean, 0.3, 50) for name in statistics.STATISTICS}

    samples = {
        "natural": sample(shift),
        "random": sample(0),
        "rotation": sample(0),
        "pca": sample(0),
        "chance": sample(-2),
    }
    rows = statistics.compare_all(samples, "natural", "chance", seed=0)
    assert len(rows) == 4 * (3 + 4)
    assert all(float(row["p_holm"]) >= float(row["p"]) for row in rows)
    told = statistics.verdict(rows, "natural")
    assert ("does not hold here" in told) == bool(shift)
