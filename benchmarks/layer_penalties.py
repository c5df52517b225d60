"""Training with the upper frame bounds of the layers in the loss, as a later version of section 4.3 suggests.

Two penalties. ``lipschitz`` is Σ over layers of (λ₊ - target)₊², λ₊ by power iteration that continues across steps
(Yoshida & Miyato 2017, with the layer's own stride and padding). ``parseval`` is Σ of ‖W Wᵀ - 1‖² / rows over kernels
as matrices (Cisse et al. 2017), which drives all singular values to 1, not only the largest.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.analysis.layer_graph import LAYERS, Network
from advlab.data import Dataset
from advlab.training import Progress, minibatch
from advlab.training.decay import Convention

Kind = Literal["lipschitz", "parseval"]


class LipschitzPenalty:
    """Σ over layers of (λ₊ - target)₊², with gradients into the weights.

    Args:
        network: its linear layers and convolutions are penalised, each with its own stride and padding.
        shape: of an image, [C, H, W].
        target: upper frame bound below which there is no penalty.
        iterations: power iterations per call; one is enough, since each call continues from the one before.
        seed: of the first vectors.
    """

    def __init__(
        self, network: nn.Module, shape: tuple[int, ...], *, target: float = 1.0, iterations: int = 1, seed: int = 0
    ) -> None:
        self.target, self.iterations = target, iterations
        generator = torch.Generator().manual_seed(seed)
        was_training = network.training
        traced = Network(network.eval(), shape)
        network.train(was_training)
        modules = dict(network.named_modules())
        self.layers = [(modules[layer.name], layer.shape) for layer in traced.layers]
        self._vectors = [torch.randn(1, *shape, generator=generator) for _, shape in self.layers]

    def norms(self) -> Tensor:
        """Current estimates of λ₊ of each layer, [layers], by power iteration; never above the true values."""
        norms: list[Tensor] = []
        for position, (layer, _) in enumerate(self.layers):
            vector = self._vectors[position].to(layer.weight)
            with torch.no_grad():
                for _ in range(self.iterations):
                    vector = _transposed(layer, _linear(layer, vector), vector)
                    vector = vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
            self._vectors[position] = vector
            norms.append(_linear(layer, vector).norm())
        return torch.stack(norms)

    def __call__(self) -> Tensor:
        """The penalty, a scalar with gradient."""
        return (self.norms() - self.target).clamp(min=0).square().sum()


def parseval_penalty(network: nn.Module) -> Tensor:
    """Σ over linear layers and convolutions of ‖W Wᵀ - 1‖²/rows, the smaller side of the kernel as a matrix.

    A strided or padded convolution with such a kernel has a norm of at most √(taps of the kernel).
    """
    total = [torch.zeros(())]
    for module in network.modules():
        if isinstance(module, LAYERS):
            matrix = module.weight.flatten(1)
            gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            total.append((gram - torch.eye(len(gram)).to(gram)).square().sum() / len(gram))
    return torch.stack([part.to(total[-1]) for part in total]).sum()


def fit(
    network: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    penalty: float = 0.0,
    kind: Kind = "lipschitz",
    target: float = 1.0,
    weight_decay: float = 0.0,
    decay_convention: Convention = "half",
    initial_weights: str = "kaiming",
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> dict[str, Any]:
    """A trainer for recipes: minibatches as ``advlab.training.minibatch.fit``, with a penalty on the layers' norms.

    Args:
        penalty: factor of the penalty.
        kind: ``lipschitz`` or ``parseval``.
        target: for ``lipschitz``: upper frame bound below which there is no penalty.
        Other arguments: as in ``advlab.training.minibatch.fit``.

    Returns:
        What ``minibatch.fit`` returns, and ``penalty`` and ``largest_norm``, of the finished network.
    """
    lipschitz = LipschitzPenalty(network, tuple(dataset.images.shape[1:]), target=target, seed=seed)
    cost = lipschitz if kind == "lipschitz" else lambda: parseval_penalty(network)
    report = minibatch.fit(
        network,
        dataset,
        seed=seed,
        device=device,
        progress=progress,
        weight_decay=weight_decay,
        decay_convention=decay_convention,
        initial_weights=initial_weights,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        cost=lambda images, labels: functional.cross_entropy(network(images), labels) + penalty * cost(),
    )
    with torch.no_grad():
        lipschitz.iterations = 50
        return {**report, "penalty": float(cost()), "largest_norm": float(lipschitz.norms().max())}


def _linear(layer: Any, vector: Tensor) -> Tensor:
    """A layer without its bias."""
    if isinstance(layer, nn.Linear):
        return functional.linear(vector, layer.weight)
    return layer._conv_forward(vector, layer.weight, None)


def _transposed(layer: Any, image: Tensor, like: Tensor) -> Tensor:
    """Wᵀ applied to a layer's output."""
    with torch.enable_grad():
        leaf = torch.zeros_like(like, requires_grad=True)
        (pulled,) = torch.autograd.grad(_linear(layer, leaf), leaf, image)
    return pulled
