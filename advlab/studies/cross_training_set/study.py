"""The cross-training-set study: a transfer study, and Table 3."""

from dataclasses import dataclass, field, replace

from rich.table import Table
from rich.text import Text

from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.report.numbers import beside, percent, rms, ruled
from advlab.studies.cross_training_set.plan import HALVES, CrossTrainingSetConfig, record_halves
from advlab.studies.transfer import paper_numbers, show
from advlab.studies.transfer.paper_numbers import as_printed
from advlab.studies.transfer.plan import Plan, prepare
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.study import TransferExperiment
from advlab.studies.transfer.view import View


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossTrainingSet(TransferExperiment):
    """Measure transfer between models of disjoint halves of the training set: Tables 3 and 4."""

    settings: CrossTrainingSetConfig = field(default_factory=CrossTrainingSetConfig)

    def prepare(self) -> Plan:
        return prepare(self.settings.transfer())

    def run(self, plan: Plan, study: TransferStudy, workers: ActorPool, on_progress: OnProgress) -> None:
        TransferExperiment.run(self, plan, study, workers, on_progress)
        record_halves(study)

    @staticmethod
    def show(study: TransferStudy, width: int) -> Shown:
        view = View(study)
        shown = show.show(view, width)
        return replace(shown, tables=[halves_table(view), *shown.tables])


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
