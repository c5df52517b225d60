"""Means over seeds with Student's intervals."""

from __future__ import annotations

import math

import pytest

from advlab.studies.adversarial_training.show import interval


def test_the_interval_is_students() -> None:
    # t at 97.5% with two degrees of freedom is 4.302653; the sample's deviation is 1
    assert interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.302653 / math.sqrt(3), rel=1e-6))


def test_one_seed_says_nothing_of_others() -> None:
    assert interval([1.5]) == (1.5, math.inf)
