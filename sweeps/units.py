"""The images that stimulate units and other directions of a layer most, and whether units differ: Figures 1 to 4."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed.crew import PoolOptions
from advlab.distributed.pool import Pool
from advlab.distributed.session import session
from advlab.distributed.units import study as units_study
from advlab.distributed.units.study import UnitsConfig
from advlab.report import units


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: UnitsConfig
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)


def main(options: Options) -> None:
    plan = units_study.prepare(options.study)
    with session(options.common.address):
        pool = Pool(options.pool, elastic=options.common.address is not None)
        study = units_study.begin(plan, options.common.out)
        with (
            report.Tracker.of(study, options.common.wandb) as tracker,
            pool,
        ):
            units_study.run(plan, study, pool, on_progress=tracker.log)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(units.bases_table(study))
    console.print(units.verdict(study))
    study.store.write_bytes("figures/contact_sheet.png", units.contact_sheet(study, plan.images))
    console.print(f"rows: {study.store.uri}\nfigure: {study.store.path('figures/contact_sheet.png')}", soft_wrap=True)


if __name__ == "__main__":
    run(__doc__, Options, main)
