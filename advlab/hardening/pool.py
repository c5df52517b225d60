"""The pool: a bounded set of adversarial examples per level, which are continuously replaced.

No call waits: generators push examples, trainers draw from those that are there. Examples stay on the device they were
made on; random numbers are drawn on the CPU, so that they are the same on every device.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from torch import Tensor

from advlab.errors import UserError

Replacement = Literal["random", "oldest", "easiest"]
REPLACEMENTS: tuple[str, ...] = get_args(Replacement)
"""The examples that new ones replace: a random subset (as in the paper), the oldest, or those of lowest loss."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one level, as columns.

    Attributes:
        values: [B, n] float32, activations of that level; [B, 784] images of MNIST at level 0.
        labels: [B] int64, classes of the clean images.
        births: [B] int64, the training step whose weights were attacked.
        index: [B] int64, positions of the clean images in their data set.
        l2: [B] float32, L2 norms of the perturbations.
        loss: [B] float32, as recorded last by `Pool.record`; by default infinite.
    """

    values: Tensor
    labels: Tensor
    births: Tensor
    index: Tensor
    l2: Tensor
    loss: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.loss is None:
            object.__setattr__(self, "loss", torch.full_like(self.l2, torch.inf))

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: Tensor) -> "Batch":
        """The examples at these rows (LongTensor [b])."""
        return Batch(*(getattr(self, f.name)[rows] for f in fields(self)))


class Pool:
    """A pool of at most ``capacity`` examples per level; once a level is full, ``replacement`` tells which ones leave.

    Examples of more than ``max_age`` steps are not drawn: if generators die, training continues on clean images instead
    of examples against a much older network. Raises a UserError for a capacity or an age below 1, or an unknown policy.
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
        self._lags: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.layers.values()))

    def push(self, level: int, batch: Batch, *, now: int, generator: torch.Generator) -> None:
        """Add the first ``capacity`` of these examples; if the level is full, they replace others. ``now`` is the step
        of training, which tells their delay; ``generator`` draws the random subset.
        """
        device = batch.labels.device
        batch = batch.rows(torch.arange(min(len(batch), self.capacity), device=device))
        if not len(batch):
            return
        self._lags.setdefault(level, []).append(now - batch.births[0])  # read only when asked for: it would block a GPU
        if level not in self.layers:
            self.layers[level] = batch
            return
        held = self.layers[level]
        added = min(len(batch), self.capacity - len(held))
        if added:
            new = batch.rows(torch.arange(added, device=device))
            held = Batch(*(torch.cat([getattr(held, f.name), getattr(new, f.name)]) for f in fields(Batch)))
            self.layers[level] = held
        if added < len(batch):
            rows = self._leaving(level, len(batch) - added, generator)
            for f in fields(Batch):
                getattr(held, f.name)[rows] = getattr(batch, f.name)[added:]

    def _leaving(self, level: int, count: int, generator: torch.Generator) -> Tensor:
        """Rows [count] to be replaced."""
        held = self.layers[level]
        match self.replacement:
            case "random":
                leaving = torch.randperm(len(held), generator=generator)[:count]
                return leaving.to(held.labels.device, non_blocking=True)
            case "oldest":
                return held.births.argsort(stable=True)[:count]
        return held.loss.argsort(stable=True)[:count]

    def draw(self, level: int, count: int, *, now: int, generator: torch.Generator) -> tuple[Tensor, Batch]:
        """A random sample, with replacement, of no more than there are examples that are young enough: their rows [b]
        of the level, for ``record``, and the examples.
        """
        if level not in self.layers:
            none = torch.zeros(0, dtype=torch.int64)
            return none, Batch(torch.zeros(0, 0), none, none, none, torch.zeros(0), torch.zeros(0))
        held = self.layers[level]
        device = held.labels.device
        young = torch.arange(len(held), device=device)
        if self.max_age is not None:
            young = (held.births >= now - self.max_age).nonzero().squeeze(1)
        chosen = torch.randint(max(len(young), 1), (min(count, len(young)),), generator=generator)
        rows = young[chosen.to(device, non_blocking=True)]
        return rows, held.rows(rows)

    def record(self, level: int, rows: Tensor, loss: Tensor) -> None:
        """Record the losses [b] of the examples at ``rows`` [b], for ``easiest``; some may have been replaced."""
        self.layers[level].loss[rows] = loss

    def age(self, level: int, now: int) -> float:
        """Mean number of steps since the examples of a level were made."""
        return now - float(self.layers[level].births.double().mean())

    def lag(self, level: int) -> float:
        """Mean age of batches, in steps, when they arrived, since the last call."""
        lags = self._lags.pop(level, [])
        return float(torch.stack(lags).double().mean()) if lags else 0.0

    def state(self) -> dict[str, Tensor]:
        """The state of this pool as tensors by name."""
        return {f"{k}.{f.name}": getattr(batch, f.name) for k, batch in self.layers.items() for f in fields(Batch)}

    def restore(self, state: dict[str, Tensor]) -> None:
        levels = sorted({int(name.partition(".")[0]) for name, column in state.items() if len(column)})
        self.layers = {k: Batch(*(state[f"{k}.{f.name}"].clone() for f in fields(Batch))) for k in levels}


def merged(states: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The state of one pool with the examples of several, in order."""
    columns: dict[str, list[Tensor]] = {}
    for state in states:
        for name, column in state.items():
            columns.setdefault(name, []).append(column)
    return {name: torch.cat(parts) for name, parts in columns.items()}
