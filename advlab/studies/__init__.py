"""Studies on Ray, one folder each, from settings to tables and figures."""

import pkgutil
from typing import TYPE_CHECKING, Any

from advlab.errors import UserError

if TYPE_CHECKING:
    from advlab.studies.experiment import Experiment

KINDS = {
    "transfer": "advlab.studies.transfer.study:TransferMatrix",
    "architectures": "advlab.studies.architectures.study:Architectures",
    "hardening": "advlab.studies.adversarial_training.study:AdversarialTraining",
    "units": "advlab.studies.directions.study:Units",
    "spectral": "advlab.studies.spectral.study:Spectral",
    "alexnet": "advlab.studies.alexnet.study:AlexNet",
    "quocnet": "advlab.studies.quocnet.study:QuocNet",
}


def register(kind: str, place: str) -> None:
    """Register studies of your own: their kind in ``study.json``, and their `Experiment`, as ``package.module:class``.

    Raises a UserError when the kind exists.
    """
    if kind in KINDS:
        raise UserError(f"studies of kind {kind!r} exist already; register yours under another name.")
    KINDS[kind] = place


def of_kind(kind: str) -> "type[Experiment[Any, Any, Any]]":
    """The experiment that computes and shows studies of a kind of ``study.json``; a UserError if there is none."""
    if kind not in KINDS:
        raise UserError(f"advlab has no studies of kind {kind[:80]!r}; it shows {', '.join(KINDS)}.")
    return pkgutil.resolve_name(KINDS[kind])
