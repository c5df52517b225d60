"""Attack every model once, show every example to every model: the paper's Tables 1 and 2 and Figure 7."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed.crew import PoolOptions
from advlab.distributed.pool import Pool
from advlab.distributed.session import session
from advlab.distributed.transfer import plan as transfer_plan
from advlab.distributed.transfer import study as transfer_study
from advlab.distributed.transfer.plan import TransferConfig
from advlab.results import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: TransferConfig = field(default_factory=TransferConfig)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)

    reuse: str | None = None
    """Folder of another study: shards that would be the same are taken from it."""

    trust_code: str = ""
    """Comma-separated file: and python: models that a study of somebody else names, to be run all the same: read them
    first."""


def main(options: Options) -> None:
    plan = transfer_plan.prepare(options.study, options.reuse, options.trust_code)
    with session(options.common.address):
        pool = Pool(options.pool, elastic=options.common.address is not None)
        study = transfer_study.begin(plan, options.common.out)
        with report.Tracker.of(study, options.common.wandb) as tracker:
            with pool:
                transfer_study.run(plan, study, pool, on_progress=tracker.log)
            show(study)
            tracker.record(study)


def show(study: Study) -> None:
    """Print the tables, write the report, and say where everything lies."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    report.print_study(study, console)
    report.render(study)
    console.print(f"rows and tables: {study.store.uri}\nreport: {study.store.path('report.html')}", soft_wrap=True)


if __name__ == "__main__":
    run(__doc__, Options, main)
