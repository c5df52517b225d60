"""Statistics over seeds: intervals and tests for repeated studies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``n`` seeds; the half-widths of its 95% t-interval (infinite for a single seed), and of the 95% t
    prediction interval for one ``further`` seed.
    """

    mean: float
    half_width: float
    further: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    def admits(self, value: float, resolution: float = 0.0) -> bool:
        """Whether ``value``, known to within ``resolution``, lies in the prediction interval of one further seed."""
        return abs(value - self.mean) <= self.further + resolution


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and intervals of one number per seed, assumed to be normally distributed; a ValueError without any."""
    n = len(values)
    if n == 0:
        raise ValueError("no values to average.")
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, math.inf, math.inf, 1)
    spread = float(np.std(values, ddof=1)) * float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    return Estimate(mean, spread / math.sqrt(n), spread * math.sqrt(1 + 1 / n), n)


def paired_p(first: Sequence[float], second: Sequence[float]) -> float:
    """One-sided p-value of a paired t-test over seeds that ``first`` exceeds ``second``; NaN for fewer than two."""
    difference = np.subtract(first, second)
    if len(difference) < 2:
        return math.nan
    if np.ptp(difference) <= 1e-12 * np.abs(difference).max():  # no spread except rounding errors
        return 0.0 if difference[0] > 0 else 1.0
    return float(stats.ttest_1samp(difference, 0.0, alternative="greater").pvalue)
