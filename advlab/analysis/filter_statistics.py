"""Two statistics per filter that tell localised edges from spots and noise: localisation and orientation."""

import torch
from torch import Tensor
from torch.nn import functional

_SPECTRUM = 32
"""Points of the spectrum along an axis."""


def localisation(filters: Tensor) -> Tensor:
    """[n]: the share of the energy of filters [n, C, K, K] in the best window of half their side, for noise about ¼."""
    energy = filters.square().sum(1, keepdim=True)
    windows = functional.avg_pool2d(energy, filters.shape[-1] // 2, 1, divisor_override=1)
    return windows.flatten(1).amax(1) / _positive(energy.flatten(1).sum(1))


def orientation(filters: Tensor) -> Tensor:
    """[n]: how far the spectrum P of filters [n, C, K, K] lies along one orientation, |Σ P exp(2iθ)| / Σ P: 0 for a
    round spot, 1 for bars.

    Measured on the spatial profile of the first singular pair of colours × positions, so that opponent colours count as
    one edge. The mean, and frequencies above half a cycle per pixel, which exist only along diagonals, are left out.
    """
    count, channels, side, _ = filters.shape
    profile = torch.linalg.svd(filters.reshape(count, channels, side * side), full_matrices=False)[2][:, 0]
    spectrum = torch.fft.fft2(profile.view(count, side, side), s=(_SPECTRUM, _SPECTRUM)).abs().square()
    frequencies = torch.fft.fftfreq(_SPECTRUM, dtype=filters.dtype)
    along, down = frequencies.expand(_SPECTRUM, -1), frequencies[:, None].expand(-1, _SPECTRUM)
    radius = torch.hypot(along, down)
    power = spectrum * ((radius > 0) & (radius <= 0.5))
    turn = torch.polar(torch.ones_like(radius), 2 * torch.atan2(down, along))
    return (power * turn).sum((1, 2)).abs() / _positive(power.sum((1, 2)))


def _positive(total: Tensor) -> Tensor:
    return total.clamp_min(torch.finfo(total.dtype).tiny)
