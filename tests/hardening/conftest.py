"""Training runs of seconds."""

from __future__ import annotations

import pytest

from advlab.data import Dataset
from advlab.hardening.settings import Settings


@pytest.fixture(scope="session")
def thousand(mnist_train: Dataset) -> Dataset:
    """1,000 training images."""
    return mnist_train.subset(slice(1000))


@pytest.fixture(scope="session")
def short() -> Settings:
    """Three epochs with a pool at every level of a small network."""
    return Settings(hidden=(30, 20), epochs=3, batch_size=100, capacity=200, refresh=50, levels=(0, 1, 2))
