"""The matrix and the models as rich tables for the terminal and as Markdown for the docs."""

from itertools import chain

from rich.table import Table
from rich.text import Text

from advlab.report.numbers import DIM, beside, markdown_head, markdown_table, percent, rms, ruled
from advlab.studies.transfer.paper_numbers import as_printed
from advlab.studies.transfer.summary import Cell, ModelRow, Row, short
from advlab.studies.transfer.view import View
from advlab.transfer import controls

_MODEL_HEADINGS = ("model", "train error %", "test error %", "iterations", "mean RMS")
_SELF = "bold dark_orange3"
_CELL_WIDTH = 13  # "100.0 (71.9)"; longer names of targets are folded
_LABEL_WIDTH = 24  # longer names of sources are folded
_BETWEEN = 3  # columns, for padding and the box
_FRAME_WIDTH = _LABEL_WIDTH + len("(0.062)") + 2 * _BETWEEN + 1


def matrix_tables(view: View, width: int = 140) -> list[Table]:
    """The matrix for a terminal of so many columns; targets that do not fit go to a further table.

    Ours, the paper's in brackets, the Wilson 95% interval below.
    """
    per_table = max(1, (width - _FRAME_WIDTH) // (_CELL_WIDTH + _BETWEEN))
    blocks = range(0, len(view.matrix.targets), per_table)
    return [_matrix_table(view, start, start + per_table) for start in blocks]


def models_table(view: View) -> Table:
    """Table 1 for a terminal: errors in per cent and mean distortion, the paper's in brackets."""
    table = ruled("Models", _MODEL_HEADINGS[:1], _MODEL_HEADINGS[1:])
    for row in view.models:
        (name, _), *numbers = _model_cells(row)
        table.add_row(Text(name), *(beside(ours, theirs) for ours, theirs in numbers))
    return table


def markdown_matrix(view: View) -> str:
    """The matrix as a Markdown table: error % with its interval, then the paper's number in italics."""
    matrix = view.matrix
    lines = markdown_head("examples of ↓ shown to →", *(_escape(short(name)) for name in matrix.targets), "mean RMS")
    for row in chain(*matrix.groups):
        distortion = _markdown_beside(rms(row.mean_rms), _rms(row))
        lines.append([_escape(short(row.source)), *map(_markdown_cell, row.cells), distortion])
    return markdown_table(lines) + "\n"


def markdown_models(view: View) -> str:
    """Table 1 as Markdown, the paper's numbers in italics."""
    lines = markdown_head(*_MODEL_HEADINGS)
    for row in view.models:
        (name, _), *numbers = _model_cells(row)
        lines.append([_escape(name), *(_markdown_beside(ours, theirs) for ours, theirs in numbers)])
    return markdown_table(lines) + "\n"


def _matrix_table(view: View, start: int, stop: int) -> Table:
    matrix, dataset = view.matrix, view.study.manifest["dataset"]
    counts = {cell.n for row in matrix.rows for cell in row.cells if cell is not None}
    counted = "–".join(f"{count:,}" for count in sorted({min(counts), max(counts)})) if counts else "0"
    legend = "error %, Wilson 95% interval below" + (", the paper's numbers in brackets" if matrix.has_paper else "")
    title = f"Transfer on {dataset['name']} {dataset['split']}, {counted} examples a source"
    table = ruled(title, [], [], caption=legend, caption_justify="left")
    table.add_column("examples of ↓ shown to →", width=_LABEL_WIDTH, overflow="fold")
    for target in matrix.targets[start:stop]:
        table.add_column(Text(short(target)), width=_CELL_WIDTH, overflow="fold")
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
        return Text("–", DIM)
    text = Text()
    text.append(f"{percent(cell.error_rate):>5}", _SELF if cell.is_self else "bold")
    if cell.paper is not None:
        text.append(f" ({as_printed(cell.paper)})", DIM)
    return text.append(f"\n{percent(cell.ci_low):>5}–{percent(cell.ci_high)}", DIM)


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    ours = f"{percent(cell.error_rate)} ({percent(cell.ci_low)}–{percent(cell.ci_high)})"
    theirs = None if cell.paper is None else as_printed(cell.paper)
    return _markdown_beside(f"**{ours}**" if cell.is_self else ours, theirs)


def _markdown_beside(ours: str, theirs: str | None) -> str:
    return ours if theirs is None else f"{ours}<br>*{theirs}*"


def _rms(row: Row) -> str | None:
    return None if row.paper_rms is None else f"{row.paper_rms:g}"


def _escape(name: str) -> str:
    return name.replace("|", "\\|")
