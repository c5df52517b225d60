"""The pool: for each level a bounded set of adversarial examples, a part of which is replaced all the time.

Nothing here waits for anything. Whoever makes examples pushes them, whoever trains draws from what is there. Examples
stay on the device they were made on; what is random is drawn on the CPU, so that it is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from torch import Tensor

from advlab.errors import UserError

Replacement = Literal["random", "oldest", "easiest"]
REPLACEMENTS: tuple[str, ...] = get_args(Replacement)
"""What gives way to new examples: a random subset (the paper's), the oldest, or those with the lowest loss."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples at one level, as columns.

    Attributes:
        values: [B, n] float32, activations of that level; [B, 784] images of MNIST at level 0.
        labels: [B] int64, classes of the clean images.
        births: [B] int64, the training step whose weights were attacked.
        index: [B] int64, positions of the clean images in their data set.
        l2: [B] float32, L2 norms of the perturbations.
    """

    values: Tensor
    labels: Tensor
    births: Tensor
    index: Tensor
    l2: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: Tensor) -> Batch:
        """The examples at these rows (LongTensor [b])."""
        return Batch(*(getattr(self, f.name)[rows] for f in fields(self)))


class Pool:
    """Examples by level.

    Args:
        capacity: most examples per level.
        replacement: what gives way to new examples once a level is full.
        max_age: in steps; older examples are not drawn. A generator that died thus starves the mixture, which goes on
            with clean images, rather than feed it examples against a network long gone.

    Raises:
        UserError: a capacity or an age below 1, or an unknown policy.
    """

    def __init__(self, capacity: int, replacement: Replacement = "random", max_age: int | None = None) -> None:
        if capacity < 1:
            raise UserError(f"`capacity` {capacity} is impossible; choose at least 1 example.")
        if replacement not in REPLACEMENTS:
            raise UserError(f"unknown replacement {replacement!r}; choose one of {', '.join(REPLACEMENTS)}.")
        if max_age is not None and max_age < 1:
            raise UserError(f"`max_age` {max_age} is impossible; choose at least 1 step.")
        self.capacity, self.replacement, self.max_age = capacity, replacement, max_age
        self.layers: dict[int, Batch] = {}
        self._loss: dict[int, Tensor] = {}
        self._lags: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.layers.values()))

    def push(self, level: int, batch: Batch, *, now: int, generator: torch.Generator) -> None:
        """Take in new examples; those for which there is no room push others out.

        Args:
            level: whose activations they are.
            batch: of no more than ``capacity`` examples; what exceeds it is left out.
            now: the step of training, for how long they were under way.
            generator: of the random subset.
        """
        device = batch.labels.device
        batch = batch.rows(torch.arange(min(len(batch), self.capacity), device=device))
        if not len(batch):
            return
        self._lags.setdefault(level, []).append(now - batch.births[0])  # read when asked for: a GPU would have to wait
        unknown = torch.full((len(batch),), torch.inf, device=device)
        if level not in self.layers:
            self.layers[level], self._loss[level] = batch, unknown
            return
        held, loss = self.layers[level], self._loss[level]
        added = min(len(batch), self.capacity - len(held))
        if added:
            new = batch.rows(torch.arange(added, device=device))
            held = Batch(*(torch.cat([getattr(held, f.name), getattr(new, f.name)]) for f in fields(Batch)))
            loss = torch.cat([loss, unknown[:added]])
            self.layers[level], self._loss[level] = held, loss
        if added < len(batch):
            rows = self._leaving(level, len(batch) - added, generator)
            for f in fields(Batch):
                getattr(held, f.name)[rows] = getattr(batch, f.name)[added:]
            loss[rows] = torch.inf

    def _leaving(self, level: int, count: int, generator: torch.Generator) -> Tensor:
        """Rows [count] that make room."""
        held = self.layers[level]
        match self.replacement:
            case "random":
                leaving = torch.randperm(len(held), generator=generator)[:count]
                return leaving.to(held.labels.device, non_blocking=True)
            case "oldest":
                return held.births.argsort(stable=True)[:count]
        return self._loss[level].argsort(stable=True)[:count]

    def draw(self, level: int, count: int, *, now: int, generator: torch.Generator) -> tuple[Tensor, Batch]:
        """A random sample, with replacement; a pool with fewer examples that are young enough gives only so many.

        Returns:
            Rows [b] of the level, for ``record``, and the examples; b is 0 where there is nothing yet.
        """
        if level not in self.layers:
            none = torch.zeros(0, dtype=torch.int64)
            return none, Batch(torch.zeros(0, 0), none, none, none, torch.zeros(0))
        held = self.layers[level]
        device = held.labels.device
        if self.max_age is None:
            rows = torch.randint(len(held), (min(count, len(held)),), generator=generator)
            rows = rows.to(device, non_blocking=True)
        else:
            young = (held.births >= now - self.max_age).nonzero().squeeze(1)
            chosen = torch.randint(max(len(young), 1), (min(count, len(young)),), generator=generator)
            rows = young[chosen.to(device, non_blocking=True)]
        return rows, held.rows(rows)

    def record(self, level: int, rows: Tensor, loss: Tensor) -> None:
        """Note how hard drawn examples were, for ``easiest``; they may have been replaced meanwhile.

        Args:
            level: they came from.
            rows: [b], as ``draw`` gave them.
            loss: [b] float32, detached.
        """
        if self.replacement == "easiest":
            self._loss[level][rows] = loss

    def age(self, level: int, now: int) -> float:
        """Mean number of steps since the examples of a level were made."""
        return now - float(self.layers[level].births.double().mean())

    def lag(self, level: int) -> float:
        """Staleness on arrival: mean number of steps that batches were under way, since this was last asked."""
        lags = self._lags.pop(level, [])
        return float(torch.stack(lags).double().mean()) if lags else 0.0

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on with this pool, as tensors by name."""
        columns = {
            f"{level}.{f.name}": getattr(batch, f.name) for level, batch in self.layers.items() for f in fields(Batch)
        }
        return columns | {f"{level}.loss": loss for level, loss in self._loss.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Hold what ``state`` described."""
        levels = sorted({int(name.partition(".")[0]) for name, column in state.items() if len(column)})
        self.layers = {k: Batch(*(state[f"{k}.{f.name}"].clone() for f in fields(Batch))) for k in levels}
        self._loss = {k: state[f"{k}.loss"].clone() for k in levels}


def merged(states: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The state of one pool with the examples of several, those of the first in front."""
    columns: dict[str, list[Tensor]] = {}
    for state in states:
        for name, column in state.items():
            columns.setdefault(name, []).append(column)
    return {name: torch.cat(parts) for name, parts in columns.items()}


def dealt(state: dict[str, Tensor], rank: int, size: int) -> dict[str, Tensor]:
    """The state of one of ``size`` pools that the examples of one are dealt out to, like cards."""
    return {name: column[rank::size] for name, column in state.items()}
