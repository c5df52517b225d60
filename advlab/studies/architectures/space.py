"""The search space of a sweep: architectures × weight decay per layer × seeds; each point gives a recipe."""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import zoo
from advlab.models.recipe import Recipe

ACTIVATIONS = {"sigmoid": "fc", "relu": "relu"}
"""Prefixes of zoo names by activation."""
_ARCHITECTURE = re.compile(r"softmax|(?:fc|relu)\d+(?:-\d+)+|conv")
_DIGITS = 3
"""Significant digits of a random weight decay: few enough to be given in full in a model's name."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model of a sweep, except its budget: a zoo name, λ per layer, and the seed."""

    architecture: str
    decays: tuple[float, ...]
    seed: int

    @property
    def name(self) -> str:
        """Short and unique within a sweep: ``fc100-100-10λ1e-5#3``, with every layer's λ if they differ."""
        names = [_short(decay) for decay in self.decays]
        return f"{self.architecture}λ{names[0] if len(set(names)) == 1 else '_'.join(names)}#{self.seed}"

    def recipe(self, dataset: Dataset, *, epochs: int, max_iterations: int) -> Recipe:
        """The recipe on ``dataset``, with the budget of minibatch or of full-batch training."""
        base = _base(self.architecture, dataset, self.seed)
        budget = {"epochs": epochs} if base.trainer == zoo.MINIBATCH else {"max_iterations": max_iterations}
        arguments = {**base.trainer_arguments, "weight_decay": list(self.decays), **budget}
        return replace(base, name=self.name, trainer_arguments=arguments)


@dataclass(frozen=True, slots=True)
class Space:
    """The search space of a sweep.

    Attributes:
        architectures: number of layers with weights, by name.
        decays: λs of a grid; other searches draw log-uniformly between the smallest and the largest.
        per_layer: whether every layer has its own λ.
    """

    architectures: dict[str, int]
    decays: tuple[float, ...]
    per_layer: bool
    seeds: tuple[int, ...]

    def grid(self) -> list[Point]:
        """Every architecture with every λ (all combinations if each layer has its own) and seed."""
        points: list[Point] = []
        for architecture, layers in self.architectures.items():
            free = layers if self.per_layer else 1
            for decays in product(self.decays, repeat=free):
                points += self._seeded(architecture, decays if self.per_layer else decays * layers)
        return points

    def random(self, count: int, seed: int) -> list[Point]:
        """``count`` random points, architectures uniform and λ log-uniform."""
        generator = np.random.default_rng(seed)
        names, (low, high) = list(self.architectures), self.bounds
        points: dict[str, Point] = {}
        while len(points) < count:
            architecture = names[generator.integers(len(names))]
            layers = self.architectures[architecture]
            drawn = np.exp(generator.uniform(math.log(low), math.log(high), layers if self.per_layer else 1))
            decays = tuple(map(_rounded, drawn)) * (1 if self.per_layer else layers)
            points |= {point.name: point for point in self._seeded(architecture, decays)}
        return list(points.values())[:count]

    def suggest(self, trial: Any) -> dict[str, Any]:
        """The next point of an Optuna study, as ``{"point": …}``; seeds take turns, as they are not optimised.

        All architectures share the parameters of their λ.
        """
        low, high = self.bounds
        architecture = trial.suggest_categorical("architecture", list(self.architectures))
        layers, parameters = self.architectures[architecture], self._parameters(architecture)
        drawn = tuple(_rounded(trial.suggest_float(parameter, low, high, log=True)) for parameter in parameters)
        points = list(self._seeded(architecture, drawn if self.per_layer else drawn * layers))
        return {"point": asdict(points[trial.number % len(points)])}

    def answers(self, point: Point) -> dict[str, Any]:
        """The parameters for which ``suggest`` gives a point."""
        low, high = self.bounds
        decays = dict(zip(self._parameters(point.architecture), point.decays, strict=False))
        return {"architecture": point.architecture} | {name: min(max(λ, low), high) for name, λ in decays.items()}

    def _parameters(self, architecture: str) -> list[str]:
        return [f"decay {layer}" for layer in range(self.architectures[architecture])] if self.per_layer else ["decay"]

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.decays), max(self.decays)

    def _seeded(self, architecture: str, decays: tuple[float, ...]) -> Iterator[Point]:
        # without a hidden layer the loss is convex and training starts at zero: seeds make no difference
        seeds = self.seeds if self.architectures[architecture] > 1 else self.seeds[:1]
        return (Point(architecture, decays, seed) for seed in seeds)


def networks(activations: list[str], depths: list[int], widths: list[int], classes: int) -> list[str]:
    """Names of the networks with each activation, number of hidden layers, and units in every hidden layer.

    Raises a UserError for an unknown activation.
    """
    for activation in activations:
        if activation not in ACTIVATIONS:
            raise UserError(f"unknown activation {activation!r}; choose among {', '.join(ACTIVATIONS)}.")
    return [
        f"{ACTIVATIONS[activation]}{'-'.join(map(str, [width] * depth))}-{classes}"
        for activation, depth, width in product(activations, depths, widths)
    ]


def layers(architecture: str, dataset: Dataset) -> int:
    """Number of layers with weights of an architecture for a data set.

    Raises a UserError for an unknown architecture, or one whose last width is not the number of classes.
    """
    if not _ARCHITECTURE.fullmatch(architecture):
        raise UserError(
            f"unknown architecture {architecture!r}; choose softmax, fcA-…-K (sigmoid layers of these widths, K "
            "classes), reluA-…-K or conv."
        )
    with torch.device("meta"):
        network = _base(architecture, dataset, 0).build()
    return sum(isinstance(module, nn.Linear | nn.Conv2d) for module in network.modules())


def _base(architecture: str, dataset: Dataset, seed: int) -> Recipe:
    return zoo.recipe("softmax1" if architecture == "softmax" else architecture, dataset, seed=seed)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS - 1}e}")


def _short(value: float) -> str:
    """A number in short form: 1e-5, 3.16e-4, 0.5, 1."""
    if 0.1 <= value < 1000:
        return f"{value:g}"
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
