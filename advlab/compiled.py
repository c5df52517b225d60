"""Loops over rows of tensors, compiled for the processor by Numba.

Operations on whole arrays read and write all rows every time; a loop keeps a row in the L1 cache until it is done with
it. Loops are compiled on first use, which takes about a second each, and cached on disk.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

Array = np.ndarray[Any, Any]


_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},  # sums in any order; NaN and infinity keep their meaning
}


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function of arrays and numbers that writes its results into its arguments.

    Shapes and indices are not checked inside: callers do. Numba's cache does not notice changes of options or of
    helpers in other files; delete ``__pycache__`` then.
    """
    try:
        compiled = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither the source's folder nor the user's cache can be written
        return numba.njit(**_OPTIONS)(function)
    _guard_cache(compiled)
    return compiled


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that loops of the same file call."""
    return numba.njit(**_OPTIONS)(function)


def _guard_cache(compiled: Any) -> None:
    """Let one process at a time save compiled code, and continue if saving fails."""
    cache = compiled._cache
    save = cache.save_overload

    def save_alone(*arguments: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk, or a read-only folder
            Path(cache.cache_path).mkdir(parents=True, exist_ok=True)
            with FileLock(Path(cache.cache_path) / f"{compiled.__name__}.lock"):
                save(*arguments)

    cache.save_overload = save_alone


def fits(*tensors: Tensor) -> bool:
    """Whether loops can take these tensors: on the CPU, all float32 or all float64; not under `torch.compile`."""
    kind = tensors[0].dtype
    if kind not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return False
    return all(tensor.dtype == kind and tensor.is_cpu for tensor in tensors)


def run(function: Callable[..., None], *records: object, **arguments: Any) -> None:
    """Run a loop on tensors, in place. All arguments go by name, so that a swap of two cannot pass unnoticed.

    Those that are not among ``arguments`` are attributes of the same names, of the first of ``records`` that has them.
    """
    for name in _parameters(function) if records else ():
        if name not in arguments:
            for record in records:
                if hasattr(record, name):
                    arguments[name] = getattr(record, name)
                    break
    function(**{name: item.numpy() if isinstance(item, Tensor) else item for name, item in arguments.items()})


@functools.cache
def _parameters(function: Callable[..., None]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def vacate(count: int, places: Tensor) -> tuple[Tensor, Tensor]:
    """The moves that leave rows contiguous when those of ``count`` rows at ``places`` [k] int64 are removed: the rows
    to move, which are among the last k, and their new places, which are among the others.
    """
    left = count - len(places)
    stays = torch.ones(count, dtype=torch.bool, device=places.device).index_fill_(0, places, False)
    return left + stays[left:].nonzero().squeeze(1), places[places < left]


def exchange_rows(tensors: Iterable[Tensor], one: Tensor, other: Tensor) -> None:
    """Exchange rows of the tensors [L, ...], pair by pair, in place; no row may occur twice."""
    _move_rows(tensors, one, other, exchange=True)


def copy_rows(tensors: Iterable[Tensor], source: Tensor, to: Tensor) -> None:
    """Copy rows of the tensors [L, ...] over other rows, pair by pair; no row may occur twice."""
    _move_rows(tensors, source, to, exchange=False)


def _move_rows(tensors: Iterable[Tensor], source: Tensor, to: Tensor, *, exchange: bool) -> None:
    if not source.shape[0]:
        return
    known = torch.float32, torch.float64, torch.int64, torch.bool
    places = (source.numpy(), to.numpy()) if source.is_cpu else None
    for tensor in tensors:
        if places and tensor.dtype in known and tensor.is_cpu and tensor.is_contiguous() and tensor.numel():
            _move(tensor.numpy().reshape(tensor.shape[0], -1), *places, exchange)
            continue
        kept = tensor[to]
        tensor[to] = tensor[source]
        if exchange:
            tensor[source] = kept


@loop
def _move(array: Array, source: Array, to: Array, exchange: bool) -> None:
    for pair in range(len(source)):
        giver, taker = array[source[pair]], array[to[pair]]
        for i in range(array.shape[1]):
            kept, taker[i] = taker[i], giver[i]
            if exchange:
                giver[i] = kept
