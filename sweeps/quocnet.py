"""QuocNet: learnt without labels on Ray Train, a car classifier on top, and adversarial examples for it (Figure 6)."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed.quocnet import study as quocnet_study
from advlab.distributed.quocnet.work import ATTACKED, Layout, QuocNetConfig
from advlab.distributed.session import session
from advlab.report import quocnet


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: QuocNetConfig = field(default_factory=QuocNetConfig)
    layout: Layout = field(default_factory=Layout)
    common: CommonOptions = field(default_factory=CommonOptions)


def main(options: Options) -> None:
    study = quocnet_study.begin(options.study, options.layout, options.common.out)
    with (
        report.Tracker.of(study, options.common.wandb) as tracker,
        nullcontext() if options.layout.alone else session(options.common.address),
    ):
        quocnet_study.run(study, options.layout)
        for row in quocnet_study.losses(study.store).select(["step", "loss", "seconds"]).to_pylist():
            tracker.log({"loss": row["loss"], "seconds": row["seconds"]}, step=row["step"])
        tracker.log(study.manifest["result"])
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(quocnet.table(study))
    study.store.write_bytes("figures/filters.png", quocnet.filters(study))
    if study.store.exists(ATTACKED):
        study.store.write_bytes("figures/figure_6.png", quocnet.figure_6(study))
    console.print(f"rows: {study.store.uri}\nfigures: {study.store.path('figures')}", soft_wrap=True)


if __name__ == "__main__":
    run(__doc__, Options, main)
