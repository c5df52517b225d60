"""Splits: the examples of the train or test file that each consists of."""

import numpy as np
import torch
from torch import Tensor

from advlab.errors import UserError

SPLITS = ("train", "test", "fit", "validation", "p1", "p2")
VALIDATION_SIZE = 10_000
HALVES = ("p1", "p2")


def full_name(split: str, seed: int = 0) -> str:
    """The unique name of a split (``p1@3``; ``p1`` is drawn by seed 0); raises a UserError for unknown ones."""
    base, at, given = split.partition("@")
    if base not in SPLITS or (at and base not in HALVES):
        raise UserError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}, or e.g. p1@3 for another draw.")
    if at and not given.isdecimal():
        raise UserError(f"Unknown split {split!r}: write the seed of its draw as a number, e.g. {base}@3.")
    seed = int(given) if at else seed
    if seed < 0:
        raise UserError(f"Seed {seed} is negative: choose 0 or more.")
    return f"{base}@{seed}" if base in HALVES and seed else base


def positions(split: str, total: int) -> Tensor:
    """[n] int64, ascending positions of a split, by its full name, in its file of ``total`` examples.

    ``validation`` is the last 10,000 examples and ``fit`` the others. ``p1`` and ``p2`` are the paper's two disjoint
    halves of the training set (section 4.2, cross training-set generalization), drawn by the seed in their name.
    """
    everything = torch.arange(total)
    if split == "validation":
        return everything[total - VALIDATION_SIZE :]
    if split == "fit":
        return everything[: total - VALIDATION_SIZE]
    base, _, seed = split.partition("@")
    if base in HALVES:
        # NumPy guarantees the same raw stream of a bit generator in every version, but not the same shuffle.
        keys = np.random.PCG64(int(seed or 0)).random_raw(total)
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        half = order[: total // 2] if base == "p1" else order[total // 2 :]
        return half.sort().values
    return everything
