"""The pool on a real Ray: every unit once, whatever dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from advlab.engine.actors import Actors, PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.session import host_count
from advlab.engine.worker import Resources, Unit
from advlab.errors import UserError

pytestmark = pytest.mark.usefixtures("local_ray")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests


@dataclass(frozen=True)
class Work:
    """Writes a file; may first kill its actor, ``deaths`` times, or raise."""

    number: int
    folder: str
    deaths: int = 0
    raises: bool = False
    kind: str = "work"

    @property
    def name(self) -> str:
        return f"work {self.number}"

    def run(self, resources: Resources) -> int:
        attempts = Path(self.folder, f"attempts-{self.number}")
        with attempts.open("a") as stream:
            stream.write("x")
        if attempts.stat().st_size <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raises:
            raise ValueError(f"nothing to be done about {self.number}")
        return self.number * int(resources.get("factor"))


@pytest.fixture(scope="module")
def pool() -> Iterator[ActorPool]:
    """Two actors."""
    with ActorPool(PoolOptions(actors=2, num_cpus=0.5), elastic=False) as pool:
        pool.share("factor", 10)
        yield pool


class Answers(dict[str, Any]):
    """Takes every answer, by unit, and sees that it comes once."""

    def __call__(self, unit: Unit, answer: Any) -> Iterable[Unit]:
        assert unit.name not in self
        self[unit.name] = answer
        return ()


def run(pool: ActorPool, units: Iterable[Unit], **more: Any) -> tuple[Answers, list[str]]:
    answers = Answers()
    failures = pool.run(units, answers, **more)
    return answers, [f"{failure.unit.name}: {failure.reason}" for failure in failures]


def test_every_unit_is_done_once(pool: ActorPool, tmp_path: Path) -> None:
    answers, failures = run(pool, (Work(number, str(tmp_path)) for number in range(25)))
    assert answers == {f"work {number}": number * 10 for number in range(25)}
    assert not failures
    assert all(path.stat().st_size == 1 for path in tmp_path.iterdir())


def test_no_units_is_no_work(pool: ActorPool) -> None:
    assert run(pool, []) == ({}, [])


def test_units_may_call_for_more(pool: ActorPool, tmp_path: Path) -> None:
    seen: list[str] = []

    def follow(unit: Unit, answer: int) -> Iterable[Unit]:
        seen.append(unit.name)
        return [Work(answer // 10 + 1, str(tmp_path))] if answer < 30 else []

    assert not pool.run([Work(0, str(tmp_path))], follow)
    assert seen == ["work 0", "work 1", "work 2", "work 3"]


def test_units_of_a_killed_actor_are_done_by_others(pool: ActorPool, tmp_path: Path) -> None:
    units = [Work(number, str(tmp_path), deaths=int(number in (2, 9))) for number in range(14)]
    answers, failures = run(pool, units)
    assert len(answers) == 14
    assert not failures


def test_a_unit_that_keeps_killing_its_actor_is_named_and_the_rest_is_done(pool: ActorPool, tmp_path: Path) -> None:
    units = [Work(number, str(tmp_path), deaths=99 if number == 3 else 0) for number in range(8)]
    answers, failures = run(pool, units)
    assert sorted(answers) == [f"work {number}" for number in range(8) if number != 3]
    assert len(failures) == 1
    # five times, and once more where a second actor had been given it meanwhile, as it was late
    assert failures[0].startswith(("work 3: lost 5 times", "work 3: lost 6 times"))


@dataclass(frozen=True)
class Sleep:
    """Takes its time: less when tried again, if it is told so."""

    name: str
    folder: str
    seconds: float
    again: float | None = None
    kind: str = "sleep"

    def run(self, _resources: Resources) -> str:
        try:
            Path(self.folder, self.name).touch(exist_ok=False)
            time.sleep(self.seconds)
        except FileExistsError:
            Path(self.folder, f"{self.name} again").touch()
            time.sleep(self.seconds if self.again is None else self.again)
        return self.name


@dataclass(frozen=True, slots=True)
class Outlasts:
    """Ends when others have begun; fails if they never do."""

    name: str
    folder: str
    others: tuple[str, ...]
    kind: str = "outlasts"

    def run(self, _resources: Resources) -> str:
        deadline = time.monotonic() + 100
        while not all(Path(self.folder, other).exists() for other in self.others):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self.name


@dataclass(frozen=True, slots=True)
class Held:
    """Says that it has begun, and goes on until it is let go."""

    name: str
    folder: str
    kind: str = "held"

    def run(self, resources: Resources) -> str:
        resources.note(f"{self.name} has begun")
        Path(self.folder, self.name).touch()
        deadline = time.monotonic() + 100
        while not Path(self.folder, "let go").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self.name


def test_units_under_way_are_asked_how_far_they_are(
    pool: ActorPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("advlab.engine.pool.POLL_SECONDS", 0.2)

    def heard(status: str) -> None:
        if status == "slow has begun":
            (tmp_path / "let go").touch()

    answers, failures = run(pool, [Held("slow", str(tmp_path))], on_status=heard)
    assert set(answers) == {"slow"}
    assert not failures


def test_a_unit_that_waits_behind_a_long_one_is_taken_over(pool: ActorPool, tmp_path: Path) -> None:
    # two units for each actor: the long one and the stuck one go to the same, and the long one waits for all others
    quick = ("short", "stuck", "other")
    units: list[Unit] = [Outlasts("long", str(tmp_path), quick), *(Sleep(name, str(tmp_path), 0.1) for name in quick)]
    answers, failures = run(pool, units)
    assert set(answers) == {"long", *quick}
    assert not failures
    assert not list(tmp_path.glob("* again"))


def test_a_straggler_is_given_to_an_idle_actor_and_not_waited_for(tmp_path: Path) -> None:
    quick = [Sleep(f"quick {number}", str(tmp_path), 0.05) for number in range(6)]
    late = Sleep("late", str(tmp_path), seconds=10_000, again=0.1)
    with ActorPool(PoolOptions(actors=2, num_cpus=0.5), elastic=False) as pool:
        answers, failures = run(pool, [late, *quick])
        assert sorted(answers) == sorted(["late", *(unit.name for unit in quick)])
        assert not failures
        assert Path(tmp_path, "late again").exists()
        # the actor that is still at it gets nothing; the other does what comes next
        assert run(pool, [Sleep("next", str(tmp_path), 0)]) == ({"next": "next"}, [])


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_lets_units_under_way_finish_unless_pressed_again(
    presses: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Units under way end once their actors have answered after those behind were withdrawn, or outlast the pool."""
    monkeypatch.setattr("advlab.engine.pool.DRAIN_SECONDS", 100.0)
    answers, drain, receive = Answers(), ActorPool._drain, ActorPool._receive
    draining = False

    def press() -> None:
        while len(list(tmp_path.glob("unit *"))) < 2:  # one for each actor; two more wait behind them
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def note_drain(self: ActorPool, *arguments: Any) -> None:
        nonlocal draining
        draining = True
        if presses == 2:
            os.kill(os.getpid(), signal.SIGINT)
        drain(self, *arguments)

    def let_go(self: ActorPool, *arguments: Any) -> None:
        if draining:
            ray.get([actor.status.remote() for actor in self._actors.actors.values()])
            (tmp_path / "let go").touch()
        receive(self, *arguments)

    monkeypatch.setattr(ActorPool, "_drain", note_drain)
    monkeypatch.setattr(ActorPool, "_receive", let_go)
    with ActorPool(PoolOptions(actors=2, num_cpus=0.5), elastic=False) as pool:
        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt):
            pool.run([Held(f"unit {number}", str(tmp_path)) for number in range(6)], answers)
    begun = {path.name for path in tmp_path.glob("unit *")}
    assert len(begun) == 2
    assert set(answers) == (begun if presses == 1 else set())


