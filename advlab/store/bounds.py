"""Bounds on the memory that an untrusted file takes, computed before it is read.

A few KiB of Parquet can hold 50 million rows, whatever its footer claims, but Arrow unpacks a page into as many bytes
as its header says. So this module parses footer and page headers (Thrift's compact protocol, field numbers as in
apache/parquet-format); PyArrow itself is not used for this, as some footers make it abort the process.
"""

import base64
import os
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FLOOR = 2**28
"""Bytes of memory that any file may take."""
RATIO = 64
"""Larger files may take this many times their size: our shards take up to 20 times theirs."""
FOOTER = 2**20
"""Largest footer in bytes: that of a shard has a few thousand."""
DEPTH = 64
"""Deepest nesting of JSON that is read."""
_THRIFT = 100_000
"""Largest number of entries of a list in a footer."""
_PAGES = 100_000
"""Largest number of pages of a column."""

_WIDTHS = (1, 4, 8, 12, 4, 8)  # of BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE in memory
_BYTE_ARRAY, _FIXED = 6, 7
_ENCODINGS = (0, 2, 3, 4, 8, 9)  # PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT
_DICTIONARY_PAGE = 2
_CONTROL = r"[\p{C}\x{2028}\x{2029}]"  # those that `printable` spells out
_SKIPPED = {1: 0, 2: 0, 3: 1, 7: 8}  # bytes of Thrift's true, false, byte and double


class Damaged(OSError):
    """A file that is not what was written: incomplete, corrupt, or crafted to mislead its reader."""


class Oversized(Damaged):
    """A file that would take more memory than allowed."""


def memory() -> int:
    """Default limit in bytes on the memory that one file may take: a quarter of this machine's, at least 1 GiB."""
    try:
        return max(2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)
    except (ValueError, OSError):  # not available on every system
        return 2**30


def allowance(size: int, most: int) -> int:
    """Bytes that a file of ``size`` bytes may take when unpacked, at most ``most``."""
    return min(most, max(FLOOR, RATIO * size))


def open_parquet(content: pa.Buffer, most: int) -> pq.ParquetFile:
    """A Parquet file whose rows take no more than ``most`` bytes; raises Damaged if it is none or contradicts itself,
    Oversized if its rows take more, and errors of PyArrow (ArrowException, OSError, UnicodeDecodeError).
    """
    try:
        strings = _require_bounded(memoryview(content).cast("B"), most)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Damaged("its footer is not that of a Parquet file") from error
    return pq.ParquetFile(
        pa.BufferReader(content),
        page_checksum_verification=True,
        read_dictionary=strings,
        thrift_string_size_limit=FOOTER,
        thrift_container_size_limit=_THRIFT,
    )


def plain(table: pa.Table, most: int) -> pa.Table:
    """A table whose strings are no longer dictionary-encoded, their control characters replaced, as a terminal may show
    them; raises Oversized if they exceed ``most`` bytes.
    """
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            kind, size, chunks = field.type.value_type, 0, []
            for chunk in table.column(place).chunks:
                strings = chunk.dictionary
                if pa.types.is_string(kind):
                    strings = pc.replace_substring_regex(strings, _CONTROL, "�")
                size += pc.sum(pc.take(pc.binary_length(strings), chunk.indices)).as_py() or 0
                if size > most:
                    raise Oversized(f"the strings of its {field.name!r} take {_gib(size)}")
                chunks.append(pc.take(strings, chunk.indices))
            kept = pa.field(field.name, kind, field.nullable, field.metadata)
            table = table.set_column(place, kept, pa.chunked_array(chunks, kind))
    return table


def require_shallow(value: Any) -> None:
    """Raise a ValueError for JSON nested deeper than any that advlab writes, which could overflow recursive code."""
    level = [value]
    for _ in range(DEPTH):
        held = [item for item in level if isinstance(item, dict | list)]
        level = [item for one in held for item in (one.values() if isinstance(one, dict) else one)]
    if level:
        raise ValueError(f"it is nested more than {DEPTH} deep")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A column: path, physical type, length if fixed, and how many of its ancestors can be null or repeat."""

    path: str
    kind: int
    length: int
    nullable: int
    repeated: int


def _require_bounded(content: memoryview, most: int) -> list[str]:
    """Add up the sizes of a file's pages; returns the columns of strings."""
    length = int.from_bytes(content[-8:-4], "little")
    if len(content) < 12 or content[-4:] != b"PAR1" or length > min(len(content) - 12, FOOTER):
        raise Damaged("its footer is larger than any that advlab writes, or is incomplete")
    found = footer(content)
    require_own_types(found)
    leaves = _leaves(found[2])
    size = 0
    for group in found.get(4, []):
        rows = group[3]
        for leaf, column in zip(leaves, group[1], strict=True):
            values, unpacked = _column(content, leaf, column)
            if leaf.kind == _BYTE_ARRAY:
                size += 4 * values + unpacked
            else:
                width = leaf.length if leaf.kind == _FIXED else _WIDTHS[leaf.kind]
                size += values * (width + leaf.repeated) + unpacked // 8
            if not 0 <= rows <= values or unpacked > most or size > most:
                size_text = f"{rows:,} rows in {values:,} values" if rows > values else _gib(max(size, unpacked))
                raise Oversized(f"it would take {size_text}, and has {len(content):,} bytes")
    if found[3] != sum(group[3] for group in found.get(4, [])):
        raise Damaged("its footer contradicts itself")
    return [leaf.path for leaf in leaves if leaf.kind == _BYTE_ARRAY]


