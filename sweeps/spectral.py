"""Frame bounds of every layer of a network, beside what the network amplifies in fact: the paper's Table 5."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from rich.console import Console

from advlab import report
from advlab.command import CommonOptions, run
from advlab.distributed import spectral as spectral_study
from advlab.distributed.crew import PoolOptions
from advlab.distributed.pool import Pool
from advlab.distributed.session import session
from advlab.distributed.spectral import SpectralConfig
from advlab.report import spectral


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line of this study."""

    study: SpectralConfig
    common: CommonOptions = field(default_factory=CommonOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)


def main(options: Options) -> None:
    plan = spectral_study.prepare(options.study)
    with session(options.common.address):
        pool = Pool(options.pool, elastic=options.common.address is not None)
        study = spectral_study.begin(plan, options.common.out)
        with (
            report.Tracker.of(study, options.common.wandb) as tracker,
            pool,
        ):
            spectral_study.run(plan, study, pool, on_progress=tracker.log)
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(spectral.table(study))
    study.store.write_bytes("figures/spectra.png", spectral.figure(study))
    console.print(f"rows: {study.store.uri}\nfigure: {study.store.path('figures/spectra.png')}", soft_wrap=True)


if __name__ == "__main__":
    run(__doc__, Options, main)
