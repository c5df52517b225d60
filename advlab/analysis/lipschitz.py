"""A Lipschitz bound of a whole network: the product of its layers' bounds along its graph (section 4.3)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from advlab.analysis.frames import frame_bounds
from advlab.analysis.layer_graph import Network, shape_of
from advlab.analysis.lipschitz_constants import UNBOUNDED, adaptive_averaging_factor, layer_factor, max_pool_factor

RESHAPING: set[Any] = {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.unsqueeze, torch.squeeze,
    "flatten", "view", "reshape", "permute", "transpose", "contiguous", "unsqueeze", "squeeze", "clone", "float",
}  # fmt: skip
CONTRACTIONS: set[Any] = {
    torch.relu, functional.relu, functional.relu6, functional.hardtanh, functional.dropout, functional.dropout2d,
    torch.tanh, functional.tanh, functional.softmax, torch.softmax, operator.neg, "relu", "relu_", "tanh", "softmax",
    operator.getitem,
}  # fmt: skip


def product_bounds(network: Network, known: Mapping[str, float] = MappingProxyType({})) -> dict[fx.Node, float]:
    """For every node an upper bound of the Lipschitz constant of the network from the image to it, in L2.

    A chain of layers multiplies their factors; a sum of branches adds their bounds; a concatenation takes the root of
    the sum of squares. A batch norm right after a convolution is fused with it. After an operation without a known
    factor, such as a product of two branches, the bound is infinite.

    Args:
        network: traced, in evaluation mode.
        known: upper frame bounds with the layers' own padding that are known already, by layer name.
    """
    layers = {layer.node: layer for layer in network.layers}
    bounds: dict[fx.Node, float] = {}

    def bound(argument: Any) -> float:
        return bounds[argument] if isinstance(argument, fx.Node) else 0.0

    def norm(module: nn.Module, shape: tuple[int, ...]) -> float:
        size = None if isinstance(module, nn.Linear) else shape[1:]
        return frame_bounds(module, size, padding="layer", upper_only=True).upper

    def fused(node: fx.Node) -> float | None:
        before: Any = node.args[0]
        if before not in layers or len(before.users) > 1 or isinstance(layers[before].module, nn.Linear):
            return None
        layer = layers[before]
        convolution, normalisation = layer.module.eval(), network.submodule(node)
        assert isinstance(convolution, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        assert isinstance(normalisation, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        module = fuse_conv_bn_eval(convolution, normalisation)
        return norm(module, layer.shape) * bound(before.args[0])

    for node in network.nodes:
        if node.op == "placeholder":
            bounds[node] = 1.0
        elif node.op == "get_attr":
            bounds[node] = 0.0
        elif node.op == "output":
            bounds[node] = bound(node.args[0])
        elif node in layers:
            layer = layers[node]
            own = known[layer.name] if layer.name in known else norm(layer.module, layer.shape)
            bounds[node] = own * bound(node.args[0])
        elif node.op == "call_module":
            module = network.submodule(node)
            together = fused(node) if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) else None
            if together is None:
                together = layer_factor(module, shape_of(node.args[0])) * bound(node.args[0])
            bounds[node] = together
        else:
            bounds[node] = _operation(network, node, bound)
    return bounds


def _operation(network: Network, node: fx.Node, bound: Callable[[Any], float]) -> float:
    """The bound at the result of a function or a method."""
    target, arguments = node.target, node.args
    if "tensor_meta" not in node.meta:  # a size or another plain value
        return 0.0
    if target in RESHAPING or target in CONTRACTIONS:
        return bound(arguments[0])
    if target in (operator.add, operator.iadd, operator.sub, torch.add, torch.sub, "add", "add_", "sub"):
        return bound(arguments[0]) + bound(arguments[1])
    if target in (torch.cat, torch.concat):
        return math.hypot(*map(bound, arguments[0]))  # type: ignore[arg-type]
    if target in (torch.mean, "mean"):
        averaged = math.prod(shape_of(arguments[0])) / math.prod(shape_of(node))
        return bound(arguments[0]) / math.sqrt(averaged)
    if target in (torch.sigmoid, functional.sigmoid, "sigmoid"):
        return bound(arguments[0]) / 4
    if target in (operator.mul, operator.imul, torch.mul, operator.truediv, torch.div, "mul", "div"):
        return _scaled(network, node, bound)
    if target is functional.max_pool2d:
        names = ("kernel_size", "stride", "padding", "dilation")
        settings = dict(zip(names, arguments[1:], strict=False)) | node.kwargs
        kernel = settings["kernel_size"]
        factor = max_pool_factor(kernel, settings.get("stride") or kernel, settings.get("dilation", 1), 2)
        return factor * bound(arguments[0])
    if target is functional.adaptive_avg_pool2d:
        return adaptive_averaging_factor(shape_of(arguments[0])[1:], shape_of(node)[1:]) * bound(arguments[0])
    return UNBOUNDED


def _scaled(network: Network, node: fx.Node, bound: Callable[[Any], float]) -> float:
    """A product with, or quotient by, a constant of the image."""
    left, right = (network.constant(argument) for argument in node.args[:2])
    if node.target in (operator.truediv, torch.div, "div"):
        return UNBOUNDED if right is None else bound(node.args[0]) / float(right.abs().min())
    if right is not None:
        return bound(node.args[0]) * float(right.abs().max())
    return UNBOUNDED if left is None else bound(node.args[1]) * float(left.abs().max())
