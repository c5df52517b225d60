"""The cross-training-set study: a transfer study, and Table 3."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from advlab.command import CommonOptions
from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.studies.cross_training_set.plan import CrossTrainingSetConfig, record_halves
from advlab.studies.cross_training_set.show import halves_table
from advlab.studies.transfer import show
from advlab.studies.transfer.plan import Plan, prepare
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.study import TransferExperiment
from advlab.studies.transfer.view import View


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossTrainingSet(TransferExperiment):
    """Do examples cross from one half of the training set to the other, and amplified ones: Tables 3 and 4."""

    settings: CrossTrainingSetConfig = field(default_factory=CrossTrainingSetConfig)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    def prepare(self) -> Plan:
        return prepare(self.settings.transfer())

    def run(
        self, plan: Plan, study: TransferStudy, workers: ActorPool, on_progress: OnProgress = lambda _: None
    ) -> None:
        TransferExperiment.run(self, plan, study, workers, on_progress)
        record_halves(study)

    @classmethod
    def show(cls, study: TransferStudy, width: int) -> Shown:
        view = View(study)
        shown = show.show(view, width)
        return replace(shown, tables=[halves_table(view), *shown.tables])
