"""Numbers that vary with the seed: intervals and tests over repeated studies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: over ``n`` seeds.
        half_width: of the t-interval of the mean at 95%; infinite for a single seed.
        further: half the width of the interval in which one further seed falls with 95% (the t prediction interval).
        n: number of seeds.
    """

    mean: float
    half_width: float
    further: float
    n: int

    @property
    def low(self) -> float:
        """Lower end of the interval of the mean."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of it."""
        return self.mean + self.half_width

    def admits(self, value: float, resolution: float = 0.0) -> bool:
        """Whether one further seed could well have given ``value``, known to within ``resolution``."""
        return abs(value - self.mean) <= self.further + resolution


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and intervals of one number per seed; the seeds' numbers are taken as normally distributed.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to take the mean of.")
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, math.inf, math.inf, 1)
    spread = float(np.std(values, ddof=1)) * float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    return Estimate(mean, spread / math.sqrt(n), spread * math.sqrt(1 + 1 / n), n)


def paired_p(first: Sequence[float], second: Sequence[float]) -> float:
    """One-sided p of "``first`` is not larger than ``second``", a paired t-test over seeds; NaN for fewer than two."""
    difference = np.subtract(first, second)
    if len(difference) < 2:
        return math.nan
    if np.ptp(difference) <= 1e-12 * np.abs(difference).max():  # no spread but rounding's
        return 0.0 if difference[0] > 0 else 1.0
    return float(stats.ttest_1samp(difference, 0.0, alternative="greater").pvalue)
