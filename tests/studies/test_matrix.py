"""The matrix is its predictions, and one query of the documentation gives it to the last bit."""

from __future__ import annotations

import math
import re
import struct
from itertools import product
from pathlib import Path

import duckdb
import numpy as np
import pytest

from advlab.errors import UserError
from advlab.store import Store
from advlab.store.schema import MATRIX
from advlab.studies.transfer import matrix
from advlab.studies.transfer.layout import predictions_folder
from advlab.studies.transfer.rows import predictions_to_arrow
from advlab.transfer.evaluate import Answers
from advlab.transfer.generate import Examples

DOCS = Path(__file__).parents[2] / "docs" / "TRANSFER.md"
MODELS = ["softmax1e-4", "20240101", "file:/a b/my_models.py:make"]
ADDRESS = "of the study"
CONTROLS = ["gaussian-0.1", "shuffled-20240101"]


def examples(rows: int, generator: np.random.Generator) -> Examples:
    zeros = np.zeros(rows)
    rms = generator.random(rows) * 0.3
    rms[: rows // 4] = (generator.integers(0, 10**11, rows // 4) + 0.5) / 1e12  # halves of a step
    return Examples(
        index=np.arange(rows),
        label=generator.integers(0, 10, rows),
        target=zeros.astype(int),
        success=zeros.astype(bool),
        l2=zeros,
        rms=rms,
        linf=zeros,
        c=zeros,
        evaluations=zeros.astype(int),
        survives_uint8=zeros.astype(bool),
        images=np.zeros((rows, 1, 1, 1), np.float32),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Predictions of three models and two controls in uneven parts, with every odd case among them."""
    store = Store(tmp_path_factory.mktemp("study"))
    generator = np.random.default_rng(0)

    def answers(rows: int, label: np.ndarray, accuracy: float) -> Answers:
        guess = generator.integers(0, 10, rows)
        right = generator.random(rows) < accuracy
        return Answers(np.where(right, label, (label + 1 + guess % 9) % 10), np.zeros(rows, np.float32))

    for source in [*MODELS, *CONTROLS]:
        for number, rows in enumerate((1000, 337, 1)):
            shown = examples(rows, generator)
            own = None if source in CONTROLS else answers(rows, shown.label, 0.0)
            for target in MODELS:
                if target == source:
                    assert own is not None
                    to_clean, to_distorted = answers(rows, shown.label, 1.0), own  # an error rate of exactly 1
                elif target == MODELS[2]:
                    to_clean, to_distorted = answers(rows, shown.label, 0.0), answers(rows, shown.label, 1.0)  # of 0
                else:
                    to_clean, to_distorted = answers(rows, shown.label, 0.93), answers(rows, shown.label, 0.6)
                folder = predictions_folder(source, target)
                table = predictions_to_arrow(shown, to_clean, to_distorted, own)
                store.write_table(f"{folder}/part-{number:08d}.parquet", table, ADDRESS)
    store.write_table("matrix.parquet", matrix.build(store, files(store, [*MODELS, *CONTROLS], MODELS)))
    return store


def files(store: Store, sources: list[str], targets: list[str]) -> dict[tuple[str, str], dict[str, str]]:
    """All there are, by source and target."""
    pairs = product(sources, targets)
    return {pair: dict.fromkeys(store.files(predictions_folder(*pair)), ADDRESS) for pair in pairs}


def query(root: str) -> str:
    """The query in the documentation, for the study in ``root``."""
    (sql,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert sql.count("runs/demo/") == 1
    return sql.replace("runs/demo/", f"{root}/")


def bits(value: object) -> object:
    return struct.pack(">d", value) if isinstance(value, float) else value


def test_one_duckdb_query_gives_the_matrix_to_the_last_bit(store: Store) -> None:
    relation = duckdb.sql(query(store.root))
    assert relation is not None
    found = relation.to_arrow_table()
    assert found.column_names == MATRIX.names
    assert [str(field.type) for field in found.schema] == [str(field.type) for field in MATRIX]

    def by_pair(rows: list[dict[str, object]]) -> dict[object, dict[str, object]]:
        return {(row["source"], row["target"]): {name: bits(value) for name, value in row.items()} for row in rows}

    ours = store.read_table("matrix.parquet").to_pylist()
    assert len(ours) == 15
    assert by_pair(found.to_pylist()) == by_pair(ours)


def test_odd_cases_are_among_them(store: Store) -> None:
    rows = {(row["source"], row["target"]): row for row in store.read_table("matrix.parquet").to_pylist()}
    own = rows[MODELS[0], MODELS[0]]
    assert own["error_rate"] == own["ci_high"] == own["same_mistake_rate"] == 1.0
    immune = rows[MODELS[0], MODELS[2]]
    assert immune["error_rate"] == immune["ci_low"] == 0.0
    assert immune["conditional_error_rate"] is None
    for control in CONTROLS:
        assert all(rows[control, target]["same_mistake_rate"] is None for target in MODELS)
    for row in rows.values():
        assert row["n"] == 1338
        assert 0 <= row["ci_low"] <= row["error_rate"] <= row["ci_high"] <= 1
        assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())


def test_parts_may_be_cut_anyhow(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path)
    pair = "predictions/source=softmax1e-4/target=20240101"
    table = store.read_table(f"{pair}/part-00000000.parquet")
    for number, start in enumerate(range(0, 1000, 77)):
        other.write_table(f"{pair}/part-{number:08d}.parquet", table.slice(start, 77), ADDRESS)
    whole = Store(tmp_path / "whole")
    whole.write_table(f"{pair}/part-00000000.parquet", table, ADDRESS)
    cut, uncut = (matrix.build(s, files(s, ["softmax1e-4"], ["20240101"])) for s in (other, whole))
    assert cut.equals(uncut)


def test_rows_of_another_study_are_not_counted(store: Store, tmp_path: Path) -> None:
    pair = "softmax1e-4", "20240101"
    table = store.read_table(f"{predictions_folder(*pair)}/part-00000000.parquet").replace_schema_metadata({})
    other = Store(tmp_path)
    own, stray = (f"{predictions_folder(*pair)}/part-{number:08d}.parquet" for number in range(2))
    other.write_table(own, table, ADDRESS)
    other.write_table(stray, table, "of another study")
    (row,) = matrix.build(other, {pair: {own: ADDRESS}}).to_pylist()
    assert row["n"] == len(table)  # what else lies there has no say
    other.write_table(own, table, "of another study")
    with pytest.raises(UserError, match=r"part-00000000\.parquet' has rows of other weights, images or settings"):
        matrix.build(other, {pair: {own: ADDRESS}})
    other.delete(own)
    with pytest.raises(UserError, match=r"part-00000000\.parquet' is missing; run the same command again"):
        matrix.build(other, {pair: {own: ADDRESS}})
