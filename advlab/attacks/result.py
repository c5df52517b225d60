"""What every attack returns, judged by a fresh forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advlab.attacks.criterion import Criterion
from advlab.errors import UserError

Model = Callable[[Tensor], Tensor]
"""Anything that maps images [B, ...] to logits [B, k]."""


@dataclass(frozen=True, slots=True)
class Adversarial:
    """Attacked images; row b depends on row b of the input alone.

    Attributes:
        images: the best candidate per row, shape and dtype of the clean images; failed rows hold the best attempt.
        success: [B] bool, from a fresh forward pass of ``images``.
        l2: [B] float64, ‖x' − x‖₂ in units of pixel intensity.
        rms: [B] float64, the paper's distortion √(Σ(x' − x)²/n) (section 4.2).
        target: [B] int64, the class aimed at; for untargeted attacks the class reached.
        evaluations: [B] int64, gradient evaluations spent on the row.
        c: [B] float64, the penalty constant of the returned point; NaN where the attack has none.
    """

    images: Tensor
    success: Tensor
    l2: Tensor
    rms: Tensor
    target: Tensor
    evaluations: Tensor
    c: Tensor

    def __len__(self) -> int:
        return len(self.images)


def require_within(images: Tensor, bounds: tuple[float, float]) -> None:
    """Raise a UserError when an image leaves the box: its distance from the box would count as distortion."""
    low, high = bounds
    if bool(((images < low) | (images > high)).any()):
        raise UserError(
            f"images span {float(images.min()):g}..{float(images.max()):g}, outside bounds={bounds}; "
            "scale them or pass their bounds."
        )


@torch.no_grad()
def judge(
    model: Model,
    clean: Tensor,
    candidates: Tensor,
    criterion: Criterion,
    evaluations: Tensor,
    c: Tensor | None = None,
) -> Adversarial:
    """Measure candidates [B, ...] against the clean images and the criterion; nothing an attack claims is trusted."""
    if not len(clean):
        empty = torch.zeros(0, dtype=torch.float64, device=clean.device)
        index = torch.zeros(0, dtype=torch.int64, device=clean.device)
        return Adversarial(candidates, index.bool(), empty, empty, index, evaluations, empty)
    logits = model(candidates)
    perturbation = (candidates.double() - clean.double()).flatten(1)
    l2 = perturbation.norm(dim=1)
    return Adversarial(
        images=candidates,
        success=criterion.is_met(logits),
        l2=l2,
        rms=l2 / perturbation.shape[1] ** 0.5,
        target=criterion.reached(logits),
        evaluations=evaluations,
        c=torch.full_like(l2, torch.nan) if c is None else c.double(),
    )
