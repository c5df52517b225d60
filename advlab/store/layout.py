"""Files that a study of any kind has in its folder."""

from __future__ import annotations

from urllib.parse import quote, unquote

MANIFEST = "study.json"


def weights_file(model: str) -> str:
    """A model the study trained."""
    return f"models/{partition(model)}.safetensors"


def model_of(file: str) -> str:
    """The model whose weights a file of ``models/`` is called after."""
    return unquote(file.removeprefix("models/").removesuffix(".safetensors"))


def partition(name: str) -> str:
    """A name as a hive partition value: percent-encoded, as readers expect; zoo names stay as they are."""
    return quote(name, safe="")
