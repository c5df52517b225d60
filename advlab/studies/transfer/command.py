"""The command of the transfer study: its options, how it runs, how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from advlab.command import CommonOptions
from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.studies.experiment import PoolExperiment
from advlab.studies.transfer import plan as plans
from advlab.studies.transfer import show
from advlab.studies.transfer import study as work
from advlab.studies.transfer.plan import Plan, TransferConfig
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.view import View


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferMatrix(PoolExperiment[Plan, TransferStudy]):
    """Attack every model once, show every example to every model: the paper's Tables 1 and 2 and Figure 7."""

    kind = "transfer"

    settings: TransferConfig = field(default_factory=TransferConfig)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    reuse: str | None = None
    """Folder of another study: shards that would be the same are taken from it."""

    trust_code: str = ""
    """Comma-separated file: and python: models that a study of somebody else names, to be run all the same: read them
    first."""

    def prepare(self) -> Plan:
        return plans.prepare(self.settings, self.reuse, self.trust_code)

    def begin(self, plan: Plan) -> TransferStudy:
        return work.begin(plan, self.common.out)

    def run(self, plan: Plan, study: TransferStudy, workers: ActorPool, on_progress: OnProgress) -> None:
        work.run(plan, study, workers, on_progress=on_progress)

    @classmethod
    def show(cls, study: TransferStudy, width: int) -> Shown:
        return show.show(View(study), width)
