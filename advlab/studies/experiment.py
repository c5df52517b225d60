"""The protocol of all studies, and the command that runs any of them."""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import Console

from advlab import command
from advlab.command import CommonOptions
from advlab.engine.actors import PoolOptions
from advlab.engine.launcher import TrainLayout, require_resources
from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.engine.session import session
from advlab.errors import UserError
from advlab.models.resolve import Resolved
from advlab.report import Shown, Tracker
from advlab.store import Study
from advlab.studies import figures_of
from advlab.text import printable

Plan = TypeVar("Plan")
Results = TypeVar("Results", bound=Study)
Workers = TypeVar("Workers")
_PIPE_WIDTH = 170
"""Width of tables if standard output is not a terminal."""


class Experiment(Generic[Plan, Results, Workers]):
    """The options of a study's command, and what the study does with them; subclasses are frozen dataclasses.

    Their docstring is the description that ``--help`` prints.
    """

    kind: ClassVar[str]
    """The kind of the study in ``study.json``."""
    common: CommonOptions

    @property
    def on_ray(self) -> bool:
        return True

    @property
    def elastic(self) -> bool:
        """Whether machines can join the cluster."""
        return self.common.address is not None

    def prepare(self) -> Plan:
        """Check the options, load what they name, and return it as a plan; nothing is written.

        Raises a UserError for an invalid value, with the fix.
        """
        raise NotImplementedError

    def workers(self, plan: Plan) -> AbstractContextManager[Workers]:
        """The workers, while the block runs; Ray is connected. A UserError if they can never have room."""
        raise NotImplementedError

    def begin(self, plan: Plan) -> Results:
        """Start the study, or continue it if ``--out`` holds part of it; a UserError if it holds another."""
        raise NotImplementedError

    def run(self, plan: Plan, study: Results, workers: Workers, on_progress: OnProgress) -> None:
        """Compute what is missing; a UserError if work failed; finished work is kept."""
        raise NotImplementedError

    @staticmethod
    def show(study: Results, width: int, /) -> Shown:
        """The tables, at most ``width`` columns wide, and the figures of a finished study."""
        raise NotImplementedError

    def execute(self) -> None:
        plan = self.prepare()
        with session(self.common.address) if self.on_ray else nullcontext(), self.workers(plan) as workers:
            study = self.begin(plan)
            with Tracker.of(study, self.common.wandb) as tracker:
                self.run(plan, study, workers, tracker.log)
                shown = present(self, study)
                tracker.record(study, shown)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolExperiment(Experiment[Plan, Results, ActorPool]):
    """An `Experiment` whose work is done by an actor pool."""

    settings: Any
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    def workers(self, plan: Plan) -> ActorPool:  # noqa: ARG002
        return ActorPool(self.pool, elastic=self.elastic)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A checked study of one model: its settings, the model, and the images."""

    config: Any
    subject: Resolved
    images: Any


class ModelExperiment(PoolExperiment[ModelPlan, Study]):
    """A `PoolExperiment` on one model."""

    def begin(self, plan: ModelPlan) -> Study:
        study = Study.begin(self.kind, asdict(plan.config), self.common.out)
        plan.subject.record_in(study)
        return study


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainExperiment(Experiment[None, Study, None]):
    """An `Experiment` that is one training run, on Ray Train or, with ``--alone``, in this process."""

    settings: Any
    layout: TrainLayout
    common: CommonOptions = field(default_factory=CommonOptions)

    @property
    def on_ray(self) -> bool:
        return not self.layout.alone

    def workers(self, plan: None) -> AbstractContextManager[None]:  # noqa: ARG002
        if self.on_ray:
            require_resources(self.layout.fewest, self.layout, elastic=self.elastic)
        return nullcontext()

    def begin(self, plan: None) -> Study:  # noqa: ARG002
        study = Study.begin(self.kind, asdict(self.settings), self.common.out)
        if self.layout.alone and not study.store.is_local:
            raise UserError(f"--alone needs a folder on this machine, not {study.store.uri!r}; choose another --out.")
        return study


def present(experiment: Experiment[Any, Any, Any] | type[Experiment[Any, Any, Any]], study: Study) -> Shown:
    """Print a study's tables, write its figures into it, and print where everything is."""
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    shown = experiment.show(study, console.width)
    figures = {f"figures/{name}.png": draw(study) for name, draw in figures_of(experiment.kind).items()}
    shown = replace(shown, files={**shown.files, **figures})
    for table in shown.tables:
        console.print(table)
    for name, content in shown.files.items():
        study.store.write_bytes(name, content)
    console.print(f"rows: {study.store.uri}", soft_wrap=True, markup=False, highlight=False)
    for line in [*(study.store.path(name) for name in shown.files), *shown.hints]:
        console.print(printable(line, None), soft_wrap=True, markup=False, highlight=False)
    return shown


def main(experiment: type[Experiment[Any, Any, Any]]) -> None:
    """Parse the command line of an experiment and run it."""
    command.run(experiment.__doc__ or "", experiment, lambda options: options.execute())
