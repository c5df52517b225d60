"""Intervals and tests over seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from advlab.transfer.seeds import estimate, paired_p


def test_the_interval_is_students() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half_width == pytest.approx(2.7764451 * np.sqrt(2.5) / np.sqrt(5))
    assert found.further == pytest.approx(found.half_width * np.sqrt(6))
    assert found.admits(3.0 + found.further)
    assert not found.admits(3.0 + found.further + 0.01)
    assert found.admits(3.0 + found.further + 0.01, resolution=0.02)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 5))
    held = [abs(found.mean) <= found.half_width for found in map(estimate, draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_one_seed_says_nothing_of_the_spread() -> None:
    assert estimate([0.3]).half_width == math.inf
    assert math.isnan(paired_p([1.0], [0.0]))
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_pairs_are_compared_seed_by_seed() -> None:
    base = np.array([0.1, 0.5, 0.9, 0.3, 0.7])
    assert paired_p(base + 0.01 + np.array([0, 1, 2, 1, 0]) * 1e-4, base) < 1e-4
    assert paired_p(base, base + 0.01) == 1.0
    assert paired_p([2.0, 2.0], [1.0, 1.0]) == 0.0
    assert paired_p([1.0, 1.0], [1.0, 1.0]) == 1.0
