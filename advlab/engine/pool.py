"""A pool of actors that process units of work and tolerates the loss of any of them.

A unit is a piece of work that writes files atomically and returns a small answer, so it may safely run twice: units
lost with an actor are given to another, and late ones to a second actor as well. Calls are never retried by Ray itself,
which would bind them to the dead actor while others are idle.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError, TaskCancelledError

from advlab.engine.actors import Actors, PoolOptions
from advlab.engine.progress import Stage
from advlab.engine.scheduler import Failure, Scheduler
from advlab.engine.worker import Unit
from advlab.errors import UserError, one_line

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Seconds between two looks at the size of the cluster and at the progress of long units."""
WAIT_SECONDS = 0.2
"""Longest wait for Ray in one call: during it, Ctrl-C has no effect."""
DRAIN_SECONDS = 10.0
"""Seconds that running units have to finish after Ctrl-C."""
ASKED_AT_ONCE = 3
"""Number of actors, those with the longest-running units, that are asked for their progress."""
OnResult = Callable[[Unit, Any], Iterable[Unit]]


class ActorPool:
    """Actors of one size that share objects by reference; started when there is work, killed at the end of the block.

    On an ``elastic`` cluster the pool follows its size. After ``max_attempts`` losses a unit counts as their cause;
    machines that vanish count too, so too few would fail long units on spot machines for no fault of theirs. Raises a
    UserError when no actor fits a cluster that cannot grow.
    """

    def __init__(self, options: PoolOptions, *, elastic: bool, max_attempts: int = 5) -> None:
        self._actors = Actors(options, elastic=elastic)
        self._shared: dict[str, ray.ObjectRef] = {}
        self.max_attempts = max_attempts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._actors.kill(self._actors.actors)

    def share(self, key: str, value: Any) -> None:
        """Share an object with all units of the next ``run``, once per machine; a UserError if it cannot be sent."""
        try:
            self._shared[key] = ray.put(value)
        except RayError as error:
            raise UserError(
                f"{key} does not fit the object store ({_reason(error)}); free memory on this machine, or start Ray "
                "with a larger --object-store-memory."
            ) from error
        except Exception as error:  # pickling may raise anything; Ray adds a page of its own
            raise UserError(
                f"{key} cannot be sent to other processes ({_reason(error.__cause__ or error)}); "
                "remove locks, open files, generators and the like from it."
            ) from error

    def require_file(self, folder: str, name: str, restore: Callable[[], None] = lambda: None) -> None:
        """From now on, exclude machines that do not see this file of a folder; ``restore`` writes it if it is gone."""
        self._actors.require_file(folder, name, restore)

    def unshare(self, *keys: str) -> None:
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
        """Process all units, and those that ``on_result`` returns for finished ones, in roughly this order.

        After the first Ctrl-C no unit is started, and running ones have a few seconds to finish; the second one stops
        at once.

        Args:
            on_result: called in this process as ``on_result(unit, answer)``, once for each finished unit.
            inputs: called when a unit is assigned; returns its input: a small value or a reference to an object.
            on_status: called every few seconds with the progress of the running units.
            depth: units queued on an actor: 2, so that it never waits for this process, or 1 for long units.

        Returns:
            The units that raised, or were lost ``max_attempts`` times. The others are finished, unless one after
            another fails with an error of the operating system (a full disk): then those not started are given up.

        Raises:
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
        """Adapt to the cluster's size and the amount of work; only actors that wait for room are removed."""
        surplus = len(self._actors.actors) - self._actors.wanted(scheduler.open)
        if surplus > 0:
            self._actors.kill(self._actors.waiting()[-surplus:])
        for actor in self._actors.start(-surplus):
            self._probe(scheduler, actor)

    def _probe(self, scheduler: Scheduler, actor: int) -> None:
        """Ask an actor to answer once it is alive; until then it gets no work."""
        scheduler.record(self._actors.ready(actor, self._shared), actor, None, time.monotonic())

    def _receive(self, scheduler: Scheduler, on_result: OnResult) -> None:
        """Wait a moment for calls to end, and process their results."""
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
        if actor not in self._actors.actors:  # it was killed here
            return
        if isinstance(error, ActorDiedError) and error.actor_init_failed:
            self._actors.init_failed(actor, str(error).strip().splitlines()[-1])
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
        """The progress of the longest-running units, of those that answer at once."""
        running = scheduler.running()[:ASKED_AT_ONCE]
        if not running:
            return f"waiting for an actor of {self._actors.options.size}"
        asked = [self._actors.actors[actor].status.remote() for _, actor, _ in running]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=0.5)
        return "; ".join(note for ref in answered if _has_answer(ref) and (note := ray.get(ref)))

    def _drain(self, scheduler: Scheduler, on_result: OnResult, interrupts: list[int]) -> None:
        """Let running units finish, unless that takes too long or Ctrl-C is pressed again."""
        for ref in scheduler.waiting():
            ray.cancel(ref)
        deadline = time.monotonic() + DRAIN_SECONDS
        notice = "\nstopping: %d running units have %.0f seconds to finish; Ctrl-C again stops at once"
        logger.info(notice, len(scheduler.running()), DRAIN_SECONDS)
        while scheduler.running() and time.monotonic() < deadline and len(interrupts) < 2:
            self._receive(scheduler, on_result)


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """Collect every Ctrl-C in a list: a KeyboardInterrupt raised inside Ray or a callback can get lost."""
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
    """Whether a call has returned or raised, and was neither lost nor is still running."""
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


def complete(
    pool: ActorPool,
    missing: list[Any],
    uri: str,
    title: str,
    total: int,
    on_done: Callable[[Any, Any, int], None] = lambda *_: None,
    **options: Any,
) -> None:
    """Do the ``missing`` of ``total`` units behind a progress bar; ``options`` are those of ``ActorPool.run``.

    Each is reported to ``on_done(unit, answer, units done so far)``. Raises a UserError when units failed; the others
    are finished and kept in the study's folder ``uri``.
    """
    with Stage(title, total, done=total - len(missing)) as stage:

        def follow(unit: Unit, answer: Any) -> Iterable[Unit]:
            stage.advance(unit.name)
            on_done(unit, answer, stage.done)
            return ()

        require_success(pool.run(missing, follow, on_status=stage.say, **options), uri)


def require_success(failures: list[Failure], uri: str) -> None:
    """Raise a UserError that names the first failed unit, if any failed, and the folder of the finished ones."""
    if failures:
        first = failures[0]
        raise UserError(
            f"{len(failures)} unit{'s' * (len(failures) > 1)} of work failed, the first being {first.unit.name!r} "
            f"({first.reason}); the finished ones are kept in {uri!r}: run the same command again "
            "once the cause is gone."
        )
