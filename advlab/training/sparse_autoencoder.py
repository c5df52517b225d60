"""AE400-10: features learned without labels, then a softmax on the frozen code (section 4.2, Table 1)."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from advlab.data import Dataset
from advlab.models.autoencoder import AutoencoderClassifier
from advlab.models.mlp import initialise
from advlab.training.decay import Convention, WeightDecay
from advlab.training.full_batch import Progress, minimise_cross_entropy
from advlab.training.minibatch import shuffled_batches


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
        dataset: the images to reconstruct and, for the softmax, their labels.
        sparsity: ρ, the mean activation wanted of each unit.
        sparsity_weight: factor of the sparsity penalty, in nats per image.
        autoencoder_decay: λ of encoder and decoder in (λ/2) Σ w².
        weight_decay: λ of the softmax, entering by ``decay_convention``.
        The others are as in ``full_batch.fit`` (tolerances: of the softmax) and ``minibatch.fit``.

    Returns:
        What ``full_batch.fit`` returns for the softmax, and ``reconstruction_loss`` (nats per image, last epoch),
        ``mean_activation`` of the code.
    """
    assert isinstance(network, AutoencoderClassifier)
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    initialise(network, "glorot", generator)
    network.to(device)
    parts = nn.ModuleList([network.encoder, network.decoder])
    decay = WeightDecay(parts, autoencoder_decay, "half")
    optimiser = torch.optim.Adam(parts.parameters(), lr=learning_rate)
    steps_per_epoch = -(-len(dataset) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * steps_per_epoch)
    total = torch.zeros((), device=device)
    reconstruction = float("nan")
    batches = shuffled_batches(dataset.images, dataset.labels, batch_size, epochs, generator)
    for step, (images, _) in enumerate(batches, start=1):
        optimiser.zero_grad(set_to_none=True)
        loss = network.reconstruction_loss(images.to(device), sparsity, sparsity_weight)
        (loss + decay()).backward()
        optimiser.step()
        schedule.step()
        total += loss.detach()
        if step % steps_per_epoch == 0:
            reconstruction = float(total) / steps_per_epoch
            total.zero_()
            if progress is not None:
                progress(step, {"reconstruction_loss": reconstruction})

    parts.requires_grad_(False)
    with torch.inference_mode():
        code = torch.cat([network.encode(images.to(device)) for images in dataset.images.split(5000)])
    code = code.clone()  # inference tensors cannot be saved for backward
    nn.init.zeros_(network.classifier.weight)
    report = minimise_cross_entropy(
        network.classifier,
        code,
        dataset.labels.to(device),
        penalty=WeightDecay(network.classifier, weight_decay, decay_convention),
        progress=progress,
        gradient_tolerance=gradient_tolerance,
        loss_tolerance=loss_tolerance,
        max_iterations=max_iterations,
    )
    network.eval()
    return {
        **report,
        "seconds": time.perf_counter() - started,
        "reconstruction_loss": reconstruction,
        "mean_activation": float(code.mean()),
    }
