"""The learning curve of a training run: one row per finished epoch."""

import pyarrow as pa

from advlab.store import Store

FOLDER = "curve"


def write(store: Store, epoch: int, row: dict[str, float]) -> None:
    """Write the row of an epoch; an epoch that was repeated replaces its row."""
    store.write_table(f"{FOLDER}/epoch-{epoch:05d}.parquet", pa.Table.from_pylist([row]))


def read(store: Store) -> list[dict[str, float]]:
    """All rows, in order."""
    return [row for name in store.files(FOLDER, suffix=".parquet") for row in store.read_table(name).to_pylist()]
