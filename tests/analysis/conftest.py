"""Fixtures of the analysis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def dense_of() -> Callable[[nn.Module, tuple[int, ...]], Tensor]:
    """The matrix of any linear module on inputs of a size [C, …], by applying it to every unit vector."""

    def build(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
        units = torch.eye(int(torch.tensor(shape).prod()), dtype=torch.float64).view(-1, *shape)
        with torch.no_grad():
            return module(units).flatten(1).T

    return build
