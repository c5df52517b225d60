"""Where the files of a study lie in its folder."""

from __future__ import annotations

from urllib.parse import quote, unquote

MANIFEST = "study.json"
MATRIX = "matrix.parquet"
HALVES = "halves.parquet"

FIRST_TABLES, LAST_TABLES = "tables_1_and_2", "tables_3_and_4"
READINGS, TARGETS = "readings", "targets"
"""Folders of the studies that make up the paper's."""
POLICIES = ("nearest", "runner-up", "least-likely")
"""Ways to choose targets, one folder of ``TARGETS`` each."""

ALIGNMENT = "alignment.parquet"


def seed_folder(part: str, seed: int) -> str:
    """Where a part of the paper's study lies that is repeated over seeds."""
    return f"{part}/seed={seed}"


def weights_file(model: str) -> str:
    """A model the study trained."""
    return f"models/{_partition(model)}.safetensors"


def model_of(file: str) -> str:
    """The model whose weights a file of ``models/`` is called after."""
    return unquote(file.removeprefix("models/").removesuffix(".safetensors"))


def examples_folder(source: str) -> str:
    """All examples of an attacked model."""
    return f"examples/source={_partition(source)}"


def examples_part(source: str, start: int) -> str:
    """The examples of the shard that begins at row ``start`` of the study's images."""
    return f"{examples_folder(source)}/part-{start:08d}.parquet"


def predictions_folder(source: str, target: str) -> str:
    """All answers of one target to one source."""
    return f"predictions/source={_partition(source)}/target={_partition(target)}"


def predictions_part(source: str, target: str, start: int) -> str:
    """A target's answers to one shard."""
    return f"{predictions_folder(source, target)}/part-{start:08d}.parquet"


def _partition(name: str) -> str:
    """Hive partition values are percent-encoded, as readers expect; zoo names stay as they are."""
    return quote(name, safe="")
