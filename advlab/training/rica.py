"""Training by reconstruction ICA (RICA), without labels, in a seeded order, so that any step can be resumed."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from advlab.data import Dataset
from advlab.models.external import resized
from advlab.training.quocnet_parallel import Parallel


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of the training.

    Attributes:
        steps: minibatches in all.
        batch_size: images per step, over all processes.
        learning_rate: of the first step; it falls to zero along half a cosine.
        sparsity: weight of the pooled units' activity, λ of Le et al.
        joint: let the gradient of a stage's cost update the stages below it, too, as Le et al. do.
        seed: of the order of the images.
    """

    steps: int
    batch_size: int
    learning_rate: float
    sparsity: float
    joint: bool
    seed: int


class Step(NamedTuple):
    """The measurements of a step, numbered from 0, before its update of the weights: the cost per image over the whole
    batch, per stage the relative reconstruction error Σ ‖WᵀWx − x‖² / Σ ‖x‖², and wall time.
    """

    step: int
    loss: float
    errors: tuple[float, ...]
    seconds: float


def batch_rows(total: int, batch_size: int, seed: int, step: int) -> Tensor:
    """[batch_size] int64: the images of a step, each epoch in its own order; the remainder of an epoch is dropped."""
    per_epoch = max(1, total // batch_size)
    epoch, number = divmod(step, per_epoch)
    return _order(total, seed, epoch)[number * batch_size : (number + 1) * batch_size]


@lru_cache(maxsize=2)
def _order(total: int, seed: int, epoch: int) -> Tensor:
    """[total] int64, cached during an epoch: for a million images, drawing it takes longer than a step."""
    return torch.randperm(total, generator=torch.Generator().manual_seed((seed << 20) + epoch))


def images_of(dataset: Dataset, rows: Tensor | slice, size: int) -> Tensor:
    """[b, C, size, size]: these images, resized bilinearly to the network's size if it differs."""
    return resized(dataset.subset(rows).images, size)


def train(
    parallel: Parallel,
    optimiser: torch.optim.Optimizer,
    dataset: Dataset,
    settings: Settings,
    *,
    first: int = 0,
    device: torch.device,
) -> Iterator[Step]:
    """Take the steps from ``first`` on, yielding the measurements of each; all processes must make the same calls."""
    network, size = parallel.network, parallel.network.shape.size
    for step in range(first, settings.steps):
        started = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        rows = parallel.part(batch_rows(len(dataset), settings.batch_size, settings.seed, step))
        parts = network.objectives(images_of(dataset, rows, size).to(device), settings.joint)
        loss = network.loss(parts, settings.sparsity)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parallel.average_gradients()
        optimiser.step()
        network.keep_lengths()
        sums = torch.stack([loss, *(part.error for part in parts), *(part.energy for part in parts)])
        total, *terms = parallel.total(sums).tolist()
        count = len(parts)
        errors = tuple(error / energy for error, energy in zip(terms[:count], terms[count:], strict=True))
        yield Step(step, total, errors, time.perf_counter() - started)
