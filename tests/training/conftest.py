"""A problem small enough to be solved many times."""

from __future__ import annotations

import pytest

from advlab.data import Dataset


@pytest.fixture(scope="session")
def few(mnist_train: Dataset) -> Dataset:
    """400 training images."""
    return mnist_train.subset(slice(400))
