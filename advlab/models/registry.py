"""The registry of networks and trainers that recipes may name. Recipes are in files that people exchange, so a name is
looked up among the package's own and those that this process registered; it is never imported.
"""

import pkgutil
from collections.abc import Callable
from typing import Any, Literal

from advlab.errors import UserError

Role = Literal["network", "trainer"]
ROLES: tuple[Role, ...] = ("network", "trainer")

# the package's own, by role; recipes of earlier revisions use these names, so none may be removed
_OWN: dict[Role, tuple[str, ...]] = {
    "network": (
        "advlab.models.alexnet:classifier", "advlab.models.autoencoder:AutoencoderClassifier",
        "advlab.models.convnet:ConvNet", "advlab.models.mlp:MLP", "advlab.models.small:Conv3x3",
        "advlab.models.small:ResNet", "advlab.models.small:ViT",
    ),
    "trainer": (
        "advlab.training.full_batch:fit", "advlab.training.image_classifier:fit", "advlab.training.minibatch:fit",
        "advlab.training.robust:distil", "advlab.training.robust:harden", "advlab.training.sparse_autoencoder:fit",
    ),
}  # fmt: skip

_registered: dict[tuple[Role, str], Callable[..., Any]] = {}


def register(role: Role, name: str, code: Callable[..., Any]) -> None:
    """Register your own code for recipes in this process; raises a UserError if the name is one of the package's own.

    A ``network`` returns an untrained ``nn.Module`` and works under ``torch.device("meta")`` too; a ``trainer`` is
    called as described in `Recipe`.
    """
    if name in _OWN[role]:
        raise UserError(f"{role} {name!r} is one of advlab's own; register yours under another name.")
    _registered[role, name] = code


def find(role: Role, name: str) -> Callable[..., Any]:
    """The network or trainer of a name; raises a UserError if the name is neither the package's own nor registered."""
    if (role, name) in _registered:
        return _registered[role, name]
    if name not in _OWN[role]:
        raise UserError(
            f"{role} {name[:200]!r} is unknown here, so it is not run; if it is your own code, register it first: "
            f"advlab.models.register({role!r}, NAME, CALLABLE)."
        )
    return pkgutil.resolve_name(name)
