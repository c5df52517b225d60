"""The scheduler of a pool: which unit runs where; independent of Ray."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from advlab.engine.worker import Unit

PATIENCE_SECONDS = 2.0
"""Seconds a unit may wait behind another, or run, before an idle actor gets it as well."""
STRAGGLER_FACTOR = 2.0
"""A unit is late when it takes this many times the median of its kind."""
PERSISTENT = 3
"""Consecutive errors of the operating system (and at least one per actor) after which no further unit is started."""
MIN_SAMPLES = 3
"""Finished units of a kind from which its median counts."""


@dataclass(frozen=True, slots=True)
class Failure:
    unit: Unit
    reason: str


@dataclass(slots=True)
class Call:
    """A call to an actor, to process a unit, or (``probe``) to ask if it is alive.

    Attributes:
        unit: None for a probe, and for a unit whose answer is no longer wanted: until such a call ends the actor gets
            no work.
        given: time of the call, in seconds.
        started: when the actor started it; None while it waits behind another.
    """

    actor: int
    probe: bool
    unit: Unit | None
    given: float
    started: float | None


class Scheduler:
    """Units to do (``todo``), running calls (oldest first), and the number and the duration of the attempts.

    Calls are identified by any hashable. If a unit runs twice, the first answer counts and the other is ignored.
    ``open`` is the number of units that are neither done nor failed.
    """

    def __init__(self, units: Iterable[Unit], *, depth: int, max_attempts: int) -> None:
        self.todo = deque(units)
        self.open = len(self.todo)
        self.calls: dict[Hashable, Call] = {}
        self.failures: list[Failure] = []
        self._depth, self._max_attempts = depth, max_attempts
        self._queues: defaultdict[int, list[Hashable]] = defaultdict(list)
        self._attempts: Counter[str] = Counter()
        self._refusals = 0
        self._seconds: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=100))

    def record(self, ref: Hashable, actor: int, unit: Unit | None, now: float) -> None:
        """Record that an actor was given a unit, or a probe (None)."""
        queue = self._queues[actor]
        self.calls[ref] = Call(actor, unit is None, unit, given=now, started=None if queue else now)
        queue.append(ref)

    def add(self, units: Iterable[Unit]) -> None:
        """Add units, to be processed next."""
        more = list(units)
        self.todo.extendleft(reversed(more))
        self.open += len(more)

    def vacancies(self, actors: Iterable[int]) -> Iterator[int]:
        """The actors that can take units, once per unit, the least loaded first."""
        loads = {actor: self._load(actor) for actor in actors}
        for level in range(self._depth):
            yield from (actor for actor, load in loads.items() if load <= level)

    def idle(self, actors: Iterable[int]) -> Iterator[int]:
        return (actor for actor in actors if not self._queues[actor])

    def _load(self, actor: int) -> int:
        queue = self._queues[actor]
        return self._depth if any(self.calls[ref].unit is None for ref in queue) else len(queue)

    def answered(self, ref: Hashable, now: float) -> Unit | None:
        """Record an answer; returns the unit that is now done, if any."""
        call = self._end(ref, now)
        if call.unit is None:
            return None
        if call.started is not None:
            self._seconds[call.unit.kind].append(now - call.started)
        for copy in self._copies(call.unit):
            copy.unit = None
        self.open -= 1
        self._refusals = 0
        return call.unit

    def raised(self, ref: Hashable, reason: str, now: float, *, retry: bool = False) -> None:
        """Record that a call raised: its unit has failed, unless a copy of it is running or ``retry`` is set."""
        unit = self._end(ref, now).unit
        if unit is not None:
            self._attempts[unit.name] += 1
            self._do_again(unit, reason, last=not retry)

    def refused(self) -> None:
        """Record that the last error came from the operating system; if they persist, give up what has not started."""
        self._refusals += 1
        if self._refusals >= max(PERSISTENT, len(self._queues)):
            self.failures += [Failure(unit, "not started") for unit in self.todo]
            self.open -= len(self.todo)
            self.todo.clear()

    def withdrawn(self, ref: Hashable, now: float) -> None:
        """Record that a call was cancelled before the actor started it."""
        unit = self._end(ref, now).unit
        if unit is not None:
            self._do_again(unit, "withdrawn")

    def lost(self, actor: int, reason: str, now: float, *, has_answer: Callable[[Hashable], bool]) -> None:
        """Record that an actor died; units that it has not answered are processed by others.

        Only the oldest of these, the unit that was running, can have been the cause.
        """
        unanswered = [ref for ref in self._queues[actor] if not has_answer(ref)]
        for place, ref in reversed(list(enumerate(unanswered))):
            unit = self._end(ref, now).unit
            if unit is not None:
                self._attempts[unit.name] += place == 0
                self._do_again(unit, reason)

    def _do_again(self, unit: Unit, reason: str, *, last: bool = False) -> None:
        """Queue a unit again if no copy of it is running, or record its failure."""
        attempts = self._attempts[unit.name]
        if self._copies(unit):
            return
        if attempts < self._max_attempts and not last:
            self.todo.appendleft(unit)
            return
        self.failures.append(Failure(unit, reason if last else f"lost {attempts} times, last: {reason}"))
        self.open -= 1

    def waiting(self) -> list[Hashable]:
        """Calls for units that wait behind others, oldest first."""
        return [ref for ref, call in self.calls.items() if call.unit is not None and call.started is None]

    def running(self) -> list[tuple[float, int, Unit]]:
        """(start, actor, unit) of the running units, oldest first."""
        running = [
            (call.started, call.actor, call.unit)
            for call in self.calls.values()
            if call.unit is not None and call.started is not None
        ]
        return sorted(running, key=lambda entry: entry[:2])

    def relief(self, now: float) -> tuple[Unit, Hashable | None] | None:
        """Work that an idle actor can take over from the others when no unit is left to assign.

        It is a unit that waits behind another, with its call, to be cancelled: that answer is no longer wanted. Or a
        second copy of the oldest unit that is late, and None.
        """
        if self.todo:
            return None
        for ref in self.waiting():
            call = self.calls[ref]
            if call.unit is not None and now - call.given > PATIENCE_SECONDS:
                unit, call.unit = call.unit, None
                return unit, ref
        for started, _, unit in self.running():
            if now - started > self._patience(unit) and len(self._copies(unit)) == 1:
                return unit, None
        return None

    def _patience(self, unit: Unit) -> float:
        seconds = self._seconds[unit.kind]
        if len(seconds) < MIN_SAMPLES:
            return float("inf")
        return max(PATIENCE_SECONDS, STRAGGLER_FACTOR * median(seconds))

    def _copies(self, unit: Unit) -> list[Call]:
        return [call for call in self.calls.values() if call.unit is not None and call.unit.name == unit.name]

    def _end(self, ref: Hashable, now: float) -> Call:
        call = self.calls.pop(ref)
        queue = self._queues[call.actor]
        queue.remove(ref)
        if queue and self.calls[queue[0]].started is None:
            self.calls[queue[0]].started = now
        return call
