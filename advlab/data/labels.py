"""The labels of a folder of images: its class folders, or its ``labels.csv``."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from advlab.errors import UserError, one_line
from advlab.text import printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
LABELS = "labels.csv"
UNLABELLED = "unlabelled"
_LABEL_BYTES, _LABEL_DIGITS = 2**28, 6
_SYSTEM = (
    "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini",
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]\d+)?|nan|[+-]?inf", re.IGNORECASE)


def is_visible(name: str) -> bool:
    """Whether a file or folder is neither hidden nor one of those that operating systems create."""
    return not name.startswith(".") and name.lower() not in _SYSTEM


def find(folder: Path, files: Sequence[Path], others: Sequence[Path]) -> tuple[list[int], tuple[str, ...]]:
    """The label of each file, and the classes' names.

    Args:
        folder: where to look for class folders, or for ``labels.csv``.
        files: the images below it.
        others: folders of the data set's other splits: a class that only they have keeps its number.

    Raises:
        UserError: files without a label, or ambiguous labels.
    """
    relative = [path.relative_to(folder) for path in files]
    if (folder / LABELS).is_file():
        given = _given(folder / LABELS)
        keys = [_key(path.as_posix()) for path in relative]
        if missing := [key for key in keys if key not in given]:
            what = f"{printable(folder / LABELS)} has no label for {printable(missing[0])!r}"
            raise UserError(f"{what}; add a line for it, file,label.")
        texts = [given[key] for key in keys]
        if all(text.isdecimal() for text in texts):
            largest = max(map(int, given.values()))
            return [int(text) for text in texts], tuple(map(str, range(largest + 1)))
        tables = [other / LABELS for other in others if (other / LABELS).is_file()]
        classes = {*given.values(), *(label for table in tables for _, _, label in _lines(table))}
    elif all(len(path.parts) == 1 for path in relative):
        return [0] * len(files), (UNLABELLED,)
    else:
        if beside := [path for path in relative if len(path.parts) == 1]:
            what = f"{printable(folder / beside[0])} is beside the folders of classes"
            raise UserError(f"{what}; move it into its own, or give labels in a {LABELS}.")
        texts = [path.parts[0] for path in relative]
        classes = set(texts)
        for path in (path for each in (folder, *others) for path in each.iterdir()):
            if path.name not in classes and _is_class(path):
                classes.add(path.name)
    names = tuple(sorted(classes))
    number = {name: position for position, name in enumerate(names)}
    return [number[text] for text in texts], names


def _is_class(path: Path) -> bool:
    """Whether this is a folder of a class; an empty one is, so that the others keep their numbers. Raises a UserError
    if it has files, but no image.
    """
    if not path.is_dir() or not is_visible(path.name):
        return False
    suffixes = {Path(name).suffix.lower() for *_, names in os.walk(path) for name in filter(is_visible, names)}
    if suffixes and suffixes.isdisjoint(SUFFIXES):
        what = f"the folder {printable(path)}, which would be a class, has files and no images"
        raise UserError(f"{what} ({', '.join(SUFFIXES)}); remove it, or give labels in a {LABELS}.")
    return True


def _given(table: Path) -> dict[str, str]:
    """The label of each file in ``labels.csv``: numbers as plain digits, or names."""
    given: dict[str, str] = {}
    numbered: bool | None = None
    for place, file, label in _lines(table):
        is_number = _NUMBER.fullmatch(label) is not None
        if is_number and not ((value := float(label)) >= 0 and value < 10**_LABEL_DIGITS and value.is_integer()):
            raise UserError(f"{place} has the label {label[:20]}; number classes by whole numbers from 0.")
        if not label or numbered not in (None, is_number):
            kind = "numbers" if numbered else "names" if given else "numbers or names"
            raise UserError(f"{place} has the label {printable(label, 40)!r}; give {kind}, as in the lines before.")
        numbered = is_number
        label = str(int(float(label))) if is_number else label
        if given.setdefault(file, label) != label:
            raise UserError(f"{place} names {printable(file)!r} again, with another label; remove one of them.")
    return given


def _key(file: str) -> str:
    """A file name in normal form: without ``./``, backslashes, surrounding spaces, and variants of accents."""
    return PurePosixPath(normalize("NFC", file).strip().replace("\\", "/")).as_posix()


def _lines(table: Path) -> Iterator[tuple[str, str, str]]:
    """Place, file and label of every line; a first line whose file does not have the suffix of an image is a header."""
    try:
        if table.stat().st_size > _LABEL_BYTES:
            raise ValueError(f"it has more than {_LABEL_BYTES:,} bytes")
        with table.open(newline="", encoding="utf-8-sig") as stream:
            first = re.sub(r'"[^"]*"', "", next(filter(str.strip, stream), ""))
            stream.seek(0)
            delimiter = next((sign for sign in ",;\t" if sign in first), ",")
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{printable(table)} cannot be read ({one_line(error)}); save it as CSV in UTF-8.") from error
    for position, (number, row) in enumerate(rows):
        place = f"line {number} of {printable(table)}"
        if len(row) < 2 or any(map(str.strip, row[2:])):
            raise UserError(f"{place} has {len(row)} columns; give two, file and label.")
        file, label = row[0], row[1].strip()
        if position or file.strip().lower().endswith(SUFFIXES):
            yield place, _key(file), label[1:-1] if label[:1] in ("'", '"') and label[-1] == label[0] else label
