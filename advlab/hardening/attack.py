"""Adversarial examples at layer outputs: attacks on the tail of the network above a layer, within that layer's box."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.attacks import minimum_norm, szegedy_lbfgs
from advlab.attacks.result import Adversarial
from advlab.data import Dataset
from advlab.hardening.levels import Levels
from advlab.hardening.pool import Batch
from advlab.hardening.settings import Name, Settings

BEYOND = 1.1
"""Factor by which minimal perturbations are stretched: an example on the boundary itself belongs to neither class."""


def examples(
    network: nn.Module,
    levels: Levels,
    dataset: Dataset,
    settings: Settings,
    rows: Tensor,
    step: int,
    generator: torch.Generator,
) -> dict[int, Batch]:
    """Attack a network at several levels on rows [b] of a data set, in evaluation mode, so that it is deterministic.

    ``step`` of training is recorded as the birth of the examples; ``generator`` is that of the noise, on the CPU. The
    ``sizes`` of ``one-step`` and ``gaussian`` are relative to the mean L2 norm of the activations of their level: so
    they are comparable between levels, and a network cannot evade them by larger activations.
    """
    images, labels = dataset.images[rows], dataset.labels[rows]
    was_training = network.training
    network.eval()
    if settings.attack in ("one-step", "gaussian"):
        found = _steps(levels, images, labels, settings, generator)
    else:
        found = {level: _minimal(levels, images, labels, settings.attack, level, step) for level in settings.levels}
    network.train(was_training)
    births, index = torch.full_like(labels, step), dataset.index[rows]
    return {level: Batch(values.flatten(1), labels, births, index, l2) for level, (values, l2) in found.items()}


def _steps(
    levels: Levels, images: Tensor, labels: Tensor, settings: Settings, generator: torch.Generator
) -> dict[int, tuple[Tensor, Tensor]]:
    """Perturbations of one step; a single forward and backward pass serves all levels."""
    with torch.enable_grad():
        first = min(settings.levels)  # levels below all attacked ones need no gradient
        with torch.no_grad():
            start = levels.activations(images)[first]
        activations = {first: start.requires_grad_()}
        for level in range(first, levels.count - 1):
            activations[level + 1] = levels.stages[level](activations[level])
        logits = levels.stages[-1](activations[levels.count - 1])
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, [activations[level] for level in settings.levels])
    found = {}
    for level, gradient in zip(settings.levels, gradients, strict=True):
        clean = activations[level].detach().flatten(1)
        towards = gradient.flatten(1)
        if settings.attack == "gaussian":
            towards = torch.randn(towards.shape, generator=generator).to(towards)
        size = settings.sizes[level] * clean.norm(dim=1).mean()
        moved = move(clean, towards, size, levels.boxes[level])
        found[level] = moved.view_as(activations[level]), (moved - clean).norm(dim=1)
    return found


def move(clean: Tensor, towards: Tensor, size: Tensor | float, box: tuple[float, float]) -> Tensor:
    """Move points [B, n] by a step of L2 length ``size`` along ``towards`` [B, n], within a box.

    Components that point out of the box are removed beforehand, so that little of the step is lost at its faces, where
    most pixels of MNIST are. Points without a direction stay, as where a gradient underflows.
    """
    low, high = box
    outward = ((clean <= low) & (towards < 0)) | ((clean >= high) & (towards > 0))
    towards = towards.masked_fill(outward, 0)
    length = towards.norm(dim=1, keepdim=True)
    scale = torch.where(length > torch.finfo(clean.dtype).tiny, size / length, 0)
    return torch.addcmul(clean, towards, scale).clamp_(low, high)


def minimal(
    levels: Levels, images: Tensor, labels: Tensor, level: int, attack: str = "minimum-norm", seed: int = 0
) -> tuple[Adversarial, Tensor]:
    """The smallest perturbations of clean images [B, ...] at a level that an attack of ``advlab.attacks`` finds for the
    tail.

    ``attack`` is ``minimum-norm`` (any wrong class) or ``lbfgs`` (a random one by ``seed``, the paper's). Returns its
    result on activations [B, n], and the L2 norms [B] of the clean activations.
    """
    with torch.no_grad():
        clean = levels.activations(images)[level]
    if attack == "lbfgs":
        # the paper's search for c needs a finite box: up to twice the largest activation should be enough
        low, high = levels.boxes[level]
        bounds = (low, min(high, 2 * float(clean.max()) + 1))
        found = szegedy_lbfgs(levels.tail(level), clean, labels, target="random", bounds=bounds, seed=seed)
    else:
        found = minimum_norm(levels.tail(level), clean, labels, target="nearest", bounds=levels.boxes[level])
    return found, clean.flatten(1).norm(dim=1)


def _minimal(
    levels: Levels, images: Tensor, labels: Tensor, attack: Name, level: int, step: int
) -> tuple[Tensor, Tensor]:
    """Minimal perturbations, slightly stretched, and their L2 norms [B]."""
    found, _ = minimal(levels, images, labels, level, attack, seed=step)
    with torch.no_grad():
        clean = levels.activations(images)[level]
    low, high = levels.boxes[level]
    beyond = torch.lerp(clean, found.images, BEYOND).clamp_(low, high)
    return beyond, (beyond - clean).flatten(1).norm(dim=1)
