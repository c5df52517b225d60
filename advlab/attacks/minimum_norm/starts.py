"""The first points of lanes: on the boundaries linearised at the clean images, or wherever a later descent starts.

Shapes: B images of a batch, n pixels, R rivals per image; l of the images are not misclassified to begin with.
"""

import math

import torch
from torch import Tensor

from advlab.attacks.chunks import blocks
from advlab.attacks.minimum_norm.lanes import Lanes
from advlab.attacks.minimum_norm.rays import Rays, Reach, along, reach, toward
from advlab.attacks.projection import project_polytope

STARTS = ((0, math.inf), (1, math.inf), (0, 0.4), (2, math.inf))
"""The lanes of an image, most promising first: (rank of the rival, cap c in distances of the nearest boundary)."""
STRONGEST, HANDICAP = 6, 1.1
"""Rivals other than so many with the largest logits must be nearer by this factor to rank before these: on networks
with kinks, linearisations of far boundaries say less than the logits."""
TARGETED_STARTS = (math.inf, 0.4)
"""The same for a target: the caps, in distances of its linearised region."""


def free(rays: Rays, row: Tensor, x: Tensor, length: Tensor) -> Lanes:
    """One lane per image at x [l, n], whose rival is the strongest class wherever it is."""
    none = {"rivals": row.new_empty(len(row), 0), "normals": x.new_empty(len(row), 0, x.shape[1])}
    return Lanes.start(rays, row=row, x=x, length=length, multipliers=torch.zeros_like(length)[:, None], **none)


def towards_nearest(
    rays: Rays, row: Tensor, rivals: Tensor, normals: list[Tensor], gaps: Tensor, lower: float, upper: float
) -> Lanes:
    """Lanes from the images ``row`` [l] towards the rivals whose linearised boundaries are nearest within the box.

    ``rivals`` are [l, R], the strongest first; ``normals`` the gradients [B, n] of the margin to each of them at the
    images, ``gaps`` [l, R] the margins.
    """
    images = rays.images
    each = [
        reach(images, row, normal, gap.contiguous(), lower, upper) for normal, gap in zip(normals, gaps.T, strict=True)
    ]
    met = Reach(*(torch.stack(parts, 1) for parts in zip(*each, strict=True)))
    missed = ~(met.gain < -0.5 * gaps)  # the box ends before that boundary
    far = images.shape[1] ** 0.5 * (upper - lower)
    handicap = torch.where(torch.arange(len(normals), device=row.device) < STRONGEST, 1.0, HANDICAP)
    order = (handicap * torch.where(missed, far + met.distance, met.distance)).argsort(1)
    shortest = met.distance.gather(1, order[:, :1]).squeeze(1)
    chosen = [(order[:, rank], cap * shortest) for rank, cap in STARTS if rank < len(normals)]
    choice, cap = torch.cat([j for j, _ in chosen]), torch.cat([cap for _, cap in chosen])
    lanes = torch.arange(len(row), device=row.device).repeat(len(chosen))
    tiny = torch.finfo(gaps.dtype).tiny
    share = (cap / met.distance[lanes, choice].clamp_min(tiny)).nan_to_num(1).clamp_max(1)
    dual = met.multiplier[lanes, choice]
    x, length = toward(images, row[lanes], choice, normals, dual, share, lower, upper)
    place = torch.arange(len(chosen), device=row.device).repeat_interleave(len(row))
    per_unit = (dual * met.slope[lanes, choice])[:, None]
    return Lanes.start(
        rays, row=row[lanes], place=place, rivals=rivals[lanes, choice][:, None], x=x, length=length,
        normals=x.new_empty(len(lanes), 0, x.shape[1]), multipliers=per_unit, cap=cap,
    )  # fmt: skip


def towards_target(
    rays: Rays, row: Tensor, rivals: Tensor, normals: list[Tensor], gaps: Tensor, lower: float, upper: float
) -> Lanes:
    """Lanes towards the linearised region of the target; arguments as for `towards_nearest`."""
    images, parts = rays.images, []
    for some in blocks(len(row), len(normals) * images.shape[1], images):
        clean = images[row[some]]
        plane = torch.stack([normal.index_select(0, row[some]) for normal in normals], 1).nan_to_num_(0, 0, 0)
        offsets = torch.linalg.vecdot(plane, clean[:, None]) - gaps[some]
        parts.append((plane, *project_polytope(clean, plane, offsets, lower, upper)))
    (plane, goal, multiplier), count = map(torch.cat, zip(*parts, strict=True)), len(TARGETED_STARTS)
    distance = (goal - images[row]).norm(dim=1)
    cap = torch.cat([cap * distance for cap in TARGETED_STARTS])
    share = torch.cat([torch.full_like(distance, min(1.0, cap)) for cap in TARGETED_STARTS])
    x, length = along(images, row.repeat(count), goal.repeat(count, 1), share, lower, upper)
    place = torch.arange(count, device=row.device).repeat_interleave(len(row))
    plane, multiplier = plane.repeat(count, 1, 1), multiplier.repeat(count, 1)
    return Lanes.start(
        rays, row=row.repeat(count), place=place, rivals=rivals.repeat(count, 1), x=x, length=length, normals=plane,
        multipliers=multiplier, cap=cap,
    )  # fmt: skip
