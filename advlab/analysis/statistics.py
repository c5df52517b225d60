"""Permutation tests of whether the top images of one basis are more alike than those of another (section 3).

The unit of observation is a direction: its k images give one number per statistic. Bases are compared by permuting
directions between them, which assumes nothing about distributions; the random image sets show what chance gives.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

PERMUTATIONS = 10_000
STATISTICS = ("purity", "entropy", "feature_similarity", "pixel_similarity")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two bases by one statistic.

    Attributes:
        difference: mean of the first minus mean of the second.
        ci_low, ci_high: of the difference, 95%, by bootstrap over directions.
        hedges_g: the difference in pooled standard deviations, corrected for small samples; 0 where nothing varies.
        cliffs_delta: share of pairs in which the first is larger, minus the share in which it is smaller.
        p: two-sided permutation test of equal means.
    """

    difference: float
    ci_low: float
    ci_high: float
    hedges_g: float
    cliffs_delta: float
    p: float


def purity(labels: np.ndarray) -> np.ndarray:
    """Share of the most frequent label in each set; labels [S, k] → [S]."""
    return np.array([np.bincount(row).max() / len(row) for row in labels])


def entropy(labels: np.ndarray) -> np.ndarray:
    """Entropy of each set's labels in bits; labels [S, k] → [S]."""
    shares = [np.unique(row, return_counts=True)[1] / len(row) for row in labels]
    return np.array([max(0.0, -float(share @ np.log2(share))) for share in shares])


def pairwise_similarity(vectors: np.ndarray) -> np.ndarray:
    """Mean cosine between two different members of each set; vectors [S, k, n], centred by the caller → [S]."""
    norms = np.linalg.norm(vectors, axis=2, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    k = vectors.shape[1]
    # Σ_i Σ_j ⟨u_i, u_j⟩ is the squared length of the sum; the diagonal is taken out
    return ((unit.sum(1) ** 2).sum(1) - (unit**2).sum((1, 2))) / (k * (k - 1))


def compare(first: np.ndarray, second: np.ndarray, seed: int) -> Comparison:
    """Compare two samples [a] and [b] of a statistic."""
    generator = np.random.default_rng(seed)
    a, b = len(first), len(second)
    difference = float(first.mean() - second.mean())
    pooled = np.concatenate([first, second])
    order = generator.random((PERMUTATIONS, a + b)).argsort(1)
    shuffled = pooled[order]
    permuted = shuffled[:, :a].mean(1) - shuffled[:, a:].mean(1)
    extreme = np.abs(permuted) >= abs(difference) - 1e-12
    boot = first[generator.integers(a, size=(PERMUTATIONS, a))].mean(1)
    boot = boot - second[generator.integers(b, size=(PERMUTATIONS, b))].mean(1)
    low, high = np.quantile(boot, [0.025, 0.975])
    variance = ((a - 1) * first.var(ddof=1) + (b - 1) * second.var(ddof=1)) / (a + b - 2)
    correction = 1 - 3 / (4 * (a + b) - 9)
    pairs = np.sign(first[:, None] - second[None, :])
    return Comparison(
        difference=difference,
        ci_low=float(low),
        ci_high=float(high),
        hedges_g=correction * difference / float(np.sqrt(variance)) if variance > 0 else 0.0,
        cliffs_delta=float(pairs.mean()),
        p=float((1 + extreme.sum()) / (1 + PERMUTATIONS)),
    )


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values adjusted for the family-wise error rate (Holm 1979)."""
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def compare_all(
    samples: Mapping[str, Mapping[str, np.ndarray]], reference: str, chance: str, seed: int
) -> list[dict[str, float | str]]:
    """Compare every other basis with ``reference``, and every basis with ``chance``, by every statistic.

    ``samples`` has one value per direction, by basis and statistic; ``chance`` names the random image sets. Returns
    rows with the names ``first``, ``second`` and ``statistic``, both means, the fields of ``Comparison`` and
    ``p_holm``, adjusted over all comparisons of the same kind (with bases, or with chance).
    """
    others = [basis for basis in samples if basis not in (reference, chance)]
    families = ([(reference, basis) for basis in others], [(basis, chance) for basis in samples if basis != chance])
    rows: list[dict[str, float | str]] = []
    for family in families:
        compared: list[dict[str, float | str]] = []
        for first, second in family:
            for statistic in STATISTICS:
                one, two = samples[first][statistic], samples[second][statistic]
                result = compare(one, two, seed)
                names = {"first": first, "second": second, "statistic": statistic}
                means = {"first_mean": float(one.mean()), "second_mean": float(two.mean())}
                compared.append({**names, **means, **asdict(result)})
        adjusted = holm(np.array([row["p"] for row in compared], dtype=float))
        rows += [{**row, "p_holm": float(p)} for row, p in zip(compared, adjusted, strict=True)]
    return rows


def verdict(rows: list[dict[str, float | str]], reference: str, level: float = 0.05) -> str:
    """Whether the paper's "no distinction" between units and random directions holds, in a sentence."""
    against = [row for row in rows if row["first"] == reference and row["second"] in ("random", "rotation")]
    significant = [row for row in against if float(row["p_holm"]) < level]
    if not significant:
        return (
            f'The paper\'s "no distinction" holds here: none of {len(against)} comparisons of units with random '
            f"directions differs at p < {level:g} (Holm); the intervals show how large a difference could be missed."
        )
    row = max(significant, key=lambda row: abs(float(row["hedges_g"])))
    return (
        f'The paper\'s "no distinction" does not hold here: {len(significant)} of {len(against)} comparisons of '
        f"units with random directions differ at p < {level:g} (Holm), "
        f"most of all {str(row['statistic']).replace('_', ' ')}: "
        f"{float(row['first_mean']):.3f} for units, {float(row['second_mean']):.3f} for the {row['second']} basis "
        f"(Hedges' g {float(row['hedges_g']):+.2f}, p = {float(row['p_holm']):.2g})."
    )
