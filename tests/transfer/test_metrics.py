"""Rates and intervals from counts that add up over shards."""

from __future__ import annotations

import functools
import itertools
import math
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from advlab.transfer.metrics import RMS_STEPS, Counts, count, rates, wilson


@settings(deadline=None)
@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(pair: tuple[int, int]) -> None:
    errors, n = pair
    expected = binomtest(errors, n).proportion_ci(method="wilson")
    low, high = wilson(errors, n)
    assert low == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert high == pytest.approx(expected.high, rel=1e-9, abs=1e-12)
    assert 0 <= low <= errors / n <= high <= 1


def test_wilson_of_the_extremes() -> None:
    z2 = 1.959963984540054**2
    assert wilson(0, 10) == (0.0, pytest.approx(z2 / (10 + z2)))
    assert wilson(10, 10) == (pytest.approx(10 / (10 + z2)), 1.0)
    assert all(math.isnan(bound) for bound in wilson(0, 0))


def columns(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    names = ("label", "clean_prediction", "prediction", "source_prediction")
    return {name: generator.integers(0, 3, rows) for name in names} | {"rms": generator.random(rows)}


@settings(deadline=None)
@given(rows=st.integers(1, 60), cuts=st.lists(st.integers(0, 60), max_size=5), seed=st.integers(0, 100))
@pytest.mark.parametrize("control", [False, True])
def test_counts_add_up_however_rows_are_cut(control: bool, rows: int, cuts: list[int], seed: int) -> None:
    whole = columns(rows, seed)
    if control:
        whole["source_prediction"] = None  # type: ignore[assignment]
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    parts = [
        count(**{name: None if v is None else v[a:b] for name, v in whole.items()})
        for a, b in itertools.pairwise(edges)
    ]
    assert functools.reduce(operator.add, parts) == count(**whole)
    assert functools.reduce(operator.add, reversed(parts)) == count(**whole)


def test_counts_follow_their_definitions() -> None:
    table = columns(500)
    label, clean, prediction, source = (
        table[name] for name in ("label", "clean_prediction", "prediction", "source_prediction")
    )
    counts = count(**table)
    rows = list(zip(label, clean, prediction, source, strict=True))
    assert counts.n == 500
    assert counts.errors == sum(p != y for y, _, p, _ in rows)
    assert counts.clean_right == sum(c == y for y, c, _, _ in rows)
    assert counts.errors_of_clean_right == sum(c == y and p != y for y, c, p, _ in rows)
    assert counts.same_mistakes == sum(p != y and p == s for y, _, p, s in rows)
    assert counts.rms_steps / RMS_STEPS == pytest.approx(table["rms"].sum(), abs=500 / RMS_STEPS)


def test_rates_divide_by_the_right_denominators() -> None:
    found = rates(Counts(200, 50, 160, 20, 30, int(12 * RMS_STEPS)))
    assert found == {
        "n": 200,
        "error_rate": 0.25,
        "ci_low": wilson(50, 200)[0],
        "ci_high": wilson(50, 200)[1],
        "conditional_error_rate": 0.125,
        "same_mistake_rate": 0.15,
        "mean_rms": 0.06,
        "clean_error_rate": 0.2,
    }


def test_rates_that_do_not_exist_are_none() -> None:
    found = rates(Counts(10, 10, 0, 0, None, 0))
    assert found["conditional_error_rate"] is None
    assert found["same_mistake_rate"] is None


def test_same_mistakes_of_a_control_are_none_however_they_are_added() -> None:
    attacked, control = Counts(1, 1, 1, 1, 1, 0), Counts(1, 1, 1, 1, None, 0)
    assert (attacked + control).same_mistakes is None
    assert (control + control).same_mistakes is None
