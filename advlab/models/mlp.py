"""Fully connected classifiers: "softmax" (no hidden layer) and "FC" of the paper's section 2."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh}


class MLP(nn.Sequential):
    """Images [B, ...] → logits [B, k] through linear layers with one activation between them.

    Args:
        widths: number of inputs, of units per hidden layer, and of classes: ``(784, 10)`` is the softmax classifier.
        activation: ``sigmoid`` (the paper's), ``relu`` or ``tanh``.
        dropout: probability of dropping a hidden unit while training.
    """

    def __init__(self, widths: Sequence[int], activation: str = "sigmoid", dropout: float = 0.0) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            if i:
                layers.append(ACTIVATIONS[activation]())
                if dropout:
                    layers.append(nn.Dropout(dropout))
            layers.append(nn.Linear(fan_in, fan_out))
        super().__init__(*layers)


@torch.no_grad()
def initialise(network: nn.Module, scheme: str, generator: torch.Generator) -> None:
    """Draw the weights of all linear and convolutional layers; biases start at zero.

    ``glorot`` is uniform with variance 2/(fan_in + fan_out); ``wide`` is four times as wide, as the slope of a logistic
    sigmoid is at most ¼ (Deep Learning Tutorials, LISA lab, Montréal, 2008-2013); ``sparse`` gives each unit 15
    unit-normal incoming weights (Martens 2010, common for batch methods); ``kaiming`` is for ReLU networks.
    The last layer of a network without hidden layers starts at zero: its loss is convex.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers:
        weight = layer.weight
        match scheme:
            case "glorot":
                nn.init.xavier_uniform_(weight, generator=generator)
            case "wide":
                nn.init.xavier_uniform_(weight, gain=4, generator=generator)
            case "kaiming":
                nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
            case "sparse":
                _sparse(weight.view(len(weight), -1), generator)
            case _:
                raise ValueError(f"unknown initialisation {scheme!r}; choose glorot, wide, kaiming or sparse.")
        if layer.bias is not None:
            layer.bias.zero_()
    if len(layers) == 1:
        layers[0].weight.zero_()


def _sparse(weight: Tensor, generator: torch.Generator, connections: int = 15) -> None:
    weight.zero_()
    fan_in = weight.shape[1]
    for row in weight:
        chosen = torch.randperm(fan_in, generator=generator)[: min(connections, fan_in)]
        row[chosen] = torch.randn(len(chosen), generator=generator)
