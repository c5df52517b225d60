"""A pool of actors that pulls units of work and outlives the death of any of them.

A unit's answer is small; what it produces it writes to files, whole or not at all. So a unit may run twice without
harm, and units lost with an actor are simply given to another. Calls are never retried by Ray itself: that would
pin them to the dead actor while others idle.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
import torch
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from advlab.errors import UserError, one_line

LOST = (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    WorkerCrashedError,
)
"""What befalls a unit through no fault of its own."""

STATUS_SECONDS = 5.0
"""How often units that take long are asked how far they are."""


class Resources(Protocol):
    """What a unit finds on the actor that runs it."""

    device: torch.device

    def get(self, key: str) -> Any:
        """The shared object put under ``key``, fetched once per machine and kept by the actor."""
        ...

    def memo(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of ``make()``, remembered under ``key`` by the actor."""
        ...

    def note(self, text: str) -> None:
        """Say how far the unit is, for those who watch."""
        ...


class Unit(Protocol):
    """One piece of work, known in advance, idempotent."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def run(self, resources: Resources) -> Any:
        """Do it on an actor; the answer must be small."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolOptions:
    """Size of the pool."""

    actors: int | None = None
    """Number of actors; as many as the cluster has room for when absent."""

    num_cpus: float = 1.0
    """CPUs per actor, and threads that PyTorch uses in it."""

    num_gpus: float = 0.0
    """GPUs per actor; 0.25 lets four actors share one."""

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UserError(f"--actors {self.actors} is impossible; choose at least 1.")
        if self.num_cpus < 0 or self.num_gpus < 0:
            raise UserError(f"--num-cpus {self.num_cpus:g} --num-gpus {self.num_gpus:g}: neither may be negative.")


@dataclass(slots=True)
class Failure:
    """A unit that could not be done."""

    unit: Unit
    reason: str


@dataclass(slots=True)
class _State:
    """What is to do, what each actor was given, oldest first (None: the question whether it is alive)."""

    todo: deque[Unit]
    depth: int
    given: dict[ray.ObjectRef, tuple[int, Unit | None]] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


