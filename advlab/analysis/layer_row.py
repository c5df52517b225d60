"""One row of Table 5, extended by other paddings and by the measured amplification of the network."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from advlab.analysis.amplification import jacobian_norms, layer_norm, pair_gains
from advlab.analysis.frames import frame_bounds, singular_spectrum
from advlab.analysis.layer_graph import Layer, Network

QUANTILES = 512
"""Points that a spectrum is reduced to."""


@dataclass(frozen=True, slots=True)
class LayerRow:
    """Frame bounds of one layer, and gains of the network from the image to the layer's output.

    Attributes:
        size: ``3 x 11 x 11 x 96``, inputs per group first.
        stride: of its first axis; 1 for a linear layer.
        input_size: of its input without channels, such as ``227 x 227``.
        lower, upper: smallest and largest singular value, circular padding.
        upper_padded: rigorous upper bound of the norm with the layer's own padding.
        norm_measured: lower bound of the same norm, by power iteration.
        printed_lower, printed_upper: values of the formula as printed in section 4.3.
        injective: whether ``lower`` is a frame bound rather than the smallest of min(outputs, inputs) values.
        jacobian_gain: largest ‖J‖₂ over the images (a lower bound).
        adversarial_gain: largest ‖φ(x') - φ(x)‖ / ‖x' - x‖ over the adversarial examples.
        spectrum: [QUANTILES] quantiles of the singular values, circular padding.
    """

    name: str
    kind: str
    size: str
    stride: int
    input_size: str
    lower: float
    upper: float
    upper_padded: float
    norm_measured: float
    printed_lower: float
    printed_upper: float
    injective: bool
    jacobian_gain: float
    adversarial_gain: float
    spectrum: np.ndarray


def measure_layer(
    network: Network, layer: Layer, images: Tensor, adversarial: Tensor, *, iterations: int, seed: int
) -> LayerRow:
    """Measure all columns of the row of one of ``network.layers``: Jacobians at images [B, C, H, W], by power
    iterations from directions of ``seed``, and gains from them to one adversarial example [B, C, H, W] of each.
    """
    module, size = layer.module, None if isinstance(layer.module, nn.Linear) else layer.shape[1:]
    circular = frame_bounds(module, size)
    stride = 1 if isinstance(module, nn.Linear) else module.stride[0]  # type: ignore[index]
    printed = frame_bounds(module, size, paper_literal=True) if stride != 1 else circular
    padded = circular if size is None else frame_bounds(module, size, padding="layer")
    until = network.until(layer.node)
    values, counts = singular_spectrum(module, size)
    jacobians = (jacobian_norms(until, image[None], iterations=iterations, seed=seed) for image in images)
    gains = pair_gains(until, images, adversarial)
    return LayerRow(
        name=layer.name,
        kind=type(module).__name__,
        size=layer_size(module),
        stride=int(stride),
        input_size=" x ".join(map(str, layer.shape[1:] or layer.shape)),
        lower=circular.lower,
        upper=circular.upper,
        upper_padded=padded.upper,
        norm_measured=layer_norm(module, layer.shape, seed=seed),
        printed_lower=printed.lower,
        printed_upper=printed.upper,
        injective=circular.injective,
        jacobian_gain=max(map(float, jacobians)),
        adversarial_gain=float(gains[~gains.isnan()].max()) if not gains.isnan().all() else math.nan,
        spectrum=_quantiles(values, counts),
    )


def layer_size(module: nn.Module) -> str:
    """The size in the notation of Table 5: inputs, kernel, outputs."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return " x ".join(map(str, (weight.shape[1], *weight.shape[2:], weight.shape[0])))


def _quantiles(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    share = np.cumsum(counts) / counts.sum()
    wanted = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return values[np.minimum(np.searchsorted(share, wanted), len(values) - 1)]


def probes(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """Images of uniform noise in [0, 1], for models without a data set."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
