"""Studies on Ray, one folder each, from settings to tables and figures."""

import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from advlab.errors import UserError
from advlab.store import Study

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


FIGURES: dict[str, dict[str, str]] = {}
"""By kind and name, figures that are drawn in addition to the study's own."""


def register_figure(kind: str, name: str, place: str) -> None:
    """Register a figure of your own, ``figures/NAME.png`` in all studies of a kind.

    ``place`` is ``package.module:function``, of the `Study`, which returns a PNG as bytes. Raises a UserError for an
    unknown kind and for a name that exists.
    """
    of_kind(kind)
    figures = FIGURES.setdefault(kind, {})
    if name in figures:
        raise UserError(f"a figure {name!r} exists already; register yours under another name.")
    figures[name] = place


def figures_of(kind: str) -> dict[str, Callable[[Study], bytes]]:
    """The figures registered for a kind, by name."""
    return {name: pkgutil.resolve_name(place) for name, place in FIGURES.get(kind, {}).items()}


def of_kind(kind: str) -> "type[Experiment[Any, Any, Any]]":
    """The experiment that computes and shows studies of a kind of ``study.json``; a UserError if there is none."""
    if kind not in KINDS:
        raise UserError(f"advlab has no studies of kind {kind[:80]!r}; it shows {', '.join(KINDS)}.")
    return pkgutil.resolve_name(KINDS[kind])
