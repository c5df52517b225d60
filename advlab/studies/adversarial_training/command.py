"""The command of the study of adversarial training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from advlab.command import CommonOptions
from advlab.engine.actors import PoolOptions
from advlab.engine.launcher import require_resources
from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.store import Study
from advlab.studies.adversarial_training import show
from advlab.studies.adversarial_training import study as work
from advlab.studies.adversarial_training.study import HardeningConfig, HardeningPlan, Layout
from advlab.studies.experiment import Experiment


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialTraining(Experiment[HardeningPlan, Study, ActorPool | None]):
    """Train on a continuously refreshed pool of adversarial examples, and compare with baselines (section 4.1)."""

    kind = "hardening"

    settings: HardeningConfig = field(default_factory=HardeningConfig)
    layout: Layout = field(default_factory=Layout)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool_options: PoolOptions = field(default_factory=PoolOptions)

    def prepare(self) -> HardeningPlan:
        return work.prepare(self.settings, self.layout)

    def workers(self, plan: HardeningPlan) -> AbstractContextManager[ActorPool | None]:  # noqa: ARG002
        if self.layout.shared:
            require_resources(self.layout.workers, self.layout.gpus, self.layout.accelerator, elastic=self.elastic)
            return nullcontext()
        return ActorPool(work.room_for_generators(self.settings, self.pool_options), elastic=self.elastic)

    def begin(self, plan: HardeningPlan) -> Study:
        return work.begin(plan, self.common.out)

    def run(self, plan: HardeningPlan, study: Study, workers: ActorPool | None, on_progress: OnProgress) -> None:
        size = work.room_for_generators(self.settings, self.pool_options)
        work.tune(plan, study, size, on_progress=on_progress)
        if workers is None:
            work.run_shared(plan, study, self.layout, on_progress=on_progress)
        else:
            work.run(plan, study, workers, on_progress=on_progress)

    @classmethod
    def show(cls, study: Study, width: int) -> Shown:  # noqa: ARG003
        return Shown(tables=[show.ablation_table(study)], rows={"results": study.store.read_table(work.RESULTS)})
