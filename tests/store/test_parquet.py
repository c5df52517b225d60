"""A file knows whether it is whole: every flipped byte and every cut is noticed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from advlab.store import parquet
from advlab.store.bounds import Damaged
from advlab.store.schema import PREDICTIONS, examples


@pytest.fixture(scope="module")
def content() -> bytes:
    generator = np.random.default_rng(0)
    columns = [generator.integers(0, 10, 30) for _ in range(5)]
    columns += [generator.random(30, np.float32), generator.random(30)]
    return bytes(parquet.encode(pa.table(columns, schema=PREDICTIONS), "address"))


def test_address_and_rows_come_back(content: bytes) -> None:
    assert parquet.is_intact(content)
    assert parquet.metadata(content)[parquet.ADDRESS_KEY] == b"address"
    rows = parquet.decode(content)
    assert bytes(parquet.encode(rows)) == content  # the address lies in the schema; the same rows are the same bytes


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_every_flipped_byte_is_noticed(flip: int, content: bytes) -> None:
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= flip
        assert not parquet.is_intact(bytes(damaged)), position
        parquet.metadata(bytes(damaged))  # whatever it holds, asking does not raise


def test_every_cut_is_noticed(content: bytes) -> None:
    for size in range(len(content)):
        assert not parquet.is_intact(content[:size])
        assert parquet.metadata(content[:size]) == {}


def test_the_end_of_a_file_tells_what_its_footer_holds(content: bytes) -> None:
    size = parquet.footer_size(content[-8:])
    assert parquet.metadata(content[-size:]) == parquet.metadata(content)
    assert parquet.metadata(content[-size + 1 :]) == {}


@pytest.mark.parametrize("foreign", [b"", b"PAR1", b"no parquet at all", b"\0" * 100])
def test_what_is_no_parquet_file_is_not_intact(foreign: bytes) -> None:
    assert not parquet.is_intact(foreign)
    assert parquet.metadata(foreign) == {}


def test_columns_whose_values_another_library_would_unpickle() -> None:
    """Ray Data registers a type, by this name, whose values are pickles: metadata alone makes a column one of them."""
    marks = {"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""}
    nested = pa.struct([pa.field("b", pa.large_binary(), metadata=marks)])
    for field in (pa.field("a", pa.large_binary(), metadata=marks), pa.field("a", nested)):
        table = pa.table([pa.nulls(1, field.type)], schema=pa.schema([field]))
        with pytest.raises(Damaged, match="extension type"):
            parquet.decode(parquet.encode(table))


def test_two_columns_of_one_name() -> None:
    """PyArrow looks columns up by name, so that a limit set for one of them would not hold for the other."""
    table = pa.table([["x" * 1000] * 1000, ["x"] * 1000], names=["a", "a"])
    with pytest.raises(Damaged, match="two columns of one name"):
        parquet.decode(parquet.encode(table))


def test_a_shard_of_no_rows() -> None:
    """An attack towards one class has nothing to do where all images are of that class."""
    expected = examples((1, 2, 2))
    assert parquet.decode(parquet.encode(expected.empty_table())).equals(expected.empty_table())