def require_own_types(found: dict[int, Any]) -> None:
    """Raise an error for a footer with extension types: libraries of this process register some that are pickles."""
    for pair in found.get(5, []):  # a key may be there twice
        if bytes(pair[1]) == b"ARROW:schema" and b"ARROW:extension" in base64.b64decode(pair[2], validate=True):
            raise Damaged("it has a column of an extension type, whose values could run code")


def footer(end: bytes | memoryview) -> dict[int, Any]:
    """The fields of the footer of a Parquet file, whose last bytes are given; raises an error if it is none."""
    return _struct(memoryview(end), len(end) - 8 - int.from_bytes(end[-8:-4], "little"), 0)[0]


def _leaves(schema: list[Any]) -> list[_Leaf]:
    """The columns of a schema, which is a list of elements in pre-order."""
    found: list[_Leaf] = []
    open_groups: list[list[Any]] = [[1, "", 0, 0]]  # children left, path, number of nullable and of repeated levels
    for element in schema:
        while open_groups and open_groups[-1][0] == 0:
            open_groups.pop()
        group = open_groups[-1]
        group[0] -= 1
        repetition, children = element.get(3, 0), element.get(5, 0)
        path = group[1] + bytes(element[4]).decode() if found or len(open_groups) > 1 else ""
        nullable, repeated = group[2] + (repetition > 0), group[3] + (repetition == 2)
        if children:
            open_groups.append([children, f"{path}." if path else "", nullable, repeated])
        else:
            found.append(_Leaf(path, element[1], max(1, element.get(2, 0)), nullable, repeated))
    if any(leaf.kind == _BYTE_ARRAY and leaf.repeated for leaf in found):
        raise Damaged("it has lists of strings, which advlab does not write")
    if len({leaf.path for leaf in found}) < len(found):  # PyArrow would read only one of them as ``strings`` asks
        raise Damaged("it has two columns of one name")
    return found


def _column(content: memoryview, leaf: _Leaf, column: dict[int, Any]) -> tuple[int, int]:
    """Number of values in the pages of a column, and their size in bytes when unpacked."""
    described = column[3]
    levels = described.get(16, {})
    if len(levels.get(2, [])) not in (0, leaf.repeated + 1) or len(levels.get(3, [])) not in (0, leaf.nullable + 1):
        raise Damaged("its footer contradicts itself")
    if 1 in column or described[1] != leaf.kind:
        raise Damaged("a column lies in another file, or is of another type than its schema says")
    if not described[7]:  # of no rows
        return 0, 0
    at, dictionary = described[9], described.get(11, 0)
    if dictionary > 0 and (dictionary < at or not at):  # without rows there is only a dictionary
        at = dictionary
    end = at + described[7]
    if not 4 <= at <= end <= len(content):
        raise Damaged("a column lies outside the file")
    values = unpacked = count = 0
    while at < end:
        count += 1
        header, at = _struct(content, at, 0)
        page = header.get(5) or header.get(8) or header.get(7) or {}
        size, packed, held = header.get(2), header.get(3), page.get(1)
        if not (isinstance(size, int) and isinstance(packed, int) and isinstance(held, int)):
            raise Damaged("the header of a page is incomplete")
        if min(size, packed, held) < 0 or count > _PAGES or page.get(4 if 8 in header else 2) not in _ENCODINGS:
            raise Damaged("a page is of a kind that advlab does not write")
        at, unpacked = at + packed, unpacked + size
        if header.get(1) != _DICTIONARY_PAGE:
            values += held
    if at != end:
        raise Damaged("its pages exceed their column")
    return values, unpacked


def _struct(content: memoryview, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """The integers, strings, lists and structures of a Thrift structure by field, and its end."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = _byte(content, at)
        at += 1
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(content, at)
        fields[number], at = _value(content, at, head & 15, depth)


def _value(content: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _SKIPPED:
        return None, at + _SKIPPED[kind]
    if kind in (4, 5, 6):
        return _integer(content, at)
    if kind == 8:
        size, at = _varint(content, at)
        return content[at : at + size], at + size
    if kind in (9, 10) and depth < 8:  # a list, a set
        head = _byte(content, at)
        size, at = (head >> 4, at + 1) if head >> 4 < 15 else _varint(content, at + 1)
        if size > min(_THRIFT, len(content) - at):
            raise Damaged("a list in it is longer than its bytes")
        items = []
        for _ in range(size):
            item, at = (None, at + 1) if head & 15 in (1, 2) else _value(content, at, head & 15, depth + 1)
            items.append(item)
        return items, at
    if kind == 12 and depth < 8:
        return _struct(content, at, depth + 1)
    raise Damaged("the header of a page is incomplete")


def _integer(content: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(content, at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Damaged("the header of a page is incomplete")


def _byte(content: memoryview, at: int) -> int:
    if not 0 <= at < len(content):
        raise Damaged("the header of a page is incomplete")
    return content[at]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB of memory"
