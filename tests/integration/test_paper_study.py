"""The paper's MNIST study in one command, small: every model trained, every table filled, nothing done twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def paper(out: Path) -> subprocess.CompletedProcess[str]:
    words = [
        "--seeds",
        "1",
        "--examples",
        "20",
        "--shard-size",
        "10",
        "--out",
        str(out),
        "--page",
        str(out / "page.md"),
    ]
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "sweeps" / "paper.py"), *words], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_whole_study_goes_on_where_it_was_and_fills_the_page(tmp_path: Path) -> None:
    done = paper(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "page.md").read_text()
    for heading in ("## Table 1", "## Table 2", "## Table 3", "## Table 4", "| (f) ", "<br>*28.9*", "<br>*98*"):
        assert heading in page
    assert (tmp_path / "out" / "images" / "amplification.png").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")}
    again = paper(tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")} == before
    assert (tmp_path / "out" / "page.md").read_text() == page
