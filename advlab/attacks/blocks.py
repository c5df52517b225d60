"""Blocks of rows whose vectors, and what a network makes of them, stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

BLOCK_BYTES = 3 * 2**19
"""Size of one array of a block on the CPU. 500 images of MNIST: a network that keeps more of them at once, as
convolutions do, leaves the cache, and with fewer the calls cost more than the work."""


def blocks(rows: int, width: int, like: Tensor) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` numbers each; a single one where ``like`` is not on the CPU."""
    size = BLOCK_BYTES // (max(1, width) * like.element_size()) if like.device.type == "cpu" else rows
    for first in range(0, rows, max(1, size)):
        yield slice(first, min(first + max(1, size), rows))
