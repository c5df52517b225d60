"""The local layer against loops over places, and its derivatives against finite differences."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from advlab.models.local import Decode, Encode, Fields, LocalLinear

CASES = [(1, 1, 3, 1, 2), (2, 3, 4, 2, 1), (3, 2, 2, 3, 2)]
"""(images, channels, side, stride, maps)."""


def make(images: int, channels: int, side: int, stride: int, maps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images whose last column no field sees, weights, codes; float64."""
    generator = torch.Generator().manual_seed(side)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    rows, places = 3, 2
    width = (places - 1) * stride + side + (1 if stride > 1 else 0)
    x = draw(images, channels, (rows - 1) * stride + side, width)
    return x, draw(rows, places, maps, side * side * channels), draw(images, maps, rows, places)


def naive(x: Tensor, weight: Tensor, side: int, stride: int) -> Tensor:
    """Place by place, map by map."""
    rows, places, maps, _ = weight.shape
    answer = x.new_zeros(len(x), maps, rows, places)
    for row in range(rows):
        for place in range(places):
            patch = x[:, :, row * stride : row * stride + side, place * stride : place * stride + side]
            for number in range(maps):
                kernel = weight[row, place, number].view(side, side, x.shape[1])  # column, row, channel
                answer[:, number, row, place] = (patch * kernel.permute(2, 1, 0)).sum((1, 2, 3))
    return answer


@pytest.mark.parametrize("case", CASES)
def test_responses_and_gradients_are_those_of_a_loop(case: tuple[int, int, int, int, int]) -> None:
    x, weight, codes = make(*case)
    side, stride = case[2:4]
    x.requires_grad_()
    weight.requires_grad_()
    expected, found = naive(x, weight, side, stride), Encode.apply(x, weight, side, stride)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), codes), torch.autograd.grad(expected, (x, weight), codes), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_to_second_order(case: tuple[int, int, int, int, int]) -> None:
    x, weight, codes = (tensor.requires_grad_() for tensor in make(*case))
    side, stride = case[2:4]
    for function, arguments in (
        (Encode, (x, weight, side, stride)),
        (Decode, (codes, weight, side, stride, x.shape[3])),
    ):
        assert gradcheck(function.apply, arguments)
        assert gradgradcheck(function.apply, arguments)


@pytest.mark.parametrize("case", CASES)
def test_decoding_is_the_transpose(case: tuple[int, int, int, int, int]) -> None:
    x, weight, codes = make(*case)
    side, stride = case[2:4]
    there = (Encode.apply(x, weight, side, stride) * codes).sum()
    back = (Decode.apply(codes, weight, side, stride, x.shape[3]) * x).sum()
    torch.testing.assert_close(there, back)


def test_with_equal_filters_it_is_a_convolution() -> None:
    layer = LocalLinear(3, (9, 10), maps=4, side=5, stride=2)
    kernel = torch.randn(4, 3, 5, 5)
    layer.weight.data[:] = kernel.permute(0, 3, 2, 1).flatten(1)
    images = torch.rand(2, 3, 9, 10)
    torch.testing.assert_close(layer(images), torch.nn.functional.conv2d(images, kernel, stride=2))


def test_half_precision_is_for_the_products_alone() -> None:
    layer = LocalLinear(2, (8, 8), maps=3, side=4)
    torch.nn.init.normal_(layer.weight)
    images = torch.rand(2, 2, 8, 8, requires_grad=True)
    exact = layer(images).detach()
    layer.precision = torch.bfloat16
    found = layer(images)
    found.sum().backward()
    assert found.dtype == images.grad.dtype == layer.weight.grad.dtype == torch.float32  # type: ignore[union-attr]
    assert 0 < float((found - exact).norm() / exact.norm()) < 1e-2


def test_fields_of_a_run_of_places() -> None:
    fields = Fields(size=200, side=18, stride=1)
    assert fields.places == 183
    assert fields.needs(0, 92) == (0, 109)
    assert Fields(32, 8, 2).places == 13
    assert Fields(32, 8, 2).needs(4, 8) == (8, 22)


def test_filters_are_brought_back_to_the_length_of_a_tight_frame() -> None:
    """Overcomplete ones; fewer than the inputs' directions they have the length of orthonormal ones."""
    for maps, stride, variance, length in ((12, 1, 1.0, 0.5), (12, 1, 0.25, 0.25), (2, 2, 1.0, 1.0)):
        layer = LocalLinear(3, (8, 8), maps, 4, stride)
        nn.init.normal_(layer.weight)
        with torch.no_grad():
            layer.weight[0, 0, 0] = 0
        layer.variance.fill_(variance)
        direction = functional.normalize(layer.weight.detach(), dim=3)
        layer.keep_lengths()
        torch.testing.assert_close(layer.weight, length * direction)


def test_smoothing_is_a_convolution_of_every_filter() -> None:
    layer = LocalLinear(2, (4, 5), 3, 3)
    nn.init.normal_(layer.weight)
    kernel = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    before = layer.weight.detach().clone()
    layer.smooth(kernel)
    for row, place, number in ((0, 0, 0), (1, 2, 1)):
        old, new = (
            weight[row, place, number].view(3, 3, 2).permute(2, 1, 0) for weight in (before, layer.weight.detach())
        )
        torch.testing.assert_close(new, functional.conv2d(old[None], kernel, padding=1)[0])
