"""Fixtures shared by all tests: the real data, fetched once into the user's cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from advlab import data

torch.set_num_threads(1)  # small tensors, and a Ray beside them: more threads than that only get in each other's way


WITH_RAY = {
    "distributed", "integration", "sweeps",
    "test_documented_loop", "test_generators", "test_html", "test_merge", "test_verify",
}  # fmt: skip
"""Folders and modules whose tests start a Ray of their own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a Ray take turns on one of the processes that share the tests out: they would find each other's."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent)
        if WITH_RAY & {*path.parts[:-1], path.stem}:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def mnist_train() -> data.Dataset:
    """The 60,000 training images of MNIST."""
    return data.load("mnist", split="train")


@pytest.fixture(scope="session")
def mnist_test() -> data.Dataset:
    """The 10,000 test images of MNIST."""
    return data.load("mnist", split="test")
