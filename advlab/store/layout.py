"""The files that studies of every kind have in their folders."""

from urllib.parse import quote, unquote

MANIFEST = "study.json"


def weights_file(model: str) -> str:
    """File of a model that the study trained."""
    return f"models/{partition(model)}.safetensors"


def model_of(file: str) -> str:
    """The model that a file of ``models/`` belongs to."""
    return unquote(file.removeprefix("models/").removesuffix(".safetensors"))


def partition(name: str) -> str:
    """A name as a Hive partition value: percent-encoded, as readers expect; zoo names are unchanged."""
    return quote(name, safe="")
