"""Check the form of a ``study.json`` before anything in it is believed: it may be a stranger's."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from advlab.text import printable

LONGEST_NAME = 230
"""Bytes of a model's or a control's name in a path: file systems allow 255, and ``source=`` stands before it."""
_HEX = re.compile(r"[0-9a-f]{64}")


def check(manifest: Any) -> None:
    """See that a manifest has the form of one of ours, whatever its numbers are.

    Raises:
        ValueError: the first thing that is wrong with it, in words.
    """
    require(isinstance(manifest, dict), "it is no object")
    for key, kind in (("kind", str), ("identity", str), ("config", dict)):
        require(isinstance(manifest.get(key), kind), f"its {key} is missing")
    require_text("kind", manifest["kind"])
    for key in ("models", "dataset", "versions"):
        require(isinstance(manifest.get(key, {}), dict), f"its {key} is no object")
    for name, model in manifest.get("models", {}).items():
        _model(name, model)
    for key, value in manifest.get("dataset", {}).items():
        require_text(f"dataset's {key}", value)


def _model(name: str, model: Any) -> None:
    require_text("name of a model", name)
    where = f"what it says of the model {name!r}"
    require(isinstance(model, dict) and isinstance(model.get("fingerprint"), str), f"{where} names no weights")
    require(bool(_HEX.fullmatch(model["fingerprint"])), f"{where} has a fingerprint that is none")
    report, origin = model.get("report"), model.get("origin")
    require(isinstance(report, dict | None) and isinstance(model.get("recipe"), dict | None), f"{where} is no object")
    for key in ("train_error", "test_error", "iterations", "validation_error"):
        number = (report or {}).get(key)
        require(isinstance(number, int | float | None), f"{where} has a {key} that is no number")
    if origin is not None:
        require_text("origin of a model", origin)
        known = origin.startswith("study:") or origin.endswith(".safetensors")
        require(known, f"{where} has an origin that is neither a study nor a checkpoint")


def require_name(name: Any) -> None:
    """Raise a ValueError for what cannot be the name of a model or a control."""
    require_text("name of a model or control", name)
    require(bool(name) and len(quote(name, safe="")) <= LONGEST_NAME, f"a name has {len(name)} characters")
    require("/../" not in f"/{name}/", "a name leads out of the folder")


def require_text(key: str, value: Any) -> None:
    """Raise a ValueError for what is not text, or has control characters."""
    require(isinstance(value, str), f"its {key} is no text")
    require(printable(value, None) == value, f"its {key} has control characters: {printable(value, 40)}")


def require(condition: bool, problem: str) -> None:
    """Raise a ValueError with the problem unless a condition holds."""
    if not condition:
        raise ValueError(problem)
