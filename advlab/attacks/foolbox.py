"""Foolbox's attacks as ours, and ours as Foolbox's (which lost L-BFGS in its version 3)."""

from __future__ import annotations

from typing import Any

import foolbox
import torch
from foolbox.attacks.base import FixedEpsilonAttack, MinimizationAttack
from foolbox.criteria import Criterion as FoolboxCriterion
from foolbox.criteria import Misclassification, TargetedMisclassification
from foolbox.distances import l2
from torch import Tensor, nn

from advlab.attacks import targets
from advlab.attacks.arguments import checked
from advlab.attacks.criterion import Criterion
from advlab.attacks.minimum_norm import minimum_norm
from advlab.attacks.model import Model
from advlab.attacks.result import Adversarial, judge
from advlab.attacks.szegedy import szegedy_lbfgs
from advlab.errors import UserError


@checked
def run(
    name: str,
    model: Model,
    images: Tensor,
    labels: Tensor,
    target: str | Tensor = "nearest",
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    seed: int = 0,
    index: Tensor | None = None,
) -> Adversarial:
    """Run a Foolbox attack under our contract.

    Args:
        name: a class of ``foolbox.attacks``, with ``@EPSILON`` for attacks of fixed size: ``L2CarliniWagnerAttack``,
            ``LinfPGD@0.1``.
        model, images, labels, target, bounds, seed, index: as for every attack; ``nearest`` is Foolbox's
            untargeted misclassification. Foolbox's own randomness is seeded, but depends on the batch.

    Raises:
        UserError: no such attack, or one that lacks its epsilon.
    """
    attack, epsilon = validate(name)
    with torch.no_grad():
        chosen = targets.choose(target, model(images), labels, seed=seed, index=index)
    torch.manual_seed(seed)
    counted = _Counted(model)
    wrapped = foolbox.PyTorchModel(counted.eval(), bounds=bounds, device=images.device)
    criterion = Misclassification(labels) if chosen is None else TargetedMisclassification(chosen)
    _, clipped, _ = attack(wrapped, images, criterion, epsilons=epsilon)
    evaluations = torch.full_like(labels, counted.gradients)
    return judge(model, images, clipped.clamp(*bounds).detach(), Criterion(labels, chosen), evaluations)


def validate(name: str) -> tuple[Any, float | None]:
    """The Foolbox attack that ``CLASS[@EPSILON]`` names, and its size.

    Raises:
        UserError: no such attack, or one that lacks its epsilon.
    """
    class_name, _, size = name.partition("@")
    attack_class = getattr(foolbox.attacks, class_name, None)
    if not (isinstance(attack_class, type) and issubclass(attack_class, foolbox.Attack)):
        raise UserError(f"attack 'foolbox:{name}': Foolbox has no attack {class_name!r}.")
    try:
        epsilon = float(size) if size else None
    except ValueError:
        raise UserError(f"attack 'foolbox:{name}': {size!r} is no size; write e.g. LinfPGD@0.1.") from None
    if issubclass(attack_class, FixedEpsilonAttack) and epsilon is None:
        raise UserError(f"attack 'foolbox:{name}' needs a size; write foolbox:{class_name}@EPSILON.")
    return attack_class(), epsilon


class LBFGSAttack(MinimizationAttack):
    """The paper's box-constrained L-BFGS attack as a Foolbox attack; keyword arguments of ``szegedy_lbfgs``."""

    distance = l2

    def __init__(self, **options: Any) -> None:
        self.options = options

    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **_kwargs: Any) -> Any:
        """Foolbox's entry; ``early_stop`` is not used: the search has no cheaper end."""
        del early_stop
        return _attack(szegedy_lbfgs, model, inputs, criterion, self.options)


class MinimumNormAttack(MinimizationAttack):
    """Our minimum-norm attack as a Foolbox attack; keyword arguments of ``minimum_norm``."""

    distance = l2

    def __init__(self, **options: Any) -> None:
        self.options = options

    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **_kwargs: Any) -> Any:
        """Foolbox's entry; ``early_stop`` is not used: use ``max_evaluations``."""
        del early_stop
        return _attack(minimum_norm, model, inputs, criterion, self.options)


def _attack(attack: Any, model: Any, inputs: Any, criterion: Any, options: dict[str, Any]) -> Any:
    """Run an attack of ours on Foolbox's model, tensors and criterion; returns tensors of the kind it was given."""
    images: Tensor = inputs.raw
    with torch.no_grad():
        labels = model(images).argmax(1)
    target: str | Tensor = "nearest"
    match foolbox.attacks.base.get_criterion(criterion):
        case Misclassification() as untargeted:
            labels = untargeted.labels.raw
        case TargetedMisclassification() as targeted:
            classes: Tensor = targeted.target_classes.raw
            target = classes
            labels = torch.where(labels == classes, (classes + 1) % model(images[:1]).shape[1], labels)
        case FoolboxCriterion() as other:
            raise UserError(
                f"criterion {other!r} is not supported; use Misclassification or TargetedMisclassification."
            )
    found = attack(model, images, labels, target, tuple(model.bounds), **options)
    return type(inputs)(found.images)


class _Counted(nn.Module):
    """Counts the forward passes whose gradient can be asked for; Foolbox keeps all rows in each."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.gradients = 0

    def forward(self, images: Tensor) -> Tensor:
        self.gradients += int(images.requires_grad)
        return self.model(images)
