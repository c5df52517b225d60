"""The exact minimal distortion of a linear classifier: the independent truth for the attacks, certified by its dual.

For logits z = W x + c the images classified as class t form a polytope, so D(x, t) of the paper's section 4.1 is the
distance to {x′ : (w_j − w_t) · x′ ≤ c_t − c_j for all j} ∩ box, a convex QP. Untargeted, the nearest point at which the
label ties with another class solves one half-space problem per class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advlab.attacks.projection import project_halfspace, project_polytope


@dataclass(frozen=True, slots=True)
class LinearMinimum:
    """Exact minima, in float64.

    Attributes:
        images: [B, n], the closest points of the closed decision region (ties included).
        l2: [B], ‖x' − x‖₂; infinite where no point of the box reaches the region.
        target: [B] int64, the class aimed at, or the nearest one.
        gap: [B], l2 minus the lower bound that the dual certifies; 0 up to rounding.
    """

    images: Tensor
    l2: Tensor
    target: Tensor
    gap: Tensor


@torch.no_grad()
def linear_minimum(
    layer: nn.Linear,
    images: Tensor,
    labels: Tensor,
    target: Tensor | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    batch_size: int = 256,
) -> LinearMinimum:
    """The closest image that a linear classifier misclassifies, or classifies as ``target``.

    Args:
        layer: the classifier; its logits are W x + c.
        images: [B, ...] with n pixels each, inside ``bounds``.
        labels: [B] int64.
        target: [B] int64, or None for the nearest class except the label.
        bounds: the box of valid intensities.
        batch_size: images solved at once; memory grows as batch_size × k × n doubles.

    Raises:
        ValueError: images whose size is not the layer's.
    """
    points = images.flatten(1).double()
    if points.shape[1] != layer.in_features:
        raise ValueError(f"images have {points.shape[1]} pixels; the layer takes {layer.in_features}.")
    weight = layer.weight.double()
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if layer.bias is not None:
        bias = layer.bias.double()
    parts = []
    for first in range(0, len(points), batch_size):
        rows = slice(first, first + batch_size)
        if target is None:
            parts.append(_nearest(weight, bias, points[rows], labels[rows], bounds))
        else:
            parts.append(_targeted(weight, bias, points[rows], target[rows], bounds))
    if not parts:
        empty = points.new_zeros(0)
        return LinearMinimum(points, empty, labels, empty)
    return LinearMinimum(
        torch.cat([part.images for part in parts]),
        torch.cat([part.l2 for part in parts]),
        torch.cat([part.target for part in parts]),
        torch.cat([part.gap for part in parts]),
    )


def _nearest(
    weight: Tensor, bias: Tensor, points: Tensor, labels: Tensor, bounds: tuple[float, float]
) -> LinearMinimum:
    size, num_classes = len(points), len(weight)
    others = torch.arange(num_classes, device=labels.device).expand(size, -1)
    others = others[others != labels[:, None]].view(size, num_classes - 1)
    normals = weight[labels][:, None] - weight[others]
    offsets = bias[others] - bias[labels][:, None]
    flat = points.repeat_interleave(num_classes - 1, 0)
    closest, multipliers = project_halfspace(flat, normals.flatten(0, 1), offsets.flatten(), *bounds)
    solved = _certify(flat, normals.flatten(0, 1)[:, None], offsets.flatten()[:, None], closest, multipliers[:, None])
    l2, gap = (part.view(size, num_classes - 1) for part in solved)
    best = l2.argmin(1)
    rows = torch.arange(size, device=points.device)
    return LinearMinimum(
        closest.view(size, num_classes - 1, -1)[rows, best], l2[rows, best], others[rows, best], gap[rows, best]
    )


def _targeted(
    weight: Tensor, bias: Tensor, points: Tensor, target: Tensor, bounds: tuple[float, float]
) -> LinearMinimum:
    normals = weight[None] - weight[target][:, None]
    offsets = bias[target][:, None] - bias[None]
    closest, multipliers = project_polytope(points, normals, offsets, *bounds, iterations=200)
    l2, gap = _certify(points, normals, offsets, closest, multipliers)
    return LinearMinimum(closest, l2, target, gap)


def _certify(
    points: Tensor, normals: Tensor, offsets: Tensor, closest: Tensor, multipliers: Tensor
) -> tuple[Tensor, Tensor]:
    """The distances [B] and their duality gaps [B], both infinite where a half-space is missed."""
    l2 = (closest - points).norm(dim=1)
    excess = torch.einsum("bmn,bn->bm", normals, closest) - offsets
    dual = (l2.square() + 2 * (multipliers * excess).sum(1)).clamp_min(0).sqrt()
    size = 1 + normals.abs().sum(2)
    missed = (excess > 1e-9 * size).any(1)
    return l2.masked_fill(missed, torch.inf), (l2 - dual).abs().masked_fill(missed, torch.inf)
