"""Blocks of rows that are small enough for the processor's cache, with a network's activations."""

from collections.abc import Iterator

from torch import Tensor

BLOCK_BYTES, BLOCK_BYTES_ELSEWHERE = 3 * 2**19, 2**26
"""Size of one array of a block on the CPU, and on other devices.

On the CPU 500 images of MNIST: the activations of convolutions for more leave the cache, and for fewer the calls cost
more than the work. Elsewhere 100 photos: the activations of a deep network stay within the memory.
"""


def block_rows(width: int, like: Tensor) -> int:
    """How many rows of ``width`` numbers make a block on the device of ``like``, in its type."""
    size = BLOCK_BYTES if like.device.type == "cpu" else BLOCK_BYTES_ELSEWHERE
    return max(1, size // (max(1, width) * like.element_size()))


def blocks(rows: int, width: int, like: Tensor) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` numbers each."""
    size = block_rows(width, like)
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))
