"""Rays from clean images: where they cross the boundary, and how far linearised boundaries are within the box.

Shapes: B images of a batch, n pixels, L lanes. Numbers in brackets are the equations of the package's overview.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from advlab import compiled
from advlab.attacks.minimum_norm import kernels
from advlab.attacks.projection import project_halfspace

NEWTON_STEPS = 3
"""Newton steps of the projections in `reach`: the next linearisation corrects what is left of their error."""


@dataclass(slots=True)
class Rays:
    """From each of B images, the ray that crosses the boundary closest to it, of all that its lanes have met.

    Attributes:
        images: [B, n], the clean images x.
        ends: [B, n], the iterate x_t on the ray.
        crossing: [B], τ (4): the ray crosses at x + τ (x_t − x), to first order.
        doubt: [B], 1 + 4 (τ − 1)²: the factor of (5), the larger the farther the crossing is from the iterate.
        merit: [B], τ ‖x_t − x‖ times the doubt (5); infinite before the first.
    """

    images: Tensor
    ends: Tensor
    crossing: Tensor
    doubt: Tensor
    merit: Tensor

    @classmethod
    def unknown(cls, images: Tensor) -> Self:
        """No rays yet from the images [B, n]."""
        one = torch.ones_like(images[:, 0])
        return cls(images, images.clone(), one, one.clone(), torch.full_like(one, torch.inf))

    def restart(self, row: Tensor, ends: Tensor) -> None:
        """Replace the rays of ``row`` [l] by those through ``ends`` [B, n], points that are known to lie beyond."""
        self.ends[row] = ends[row]
        self.crossing[row] = self.doubt[row] = 1
        self.merit[row] = torch.inf


class Reach(NamedTuple):
    """Projections of images onto linearised boundaries.

    Attributes:
        multiplier: λ of clip(x − λ a).
        slope: ‖a‖.
        distance: ‖clip(x − λ a) − x‖; infinite where a is zero or not finite.
        gain: a · (clip(x − λ a) − x), by how much the margin changes on the way; −gap where the boundary is reached.
    """

    multiplier: Tensor
    slope: Tensor
    distance: Tensor
    gain: Tensor


def reach(images: Tensor, row: Tensor, normals: Tensor, gaps: Tensor, lower: float, upper: float) -> Reach:
    """Project the images x of ``row`` [l], within the box, onto {x′: gap + a · (x′ − x) ≤ 0} and the box; the normals a
    are [B, n], the gaps and the fields of the result [l].
    """
    if compiled.fits(images, normals, gaps):
        found = Reach(*(torch.empty_like(gaps) for _ in Reach._fields))
        compiled.run(
            kernels.reach, found, images=images, row=row, normals=normals, gaps=gaps, lower=lower, upper=upper,
            newton_steps=NEWTON_STEPS,
        )  # fmt: skip
        return found
    clean, normal = images[row], normals[row]
    usable = normal.isfinite().all(1) & gaps.isfinite() & (normal != 0).any(1)
    normal, gaps = torch.where(usable[:, None], normal, 0), torch.where(usable, gaps, 0)
    offsets = torch.linalg.vecdot(normal, clean) - gaps
    goals, multiplier = project_halfspace(clean, normal, offsets, lower, upper, iterations=NEWTON_STEPS)
    move = goals - clean
    distance = torch.where(usable, move.norm(dim=1), torch.inf)
    gain = torch.linalg.vecdot(normal, move)
    return Reach(multiplier=multiplier, slope=normal.norm(dim=1), distance=distance, gain=gain)


def toward(
    images: Tensor,
    row: Tensor,
    choice: Tensor,
    normals: list[Tensor],
    multipliers: Tensor,
    shares: Tensor,
    lower: float,
    upper: float,
) -> tuple[Tensor, Tensor]:
    """Go ``shares`` [L] of the way from the images ``row`` [L] to their projections, which `reach` found to have these
    multipliers [L], for the ``choice`` [L] among R ``normals`` [B, n]. Returns the same as `along`.
    """
    x, length = images.new_empty(len(row), images.shape[1]), torch.empty_like(shares)
    for j, normal in enumerate(normals):
        lanes = (choice == j).nonzero().squeeze(1)
        if compiled.fits(images, normal, multipliers):
            compiled.run(
                kernels.toward, images=images, row=row, lanes=lanes, normals=normal, multipliers=multipliers,
                shares=shares, lower=lower, upper=upper, x=x, length=length,
            )  # fmt: skip
            continue
        some = row[lanes]
        clean, dual = images[some], multipliers[lanes, None]
        goal = (clean - torch.where(dual > 0, dual * normal[some], 0)).clamp_(lower, upper)
        x[lanes] = torch.lerp(clean, goal, shares[lanes, None]).clamp_(lower, upper)
        length[lanes] = (x[lanes] - clean).norm(dim=1)
    return x, length


def along(
    images: Tensor, row: Tensor, ends: Tensor, scale: Tensor, lower: float, upper: float
) -> tuple[Tensor, Tensor]:
    """Points ``image + scale (end − image)`` [L, n] for the images ``row`` [L], clipped to the box, and their distances
    [L] from the clean images; the ends are [L, n], the scale [L].
    """
    if compiled.fits(images, ends, scale):
        x, length = torch.empty_like(ends), torch.empty_like(scale)
        compiled.run(
            kernels.along, images=images, row=row, ends=ends, scale=scale, lower=lower, upper=upper, x=x, length=length
        )
        return x, length
    clean = images[row]
    x = torch.addcmul(clean, scale[:, None], ends - clean).clamp_(lower, upper)
    return x, (x - clean).norm(dim=1)
