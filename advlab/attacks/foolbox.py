"""Foolbox's attacks under the contract of ours, and ours as Foolbox attacks (whose version 3 has no L-BFGS)."""

import inspect
from collections.abc import Callable
from typing import Any

import foolbox
import torch
from foolbox.attacks import (
    BoundaryAttack,
    HopSkipJumpAttack,
    LinearSearchBlendedUniformNoiseAttack,
    PointwiseAttack,
    SaltAndPepperNoiseAttack,
)
from foolbox.attacks.base import FixedEpsilonAttack, MinimizationAttack
from foolbox.attacks.brendel_bethge import BrendelBethgeAttack
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
from advlab.errors import UserError, one_line

_STARTED_BY: dict[type, Any] = {
    BoundaryAttack: LinearSearchBlendedUniformNoiseAttack(steps=50),
    HopSkipJumpAttack: LinearSearchBlendedUniformNoiseAttack(steps=50),
    BrendelBethgeAttack: LinearSearchBlendedUniformNoiseAttack(),
    PointwiseAttack: SaltAndPepperNoiseAttack(),
}
"""Foolbox's searches for a first success, for attacks that need one: they give up all images when one has none."""


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
        UserError: no such attack, one that lacks its epsilon or does not take the target, or one that Foolbox refuses.
    """
    attack, epsilon = validate(name, "nearest" if isinstance(target, str) and target == "nearest" else "random")
    with torch.no_grad():
        chosen = targets.choose(target, model(images), labels, seed=seed, index=index)
    torch.manual_seed(seed)
    counted = _Counted(model)
    wrapped = foolbox.PyTorchModel(counted.eval(), bounds=bounds, device=images.device)
    criterion = Criterion(labels, chosen)
    try:
        found = _run(attack, epsilon, wrapped, images, criterion)
    except (ValueError, TypeError, NotImplementedError, AssertionError) as error:
        reason = f"{type(error).__name__}: {one_line(error)[:300]}"
        raise UserError(f"attack 'foolbox:{name}' cannot attack these images ({reason}); choose another.") from error
    evaluations = torch.full_like(labels, counted.gradients)
    return judge(model, images, found.clamp(*bounds).detach(), criterion, evaluations)


def _run(attack: Any, epsilon: float | None, model: Any, images: Tensor, criterion: Criterion) -> Tensor:
    """The images [B, ...] that the attack returns; those that it has no start for, as the search for one left them."""
    starter = next((starter for kind, starter in _STARTED_BY.items() if isinstance(attack, kind)), None)
    if starter is None:
        return attack(model, images, _theirs(criterion), epsilons=epsilon)[1]
    found = starter.run(model, images, _theirs(criterion))
    with torch.no_grad():
        rows = criterion.is_met(model(found)).nonzero().squeeze(1)
    if len(rows):
        wanted, start = _theirs(criterion.rows(rows)), found[rows]
        found[rows] = attack(model, images[rows], wanted, epsilons=epsilon, starting_points=start)[1]
    return found


def _theirs(criterion: Criterion) -> FoolboxCriterion:
    if criterion.target is None:
        return Misclassification(criterion.labels)
    return TargetedMisclassification(criterion.target)


def validate(name: str, target: str | None = None) -> tuple[Any, float | None]:
    """The Foolbox attack that ``CLASS[@EPSILON]`` names, and its size. Raises a UserError for no such attack, or one
    that lacks its epsilon, needs other arguments or does not take the ``target``, a policy, if that is known.
    """
    class_name, _, size = name.partition("@")
    attack_class = getattr(foolbox.attacks, class_name, None)
    if not (isinstance(attack_class, type) and issubclass(attack_class, foolbox.Attack)):
        raise UserError(f"attack 'foolbox:{name}': Foolbox has no attack {class_name!r}.")
    try:
        epsilon = float(size) if size else None
    except ValueError:
        raise UserError(f"attack 'foolbox:{name}': {size!r} is not a size; write e.g. LinfPGD@0.1.") from None
    if issubclass(attack_class, FixedEpsilonAttack) and epsilon is None:
        raise UserError(f"attack 'foolbox:{name}' needs a size; write foolbox:{class_name}@EPSILON.")
    needed = [p.name for p in inspect.signature(attack_class).parameters.values() if p.default is p.empty]
    needed = [name for name in needed if name not in ("args", "kwargs")]
    if needed:
        raise UserError(
            f"attack 'foolbox:{name}' needs arguments ({', '.join(needed)}) that a name cannot give; choose another."
        )
    attack = attack_class()
    if target is not None and not _takes(attack, epsilon, targeted=target != "nearest"):
        mend = "a target, e.g. random" if target == "nearest" else "the target nearest"
        raise UserError(f"attack 'foolbox:{name}' does not take the target {target!r}; use it with {mend}.")
    return attack, epsilon


def _takes(attack: Any, epsilon: float | None, *, targeted: bool) -> bool:
    """Whether an attack takes such a criterion: it says so before it first asks the model, which here has no logits."""
    label = torch.zeros(1, dtype=torch.int64)
    criterion = _theirs(Criterion(label, label if targeted else None))
    sized = {} if epsilon is None else {"epsilon": epsilon}
    try:
        attack.run(foolbox.PyTorchModel(nn.Module().eval(), (0, 1), "cpu"), torch.zeros(1, 1, 8, 8), criterion, **sized)
    except Exception as error:  # of the model, unless it is this one of the attack
        return not (isinstance(error, ValueError) and "unsupported criterion" in str(error))
    return True


class _Ours(MinimizationAttack):
    """One of our attacks as a Foolbox attack; keyword arguments are those of ``attack``."""

    distance = l2
    attack: Callable[..., Adversarial]

    def __init__(self, **options: Any) -> None:
        self.options = options

    def run(self, model: Any, inputs: Any, criterion: Any, **_kwargs: Any) -> Any:
        """Foolbox's entry, on its model, tensors and criterion; ``early_stop`` is not used."""
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
        found = self.attack(model, images, labels, target, tuple(model.bounds), **self.options)
        return type(inputs)(found.images)


class LBFGSAttack(_Ours):
    """The paper's box-constrained L-BFGS attack as a Foolbox attack; keyword arguments of ``szegedy_lbfgs``."""

    attack = staticmethod(szegedy_lbfgs)


class MinimumNormAttack(_Ours):
    """Our minimum-norm attack as a Foolbox attack; keyword arguments of ``minimum_norm``."""

    attack = staticmethod(minimum_norm)


class _Counted(nn.Module):
    """Counts the forward passes whose gradient can be asked for; Foolbox keeps all rows in each."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.gradients = 0

    def forward(self, images: Tensor) -> Tensor:
        self.gradients += int(images.requires_grad)
        return self.model(images)
