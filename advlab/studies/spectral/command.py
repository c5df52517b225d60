"""The command of the spectral study."""

from __future__ import annotations

from dataclasses import dataclass, field

from advlab.command import CommonOptions
from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.store import Study
from advlab.studies.experiment import PoolExperiment
from advlab.studies.spectral import show
from advlab.studies.spectral import study as work
from advlab.studies.spectral.study import SpectralConfig, SpectralPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectral(PoolExperiment[SpectralPlan, Study]):
    """Frame bounds of every layer of a network, beside what the network amplifies in fact: the paper's Table 5."""

    kind = "spectral"

    settings: SpectralConfig
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    def prepare(self) -> SpectralPlan:
        return work.prepare(self.settings)

    def begin(self, plan: SpectralPlan) -> Study:
        return work.begin(plan, self.common.out)

    def run(self, plan: SpectralPlan, study: Study, workers: ActorPool, on_progress: OnProgress) -> None:
        work.run(plan, study, workers, on_progress=on_progress)

    @classmethod
    def show(cls, study: Study, width: int) -> Shown:  # noqa: ARG003
        return show.show(study)
