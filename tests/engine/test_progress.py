"""The progress that long work prints where there is no terminal."""

from __future__ import annotations

import re

import pytest

from advlab.engine.progress import Stage


def test_prints_each_tenth_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Stage("attacking", total=40, done=20) as stage:
        for number in range(19):
            stage.advance(f"unit {number}")
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "attacking: 20 of 40 already done"
    assert len(printed) == 1 + 4
    assert re.fullmatch(r"attacking: 36 of 40, \d+\.\d/s(, \d:\d\d:\d\d left)? \(unit 15\)", printed[-1])


def test_what_was_done_before_does_not_count_as_speed() -> None:
    stage = Stage("attacking", total=40, done=20)
    assert stage.pace() == ""
    stage.advance("several", count=3)
    assert stage.done == 23
    assert stage.pace() != ""


def test_slow_work_is_reported_per_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stage = Stage("attacking", total=10)
    now += 120
    stage.advance("one")
    assert stage.pace() == "0.5/min, 0:18:00 left"
