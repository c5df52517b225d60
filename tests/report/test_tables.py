"""The matrix in the terminal and in Markdown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from advlab import report
from advlab.report.numbers import percent
from advlab.store.schema import BRIEF_MATRIX
from advlab.studies.transfer import tables
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.summary import Cell, Matrix, Row, finding, short
from advlab.studies.transfer.view import View
from advlab.transfer.controls import describe


def printed(view: View, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    report.print_study(view.study, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return str(text)


def test_every_rate_interval_and_paper_number_is_printed(repeating: View) -> None:
    text = printed(repeating)
    assert text.startswith("An example made to fool one model is misclassified by another")
    for row in repeating.table.to_pylist():
        assert percent(row["error_rate"]) in text
        assert percent(row["clean_error_rate"]) in text
        assert f"{percent(row['ci_low'])}–{percent(row['ci_high'])}" in text
        assert f"{row['mean_rms']:.3f}" in text
    for theirs in ("(11.7)", "(87.1)", "(15.6)", "(0.062)", "(9.4)"):
        assert theirs in text


def test_controls_stand_below_the_models(view: View) -> None:
    text = printed(view)
    assert [row.source for row in view.matrix.rows] == view.study.sources
    labels = ["clean images", "softmax1e-2", "gaussian-0.1", "shuffled-softmax1e-2"]
    places = [text.rindex(f"\n  {label}") for label in labels]
    assert places == sorted(places)


def test_targets_that_do_not_fit_go_to_a_further_table(view: View, repeating: View) -> None:
    assert len(tables.matrix_tables(view, width=140)) == 1
    assert len(tables.matrix_tables(view, width=60)) == 2
    assert "softmax1e-2" in printed(view, width=60)
    for width in (60, 69, 70, 71, 85):
        console = Console(file=io.StringIO(), width=width)
        console.print(*tables.matrix_tables(repeating, width))
        assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_no_two_labels_look_alike_however_long_they_are(view: View) -> None:
    models = ["fc100-100-10@p1", "fc100-100-10@p2", *(f"file:/nets.py:{'wide_residual_network_' * 2}{k}" for k in "12")]
    names = [f"amplified-0.1{variant}-{model}" for variant in ("-clipped", "-boxed") for model in models]
    cell = Cell("", "", 1, 0.5, 0.1, 0.9)
    rows = [Row(name, False, 0.1, None, (cell,) * len(models)) for name in [*models, *names]]
    view.__dict__["matrix"] = Matrix(tuple(models), tuple(rows), None)
    (table,) = tables.matrix_tables(view, width=140)
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "…" not in "".join(lines)
    shown = "\n".join(line[2:26].strip() for line in lines)
    assert "amplified-0.1-clipped-\nfc100-100-10@p1\n" in shown
    whole = shown.replace("\n", "")
    assert all(whole.count(label) for label in map(short, [*models, *names]))


def test_markdown_has_one_line_a_source_and_one_cell_a_target(repeating: View) -> None:
    study, lines = repeating.study, tables.markdown_matrix(repeating).splitlines()
    assert len(lines) == 3 + len(study.sources)
    assert {line.count("|") for line in lines} == {len(study.targets) + 3}
    own = study.matrix().to_pylist()[0]
    assert lines[2].startswith(f"| clean images | {percent(own['clean_error_rate'])} (")
    assert f"**{percent(own['error_rate'])} (" in lines[3]
    assert "*11.7*" in lines[3]
    models = tables.markdown_models(repeating).splitlines()
    assert models[2].startswith("| softmax1e-4 | 6.71<br>*6.7* | 7.40<br>*7.4* | 1,234 |")


def test_the_paper_is_silent_about_another_setting(view: View) -> None:
    assert not view.matrix.has_paper
    assert "6.7" not in tables.markdown_matrix(view) + tables.markdown_models(view).replace("6.71", "")
    assert "paper" not in printed(view)


def test_the_finding_is_computed_from_the_cells(view: View) -> None:
    first, second = (cell.conditional_error_rate or 0.0 for cell in view.matrix.transfers)
    noise = [cell.conditional_error_rate or 0.0 for cell in view.matrix.rows[2].cells if cell is not None]
    text = finding(view.matrix)
    assert f"is misclassified by another {percent((first + second) / 2)}% of the time among images that it" in text
    assert f"{percent(min(first, second))}–{percent(max(first, second))}%, 2 pairs" in text
    assert text.endswith(f"; Gaussian noise of stddev 0.1: {percent(sum(noise) / 2)}%.")
    assert first != view.matrix.transfers[0].error_rate


def test_the_errors_of_an_untrained_network_are_no_success_of_noise() -> None:
    untrained = {"n": 100, "ci_low": 0.8, "ci_high": 0.95}
    rows = (
        Row("a", False, 0.1, None, (Cell("a", "a", error_rate=1.0, conditional_error_rate=None, **untrained),)),
        Row("gaussian-0.1", True, 0.1, None, (Cell("gaussian-0.1", "a", error_rate=0.9, **untrained),)),
    )
    assert "nothing can be said of the attack" in finding(Matrix(("a",), rows, None))


def test_the_clean_row_is_the_error_of_each_target_on_the_clean_images(view: View) -> None:
    assert view.matrix.clean is not None
    for cell in view.matrix.clean.cells:
        assert cell is not None
        answers = view.study.predictions("gaussian-0.1", cell.target).to_pandas()
        wrong = answers["clean_prediction"] != answers["label"]
        assert (cell.n, cell.error_rate) == (len(answers), pytest.approx(wrong.mean(), abs=1e-15))
        assert cell.ci_low <= cell.error_rate <= cell.ci_high


def test_a_matrix_of_an_earlier_revision_is_shown_without_the_clean_row(one_model_study: TransferStudy) -> None:
    study = one_model_study
    study.store.write_table("matrix.parquet", study.matrix().select(BRIEF_MATRIX.names))
    view = View(study)
    assert view.matrix.clean is None
    assert "clean images" not in printed(view) + tables.markdown_matrix(view)
    assert "report.html" in report.render(study)


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
