"""Check that an untrusted recipe describes the network of its weights, without allocating that network."""

import inspect
import math
import threading
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.hooks import RemovableHandle

from advlab.errors import UserError, one_line

_DEEPEST, _MOST, _LARGEST = 8, 10_000, 1 << 24
"""Limits on a network's arguments: nesting, number of values, and the largest integer."""
_SLACK, _TENSORS, _WEIGHTS = 4, 1_000, 1 << 24
"""A constructor may create layers that it then replaces: this factor of what the file holds, and this margin."""


def require_fits(make: Callable[..., nn.Module], arguments: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless ``make(**arguments)`` has exactly the names and shapes of ``weights``."""
    _require_plain(arguments)
    _require_signature(make, arguments)
    total = sum(value.numel() for value in weights.values())
    try:
        with torch.device("meta"), _at_most(_SLACK * len(weights) + _TENSORS, _SLACK * total + _WEIGHTS):
            network = make(**arguments)
            shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    except (UserError, ValueError):
        raise
    except Exception as error:  # a constructor may raise anything on untested arguments
        raise ValueError(
            f"its arguments do not give a network ({type(error).__name__}: {one_line(error)[:200]})"
        ) from error
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(shapes.keys() | given.keys()):
        wanted, found = shapes.get(name, "none"), given.get(name, "none")
        if wanted != found:
            raise ValueError(f"its recipe needs {name[:80]!r} of shape {wanted}, its file has {found}")


def _require_plain(value: Any, depth: int = 0, room: list[int] | None = None) -> None:
    """Raise a ValueError unless this is JSON of reasonable size."""
    room = [_MOST] if room is None else room
    room[0] -= 1
    if depth > _DEEPEST or room[0] < 0:
        raise ValueError("its recipe has too many arguments")
    if isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            _require_plain(one, depth + 1, room)
    elif isinstance(value, int):
        if abs(value) > _LARGEST:
            raise ValueError(f"its recipe has a whole number of {value.bit_length()} bits, too large for any network")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"its recipe has {value}, which is not a number for a network")
    elif not isinstance(value, str | NoneType):
        raise ValueError(f"its recipe has an argument of type {type(value).__name__}, which is not JSON")


def _require_signature(make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError unless the arguments have the names and types of the callable's parameters."""
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"its arguments are not those of its network ({one_line(error)})") from error
    try:
        hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except (TypeError, NameError):  # a registered callable may have no type hints, or ones that cannot be resolved here
        hints = {}
    for name, value in arguments.items():
        if not _is_of(value, hints.get(name, Any)):
            raise ValueError(f"its argument {name}={str(value)[:80]!r} is not of the type that its network takes")


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of an annotated type; types that JSON cannot express are left to the constructor."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(_is_of(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_is_of(one, inner[0]) for one in value)
    return True


def _at_most(tensors: int, weights: int) -> RemovableHandle:
    """A hook, removed after a block: raises a ValueError once modules made by this thread have more than this."""
    counts, own = [0, 0], threading.get_ident()

    def count(_module: nn.Module, _name: str, parameter: Tensor | None) -> None:
        if parameter is None or threading.get_ident() != own:
            return
        counts[0] += 1
        counts[1] += parameter.numel()
        if counts[0] > tensors or counts[1] > weights:
            raise ValueError("its recipe needs far more weights than its file has")

    return register_module_parameter_registration_hook(count)
