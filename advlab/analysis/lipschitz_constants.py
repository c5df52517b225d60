"""Lipschitz constants, in L2, of the layers without frame bounds: activations, pooling, normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

UNBOUNDED = math.inf
"""The factor of operations that have none, or none that is known."""
CONTRACTIVE = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Identity, nn.Flatten, nn.Unflatten, nn.Softplus, nn.Softsign,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Softmax, nn.LogSigmoid,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
)  # fmt: skip
"""Layers of factor 1: slopes of at most 1, dropout (the identity in evaluation), padding by constants (keeps norms)."""
SMOOTH = {nn.Sigmoid: 0.25, nn.SiLU: 1.0998394, nn.GELU: 1.1289042, nn.Mish: 1.0885, nn.Hardswish: 1.5}
"""Largest slopes, rounded up."""


def layer_factor(layer: nn.Module, shape: Sequence[int]) -> float:
    """An upper bound of a layer's Lipschitz constant in evaluation mode; infinite where none is known.

    Args:
        layer: any module except linear layers and convolutions, whose factor is their upper frame bound.
        shape: of its input, [C, …] without the batch.
    """
    if isinstance(layer, CONTRACTIVE):
        return 1.0
    for kind, slope in SMOOTH.items():
        if isinstance(layer, kind):
            return slope
    for kinds, factor in _FACTORS:
        if isinstance(layer, kinds):
            return factor(layer, shape)
    return UNBOUNDED


def max_pool_factor(kernel: Any, stride: Any, dilation: Any, axes: int) -> float:
    """√(largest number of windows that contain an entry): 1 without overlap, 2 for AlexNet's 3 x 3 with stride 2.

    An entry can be the maximum of all its windows, so section 4.3's "contractive" only holds without overlap.
    """
    sizes = zip(_each(kernel, axes), _each(stride, axes), _each(dilation, axes), strict=True)
    return math.sqrt(math.prod(-(-k // (s // math.gcd(s, d))) for k, s, d in sizes))


def local_response_factor(size: int, beta: float, k: float) -> float:
    """k^-β (1 + 2β√n · β^β/(β+1)^(β+1)) bounds x_i / (k + α/n Σ_j x_j²)^β over n neighbours, for any α.

    With D the bracket, the Jacobian is D^-β on its diagonal, at most k^-β, less 2β(α/n) x_i x_j D^(-β-1) on n
    neighbours. As α/n times |x_i|·‖x_neighbours‖ is at most D - k, the latter maps v to entries of at most
    2β (D - k) D^(-β-1) ‖v_neighbours‖, greatest at D = k(β+1)/β, and Σ_i ‖v_neighbours‖² ≤ n‖v‖².
    """
    if k <= 0:
        return UNBOUNDED
    return k**-beta * (1 + 2 * beta * math.sqrt(size) * beta**beta / (beta + 1) ** (beta + 1))


def averaging_factor(pool: Callable[[Tensor], Tensor], sizes: Sequence[int]) -> float:
    """The norm of average pooling: the product over axes of the norms of explicit matrices.

    Args:
        pool: pools the last axis of [1, n, n] as the layer pools each of its axes.
        sizes: of the input's axes.
    """
    norms = [float(torch.linalg.matrix_norm(pool(torch.eye(n).double()[None])[0], 2)) for n in sizes]
    return math.prod(norms)


def adaptive_averaging_factor(sizes: Sequence[int], outputs: Sequence[int]) -> float:
    """The norm of adaptive average pooling from ``sizes`` to ``outputs``, axis by axis."""
    pairs = zip(sizes, outputs, strict=True)
    return math.prod(averaging_factor(nn.AdaptiveAvgPool1d(out), [n]) for n, out in pairs)


def _average(layer: Any, shape: Sequence[int]) -> float:
    sizes = shape[1:]
    axes = len(sizes)
    factor = 1.0
    settings = [_each(value, axes) for value in (layer.kernel_size, layer.stride, layer.padding)]
    for n, kernel, stride, padding in zip(sizes, *settings, strict=True):
        pool = nn.AvgPool1d(kernel, stride, padding, layer.ceil_mode, layer.count_include_pad)
        factor *= averaging_factor(pool, [n])
    divisor = getattr(layer, "divisor_override", None)
    return factor * math.prod(settings[0]) / divisor if divisor else factor


def _adaptive_average(layer: Any, shape: Sequence[int]) -> float:
    return adaptive_averaging_factor(shape[1:], _pooled(layer.output_size, shape[1:]))


def _adaptive_max(layer: Any, shape: Sequence[int]) -> float:
    sizes = shape[1:]
    wanted = _pooled(layer.output_size, sizes)
    # windows [⌊in/out⌋…] overlap by at most one entry while they shrink
    overlaps = [1 if n % out == 0 else -(-out // n) + 1 for n, out in zip(sizes, wanted, strict=True)]
    return math.sqrt(math.prod(overlaps))


def _batch_norm(layer: Any, _shape: Sequence[int]) -> float:
    if layer.running_var is None:
        return UNBOUNDED
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    return float((scale if layer.weight is None else scale * layer.weight.detach().double().abs()).max())


def _max_pool(layer: Any, shape: Sequence[int]) -> float:
    return max_pool_factor(layer.kernel_size, layer.stride, layer.dilation, len(shape) - 1)


def _leaky(layer: Any, _shape: Sequence[int]) -> float:
    slope = layer.weight.detach().abs().max() if isinstance(layer, nn.PReLU) else abs(layer.negative_slope)
    return max(1.0, float(slope))


_FACTORS: tuple[tuple[Any, Callable[[Any, Sequence[int]], float]], ...] = (
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _max_pool),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _adaptive_average),
    ((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), _adaptive_max),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    ((nn.LocalResponseNorm,), lambda layer, _shape: local_response_factor(layer.size, layer.beta, layer.k)),
    ((nn.LeakyReLU, nn.PReLU), _leaky),
    ((nn.ELU, nn.CELU), lambda layer, _shape: max(1.0, layer.alpha)),
)


def _pooled(output_size: Any, sizes: Sequence[int]) -> list[int]:
    """An adaptive layer's output sizes; None keeps the input's."""
    return [out or n for n, out in zip(sizes, _each(output_size, len(sizes)), strict=True)]


def _each(value: Any, axes: int) -> list[int]:
    return list(value) if isinstance(value, Sequence) else [value] * axes
