"""The command of the study of units and other directions."""

from __future__ import annotations

from dataclasses import dataclass, field

from advlab.command import CommonOptions
from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.store import Study
from advlab.studies.directions import show
from advlab.studies.directions import study as work
from advlab.studies.directions.study import UnitsConfig, UnitsPlan
from advlab.studies.experiment import PoolExperiment


@dataclass(frozen=True, kw_only=True, slots=True)
class Units(PoolExperiment[UnitsPlan, Study]):
    """The images that stimulate units and other directions of a layer most; do units differ: Figures 1 to 4."""

    kind = "units"

    settings: UnitsConfig
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    def prepare(self) -> UnitsPlan:
        return work.prepare(self.settings)

    def begin(self, plan: UnitsPlan) -> Study:
        return work.begin(plan, self.common.out)

    def run(self, plan: UnitsPlan, study: Study, workers: ActorPool, on_progress: OnProgress) -> None:
        work.run(plan, study, workers, on_progress=on_progress)

    @classmethod
    def show(cls, study: Study, width: int) -> Shown:  # noqa: ARG003
        return show.show(study)
