"""The pool's bookkeeping by itself: which unit is given to whom, and what is made of answers, losses and delays."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from advlab.engine.scheduler import Scheduler
from advlab.engine.worker import Resources


@dataclass(frozen=True)
class Piece:
    name: str
    kind: str = "piece"

    def run(self, _resources: Resources) -> None:
        raise AssertionError("nothing runs here")


def ledger_of(names: str, depth: int = 2) -> Scheduler:
    return Scheduler([Piece(name) for name in names], depth=depth, max_attempts=3)


def give(scheduler: Scheduler, actor: int, now: float = 0.0) -> str:
    """The next unit to an actor; its call is named after both."""
    unit = scheduler.todo.popleft()
    scheduler.record(f"{unit.name}{actor}", actor, unit, now)
    return unit.name


def nothing_answered(_ref: object) -> bool:
    return False


def test_units_go_to_the_least_loaded_and_a_probed_actor_gets_none() -> None:
    scheduler = ledger_of("abcde")
    scheduler.record("probe", 2, None, 0.0)
    for actor in scheduler.vacancies([0, 1, 2]):
        give(scheduler, actor)
    assert list(scheduler.calls) == ["probe", "a0", "b1", "c0", "d1"]
    assert list(scheduler.idle([0, 1, 2])) == []
    assert scheduler.answered("probe", 1.0) is None
    assert list(scheduler.vacancies([0, 1, 2])) == [2, 2]


def test_every_unit_is_open_until_it_is_answered_or_has_failed() -> None:
    scheduler = ledger_of("ab")
    give(scheduler, 0)
    give(scheduler, 0)
    assert scheduler.open == 2
    unit = scheduler.answered("a0", 1.0)
    assert unit is not None
    assert unit.name == "a"
    scheduler.add([Piece("c")])
    assert scheduler.open == 2
    scheduler.raised("b0", "ValueError", 2.0)
    assert scheduler.open == 1
    assert [(failure.unit.name, failure.reason) for failure in scheduler.failures] == [("b", "ValueError")]
    assert [unit.name for unit in scheduler.todo] == ["c"]


def test_only_the_unit_an_actor_was_at_is_blamed_for_its_death() -> None:
    scheduler = ledger_of("ab")
    for attempt in range(3):
        assert give(scheduler, 0) == "a"
        assert give(scheduler, 0) == "b"
        scheduler.lost(0, f"death {attempt}", 1.0, has_answer=nothing_answered)
    assert [(failure.unit.name, failure.reason) for failure in scheduler.failures] == [
        ("a", "lost 3 times, last: death 2")
    ]
    assert [unit.name for unit in scheduler.todo] == ["b"]
    assert scheduler.open == 1


def test_an_answer_given_before_the_death_counts_and_the_next_unit_is_blamed() -> None:
    scheduler = Scheduler([Piece("a"), Piece("b")], depth=2, max_attempts=1)
    give(scheduler, 0)
    give(scheduler, 0)
    scheduler.lost(0, "death", 1.0, has_answer=lambda ref: ref == "a0")
    assert [failure.unit.name for failure in scheduler.failures] == ["b"]
    assert scheduler.answered("a0", 1.0) == Piece("a")
    assert scheduler.open == 0


def test_a_fault_of_the_cluster_is_tried_again() -> None:
    scheduler = ledger_of("a")
    for _ in range(3):
        assert give(scheduler, 0) == "a"
        scheduler.raised("a0", "ObjectLostError", 1.0, retry=True)
    assert [failure.reason for failure in scheduler.failures] == ["lost 3 times, last: ObjectLostError"]


def with_a_median_of(seconds: float, names: str) -> Scheduler:
    """A scheduler that has seen three units take so long."""
    scheduler = ledger_of("xyz" + names, depth=1)
    for name in "xyz":
        give(scheduler, 9)
        scheduler.answered(f"{name}9", seconds)
    return scheduler


def test_the_oldest_late_unit_is_copied_once_and_the_first_answer_counts() -> None:
    scheduler = with_a_median_of(10, "ab")
    give(scheduler, 0, now=1.0)
    give(scheduler, 1, now=0.0)
    assert scheduler.relief(19.0) is None
    assert scheduler.relief(30.0) == (Piece("b"), None)
    scheduler.record("copy", 2, Piece("b"), 30.0)
    assert scheduler.relief(31.0) == (Piece("a"), None)
    assert scheduler.answered("copy", 40.0) == Piece("b")
    assert list(scheduler.vacancies([1, 2])) == [2]  # the loser is still at it
    assert scheduler.answered("b1", 50.0) is None
    assert list(scheduler.vacancies([1, 2])) == [1, 2]
    assert scheduler.open == 1


@pytest.mark.parametrize("end", ["raised", "lost"])
def test_a_unit_survives_the_end_of_one_copy(end: str) -> None:
    scheduler = with_a_median_of(10, "a")
    give(scheduler, 0)
    scheduler.record("copy", 1, Piece("a"), 30.0)
    if end == "raised":
        scheduler.raised("a0", "disk full", 31.0)
    else:
        scheduler.lost(0, "death", 31.0, has_answer=nothing_answered)
    assert not scheduler.failures
    assert not scheduler.todo
    assert scheduler.answered("copy", 40.0) == Piece("a")
    assert scheduler.open == 0


def test_a_waiting_unit_is_taken_from_behind_a_long_one() -> None:
    scheduler = ledger_of("ab")
    give(scheduler, 0)
    give(scheduler, 0)
    assert scheduler.relief(1.0) is None
    assert scheduler.relief(5.0) == (Piece("b"), "b0")
    scheduler.record("moved", 1, Piece("b"), 5.0)
    assert scheduler.answered("moved", 6.0) == Piece("b")
    scheduler.withdrawn("b0", 7.0)
    assert scheduler.answered("a0", 8.0) == Piece("a")
    assert scheduler.open == 0
    assert not scheduler.todo


def test_a_withdrawn_unit_is_to_be_done_again() -> None:
    scheduler = ledger_of("ab")
    give(scheduler, 0)
    give(scheduler, 0)
    scheduler.withdrawn("b0", 1.0)
    assert [unit.name for unit in scheduler.todo] == ["b"]
    assert scheduler.open == 2


def test_nobody_is_relieved_while_there_is_something_to_give_out() -> None:
    scheduler = with_a_median_of(1, "abc")
    give(scheduler, 0)
    assert scheduler.relief(1000.0) is None


def test_a_system_that_keeps_refusing_is_not_asked_again() -> None:
    scheduler = ledger_of("abcdefgh", depth=1)
    for number, actor in enumerate([0, 1, 0, 1]):
        name = give(scheduler, actor)
        if number == 1:
            assert scheduler.answered(f"{name}{actor}", 1.0) is not None  # so the refusal before it was no sign
        else:
            scheduler.raised(f"{name}{actor}", "OSError", 1.0)
            scheduler.refused()
    assert len(scheduler.todo) == 4
    scheduler.raised(f"{give(scheduler, 0)}0", "OSError", 2.0)
    scheduler.refused()
    assert [failure.reason for failure in scheduler.failures] == ["OSError"] * 4 + ["not started"] * 3
    assert scheduler.open == 0
