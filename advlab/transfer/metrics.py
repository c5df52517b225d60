"""Rates and intervals of one cell of the matrix, from counts that are summed over shards."""

import math
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95% quantile of the normal distribution."""
RMS_STEPS = 1e12
"""RMS values are summed as integers in steps of 1e-12, so that the mean does not depend on the order of the sum."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts over the rows of a (source, target) pair.

    Attributes:
        n, errors: rows, and those the target misclassifies.
        clean_right: rows whose clean image the target classifies correctly.
        errors_of_clean_right: those of them it misclassifies when distorted.
        same_mistakes: rows it misclassifies as the attacked model does; None for controls.
        rms_steps: sum of the RMS in steps of 1e-12.
    """

    n: int
    errors: int
    clean_right: int
    errors_of_clean_right: int
    same_mistakes: int | None
    rms_steps: int

    def __add__(self, other: Self) -> Self:
        pairs = zip(astuple(self), astuple(other), strict=True)
        sums: list[Any] = [None if None in pair else sum(pair) for pair in pairs]
        return type(self)(*sums)


def count(
    label: np.ndarray,
    clean_prediction: np.ndarray,
    prediction: np.ndarray,
    source_prediction: np.ndarray | None,
    rms: np.ndarray,
) -> Counts:
    """Counts of rows given as columns [N]; ``source_prediction`` is None for controls."""
    wrong = prediction != label
    right = clean_prediction == label
    same = None if source_prediction is None else int((wrong & (prediction == source_prediction)).sum())
    return Counts(
        n=len(label),
        errors=int(wrong.sum()),
        clean_right=int(right.sum()),
        errors_of_clean_right=int((wrong & right).sum()),
        same_mistakes=same,
        rms_steps=sum(np.rint(rms * RMS_STEPS).astype(np.int64).tolist()),
    )


def wilson(errors: int, n: int) -> tuple[float, float]:
    """The Wilson score interval at 95% for a rate of ``errors`` in ``n`` (Wilson 1927)."""
    if n == 0:
        return float("nan"), float("nan")
    rate = errors / n
    centre = (rate + Z95 * Z95 / (2 * n)) / (1 + Z95 * Z95 / n)
    half = Z95 / (1 + Z95 * Z95 / n) * math.sqrt(rate * (1 - rate) / n + Z95 * Z95 / (4 * n * n))
    # at rates of 0 and 1, rounding would put the rate just outside its interval
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))


def rates(counts: Counts) -> dict[str, float | int | None]:
    """The columns of one row of the matrix, except its two names."""
    low, high = wilson(counts.errors, counts.n)
    return {
        "n": counts.n,
        "error_rate": counts.errors / counts.n,
        "ci_low": low,
        "ci_high": high,
        "conditional_error_rate": counts.errors_of_clean_right / counts.clean_right if counts.clean_right else None,
        "same_mistake_rate": None if counts.same_mistakes is None else counts.same_mistakes / counts.n,
        "mean_rms": counts.rms_steps / RMS_STEPS / counts.n,
        "clean_error_rate": (counts.n - counts.clean_right) / counts.n,
    }
