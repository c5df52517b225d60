"""AE400-10: features learned without labels, then a softmax on the frozen code (section 4.2, Table 1)."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from advlab.data import Dataset
from advlab.models.autoencoder import AutoencoderClassifier
from advlab.models.mlp import initialise
from advlab.training.decay import Convention, WeightDecay
from advlab.training.full_batch import Progress, minimise_cross_entropy
from advlab.training.minibatch import train


def fit(
    network: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    sparsity: float = 0.1,
    sparsity_weight: float = 3.0,
    autoencoder_decay: float = 1e-2,
    epochs: int = 12,
    batch_size: int = 100,
    learning_rate: float = 4e-3,
    weight_decay: float = 1e-6,
    decay_convention: Convention = "half",
    gradient_tolerance: float = 1e-5,
    loss_tolerance: float = 1e-7,
    max_iterations: int = 5000,
) -> dict[str, Any]:
    """Train the autoencoder by Adam without labels, freeze it, and fit the softmax by full-batch L-BFGS, in place.

    Args:
        network: an ``AutoencoderClassifier``.
        sparsity: ρ, the target of each unit's mean activation.
        sparsity_weight: factor of the sparsity penalty, in nats per image.
        autoencoder_decay: λ of encoder and decoder in (λ/2) Σ w².
        weight_decay: λ of the softmax, by ``decay_convention``.
        Other arguments: as in ``full_batch.fit`` (tolerances of the softmax) and ``minibatch.fit``.

    Returns:
        What ``full_batch.fit`` returns for the softmax, and ``autoencoder_loss`` (with its penalties, in nats per
            image, over the last epoch), ``mean_activation`` of the code.
    """
    assert isinstance(network, AutoencoderClassifier)
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    initialise(network, "glorot", generator)
    network.to(device)
    parts = nn.ModuleList([network.encoder, network.decoder])
    decay = WeightDecay(parts, autoencoder_decay, "half")

    def cost(images: Tensor, _labels: Tensor) -> Tensor:
        return network.reconstruction_loss(images, sparsity, sparsity_weight) + decay()

    weights = list(parts.parameters())
    autoencoder_loss = train(weights, cost, dataset, epochs, batch_size, learning_rate, generator, device, progress)

    parts.requires_grad_(False)
    with torch.no_grad():
        code = torch.cat([network.encode(images.to(device)) for images in dataset.images.split(5000)])
    nn.init.zeros_(network.classifier.weight)
    labels, penalty = dataset.labels.to(device), WeightDecay(network.classifier, weight_decay, decay_convention)
    limits = gradient_tolerance, loss_tolerance, max_iterations
    report = minimise_cross_entropy(network.classifier, code, labels, penalty, progress, *limits)
    network.eval()
    measured = {"autoencoder_loss": autoencoder_loss, "mean_activation": float(code.mean())}
    return {**report, "seconds": time.perf_counter() - started, **measured}
