"""Section 4.3's matrix A(ω) as printed: unnormalised, with aliases π/Δ apart; for comparison."""

import itertools
import math

import torch
from torch import Tensor

from advlab.analysis.symbol import CHUNK, polyphase


def printed_extremes(
    weight: Tensor,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    size: tuple[int, ...],
    *,
    aliases_apart: float = math.pi,
) -> tuple[float, float]:
    """Infimum and supremum over ω of the extreme singular values of A(ω)_f = (ŵ_cf(ω + lπ/Δ)), l in (0…Δ-1)^d.

    ω runs over a period of the printed matrix in as many steps as the output has pixels; for stride 1 these are the
    frequencies of the layer. With aliases 2π/Δ apart, the ones that a stride folds together, the result is Δ^(d/2)
    times the correct one, and the period is 2π/Δ.

    Args:
        weight: [F·G, C, k1, …, kd], of G groups.
        stride, dilation, size: Δ, the dilation, and the input's size, per axis.
        aliases_apart: π as printed, or 2π; divided by Δ.
    """
    axes = len(stride)
    unstrided = polyphase(weight, (1,) * axes, dilation, groups, size)
    folded = aliases_apart == 2 * math.pi
    steps = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    periods = [2 * math.pi / (s if folded else 1) for s in stride]
    grid = [period * torch.arange(n).double() / n for period, n in zip(periods, steps, strict=True)]
    angles = torch.cartesian_prod(*grid).view(-1, axes)
    shifts = [torch.arange(s).double() * aliases_apart / s for s in stride]
    aliases = [torch.stack(shift) for shift in itertools.product(*shifts)]
    entries = weight.numel() * len(aliases)
    low, high = math.inf, 0.0
    for part in angles.split(max(1, CHUNK // entries)):
        wide = torch.cat([unstrided.blocks(part + shift) for shift in aliases], dim=-1)
        gram = wide @ wide.mH if wide.shape[-2] <= wide.shape[-1] else wide.mH @ wide
        squares = torch.linalg.eigvalsh(gram)
        low, high = min(low, float(squares[..., 0].min())), max(high, float(squares[..., -1].max()))
    return math.sqrt(max(low, 0.0)), math.sqrt(high)
