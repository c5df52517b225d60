"""Files of a study on any file system that PyArrow supports: local disk, NFS, S3, GCS."""

import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.fs as pafs

from advlab.errors import UserError, one_line
from advlab.store import bounds, exclusive, parquet
from advlab.store.bounds import Damaged, Oversized
from advlab.store.retry import Result, persist
from advlab.text import has_credentials, masked

THREADS = 16
"""Concurrent requests to an object store, as each mostly waits for a round trip."""

JSON_BYTES = 2**24
"""Largest JSON file in bytes: that of a study of a hundred models has about 100,000."""

_END = 1 << 16
"""Bytes read from the end of a file to find its footer, which has a few thousand in a shard."""


class Store:
    """A folder, local or remote, whose files are written atomically, so that a reader never sees an incomplete one.

    On a file system a file is written under a temporary name, flushed to disk and renamed; an object store commits only
    complete uploads. Operations on an unreachable object store are retried for up to two minutes. The folder is not
    trusted: nothing outside of it is read, written or deleted, whatever links are in it, and only regular files are
    read that take no more than ``memory`` bytes.
    """

    def __init__(self, uri: str | os.PathLike[str], *, repairing: bool = False) -> None:
        """Open the folder at ``uri``: a path, or ``s3://``, ``gs://``, ``file://`` …

        With ``repairing``, a damaged file is removed when it is read, so that it is made again: only for the study that
        is being computed. Raises a UserError if the URI names no file system that PyArrow knows, or contains
        credentials.
        """
        self.uri, self.memory = str(uri), bounds.memory()
        if has_credentials(self.uri):
            raise UserError(
                f"{masked(self.uri)!r} contains credentials, which study.json and logs would keep; leave them out, and "
                "set them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "GOOGLE_APPLICATION_CREDENTIALS) or the machine's role."
            )
        if "://" in self.uri:
            try:
                self.filesystem, self.root = persist(lambda: pafs.FileSystem.from_uri(_lean(self.uri)), self.uri)
            except (pa.ArrowInvalid, OSError) as error:
                raise UserError(
                    f"{self.uri!r} is not a location PyArrow can open: {one_line(error).rstrip('.')}."
                ) from error
            if not self.root:
                raise UserError(f"{self.uri!r} is not a location PyArrow can open: it names no bucket.")
        else:
            self.filesystem, self.root = pafs.LocalFileSystem(), str(Path(self.uri).expanduser().resolve())
            self.uri = self.root  # actors have other working directories
        self.repairing = repairing
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, relative: str) -> str:
        """The path of a file of this store in its file system."""
        return f"{self.root}/{relative}"

    def require_writable(self) -> None:
        """Raise a UserError at once if nothing can be written here."""
        probe = f".write-probe-{uuid.uuid4().hex}.tmp"
        try:
            self.write_bytes(probe, b"")
            self.delete(probe)
        except OSError as error:
            cause = one_line(error).rstrip(".")
            raise UserError(
                f"--out {self.uri!r} cannot be written ({cause}); choose a folder you may write to."
            ) from error

    def exists(self, relative: str) -> bool:
        if self.is_local:
            with suppress(OSError):
                return stat.S_ISREG(os.stat(self._inside(relative)).st_mode)
            return False
        info = self._persist(lambda: self.filesystem.get_file_info(self.path(relative)))
        return bool(info.type == pafs.FileType.File)

    def files(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names, relative to the store and sorted, of all committed files below a folder."""
        return sorted(name for name in self._names(folder) if name.endswith(suffix) and not _is_hidden(name))

    def temporary_files(self) -> list[str]:
        """Names of files that are being written, or whose writer was killed; object stores have none."""
        return sorted(name for name in self._names("") if _is_hidden(name) and name.endswith(".tmp"))

    def strange_files(self) -> list[str]:
        """Names of what is neither a file nor a folder: pipes, devices, and links that lead out of the store."""
        return sorted(name for name, is_file in self._entries("") if not is_file) if self.is_local else []

    def require_own(self, folder: str) -> None:
        """Raise a UserError for pipes, devices and links out of the store in a folder that a library opens by path."""
        if self.is_local:
            strange = [name for name, is_file in self._entries(folder) if not is_file]
            for name in strange if self._is_inside(folder) else [folder]:
                raise UserError(
                    f"{self.path(name)!r} is a pipe, a device, or a link that leads out of the study; remove it, and "
                    "run the same command again."
                )

    def size(self, relative: str) -> int:
        """Bytes of a file; raises as ``read_bytes`` does."""
        return self._read(relative, lambda stream: int(stream.size()))

    def read_bytes(self, relative: str, most: int | None = None) -> bytes:
        """The content of a file; raises Damaged if it is not a regular file of this store, Oversized if it has more
        than ``most`` bytes, by default ``memory``.
        """
        allowed = self.memory if most is None else most

        def read(stream: pa.NativeFile) -> bytes:
            if (size := stream.size()) > allowed:
                raise Oversized(f"{self.path(relative)!r} has {size:,} bytes, more than the {allowed:,} allowed")
            return stream.read()

        return self._read(relative, read)

    def write_bytes(self, relative: str, content: bytes | pa.Buffer) -> None:
        """Write a file atomically, replacing an existing one; an OSError leaves no temporary file."""
        target, buffer = self._inside(relative, is_new=True), pa.py_buffer(content)
        if self.is_local:
            write_atomically(target, buffer)
        else:
            self._persist(lambda: self._upload(target, buffer))

    def delete(self, relative: str) -> None:
        """Remove a file if it exists."""
        with suppress(FileNotFoundError):
            path = self._inside(relative, is_new=True)
            if self.is_local:
                os.unlink(path)
            else:
                self._persist(lambda: self.filesystem.delete_file(path))

    def read_json(self, relative: str) -> Any:
        """The content of a JSON file; raises a ValueError if it is not JSON, or larger or deeper than ours."""
        try:
            value = json.loads(self.read_bytes(relative, JSON_BYTES))
            bounds.require_shallow(value)
        except (Damaged, RecursionError) as error:
            raise ValueError(one_line(error)) from error
        return value

    def write_json(self, relative: str, value: Any) -> None:
        """Write a JSON file, indented and key-ordered as given."""
        self.write_bytes(relative, (json.dumps(value, indent=2) + "\n").encode())

    def create_json(self, relative: str, value: Any) -> bool:
        """As `exclusive.create`, for JSON: of concurrent writers exactly one succeeds; returns whether this one did."""
        return exclusive.create(self, relative, (json.dumps(value, indent=2) + "\n").encode())

    def read_table(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table; the checksums of the pages read are verified. Raises as `parquet.decode`."""
        content = self.read_bytes(relative)
        return parquet.decode(content, columns, bounds.allowance(len(content), self.memory))

    def write_table(self, relative: str, table: pa.Table, key: str = "") -> None:
        """Write a Parquet file with checksums; ``key`` is the content address in its metadata."""
        self.write_bytes(relative, parquet.encode(table, key))

    def read_shard(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file that can be made again; all bytes are verified, whichever columns are read. Raises a UserError
        if it is damaged; if this store is ``repairing``, it has been removed.
        """
        try:
            content = self.read_bytes(relative)
            if not parquet.is_intact(content):
                raise Damaged("its checksum is wrong")
            return parquet.decode(content, columns, bounds.allowance(len(content), self.memory))
        except Damaged:
            self._remove_damaged(relative)

    def keys(self, folder: str) -> dict[str, str]:
        """The content addresses of all complete Parquet files below a folder, by name."""
        return {name: key for name, key in self._all_keys(folder).items() if key}

    def require_whole(self, folder: str) -> None:
        """Check by the footers that all shards below a folder are complete; raises as ``read_shard``."""
        for name, key in self._all_keys(folder).items():
            if not key:
                self._remove_damaged(name)

    def is_whole(self, relative: str) -> bool:
        """Whether a Parquet file of ours exists and is complete, judging by its footer."""
        return parquet.CHECKSUM_KEY in self.metadata(relative)

    def key(self, relative: str) -> str | None:
        """The content address in a Parquet file's footer; None for missing, incomplete and foreign files."""
        footer = self.metadata(relative)
        if parquet.CHECKSUM_KEY not in footer:
            return None
        return footer.get(parquet.ADDRESS_KEY, b"").decode(errors="replace") or None

    def holds(self, relative: str, key: str) -> bool:
        """Whether a complete Parquet file with this content address exists."""
        return self.key(relative) == key

    def metadata(self, relative: str) -> dict[bytes, bytes]:
        """Keys and values in a Parquet file's footer; empty for missing, incomplete and foreign files."""

        def end(stream: pa.NativeFile) -> bytes:
            size = stream.size()
            content: bytes = stream.read_at(min(size, _END), max(0, size - _END))
            if len(content) < (wanted := parquet.footer_size(content)) <= min(size, bounds.FOOTER + 8):
                content = stream.read_at(wanted, size - wanted)
            return content

        try:
            return parquet.metadata(self._read(relative, end))
        except (FileNotFoundError, Damaged):
            return {}

    def _all_keys(self, folder: str) -> dict[str, str | None]:
        names = self.files(folder, suffix=".parquet")
        with ThreadPoolExecutor(THREADS) as threads:
            return dict(zip(names, threads.map(self.key, names), strict=True))

    def _remove_damaged(self, relative: str) -> NoReturn:
        if not self.repairing:
            raise UserError(
                f"{self.path(relative)!r} is damaged and was not changed: remove it (verify --repair does), then run "
                "its study again."
            )
        self.delete(relative)
        raise UserError(
            f"{self.path(relative)!r} was damaged and has been removed; run the same command again to recompute it."
        )

    def _names(self, folder: str) -> Iterator[str]:
        if self.is_local:
            yield from (name for name, is_file in self._entries(folder) if is_file)
            return
        selector = pafs.FileSelector(self.path(folder).rstrip("/"), recursive=True, allow_not_found=True)
        prefix = len(self.root) + 1
        for info in self._persist(lambda: self.filesystem.get_file_info(selector)):
            if info.type == pafs.FileType.File:
                yield info.path[prefix:]

    def _entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """All entries below a local folder except folders: names, and whether they are regular files of the store."""
        folders = [self.path(folder).rstrip("/")] if self._is_inside(folder) else []
        prefix = len(self.root.rstrip("/")) + 1
        while folders:
            with suppress(OSError), os.scandir(folders.pop()) as entries:  # unreadable or vanished folders
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        name = entry.path[prefix:]
                        yield name, entry.is_file() and (not entry.is_symlink() or self._is_inside(name))

    def _read(self, relative: str, read: Callable[[pa.NativeFile], Result]) -> Result:
        path = self._inside(relative)
        if self.is_local:
            _require_regular(path)

        def attempt() -> Result:
            with self.filesystem.open_input_file(path) as stream:
                return read(stream)

        return self._persist(attempt)

    def _inside(self, relative: str, *, is_new: bool = False) -> str:
        """The path of a file in the store; for one to be written or deleted, only links of its folder are resolved."""
        path = self.path(relative)
        try:
            relative.encode()  # advlab writes no names that are not UTF-8
            is_name = "\0" not in relative and ".." not in relative.split("/")
        except UnicodeEncodeError:
            is_name = False
        if is_name and self.is_local:
            real = os.path.realpath(os.path.dirname(path) if is_new else path)
            root = os.path.realpath(self.root)
            is_name = real == root or real.startswith(root.rstrip("/") + "/")
        if not is_name:
            raise Damaged(f"{path!r} is not within the study's folder")
        return path

    def _is_inside(self, relative: str) -> bool:
        with suppress(Damaged):
            return bool(self._inside(relative))
        return False

    def _upload(self, target: str, content: pa.Buffer) -> None:
        # a single write: leaving the block for any reason commits what was written so far
        with self.filesystem.open_output_stream(target) as stream:
            stream.write(content)

    def _persist(self, operation: Callable[[], Result]) -> Result:
        return operation() if self.is_local else persist(operation, self.uri)


def write_atomically(target: str | os.PathLike[str], content: bytes | pa.Buffer) -> None:
    """Write a file of the local file system under a temporary name, flush it to disk, and rename it."""
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        with suppress(OSError):  # it does not exist after success
            os.unlink(temporary)


def _require_regular(path: str) -> None:
    """Raise Damaged for pipes and devices, which may never end, and for files with holes."""
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
        raise Damaged(f"{path!r} is not a regular file")
    held = getattr(info, "st_blocks", info.st_size) * 512
    if info.st_size > bounds.allowance(held, info.st_size):
        raise Damaged(f"{path!r} has {info.st_size:,} bytes, of which only {held:,} are on the disk")


def _is_hidden(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith(".")


def _lean(uri: str) -> str:
    """An S3 URI with which PyArrow writes a small object by one request instead of three."""
    if not uri.startswith("s3://") or "allow_delayed_open=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"
