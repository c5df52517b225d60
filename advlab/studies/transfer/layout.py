"""Files of a transfer study, relative to its folder."""

from advlab.store.layout import partition

MATRIX = "matrix.parquet"


def examples_folder(source: str) -> str:
    return f"examples/source={partition(source)}"


def examples_part(source: str, start: int) -> str:
    """The examples of the shard that begins at row ``start`` of the study's images."""
    return f"{examples_folder(source)}/part-{start:08d}.parquet"


def predictions_folder(source: str, target: str) -> str:
    return f"predictions/source={partition(source)}/target={partition(target)}"


def predictions_part(source: str, target: str, start: int) -> str:
    return f"{predictions_folder(source, target)}/part-{start:08d}.parquet"
