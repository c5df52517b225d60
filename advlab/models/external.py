"""External models: torchvision, timm, a factory in a Python file, or one in an installed module."""

import ast
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from advlab.errors import UserError, one_line

SCHEMES = ("torchvision", "timm", "file", "python")

RANDOM = "random"
"""In place of the name of weights: torchvision's architecture, initialised with seed 0."""
_siblings: dict[Path, list[Path]] = {}
"""By file of a ``file:`` model, the files of its folder that it imported, in order."""


def is_external(name: str) -> bool:
    """Whether a model name has one of the schemes."""
    return name.split(":", 1)[0] in SCHEMES and ":" in name


def is_code(name: str) -> bool:
    """Whether loading the model runs Python code named by the user, which a study may not choose."""
    return name.startswith(("file:", "python:"))


def load(name: str) -> nn.Module:
    """The model ``scheme:…``, in eval mode, taking images in [0, 1] and frozen; raises a UserError if the library, the
    model, its weights or the file is not available.
    """
    scheme, rest = name.split(":", 1)
    module = {"torchvision": _torchvision, "timm": _timm, "file": _file, "python": _python}[scheme](name, rest)
    return module.eval().requires_grad_(False)


def identity(name: str) -> str:
    """The identity of a model besides its weights: the source of its files, or its library's version."""
    scheme, rest = name.split(":", 1)
    if scheme == "file":
        path = Path(rest.rpartition(":")[0]).expanduser().resolve()
        if path not in _siblings:
            load(name)
        imported = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in _siblings[path])
        return hashlib.sha256(path.read_bytes() + imported).hexdigest()
    if scheme == "python":
        origin = getattr(importlib.util.find_spec(rest.rpartition(":")[0]), "origin", None)
        return f"{name} {hashlib.sha256(Path(origin).read_bytes()).hexdigest() if origin else ''}"
    return f"{name} {version(scheme)}"


@fx.wrap  # it depends on the shape, which a trace does not know
def resized(images: Tensor, size: int) -> Tensor:
    """Images [B, C, H, W] → [B, C, size, size], bilinear with smoothing; images of that size are unchanged."""
    if images.shape[2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


class Normalised(nn.Module):
    """Normalise images by a mean and a deviation per channel, then classify: for attacks the box stays [0, 1].

    Images of another height or width than ``size`` are resized first, bilinearly, and get gradients.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], size: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.mean = nn.Buffer(torch.tensor(mean)[:, None, None])
        self.std = nn.Buffer(torch.tensor(std)[:, None, None])

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
        network = get_model(model, weights=weights)
    except (ValueError, KeyError) as error:
        raise UserError(f"model {name!r}: torchvision has no such model or weights ({error}).") from error
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
    # named by the whole path, so that files of equal names are different modules
    module_name = f"advlab_model_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"model {name!r}: {path} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        with _importing_from(path.parent) as imported:
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
            network = getattr(module, factory)()
    except Exception as error:  # the user's file may raise anything
        fix = "; its imports must be beside it or on PYTHONPATH" if isinstance(error, ImportError) else ""
        raise UserError(f"model {name!r}: {type(error).__name__}: {one_line(error)}{fix}.") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"model {name!r}: {factory}() returned {type(network).__name__}, not a torch nn.Module.")
    _siblings[path] = sorted(imported - {path})
    for source in [path, *_siblings[path]]:
        _require_early_imports(name, source, path.parent)
    return network


def _require_early_imports(name: str, source: Path, folder: Path) -> None:
    """Raise a UserError if a method imports from a folder, which is not available when the model runs."""
    if folder in {Path(place).resolve() for place in sys.path}:
        return
    classes = [node for node in ast.walk(ast.parse(source.read_bytes())) if isinstance(node, ast.ClassDef)]
    methods = [each for node in classes for each in node.body if getattr(each, "name", "__init__") != "__init__"]
    for node in (node for method in methods for node in ast.walk(method)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            if getattr(node, "level", 0) or module.partition(".")[0] in _names_in(folder):
                what = f"line {node.lineno} of {source} imports {module or 'a file beside it'} when the model runs"
                raise UserError(f"model {name!r}: {what}; import it at the top of the file, so that it is sent along.")


def _names_in(folder: Path) -> set[str]:
    """The modules that Python would find in a folder, except names of the standard library and of this package."""
    entries = [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {path.stem for path in entries} - {*sys.stdlib_module_names, __name__.partition(".")[0]}


@contextmanager
def _importing_from(folder: Path) -> Iterator[set[Path]]:
    """Import from a folder within this block, as if Python ran a file there; yields the imported files."""
    names = _names_in(folder)
    elsewhere = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in names and not _source_below(folder, module)
    }
    for name in elsewhere:
        del sys.modules[name]
    path, before, found = list(sys.path), set(sys.modules), set[Path]()
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield found
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] not in before and (source := _source_below(folder, module)):
                del sys.modules[name]
                found.update([source] if source.is_file() else [])
        sys.modules.update(elsewhere)


def _source_below(folder: Path, module: ModuleType) -> Path | None:
    """The source of a module if it is the folder's own code, and not installed there."""
    source = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    path = Path(source).resolve() if isinstance(source, str) else None
    return path if path and path.is_relative_to(folder) and "site-packages" not in path.parts else None
