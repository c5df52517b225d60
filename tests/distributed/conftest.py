"""A real Ray of two CPUs, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from advlab.distributed.session import session


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with session(None):
        assert ray.is_initialized()
        yield
