"""The IDX parser gives back what was written and refuses everything else."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from advlab.data import idx

ARRAYS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))


def written(array: NDArray[np.uint8], type_code: int = 0x08) -> bytes:
    """An IDX file, as the format's description says."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, type_code, array.ndim, *array.shape) + array.tobytes()


def parsed(content: bytes) -> NDArray[np.uint8]:
    return idx.parse(np.frombuffer(content, dtype=np.uint8))


@given(ARRAYS)
@settings(deadline=None)
def test_what_was_written_is_read(array: NDArray[np.uint8]) -> None:
    assert np.array_equal(parsed(written(array)), array)
    assert parsed(written(array)).shape == array.shape


@given(ARRAYS, st.data())
@settings(deadline=None)
def test_every_truncation_is_refused(array: NDArray[np.uint8], choice: st.DataObject) -> None:
    content = written(array)
    with pytest.raises(ValueError, match="IDX"):
        parsed(content[: choice.draw(st.integers(0, len(content) - 1))])


@given(ARRAYS, st.binary(min_size=1, max_size=9))
@settings(deadline=None)
def test_trailing_bytes_are_refused(array: NDArray[np.uint8], trailing: bytes) -> None:
    with pytest.raises(ValueError, match="bytes where its header"):
        parsed(written(array) + trailing)


@given(st.integers(0, 255).filter(lambda code: code != 0x08))
@settings(deadline=None)
def test_other_element_types_are_refused(type_code: int) -> None:
    with pytest.raises(ValueError, match="element type"):
        parsed(written(np.zeros((2, 3), np.uint8), type_code))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x1f\x8b\x08\x08" + bytes(40)])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="Not an IDX file"):
        parsed(content)


def test_a_file_without_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="0 axes"):
        parsed(b"\0\0\x08\0")
