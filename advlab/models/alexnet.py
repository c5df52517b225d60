"""Krizhevsky, Sutskever & Hinton's network (2012), without the two groups that its two GPUs asked for.

Table 5 of the paper lists its layers as 3x11x11x96, 96x5x5x256, 256x3x3x384, 384x3x3x384, 384x3x3x256, 9216x4096,
4096x4096, 4096x1000: the ungrouped sizes.
"""

from __future__ import annotations

import torch
from torch import nn

SIZE = 227
"""Height and width of its images: with 224 the first layer's windows would not fit."""


class AlexNet(nn.Sequential):
    """Images [B, 3, 227, 227] → logits [B, classes]; overlapping 3 x 3 pooling, local response normalisation."""

    def __init__(self, classes: int = 1000, dropout: float = 0.5) -> None:
        def normalised() -> list[nn.Module]:
            return [nn.ReLU(), nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0), nn.MaxPool2d(3, 2)]

        super().__init__(
            nn.Conv2d(3, 96, 11, stride=4),
            *normalised(),
            nn.Conv2d(96, 256, 5, padding=2),
            *normalised(),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, classes),
        )


def random() -> AlexNet:
    """With random weights of seed 0, PyTorch's default initialisation: trained ones are not part of any package."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AlexNet()
