"""The plan of the rounds: where the next descent of an image starts, once those near the clean image are done.

A network with kinks has many local minima along its boundary, and a descent ends in one near its start. So the rounds
start elsewhere: at a reference that meets the criterion, or at the best point so far, displaced at random.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from advlab.attacks.references import BISECTIONS


@dataclass(frozen=True, slots=True)
class Start:
    """Where a round starts, and the steps of its descent.

    Attributes:
        reference: just beyond the boundary, on the way to the next of the nearest references; else at the best point.
        displaced: by how much the best point is displaced at random, in lengths of its perturbation.
        within: each pixel is displaced about as much as it is perturbed; otherwise all pixels alike.
        first, last: s of the first and of the last step.
    """

    reference: bool = False
    displaced: float = 0.0
    within: bool = False
    first: float = 1.0
    last: float = 0.03


CYCLE = (
    Start(reference=True, first=0.5),
    Start(displaced=3.0),
    Start(reference=True),
    Start(displaced=2.0, within=True),
    Start(first=0.2, last=0.005),
)
"""The rounds of an image, again and again. References help on hardened networks, displacements find other minima of
networks with kinks, and the last round polishes what was found."""
REFERENCE, DISPLACED = 0, 1
"""Places in the cycle: of the rounds of an image without a point across the boundary, and of the rounds that replace
those from references once these are used up."""
STEPS = 40
"""Steps of a round."""
ENLARGED, ELSEWHERE = 1.2, 0.1
"""Before it is displaced, the perturbation is enlarged by the first factor. With ``within``, pixels that are not
perturbed are still displaced by the second, as a share of the most perturbed one."""
SECANT_STEPS = 4
"""Forward passes of the secant that ends a descent on the boundary."""
ROUND = BISECTIONS + STEPS + SECANT_STEPS
"""Most evaluations that a round takes."""
MISSES = 2
"""After so many references in a row without a gain, an image tries one in every second cycle only."""
PATIENCE, GAIN = 10, 1e-4
"""The search of an image has converged when so many rounds in a row have not shortened its perturbation by this
share."""


class Restarts:
    """The past rounds of B images, on which alone the next one of each depends.

    Attributes:
        nearest: [B, m] int64, references that meet the criterion, nearest first; −1 for none.
        rounds: [B] int64, rounds so far.
        used: [B] int64, references that were started from.
        missed: [B] int64, references since the last that brought a gain.
        idle: [B] int64, rounds since the last gain.
        by_reference: [B] bool, a descent from a reference has brought a gain.
    """

    def __init__(self, nearest: Tensor, used: Tensor) -> None:
        self.nearest, self.used = nearest, used
        self.rounds, self.idle, self.missed = (torch.zeros_like(used) for _ in range(3))
        self.by_reference = self.rounds.bool()

    def going(self, row: Tensor) -> Tensor:
        """[l] bool: the search of the images ``row`` [l] has not converged."""
        return self.idle[row] < PATIENCE

    def choose(self, row: Tensor, found: Tensor) -> Tensor:
        """Places [l] int64 in `CYCLE` of the next rounds of ``row`` [l]; ``found`` [l] bool: a point is known."""
        place = torch.where(found, self.rounds[row] % len(CYCLE), REFERENCE)
        wants = torch.tensor([start.reference for start in CYCLE], device=row.device)[place]
        tired = found & (self.missed[row] >= MISSES) & (self.rounds[row] % (2 * len(CYCLE)) != REFERENCE)
        return torch.where(wants & (tired | (self.next_reference(row) < 0)), DISPLACED, place)

    def next_reference(self, row: Tensor) -> Tensor:
        """[l] int64: the nearest reference that was not used yet; −1 for none."""
        last = self.nearest.shape[1] - 1
        place = self.used[row]
        return self.nearest[row, place.clamp_max(last)].masked_fill(place > last, -1)

    def note(self, row: Tensor, start: Start, before: Tensor, after: Tensor) -> None:
        """Record a round of the images ``row`` [l] that changed their distances from ``before`` to ``after`` [l]."""
        gained = after < before * (1 - GAIN)
        self.rounds[row] += 1
        self.idle[row] = torch.where(gained, 0, self.idle[row] + 1)
        if start.reference:
            self.used[row] += 1
            self.missed[row] = torch.where(gained, 0, self.missed[row] + 1)
            self.by_reference[row] |= gained


def displacement(turn: int, like: Tensor) -> Tensor:
    """[n]: a direction of length 1, the same for every image, in the ``turn``-th round."""
    drawn = torch.randn(like.shape[1], generator=torch.Generator().manual_seed(turn), dtype=torch.float64)
    return (drawn / drawn.norm()).to(like)
