"""The command ``python -m advlab.report STUDY``: show a finished study again, or print a matrix as Markdown."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from advlab import studies
from advlab.command import run
from advlab.store import Study
from advlab.studies.experiment import present
from advlab.studies.transfer import show, tables
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.view import View


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line."""

    study: Annotated[str, tyro.conf.Positional]
    """Folder of a finished study, local or s3://…"""
    markdown: bool = False
    """Print the tables of a transfer study as Markdown, instead of drawing the report."""


def main(options: Options) -> None:
    if options.markdown:
        study = TransferStudy.open(options.study)
        show.require_finished(study)
        view = View(study)
        print(tables.markdown_models(view), tables.markdown_matrix(view), sep="\n\n")
        return
    kind = Study.open(options.study).manifest["kind"]
    experiment = studies.of_kind(kind)
    present(experiment, TransferStudy.open(options.study) if kind == "transfer" else Study.open(options.study))


if __name__ == "__main__":
    run(__doc__ or "", Options, main)
