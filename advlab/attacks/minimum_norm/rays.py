"""Points on rays from clean images, and how far linearised boundaries are from them within the box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advlab import compiled
from advlab.attacks.minimum_norm import kernels
from advlab.attacks.projection import project_halfspace

NEWTON_STEPS = 3
"""Of the projections that `reach` makes: the next linearisation corrects what they leave."""


@dataclass(slots=True)
class Rays:
    """From each of B images, the ray that crosses the boundary closest to it of all that lanes have met.

    Attributes:
        images: [B, n], the clean images.
        ends: [B, n], the iterate on the ray.
        crossing: [B], where the ray crosses, in lengths of that iterate's perturbation, to first order.
        doubt: [B], by which that is to be enlarged: the farther from the iterate, the more.
        merit: [B], the distance of the crossing, enlarged; infinite before the first.
    """

    images: Tensor
    ends: Tensor
    crossing: Tensor
    doubt: Tensor
    merit: Tensor

    @classmethod
    def unknown(cls, images: Tensor) -> Rays:
        """No rays yet from the images [B, n]."""
        one = torch.ones_like(images[:, 0])
        return cls(images, images.clone(), one, one.clone(), torch.full_like(one, torch.inf))

    def restart(self, row: Tensor, ends: Tensor) -> None:
        """Forget the rays of ``row`` [l] except those through ``ends`` [B, n], which are known to cross there."""
        self.ends[row] = ends[row]
        self.crossing[row] = self.doubt[row] = 1
        self.merit[row] = torch.inf


def reach(
    images: Tensor, row: Tensor, normals: Tensor, gaps: Tensor, lower: float, upper: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Project images onto {x: gap + a·(x − image) ≤ 0} and the box.

    Args:
        images: [B, n], within the box.
        row: [l] int64, the images asked about.
        normals: [B, n], a; boundaries whose normal is zero or not finite are infinitely far.
        gaps: [l].
        lower, upper: of the box.

    Returns:
        Multipliers, lengths of the normals, lengths of the moves, and what they gain along the normal, each [l].
    """
    if compiled.fits(images, normals, gaps):
        found = torch.empty_like(gaps), torch.empty_like(gaps), torch.empty_like(gaps), torch.empty_like(gaps)
        compiled.run(kernels.reach, images, row, normals, gaps, lower, upper, NEWTON_STEPS, *found)
        return found
    clean, normal = images[row], normals[row]
    usable = normal.isfinite().all(1) & gaps.isfinite() & (normal != 0).any(1)
    normal, gaps = torch.where(usable[:, None], normal, 0), torch.where(usable, gaps, 0)
    offsets = torch.linalg.vecdot(normal, clean) - gaps
    goals, multipliers = project_halfspace(clean, normal, offsets, lower, upper, iterations=NEWTON_STEPS)
    move = goals - clean
    lengths = torch.where(usable, move.norm(dim=1), torch.inf)
    return multipliers, normal.norm(dim=1), lengths, torch.linalg.vecdot(normal, move)


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
    """Go a share of the way to the clean images' projections.

    Args:
        images: [B, n].
        row: [L] int64, the images.
        choice: [L] int64, which of the normals.
        normals: R tensors [B, n].
        multipliers: [L], of the projection onto the chosen boundary; see `reach`.
        shares: [L].
        lower, upper: of the box.

    Returns:
        The points [L, n] and their distances [L] from the clean images.
    """
    x, length = images.new_empty(len(row), images.shape[1]), torch.empty_like(shares)
    for j, normal in enumerate(normals):
        lanes = (choice == j).nonzero().squeeze(1)
        if compiled.fits(images, normal, multipliers):
            compiled.run(kernels.toward, images, row, lanes, normal, multipliers, shares, lower, upper, x, length)
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
    """Points ``image + scale (end − image)``, clipped to the box.

    Args:
        images: [B, n].
        row: [L] int64, the images.
        ends: [L, n].
        scale: [L].
        lower, upper: of the box.

    Returns:
        The points [L, n] and their distances [L] from the clean images.
    """
    if compiled.fits(images, ends, scale):
        x, length = torch.empty_like(ends), torch.empty_like(scale)
        compiled.run(kernels.along, images, row, ends, scale, lower, upper, x, length)
        return x, length
    clean = images[row]
    x = torch.addcmul(clean, scale[:, None], ends - clean).clamp_(lower, upper)
    return x, (x - clean).norm(dim=1)
