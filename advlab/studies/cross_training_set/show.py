"""Table 3 of a cross-training-set study, for a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from advlab.report.numbers import beside, percent, rms, ruled
from advlab.studies.cross_training_set.plan import HALVES
from advlab.studies.transfer import paper_numbers
from advlab.studies.transfer.paper_numbers import as_printed
from advlab.studies.transfer.view import View


def halves_table(view: View) -> Table:
    """Table 3 for a terminal: errors in per cent on both halves and on the test set, and mean distortion."""
    distortion = {row.source: row.mean_rms for row in view.matrix.rows}
    printed = paper_numbers.TABLE_3 if view.paper is paper_numbers.TABLE_4 else {}
    headings = ("error on P1 %", "error on P2 %", "test error %", "mean RMS")
    table = ruled("Models of two halves", ["model"], headings)
    for row in view.study.store.read_shard(HALVES).to_pylist():
        theirs = printed.get(paper_numbers.undrawn(row["model"]))
        cells = [
            beside(percent(row[column], 2), None if theirs is None else as_printed(getattr(theirs, column)))
            for column in ("p1_error", "p2_error", "test_error")
        ]
        found = beside(rms(distortion[row["model"]]), None if theirs is None else f"{theirs.distortion:g}")
        table.add_row(Text(row["model"]), *cells, found)
    return table
