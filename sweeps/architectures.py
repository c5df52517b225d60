"""Sweep architectures × weight decay × seeds by Ray Tune: validation error and minimum distortion of every model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed.architectures import plan as architectures_plan
from advlab.distributed.architectures import study as architectures_study
from advlab.distributed.architectures.plan import ArchitecturesConfig
from advlab.distributed.crew import PoolOptions
from advlab.distributed.session import session
from advlab.report import architectures
from advlab.results import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: ArchitecturesConfig = field(default_factory=ArchitecturesConfig)
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)


def main(options: Options) -> None:
    plan = architectures_plan.prepare(options.study)
    with session(options.common.address):
        study = architectures_study.begin(plan, options.common.out)
        with report.Tracker.of(study, options.common.wandb) as tracker:
            elastic = options.common.address is not None
            architectures_study.run(plan, study, options.pool, elastic=elastic, on_progress=tracker.log)
    show(study)


def show(study: Study) -> None:
    """Print the best trials, draw the figure, and say where everything lies and how to go on."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(architectures.table(study))
    study.store.write_bytes("figures/weight_decay.png", architectures.figure(study))
    console.print(
        f"rows: {study.store.path('trials.parquet')}\nfigure: {study.store.path('figures/weight_decay.png')}\n"
        f"all models in a transfer matrix: python sweeps/transfer_matrix.py --models {architectures.reference(study)}",
        soft_wrap=True,
        highlight=False,
    )


if __name__ == "__main__":
    run(__doc__, Options, main)
