"""The command of the sweep over architectures."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from advlab.command import CommonOptions
from advlab.engine.actors import Actors, PoolOptions
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.store import Study
from advlab.studies.architectures import plan as plans
from advlab.studies.architectures import show
from advlab.studies.architectures import study as work
from advlab.studies.architectures.plan import ArchitecturesConfig, ArchitecturesPlan
from advlab.studies.experiment import Experiment


@dataclass(frozen=True, kw_only=True, slots=True)
class Architectures(Experiment[ArchitecturesPlan, Study, None]):
    """Sweep architectures × weight decay × seeds by Ray Tune: validation error and minimum distortion of each model."""

    kind = "architectures"

    settings: ArchitecturesConfig = field(default_factory=ArchitecturesConfig)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    def prepare(self) -> ArchitecturesPlan:
        return plans.prepare(self.settings)

    def workers(self, plan: ArchitecturesPlan) -> AbstractContextManager[None]:  # noqa: ARG002
        Actors(self.pool, elastic=self.elastic)  # says so if not one trial fits; Tune starts its own
        return nullcontext()

    def begin(self, plan: ArchitecturesPlan) -> Study:
        return work.begin(plan, self.common.out)

    def run(self, plan: ArchitecturesPlan, study: Study, workers: None, on_progress: OnProgress) -> None:  # noqa: ARG002
        work.run(plan, study, self.pool, on_progress=on_progress)

    @classmethod
    def show(cls, study: Study, width: int) -> Shown:  # noqa: ARG003
        return show.show(study)
