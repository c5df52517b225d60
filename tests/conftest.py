"""Fixtures shared by all tests: the real data, fetched once into the user's cache."""

from __future__ import annotations

import pytest

from advlab import data


@pytest.fixture(scope="session")
def mnist_train() -> data.Dataset:
    """The 60,000 training images of MNIST."""
    return data.load("mnist", split="train")


@pytest.fixture(scope="session")
def mnist_test() -> data.Dataset:
    """The 10,000 test images of MNIST."""
    return data.load("mnist", split="test")