class Pool:
    """Actors of one size, sharing objects by reference.

    Args:
        options: size of the pool.
        actors: how many to start.
        max_attempts: losses after which a unit counts as failed.
    """

    def __init__(self, options: PoolOptions, actors: int, *, max_attempts: int = 3) -> None:
        self._options, self.max_attempts = options, max_attempts
        actor_options: dict[str, Any] = {
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            "max_restarts": -1,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {"status": 1},  # so that an actor can be asked how far it is while it works
        }
        remote: Any = ray.remote(**actor_options)(_Worker)
        threads = max(1, int(options.num_cpus))
        self._actors = [remote.remote(threads, options.num_gpus > 0) for _ in range(actors)]
        self._shared: dict[str, ray.ObjectRef] = {}

    def share(self, key: str, value: Any) -> None:
        """Put an object where every unit can get it by ``key``; it travels at most once to each machine."""
        self._shared[key] = ray.put(value)

    def run(
        self,
        units: Iterable[Unit],
        on_result: Callable[[Unit, Any], Iterable[Unit]] = lambda _unit, _answer: (),
        *,
        on_status: Callable[[str], None] = lambda _: None,
        depth: int = 2,
    ) -> list[Failure]:
        """Do all units and those that ``on_result`` returns in answer to finished ones.

        Args:
            units: the work to begin with, done roughly in this order.
            on_result: called in this process as ``on_result(unit, answer)``; the units it returns are done next.
            on_status: called every few seconds with what the units under way have to say.
            depth: units queued on an actor at a time: 2, so that it never waits for this process, or 1 for units so
                long that one should not wait behind another.

        Returns:
            The units that failed: at once when they raised, after ``max_attempts`` losses otherwise. The others are
            finished all the same.
        """
        state = _State(deque(units), depth)
        for actor in range(len(self._actors)):
            self._probe(state, actor)
        asked = time.monotonic()
        with _noted_interrupt() as interrupted:
            while state.todo or any(unit is not None for _, unit in state.given.values()):
                ready, _ = ray.wait(list(state.given), num_returns=1, timeout=min(1.0, STATUS_SECONDS))
                if interrupted.is_set():
                    raise KeyboardInterrupt
                if time.monotonic() - asked > STATUS_SECONDS:
                    asked = time.monotonic()
                    on_status(self._status(state))
                for ref in ready:
                    self._receive(state, ref, on_result)
        return state.failures

    def _receive(self, state: _State, ref: ray.ObjectRef, on_result: Callable[[Unit, Any], Iterable[Unit]]) -> None:
        """Take the answer of a call that came to an end, and give out more work."""
        actor, unit = state.given[ref]
        try:
            answer = ray.get(ref)
        except LOST as error:
            self._take_back(state, actor, error)
        except RayTaskError as error:
            del state.given[ref]
            if unit is not None:
                state.failures.append(Failure(unit, _reason(error.cause)))
        else:
            del state.given[ref]
            if unit is not None:
                state.todo.extendleft(reversed(list(on_result(unit, answer))))
        self._fill(state)

    def _status(self, state: _State) -> str:
        """What the busy actors say they are at; those that do not answer at once are passed over."""
        busy = {actor for actor, unit in state.given.values() if unit is not None}
        if not busy:
            cpus, gpus = self._options.num_cpus, self._options.num_gpus
            return f"waiting for room for an actor of {cpus:g} CPUs and {gpus:g} GPUs"
        asked = [self._actors[actor].status.remote() for actor in sorted(busy)]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=1)
        return "; ".join(note for ref in answered if _has_answer(ref) and (note := ray.get(ref)))

    def _probe(self, state: _State, actor: int) -> None:
        """Ask an actor to report once it is (again) alive; until then it gets no work."""
        ref = self._actors[actor].ready.options(max_task_retries=-1).remote()
        state.given[ref] = (actor, None)

    def _fill(self, state: _State) -> None:
        held = [0] * len(self._actors)
        for actor, unit in state.given.values():
            held[actor] += state.depth if unit is None else 1  # a probed actor is not known to be alive
        for level in range(state.depth):
            for actor, count in enumerate(held):
                if state.todo and count <= level:
                    unit = state.todo.popleft()
                    state.given[self._actors[actor].run.remote(unit, self._shared)] = (actor, unit)
                    held[actor] += 1

    def _take_back(self, state: _State, actor: int, error: Exception) -> None:
        """Recover what a dead actor was given; only the oldest of it, the unit it was at, can have killed it."""
        lost: list[Unit] = []
        for ref in [ref for ref, (holder, _) in state.given.items() if holder == actor]:
            if not _has_answer(ref):
                _, unit = state.given.pop(ref)
                lost += [unit] if unit is not None else []
        for unit in reversed(lost):
            attempts = state.attempts[unit.name] = state.attempts.get(unit.name, 0) + (unit is lost[0])
            if attempts < self.max_attempts:
                state.todo.appendleft(unit)
            else:
                state.failures.append(Failure(unit, f"lost {attempts} times, last: {_reason(error)}"))
        self._probe(state, actor)


class _Worker:
    """The actor: keeps shared objects and whatever units ask it to remember."""

    def __init__(self, threads: int, use_gpu: bool) -> None:
        # Small batched tensor work loses an order of magnitude when threads outnumber the actor's cores.
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
        self._shared: dict[str, ray.ObjectRef] = {}
        self._memo: dict[str, Any] = {}
        self._note = ""

    @ray.method(concurrency_group="status")
    def status(self) -> str:
        return self._note

    def note(self, text: str) -> None:
        self._note = text

    def ready(self) -> bool:
        return True

    def run(self, unit: Unit, shared: dict[str, ray.ObjectRef]) -> Any:
        self._shared = shared
        self._note = unit.name
        return unit.run(self)

    def get(self, key: str) -> Any:
        return self.memo(f"shared {key}", lambda: ray.get(self._shared[key]))

    def memo(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]


@contextmanager
def _noted_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets: raised inside Ray or a callback, a KeyboardInterrupt can get lost."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, lambda _signal, _frame: noted.set())
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _has_answer(ref: ray.ObjectRef) -> bool:
    """Whether a call came to an end of its own, good or bad, rather than being lost or still under way."""
    if not ray.wait([ref], timeout=0)[0]:
        return False
    try:
        ray.get(ref)
    except LOST:
        return False
    except RayTaskError:
        return True
    return True


def _reason(error: BaseException) -> str:
    text = one_line(error)
    if isinstance(error, UserError):
        return text.rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
