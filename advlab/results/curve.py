"""The learning curve of a training run: a row per finished epoch."""

from __future__ import annotations

import pyarrow as pa

from advlab.results.store import Store

FOLDER = "curve"


def write(store: Store, epoch: int, row: dict[str, float]) -> None:
    """Note what an epoch came to; one that was taken again replaces its row."""
    store.write_table(f"{FOLDER}/epoch-{epoch:05d}.parquet", pa.Table.from_pylist([row]))


def read(store: Store) -> pa.Table:
    """All rows, in order."""
    return pa.concat_tables([store.read_table(name) for name in sorted(store.files(FOLDER, suffix=".parquet"))])
