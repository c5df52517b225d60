"""The command that runs all experiments of the paper."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from advlab.engine.pool import ActorPool
from advlab.engine.session import session
from advlab.report import Tracker
from advlab.store import Store
from advlab.studies.cross_training_set.study import record_halves
from advlab.studies.experiment import PoolExperiment
from advlab.studies.paper import page
from advlab.studies.paper.plan import LAST_TABLES, PaperConfig, record_alignment
from advlab.studies.transfer.plan import TransferConfig
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.study import TransferMatrix


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper(PoolExperiment[dict[str, TransferConfig], TransferStudy]):
    """All experiments of the paper, in one folder, and a page with their numbers beside the printed ones."""

    settings: PaperConfig = field(default_factory=PaperConfig)

    page: Path | None = None
    """Additional path for the page, such as docs/REPRODUCTION.md; its figures go to images/ beside it."""

    def prepare(self) -> dict[str, TransferConfig]:
        return self.settings.studies()

    def execute(self) -> None:
        """Run each study, then write the page."""
        out = (self.common.out or "runs/paper").rstrip("/")
        studies = self.prepare()
        console = Console(stderr=True)
        with session(self.common.address), self.workers(studies) as pool:
            for position, (folder, config) in enumerate(studies.items(), 1):
                console.print(f"[bold]{folder}[/] ({position} of {len(studies)})")
                study = self._one(config, f"{out}/{folder}", pool)
                if folder.startswith(LAST_TABLES):
                    record_halves(study)
        record_alignment(out, self.settings.seeds)
        store = Store(out)
        for name, content in page.render(out, seeds=self.settings.seeds).items():
            store.write_bytes(name, content)
            if self.page is not None:
                place = self.page if name == page.PAGE else self.page.parent / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
        Console().print(f"rows: {out}\npage: {store.path(page.PAGE)}", soft_wrap=True)

    def _one(self, config: TransferConfig, out: str, pool: ActorPool) -> TransferStudy:
        matrix = TransferMatrix(settings=config, common=replace(self.common, out=out), pool=self.pool)
        plan = matrix.prepare()
        study = matrix.begin(plan)
        with Tracker.of(study, self.common.wandb) as tracker:
            matrix.run(plan, study, pool, tracker.log)
            tracker.record(study, matrix.show(study, Console().width))
        return study