@dataclass(frozen=True)
class Look:
    """Says what it was handed, what is shared, and how many threads it may use."""

    name: str
    kind: str = "look"

    def run(self, resources: Resources) -> tuple[Any, list[str], int]:
        import torch

        def shared(key: str) -> str:
            try:
                return str(resources.get(key))
            except KeyError:
                return "gone"

        return resources.input, [shared("first"), shared("second")], torch.get_num_threads()


def test_shared_objects_come_and_go_and_inputs_travel_with_their_unit(pool: ActorPool) -> None:
    pool.share("first", 1)
    inputs = {"a": 7, "b": ray.put([8])}
    answers, _ = run(pool, [Look("a"), Look("b")], inputs=lambda unit: inputs[unit.name])
    assert answers == {"a": (7, ["1", "gone"], 1), "b": ([8], ["1", "gone"], 1)}
    pool.share("second", 2)
    pool.unshare("first")
    answers, _ = run(pool, [Look("c")])
    assert answers == {"c": (None, ["gone", "2"], 1)}


def test_what_cannot_travel_is_named(pool: ActorPool) -> None:
    with pytest.raises(UserError, match="model x cannot be sent") as caught:
        pool.share("model x", threading.Lock())
    assert "cannot pickle '_thread.lock' object" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_unit_that_raises_is_named_and_the_rest_is_done(pool: ActorPool, tmp_path: Path) -> None:
    units = [Work(number, str(tmp_path), raises=number == 1) for number in range(6)]
    answers, failures = run(pool, units)
    assert len(answers) == 5
    assert failures == ["work 1: ValueError: nothing to be done about 1"]
    assert Path(tmp_path, "attempts-1").stat().st_size == 1


