"""Measured amplification of networks: Jacobian norms by power iteration, and gains on pairs of images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Map = Callable[[Tensor], Tensor]


def jacobian_norms(function: Map, images: Tensor, *, iterations: int = 20, seed: int = 0) -> Tensor:
    """A lower bound [B] of the largest singular value of the Jacobian at each image, tight as the iterations converge.

    Power iteration on JᵀJ from directions of ``seed``; returns ‖Jv‖ for a unit v, so it never exceeds the local
    Lipschitz constant. ``function`` maps images [B, …] to values [B, …], rows independent of each other.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(images.shape, generator=generator).to(images)
    gain = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    for _ in range(iterations):
        direction = _unit(direction)
        stretched: Tensor = torch.func.jvp(function, (images,), (direction,))[1]
        gain = torch.maximum(gain, stretched.flatten(1).norm(dim=1))
        (direction,) = torch.func.vjp(function, images)[1](stretched)
    return gain


def layer_norm(layer: nn.Module, shape: tuple[int, ...], *, iterations: int = 100, seed: int = 0) -> float:
    """A lower bound, by power iteration, of the operator norm of a linear layer or a convolution with its own padding,
    without its bias; ``shape`` is that of its input, [C, …].
    """
    generator = torch.Generator().manual_seed(seed)
    device, dtype = layer.weight.device, layer.weight.dtype
    origin = torch.zeros(1, *shape, device=device, dtype=dtype)  # type: ignore[arg-type]
    vector = torch.randn(origin.shape, generator=generator).to(origin)
    gain = 0.0
    with torch.enable_grad():
        for _ in range(iterations):
            # d/dx ½‖Wx‖² = WᵀWx
            leaf = _unit(vector).detach().requires_grad_(True)
            value = layer(leaf) - layer(origin).detach()
            gain = max(gain, float(value.detach().norm()))
            (vector,) = torch.autograd.grad(value.square().sum() / 2, leaf)
    return gain


@torch.no_grad()
def pair_gains(function: Map, images: Tensor, others: Tensor) -> Tensor:
    """‖f(x') - f(x)‖ / ‖x' - x‖ [B] of pairs of images x, x' [B, …], for f with values [B, …]; NaN for equal ones."""
    change = (function(others) - function(images)).flatten(1).norm(dim=1)
    distance = (others - images).flatten(1).norm(dim=1)
    return torch.where(distance > 0, change / distance, torch.nan)


def _unit(vectors: Tensor) -> Tensor:
    """Rows [B, …] scaled to norm 1; rows of zeros stay zero."""
    return functional.normalize(vectors.flatten(1), eps=torch.finfo(vectors.dtype).tiny).view_as(vectors)
