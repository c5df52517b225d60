"""The error rate of a classifier."""

import torch
from torch import Tensor, nn


@torch.inference_mode()
def error_rate(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 2000) -> float:
    """Share of misclassified images, in [0, 1]; images [N, ...] and labels [N] may be on another device."""
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        wrong += (network(x.to(device)).argmax(1) != y.to(device)).sum()
    network.train(was_training)
    return float(wrong) / len(labels)
