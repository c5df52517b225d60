"""The registry: attacks by name."""

import functools
import importlib.util
import inspect
import pkgutil
from importlib.metadata import version
from typing import Any, Protocol

from torch import Tensor

from advlab.attacks.model import Model
from advlab.attacks.result import Adversarial
from advlab.errors import UserError

ATTACKS = {
    "lbfgs": "advlab.attacks.szegedy:szegedy_lbfgs",
    "minimum-norm": "advlab.attacks.minimum_norm:minimum_norm",
}

REVISION = 5
"""Raise it when a change of code changes what an attack returns: earlier examples are then computed again."""


class Attack(Protocol):
    """The signature of every attack in the registry."""

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        target: str | Tensor,
        bounds: tuple[float, float],
        *,
        seed: int,
        index: Tensor | None,
    ) -> Adversarial: ...


def register(name: str, place: str) -> None:
    """Add an attack of your own: an `Attack` that can be imported from ``package.module:function``. What it returns is
    recorded under its default arguments: give it one that changes when its code does. Raises a UserError if there is
    one of that name.
    """
    if name in ATTACKS or ":" in name:
        raise UserError(f"attack {name!r} is there already, or has a colon; register yours under another name.")
    ATTACKS[name] = place


def resolve(name: str, target: str | None = None) -> Attack:
    """The attack called ``name``: ``lbfgs``, ``minimum-norm[:EVALUATIONS]`` or ``foolbox:CLASS``. Raises a UserError
    for an unknown name, an impossible budget, Foolbox where it is not installed, or an attack of Foolbox that does not
    take the target (a policy of `targets`, ``all`` or a class).
    """
    if name in ATTACKS:
        return pkgutil.resolve_name(ATTACKS[name])
    scheme, _, rest = name.partition(":")
    if scheme == "minimum-norm":
        if not (rest.isdecimal() and int(rest)):
            raise UserError(f"attack {name!r}: {rest!r} is not a number of evaluations; write e.g. minimum-norm:32.")
        return functools.partial(pkgutil.resolve_name(ATTACKS[scheme]), max_evaluations=int(rest))
    if scheme == "foolbox" and rest:
        if importlib.util.find_spec("foolbox") is None:
            raise UserError(f"attack {name!r} needs Foolbox; install it with: pip install 'advlab[foolbox]'.")
        from advlab.attacks.foolbox import run, validate

        validate(rest, target)
        return functools.partial(run, rest)
    raise UserError(f"unknown attack {name!r}; choose {', '.join(ATTACKS)}, minimum-norm:EVALUATIONS or foolbox:CLASS.")


def takes_references(name: str) -> bool:
    """Whether the attack ``name`` takes images of other classes to start from; see `references`."""
    return "references" in inspect.signature(resolve(name)).parameters


def settings(name: str, references: str | None = None) -> dict[str, Any]:
    """Everything that decides what the attack ``name`` returns: its default arguments, the version of its code, and the
    fingerprint of the images that it is given as ``references``, if it takes any.
    """
    if name.startswith("foolbox:"):
        resolve(name)
        return {"revision": REVISION, "foolbox": version("foolbox")}
    named = inspect.signature(resolve(name)).parameters.values()
    defaults = {p.name: p.default for p in named if p.kind is p.KEYWORD_ONLY and p.name not in ("seed", "index")}
    return {"revision": REVISION, **defaults} | ({"references": references} if takes_references(name) else {})
