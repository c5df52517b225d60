"""The paper's experiments, whole, in one folder, and a page that holds their numbers beside the printed ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed.crew import PoolOptions
from advlab.distributed.pool import Pool
from advlab.distributed.session import session
from advlab.distributed.transfer import plan as transfer_plan
from advlab.distributed.transfer import study as transfer_study
from advlab.distributed.transfer.cross_training_set import record_halves
from advlab.distributed.transfer.paper import PaperConfig, record_alignment
from advlab.report import reproduction
from advlab.results import Store
from advlab.results.layout import LAST_TABLES


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: PaperConfig = field(default_factory=PaperConfig)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    page: Path | None = None
    """Where to write the page as well, say docs/REPRODUCTION.md; its figures go to images/ beside it."""


def main(options: Options) -> None:
    out = (options.common.out or "runs/paper").rstrip("/")
    studies = options.study.studies()
    console = Console(stderr=True)
    with session(options.common.address), Pool(options.pool, elastic=options.common.address is not None) as pool:
        for position, (folder, config) in enumerate(studies.items(), 1):
            console.print(f"[bold]{folder}[/] ({position} of {len(studies)})")
            plan = transfer_plan.prepare(config)
            study = transfer_study.begin(plan, f"{out}/{folder}")
            with report.Tracker.of(study, options.common.wandb) as tracker:
                transfer_study.run(plan, study, pool, on_progress=tracker.log)
                tracker.record(study)
            if folder.startswith(LAST_TABLES):
                record_halves(study)
    record_alignment(out, options.study.seeds)
    files = reproduction.render(out, seeds=options.study.seeds)
    store = Store(out)
    for name, content in files.items():
        store.write_bytes(name, content)
        if options.page is not None:
            place = options.page if name == reproduction.PAGE else options.page.parent / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    Console().print(f"rows: {out}\npage: {store.path(reproduction.PAGE)}", soft_wrap=True)


if __name__ == "__main__":
    run(__doc__, Options, main)