class Strange(Exception):
    """Cannot be made again from its message alone."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


@dataclass(frozen=True)
class Raise:
    """Raises."""

    name: str
    error: type[BaseException]
    kind: str = "raise"

    def run(self, _resources: Resources) -> None:
        raise Strange("a", "b") if self.error is Strange else self.error("no room left")


@pytest.mark.parametrize(
    ("error", "told"), [(Strange, "Strange: a b"), (KeyboardInterrupt, "KeyboardInterrupt: no room left")]
)
def test_errors_that_ray_would_mistake_for_its_own_are_reported_as_they_are(
    pool: ActorPool, error: type[BaseException], told: str
) -> None:
    assert run(pool, [Raise("odd", error)]) == ({}, [f"odd: RuntimeError: {told}"])


def test_work_ends_when_the_system_refuses_one_unit_after_another(pool: ActorPool, tmp_path: Path) -> None:
    units = [Raise(f"unit {number}", OSError) for number in range(40)]
    answers, failures = run(pool, [Work(1, str(tmp_path)), *units])
    assert len(answers) == 1
    assert len(failures) == 40
    assert failures[0].endswith("OSError: no room left")
    assert sum(failure.endswith("not started") for failure in failures) >= 30


def test_as_many_actors_as_there_is_work_and_room_for() -> None:
    cpus = os.cpu_count() or 1

    def wanted(units: int, *, elastic: bool, **options: Any) -> int:
        return Actors(PoolOptions(**options), elastic=elastic).wanted(units)

    assert wanted(1000, elastic=False) == cpus
    assert wanted(1, elastic=False) == 1
    assert wanted(1000, elastic=False, num_cpus=0.5) == 2 * cpus
    assert wanted(1000, elastic=False, actors=1000) == cpus
    assert wanted(1000, elastic=False, actors=1) == 1
    memory = ray.cluster_resources()["memory"] / 2**30
    assert wanted(1000, elastic=False, memory=0.6 * memory) == 1
    # where machines can join, more are asked for, up to the number given
    assert wanted(1000, elastic=True) == 2 * cpus
    assert wanted(1000, elastic=True, actors=7) == 7
    assert wanted(3, elastic=True, actors=7) == 3
    assert wanted(1000, elastic=True, num_cpus=10_000) == 1
    assert host_count() == 1


@pytest.mark.parametrize("options", [{"num_cpus": 10_000.0}, {"num_gpus": 64.0}, {"memory": 100_000.0}])
def test_actors_larger_than_this_machine_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="fits this machine"):
        ActorPool(PoolOptions(**options), elastic=False)


@pytest.mark.parametrize(
    "options", [{"actors": 0}, {"actors": -1}, {"num_cpus": -1.0}, {"num_gpus": -0.5}, {"memory": -1.0}]
)
def test_impossible_sizes_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError):
        PoolOptions(**options)
