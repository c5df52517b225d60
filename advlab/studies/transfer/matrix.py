"""The transfer matrix: predictions reduced to one row per (source, target)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add

import pyarrow as pa

from advlab.errors import UserError
from advlab.store.files import THREADS, Store
from advlab.store.parquet import ADDRESS_KEY
from advlab.store.schema import MATRIX
from advlab.transfer.metrics import Counts, count, rates

_COLUMNS = ["label", "clean_prediction", "prediction", "source_prediction", "rms"]


def count_table(table: pa.Table) -> Counts:
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


def build(store: Store, files: Mapping[tuple[str, str], Mapping[str, str]]) -> pa.Table:
    """The matrix of a study, summed file by file, so that memory does not grow with the number of examples.

    ``files`` has, by source and target, the files of ``predictions/`` and the content address that each must have; no
    others count. Raises a UserError when one is missing, damaged, or has rows of other weights, images or settings.
    """

    def count_file(named: tuple[str, str]) -> Counts:
        name, address = named
        try:
            table = store.read_shard(name, _COLUMNS)
        except FileNotFoundError as error:
            raise UserError(f"{store.path(name)!r} is missing; run the same command again to compute it.") from error
        if (table.schema.metadata or {}).get(ADDRESS_KEY, b"").decode(errors="replace") != address:
            raise UserError(
                f"{store.path(name)!r} has rows of other weights, images or settings; another study may be writing to "
                "this folder: end it, and run the same command again to recompute them."
            )
        return count_table(table)

    with ThreadPoolExecutor(THREADS) as threads:
        counts = {pair: reduce(add, threads.map(count_file, parts.items())) for pair, parts in files.items()}
    return reduce_counts(counts)
