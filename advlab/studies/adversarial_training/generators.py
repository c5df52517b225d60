"""Generators of adversarial examples as Ray actors, which attack recent weights while the trainer continues."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from advlab.data import Dataset
from advlab.hardening.attack import examples
from advlab.hardening.levels import Levels
from advlab.hardening.pool import Batch
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import Trainer, build

CHUNK = 500
"""Clean images attacked per call, or the capacity of the pool if that is less."""
PATIENCE = 120.0
"""Seconds after which a call counts as hung, or ten times the duration of the last one if that is more."""
POLL_EVERY = 10
"""Steps between polls of the generators: each costs the trainer a fraction of a millisecond."""


class _Generator:
    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        torch.set_num_threads(1)
        self.dataset, self.settings = dataset, settings
        self.network = build(settings, dataset).eval()
        self.levels = Levels(self.network)

    def make(self, weights: dict[str, Tensor], step: int, seed: int, count: int) -> dict[int, Batch]:
        """Attack these weights on ``count`` images chosen by ``seed``."""
        self.network.load_state_dict(weights)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(self.dataset), (count,), generator=generator)
        return examples(self.network, self.levels, self.dataset, self.settings, rows, step, generator)


class Generators:
    """A source of examples for ``Trainer`` that never makes it wait: ``count`` actors.

    Each actor has at most one pending call. It gets new weights only after its examples were taken, so it cannot run
    ahead of the trainer, and only if the pool needs more to be refreshed by ``settings.refresh`` examples per step. Ray
    restarts an actor that dies, and one that hangs is replaced; in the meantime the trainer draws from the pool as it
    is, up to the age ``settings.max_age``. ``seed`` is that of their choice of images.
    """

    def __init__(self, dataset: Dataset, settings: Settings, count: int, *, seed: int, num_cpus: float = 1.0) -> None:
        actor: dict[str, Any] = {"num_cpus": num_cpus, "max_restarts": -1, "max_task_retries": 0}
        make_actor: Any = ray.remote(**actor)(_Generator)
        # keeps the images as long as actors may be restarted with them
        self._start = partial(make_actor.remote, ray.put(dataset), settings)
        self.actors: list[Any] = [self._start() for _ in range(count)]
        self.chunk = min(CHUNK, settings.capacity)
        self.arrived = 0
        self.losses = 0
        self._seed = seed
        self._given = 0
        self._began: int | None = None
        self._idle = list(self.actors)
        self._calls: dict[Any, tuple[Any, float]] = {}
        self._took: float | None = None
        self._answered: set[Any] = set()

    def poll(self, trainer: Trainer, _rows: Tensor) -> Iterator[dict[int, Batch]]:
        """The examples that arrived since the last poll, if it is time for one."""
        if trainer.step % POLL_EVERY:
            return
        if self._began is None:
            self._began = trainer.step
        ready, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0) if self._calls else ([], [])
        for ref in ready:
            actor, since = self._calls.pop(ref)
            self._idle.append(actor)
            try:
                examples = ray.get(ref)
            except RayError as error:
                if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                    raise
                self.losses += 1  # the actor or its machine died; Ray starts it again
            else:
                self.arrived += self.chunk
                self._took = time.monotonic() - since
                self._answered.add(actor)
                yield examples
        self._replace_hung()
        self._give_out(trainer, (trainer.step - self._began) * trainer.settings.refresh)

    def _replace_hung(self) -> None:
        """Replace actors whose calls hang; until the first call has returned, the usual duration is unknown."""
        if self._took is None:
            return
        longest = max(PATIENCE, 10 * self._took)
        for ref, (actor, since) in list(self._calls.items()):
            # the first call of an actor waits for its process
            if time.monotonic() - since > (longest if actor in self._answered else 10 * longest):
                del self._calls[ref]
                self.losses += 1
                ray.kill(actor)
                another = self._start()
                self.actors[self.actors.index(actor)] = another
                self._idle.append(another)

    def _give_out(self, trainer: Trainer, due: int) -> None:
        """Send new weights to idle actors, unless pending examples suffice."""
        weights = None
        while self._idle and self.arrived + self.chunk * len(self._calls) <= due:
            if weights is None:
                state = {name: value.detach().clone() for name, value in trainer.network.state_dict().items()}
                weights = ray.put(state)
            actor = self._idle.pop(0)
            self._given += 1
            call = actor.make.remote(weights, trainer.step, self._seed * 1_000_003 + self._given, self.chunk)
            self._calls[call] = actor, time.monotonic()

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
