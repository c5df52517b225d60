"""Virtual adversarial training (Miyato et al. 2018, "Virtual adversarial training: a regularization method …")."""

import torch
from torch import Tensor, nn
from torch.nn import functional

PROBE = 1e-2
"""Length of the finite difference ξ of equation 12, relative to the mean norm of the images."""


def divergence(network: nn.Module, images: Tensor, logits: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Mean KL divergence between predictions for images [B, ...] and for their virtual adversaries: their Algorithm 1.

    Args:
        logits: [B, k], of the images, with their graph.
        size: L2 size ε of the perturbation, relative to the mean norm of the images.
        generator: of the initial direction, on the CPU; one power iteration follows.
    """
    answer = logits.detach().softmax(1)
    norm = images.flatten(1).norm(dim=1).mean()
    direction = torch.randn(images.shape, generator=generator).to(images)
    probe = (PROBE * norm * _unit(direction)).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_kl(answer, network(images + probe)), probe)
    return _kl(answer, network(images + size * norm * _unit(gradient)))


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.flatten(1), eps=torch.finfo(vectors.dtype).tiny).view_as(vectors)


def _kl(answer: Tensor, logits: Tensor) -> Tensor:
    return functional.kl_div(logits.log_softmax(1), answer, reduction="batchmean")
