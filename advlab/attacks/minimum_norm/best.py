"""The closest point of every image that met the criterion, out of all points at which the model was evaluated."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advlab import compiled
from advlab.attacks.criterion import Criterion
from advlab.attacks.minimum_norm import kernels

SAFETY = 1.1
"""Iterates aim at margins of minus this multiple of ρ."""


@dataclass(slots=True)
class BestSoFar:
    """The closest points of B images of n pixels.

    Attributes:
        criterion: of the B images.
        x: [B, n], the closest point that met it robustly; the clean image before the first.
        l2: [B], its distance; infinite before the first.
        evaluations: [B] int64, spent so far.
        rounding: [B], ρ, by which a margin has to be below zero.
    """

    criterion: Criterion
    x: Tensor
    l2: Tensor
    evaluations: Tensor
    rounding: Tensor

    def update(self, row: Tensor, x: Tensor, l2: Tensor, logits: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor]:
        """Count and judge evaluated points, and keep those that are closer than the best so far.

        Args:
            row: [L] int64, the images that the points belong to; an image may have several.
            x: [L, n], the points.
            l2: [L], their distances.
            logits: [L, k], detached.
            rivals: [L, m] int64, the classes whose margins are asked for; with m = 0, the strongest of each point.

        Returns:
            The margins [L, m] plus `SAFETY` · ρ, positive on the clean side; and the weights [L, k] of the logits in
            the largest margin of each point.
        """
        away = self.criterion.away
        targeted = self.criterion.target is not None
        if compiled.fits(x, l2, logits, self.x, self.rounding):
            margins, weights = x.new_empty(len(row), max(1, rivals.shape[1])), torch.empty_like(logits)
            compiled.run(
                kernels.update, logits=logits, away=away, targeted=targeted, rounding=self.rounding, row=row,
                rivals=rivals.contiguous(), x=x, l2=l2, safety=SAFETY, best_x=self.x, best_l2=self.l2,
                evaluations=self.evaluations, margins=margins, weights=weights,
            )  # fmt: skip
            return margins, weights
        criterion, rounding = self.criterion.rows(row), self.rounding[row]
        self.evaluations.index_add_(0, row, torch.ones_like(row))
        l2 = torch.where(criterion.is_met_robustly(logits, rounding), l2, torch.inf)
        closest = self.l2.scatter_reduce(0, row, l2, "amin")
        wins = ((l2 <= closest[row]) & (l2 < self.l2[row])).nonzero().squeeze(1)
        self.x.index_copy_(0, row[wins], x.index_select(0, wins))
        self.l2.copy_(closest)
        if not rivals.shape[1]:
            rivals = criterion.strongest(logits)[:, None]
        margins = criterion.gaps(logits, rivals)
        weights = criterion.weights(logits, rivals.gather(1, margins.argmax(1, keepdim=True)).squeeze(1))
        return margins + SAFETY * rounding[:, None], weights
