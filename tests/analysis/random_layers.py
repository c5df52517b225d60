"""Layers drawn at random, and the explicit matrices they are compared with."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from hypothesis import strategies
from torch import Tensor, nn


@strategies.composite
def convolutions(draw: Any) -> tuple[nn.Conv1d | nn.Conv2d | nn.Conv3d, tuple[int, ...]]:
    """A random convolution in float64, and an input size: non-square, strides 1 to 4, dilation, groups."""
    axes = draw(strategies.sampled_from([1, 2, 2, 2, 3]))
    cls = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    groups = draw(strategies.sampled_from([1, 1, 1, 2, 3]))
    top = {1: 6, 2: 4, 3: 2}[axes]
    inputs, outputs = draw(strategies.integers(1, top)), draw(strategies.integers(1, top))
    kernel, stride, dilation, size = [], [], [], []
    for _ in range(axes):
        kernel.append(draw(strategies.integers(1, 5 if axes < 3 else 3)))
        stride.append(draw(strategies.integers(1, 4 if axes < 3 else 2)))
        dilation.append(draw(strategies.integers(1, 3)))
        size.append(draw(strategies.integers(1, {1: 40, 2: 10, 3: 5}[axes])))
    layer = cls(
        groups * inputs, groups * outputs, tuple(kernel), stride=tuple(stride), dilation=tuple(dilation),
        groups=groups, bias=False, dtype=torch.float64,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(draw(strategies.integers(0, 2**31)))
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
    return layer, tuple(size)


def dense_on_torus(layer: Any, size: tuple[int, ...]) -> Tensor:
    """The matrix of a convolution with circular padding, entry by entry from its definition."""
    grid = [-(-n // s) for n, s in zip(size, layer.stride, strict=True)]
    torus = [m * s for m, s in zip(grid, layer.stride, strict=True)]
    weight, groups = layer.weight.detach(), layer.groups
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    matrix = torch.zeros(outputs, *grid, inputs, *torus, dtype=torch.float64)
    per_group_out, per_group_in = outputs // groups, weight.shape[1]
    for place in itertools.product(*map(range, grid)):
        for tap in itertools.product(*map(range, layer.kernel_size)):
            source = tuple(
                (m * s + d * t) % n
                for m, s, d, t, n in zip(place, layer.stride, layer.dilation, tap, torus, strict=True)
            )
            for group in range(groups):
                out = slice(group * per_group_out, (group + 1) * per_group_out)
                into = slice(group * per_group_in, (group + 1) * per_group_in)
                matrix[(out, *place, into, *source)] += weight[(out, slice(None), *tap)]
    return matrix.reshape(outputs * torch.tensor(grid).prod(), -1)
