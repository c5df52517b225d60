"""Read the saved state of a trainer, as tensors and plain values only."""

import os
from typing import IO, Any

import torch

from advlab.errors import UserError, one_line


def read(source: IO[bytes] | os.PathLike[str], place: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a dictionary that ``torch.save`` wrote, from an open file or a path; no name in it is imported or called.
    Raises a UserError, which names it by ``place``, if it is damaged or holds something else.
    """
    try:
        loaded = torch.load(source, map_location=device, weights_only=True)
        if not isinstance(loaded, dict):
            raise TypeError(f"it holds a {type(loaded).__name__}")
    except Exception as error:  # an incomplete file may raise anything
        fault = one_line(error)[:200].rstrip(".")
        raise UserError(f"{place!r} cannot be read ({fault}); remove it, and training continues without it.") from error
    return loaded
