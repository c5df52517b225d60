"""The transfer matrix: predictions reduced to one row per (source, target)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from operator import add

import pyarrow as pa

from advlab.results.layout import predictions_folder
from advlab.results.schema import MATRIX
from advlab.results.store import Store
from advlab.transfer.metrics import Counts, count, rates

_COLUMNS = ["label", "clean_prediction", "prediction", "source_prediction", "rms"]


def count_file(store: Store, name: str) -> Counts:
    """The counts of one predictions file."""
    table = store.read_shard(name, _COLUMNS)
    columns = {column: table.column(column) for column in _COLUMNS}
    source = columns.pop("source_prediction")
    return count(
        **{column: values.to_numpy() for column, values in columns.items()},
        source_prediction=None if source.null_count else source.to_numpy(),
    )


def build(store: Store, sources: list[str], targets: list[str]) -> pa.Table:
    """The matrix of a study, summed file by file: memory does not grow with the number of examples."""
    rows = []
    with ThreadPoolExecutor(16) as threads:
        for source in sources:
            for target in targets:
                parts = store.files(predictions_folder(source, target), suffix=".parquet")
                counts = list(threads.map(partial(count_file, store), parts))
                rows.append({"source": source, "target": target, **rates(reduce(add, counts))})
    return pa.Table.from_pylist(rows, schema=MATRIX)
