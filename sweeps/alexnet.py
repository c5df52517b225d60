"""AlexNet (Krizhevsky et al. 2012) by data-parallel workers on Ray Train, to be attacked by other studies."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed.alexnet import study as runs
from advlab.distributed.alexnet.work import AlexNetConfig, Layout
from advlab.distributed.session import session
from advlab.report import alexnet
from advlab.results import curve


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: AlexNetConfig = field(default_factory=AlexNetConfig)
    layout: Layout = field(default_factory=Layout)
    common: CommonOptions = field(default_factory=CommonOptions)


def main(options: Options) -> None:
    study = runs.begin(options.study, options.layout, options.common.out)
    with (
        report.Tracker.of(study, options.common.wandb) as tracker,
        nullcontext() if options.layout.alone else session(options.common.address),
    ):
        runs.run(study, options.layout)
        for row in curve.read(study.store).to_pylist():
            tracker.log(row, step=row["step"])
        tracker.log(study.manifest["result"])
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(alexnet.table(study))
    study.store.write_bytes("figures/learning_curve.png", alexnet.learning_curve(study))
    uri = study.store.uri
    console.print(
        f"rows: {uri}\nfigures: {study.store.path('figures')}\nin other studies: --models study:{uri}", soft_wrap=True
    )


if __name__ == "__main__":
    run(__doc__, Options, main)
