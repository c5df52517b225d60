"""Rows of a sweep: in a file and back, and the front of those that nothing beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advlab.store import Store
from advlab.studies.architectures import trials


def row(trial: str, error: float, distortion: float | None, status: str = trials.FINISHED) -> dict[str, Any]:
    return {"trial": trial, "validation_error": error, "mean_rms": distortion, "status": status}


ROWS = [
    row("beaten in both", 0.3, 0.02),
    row("most robust", 0.4, 0.09),
    row("best", 0.1, 0.01),
    row("middle", 0.2, 0.03),
    row("as good, less robust", 0.2, 0.02),
    row("not measured", 0.0, None),
    row("given up", 0.0, 1.0, trials.STOPPED),
]


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    assert [found["trial"] for found in trials.pareto_front(ROWS)] == ["best", "middle", "most robust"]
    assert [found["trial"] for found in trials.measured(ROWS)[:3]] == ["best", "middle", "as good, less robust"]
    assert trials.pareto_front([]) == []


def test_rows_come_back_with_nulls_for_what_they_lack(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert trials.read(store) == []
    trials.write(store, [{**ROWS[0], "weight_decay": [1e-4, 1e-5]}, ROWS[5]])
    first, second = trials.read(store)
    assert (first["weight_decay"], first["seed"], second["mean_rms"]) == ([1e-4, 1e-5], None, None)
    assert list(first) == trials.SCHEMA.names


@pytest.mark.parametrize("rows", [[], ROWS])
def test_a_file_of_any_number_of_rows_is_whole(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    trials.write(Store(tmp_path), rows)
    assert Store(tmp_path).is_whole(trials.TRIALS)
    assert len(trials.read(Store(tmp_path))) == len(rows)
