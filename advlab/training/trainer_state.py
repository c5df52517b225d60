"""Read what a trainer left to go on from, as tensors and plain values alone."""

from __future__ import annotations

import os
from typing import IO, Any

import torch

from advlab.errors import UserError, one_line


def read(source: IO[bytes] | os.PathLike[str], place: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A dictionary that ``torch.save`` wrote; nothing that it names is imported or called.

    Args:
        source: an open file, or a path.
        place: what to call it in an error.
        device: where its tensors go.

    Raises:
        UserError: it is damaged, or holds something else.
    """
    try:
        loaded = torch.load(source, map_location=device, weights_only=True)
        if not isinstance(loaded, dict):
            raise TypeError(f"it holds a {type(loaded).__name__}")
    except Exception as error:  # a torn file can raise anything
        told = one_line(error)[:200].rstrip(".")
        raise UserError(f"{place!r} cannot be read ({told}); remove it, and training goes on without it.") from error
    return loaded
