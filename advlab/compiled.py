"""Loops over rows of tensors, compiled for the processor by Numba.

Operations on whole arrays read and write all rows every time; a loop keeps a row in the processor's first cache until
it is done with it. Compilation takes place on first use, a second or so per loop, and is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function of arrays and numbers that writes its results into its arguments."""
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "arcp", "nsz"},  # sums in any order; NaN and infinity keep their meaning
    }
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the source's folder nor the user's cache can be written
        return numba.njit(**options)(function)


def fits(*tensors: Tensor) -> bool:
    """Whether loops can take these tensors: on the CPU, all float32 or all float64; not while `torch.compile` looks."""
    kind = tensors[0].dtype
    known = kind in (torch.float32, torch.float64) and not torch.compiler.is_compiling()
    return known and all(t.dtype == kind and t.device.type == "cpu" for t in tensors)


def run(function: Callable[..., None], *arguments: Tensor | float | bool) -> None:
    """Run a loop on tensors, in place."""
    function(*(item.numpy() if isinstance(item, Tensor) else item for item in arguments))
