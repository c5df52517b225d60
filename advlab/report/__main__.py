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
    found = Study.open(options.study)
    is_transfer = found.manifest["kind"] == "transfer"
    present(studies.of_kind(found.manifest["kind"]), TransferStudy.open(options.study) if is_transfer else found)


if __name__ == "__main__":
    run(__doc__ or "", Options, main)
