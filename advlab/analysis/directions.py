"""Directions in a layer's feature space: its units, random ones, a rotation, principal components (section 3)."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from advlab.errors import UserError

BASES = ("natural", "random", "rotation", "pca")
"""Bases of ⟨φ(x), v⟩: v = e_i (Figures 1 and 3); independent uniform directions (Figures 2 and 4); columns of one
random rotation, as orthogonal among themselves as the units are; principal components, in order of variance."""


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of a layer's features, mergeable.

    Attributes:
        total: [n], sum of the ``count`` feature vectors.
        products: [n, n], sum of their outer products.
        low, high: [n], least and largest value of each unit.
    """

    count: int
    total: np.ndarray
    products: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Self:
        """Of feature vectors [N, n]."""
        wide = features.astype(np.float64)
        return cls(len(wide), wide.sum(0), wide.T @ wide, features.min(0), features.max(0))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.products + other.products,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def covariance(self) -> np.ndarray:
        """[n, n]."""
        mean = self.total / self.count
        return self.products / self.count - np.outer(mean, mean)


def directions(basis: str, count: int, moments: Moments, seed: int) -> np.ndarray:
    """At most ``count`` unit vectors of a basis, [D, n] float32, for the moments of a layer's features over the image
    set.

    Units that never vary cannot rank images and are left out of the natural basis. Only the random basis has more
    directions than the layer has dimensions (or live units). Raises a UserError for an unknown basis, or a layer in
    which no unit varies.
    """
    if basis not in BASES:
        raise UserError(f"basis {basis!r} is unknown; choose among {', '.join(BASES)}.")
    dimension = len(moments.total)
    generator = np.random.default_rng([seed, BASES.index(basis)])
    live = np.flatnonzero(moments.high > moments.low)
    if not len(live):
        raise UserError("no unit of that layer varies over the image set; choose another `layer`.")
    match basis:
        case "natural":
            chosen = np.sort(generator.permutation(live)[:count])
            vectors = np.eye(dimension)[chosen]
        case "random":
            vectors = generator.standard_normal((count, dimension))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        case "rotation":
            # orthonormalised Gaussian columns with the signs of the Gaussian: the first columns of a uniform rotation
            columns, upper = np.linalg.qr(generator.standard_normal((dimension, min(count, dimension))))
            vectors = (columns * np.sign(np.diag(upper))).T
        case "pca":
            _, vectors = np.linalg.eigh(moments.covariance)
            vectors = vectors.T[::-1][: min(count, len(live))]
            # the sign of a component is arbitrary: make its largest coordinate positive
            largest = np.abs(vectors).argmax(1)
            vectors = vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]
    return vectors.astype(np.float32)
