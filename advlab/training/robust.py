"""Minibatch training of networks that are hard to attack: on PGD examples, and by distillation."""

import copy
import time
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.data import Dataset
from advlab.training import minibatch
from advlab.training.full_batch import Progress

Norm = Literal["linf", "l2"]

WARM_UP = 0.3
"""Share of the steps in which the radius grows to its full size; without this, training may fail altogether."""
FIRST_STEP, STEPS_SUM = 1.25, 2.5
"""Step size of PGD in radii: the first for a single step (Wong et al. 2020), else the second over their number."""


def harden(
    network: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    norm: Norm = "linf",
    radius: float = 0.3,
    steps: int = 2,
    epochs: int = 8,
    batch_size: int = 128,
    learning_rate: float = 5e-3,
    **options: Any,
) -> dict[str, Any]:
    """Train on adversarial examples of projected gradient descent (Madry et al. 2018), in place.

    Args as in ``minibatch.fit``, and:
        norm, radius: of the ball around an image in [0, 1], reached after the first ``WARM_UP`` of the steps.
        steps: of PGD, from a random point of the ball.
    """
    ramp = WARM_UP * epochs * -(-len(dataset) // batch_size)
    taken = 0

    def cost(images: Tensor, labels: Tensor) -> Tensor:
        nonlocal taken
        taken += 1
        network.eval()
        examples = pgd(network, images, labels, norm, radius * min(1.0, taken / ramp), steps)
        network.train()
        return functional.cross_entropy(network(examples), labels)

    options |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    return minibatch.fit(network, dataset, seed=seed, device=device, progress=progress, cost=cost, **options)


def pgd(network: nn.Module, images: Tensor, labels: Tensor, norm: Norm, radius: float, steps: int) -> Tensor:
    """Images [B, ...] of high cross entropy within ``radius`` and [0, 1]; random, by torch's generator."""
    length = radius * min(FIRST_STEP, STEPS_SUM / steps)
    start = torch.empty_like(images).uniform_(-radius, radius)
    examples = (images + _within(start, norm, radius)).clamp(0, 1)
    for _ in range(steps):
        examples.requires_grad_()
        loss = functional.cross_entropy(network(examples), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, examples)
        step = gradient.sign() if norm == "linf" else gradient / _lengths(gradient).clamp_min(1e-12)
        moved = examples.detach() + length * step - images
        examples = (images + _within(moved, norm, radius)).clamp(0, 1)
    return examples


def _within(moved: Tensor, norm: Norm, radius: float) -> Tensor:
    if norm == "linf":
        return moved.clamp(-radius, radius)
    return moved * (radius / _lengths(moved).clamp_min(1e-12)).clamp_max(1)


def _lengths(rows: Tensor) -> Tensor:
    return rows.flatten(1).norm(dim=1).view(-1, *[1] * (rows.ndim - 1))


def distil(
    network: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    temperature: float = 50.0,
    **options: Any,
) -> dict[str, Any]:
    """Train at a high temperature on the predictions of a network of the same kind (Papernot et al. 2016), in place.

    Used at temperature 1 afterwards, its softmax is saturated: gradients of the cross entropy vanish. ``temperature``
    divides the logits of both networks during training; other arguments are those of ``minibatch.fit``. Returns its
    report for the second network, with the ``seconds`` of both.
    """
    started = time.perf_counter()

    def hard(images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(network(images) / temperature, labels)

    def soft(images: Tensor, _labels: Tensor) -> Tensor:
        with torch.no_grad():
            answers = (teacher(images) / temperature).softmax(1)
        return functional.cross_entropy(network(images) / temperature, answers)

    minibatch.fit(network, dataset, seed=seed, device=device, cost=hard, **options)
    teacher = copy.deepcopy(network)
    report = minibatch.fit(network, dataset, seed=seed, device=device, progress=progress, cost=soft, **options)
    return report | {"seconds": time.perf_counter() - started}
