"""A Lipschitz bound of a whole network: the product of its layers' bounds along its graph (section 4.3)."""

import copy
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from advlab.analysis.frames import frame_bounds
from advlab.analysis.layer_graph import Network, shape_of
from advlab.analysis.lipschitz_constants import UNBOUNDED, layer_factor, nonnegative_factor

NONNEGATIVE: set[Any] = {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.unsqueeze, torch.squeeze, torch.movedim,
    torch.mean, torch.sum, torch.chunk, torch.split, torch.unbind, torch.flip, torch.roll, torch.tile, torch.narrow,
    torch.select, torch.index_select, torch.repeat_interleave, torch.broadcast_to, operator.getitem,
    functional.pad, functional.interpolate, functional.pixel_shuffle, functional.pixel_unshuffle,
    functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d, functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d,
    "flatten", "view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "movedim", "unflatten", "contiguous",
    "clone", "float", "double", "to", "mean", "sum", "chunk", "split", "unbind", "flip", "roll", "tile", "narrow",
    "select", "index_select", "repeat_interleave", "repeat", "expand",
}  # fmt: skip
"""Linear in the tensor, with coefficients of 0 or more, plus a constant."""
CONTRACTIONS: set[Any] = {
    operator.neg, torch.neg, "neg", torch.abs, "abs", torch.clamp, "clamp", torch.clip, "detach",
    torch.softmax, functional.softmax, "softmax", "clamp_",
}  # fmt: skip
MODULES: dict[Any, Callable[..., nn.Module]] = {
    torch.relu: nn.ReLU, functional.relu: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU, functional.relu6: nn.ReLU6,
    functional.hardtanh: nn.Hardtanh, torch.tanh: nn.Tanh, functional.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid, functional.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid, functional.gelu: nn.GELU,
    functional.silu: nn.SiLU, functional.mish: nn.Mish, functional.hardswish: nn.Hardswish, functional.elu: nn.ELU,
    functional.hardsigmoid: nn.Hardsigmoid, functional.celu: nn.CELU, functional.selu: nn.SELU,
    functional.leaky_relu: nn.LeakyReLU, functional.softplus: nn.Softplus, functional.max_pool1d: nn.MaxPool1d,
    functional.max_pool2d: nn.MaxPool2d, functional.max_pool3d: nn.MaxPool3d,
    functional.local_response_norm: nn.LocalResponseNorm,
}  # fmt: skip
"""Modules that do what these do, with the same arguments after the tensor."""
DROPOUT = {functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d}
JOINS = {torch.cat, torch.concat, torch.stack}
SUMS: set[Any] = {
    operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, "add", "add_", "sub", "sub_",
}  # fmt: skip
QUOTIENTS: set[Any] = {operator.truediv, operator.itruediv, torch.div, "div", "div_"}
PRODUCTS: set[Any] = {operator.mul, operator.imul, torch.mul, "mul", "mul_", *QUOTIENTS}


def product_bounds(network: Network, known: Mapping[fx.Node, float] = MappingProxyType({})) -> dict[fx.Node, float]:
    """For every node an upper bound of the Lipschitz constant of the network from the image to it, in L2.

    A chain of layers multiplies their factors; a sum of branches adds their bounds; a concatenation takes the root of
    the sum of squares. A batch norm right after a convolution is fused with it. After an operation without a known
    factor, such as a product of two branches, the bound is infinite.

    ``known`` are upper frame bounds with the layers' own padding that are known already, by the layer's node. Raises a
    UserError for a layer that has no frame bounds.
    """
    bounds = _Bounds(network, known)
    found: dict[fx.Node, float] = {}
    for node in network.nodes:
        value = bounds.of_result(node)
        found[node] = bounds.held[node] = UNBOUNDED if math.isnan(value) else value
        for earlier, is_result in node.meta["written"].items():
            bounds.held[earlier] = found[node] if is_result else UNBOUNDED
    return found


