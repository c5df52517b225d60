"""Fixtures shared by all tests: the real data, fetched once into the user's cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from advlab import data
from advlab.engine.session import session

torch.set_num_threads(1)  # small tensors, and a Ray beside them: more threads than that only get in each other's way


@pytest.fixture(scope="session")
def mnist_train() -> data.Dataset:
    """The 60,000 training images of MNIST."""
    return data.load("mnist", split="train")


@pytest.fixture(scope="session")
def mnist_test() -> data.Dataset:
    """The 10,000 test images of MNIST."""
    return data.load("mnist", split="test")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A real Ray of this machine's CPUs, shared by the tests of a module."""
    with session(None):
        yield
