"""Frame bounds of linear and convolutional layers: λ₋ and λ₊ of section 4.3, Table 5."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from advlab.analysis.extreme_singular_values import all_values, extremes
from advlab.analysis.paper_formula import printed_extremes
from advlab.analysis.symbol import BlockSymbol, polyphase
from advlab.errors import UserError, one_line

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Padding = Literal["circular", "zeros", "layer"]
LARGEST = 1 << 26
"""Most places of an input: frequencies, where the stride is 1."""


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
        UserError: another kind of layer, or one whose forward pass does more than multiply by its weight; weights that
            are absent, complex, sparse or not finite; a missing or impossible ``input_size``; an unknown ``padding``.

    Source: section 4.3.
    """
    if padding not in ("circular", "zeros", "layer"):
        raise UserError(f"padding {padding!r} is unknown; choose circular, zeros or layer.")
    if paper_literal and padding != "circular":
        raise UserError(f"the printed formula has no padding {padding!r}; leave it circular.")
    weight, scale = _weight(layer)
    if isinstance(layer, nn.Linear):
        symbol, factor = _matrix(weight), 1.0
    else:
        assert isinstance(layer, Convolution)
        size = _sizes(layer, input_size)
        if paper_literal:
            lower, upper = printed_extremes(weight, layer.stride, layer.dilation, layer.groups, size)
            return FrameBounds(scale * lower, scale * upper, torus(layer, size, weight).injective)
        padded, factor = _padded(layer, size, padding)
        symbol = torus(layer, padded, weight)
    exact = padding == "circular" or isinstance(layer, nn.Linear)
    lower, upper = extremes(symbol, need_lower=exact and not upper_only)
    return FrameBounds(scale * lower, scale * factor * upper, symbol.injective)


def singular_spectrum(layer: nn.Module, input_size: int | Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All distinct singular values of a layer with circular padding, ascending, with their multiplicities, for plots.

    Args and errors as in ``frame_bounds``. The absolute error is 1e-8 of the largest; for layers of more than 512
    channels on the smaller side 1e-3.
    """
    weight, scale = _weight(layer)
    symbol = torus(layer, _sizes(layer, input_size), weight) if isinstance(layer, Convolution) else _matrix(weight)
    values, counts = all_values(symbol)
    return scale * values, counts


def torus(layer: Convolution, size: Sequence[int], weight: Tensor | None = None) -> BlockSymbol:
    """The symbol of a convolution on the smallest torus that contains ``size`` and is divisible by the stride."""
    grid = tuple(-(-n // s) for n, s in zip(size, layer.stride, strict=True))
    return polyphase(layer.weight if weight is None else weight, layer.stride, layer.dilation, layer.groups, grid)


def _matrix(weight: Tensor) -> BlockSymbol:
    """A linear layer: one tap, one frequency."""
    return BlockSymbol(weight[None, None], torch.zeros(1, 1, dtype=torch.int64), (1,))


@torch.no_grad()
def _weight(layer: nn.Module) -> tuple[Tensor, float]:
    """What the next forward pass multiplies by, in double precision: divided by a power of two, and that power.

    The division keeps squares within range. Buffers, such as those of spectral normalisation, stay as they are.
    """
    name = type(layer).__name__
    kind = next((kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind)), None)
    if kind is None:
        raise UserError(f"a {name} has no frame bounds; pass an nn.Linear or an nn.Conv1d, 2d or 3d.")
    tensors = [*layer.parameters(), *layer.buffers()]
    if any(map(is_lazy, tensors)) or any(tensor.is_meta for tensor in tensors):
        raise UserError(f"the {name} has no weights yet; load them, or show it an image first.")
    kept = [(buffer, buffer.clone()) for buffer in layer.buffers()]
    try:
        weight = layer.weight if _is_plain(layer, kind) else _applied(layer, kind)
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
    assert isinstance(weight, Tensor)
    if weight.is_complex() or weight.is_quantized or weight.layout != torch.strided or not weight.numel():
        what = f"of type {weight.dtype} and layout {weight.layout}" if weight.numel() else "empty"
        raise UserError(f"the {name}'s weights are {what}; make them real and dense, such as float32.")
    weight = weight.detach().cpu().double()
    low, high = map(float, weight.aminmax())  # NaN if any weight is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"the {name}'s weights are not all finite; train it again.")
    scale = 2.0 ** max(-1074, math.frexp(max(-low, high))[1] - 1)
    return weight / scale, scale


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether nothing comes between a layer and its class's use of ``weight``."""
    is_own = getattr(layer.forward, "__func__", None) is not kind.forward
    is_own |= getattr(type(layer), "_conv_forward", None) is not getattr(kind, "_conv_forward", None)
    return not (is_own or layer._forward_hooks or layer._forward_pre_hooks)


def _applied(layer: Any, kind: Any) -> Tensor:
    """The weight of a layer with hooks or a forward pass of its own, as a pass leaves it; raises a UserError if the
    pass computes something else from it.
    """
    like = next(layer.parameters(), layer.weight)
    is_linear = kind is nn.Linear
    shape = (
        (layer.in_features,) if is_linear else (layer.in_channels, *(n + 4 * max(layer.stride) for n in _reach(layer)))
    )
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    reason = ""
    try:
        with parametrize.cached():
            found, weight = layer(images), layer.weight.detach().clone()
            own = functional.linear if is_linear else partial(kind._conv_forward, layer)
            expected = own(images, weight, layer.bias)
        tolerance = torch.finfo(weight.dtype).eps ** 0.5 * expected.abs().max()
        is_same = found.shape == expected.shape and (found - expected).abs().max() <= tolerance
        if is_same or not weight.isfinite().all():
            return cast(Tensor, weight)
    except Exception as error:  # whatever its own code raises
        reason = f" ({one_line(error)[:200]})"
    raise UserError(
        f"the {type(layer).__name__} has hooks or a forward pass of its own, and does more than multiply by its weight"
        f"{reason}; pass the plain layer that it amounts to."
    )


def _reach(layer: Convolution) -> list[int]:
    """How far a kernel extends beyond one place, per axis."""
    return [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]


def _sizes(layer: Convolution, input_size: Any) -> tuple[int, ...]:
    axes = len(layer.kernel_size)
    try:
        sizes = tuple(map(operator.index, [input_size] * axes if np.ndim(input_size) == 0 else input_size))
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != axes or min(sizes) < 1:
        example = ", ".join(["224"] * axes)
        raise UserError(
            f"input_size={input_size!r} does not fit a {type(layer).__name__}: "
            f"give {axes} positive integer{'s' * (axes > 1)}, such as ({example})."
        )
    if math.prod(sizes) > LARGEST:
        raise UserError(f"input_size={input_size!r} has more than {LARGEST:,} places; give a smaller one.")
    return sizes


def _padded(layer: Convolution, size: tuple[int, ...], padding: Padding) -> tuple[tuple[int, ...], float]:
    """The torus that contains a layer's padded input, and the norm of the map that pads."""
    if padding == "circular":
        return size, 1.0
    reach = _reach(layer)
    if isinstance(layer.padding, str):
        total = reach if layer.padding == "same" else [0] * len(reach)
        around = [-(-pad // 2) for pad in total]
    else:
        around = list(layer.padding)
        total = [2 * pad for pad in around]
    padded = tuple(n + pad for n, pad in zip(size, total, strict=True))
    if padding == "zeros" or layer.padding_mode == "zeros":
        return padded, 1.0
    axes = zip(size, total, reach, layer.stride, strict=True)
    divides = all(n == s * ((n + pad - extent - 1) // s + 1) for n, pad, extent, s in axes)
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
