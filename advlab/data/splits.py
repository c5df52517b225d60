"""Which examples of the train or test file make up a split."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from advlab.errors import UserError

SPLITS = ("train", "test", "fit", "validation", "p1", "p2")
VALIDATION_SIZE = 10_000


def source_file(split: str) -> Literal["train", "test"]:
    """The file a split is cut from.

    Raises:
        UserError: an unknown split.
    """
    if split not in SPLITS:
        raise UserError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
    return "test" if split == "test" else "train"


def positions(split: str, total: int, seed: int) -> Tensor:
    """[n] int64, ascending positions of a split in its file of ``total`` examples.

    ``validation`` is the last 10,000 examples and ``fit`` the others, whatever the seed. ``p1`` and ``p2``
    are the paper's two disjoint halves of the training set (section 4.2, cross training-set
    generalization), drawn by ``seed``.

    Raises:
        UserError: a negative seed.
    """
    everything = torch.arange(total)
    if split == "validation":
        return everything[total - VALIDATION_SIZE :]
    if split == "fit":
        return everything[: total - VALIDATION_SIZE]
    if split in ("p1", "p2"):
        order = _permutation(total, seed)
        half = order[: total // 2] if split == "p1" else order[total // 2 :]
        return half.sort().values
    return everything


def _permutation(total: int, seed: int) -> Tensor:
    if seed < 0:
        raise UserError(f"Seed {seed} is negative: choose 0 or more.")
    # NumPy promises the same raw stream of a bit generator in every version, but not the same shuffle.
    keys = np.random.PCG64(seed).random_raw(total)
    return torch.from_numpy(np.argsort(keys, kind="stable"))
