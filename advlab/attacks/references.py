"""References: images that the model is known to misclassify, from which an attack starts where gradients fail.

On hardened networks the gradient at a clean image leads nowhere; the boundary on the way to a reference is a start.

Shapes: B images of a batch, n pixels, k classes, R references.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from advlab.attacks.chunks import blocks
from advlab.attacks.criterion import Criterion
from advlab.attacks.model import Classifier
from advlab.data import Dataset

NEAREST = 24
"""Most references that one image starts from."""
BLANKS, NOISES, BLOBS = (0.0, 0.5, 1.0), 8, 16
"""Images that are always among the references: blank ones (shares of the box), white noise, and smooth noise."""

BISECTIONS = 5
"""Forward passes that find the boundary on the way to a reference."""
KNOWN, KNOWN_BYTES = 512, 2**26
"""Most images of a data set that serve as references, and most bytes of them."""


@dataclass(frozen=True, slots=True)
class References:
    """R images, and the lead of each class on each.

    Attributes:
        images: [R, n].
        margins: [R, k], z_j − max_{i≠j} z_i.
    """

    images: Tensor
    margins: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: Classifier, images: Tensor, given: Tensor | None, bounds: tuple[float, float]) -> Self:
        """The images given [R′, ...] and synthetic ones, for an attack on images [B, ...]; one forward pass of each."""
        points = synthetic(images, bounds)
        if given is not None:
            points = torch.cat([given.to(points), points])
        logits = torch.cat([model(points[rows]) for rows in blocks(len(points), points[0].numel(), points)])
        two = logits.topk(2, dim=1)
        first = torch.arange(logits.shape[1], device=logits.device) == two.indices[:, :1]
        others = torch.where(first, two.values[:, 1:], two.values[:, :1])
        return cls(points.flatten(1), (logits - others).nan_to_num(0, 0, 0))

    def nearest(self, clean: Tensor, criterion: Criterion, rounding: Tensor) -> Tensor:
        """The references [l, m] int64 that meet the criterion of clean images [l, n] by more than the ``rounding`` [l],
        nearest first; −1 for none."""
        margins = self.margins.T[criterion.away]
        met = (margins < -rounding[:, None]) if criterion.target is None else (margins > rounding[:, None])
        distances = torch.cdist(clean, self.images).masked_fill(~met, torch.inf)
        found = distances.topk(min(NEAREST, len(self.images)), dim=1, largest=False)
        return found.indices.masked_fill(found.values.isinf(), -1)


def crossing(outside: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Shares [l] of the way from images to references that lie just beyond the boundary, by bisection; ``outside``
    tells by one forward pass whether points at shares [l] are still on the clean side [l] bool.
    """
    low, high = torch.zeros_like(like), torch.ones_like(like)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        clean = outside(middle)
        low, high = torch.where(clean, middle, low), torch.where(clean, high, middle)
    return high


def synthetic(images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Blank images, white noise and smooth noise [R, ...] in the box, like the images [B, ...]; always the same."""
    lower, upper = bounds if all(map(torch.isfinite, torch.tensor(bounds))) else (0.0, 1.0)
    shape, generator = images.shape[1:], torch.Generator().manual_seed(0)
    blanks = torch.tensor(BLANKS).view(-1, *[1] * len(shape)).expand(-1, *shape)
    white = torch.rand(NOISES, *shape, generator=generator)
    smooth = torch.rand(BLOBS, *shape, generator=generator)
    if len(shape) == 3:
        coarse = torch.rand(BLOBS, shape[0], 4, 4, generator=generator)
        smooth = functional.interpolate(coarse, shape[1:], mode="bilinear", align_corners=False)
    share = torch.cat([blanks, white.round(), (3 * smooth - 1).clamp(0, 1)]).to(images)
    return (lower + (upper - lower) * share).clamp(lower, upper)


def among(dataset: Dataset) -> Dataset:
    """The first images of a data set (of its training split, if it has one) as references."""
    size = dataset.subset(slice(1)).images.nbytes
    return dataset.subset(slice(min(KNOWN, max(1, KNOWN_BYTES // size))))
