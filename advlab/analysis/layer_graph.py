"""A network as a graph of layers with their input shapes, and the sub-network up to any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional

from advlab.errors import UserError, one_line

CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    functional.conv1d: nn.Conv1d,
    functional.conv2d: nn.Conv2d,
    functional.conv3d: nn.Conv3d,
}
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SHAPES: set[Any] = {"size", "dim", "numel", "shape", "ndim", "dtype", "device", torch.zeros_like, torch.ones_like}
"""What is asked of a tensor, as a method or an attribute, that does not depend on its entries."""


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
    """A traced network. ``model`` maps images [B, …] to logits, in evaluation mode; ``shape`` is that of one image.
    Raises a UserError if the model cannot be traced, or does not take images of that shape.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        kind = type(model).__name__
        if model._forward_hooks or model._forward_pre_hooks:
            raise UserError(f"the {kind} has forward hooks, which a trace leaves out; remove them, or hook its layers.")
        try:
            self.module = fx.symbolic_trace(model)
        except Exception as error:  # the model's own code may raise anything on a proxy
            what = f"the {kind} cannot be traced by torch.fx ({one_line(error).rstrip('.')})"
            raise UserError(f"{what}; pass a model whose forward pass does not depend on values.") from error
        device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
        try:
            with torch.no_grad():
                _Pass(self.module).run(torch.rand(1, *shape, device=device))
        except Exception as error:  # whatever its layers raise
            what = f"the {kind} does not take images of shape {list(shape)} ({one_line(error)[:200].rstrip('.')})"
            raise UserError(f"{what}; give its `input_size`.") from error
        self.nodes: list[fx.Node] = list(self.module.graph.nodes)  # in the order they are computed
        self.layers = [layer for node in self.nodes if (layer := self._layer(node)) is not None]

    def submodule(self, node: fx.Node) -> nn.Module:
        """What a ``call_module`` node calls."""
        return self.module.get_submodule(str(node.target))

    def constants(self, arguments: Any) -> Any:
        """A node's arguments, those that do not depend on the image as values; raises a KeyError if another does."""
        return map_arg(arguments, lambda node: node.meta["constant"])

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
        if not node.args:
            return None
        if node.op == "call_module" and isinstance(module := self.submodule(node), LAYERS):
            return Layer(str(node.target), module, shape_of(node.args[0]), node)
        if node.op != "call_function" or node.target not in (*CONVOLUTIONS, functional.linear):
            return None
        names = ("weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
        try:
            values = self.constants(given)
        except KeyError:  # computed from the image: not a linear layer
            return None
        source = given["weight"]
        is_named = isinstance(source, fx.Node) and source.op == "get_attr"
        name = str(source.target).removesuffix(".weight") if is_named else node.name  # type: ignore[union-attr]
        return Layer(name, _module(node.target, values["weight"], values), shape_of(node.args[0]), node)


class _Pass(fx.Interpreter):
    """One image through a graph, which leaves in every node's ``meta`` what its result is like.

    ``shape`` and ``floating`` of a tensor, ``is_tuple``; ``constant``, the result where it depends on no pixel;
    and ``written``, the earlier nodes whose tensors the node changed in place: True for those that are its result now.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        before = {node: _versions(value) for node, value in self.env.items()}
        result = super().run_node(n)
        written = [node for node, versions in before.items() if _versions(self.env[node]) != versions]
        n.meta["written"] = {node: _is_all_of(self.env[node], result) for node in written}
        n.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else ()
        n.meta["is_tuple"] = isinstance(result, tuple | list)
        n.meta["floating"] = any(part.is_floating_point() for part in _tensors(result))
        asked = n.args[1] if n.target is getattr else n.target
        is_constant = all("constant" in node.meta for node in n.all_input_nodes)
        is_constant |= n.op in ("call_method", "call_function") and asked in _SHAPES
        if n.op not in ("placeholder", "output") and is_constant:
            n.meta["constant"] = result
        for node in () if is_constant else written:
            node.meta.pop("constant", None)
        return result


def _tensors(value: Any) -> list[Tensor]:
    return [part for part in (value if isinstance(value, tuple | list) else [value]) if isinstance(part, Tensor)]


def _versions(value: Any) -> list[int]:
    return [part._version for part in _tensors(value)]


def _is_all_of(value: Any, result: Any) -> bool:
    """Whether a tensor has the entries of another, no more and no fewer, in the same memory."""
    if value is result or not (isinstance(value, Tensor) and isinstance(result, Tensor)):
        return value is result
    is_whole = value.is_contiguous() and result.is_contiguous() and value.numel() == result.numel()
    return is_whole and value.data_ptr() == result.data_ptr()


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of a node's output, without the batch axis."""
    return tuple(node.meta["shape"][1:])


def _module(function: Any, weight: Tensor, values: dict[str, Any]) -> nn.Module:
    """A layer equivalent to a functional call."""
    if function in CONVOLUTIONS:
        outputs, inputs, *kernel = weight.shape
        settings = {name: value for name, value in values.items() if name not in ("weight", "bias")}
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        inputs *= settings.get("groups", 1)
        layer: nn.Module = CONVOLUTIONS[function](inputs, outputs, tuple(kernel), bias=False, **settings)
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer
