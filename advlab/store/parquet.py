"""Parquet files with a checksum of the whole file in their footer."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq

from advlab.errors import one_line
from advlab.store import bounds
from advlab.store.bounds import Damaged

ADDRESS_KEY = b"advlab.shard"
CHECKSUM_KEY = b"advlab.sha256"

_BLANK = b"0" * 64
_BEFORE = CHECKSUM_KEY + b"\x18\x40"  # the key and the length of its value, as encoded in the footer


def encode(table: pa.Table, address: str = "") -> pa.Buffer:
    """A Parquet file with checksums of its pages and, in its footer, the SHA-256 of all its other bytes; the content
    ``address`` is kept in the schema's metadata.
    """
    if address:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), ADDRESS_KEY: address.encode()})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({CHECKSUM_KEY: _BLANK})
    content = bytearray(sink.getvalue())
    place = _place(content)
    if content[place] != _BLANK:
        raise RuntimeError("this release of PyArrow writes footers unknown to advlab; install the pinned one")
    content[place] = hashlib.sha256(content).hexdigest().encode()
    return pa.py_buffer(content)


def is_intact(content: bytes) -> bool:
    """Whether every byte of a file is as ``encode`` left it."""
    place = _place(content)
    digest = hashlib.sha256(memoryview(content)[: place.start])
    digest.update(_BLANK)
    digest.update(memoryview(content)[place.stop :])
    return digest.hexdigest().encode() == content[place]


def decode(content: bytes | pa.Buffer, columns: list[str] | None = None, most: int | None = None) -> pa.Table:
    """The rows of a whole file, or some of its columns; the checksums of the pages read are verified. Raises Damaged if
    the file is incomplete or corrupt, or its rows would take over ``most`` bytes, by default the limit for its size.
    """
    buffer = pa.py_buffer(content)
    allowed = bounds.allowance(len(buffer), bounds.memory()) if most is None else most
    try:
        table = bounds.plain(bounds.open_parquet(buffer, allowed).read(columns), allowed)
    except Damaged:
        raise
    except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
        raise Damaged(f"it is not a readable Parquet file: {one_line(error)[:300]}") from error
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if key != CHECKSUM_KEY}
    return table.replace_schema_metadata(kept)  # the checksum belongs to the file, not to the rows


def footer_size(end: bytes) -> int:
    """Bytes of the footer, from the last 8 bytes of a file or more."""
    return int.from_bytes(end[-8:-4], "little") + 8


def metadata(end: bytes) -> dict[bytes, bytes]:
    """Keys and values in the footer of a file, given its end; empty if that is not the end of a Parquet file."""
    if not 8 < footer_size(end) <= min(len(end), bounds.FOOTER + 8):
        return {}
    try:
        return pq.read_metadata(pa.BufferReader(end)).metadata or {}
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return {}


def _place(content: bytes | bytearray) -> slice:
    """Position of the checksum; of a file without one, a slice that does not hold one."""
    start = content.rfind(_BEFORE) + len(_BEFORE)
    return slice(start, start + len(_BLANK))
