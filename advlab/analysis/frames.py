"""Frame bounds of linear and convolutional layers: λ₋ and λ₊ of section 4.3, Table 5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from advlab.analysis.extreme_singular_values import all_values, extremes
from advlab.analysis.paper_formula import printed_extremes
from advlab.analysis.symbol import BlockSymbol, polyphase
from advlab.errors import UserError

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Padding = Literal["circular", "zeros", "layer"]


@dataclass(frozen=True, slots=True)
class FrameBounds:
    """The extreme singular values of a linear map.

    Attributes:
        lower: the smallest of the min(outputs, inputs) singular values; 0.0 if only an upper bound was asked for.
        upper: the largest, the operator norm; an upper bound of it for ``padding`` other than ``circular``.
        injective: whether there are at least as many outputs as inputs. If not, there is no lower frame bound
            A‖x‖ ≤ ‖Wx‖ with A > 0, and ``lower`` is still the smallest singular value, as for FC. 1 in Table 5.
    """

    lower: float
    upper: float
    injective: bool


def frame_bounds(
    layer: nn.Module,
    input_size: int | Sequence[int] | None = None,
    *,
    padding: Padding = "circular",
    upper_only: bool = False,
    paper_literal: bool = False,
) -> FrameBounds:
    """The smallest and the largest singular value of a layer's linear map (its bias is left out).

    With ``circular`` padding both are exact, to 1e-9 relative; an input size that is not a multiple of the stride is
    rounded up to the next one. The other two paddings give a rigorous upper bound for the layer on images: the layer is
    a restriction of the circular one on a torus large enough for the padding, and a restriction has no larger norm.

    Args:
        layer: ``nn.Linear``, or ``nn.Conv1d``, ``Conv2d``, ``Conv3d`` of any stride, dilation and groups.
        input_size: the input's height and width (one number per spatial axis, or one for all); not for ``nn.Linear``.
        padding: ``circular``; ``zeros``, the layer with zeros around its input, as wide as ``layer.padding``;
            or ``layer``, its own ``padding_mode``.
        upper_only: skip the smallest (0.0), which is two to six times faster; implied by the other two paddings.
        paper_literal: use the formula as printed in section 4.3, for comparison; see docs/ERRATA.md.

    Raises:
        UserError: an unsupported layer, a missing or impossible ``input_size``, an unknown ``padding``, or weights
            that are not finite.

    Source: section 4.3.
    """
    if padding not in ("circular", "zeros", "layer"):
        raise UserError(f"padding {padding!r} is unknown; choose circular, zeros or layer.")
    if paper_literal and padding != "circular":
        raise UserError(f"the printed formula has no padding {padding!r}; leave it circular.")
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise UserError(f"a {type(layer).__name__} has no frame bounds; pass an nn.Linear or an nn.Conv1d, 2d or 3d.")
    if not layer.weight.isfinite().all():
        raise UserError(f"the {type(layer).__name__}'s weights are not all finite; train it again.")
    if isinstance(layer, nn.Linear):
        symbol, factor = _matrix(layer.weight), 1.0
    else:
        size = _sizes(layer, input_size)
        if paper_literal:
            lower, upper = printed_extremes(layer.weight, layer.stride, layer.dilation, layer.groups, size)
            return FrameBounds(lower, upper, torus(layer, size).injective)
        padded, factor = _padded(layer, size, padding)
        symbol = torus(layer, padded)
    exact = padding == "circular" or isinstance(layer, nn.Linear)
    lower, upper = extremes(symbol, need_lower=exact and not upper_only)
    return FrameBounds(lower, factor * upper, symbol.injective)


def singular_spectrum(layer: nn.Module, input_size: int | Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All distinct singular values of a layer with circular padding, ascending, with their multiplicities, for plots.

    Args and errors as in ``frame_bounds``. The absolute error is 1e-8 of the largest; for layers of more than 512
    channels on the smaller side 1e-3.
    """
    if isinstance(layer, nn.Linear):
        return all_values(_matrix(layer.weight))
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise UserError(f"a {type(layer).__name__} has no spectrum; pass an nn.Linear or an nn.Conv1d, 2d or 3d.")
    return all_values(torus(layer, _sizes(layer, input_size)))


def torus(layer: Convolution, size: Sequence[int]) -> BlockSymbol:
    """The symbol of a convolution on the smallest torus that contains ``size`` and is divisible by the stride."""
    grid = tuple(-(-n // s) for n, s in zip(size, layer.stride, strict=True))
    return polyphase(layer.weight, layer.stride, layer.dilation, layer.groups, grid)


def _matrix(weight: Tensor) -> BlockSymbol:
    """A linear layer: one tap, one frequency."""
    return BlockSymbol(weight.detach().cpu().double()[None, None], torch.zeros(1, 1, dtype=torch.int64), (1,))


def _sizes(layer: Convolution, input_size: int | Sequence[int] | None) -> tuple[int, ...]:
    axes = layer.weight.ndim - 2
    sizes = (input_size,) * axes if isinstance(input_size, int) else tuple(input_size or ())
    if len(sizes) != axes or not all(isinstance(size, int) and size > 0 for size in sizes):
        example = ", ".join(["224"] * axes)
        raise UserError(
            f"input_size={input_size!r} does not fit a {type(layer).__name__}: "
            f"give {axes} positive integer{'s' * (axes > 1)}, such as ({example})."
        )
    return sizes


def _padded(layer: Convolution, size: tuple[int, ...], padding: Padding) -> tuple[tuple[int, ...], float]:
    """The torus that contains a layer's padded input, and the norm of the map that pads."""
    if padding == "circular":
        return size, 1.0
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if isinstance(layer.padding, str):
        total = reach if layer.padding == "same" else [0] * len(reach)
        around = [-(-pad // 2) for pad in total]
    else:
        around = list(layer.padding)
        total = [2 * pad for pad in around]
    padded = tuple(n + pad for n, pad in zip(size, total, strict=True))
    if padding == "zeros" or layer.padding_mode == "zeros":
        return padded, 1.0
    steps = [
        (n + pad - extent - 1) // s + 1 for n, pad, extent, s in zip(size, total, reach, layer.stride, strict=True)
    ]
    divides = all(n == s * step for n, s, step in zip(size, layer.stride, steps, strict=True))
    if layer.padding_mode == "circular" and divides:
        return size, 1.0  # it is the torus itself
    # Padding repeats each entry a number of times along each axis; the root of the product of these is its norm.
    copies = {
        "circular": lambda n, pad: 1 + -(-2 * pad // n),
        "reflect": lambda n, pad: 2 if 2 * pad < n - 1 else 3,
        "replicate": lambda n, pad: 1 + pad if n > 1 else 1 + 2 * pad,
    }[layer.padding_mode]
    repeated = math.prod(copies(n, pad) if pad else 1 for n, pad in zip(size, around, strict=True))
    return padded, math.sqrt(repeated)
