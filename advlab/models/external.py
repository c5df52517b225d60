"""Models from elsewhere: torchvision, timm, a factory in a Python file, or one in an installed module."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from advlab.errors import UserError, one_line

SCHEMES = ("torchvision", "timm", "file", "python")
_CODE = ("file", "python")

RANDOM = "random"
"""In place of a name of weights: torchvision's architecture as initialised with seed 0."""
loaded_files: list[ModuleType] = []
"""Modules made from ``file:`` models; whoever ships such a model pickles these by value: the files stay behind."""


def is_external(name: str) -> bool:
    """Whether a model name has one of the schemes."""
    return name.split(":", 1)[0] in SCHEMES and ":" in name


def is_code(name: str) -> bool:
    """Whether using the model runs Python that its name chooses: only the user may choose that, never a study."""
    return is_external(name) and name.split(":", 1)[0] in _CODE


def load(name: str) -> nn.Module:
    """The model ``scheme:…``, in eval mode, taking images in [0, 1] and frozen.

    Raises:
        UserError: the library, the model, its weights or the file cannot be had.
    """
    scheme, rest = name.split(":", 1)
    module = {"torchvision": _torchvision, "timm": _timm, "file": _file, "python": _python}[scheme](name, rest)
    return module.eval().requires_grad_(False)


def identity(name: str) -> str:
    """What besides its weights makes a model what it is: the source of its file, or its library's version."""
    scheme, rest = name.split(":", 1)
    if scheme == "file":
        return hashlib.sha256(Path(rest.rpartition(":")[0]).expanduser().read_bytes()).hexdigest()
    if scheme == "python":
        origin = getattr(importlib.util.find_spec(rest.rpartition(":")[0]), "origin", None)
        return f"{name} {hashlib.sha256(Path(origin).read_bytes()).hexdigest() if origin else ''}"
    return f"{name} {version(scheme)}"


@fx.wrap  # it depends on the shape, which a trace does not know
def resized(images: Tensor, size: int) -> Tensor:
    """Images [B, C, H, W] → [B, C, size, size], bilinear with smoothing; those of that size are left as they are."""
    if images.shape[2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


class Normalised(nn.Module):
    """Subtract a mean and divide by a deviation per channel, then classify: the box stays [0, 1] for attacks.

    With ``size``, images of another height or width are brought to it first, bilinearly: models of different input
    sizes can then be shown the same images, and gradients go back to those.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], size: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        if self.size is not None:
            images = resized(images, self.size)
        return self.network((images - self.mean) / self.std)


def _torchvision(name: str, rest: str) -> nn.Module:
    from torchvision.models import get_model, get_model_weights

    model, _, weights_name = rest.partition("@")
    if weights_name == RANDOM:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return get_model(model, weights=None)
        except ValueError as error:
            raise UserError(f"model {name!r}: torchvision has no such model ({error}).") from error
    try:
        weights = get_model_weights(model)[weights_name or "DEFAULT"]
    except (ValueError, KeyError) as error:
        raise UserError(f"model {name!r}: torchvision has no such model or weights ({error}).") from error
    try:
        network = get_model(model, weights=weights)
    except OSError as error:
        raise UserError(f"model {name!r}: its weights could not be downloaded ({error}).") from error
    transforms = weights.transforms()
    return Normalised(network, list(transforms.mean), list(transforms.std))


def _timm(name: str, rest: str) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise UserError(f"model {name!r} needs timm; install it with: pip install 'advlab[timm]'.") from error
    try:
        network = timm.create_model(rest, pretrained=True)
    except (RuntimeError, OSError) as error:
        raise UserError(f"model {name!r}: timm could not load it ({error}).") from error
    config = timm.data.resolve_data_config({}, model=network)
    return Normalised(network, list(config["mean"]), list(config["std"]))


def _python(name: str, rest: str) -> nn.Module:
    try:
        network = pkgutil.resolve_name(rest)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"model {name!r}: write python:MODULE:FACTORY ({one_line(error)}).") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"model {name!r}: it returned {type(network).__name__}, not a torch nn.Module.")
    return network


def _file(name: str, rest: str) -> nn.Module:
    path_text, _, factory = rest.rpartition(":")
    path = Path(path_text).expanduser().resolve()
    if not path_text or not factory.isidentifier():
        raise UserError(f"model {name!r}: write file:PATH.py:FACTORY.")
    if not path.is_file():
        raise UserError(f"model {name!r}: there is no file {path}.")
    # named by the whole path, so that two files of one name stay apart
    module_name = f"advlab_model_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"model {name!r}: {path} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    loaded_files.append(module)
    try:
        spec.loader.exec_module(module)
        network = getattr(module, factory)()
    except Exception as error:  # whatever the user's file raises
        raise UserError(f"model {name!r}: {type(error).__name__}: {error}.") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"model {name!r}: {factory}() returned {type(network).__name__}, not a torch nn.Module.")
    return network
