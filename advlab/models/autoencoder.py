"""A classifier on top of a sparse autoencoder: "AE" of the paper's section 2, AE400-10 of its Table 1."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class AutoencoderClassifier(nn.Module):
    """Images [B, ...] → sigmoid code [B, units] → logits [B, k]: the encoder is trained without labels to reconstruct
    its input and then frozen; the decoder is kept for inspection.
    """

    def __init__(self, inputs: int, units: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, units)
        self.decoder = nn.Linear(units, inputs)
        self.classifier = nn.Linear(units, classes)

    def encode(self, images: Tensor) -> Tensor:
        """[B, ...] → sigmoid code [B, units] in (0, 1)."""
        return torch.sigmoid(self.encoder(images.flatten(1)))

    def decode(self, code: Tensor) -> Tensor:
        """[B, units] → reconstruction logits [B, inputs]; their sigmoid is the reconstructed intensity."""
        return self.decoder(code)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.encode(images))

    def reconstruction_loss(self, images: Tensor, sparsity: float, sparsity_weight: float) -> Tensor:
        """Cross entropy of the pixels per image, a scalar, plus the sparsity penalty: KL(ρ ‖ ρ̂_j) summed over units,
        ρ̂_j being unit j's mean activation over the batch (Lee, Ekanadham & Ng 2008).
        """
        flat = images.flatten(1)
        code = self.encode(flat)
        pixels = functional.binary_cross_entropy_with_logits(self.decode(code), flat, reduction="sum") / len(flat)
        mean = code.mean(0).clamp(1e-6, 1 - 1e-6)
        divergence = sparsity * (sparsity / mean).log() + (1 - sparsity) * ((1 - sparsity) / (1 - mean)).log()
        return pixels + sparsity_weight * divergence.sum()
