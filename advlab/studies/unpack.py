"""Unpacking of Parquet and WebDataset files, by Ray Data, into the folders of images that training reads.

Training reads single images by number (`advlab.training.image_classifier`), but packed files only sequentially.
"""

import hashlib
import io
import logging
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from PIL import Image
from ray.data.datasource import FileBasedDatasource
from ray.exceptions import RayError
from rich.console import Console

from advlab.data import labels
from advlab.errors import UserError, one_line
from advlab.store import Store, bounds, parquet
from advlab.text import printable

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "PPM": ".ppm"}
"""File name suffixes by image format, of the formats that a folder may hold."""
KEYS = tuple(suffix.removeprefix(".") for suffix in labels.SUFFIXES)
"""Keys of the image in a WebDataset sample, unless ``--image`` is given."""
LARGEST = 2**28
"""Bytes of one member of a tar file: no image of a folder may have more."""
BATCH = 64
_RESULTS = pa.schema([("images", pa.int64()), ("problem", pa.string())])


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackConfig:
    """Options of unpacking."""

    source: str
    """A Parquet or tar file, or a folder of them; local, or s3://…"""
    out: str
    """Output folder, with a folder per class; must be shared by all machines of a cluster."""
    layout: Literal["parquet", "webdataset"] = "parquet"
    """parquet (a column of encoded images, one of classes) or webdataset (tar files of samples)."""
    image: str | None = None
    """Column or key of the encoded image, bytes or a struct that has them; by default image in Parquet, and the suffix
    of an image file in a WebDataset."""
    label: str | None = None
    """Column or key of the class, a number or a name; by default label in Parquet and cls in a WebDataset."""


def unpack(config: UnpackConfig) -> int:
    """Write every image to ``out/CLASS/HASH.SUFFIX``; returns how many were read. Ray must be connected.

    Class numbers get four digits, so that the alphabetical order of folders is that of the classes. A file is named by
    the hash of its content, once it is complete: a second run writes only missing files, and duplicates within a class
    become one file.

    Raises:
        UserError: ``out`` cannot be written; nothing to read at ``source``, no such column or key, or data that is
            not an image.
    """
    out = Store(config.out)
    out.require_writable()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    total = 0
    try:
        with Console(stderr=True).status("unpacking") as status:
            source = _Packed(config, out.uri)
            for result in ray.data.read_datasource(source).iter_rows():
                if result["problem"] is not None:
                    raise UserError(f"--source {config.source!r}: {result['problem']}")
                total += result["images"]
                status.update(f"unpacking: {total} images")
    except (OSError, ValueError, RayError) as error:
        what = f"--source {config.source!r} cannot be read as {config.layout} ({one_line(error)})"
        raise UserError(f"{what}; fix --source or --layout.") from error
    if not total:
        raise UserError(f"--source {config.source!r} holds no images; give a file, or a folder that holds some.")
    return total


class _Packed(FileBasedDatasource):
    """Files of samples, each sample written as it is read; Ray's own readers take values of any size into memory."""

    def __init__(self, config: UnpackConfig, out: str) -> None:
        is_parquet = config.layout == "parquet"
        super().__init__(config.source, file_extensions=["parquet"] if is_parquet else None)
        self.out, self.layout = out, config.layout
        self.image_keys = (config.image,) if config.image else ("image",) if is_parquet else KEYS
        self.label_key = config.label or ("label" if is_parquet else "cls")

    def _open_input_source(self, filesystem: Any, path: str, **_: Any) -> Any:
        if self.layout == "parquet":
            return filesystem.open_input_file(path)
        return filesystem.open_input_stream(path, compression=None)  # images are compressed already

    def _read_stream(self, f: Any, path: str) -> Iterator[pa.Table]:  # noqa: ARG002
        """The number of images in each batch, or the problem with one of them."""
        read = _rows if self.layout == "parquet" else _members
        samples = read(f, {self.label_key, *self.image_keys})
        written = BATCH
        while written == BATCH:  # fewer are the last, or were stopped by a problem
            written, problem = self._write(islice(samples, BATCH))
            yield pa.table({"images": [written], "problem": [problem]}, schema=_RESULTS)

    def _write(self, samples: Iterable[dict[str, Any]]) -> tuple[int, str | None]:
        """Write samples up to the first with a problem; returns their number, and the problem."""
        written = 0
        try:
            for sample in samples:
                if (problem := self._write_one(sample)) is not None:
                    return written, problem
                written += 1
        except (OSError, ValueError, TypeError, LookupError, pa.ArrowException, tarfile.TarError) as error:
            return written, f"it cannot be read as {self.layout}, or not be written ({one_line(error)})."
        return written, None

    def _write_one(self, sample: dict[str, Any]) -> str | None:
        """Write a sample; returns its problem, if there is one."""
        label = self.label_key
        image = next((key for key in self.image_keys if sample.get(key) is not None), None)
        if image is None or sample.get(label) is None:
            missing = f"--label {label}" if image else f"--image {self.image_keys[0]}"
            there = ", ".join(key for key in sample if not key.startswith("__"))
            return f"a row has no {missing}; name one of {there}."
        content = sample[image]["bytes"] if isinstance(sample[image], dict) else sample[image]
        try:
            with Image.open(io.BytesIO(content), formats=tuple(SUFFIXES)) as opened:
                suffix = SUFFIXES[opened.format or ""]
        except (OSError, TypeError, Image.DecompressionBombError) as error:
            known = f"not an encoded image, of {', '.join(SUFFIXES)}"
            return f"{image!r} of a row is {known} ({one_line(error)}); name another with --image, or convert it."
        name = f"{class_folder(sample[label])}/{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
        store = Store(self.out)
        if not store.exists(name):
            store.write_bytes(name, content)
        return None


def _rows(file: Any, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file; only columns that are ``wanted`` are read."""
    end = min(file.size(), parquet.footer_size(file.read_at(8, max(0, file.size() - 8))))
    bounds.require_own_types(bounds.footer(file.read_at(end, file.size() - end)))
    packed = pq.ParquetFile(file)
    others = dict.fromkeys(packed.schema_arrow.names)
    for batch in packed.iter_batches(BATCH, columns=[name for name in others if name in wanted]):
        yield from (others | row for row in batch.to_pylist())


def _members(stream: Any, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """The samples of a tar file: the members of one name, by what follows its first dot; read where ``wanted``."""
    name = ""
    sample: dict[str, Any] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            folder, _, last = member.name.rpartition("/")
            base, _, key = last.partition(".")
            if not (member.isreg() and base and key):
                continue
            if sample and f"{folder}/{base}" != name:
                yield sample
                sample = {}
            if member.issparse() or member.size > LARGEST:
                raise ValueError(f"{printable(member.name)} has {member.size:,} bytes, more than {LARGEST:,}, or holes")
            opened = archive.extractfile(member) if key in wanted else None
            name, sample[key] = f"{folder}/{base}", opened.read() if opened else b""
    if sample:
        yield sample


def class_folder(label: object) -> str:
    """The folder of a class: a number with four digits, or a name without characters that could leave the folder.

    A ValueError for an empty name, or one with control characters.
    """
    text = (label.decode() if isinstance(label, bytes) else str(label)).strip()
    if text.isdecimal():
        return f"{int(text):04d}"
    name = text.replace("/", "_").lstrip(".")
    if not name:
        raise ValueError("a class without a name")
    if not name.isprintable():
        raise ValueError(f"a class named {printable(name, 80)!r}")
    return name