class _Bounds:
    """The bounds of what each node's memory holds by now: operations in place change it."""

    def __init__(self, network: Network, known: Mapping[fx.Node, float]) -> None:
        self.network, self.known = network, known
        self.layers = {layer.node: layer for layer in network.layers}
        self.held: dict[fx.Node, float] = {}
        self.into: dict[fx.Node, float] = {}  # at what a layer was given, by layer

    def of_result(self, node: fx.Node) -> float:
        """The bound at what a node computes."""
        if node.op == "placeholder" or "constant" in node.meta:
            return float(node.op == "placeholder")
        target = None if node.op == "call_module" else node.target  # modules may have any name
        if node.op == "output" or (target in JOINS and node.kwargs.keys() <= {"dim", "axis"}):
            found: list[float] = []
            map_arg(node.args[:1], lambda each: found.append(self.held[each]))
            return math.hypot(*found)
        if not node.args or not node.meta["floating"]:  # a class or a mask jumps
            return UNBOUNDED
        if target in SUMS:
            return self._sum(node)
        if target in PRODUCTS:
            return self._product(node)
        first = node.args[0]
        try:
            rest, options = self.network.constants((node.args[1:], node.kwargs))
        except KeyError:
            return UNBOUNDED
        if not isinstance(first, fx.Node) or "constant" in first.meta:
            return UNBOUNDED
        if self.held[first] == 0:
            return 0.0
        if node in self.layers:
            layer, self.into[node] = self.layers[node], self.held[first]
            return self.into[node] * (self.known[node] if node in self.known else _norm(layer.module, layer.shape))
        if target is not None:
            return _operation(node, first, rest, options) * self.held[first]
        module = self.network.submodule(node)
        if (together := self._fused(first, module)) is not None:
            return together
        is_plain = not (rest or options or _hooks(module))
        return (layer_factor(module, shape_of(first)) if is_plain else UNBOUNDED) * self.held[first]

    def _fused(self, node: fx.Node, normalisation: nn.Module) -> float | None:
        """The bound after a batch norm that follows a convolution, node."""
        convolution = self.layers[node].module if node in self.layers else None
        if (
            isinstance(convolution, nn.Conv1d | nn.Conv2d | nn.Conv3d)
            and isinstance(normalisation, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
            and type(convolution) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
            and node in self.into
            and not (_hooks(convolution) or _hooks(normalisation) or normalisation.training or len(node.users) > 1)
            and normalisation.running_var is not None
        ):
            module = fuse_conv_bn_eval(copy.copy(convolution).eval(), normalisation)
            return _norm(module, self.layers[node].shape) * self.into[node]
        return None

    def _spread(self, argument: Any, node: fx.Node) -> float:
        """The bound of an argument that is broadcast to a node's shape."""
        if not isinstance(argument, fx.Node) or self.held[argument] == 0:
            return 0.0
        copies = math.prod(node.meta["shape"]) / max(1, math.prod(argument.meta["shape"]))
        return self.held[argument] * math.sqrt(max(1.0, copies))

    def _sum(self, node: fx.Node) -> float:
        if len(node.args) != 2 or not node.kwargs.keys() <= {"alpha"}:
            return UNBOUNDED
        scale: Any = node.kwargs.get("alpha", 1)
        if isinstance(scale, fx.Node):
            return UNBOUNDED
        return self._spread(node.args[0], node) + abs(scale) * self._spread(node.args[1], node)

    def _product(self, node: fx.Node) -> float:
        """A product with, or quotient by, what does not depend on the image."""
        if len(node.args) != 2 or node.kwargs:
            return UNBOUNDED
        varying, other = node.args
        if isinstance(other, fx.Node) and "constant" not in other.meta and node.target not in QUOTIENTS:
            varying, other = other, varying
        try:
            size = torch.as_tensor(self.network.constants(other)).detach().double().abs()
        except KeyError:
            return UNBOUNDED
        largest = float((1 / size if node.target in QUOTIENTS else size).max())
        return largest * self._spread(varying, node)


def _norm(module: nn.Module, shape: tuple[int, ...]) -> float:
    size = None if isinstance(module, nn.Linear) else shape[1:]
    return frame_bounds(module, size, padding="layer", upper_only=True).upper


def _hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _operation(node: fx.Node, first: fx.Node, rest: Any, options: Any) -> float:
    """The factor of a function or a method, whose other arguments do not depend on the image."""
    target, shape = node.target, first.meta["shape"]
    if target in CONTRACTIONS or (target is operator.getitem and first.meta["is_tuple"]):
        return 1.0
    try:
        if target in DROPOUT:
            return _dropout(*rest, **options)
        if target in MODULES:
            return layer_factor(MODULES[target](*rest, **options), shape[1:])
        if target in NONNEGATIVE and "bicubic" not in map(str, (*rest, *options.values())):
            function: Any = getattr(torch.Tensor, str(target)) if node.op == "call_method" else target
            return nonnegative_factor(lambda x: function(x, *rest, **options), shape)
    except Exception:  # arguments that the module does not take, or types that have no gradient
        return UNBOUNDED
    return UNBOUNDED


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> float:  # noqa: ARG001
    """As in ``torch.nn.functional``, where training is the default."""
    return layer_factor(nn.Dropout(p).train(training), ())
