"""A folder of image files as a data set, decoded only when its images are accessed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from threading import Condition

import torch
from torch import Tensor

from advlab.data import labels as class_labels
from advlab.data.dataset import Dataset
from advlab.data.decoding import PIXELS, opened, pixels
from advlab.data.labels import LABELS, SUFFIXES, is_visible
from advlab.errors import UserError, one_line
from advlab.text import printable

MARGIN = 0.875
"""Share of the resized shorter side that the central crop keeps, as in the evaluation of ImageNet classifiers."""
DECODERS = 4
LARGEST_SIZE = 4096
"""Largest side, in pixels, that images may be resized to."""
_BYTES = 4 * PIXELS
"""Largest size of a file: the bytes of its uncompressed pixels."""
IMAGENET = {"train": "train", "test": "val", "validation": "val"}
"""Folders of ``imagenet:PATH`` by split: the labels of ImageNet's test images were never published."""
_SPLITS = ("train", "val", "valid", "validation", "test")


class Budget:
    """A limit on what all threads together hold at one time, in pixels or bytes."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = Condition()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Wait until ``size`` (at most the whole budget) is free, and hold it while the block runs."""
        size = min(size, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


class ImageFolder(Dataset):
    """Image files and their labels; ``images`` decodes all of them, so take a ``subset`` of a large folder first.

    Its pickle contains the undecoded files, so that another machine can decode them.

    Args:
        name: the data set's name.
        split: the split's.
        files: paths; ignored if ``contents`` has the files themselves.
        labels: [N] int64.
        index: [N] int64, positions in the whole folder.
        class_names: one per class.
        size: height and width of the images, in pixels; None for files of one size, which are not resized.
        contents: the files' bytes.
        margin: share of the resized shorter side that the central crop keeps.
    """

    def __init__(
        self,
        name: str,
        split: str,
        files: Sequence[Path],
        labels: Tensor,
        index: Tensor,
        class_names: tuple[str, ...],
        size: int | None = None,
        contents: Sequence[bytes] | None = None,
        margin: float = MARGIN,
    ) -> None:
        # set the attributes of a frozen dataclass, except the images
        vars(self).update(name=name, split=split, labels=labels, index=index, class_names=class_names)
        vars(self).update(files=tuple(files), size=size, _contents=contents, margin=margin)

    files: tuple[Path, ...]
    size: int | None
    margin: float
    _contents: Sequence[bytes] | None

    @cached_property
    def images(self) -> Tensor:
        """[N, 3, H, W] float32 in [0, 1], RGB; raises a UserError for a file that is not an image, or files of
        different sizes without a size to resize them to.
        """
        with ThreadPoolExecutor(DECODERS) as threads:
            decoded = list(threads.map(partial(self._decode, Budget(PIXELS)), range(len(self))))
        shapes = {tuple(image.shape) for image in decoded}
        if len(shapes) > 1:
            raise UserError(f"{self.name} has images of {len(shapes)} sizes; give a size to resize them to.")
        return torch.stack(decoded)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the files' bytes, the labels, the positions and the requested size."""
        asked = self.size if self.margin == MARGIN else (self.size, self.margin)
        digest = hashlib.sha256(repr(asked).encode())
        for row in range(len(self)):
            digest.update(hashlib.sha256(self._content(row)).digest())
        for tensor in (self.labels, self.index):
            digest.update(tensor.numpy().data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"ImageFolder({self.name!r}, {len(self)} files, size={self.size})"

    def subset(self, rows: Tensor | slice) -> "ImageFolder":
        """The files at ``rows`` (LongTensor [n] or a slice), in that order; nothing is decoded."""
        chosen = torch.arange(len(self))[rows].tolist()
        contents = None if self._contents is None else [self._contents[row] for row in chosen]
        files = [self.files[row] for row in chosen]
        arguments = self.labels[rows], self.index[rows], self.class_names, self.size, contents
        return ImageFolder(self.name, self.split, files, *arguments, self.margin)

    def __reduce__(self) -> tuple[type[Dataset], tuple[object, ...]]:
        contents = [self._content(row) for row in range(len(self))]
        known = self.name, self.split, self.files, self.labels, self.index, self.class_names, self.size
        return ImageFolder, (*known, contents, self.margin)

    def _content(self, row: int) -> bytes:
        if self._contents is not None:
            return self._contents[row]
        try:
            if (size := self.files[row].stat().st_size) > _BYTES:
                raise UserError(f"{printable(self.files[row])} has {size:,} bytes, more than {_BYTES:,}; remove it.")
            return self.files[row].read_bytes()
        except OSError as error:
            raise UserError(f"{printable(self.files[row])} cannot be read ({error.strerror}); remove it.") from error

    def _decode(self, budget: Budget, row: int) -> Tensor:
        try:
            with opened(self._content(row)) as image, budget.held(image.width * image.height):
                shown = pixels(image, self.size, self.margin)
                image.close()  # before another file may use its memory
        except UserError:
            raise
        except Exception as error:  # a decoder may raise anything on a file that is broken, or made to break it
            what = f"{printable(self.files[row])} cannot be read as an image ({one_line(error)[:200]})"
            raise UserError(f"{what}; save it as one opaque picture of 8 bits per channel, or remove it.") from error
        return torch.from_numpy(shown).permute(2, 0, 1).to(torch.float32).div_(255)


def is_folder(name: str) -> bool:
    """Whether the name of a data set denotes a folder."""
    return name.startswith(("folder:", "imagenet:"))


def load(name: str, split: str, size: int | None, margin: float = MARGIN) -> ImageFolder:
    """The data set ``folder:PATH``, or ``folder:PATH?size=N`` for images resized to N × N pixels.

    The folder is ``PATH/split`` if there is one, else ``PATH``. Classes are its subfolders, in alphabetical order; or
    the second column of its ``labels.csv`` (file,label: numbers, or names in alphabetical order); with neither, every
    label is 0. The splits of one data set have the same classes: a class that only ``PATH/train`` has keeps its number
    in ``PATH/test``. Links are followed; hidden files and folders are ignored. ``imagenet:PATH`` has folders of classes
    in ``PATH/train`` and ``PATH/val``, the usual layout of ILSVRC; ``val`` is its test split.

    Raises:
        UserError: no such folder or split, no images in it, an unreadable folder, a class without images, a
            ``labels.csv`` that does not give every file one label, or an impossible size.
    """
    path, named = _parse(name)
    size = named or size
    root = Path(path).expanduser()
    folder = root / split
    if name.startswith("imagenet:"):
        if split not in IMAGENET:
            raise UserError(f"data set {name!r} has no split {split!r}; choose one of {', '.join(IMAGENET)}.")
        folder = root / IMAGENET[split]
    elif not folder.is_dir():
        folder = root
    if not folder.is_dir():
        raise UserError(f"data set {name!r}: there is no folder {folder}.")
    try:
        files = sorted(_image_files(folder))
        if not files:
            raise UserError(f"data set {name!r}: no images in {folder}; it looks for {', '.join(SUFFIXES)}.")
        others = [] if folder == root else [root / each for each in _SPLITS if (root / each).is_dir()]
        labels, names = class_labels.find(folder, files, others)
    except OSError as error:
        what = f"data set {name!r}: {printable(error.filename)} cannot be read ({error.strerror})"
        raise UserError(f"{what}; fix its permissions or remove it.") from error
    if folder == root and {each.lower() for each in names} <= set(_SPLITS):
        raise UserError(f"data set {name!r} has no split {split!r}; choose one of {', '.join(names)}.")
    if folder != root and (root / LABELS).exists() and not (folder / LABELS).exists():
        raise UserError(f"{printable(root / LABELS)} does not mention {printable(folder)}; give that folder its own.")
    return ImageFolder(name, split, files, torch.tensor(labels), torch.arange(len(files)), names, size, None, margin)


def _image_files(folder: Path) -> Iterator[Path]:
    """All files below a folder with the suffix of an image, following links; hidden ones are ignored. Raises an OSError
    for an unreadable folder, a UserError for a broken link, or one to a folder that contains it.
    """

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = filter(is_visible, folders)
        for path in (Path(parent, name) for name in [*folders, *filter(is_visible, names)]):
            if path.is_symlink():
                above = {os.path.realpath(each) for each in path.parents if each.is_relative_to(folder)}
                if not path.exists() or os.path.realpath(path) in above:
                    raise UserError(
                        f"the link {printable(path)} is broken, or leads to a folder that contains it; remove it."
                    )
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path


def _parse(name: str) -> tuple[str, int | None]:
    """The folder and the size in ``folder:PATH?size=N``: the name alone identifies the images of a study."""
    path, asked, size = name.partition(":")[2].rpartition("?size=")
    if not asked:
        return size, None
    if not (size.isdecimal() and int(size[:9])):
        raise UserError(f"data set {name!r}: {size!r} is not a size; write e.g. folder:PATH?size=224.")
    if int(size[:9]) > LARGEST_SIZE:
        raise UserError(f"data set {name!r}: {size[:20]} pixels are too many; choose a size of at most {LARGEST_SIZE}.")
    return path, int(size)
