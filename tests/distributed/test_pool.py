"""The pool on a real Ray: every unit once, whatever dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from advlab.distributed.pool import Pool, PoolOptions, Resources, Unit
from advlab.distributed.session import host_count, pool_size
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


def run(units: Iterable[Unit], actors: int = 2) -> tuple[dict[str, Any], list[str]]:
    pool = Pool(PoolOptions(), actors)
    pool.share("factor", 10)
    answers: dict[str, Any] = {}

    def note(unit: Unit, answer: Any) -> Iterable[Unit]:
        assert unit.name not in answers
        answers[unit.name] = answer
        return ()

    failures = pool.run(units, note)
    return answers, [f"{failure.unit.name}: {failure.reason}" for failure in failures]


def test_every_unit_is_done_once(tmp_path: Path) -> None:
    answers, failures = run(Work(number, str(tmp_path)) for number in range(25))
    assert answers == {f"work {number}": number * 10 for number in range(25)}
    assert not failures
    assert all(path.stat().st_size == 1 for path in tmp_path.iterdir())


def test_no_units_is_no_work() -> None:
    assert run([]) == ({}, [])


def test_units_may_call_for_more(tmp_path: Path) -> None:
    pool = Pool(PoolOptions(), 1)
    pool.share("factor", 1)
    seen: list[str] = []

    def follow(unit: Unit, answer: int) -> Iterable[Unit]:
        seen.append(unit.name)
        return [Work(answer + 1, str(tmp_path))] if answer < 3 else []

    assert not pool.run([Work(0, str(tmp_path))], follow)
    assert seen == ["work 0", "work 1", "work 2", "work 3"]


def test_units_of_a_killed_actor_are_done_by_others(tmp_path: Path) -> None:
    units = [Work(number, str(tmp_path), deaths=int(number in (2, 9))) for number in range(14)]
    answers, failures = run(units)
    assert len(answers) == 14
    assert not failures


def test_a_unit_that_keeps_killing_its_actor_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    units = [Work(number, str(tmp_path), deaths=99 if number == 3 else 0) for number in range(8)]
    answers, failures = run(units)
    assert sorted(answers) == [f"work {number}" for number in range(8) if number != 3]
    assert len(failures) == 1
    assert failures[0].startswith("work 3: lost 3 times")


@dataclass(frozen=True)
class Slow:
    """Says how far it is, and takes longer than the pool waits before it asks."""

    name: str = "slow"

    def run(self, resources: Resources) -> None:
        resources.note("half way")
        time.sleep(1.5)


def test_units_under_way_are_asked_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advlab.distributed.pool.STATUS_SECONDS", 0.2)
    said: list[str] = []
    assert not Pool(PoolOptions(), 1).run([Slow()], on_status=said.append)
    assert "half way" in said


def test_a_unit_that_raises_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    units = [Work(number, str(tmp_path), raises=number == 1) for number in range(6)]
    answers, failures = run(units)
    assert len(answers) == 5
    assert failures == ["work 1: ValueError: nothing to be done about 1"]
    assert Path(tmp_path, "attempts-1").stat().st_size == 1


def test_as_many_actors_as_there_is_room_for() -> None:
    cpus = os.cpu_count() or 1
    assert pool_size(PoolOptions(), None) == cpus
    assert pool_size(PoolOptions(num_cpus=0.5), None) == 2 * cpus
    assert pool_size(PoolOptions(actors=7), None) == 7
    assert pool_size(PoolOptions(num_cpus=10_000), "auto") == 1  # an autoscaler may yet bring such a machine
    assert host_count() == 1


@pytest.mark.parametrize("options", [{"num_cpus": 10_000.0}, {"num_gpus": 64.0}])
def test_actors_larger_than_this_machine_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="fits this machine"):
        pool_size(PoolOptions(**options), None)


@pytest.mark.parametrize("options", [{"actors": 0}, {"actors": -1}, {"num_cpus": -1.0}, {"num_gpus": -0.5}])
def test_impossible_sizes_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError):
        PoolOptions(**options)
