"""Train on a pool of adversarial examples that is continuously refreshed, beside its baselines (section 4.1)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed.crew import PoolOptions
from advlab.distributed.hardening import study as hardening_study
from advlab.distributed.hardening.study import HardeningConfig, Layout
from advlab.distributed.pool import Pool
from advlab.distributed.session import session
from advlab.report import hardening


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: HardeningConfig = field(default_factory=HardeningConfig)
    layout: Layout = field(default_factory=Layout)
    common: CommonOptions = field(default_factory=CommonOptions)
    actors: PoolOptions = field(default_factory=PoolOptions)


def main(options: Options) -> None:
    plan = hardening_study.prepare(options.study, options.layout)
    with session(options.common.address):
        size = hardening_study.room_for_generators(options.study, options.actors)
        pool = Pool(size, elastic=options.common.address is not None)
        study = hardening_study.begin(plan, options.common.out)
        with report.Tracker.of(study, options.common.wandb) as tracker:
            hardening_study.tune(plan, study, size, on_progress=tracker.log)
            if options.layout.shared:
                hardening_study.run_shared(plan, study, options.layout, on_progress=tracker.log)
            else:
                with pool:
                    hardening_study.run(plan, study, pool, on_progress=tracker.log)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(hardening.ablation_table(study))
    console.print(f"rows: {study.store.uri}", soft_wrap=True)


if __name__ == "__main__":
    run(__doc__, Options, main)
