"""Which start an image's next descent has, once the descents from its clean neighbourhood are done.

A network with kinks has many local minima along its boundary, and one descent ends in the one that it happens to be
near. So further rounds start elsewhere: at a reference, known to be misclassified, or at the best point so far, shaken.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Start(IntEnum):
    """Where a round begins."""

    REFERENCE = 0
    """Just beyond the boundary, on the way to the next of the nearest references."""
    SHAKEN = 1
    """At the best point, enlarged and displaced at random."""
    POLISH = 2
    """At the best point, with short steps."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The descent of a round: so many steps, whose share of the way decays geometrically from ``first`` to ``last``."""

    count: int
    first: float
    last: float


STEPS = {
    Start.REFERENCE: Steps(40, 0.7, 0.03),
    Start.SHAKEN: Steps(40, 0.7, 0.03),
    Start.POLISH: Steps(40, 0.2, 0.005),
}
BISECTIONS = 5
"""Forward passes that find the boundary on the way to a reference."""
ENLARGED, DISPLACED = 1.2, 3.0
"""A shaken start: multiple of the best perturbation, and length of the displacement in its lengths."""
POLISH_EVERY = 5
"""Every so many rounds polish."""
PATIENCE, GAIN = 10, 1e-4
"""The search of an image has converged when so many rounds in a row have not shortened its perturbation by this share."""


class Restarts:
    """What B images have tried; the plan of an image depends on its own past alone.

    Attributes:
        nearest: [B, m] int64, references, −1 for none.
        rounds: [B] int64, made so far.
        used: [B] int64, references that were started from.
        idle: [B] int64, rounds since the last gain.
        by_reference: [B] bool, a descent from a reference led to the best point.
    """

    def __init__(self, nearest: Tensor) -> None:
        self.nearest = nearest
        self.rounds = torch.zeros_like(nearest[:, 0])
        self.used, self.idle = self.rounds.clone(), self.rounds.clone()
        self.by_reference = self.rounds.bool()

    def going(self, row: Tensor) -> Tensor:
        """[l] bool: the images of ``row`` [l] have not converged."""
        return self.idle[row] < PATIENCE

    def choose(self, row: Tensor, found: Tensor) -> Tensor:
        """The starts [l] int64 of the next round of ``row`` [l], for which a misclassified point is ``found`` [l] bool.

        References and shaken starts take turns while there are references.
        """
        turn = self.rounds[row]
        left = self.next_reference(row) >= 0
        start = torch.where(left & ((turn % POLISH_EVERY) % 2 == 0 | ~found), Start.REFERENCE, Start.SHAKEN)
        return torch.where(found & (turn % POLISH_EVERY == POLISH_EVERY - 1), Start.POLISH, start)

    def next_reference(self, row: Tensor) -> Tensor:
        """[l] int64: the nearest reference that was not used yet, −1 for none."""
        last = self.nearest.shape[1] - 1
        place = self.used[row]
        return self.nearest[row, place.clamp_max(last)].masked_fill(place > last, -1)

    def note(self, row: Tensor, start: Start, before: Tensor, after: Tensor) -> None:
        """Take note of a round of ``row`` [l] that led from the distances ``before`` [l] to ``after`` [l]."""
        gained = after < before * (1 - GAIN)
        self.rounds[row] += 1
        self.idle[row] = torch.where(gained, 0, self.idle[row] + 1)
        if start == Start.REFERENCE:
            self.used[row] += 1
            self.by_reference[row] |= gained


def displacement(turn: int, like: Tensor) -> Tensor:
    """[n]: a direction of length 1, the same for every image, in the ``turn``-th round."""
    drawn = torch.randn(like.shape[1], generator=torch.Generator().manual_seed(turn), dtype=torch.float64)
    return (drawn / drawn.norm()).to(like)
