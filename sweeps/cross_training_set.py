"""Do examples cross from one half of the training set to the other, and amplified ones: Tables 3 and 4."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed.crew import PoolOptions
from advlab.distributed.pool import Pool
from advlab.distributed.session import session
from advlab.distributed.transfer import cross_training_set
from advlab.distributed.transfer import plan as transfer_plan
from advlab.distributed.transfer import study as transfer_study
from advlab.distributed.transfer.cross_training_set import CrossTrainingSetConfig
from advlab.report import tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: CrossTrainingSetConfig = field(default_factory=CrossTrainingSetConfig)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)


def main(options: Options) -> None:
    plan = transfer_plan.prepare(options.study.transfer())
    with session(options.common.address):
        pool = Pool(options.pool, elastic=options.common.address is not None)
        study = transfer_study.begin(plan, options.common.out)
        with (
            report.Tracker.of(study, options.common.wandb) as tracker,
            pool,
        ):
            transfer_study.run(plan, study, pool, on_progress=tracker.log)
            tracker.record(study)
    cross_training_set.record_halves(study)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(tables.halves_table(study))
    report.print_study(study, console)
    report.render(study)
    console.print(f"rows and tables: {study.store.uri}\nreport: {study.store.path('report.html')}", soft_wrap=True)


if __name__ == "__main__":
    run(__doc__, Options, main)
