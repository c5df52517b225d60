"""The IDX format of MNIST: two zero bytes, a type code, the number of axes, their sizes, then the values."""

import math

import numpy as np
from numpy.typing import NDArray

_UINT8 = 0x08
_AXIS_BYTES = 4
_MOST_AXES = 8


def parse(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The array in an uncompressed IDX file of unsigned bytes, as a view of ``content`` [bytes] uint8; raises a
    ValueError for another magic number, element type or length.
    """
    magic = bytes(content[:_AXIS_BYTES])
    if len(magic) < _AXIS_BYTES or magic[:2] != b"\0\0":
        raise ValueError(f"Not an IDX file: it starts with {magic!r}.")
    if magic[2] != _UINT8:
        raise ValueError(f"IDX element type 0x{magic[2]:02x} is not unsigned byte (0x{_UINT8:02x}).")
    num_axes = magic[3]
    header = _AXIS_BYTES * (1 + num_axes)
    if not 0 < num_axes <= _MOST_AXES or len(content) < header:
        raise ValueError(f"IDX header cut short: {num_axes} axes in {len(content)} bytes.")
    shape = np.frombuffer(content[_AXIS_BYTES:header].tobytes(), dtype=">u4").tolist()
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise ValueError(f"IDX file has {len(content)} bytes where its header {shape} asks for {expected}.")
    return content[header:].reshape(shape)
