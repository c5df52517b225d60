"""The transfer matrix: predictions reduced to one row per (source, target)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import product
from operator import add

import pyarrow as pa

from advlab.results.layout import predictions_folder
from advlab.results.schema import MATRIX
from advlab.results.store import THREADS, Store
from advlab.transfer.metrics import Counts, count, rates

_COLUMNS = ["label", "clean_prediction", "prediction", "source_prediction", "rms"]


def count_table(table: pa.Table) -> Counts:
    """The counts of rows of ``predictions/``."""
    columns = {column: table.column(column) for column in _COLUMNS}
    source = columns.pop("source_prediction")
    return count(
        **{column: values.to_numpy() for column, values in columns.items()},
        source_prediction=None if source.null_count else source.to_numpy(),
    )


def reduce_counts(counts: Mapping[tuple[str, str], Counts]) -> pa.Table:
    """The matrix, from the counts of each (source, target)."""
    rows = [{"source": source, "target": target, **rates(total)} for (source, target), total in counts.items()]
    return pa.Table.from_pylist(rows, schema=MATRIX)


def build(store: Store, sources: list[str], targets: list[str]) -> pa.Table:
    """The matrix of a study, summed file by file: memory does not grow with the number of examples."""

    def count_file(name: str) -> Counts:
        return count_table(store.read_shard(name, _COLUMNS))

    counts = {}
    with ThreadPoolExecutor(THREADS) as threads:
        for source, target in product(sources, targets):
            parts = store.files(predictions_folder(source, target), suffix=".parquet")
            counts[source, target] = reduce(add, threads.map(count_file, parts))
    return reduce_counts(counts)
