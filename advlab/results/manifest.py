"""What ``study.json`` may say: it is checked before anything in it is believed, for it may be a stranger's."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from advlab.attacks import targets
from advlab.errors import UserError
from advlab.text import printable
from advlab.transfer import controls

SETTINGS = (
    "dataset", "split", "train_split", "models", "examples", "attack", "target", "controls", "shard_size", "seed",
)  # fmt: skip
"""The settings of a transfer study, all of which its command gives."""

LONGEST_NAME = 230
"""Bytes of a model's or a control's name in a path: file systems allow 255, and ``source=`` stands before it."""
_MODELS, _CELLS = 2_000, 4_000_000
"""Models of a study, and cells of its matrix: more than any study has, few enough for every loop over them."""
_MOST = 2**62
_HEX = re.compile(r"[0-9a-f]{64}")


def check(manifest: Any) -> None:
    """See that a manifest has the form of one of ours, whatever its numbers are.

    Raises:
        ValueError: the first thing that is wrong with it, in words.
    """
    _require(isinstance(manifest, dict), "it is no object")
    for key, kind in (("kind", str), ("identity", str), ("config", dict)):
        _require(isinstance(manifest.get(key), kind), f"its {key} is missing")
    _text("kind", manifest["kind"])
    for key in ("models", "dataset", "versions"):
        _require(isinstance(manifest.get(key, {}), dict), f"its {key} is no object")
    if manifest["kind"] == "transfer":
        _transfer(manifest["config"])
        _require(isinstance(manifest.get("attack"), dict | None), "its attack is no object")
        for name, model in manifest.get("models", {}).items():
            _model(name, model)
        for key, value in manifest.get("dataset", {}).items():
            _text(f"dataset's {key}", value)


def lacking(manifest: dict[str, Any]) -> list[str]:
    """The settings that a transfer study must have and this one has not."""
    settings = [key for key in SETTINGS if key not in manifest["config"] and key != "train_split"]
    return settings if isinstance(manifest.get("attack"), dict) else [*settings, "attack's settings"]


def _transfer(config: dict[str, Any]) -> None:
    for key in ("dataset", "split", "train_split", "attack", "target"):
        _text(key, config.get(key, ""))
    for key, least in (("examples", 1), ("shard_size", 1), ("seed", 0)):
        value = config.get(key, 1)
        valid = isinstance(value, int) and not isinstance(value, bool) and least <= value < _MOST
        _require(valid, f"its {key} is {printable(value, 40)}")
    _names(config.get("models", []), config.get("controls", []))
    target = config.get("target", "all")
    known = target in (*targets.POLICIES, "all") or (target.isascii() and target.isdecimal() and len(target) < 7)
    _require(known, f"its target is {target!r}")


def _names(models: Any, noise: Any) -> None:
    """The models and controls, each by itself and as many as there are."""
    _require(isinstance(models, list) and isinstance(noise, list), "its models or controls are no list")
    for name in (*models, *noise):
        _name(name)
    _require(len(models) <= _MODELS and len(set(models)) == len(models), f"it has {len(models):,} models")
    cells = len(models) * len(models) * (1 + len(noise))
    _require(cells <= _CELLS, f"its matrix has {cells:,} cells")
    try:
        controls.validate(noise, models)
    except UserError as error:
        raise ValueError(str(error).partition(";")[0]) from error
    for name in controls.expand(noise, models):
        _name(name)


def _model(name: str, model: Any) -> None:
    _name(name)
    where = f"what it says of the model {name!r}"
    _require(isinstance(model, dict) and isinstance(model.get("fingerprint"), str), f"{where} names no weights")
    _require(bool(_HEX.fullmatch(model["fingerprint"])), f"{where} has a fingerprint that is none")
    report, origin = model.get("report"), model.get("origin")
    _require(isinstance(report, dict | None) and isinstance(model.get("recipe"), dict | None), f"{where} is no object")
    for key in ("train_error", "test_error", "iterations", "validation_error"):
        number = (report or {}).get(key)
        _require(isinstance(number, int | float | None), f"{where} has a {key} that is no number")
    if origin is not None:
        _text("origin of a model", origin)
        _require(origin.startswith("study:"), f"{where} has an origin that is no study")


def _name(name: Any) -> None:
    _text("name of a model or control", name)
    _require(bool(name) and len(quote(name, safe="")) <= LONGEST_NAME, f"a name has {len(name)} characters")
    _require("/../" not in f"/{name}/", "a name leads out of the folder")


def _text(key: str, value: Any) -> None:
    _require(isinstance(value, str), f"its {key} is no text")
    _require(printable(value, None) == value, f"its {key} has control characters: {printable(value, 40)}")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
