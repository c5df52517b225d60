"""What every attack returns, judged by a fresh forward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

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


Arguments = ParamSpec("Arguments")


def outside_inference_mode(
    attack: Callable[Concatenate[Model, Tensor, Tensor, Arguments], Adversarial],
) -> Callable[Concatenate[Model, Tensor, Tensor, Arguments], Adversarial]:
    """Let an attack take gradients though its caller is in `torch.inference_mode`, on copies of what was made there."""

    @functools.wraps(attack)
    def run(
        model: Model, images: Tensor, labels: Tensor, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Adversarial:
        if not (torch.is_inference_mode_enabled() or images.is_inference()):
            return attack(model, images, labels, *args, **kwargs)
        with torch.inference_mode(False):
            return attack(model, images.clone(), labels.clone(), *args, **kwargs)

    return run


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
    *,
    batch_size: int = 1000,
) -> Adversarial:
    """Measure candidates against the clean images and the criterion: nothing an attack claims is trusted.

    Args:
        model: images [B, ...] → logits [B, k].
        clean, candidates: [B, ...].
        criterion: of the B rows.
        evaluations: [B] int64.
        c: [B], if the attack has a penalty constant.
        batch_size: images judged at once; bounds the memory.
    """
    l2 = torch.zeros(len(clean), dtype=torch.float64, device=clean.device)
    success = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    reached = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
    for rows in torch.arange(len(clean), device=clean.device).split(batch_size):
        if not len(rows):
            break
        logits = model(candidates[rows])
        l2[rows] = (candidates[rows].double() - clean[rows].double()).flatten(1).norm(dim=1)
        success[rows] = criterion.rows(rows).is_met(logits)
        reached[rows] = criterion.rows(rows).reached(logits)
    return Adversarial(
        images=candidates,
        success=success,
        l2=l2,
        rms=l2 / clean[0].numel() ** 0.5 if len(clean) else l2,
        target=reached,
        evaluations=evaluations,
        c=torch.full_like(l2, torch.nan) if c is None else c.double(),
    )
