"""The model zoo: names that stand for recipes, among them the models of the paper's Tables 1 and 3."""

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
SHOWN_NAMES = (
    *PAPER, "fc123-456-10", "relu300-150-10", "conv", "conv3x3-16-32", "conv3x3-16-32-kwta0.2",
    "conv3x3-16-32-quantised3", "resnet-8", "vit-48-4", "conv3x3-16-32-linf0.3", "conv-l2-1.5", "conv-distilled50",
)  # fmt: skip
"""Examples of names; the patterns below allow more."""
FULL_BATCH = "advlab.training.full_batch:fit"
MINIBATCH = "advlab.training.minibatch:fit"
AUTOENCODER = "advlab.training.sparse_autoencoder:fit"
HARDENING = "advlab.training.robust:harden"
DISTILLATION = "advlab.training.robust:distil"


def register(pattern: str, describe: Callable[[str, re.Match[str], Dataset], dict[str, Any]]) -> None:
    """Register your own models, by a regular expression of their names. ``describe`` maps (name, match, data set) to
    ``network`` and ``trainer``, by their names in recipes (`advlab.models.register`), ``network_arguments`` and
    ``trainer_arguments``. Raises a UserError if the pattern is registered already.
    """
    if pattern in _PATTERNS:
        raise UserError(f"models {pattern!r} exist already; register yours under another pattern.")
    _PATTERNS[pattern] = describe


def expand(names: str) -> list[str]:
    """``"paper,conv"`` → the list of names, without duplicates, in order."""
    found: dict[str, None] = {}
    for name in (part.strip() for part in names.split(",")):
        found |= dict.fromkeys(PAPER if name == "paper" else [name] if name else [])
    if not found:
        raise UserError("`models` names no model; give e.g. 'paper' or 'softmax1e-4,fc100-100-10'.")
    return list(found)


def training_split(name: str, default: str) -> str:
    """The split that a model is trained on, which may be part of its name: ``fc100-100-10@p1``."""
    return name.partition("@")[2] or default


def recipe(name: str, dataset: Dataset, *, seed: int = 0) -> Recipe:
    """The recipe of a model to be trained on ``dataset``, whose split is the one in the name if there is one.

    ``softmaxΛ`` (weight decay Λ; ``-plain`` or ``-per-unit`` for another reading of the decay, ``-early`` to stop as
    soon as an iteration lowers the loss by less than 1e-4 of it), ``fcA-…-K`` and ``reluA-…-K`` (sigmoid and ReLU
    layers of those widths), ``aeU-K`` (sparse autoencoder with U units), ``conv``; ``conv3x3-A-…`` (3×3 convolutions
    of so many filters; ``-kwtaS``, ``-quantisedB`` for other activations than ReLU), ``resnet-D[-W]`` (depth, width),
    ``vit-W-B`` (width, blocks). Suffixes of the last five kinds and ``relu…``: ``-linfR`` or ``-l2-R`` (hardened by PGD
    at that radius), ``-distilledT`` (trained by distillation at that temperature).

    Raises:
        UserError: an unknown name, or one whose last width is not the number of classes.
    """
    base, manner = _split_manner(name.partition("@")[0])
    for pattern, describe in _PATTERNS.items():
        if match := re.fullmatch(pattern, base):
            parts = describe(name, match, dataset)
            if manner and parts["trainer"] != MINIBATCH:
                raise UserError(f"model {name!r}: {base} is not trained by minibatches; harden or distil e.g. conv.")
            if manner:
                parts |= _manner(manner, parts["trainer_arguments"])
            for role in registry.ROLES:
                parts[f"{role}_arguments"] = _defaults(role, parts[role]) | parts[f"{role}_arguments"]
            return Recipe(name=name, data=dataset.name, split=dataset.split, **{"seed": seed} | parts)
    raise UserError(
        f"unknown model {name!r}; choose among {', '.join(SHOWN_NAMES)} (or others of these patterns; "
        "NAME@SPLIT to train on another split), "
        "torchvision:NAME[@WEIGHTS], timm:NAME, file:PATH.py:FACTORY, study:DIR."
    )


def _split_manner(name: str) -> tuple[str, dict[str, Any]]:
    """The name without the suffix for its training, and the arguments of that training, if there are any."""
    number = r"(\d+(?:\.\d+)?)"
    if match := re.fullmatch(rf"(.+)-(linf|l2-){number}", name):
        norm = match[2].rstrip("-")
        return match[1], {"trainer": HARDENING, "norm": norm, "radius": _positive(name, match[3])}
    if match := re.fullmatch(rf"(.+)-distilled{number}", name):
        return match[1], {"trainer": DISTILLATION, "temperature": _positive(name, match[2])}
    return name, {}


