"""A network as a graph of layers with their input shapes, and the sub-network up to any of them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from advlab.errors import UserError, one_line

CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    torch.conv1d: nn.Conv1d, torch.conv2d: nn.Conv2d, torch.conv3d: nn.Conv3d,
    functional.conv1d: nn.Conv1d, functional.conv2d: nn.Conv2d, functional.conv3d: nn.Conv3d,
}  # fmt: skip
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer or convolution at its place in a network.

    Attributes:
        name: its module name in the network.
        module: the layer itself; for a functional call, a module of the same weights and settings.
        shape: of its input, without the batch.
        node: its node in the graph.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    node: fx.Node


class Network:
    """A traced network.

    Args:
        model: images [B, …] → logits, in evaluation mode.
        shape: of one image.

    Raises:
        UserError: the model cannot be traced, or does not take images of that shape.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        try:
            self.module = fx.symbolic_trace(model)
        except Exception as error:  # the model's own code may raise anything on a proxy
            raise UserError(
                f"the {type(model).__name__} cannot be traced by torch.fx ({one_line(error).rstrip('.')}); "
                "pass a model whose forward pass does not depend on values."
            ) from error
        device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
        try:
            with torch.no_grad():
                ShapeProp(self.module).propagate(torch.rand(1, *shape, device=device))
        except RuntimeError as error:
            raise UserError(
                f"the {type(model).__name__} does not take images of shape {list(shape)} "
                f"({one_line(error.__cause__ or error)[:200].rstrip('.')}); give its `input_size`."
            ) from error
        self.layers = [layer for node in self.nodes if (layer := self._layer(node)) is not None]

    @property
    def nodes(self) -> list[fx.Node]:
        """In the order they are computed."""
        return list(self.module.graph.nodes)

    def submodule(self, node: fx.Node) -> nn.Module:
        """What a ``call_module`` node calls."""
        return self.module.get_submodule(str(node.target))

    def constant(self, argument: Any) -> Tensor | None:
        """The value of an argument that does not depend on the image, None for one that does."""
        if isinstance(argument, fx.Node):
            if argument.op != "get_attr":
                return None
            return operator.attrgetter(str(argument.target))(self.module)
        return torch.as_tensor(argument)

    def until(self, node: fx.Node) -> Callable[[Tensor], Tensor]:
        """The sub-network from the image to the output of a node."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for each in self.nodes:
            copies[each] = graph.node_copy(each, lambda old: copies[old])
            if each is node:
                break
        graph.output(copies[node])
        module = fx.GraphModule(self.module, graph).eval()
        module.graph.eliminate_dead_code()
        module.recompile()
        return module

    def _layer(self, node: fx.Node) -> Layer | None:
        if node.op == "call_module" and isinstance(module := self.submodule(node), LAYERS):
            return Layer(str(node.target), module, shape_of(node.args[0]), node)
        if node.op != "call_function" or node.target not in (*CONVOLUTIONS, functional.linear, torch._C._nn.linear):
            return None
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        values = dict(zip(names, node.args, strict=False)) | node.kwargs
        weight = self.constant(values["weight"])
        if weight is None:  # computed from the image: not a linear layer
            return None
        name = str(getattr(values["weight"], "target", node.name)).removesuffix(".weight")
        return Layer(name, _module(node.target, weight, values), shape_of(values["input"]), node)


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of a node's output, without the batch axis."""
    return tuple(node.meta["tensor_meta"].shape[1:])


def _module(function: Any, weight: Tensor, values: dict[str, Any]) -> nn.Module:
    """A layer equivalent to a functional call."""
    if function in CONVOLUTIONS:
        groups = values.get("groups", 1)
        settings = {
            name: values.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
        }
        layer: nn.Module = CONVOLUTIONS[function](
            weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), bias=False, groups=groups,
            **{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()},
        )  # fmt: skip
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer
