"""The matrix in the terminal and in Markdown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from advlab import report
from advlab.report.numbers import percent
from advlab.studies.transfer import tables
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.summary import finding, read_matrix
from advlab.transfer.controls import describe


def printed(study: TransferStudy, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    report.print_study(study, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return str(text)


def test_every_rate_interval_and_paper_number_is_printed(study: TransferStudy) -> None:
    text = printed(study)
    for row in study.matrix().to_pylist():
        assert percent(row["error_rate"]) in text
        assert f"{percent(row['ci_low'])}–{percent(row['ci_high'])}" in text
        assert f"{row['mean_rms']:.3f}" in text
    for theirs in ("(11.7)", "(87.1)", "(15.6)", "(0.062)", "(9.4)"):
        assert theirs in text


def test_controls_stand_below_the_models(study: TransferStudy) -> None:
    text = printed(study)
    assert [row.source for row in read_matrix(study).rows] == study.sources
    assert text.rindex("\n  softmax1e-2") < text.index("\n  gaussian-0.1") < text.index("\n  shuffled-softmax1e-2")


def test_targets_that_do_not_fit_go_to_a_further_table(study: TransferStudy) -> None:
    assert len(tables.matrix_tables(study, width=140)) == 1
    assert len(tables.matrix_tables(study, width=60)) == 2
    assert "softmax1e-2" in printed(study, width=60)


def test_markdown_has_one_line_a_source_and_one_cell_a_target(study: TransferStudy) -> None:
    lines = tables.markdown_matrix(study).splitlines()
    assert len(lines) == 2 + len(study.sources)
    assert {line.count("|") for line in lines} == {len(study.targets) + 3}
    own = study.matrix().to_pylist()[0]
    assert f"**{percent(own['error_rate'])} (" in lines[2]
    assert "*11.7*" in lines[2]
    models = tables.markdown_models(study).splitlines()
    assert models[2].startswith("| softmax1e-4 | 6.71<br>*6.7* | 7.40<br>*7.4* | 1,234 |")


def test_the_paper_is_silent_about_other_data(study: TransferStudy) -> None:
    study.manifest["dataset"]["name"] = "fashion_mnist"
    assert not read_matrix(study).has_paper
    assert "11.7" not in tables.markdown_matrix(study)
    assert "paper" not in printed(study)


def test_the_finding_is_computed_from_the_cells(study: TransferStudy) -> None:
    matrix = read_matrix(study)
    first, second = (cell.error_rate for cell in matrix.transfers)
    text = finding(matrix)
    assert f"fools another {percent((first + second) / 2)}% of the time" in text
    assert "2 pairs" in text
    assert "Gaussian noise of stddev 0.1" in text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("fc100-100-10", "fc100-100-10"),
        ("gaussian-0.1", "Gaussian noise of stddev 0.1"),
        ("gaussian-0.1-clipped", "Gaussian noise of stddev 0.1, clipped"),
        ("shuffled-ae400-10", "Shuffled perturbation of ae400-10"),
    ],
)
def test_sources_are_named_for_readers(source: str, said: str) -> None:
    assert describe(source) == said
