"""The source side: attack a model on a slice of a data set."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advlab.attacks import targets
from advlab.attacks.criterion import Criterion
from advlab.attacks.model import Model
from advlab.attacks.registry import Attack
from advlab.data import Dataset
from advlab.errors import UserError


@dataclass(frozen=True, slots=True)
class Examples:
    """Distorted images as columns, one row per example.

    Attributes:
        index, label: [N] int64, which image of the data set, and its class.
        target: [N] int64, the target class, or the class reached; -1 for controls.
        success: [N] bool.
        l2, rms, linf: [N] float64, norms of x' − x in pixel intensities.
        c: [N] float64, the penalty constant of the returned point, NaN if there is none.
        evaluations: [N] int64, gradient evaluations spent.
        survives_uint8: [N] bool, still successful after rounding to 8 bits.
        images: [N, C, H, W] float32.
    """

    index: np.ndarray
    label: np.ndarray
    target: np.ndarray
    success: np.ndarray
    l2: np.ndarray
    rms: np.ndarray
    linf: np.ndarray
    c: np.ndarray
    evaluations: np.ndarray
    survives_uint8: np.ndarray
    images: np.ndarray


def attack_dataset(
    model: Model,
    dataset: Dataset,
    attack: Attack,
    target: str,
    *,
    seed: int,
    device: torch.device,
    references: Tensor | None = None,
) -> Examples:
    """Attack every image of ``dataset`` once; for ``all`` once per wrong class, for a class those of other classes.

    ``target`` is a policy of ``advlab.attacks.targets``, ``all``, or a class as a number; ``seed`` is of random targets
    and of the attack; ``references`` are [R, C, H, W] on the device. Raises a UserError for an unknown policy or class.
    """
    require_target(target, dataset.num_classes)
    attacked, classes = attacked_rows(dataset, target)
    images, labels, index = (t.to(device) for t in (attacked.images, attacked.labels, attacked.index))
    policy = target if classes is None else classes.to(device)
    given: dict[str, Any] = {} if references is None else {"references": references}
    found = attack(model, images, labels, policy, (0.0, 1.0), seed=seed, index=index, **given)

    criterion = Criterion(labels, None if target == "nearest" else found.target)
    with torch.no_grad():
        rounded = criterion.is_met(model((found.images * 255).round() / 255))
    return Examples(
        index=index.cpu().numpy(),
        label=labels.cpu().numpy(),
        target=found.target.cpu().numpy(),
        success=found.success.cpu().numpy(),
        c=found.c.cpu().numpy(),
        evaluations=found.evaluations.cpu().numpy(),
        survives_uint8=(found.success & rounded).cpu().numpy(),
        images=found.images.cpu().numpy(),
        **distortion(images.cpu().numpy(), found.images.cpu().numpy()),
    )


def attacked_rows(dataset: Dataset, target: str) -> tuple[Dataset, Tensor | None]:
    """The images that an attack towards ``target`` distorts, in the order of its rows, and its classes if known."""
    rows = torch.arange(len(dataset))
    if target == "all":
        wrong = torch.arange(1, dataset.num_classes)
        classes = ((dataset.labels[:, None] + wrong) % dataset.num_classes).flatten()
        return dataset.subset(rows.repeat_interleave(len(wrong))), classes
    if target in targets.POLICIES:
        return dataset, None
    rows = rows[dataset.labels != int(target)]
    return dataset.subset(rows), torch.full_like(rows, int(target))


def require_target(target: str, num_classes: int) -> None:
    """Raise a UserError unless a target is a policy, ``all``, or a class by its number."""
    is_class = target.isdecimal() and int(target) < num_classes
    if not is_class and target not in (*targets.POLICIES, "all"):
        raise UserError(
            f"unknown target {target!r}; choose one of {', '.join(targets.POLICIES)}, all, or a class "
            f"0..{num_classes - 1}."
        )


def distortion(clean: np.ndarray, distorted: np.ndarray) -> dict[str, np.ndarray]:
    """``l2``, ``rms`` (the paper's √(Σ(x' − x)²/n)) and ``linf`` per image, in float64."""
    flat = (len(clean), math.prod(clean.shape[1:]))
    difference = distorted.reshape(flat).astype(np.float64) - clean.reshape(flat)
    l2 = np.sqrt(np.square(difference).sum(1))
    return {"l2": l2, "rms": l2 / np.sqrt(difference.shape[1]), "linf": np.abs(difference).max(1, initial=0.0)}
