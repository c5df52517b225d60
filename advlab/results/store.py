"""Files of a study on any filesystem that PyArrow speaks: local disk, NFS, S3, GCS."""

from __future__ import annotations

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from advlab.errors import UserError, one_line

SHARD_KEY = b"advlab.shard"


class Store:
    """A folder, local or remote, whose files are written whole or not at all.

    On a local (or network) file system a file is written under a temporary name, flushed to disk and renamed; an
    object store commits an object only when its upload is complete. Either way a reader never sees half a file.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        """Open the folder at ``uri``: a path, or ``s3://``, ``gs://``, ``file://`` …

        Raises:
            UserError: the URI names no file system that PyArrow knows.
        """
        self.uri = str(uri)
        if "://" in self.uri:
            try:
                self.filesystem, self.root = pafs.FileSystem.from_uri(self.uri)
            except (pa.ArrowInvalid, OSError) as error:
                raise UserError(
                    f"--out {self.uri!r} is not a location PyArrow can open: {one_line(error).rstrip('.')}."
                ) from error
            if not self.root:
                raise UserError(f"--out {self.uri!r} is not a location PyArrow can open: it names no bucket.")
        else:
            self.filesystem, self.root = pafs.LocalFileSystem(), str(Path(self.uri).expanduser().resolve())
            self.uri = self.root  # actors work in other folders
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, relative: str) -> str:
        """The path of a file of this store, as its file system spells it."""
        return f"{self.root}/{relative}"

    def require_writable(self) -> None:
        """Raise a UserError now, not after an hour, when nothing can be written here."""
        probe = f".write-probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"")
            self.delete(probe)
        except OSError as error:
            cause = one_line(error).rstrip(".")
            raise UserError(
                f"--out {self.uri!r} cannot be written ({cause}); choose a folder you may write to."
            ) from error

    def exists(self, relative: str) -> bool:
        """Whether a file of that name is there."""
        return self.filesystem.get_file_info(self.path(relative)).type == pafs.FileType.File

    def files(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names, relative to the store and sorted, of all committed files below a folder."""
        selector = pafs.FileSelector(self.path(folder).rstrip("/"), recursive=True, allow_not_found=True)
        prefix = len(self.root) + 1
        names = (
            info.path[prefix:] for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File
        )
        return sorted(n for n in names if n.endswith(suffix) and not n.rsplit("/", 1)[-1].startswith("."))

    def read_bytes(self, relative: str) -> bytes:
        """The content of a file."""
        with self.filesystem.open_input_file(self.path(relative)) as stream:
            return bytes(stream.read())

    def write_bytes(self, relative: str, content: bytes | pa.Buffer) -> None:
        """Write a file whole or not at all, replacing what was there."""
        target = self.path(relative)
        if not self.is_local:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(content)
            return
        folder, name = os.path.split(target)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "wb") as stream:
                stream.write(memoryview(content))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def delete(self, relative: str) -> None:
        """Remove a file."""
        self.filesystem.delete_file(self.path(relative))

    def read_json(self, relative: str) -> Any:
        """The content of a JSON file."""
        return json.loads(self.read_bytes(relative))

    def write_json(self, relative: str, value: Any) -> None:
        """Write a JSON file, indented and key-ordered as given."""
        self.write_bytes(relative, (json.dumps(value, indent=2) + "\n").encode())

    def read_table(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table; page checksums are verified.

        Raises:
            OSError: the file is torn or corrupt.
        """
        with self.filesystem.open_input_file(self.path(relative)) as stream:
            return pq.ParquetFile(stream, page_checksum_verification=True).read(columns)

    def write_table(self, relative: str, table: pa.Table, key: str = "") -> None:
        """Write a Parquet file with page checksums; ``key`` is the content address kept in its metadata."""
        if key:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), SHARD_KEY: key.encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self.write_bytes(relative, sink.getvalue())

    def read_shard(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file that can be made again.

        Raises:
            UserError: it is damaged; it has been removed, so that the next run makes it anew.
        """
        try:
            return self.read_table(relative, columns)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            self.delete(relative)
            raise UserError(
                f"{self.path(relative)!r} was damaged and has been removed; run the same command again to make it anew."
            ) from error

    def keys(self, folder: str) -> dict[str, str]:
        """The content addresses of all whole Parquet files below a folder, by name."""
        names = self.files(folder, suffix=".parquet")
        with ThreadPoolExecutor(16) as threads:  # one round trip each on an object store
            return {name: key for name, key in zip(names, threads.map(self.key, names), strict=True) if key}

    def key(self, relative: str) -> str | None:
        """The content address in a Parquet file's footer; None for missing, torn and foreign files."""
        try:
            with self.filesystem.open_input_file(self.path(relative)) as stream:
                metadata = pq.ParquetFile(stream).schema_arrow.metadata or {}
        except (OSError, pa.ArrowInvalid):
            return None
        return metadata.get(SHARD_KEY, b"").decode() or None

    def holds(self, relative: str, key: str) -> bool:
        """Whether a whole Parquet file with this content address is there."""
        return self.key(relative) == key
