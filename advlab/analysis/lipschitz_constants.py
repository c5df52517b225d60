"""Lipschitz constants, in L2, of the layers without frame bounds: activations, pooling, normalisation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

UNBOUNDED = math.inf
"""The factor of operations that have none, or none that is known."""
STEPS, FEWEST, ENTRIES = 512, 16, 1 << 26
"""Most steps towards the norm of a map, and fewest; so many entries between those. Its bound is rigorous after each."""


def layer_factor(layer: nn.Module, shape: Sequence[int]) -> float:
    """An upper bound of a layer's Lipschitz constant in its mode of evaluation or training, infinite if none is known;
    not for linear layers and convolutions, which have frame bounds. ``shape`` is that of its input, [C, …].
    """
    kind = next((kind for kind in type(layer).__mro__ if kind in _FACTORS), None)
    if kind is None or getattr(layer.forward, "__func__", None) is not kind.forward:
        return UNBOUNDED
    factor = _FACTORS[kind]
    return factor(layer, shape) if callable(factor) else factor


def nonnegative_factor(function: Callable[[Tensor], Any], shape: Sequence[int]) -> float:
    """The norm of a linear map A without negative coefficients, or with no positive one, from above.

    For any positive v the largest (AᵀAv)ᵢ / vᵢ bounds the largest eigenvalue of AᵀA (Collatz and Wielandt), and it
    sinks towards that as v follows the power iteration. ``function`` is the map plus a constant, from a tensor of
    ``shape`` to a tensor or a tuple of tensors.
    """

    def values(vector: Tensor) -> Tensor:
        found = function(vector)
        return found.flatten() if isinstance(found, Tensor) else torch.cat([part.flatten() for part in found])

    vector, square = torch.ones(tuple(shape), dtype=torch.float64), UNBOUNDED
    with torch.enable_grad():
        constant = values(torch.zeros_like(vector))
        for _ in range(min(STEPS, max(FEWEST, ENTRIES // max(1, vector.numel())))):
            leaf = vector.requires_grad_()
            (image,) = torch.autograd.grad((values(leaf) - constant).square().sum() / 2, leaf)  # AᵀA v
            before, square = square, min(square, float((image / vector.detach()).max()))
            if square == 0 or square >= before * (1 - 1e-14):
                break
            vector = image / image.max() + 1e-30
    return math.sqrt(square)


def max_pool_factor(kernel: Any, stride: Any, dilation: Any, axes: int) -> float:
    """√(largest number of windows that contain an entry): 1 without overlap, 2 for AlexNet's 3 x 3 with stride 2.

    An entry can be the maximum of all its windows, so section 4.3's "contractive" only holds without overlap.
    """
    sizes = zip(_each(kernel, axes), _each(stride, axes), _each(dilation, axes), strict=True)
    return math.sqrt(math.prod(-(-k // (s // math.gcd(s, d))) for k, s, d in sizes))


def local_response_factor(size: int, beta: float, k: float) -> float:
    """k^-β (1 + 2β√n · β^β/(β+1)^(β+1)) bounds x_i / (k + α/n Σ_j x_j²)^β over n neighbours, whatever α ≥ 0.

    With D the bracket, the Jacobian is D^-β on its diagonal, at most k^-β, less 2β(α/n) x_i x_j D^(-β-1) on n
    neighbours. As α/n times |x_i|·‖x_neighbours‖ is at most D - k, the latter maps v to entries of at most
    2β (D - k) D^(-β-1) ‖v_neighbours‖, greatest at D = k(β+1)/β, and Σ_i ‖v_neighbours‖² ≤ n‖v‖².
    """
    if k <= 0:
        return UNBOUNDED
    return k**-beta * (1 + 2 * beta * math.sqrt(size) * beta**beta / (beta + 1) ** (beta + 1))


def _whole(layer: Any, shape: Sequence[int]) -> float:
    return UNBOUNDED if getattr(layer, "mode", "") == "bicubic" else nonnegative_factor(layer, (1, *shape))


def _adaptive_max(layer: Any, shape: Sequence[int]) -> float:
    sizes = shape[1:]
    wanted = [out or n for n, out in zip(sizes, _each(layer.output_size, len(sizes)), strict=True)]
    # windows [⌊in/out⌋…] overlap by at most one entry while they shrink
    overlaps = [1 if n % out == 0 else -(-out // n) + 1 for n, out in zip(sizes, wanted, strict=True)]
    return math.sqrt(math.prod(overlaps))


def _batch_norm(layer: Any, _shape: Sequence[int]) -> float:
    if layer.running_var is None or layer.training:
        return UNBOUNDED
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    return float((scale if layer.weight is None else scale * layer.weight.detach().double().abs()).max())


def _max_pool(layer: Any, shape: Sequence[int]) -> float:
    return max_pool_factor(layer.kernel_size, layer.stride, layer.dilation, len(shape) - 1)


def _dropout(layer: Any, _shape: Sequence[int]) -> float:
    if not layer.training:
        return 1.0
    is_scaling = layer.p < 1 and not isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout)
    return 1 / (1 - layer.p) if is_scaling else UNBOUNDED


_FACTORS: dict[type[nn.Module], float | Callable[[Any, Sequence[int]], float]] = {
    # slopes of at most 1; padding by constants keeps norms
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Identity, nn.Flatten, nn.Unflatten, nn.Softsign), 1.0),
    **dict.fromkeys((nn.Softmax, nn.LogSigmoid, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), 1.0),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), 1.0),
    **dict.fromkeys((nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle), 1.0),
    # largest slopes, rounded up
    nn.Sigmoid: 0.25, nn.SiLU: 1.0998394, nn.Mish: 1.0884982, nn.Hardswish: 1.5, nn.Hardsigmoid: 0.1666667,
    nn.SELU: 1.7580994,
    nn.GELU: lambda layer, _shape: {"none": 1.1289042, "tanh": 1.1289931}.get(layer.approximate, UNBOUNDED),
    nn.LeakyReLU: lambda layer, _shape: max(abs(layer.negative_slope), 1.0),
    nn.PReLU: lambda layer, _shape: max(float(layer.weight.detach().abs().max()), 1.0),
    nn.RReLU: lambda layer, _shape: max(abs(layer.lower), abs(layer.upper), 1.0),
    nn.ELU: lambda layer, _shape: max(abs(layer.alpha), 1.0),
    nn.CELU: lambda layer, _shape: 1.0 if layer.alpha > 0 else UNBOUNDED,
    # below that threshold, it jumps where it becomes linear
    nn.Softplus: lambda layer, _shape: 1.0 if layer.beta > 0 and layer.threshold >= 20 else UNBOUNDED,
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _dropout),
    **dict.fromkeys((nn.AlphaDropout, nn.FeatureAlphaDropout), _dropout),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _max_pool),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), _adaptive_max),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    nn.LocalResponseNorm: lambda layer, _shape: (
        local_response_factor(layer.size, layer.beta, layer.k) if min(layer.alpha, layer.beta) >= 0 else UNBOUNDED
    ),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Upsample, nn.Unfold, nn.Fold), _whole),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _whole),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), _whole),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), _whole),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), _whole),
}  # fmt: skip


def _each(value: Any, axes: int) -> list[int]:
    return list(value) if isinstance(value, Sequence) else [value] * axes
