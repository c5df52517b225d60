"""AlexNet (Krizhevsky, Sutskever & Hinton 2012), in one tower or two, at its original size or smaller ones: Table 5 of
the paper lists its layers (3x11x11x96, …, 4096x1000) without the two groups that were split over two GPUs.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from advlab.errors import UserError
from advlab.models.counter_rng import KeyedDropout
from advlab.models.external import Normalised

SIZE = 227
"""Height and width of its images: the windows of the first layer do not fit 224."""
SMALLEST = 16
"""Smallest height and width: the last map then has one position."""
Variant = Literal["krizhevsky", "groups", "torchvision"]
"""``krizhevsky``: one tower, the ungrouped sizes of Table 5. ``groups``: the original two towers, connected in the
third layer and in the fully connected ones. ``torchvision``: one tower without normalisation (Krizhevsky 2014, as
torchvision has it)."""
_MAPS = {"krizhevsky": (96, 256, 384, 384, 256), "torchvision": (64, 192, 384, 256, 256)}
_UNITS = 4096


class AlexNet(nn.Sequential):
    """Images [B, channels, size, size] → logits [B, classes]; overlapping 3 × 3 pooling, ReLU, dropout.

    The first layer has windows of 11 × 11 pixels and stride 4. So that smaller images leave maps for the layers above,
    it has windows of 7 × 7 and stride 2 below 128 pixels, and of 5 × 5 and stride 1 below 64. ``width`` is a factor of
    the numbers of maps and units, which are rounded to even numbers; ``dropout`` is that of the inputs of the first two
    fully connected layers. Raises a UserError for an unknown variant, images too small, or a width that is not
    positive.
    """

    def __init__(
        self,
        classes: int = 1000,
        dropout: float = 0.5,
        variant: Variant = "krizhevsky",
        size: int = SIZE,
        width: float = 1.0,
        channels: int = 3,
    ) -> None:
        if variant not in get_args(Variant):
            raise UserError(f"unknown variant {variant!r} of AlexNet; choose {', '.join(get_args(Variant))}.")
        if size < SMALLEST:
            raise UserError(f"AlexNet cannot process images of {size} pixels; choose at least {SMALLEST}.")
        if width <= 0:
            raise UserError(f"AlexNet cannot have a width of {width:g}; choose more than 0, e.g. 1.")

        def scaled(number: int) -> int:
            return 2 * max(1, round(width * number / 2))

        plain = variant == "torchvision"
        towers = 2 if variant == "groups" else 1
        first, second, third, fourth, fifth = map(scaled, _MAPS["torchvision" if plain else "krizhevsky"])
        units = scaled(_UNITS)

        def pooled() -> list[nn.Module]:
            normalised = [] if plain else [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)]
            return [nn.ReLU(), *normalised, nn.MaxPool2d(3, 2)]

        kernel, stride, padding = (5, 1, 2) if size < 64 else (7, 2, 3) if size < 128 else (11, 4, 2 if plain else 0)
        side = (size + 2 * padding - kernel) // stride + 1
        for _ in range(3):
            side = (side - 3) // 2 + 1
        super().__init__(
            nn.Conv2d(channels, first, kernel, stride, padding),
            *pooled(),
            nn.Conv2d(first, second, 5, padding=2, groups=towers),
            *pooled(),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1, groups=towers),
            nn.ReLU(),
            nn.Conv2d(fourth, fifth, 3, padding=1, groups=towers),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Flatten(),
            KeyedDropout(dropout, stream=1),
            nn.Linear(fifth * side**2, units),
            nn.ReLU(),
            KeyedDropout(dropout, stream=2),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, classes),
        )


def classifier(mean: Sequence[float], std: Sequence[float], size: int, **arguments: Any) -> Normalised:
    """An untrained AlexNet that normalises its images by ``mean`` and ``std`` per channel, and resizes those of another
    height or width than ``size``; ``arguments`` and errors are those of `AlexNet`.
    """
    return Normalised(AlexNet(size=size, **arguments), list(mean), list(std), size)


def initialise(network: nn.Module, seed: int) -> None:
    """Draw He et al.'s (2015) weights in place; biases are zero. The last layer keeps Krizhevsky's N(0, 0.01²), which
    only suits his widths elsewhere, so that training starts at the loss of uniform probabilities.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(layers[-1].weight, std=0.01, generator=generator)


def random() -> AlexNet:
    """AlexNet with random weights of seed 0 (PyTorch's default initialisation): no package has trained ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AlexNet()
