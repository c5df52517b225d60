"""The command of QuocNet."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from advlab.command import CommonOptions
from advlab.engine.launcher import require_resources
from advlab.engine.progress import OnProgress
from advlab.report import Shown
from advlab.store import Study
from advlab.studies.experiment import Experiment
from advlab.studies.quocnet import show
from advlab.studies.quocnet import study as work
from advlab.studies.quocnet.work import Layout, QuocNetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class QuocNet(Experiment[None, Study, None]):
    """Train QuocNet without labels on Ray Train, and a car classifier on top; attack the classifier (Figure 6)."""

    kind = "quocnet"

    settings: QuocNetConfig = field(default_factory=QuocNetConfig)
    layout: Layout = field(default_factory=Layout)
    common: CommonOptions = field(default_factory=CommonOptions)

    @property
    def on_ray(self) -> bool:
        return not self.layout.alone

    def prepare(self) -> None:
        work.prepare(self.settings, self.layout)

    def workers(self, plan: None) -> AbstractContextManager[None]:  # noqa: ARG002
        if self.on_ray:
            fewest = self.layout.space * self.layout.data_parallel
            require_resources(fewest, self.layout.gpus, self.layout.accelerator, elastic=self.elastic)
        return nullcontext()

    def begin(self, plan: None) -> Study:  # noqa: ARG002
        return work.begin(self.settings, self.layout, self.common.out)

    def run(self, plan: None, study: Study, workers: None, on_progress: OnProgress) -> None:  # noqa: ARG002
        work.run(study, self.layout, on_progress=on_progress)

    @classmethod
    def show(cls, study: Study, width: int) -> Shown:  # noqa: ARG003
        return show.show(study)
