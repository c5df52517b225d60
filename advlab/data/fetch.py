"""Verified copies of the raw files in a directory, fetched when missing or damaged."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advlab.data.catalogue import Entry
from advlab.data.sources import RawFile, SourceError
from advlab.errors import UserError
from advlab.store.files import write_atomically

_logger = logging.getLogger(__name__)


def read(entry: Entry, wanted: Sequence[RawFile], directory: Path) -> list[NDArray[np.uint8]]:
    """The content of the ``wanted`` files, each [bytes] uint8, verified against size and SHA-256.

    If one of them is missing or damaged, all such files of the data set are fetched first; several processes may do so
    at once. Raises a UserError if no source provides them, or the directory cannot be read or written.
    """
    try:
        contents = [_read_verified(directory / file.name, file) for file in wanted]
        if any(content is None for content in contents):
            _fetch(entry, directory)
            contents = [_read_verified(directory / file.name, file) for file in wanted]
    except OSError as error:
        what = f"the data directory {directory} ({error.strerror or error})"
        raise UserError(f"Cannot use {what}: set ADVLAB_CACHE to a writable folder.") from error
    sound = [content for content in contents if content is not None]
    if len(sound) < len(wanted):
        raise UserError(f"The files just written to {directory} are already damaged: check the disk.")
    return sound


def _read_verified(path: Path, file: RawFile) -> NDArray[np.uint8] | None:
    """The file's content, or None when it is missing or damaged."""
    try:
        if path.stat().st_size != file.size:
            return None
        content = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        return None
    return content if _is_sound(content.data, file) else None


def _is_sound(content: bytes | memoryview, file: RawFile) -> bool:
    return hashlib.sha256(content).hexdigest() == file.sha256


def _fetch(entry: Entry, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    lacking = [file for file in entry.files if _read_verified(directory / file.name, file) is None]
    for path in (directory / file.name for file in lacking):
        if path.exists():
            _logger.warning("%s is damaged (its size or SHA-256 differs): fetching it again", path)
    reasons = []
    for source in entry.sources():
        _logger.info("fetching %s from %s", entry.name, source.name)
        try:
            for file, content in source.read(tuple(lacking)):
                if not _is_sound(content, file):
                    raise SourceError(f"{file.name} has another SHA-256")
                write_atomically(directory / file.name, content)
                lacking.remove(file)
        except SourceError as error:
            reasons.append(f"{source.name}: {error}")
        if not lacking:
            return
    raise UserError(
        f"Cannot fetch {entry.name} ({'; '.join(reasons)}): "
        f"put {', '.join(file.name for file in entry.files)}, uncompressed, into {directory}."
    )
