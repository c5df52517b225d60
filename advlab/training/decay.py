"""Quadratic weight decay on the connection weights, by several readings of the paper's formula."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Convention = Literal["half", "plain", "per-unit"]
"""How λ enters the loss (section 4.2 prints λ Σ w² / k, "k the number of units in the layer"):

``half``: (λ/2) Σ w², the reading that fits Table 1 best; ``plain``: λ Σ w²; ``per-unit``: λ Σ w² / k as printed.
"""


class WeightDecay:
    """Σ over linear and convolutional layers of λ · scale · Σ w², one λ or one per layer; biases are not decayed."""

    def __init__(self, network: nn.Module, strengths: float | Sequence[float], convention: Convention) -> None:
        layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        lambdas = [strengths] * len(layers) if isinstance(strengths, int | float) else list(strengths)
        if len(lambdas) != len(layers):
            raise ValueError(f"{len(lambdas)} weight decays for {len(layers)} layers; give one, or one per layer.")
        self.terms: list[tuple[Tensor, float]] = []
        for layer, strength in zip(layers, lambdas, strict=True):
            scale = {"half": 0.5, "plain": 1.0, "per-unit": 1.0 / len(layer.weight)}[convention]
            self.terms.append((layer.weight, strength * scale))

    def __call__(self) -> Tensor:
        """The penalty, a scalar with gradient."""
        return torch.stack([scale * weight.square().sum() for weight, scale in self.terms]).sum()
