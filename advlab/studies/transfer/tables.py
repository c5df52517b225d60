"""The matrix and the models as rich tables for the terminal and as Markdown for the docs."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from advlab.report.numbers import beside, markdown_line, percent, rms
from advlab.studies.transfer.paper_numbers import as_printed
from advlab.studies.transfer.summary import Cell, ModelRow, Row, short
from advlab.studies.transfer.view import View
from advlab.transfer import controls

_DIM = "dim"
_SELF = "bold dark_orange3"
_CELL_WIDTH = 13  # "100.0 (100)"; longer names of targets are folded
_LABEL_WIDTH = 24  # longer names of sources are folded
_FRAME_WIDTH = _LABEL_WIDTH + 13  # and the RMS column


def matrix_tables(view: View, width: int = 140) -> list[Table]:
    """The matrix for a terminal of so many columns; targets that do not fit go to a further table.

    Ours, the paper's in brackets, the Wilson 95% interval below.
    """
    per_table = max(1, (width - _FRAME_WIDTH) // (_CELL_WIDTH + 2))
    blocks = range(0, len(view.matrix.targets), per_table)
    return [_matrix_table(view, start, start + per_table) for start in blocks]


def models_table(view: View) -> Table:
    """Table 1 for a terminal: errors in per cent and mean distortion, the paper's in brackets."""
    table = Table(box=box.HORIZONTALS, title="Models", title_justify="left", title_style="bold")
    table.add_column("model", no_wrap=True)
    for heading in ("train error %", "test error %", "iterations", "mean RMS"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in view.models:
        (name, _), *numbers = _model_cells(row)
        table.add_row(Text(name), *(beside(ours, theirs) for ours, theirs in numbers))
    return table


def markdown_matrix(view: View) -> str:
    """The matrix as a Markdown table: error % with its interval, then the paper's number in italics."""
    matrix = view.matrix
    lines = [
        markdown_line(["examples of ↓ shown to →", *(_escape(short(target)) for target in matrix.targets), "mean RMS"]),
        markdown_line(["---", *("---:" for _ in matrix.targets), "---:"]),
    ]
    lines += [
        markdown_line(
            [
                _escape(short(row.source)),
                *map(_markdown_cell, row.cells),
                _markdown_beside(rms(row.mean_rms), _rms(row)),
            ]
        )
        for rows in matrix.groups
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def markdown_models(view: View) -> str:
    """Table 1 as Markdown, the paper's numbers in italics."""
    lines = [
        markdown_line(["model", "train error %", "test error %", "iterations", "mean RMS"]),
        markdown_line(["---", "---:", "---:", "---:", "---:"]),
    ]
    for row in view.models:
        (name, _), *numbers = _model_cells(row)
        lines.append(markdown_line([_escape(name), *(_markdown_beside(ours, theirs) for ours, theirs in numbers)]))
    return "\n".join(lines) + "\n"


def _matrix_table(view: View, start: int, stop: int) -> Table:
    matrix, dataset = view.matrix, view.study.manifest["dataset"]
    counts = {cell.n for row in matrix.rows for cell in row.cells if cell is not None}
    counted = "–".join(f"{count:,}" for count in sorted({min(counts), max(counts)})) if counts else "0"
    legend = "error %, Wilson 95% interval below" + (", the paper's numbers in brackets" if matrix.has_paper else "")
    table = Table(
        box=box.HORIZONTALS,
        title=f"Transfer on {dataset['name']} {dataset['split']}, {counted} examples a source",
        title_justify="left",
        title_style="bold",
        caption=legend,
        caption_justify="left",
    )
    table.add_column("examples of ↓ shown to →", width=_LABEL_WIDTH, overflow="fold")
    for target in matrix.targets[start:stop]:
        table.add_column(Text(short(target)), width=min(_CELL_WIDTH, max(11, len(short(target)))), overflow="fold")
    table.add_column("RMS", justify="right", no_wrap=True)
    for rows in matrix.groups:
        for row in rows:
            cells = (_cell(cell) for cell in row.cells[start:stop])
            table.add_row(Text(_label(row.source)), *cells, beside(rms(row.mean_rms), _rms(row), separator="\n"))
        table.add_section()
    return table


def _label(source: str) -> str:
    """A source's name; that of a control which would be folded is broken where its model's begins."""
    name, control = short(source), controls.parse(source)
    if control is None or control.model is None or len(name) <= _LABEL_WIDTH:
        return name
    return f"{name.removesuffix(short(control.model))}\n{short(control.model)}"


def _model_cells(row: ModelRow) -> list[tuple[str, str | None]]:
    """Name, errors, iterations and distortion of a model: ours, and the paper's where it has one."""
    theirs = row.paper
    return [
        (short(row.name), None),
        (percent(row.train_error, 2), None if theirs is None else as_printed(theirs.train_error)),
        (percent(row.test_error, 2), None if theirs is None else as_printed(theirs.test_error)),
        ("–" if row.iterations is None else f"{row.iterations:,}", None),
        (rms(row.mean_rms), None if theirs is None else f"{theirs.distortion:g}"),
    ]


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–", _DIM)
    text = Text()
    text.append(f"{percent(cell.error_rate):>5}", _SELF if cell.is_self else "bold")
    if cell.paper is not None:
        text.append(f" ({as_printed(cell.paper)})", _DIM)
    return text.append(f"\n{percent(cell.ci_low):>5}–{percent(cell.ci_high)}", _DIM)


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    ours = f"{percent(cell.error_rate)} ({percent(cell.ci_low)}–{percent(cell.ci_high)})"
    return _markdown_beside(
        f"**{ours}**" if cell.is_self else ours, None if cell.paper is None else as_printed(cell.paper)
    )


def _markdown_beside(ours: str, theirs: str | None) -> str:
    return ours if theirs is None else f"{ours}<br>*{theirs}*"


def _rms(row: Row) -> str | None:
    return None if row.paper_rms is None else f"{row.paper_rms:g}"


def _escape(name: str) -> str:
    return name.replace("|", "\\|")
