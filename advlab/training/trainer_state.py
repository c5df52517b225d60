"""Read the saved state of a trainer, as tensors and plain values only."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from advlab.errors import UserError, one_line
from advlab.store import Store

_PARTS = 1_000_000
"""Largest number of values in a state: a list can hold another many times, and that one a third."""


def read(store: Store, file: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a dictionary that ``torch.save`` wrote; no name in it is imported or called, and its tensors are no larger
    than the file. Raises a UserError if it is damaged or holds something else.
    """
    with restoring(store.path(file)):
        content = store.read_bytes(file)
        require_stored(io.BytesIO(content), len(content))
        loaded = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        if not isinstance(loaded, dict):
            raise TypeError(f"it holds a {type(loaded).__name__}")
        _require_within(loaded, len(content))
    return loaded


@contextmanager
def restoring(place: str) -> Iterator[None]:
    """Turn any error of the block into a UserError: the state at ``place`` is damaged, or is not that of this run."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # an incomplete file may raise anything
        told = f"{type(error).__name__}: {one_line(error)[:200].rstrip('.')}"
        raise UserError(f"{place!r} cannot be read ({told}); remove it, and training continues without it.") from error


def step(state: dict[str, Any], last: int) -> int:
    """The step at which a state was saved; raises an error unless it is one of 0 to ``last``."""
    found: int = state["step"]
    if type(found) is not int or not 0 <= found <= last:
        raise ValueError(f"its step is {found!r}, of {last}")
    return found


def require_stored(stream: Any, size: int) -> None:
    """Raise an error unless this is what ``torch.save`` writes: a ZIP archive in which nothing is compressed or occurs
    twice, so that its parts have no more bytes than the ``size`` of the archive.
    """
    with zipfile.ZipFile(stream) as archive:
        parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(part.file_size for part in parts) > size:
        raise ValueError("it is compressed, which advlab does not do")


def _require_within(state: dict[str, Any], size: int) -> None:
    """Raise a ValueError for tensors of over ``size`` bytes in all, which repeat numbers, and for endless lists."""
    left: list[Any] = [state]
    parts = 0
    while left:
        value = left.pop()
        parts += 1
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value
        elif isinstance(value, Tensor):
            size -= value.numel() * value.element_size()
        if size < 0 or parts > _PARTS:
            raise ValueError("it stands for more numbers than it has")
