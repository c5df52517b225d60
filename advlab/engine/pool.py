"""A pool of actors that pulls units of work and outlives the death of any of them.

A unit's answer is small; what it produces it writes to files, whole or not at all. So a unit may run twice without
harm: units lost with an actor are given to another, and late ones to a second one. Calls are never retried by Ray
itself: that would pin them to the dead actor while others idle.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError, TaskCancelledError

from advlab.engine.actors import Actors, PoolOptions
from advlab.engine.scheduler import Failure, Scheduler
from advlab.engine.worker import Unit
from advlab.errors import UserError, one_line

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""How often the cluster is asked for its size, and long units for how far they are."""
WAIT_SECONDS = 0.2
"""How long Ray is waited for at a time: meanwhile it lets no Ctrl-C through."""
DRAIN_SECONDS = 10.0
"""How long units under way may go on after Ctrl-C."""
ASKED_AT_ONCE = 3
"""How many of the actors that have been at their units for longest are asked how far they are."""
OnResult = Callable[[Unit, Any], Iterable[Unit]]


class ActorPool:
    """Actors of one size, sharing objects by reference; they are started when there is work, and end with the block.

    Args:
        options: size of the actors, and the most there may be.
        elastic: whether the cluster can grow and shrink; the pool then follows it.
        max_attempts: losses after which a unit counts as the cause. Machines that vanish under it count too, so few
            would fail long units on spot machines that have done no wrong.

    Raises:
        UserError: not one actor fits a cluster that cannot grow.
    """

    def __init__(self, options: PoolOptions, *, elastic: bool, max_attempts: int = 5) -> None:
        self._actors = Actors(options, elastic=elastic)
        self._shared: dict[str, ray.ObjectRef] = {}
        self.max_attempts = max_attempts

    def __enter__(self) -> ActorPool:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._actors.dismiss(self._actors.actors)

    def share(self, key: str, value: Any) -> None:
        """Put an object where every unit of the next ``run`` can get it by ``key``; it travels once to each machine.

        Raises:
            UserError: it cannot travel.
        """
        try:
            self._shared[key] = ray.put(value)
        except RayError as error:
            raise UserError(
                f"{key} does not fit the object store ({_reason(error)}); free memory on this machine, or start Ray "
                "with a larger --object-store-memory."
            ) from error
        except Exception as error:  # whatever its pickling raises; Ray adds a page of its own
            raise UserError(
                f"{key} cannot be sent to other processes ({_reason(error.__cause__ or error)}); "
                "keep locks, open files, generators and the like out of it."
            ) from error

    def require_file(self, folder: str, name: str) -> None:
        """From now on leave out machines that do not see this file of a folder."""
        self._actors.require_file(folder, name)

    def unshare(self, *keys: str) -> None:
        """Let go of shared objects."""
        for key in keys:
            del self._shared[key]

    def run(
        self,
        units: Iterable[Unit],
        on_result: OnResult = lambda _unit, _answer: (),
        *,
        inputs: Callable[[Unit], Any] = lambda _unit: None,
        on_status: Callable[[str], None] = lambda _: None,
        depth: int = 2,
    ) -> list[Failure]:
        """Do all units and those that ``on_result`` returns in answer to finished ones.

        The first Ctrl-C stops giving out units and leaves those under way a few seconds to finish, the second leaves
        at once.

        Args:
            units: the work to begin with, done roughly in this order.
            on_result: called in this process, once for each unit that is done, as ``on_result(unit, answer)``; the
                units it returns are done next.
            inputs: called when a unit is given out: what is handed over with it, small or a reference to an object.
            on_status: called every few seconds with what the units under way have to say.
            depth: units queued on an actor at a time: 2, so that it never waits for this process, or 1 for units so
                long that one should not wait behind another.

        Returns:
            The units that failed: at once when they raised, after ``max_attempts`` losses otherwise. The others are
            finished all the same, unless the system refuses one after another (a full disk): then what was not begun
            is given up.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            UserError: no machine can run the actors.
        """
        scheduler = Scheduler(units, depth=depth, max_attempts=self.max_attempts)
        for actor in self._actors.actors:
            self._probe(scheduler, actor)
        polled = 0.0
        with _noted_interrupts() as interrupts:
            while scheduler.open and not interrupts:
                if time.monotonic() - polled > POLL_SECONDS or not scheduler.calls:
                    if polled:
                        on_status(self._status(scheduler))
                    polled = time.monotonic()
                    self._resize(scheduler)
                self._receive(scheduler, on_result)
                self._give_out(scheduler, inputs)
            if interrupts:
                self._drain(scheduler, on_result, interrupts)
                raise KeyboardInterrupt
        return scheduler.failures

    def _resize(self, scheduler: Scheduler) -> None:
        """Follow the cluster's size and the amount of work; only actors that wait for room are let go."""
        surplus = len(self._actors.actors) - self._actors.wanted(scheduler.open)
        if surplus > 0:
            self._actors.dismiss(self._actors.waiting()[-surplus:])
        for actor in self._actors.hire(-surplus):
            self._probe(scheduler, actor)

    def _probe(self, scheduler: Scheduler, actor: int) -> None:
        """Ask an actor to report once it is alive; until then it gets no work."""
        scheduler.record(self._actors.ready(actor, self._shared), actor, None, time.monotonic())

    def _receive(self, scheduler: Scheduler, on_result: OnResult) -> None:
        """Wait a moment for calls to come to an end."""
        ready, _ = ray.wait(list(scheduler.calls), num_returns=1, timeout=WAIT_SECONDS)
        for ref in ready:
            call, now = scheduler.calls[ref], time.monotonic()
            try:
                answer = ray.get(ref)
            except TaskCancelledError:
                scheduler.withdrawn(ref, now)
            except RayTaskError as error:
                scheduler.raised(ref, _reason(error.cause), now, retry=isinstance(error.cause, RayError))
                if isinstance(error.cause, OSError):
                    scheduler.refused()
            except RayError as error:  # the actor's, the machine's or the network's fault
                self._lost(scheduler, call.actor, error)
            else:
                unit = scheduler.answered(ref, now)
                if unit is not None:
                    scheduler.add(on_result(unit, answer))
                elif call.probe:
                    self._actors.reported(call.actor, *answer)

    def _lost(self, scheduler: Scheduler, actor: int, error: RayError) -> None:
        scheduler.lost(actor, _reason(error), time.monotonic(), has_answer=_has_answer)
        self._actors.lost(actor)
        if actor not in self._actors.actors:  # it was dismissed
            return
        if isinstance(error, ActorDiedError) and error.actor_init_failed:
            self._actors.stillborn(actor, str(error).strip().splitlines()[-1])
        else:
            self._probe(scheduler, actor)

    def _give_out(self, scheduler: Scheduler, inputs: Callable[[Unit], Any]) -> None:
        for actor in scheduler.vacancies(self._actors.actors):
            if not scheduler.todo:
                break
            self._give(scheduler, actor, scheduler.todo.popleft(), inputs)
        for actor in scheduler.idle(self._actors.actors):
            relief = scheduler.relief(time.monotonic())
            if relief is None:
                break
            unit, superseded = relief
            if superseded is not None:
                ray.cancel(superseded)
            self._give(scheduler, actor, unit, inputs)

    def _give(self, scheduler: Scheduler, actor: int, unit: Unit, inputs: Callable[[Unit], Any]) -> None:
        ref = self._actors.actors[actor].run.remote(unit, inputs(unit))
        scheduler.record(ref, actor, unit, time.monotonic())

    def _status(self, scheduler: Scheduler) -> str:
        """What the units that have been under way for longest have to say, those of them that answer at once."""
        running = scheduler.running()[:ASKED_AT_ONCE]
        if not running:
            return f"waiting for an actor of {self._actors.options.size}"
        asked = [self._actors.actors[actor].status.remote() for _, actor, _ in running]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=0.5)
        return "; ".join(note for ref in answered if _has_answer(ref) and (note := ray.get(ref)))

    def _drain(self, scheduler: Scheduler, on_result: OnResult, interrupts: list[int]) -> None:
        """Let the units under way finish, unless that takes long or Ctrl-C is pressed again."""
        for ref in scheduler.waiting():
            ray.cancel(ref)
        deadline = time.monotonic() + DRAIN_SECONDS
        logger.info(
            "\nstopping: %d units under way may go on for %.0f seconds; Ctrl-C again leaves at once",
            len(scheduler.running()),
            DRAIN_SECONDS,
        )
        while scheduler.running() and time.monotonic() < deadline and len(interrupts) < 2:
            self._receive(scheduler, on_result)


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """A list that every Ctrl-C adds to: raised inside Ray or a callback, a KeyboardInterrupt can get lost."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _has_answer(ref: Any) -> bool:
    """Whether a call came to an end of its own, good or bad, rather than being lost or still under way."""
    if not ray.wait([ref], timeout=0)[0]:
        return False
    try:
        ray.get(ref)
    except (RayTaskError, TaskCancelledError):
        return True
    except RayError:
        return False
    return True


def _reason(error: BaseException) -> str:
    text = one_line(error)
    if isinstance(error, UserError):
        return text.rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def require_success(failures: list[Failure], uri: str) -> None:
    """Raise a UserError that names the first of the units that failed, if any did, and where the others lie."""
    if failures:
        first = failures[0]
        raise UserError(
            f"{len(failures)} unit{'s' * (len(failures) > 1)} of work failed, the first being {first.unit.name!r} "
            f"({first.reason}); the finished ones are kept in {uri!r}: run the same command again "
            "once the cause is gone."
        )
