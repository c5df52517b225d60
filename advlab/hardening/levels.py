"""A network split into levels: the points where adversarial examples are made, and the layers above that they train.

Level 0 is the input, level k the output of the k-th hidden layer (after its activation, before any dropout). The tail
above a level is itself a classifier: its inputs are that level's activations, within that layer's box.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from advlab.errors import UserError

BOXES: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.ReLU: (0.0, math.inf),
    nn.Tanh: (-1.0, 1.0),
}
"""The range of values of a layer with this activation."""


class Levels:
    """A sequential classifier split after every activation; pooling and dropout of its values belong to the next level.

    It shares the modules of the network, images [B, ...] → logits [B, k], so training updates the levels. Raises a
    UserError if that is not an ``nn.Sequential``, whose levels are unknown.

    Attributes:
        count: number of levels, the input included.
        stages: stage k maps the activations of level k to those of level k + 1, the last one to logits.
        boxes: (lowest, highest) value of each level.
    """

    def __init__(self, network: nn.Module) -> None:
        if not isinstance(network, nn.Sequential):
            raise UserError(
                f"{type(network).__name__} is not an nn.Sequential, so it cannot be split into levels; "
                "wrap its parts in one."
            )
        self.stages: list[nn.Sequential] = []
        self.boxes = [(0.0, 1.0)]
        part: list[nn.Module] = []
        for module in _unfolded(network):
            part.append(module)
            if type(module) in BOXES:
                self.stages.append(nn.Sequential(*part))
                self.boxes.append(BOXES[type(module)])
                part = []
        self.stages.append(nn.Sequential(*part))
        self.count = len(self.stages)

    @torch.no_grad()
    def shapes(self, images: Tensor) -> list[tuple[int, ...]]:
        """The shape of one example at every level, and of its logits, for images like these [B, ...]."""
        found = self.activations(images[:1])
        return [tuple(x.shape[1:]) for x in (*found, self.stages[-1](found[-1]))]

    def activations(self, images: Tensor) -> list[Tensor]:
        """Images [B, ...] → the activations [B, ...] of every level, the images first."""
        found = [images]
        for stage in self.stages[:-1]:
            found.append(stage(found[-1]))
        return found

    def tail(self, level: int) -> Callable[[Tensor], Tensor]:
        """The classifier above a level: its activations [B, ...] → logits [B, k]."""
        return nn.Sequential(*self.stages[level:])


class Mixture(nn.Module):
    """A network whose forward pass lets further examples join at their level; shares the modules of ``levels``."""

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.stages = nn.ModuleList(levels.stages)

    def forward(self, images: Tensor, joining: dict[int, Tensor]) -> Tensor:
        """Logits [B + Σ b, k] of images [B, ...], then those of the activations [b, ...] that join at each level."""
        activations = images
        for level, stage in enumerate(self.stages):
            if level in joining:
                activations = torch.cat([activations, joining[level]])
            activations = stage(activations)
        return activations


def _unfolded(network: nn.Sequential) -> Iterator[nn.Module]:
    """The modules in order, with nested sequences unfolded."""
    for module in network:
        if isinstance(module, nn.Sequential):
            yield from _unfolded(module)
        else:
            yield module