def _manner(manner: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The trainer of a suffix; hardening has its own epochs and rate, distillation those of the base model."""
    trainer = manner.pop("trainer")
    if trainer == HARDENING:
        base = {key: value for key, value in base.items() if key not in ("epochs", "learning_rate")}
    return {"trainer": trainer, "trainer_arguments": base | manner}


def _positive(name: str, text: str) -> float:
    if float(text) <= 0:
        raise UserError(f"model {name!r}: {text} must be positive.")
    return float(text)


def _defaults(role: registry.Role, code: str) -> dict[str, Any]:
    """The default arguments of a network or trainer: part of a recipe, so that it changes when they do."""
    parameters = inspect.signature(registry.find(role, code)).parameters.values()
    return {p.name: p.default for p in parameters if p.default not in (p.empty, None)}


def _parts(network: str, arguments: dict[str, Any], trainer: str, **trainer_arguments: Any) -> dict[str, Any]:
    """The fields of a recipe that follow from its name; ``network`` is relative to this package."""
    code = {"network": f"{__package__}.{network}", "trainer": trainer}
    return code | {"network_arguments": arguments, "trainer_arguments": trainer_arguments}


def _softmax(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    try:
        strength = float(match["decay"])
    except ValueError:
        strength = math.inf
    if not math.isfinite(strength):
        raise UserError(f"model {name!r}: {match['decay']!r} is not a weight decay; write e.g. softmax1e-4.")
    convention = {"decay_convention": match["convention"]} if match["convention"] else {}
    stop = {"loss_tolerance": 1e-4} if match["early"] else {}
    widths = [dataset.images.shape[1:].numel(), dataset.num_classes]
    # training starts at zero and the loss is convex: every seed gives the same weights
    return _parts("mlp:MLP", {"widths": widths}, FULL_BATCH, weight_decay=strength, **convention, **stop) | {"seed": 0}


def _sigmoid(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    widths = _widths(name, match[1], dataset)
    decay = [1e-5] * (len(widths) - 2) + [1e-6]  # Table 1: on the hidden layers, on the classifier
    return _parts("mlp:MLP", {"widths": widths, "activation": "sigmoid"}, FULL_BATCH, weight_decay=decay)


def _relu(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    widths = _widths(name, match[1], dataset)
    return _parts("mlp:MLP", {"widths": widths, "activation": "relu"}, MINIBATCH, weight_decay=1e-5)


def _autoencoder(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    sizes = dict(zip(("inputs", "units", "classes"), _widths(name, match[1], dataset), strict=True))
    return _parts("autoencoder:AutoencoderClassifier", sizes, AUTOENCODER, weight_decay=1e-6)


def _conv(_name: str, _match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    return _parts("convnet:ConvNet", _of_images(dataset), MINIBATCH, weight_decay=1e-5)


def _conv3x3(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    shape = _of_images(dataset)
    filters = [int(count) for count in match["filters"].split("-")[1:]]
    size = shape["size"]
    if not all(filters) or size < 4 * 2 ** (len(filters) - 1) + 2 * (2 ** (len(filters) - 1) - 1):
        raise UserError(f"model {name!r}: no layer may be empty, and its poolings must fit {size} pixels.")
    activation = {"activation": match["activation"], "setting": _setting(name, match)} if match["activation"] else {}
    arguments = shape | {"filters": filters} | activation
    return _parts("small:Conv3x3", arguments, MINIBATCH, weight_decay=1e-5, learning_rate=3e-3, epochs=4)


def _setting(name: str, match: re.Match[str]) -> float | int:
    value = _positive(name, match["setting"])
    if match["activation"] == "kwta" and value <= 1:
        return value
    if match["activation"] == "quantised" and value == int(value) <= 16:
        return int(value)
    raise UserError(f"model {name!r}: write e.g. -kwta0.2 (a share of the units) or -quantised3 (bits).")


def _resnet(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    depth, width = int(match["depth"]), int(match["width"] or 16)
    if depth < 8 or depth % 6 != 2 or not width:
        raise UserError(f"model {name!r}: its depth must be 8, 14, 20, … and its width at least 1.")
    shape = {"channels": dataset.images.shape[1], "classes": dataset.num_classes, "depth": depth, "width": width}
    return _parts("small:ResNet", shape, MINIBATCH, weight_decay=1e-4, learning_rate=1e-2, epochs=6)


def _vit(name: str, match: re.Match[str], dataset: Dataset) -> dict[str, Any]:
    width, blocks = int(match["width"]), int(match["blocks"])
    if width < 4 or width % 4 or not blocks:
        raise UserError(f"model {name!r}: its width must be a multiple of 4 (heads), and it needs a block.")
    shape = _of_images(dataset) | {"width": width, "blocks": blocks}
    training = {"weight_decay": 1e-5, "initial_weights": "glorot", "learning_rate": 3e-3, "epochs": 6}
    return _parts("small:ViT", shape, MINIBATCH, **training)


_PATTERNS: dict[str, Callable[[str, re.Match[str], Dataset], dict[str, Any]]] = {
    r"softmax(?P<decay>\d.*?)(-(?P<convention>plain|per-unit))?(-(?P<early>early))?": _softmax,
    r"fc(\d+(?:-\d+)+)": _sigmoid,
    r"relu(\d+(?:-\d+)+)": _relu,
    r"ae(\d+-\d+)": _autoencoder,
    r"conv": _conv,
    r"conv3x3(?P<filters>(-\d+)+)(-(?P<activation>kwta|quantised)(?P<setting>\d+(\.\d+)?))?": _conv3x3,
    r"resnet-(?P<depth>\d+)(-(?P<width>\d+))?": _resnet,
    r"vit-(?P<width>\d+)-(?P<blocks>\d+)": _vit,
}


def _of_images(dataset: Dataset) -> dict[str, int]:
    channels, size, _ = dataset.images.shape[1:]
    return {"channels": channels, "size": size, "classes": dataset.num_classes}


def _widths(name: str, text: str, dataset: Dataset) -> list[int]:
    widths = [int(width) for width in text.split("-")]
    if widths[-1] != dataset.num_classes or not all(widths):
        raise UserError(
            f"model {name!r} has {widths[-1]} outputs; {dataset.name} has {dataset.num_classes} classes, "
            f"so the name must end in -{dataset.num_classes}, and no width may be 0."
        )
    return [dataset.images.shape[1:].numel(), *widths]
