"""The result of every attack, judged by a fresh forward pass."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from advlab.attacks.criterion import Criterion
from advlab.attacks.model import Classifier, Model

AT_ONCE = 1000
"""Images judged in one pass, which bounds the memory."""


class Ended(IntEnum):
    """How the search of a row ended, and whether its distance may be far from the minimum."""

    DONE = 0
    """The attack took a fixed number of steps."""
    UNCHANGED = 1
    """The image met the criterion already."""
    CONVERGED = 2
    """Further evaluations stopped paying before the budget was spent."""
    BUDGET = 3
    """The budget was spent; a larger one may find a closer image."""
    REFERENCE = 4
    """Converged or not, the closest image was found from a reference: the gradients at the clean image led elsewhere,
    as on hardened networks."""
    FAILED = 5
    """Nothing that meets the criterion was found."""


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
        ended: [B] int64, how the search ended; see `Ended`.
    """

    images: Tensor
    success: Tensor
    l2: Tensor
    rms: Tensor
    target: Tensor
    evaluations: Tensor
    c: Tensor
    ended: Tensor

    def __len__(self) -> int:
        return len(self.images)


@torch.no_grad()
def judge(
    model: Model,
    clean: Tensor,
    candidates: Tensor,
    criterion: Criterion,
    evaluations: Tensor,
    c: Tensor | None = None,
    ended: Tensor | None = None,
) -> Adversarial:
    """Measure candidates against the clean images and the criterion; no claim of an attack is trusted.

    Args:
        model: images [B, ...] → logits [B, k].
        clean, candidates: [B, ...]; judged and returned in the type of the images that the model gets.
        criterion: of the B rows.
        evaluations: [B] int64.
        c: [B], if the attack has a penalty constant.
        ended: [B] int64, if the attack knows how it ended; see `Ended`.

    Raises:
        UserError: a model that cannot be used; see `Classifier`.
    """
    if len(clean):
        model = Classifier.of(model, clean)
        clean, candidates = clean.to(model.dtype), candidates.to(model.dtype)
    l2 = torch.zeros(len(clean), dtype=torch.float64, device=clean.device)
    success = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    reached = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
    for rows in torch.arange(len(clean), device=clean.device).split(AT_ONCE) if len(clean) else ():
        logits = model(candidates[rows])
        l2[rows] = (candidates[rows].double() - clean[rows].double()).flatten(1).norm(dim=1)
        success[rows] = criterion.rows(rows).is_met(logits)
        reached[rows] = criterion.rows(rows).reached(logits)
    ended = torch.full_like(reached, Ended.DONE) if ended is None else ended
    ended = torch.where(success, torch.where(l2 == 0, Ended.UNCHANGED, ended), Ended.FAILED)
    return Adversarial(
        images=candidates,
        success=success,
        l2=l2,
        rms=l2 / clean[0].numel() ** 0.5 if len(clean) else l2,
        target=reached,
        evaluations=evaluations,
        c=torch.full_like(l2, torch.nan) if c is None else c.double(),
        ended=ended,
    )
