"""A name is a recipe: the models of the paper's Tables 1 and 3, and any of their kind."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import registry
from advlab.models.recipe import Recipe

PAPER = ("softmax1e-4", "softmax1e-2", "softmax1", "fc100-100-10", "fc200-200-10", "ae400-10")
"""The six models of Table 1, in its order."""

SHOWN_NAMES = (*PAPER, "fc123-456-10", "relu300-150-10", "conv")
"""Names worth showing; the patterns below admit more."""

FULL_BATCH = "advlab.training.full_batch:fit"
MINIBATCH = "advlab.training.minibatch:fit"
AUTOENCODER = "advlab.training.sparse_autoencoder:fit"


def expand(names: str) -> list[str]:
    """``"paper,conv"`` → the names it stands for, each once, in order."""
    found: dict[str, None] = {}
    for name in (part.strip() for part in names.split(",")):
        found |= dict.fromkeys(PAPER if name == "paper" else [name] if name else [])
    if not found:
        raise UserError("--models names no model; give e.g. 'paper' or 'softmax1e-4,fc100-100-10'.")
    return list(found)


def training_split(name: str, default: str) -> str:
    """The split a model is trained on: ``fc100-100-10@p1`` says so itself."""
    return name.partition("@")[2] or default


def recipe(name: str, dataset: Dataset, *, seed: int = 0) -> Recipe:
    """The recipe of a model to be trained on ``dataset``, which is of the name's own split where it bears one.

    ``softmaxΛ`` (weight decay Λ; ``-plain`` or ``-per-unit`` for another reading of the decay, ``-early`` to stop as
    soon as an iteration lowers the loss by less than 1e-4 of it), ``fcA-…-K`` and ``reluA-…-K`` (sigmoid and ReLU
    layers of those widths), ``aeU-K`` (sparse autoencoder with U units), ``conv``.

    Raises:
        UserError: an unknown name, or one whose last width is not the number of classes.
    """
    for pattern, describe in _PATTERNS.items():
        if match := re.fullmatch(pattern, name.partition("@")[0]):
            parts = describe(name, match, dataset)
            for role in registry.ROLES:
                parts[f"{role}_arguments"] = _defaults(role, parts[role]) | parts[f"{role}_arguments"]
            return Recipe(name=name, data=dataset.name, split=dataset.split, **{"seed": seed} | parts)
    raise UserError(
        f"unknown model {name!r}; choose among {', '.join(SHOWN_NAMES)} (or others of these patterns; "
        "NAME@SPLIT to train on a split of its own), "
        "torchvision:NAME[@WEIGHTS], timm:NAME, file:PATH.py:FACTORY, study:DIR."
    )


def _defaults(role: registry.Role, code: str) -> dict[str, Any]:
    """The default arguments of a network or trainer: a recipe spells them out, so that it changes when they do."""
    parameters = inspect.signature(registry.find(role, code)).parameters.values()
    return {p.name: p.default for p in parameters if p.default not in (p.empty, None)}


def _softmax(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    try:
        strength = float(match["decay"])
    except ValueError:
        strength = math.inf
    if not math.isfinite(strength):
        raise UserError(f"model {name!r}: {match['decay']!r} is no weight decay; write e.g. softmax1e-4.")
    convention = {"decay_convention": match["convention"]} if match["convention"] else {}
    stop = {"loss_tolerance": 1e-4} if match["early"] else {}
    return {
        "network": "advlab.models.mlp:MLP",
        "network_arguments": {"widths": [_inputs(dataset), dataset.num_classes]},
        "trainer": FULL_BATCH,
        "trainer_arguments": {"weight_decay": strength, **convention, **stop},
        "seed": 0,  # it starts at zero and its loss is convex: every seed gives the same weights
    }


def _sigmoid(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    widths = _widths(name, match[1], dataset)
    return {
        "network": "advlab.models.mlp:MLP",
        "network_arguments": {"widths": widths, "activation": "sigmoid"},
        "trainer": FULL_BATCH,
        # Table 1: λ = 1e-5 on the hidden layers, 1e-6 on the classifier
        "trainer_arguments": {"weight_decay": [1e-5] * (len(widths) - 2) + [1e-6]},
    }


def _relu(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    return {
        "network": "advlab.models.mlp:MLP",
        "network_arguments": {"widths": _widths(name, match[1], dataset), "activation": "relu"},
        "trainer": MINIBATCH,
        "trainer_arguments": {"weight_decay": 1e-5},
    }


def _autoencoder(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    inputs, units, classes = _widths(name, match[1], dataset)
    return {
        "network": "advlab.models.autoencoder:AutoencoderClassifier",
        "network_arguments": {"inputs": inputs, "units": units, "classes": classes},
        "trainer": AUTOENCODER,
        "trainer_arguments": {"weight_decay": 1e-6},
    }


def _conv(_name: str, _match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    channels, size, _ = dataset.images.shape[1:]
    return {
        "network": "advlab.models.convnet:ConvNet",
        "network_arguments": {"channels": channels, "size": size, "classes": dataset.num_classes},
        "trainer": MINIBATCH,
        "trainer_arguments": {"weight_decay": 1e-5},
    }


_PATTERNS: dict[str, Callable[[str, re.Match[str], Dataset], dict[str, Any]]] = {
    r"softmax(?P<decay>\d.*?)(-(?P<convention>plain|per-unit))?(-(?P<early>early))?": _softmax,
    r"fc(\d+(?:-\d+)+)": _sigmoid,
    r"relu(\d+(?:-\d+)+)": _relu,
    r"ae(\d+-\d+)": _autoencoder,
    r"conv": _conv,
}


def _inputs(dataset: Dataset) -> int:
    return math.prod(dataset.images.shape[1:])


def _widths(name: str, text: str, dataset: Dataset) -> list[int]:
    widths = [int(width) for width in text.split("-")]
    if widths[-1] != dataset.num_classes or not all(widths):
        raise UserError(
            f"model {name!r} has {widths[-1]} outputs; {dataset.name} has {dataset.num_classes} classes, "
            f"so the name must end in -{dataset.num_classes}, and no width may be 0."
        )
    return [_inputs(dataset), *widths]
