"""The networks and trainers that a recipe may name: a table, never an import of what a file says.

A recipe lies in a file, and files come from other people. So a name is looked up among the package's own and among
those that this process registered; it is never imported.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any, Literal

from advlab.errors import UserError

Role = Literal["network", "trainer"]
ROLES: tuple[Role, ...] = ("network", "trainer")

# by role, the package's own; recipes of earlier revisions bear these names too, so none of them is ever taken out
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


def register(role: Role, name: str, made: Callable[..., Any]) -> None:
    """Let recipes name code of your own, in this process.

    Args:
        role: ``network`` for a callable that returns an untrained ``nn.Module`` and works under
            ``torch.device("meta")`` too; ``trainer`` for one that is called as `Recipe` says.
        name: by which recipes name it.
        made: the callable.

    Raises:
        UserError: the name is one of the package's own.
    """
    if name in _OWN[role]:
        raise UserError(f"{role} {name!r} is one of advlab's own; register yours under another name.")
    _registered[role, name] = made


def find(role: Role, name: str) -> Callable[..., Any]:
    """What a recipe names.

    Raises:
        UserError: it is neither one of the package's own nor registered.
    """
    if (role, name) in _registered:
        return _registered[role, name]
    if name not in _OWN[role]:
        raise UserError(
            f"{role} {name[:200]!r} is unknown here, so it is not run; if it is your own code, register it first: "
            f"advlab.models.register({role!r}, NAME, CALLABLE)."
        )
    return pkgutil.resolve_name(name)
