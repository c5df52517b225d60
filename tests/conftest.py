"""Fixtures shared by all tests: the real data, fetched once into the user's cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from advlab import data
from advlab.engine.session import session

torch.set_num_threads(1)  # small tensors, and a Ray beside them: more threads than that only get in each other's way


TOGETHER = {
    "engine", "integration", "sweeps", "hardening/test_documented_loop", "hardening/test_generators",
    "hardening/test_shared_training", "report/test_html", "studies/test_alexnet_study",
    "studies/test_architectures_study", "studies/test_directions_study", "studies/test_earlier_revisions",
    "studies/test_going_on_from_rows", "studies/test_merge", "studies/test_quocnet_study",
    "studies/test_trained_models_are_kept", "studies/test_transfer_units", "studies/test_unpack_study",
    "studies/test_verify", "training/test_row_parallel",
}  # fmt: skip
"""Folders and modules whose tests share a Ray, a study or trained networks that take long to make."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the processes that share the tests out, one does all tests of such a module, so that it is made once."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).with_suffix("")
        if TOGETHER & {path.parts[0], path.as_posix()}:
            item.add_marker(pytest.mark.xdist_group(path.as_posix()))


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
