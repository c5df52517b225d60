"""Unpacking of Parquet and WebDataset files, by Ray Data, into the folders of images that training reads.

Training reads single images by number (`advlab.training.image_classifier`), but packed files only sequentially.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray.data
from PIL import Image
from ray.exceptions import RayError
from rich.console import Console

from advlab.data import labels
from advlab.errors import UserError, one_line
from advlab.store import Store

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "PPM": ".ppm"}
"""File name suffixes by image format, of the formats that a folder may hold."""
KEYS = tuple(suffix.removeprefix(".") for suffix in labels.SUFFIXES)
"""Keys of the image in a WebDataset sample, unless ``--image`` is given."""
BATCH = 64
NUMBER_DIGITS = 4


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
    total = 0
    try:
        with Console(stderr=True).status("unpacking") as status:
            for result in _results(config, out.uri):
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


def _results(config: UnpackConfig, out: str) -> Iterator[dict[str, Any]]:
    """The results of `_Writer` for every batch."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if config.layout == "parquet":
        # numbers, names and bytes are read unchanged; name=value parts of folder names are not columns
        packed = ray.data.read_parquet(config.source, partitioning=None)
    else:
        packed = ray.data.read_webdataset(config.source, decoder=None)
    writer = _Writer(out, config.layout, config.image, config.label)
    written = packed.map_batches(writer, batch_size=BATCH, batch_format="pandas")
    return iter(written.iter_rows())


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes a batch of packed images; returns their number, or the problem with one of them."""

    out: str
    layout: str
    image: str | None
    label: str | None

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        problem = None
        samples = batch.to_dict("records")
        for number, sample in enumerate(samples):
            problem = self._write(sample)
            if problem is not None:
                samples = samples[:number]
                break
        return {"images": [len(samples)], "problem": [problem]}

    def _write(self, sample: dict[str, Any]) -> str | None:
        """Write a sample; returns its problem, if there is one."""
        keys = (self.image,) if self.image else ("image",) if self.layout == "parquet" else KEYS
        label = self.label or ("label" if self.layout == "parquet" else "cls")
        image = next((key for key in keys if sample.get(key) is not None), None)
        if image is None or sample.get(label) is None:
            missing = f"--label {label}" if image else f"--image {keys[0]}"
            there = ", ".join(key for key in sample if not key.startswith("__"))
            return f"a row has no {missing}; name one of {there}."
        content = sample[image]["bytes"] if isinstance(sample[image], dict) else sample[image]
        try:
            with Image.open(io.BytesIO(content)) as opened:
                suffix = SUFFIXES.get(opened.format or "")
        except (OSError, TypeError) as error:
            return f"{image!r} of a row is not an encoded image ({one_line(error)}); name another with --image."
        if suffix is None:
            return f"{image!r} of a row is in an unsupported format; convert it to one of {', '.join(SUFFIXES)}."
        name = f"{class_folder(sample[label])}/{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
        store = Store(self.out)
        if not store.exists(name):
            store.write_bytes(name, content)
        return None


def class_folder(label: object) -> str:
    """The folder of a class: a number with four digits, or a name without characters that could leave the folder.

    A ValueError for an empty name.
    """
    text = label.decode() if isinstance(label, bytes) else str(label)
    text = text.strip()
    if text.isdecimal():
        return f"{int(text):0{NUMBER_DIGITS}d}"
    name = text.replace("/", "_").lstrip(".")
    if not name:
        raise ValueError("a class without a name")
    return name
