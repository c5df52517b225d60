"""``python -m advlab.report STUDY``: draw a finished study again, or print its tables as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from advlab import report
from advlab.command import run
from advlab.report import tables
from advlab.results import Study
from advlab.text import printable


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line."""

    study: Annotated[str, tyro.conf.Positional]
    """Folder of a finished study, local or s3://…"""

    markdown: bool = False
    """Print the tables as Markdown in place of drawing the report."""


def main(options: Options) -> None:
    """Draw, or print."""
    study = Study.open(options.study)
    study.require_transfer()
    report.require_finished(study)
    if options.markdown:
        print(tables.markdown_models(study), tables.markdown_matrix(study), sep="\n\n")
        return
    report.print_study(study, Console())
    print(*(printable(study.store.path(name), None) for name in report.render(study)), sep="\n")


if __name__ == "__main__":
    run(__doc__ or "", Options, main)
