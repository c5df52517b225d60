"""Validation of ``study.json``, which may come from an untrusted source, before anything in it is used."""

import re
from typing import Any
from urllib.parse import quote

from advlab.text import printable

LONGEST_NAME = 230
"""Longest name of a model or control in a path, in bytes: file systems allow 255, including ``source=``."""
_HEX = re.compile(r"[0-9a-f]{64}")


def check(manifest: Any) -> None:
    """Raise a ValueError that describes the first problem of a manifest's form, whatever its numbers."""
    require(isinstance(manifest, dict), "it is not an object")
    for key, kind in (("kind", str), ("identity", str), ("config", dict)):
        require(isinstance(manifest.get(key), kind), f"its {key} is missing")
    for key in ("kind", "finished", "verdict"):
        if manifest.get(key) is not None:
            require_text(key, manifest[key])
    for key in ("models", "dataset", "versions", "chosen"):
        require(isinstance(manifest.get(key, {}), dict), f"its {key} is not an object")
    require(isinstance(manifest.get("resumed", []), list), "its resumed is not a list")
    for key in ("config", "chosen", "result"):
        _texts(key, manifest.get(key))
    for name, model in manifest.get("models", {}).items():
        _model(name, model)
    for key, value in manifest.get("dataset", {}).items():
        require_text(f"dataset's {key}", value)


def _model(name: str, model: Any) -> None:
    require_text("name of a model", name)
    where = f"its entry for the model {name!r}"
    require(isinstance(model, dict) and isinstance(model.get("fingerprint"), str), f"{where} names no weights")
    require(bool(_HEX.fullmatch(model["fingerprint"])), f"{where} has an invalid fingerprint")
    report, origin = model.get("report"), model.get("origin")
    require(
        isinstance(report, dict | None) and isinstance(model.get("recipe"), dict | None), f"{where} is not an object"
    )
    for key in ("train_error", "test_error", "iterations", "validation_error"):
        number = (report or {}).get(key)
        require(isinstance(number, int | float | None), f"{where} has a {key} that is not a number")
    if origin is not None:
        require_text("origin of a model", origin)
        known = origin.startswith("study:") or origin.endswith(".safetensors")
        require(known, f"{where} has an origin that is neither a study nor a checkpoint")


def _texts(key: str, value: Any) -> None:
    """Check all text in a value, which tables and figures show."""
    if isinstance(value, str):
        require_text(key, value)
    elif isinstance(value, dict | list):
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            _texts(key, one)


def require_name(name: Any) -> None:
    """Raise a ValueError unless this can be the name of a model or a control."""
    require_text("name of a model or control", name)
    require(bool(name) and len(quote(name, safe="")) <= LONGEST_NAME, f"a name has {len(name)} characters")
    require("/../" not in f"/{name}/", "a name leads out of the folder")


def require_text(key: str, value: Any) -> None:
    """Raise a ValueError unless this is text without control characters."""
    require(isinstance(value, str), f"its {key} is not text")
    require(printable(value, None) == value, f"its {key} has control characters: {printable(value, 40)}")


def require(condition: bool, problem: str) -> None:
    """Raise a ValueError with the problem unless a condition holds."""
    if not condition:
        raise ValueError(problem)
