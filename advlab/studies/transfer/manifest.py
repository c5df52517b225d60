"""Validation of the ``study.json`` of a transfer study, in addition to that of all studies."""

from typing import Any

from advlab.attacks import targets
from advlab.errors import UserError
from advlab.store.manifest import require, require_name, require_text
from advlab.text import printable
from advlab.transfer import controls

SETTINGS = (
    "dataset", "split", "train_split", "models", "examples", "attack", "target", "controls", "shard_size", "seed",
)  # fmt: skip
"""The settings that a transfer study must have, as its command records them."""

_MODELS, _CELLS = 2_000, 4_000_000
"""Limits on models and matrix cells: more than any study has, few enough for loops over them."""
_MOST = 2**62


def check(manifest: dict[str, Any]) -> None:
    """Raise a ValueError that describes the first invalid setting."""
    config = manifest["config"]
    for key in ("dataset", "split", "train_split", "attack", "target"):
        require_text(key, config.get(key, ""))
    for key, least in (("examples", 1), ("shard_size", 1), ("seed", 0)):
        value = config.get(key, 1)
        valid = isinstance(value, int) and not isinstance(value, bool) and least <= value < _MOST
        require(valid, f"its {key} is {printable(value, 40)}")
    _names(config.get("models", []), config.get("controls", []))
    target = config.get("target", "all")
    known = target in (*targets.POLICIES, "all") or (target.isascii() and target.isdecimal() and len(target) < 7)
    require(known, f"its target is {target!r}")
    require(isinstance(manifest.get("attack"), dict | None), "its attack is not an object")
    for name in manifest.get("models", {}):
        require_name(name)


def lacking(manifest: dict[str, Any]) -> list[str]:
    """The settings that a transfer study must have and this one lacks."""
    settings = [key for key in SETTINGS if key not in manifest["config"] and key != "train_split"]
    return settings if isinstance(manifest.get("attack"), dict) else [*settings, "attack's settings"]


def _names(models: Any, noise: Any) -> None:
    """Check the names of models and controls, and their number."""
    require(isinstance(models, list) and isinstance(noise, list), "its models or controls are not a list")
    for name in (*models, *noise):
        require_name(name)
    require(len(models) <= _MODELS and len(set(models)) == len(models), f"it has {len(models):,} models")
    cells = len(models) * len(models) * (1 + len(noise))
    require(cells <= _CELLS, f"its matrix has {cells:,} cells")
    try:
        controls.validate(noise, models)
    except UserError as error:
        raise ValueError(str(error).partition(";")[0]) from error
    for name in controls.expand(noise, models):
        require_name(name)
