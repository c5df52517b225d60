"""The command of AlexNet."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from advlab.command import CommonOptions
from advlab.engine.launcher import require_resources
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.store import Study
from advlab.studies.alexnet import show
from advlab.studies.alexnet import study as work
from advlab.studies.alexnet.work import AlexNetConfig, Layout
from advlab.studies.experiment import Experiment


@dataclass(frozen=True, kw_only=True, slots=True)
class AlexNet(Experiment[None, Study, None]):
    """Train AlexNet (Krizhevsky et al. 2012) by data-parallel workers on Ray Train, for use in other studies."""

    kind = "alexnet"

    settings: AlexNetConfig = field(default_factory=AlexNetConfig)
    layout: Layout = field(default_factory=Layout)
    common: CommonOptions = field(default_factory=CommonOptions)

    @property
    def on_ray(self) -> bool:
        return not self.layout.alone

    def prepare(self) -> None:
        work.prepare(self.settings, self.layout)

    def workers(self, plan: None) -> AbstractContextManager[None]:  # noqa: ARG002
        if self.on_ray:
            fewest = self.layout.min_workers or self.layout.workers
            require_resources(fewest, self.layout.gpus, self.layout.accelerator, elastic=self.elastic)
        return nullcontext()

    def begin(self, plan: None) -> Study:  # noqa: ARG002
        return work.begin(self.settings, self.layout, self.common.out)

    def run(self, plan: None, study: Study, workers: None, on_progress: OnProgress) -> None:  # noqa: ARG002
        work.run(study, self.layout, on_progress=on_progress)

    @classmethod
    def show(cls, study: Study, width: int) -> Shown:  # noqa: ARG003
        return show.show(study)
