"""Blocks of rows whose vectors stay in the processor's cache between one operation and the next."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

BLOCK_BYTES = 4096 * 1024
"""Size of one array of a block on the CPU; an operation reads two or three."""


def blocks(rows: int, width: int, like: Tensor) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` numbers each; a single one where ``like`` is not on the CPU."""
    size = BLOCK_BYTES // (max(1, width) * like.element_size()) if like.device.type == "cpu" else rows
    for first in range(0, rows, max(1, size)):
        yield slice(first, min(first + max(1, size), rows))
