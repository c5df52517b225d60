"""What a study looks like: tables, figures, one self-contained page, and W&B."""

from __future__ import annotations

from rich.console import Console

from advlab.report import figures, html, tables
from advlab.report.tracker import Mode, Tracker
from advlab.results import Study

__all__ = ["Mode", "Tracker", "print_study", "render"]


def render(study: Study) -> list[str]:
    """Write ``figures/*.png`` and ``report.html`` into the study.

    Args:
        study: a study with its matrix, examples and predictions written.

    Returns:
        The files written, relative to the study.
    """
    images = figures.draw(study)
    files = {f"figures/{name}.png": png for name, png in images.items()}
    files["report.html"] = html.page(study, images).encode()
    for path, content in files.items():
        study.store.write_bytes(path, content)
    return list(files)


def print_study(study: Study, console: Console) -> None:
    """Print the models and the matrix, the paper's numbers beside them, to fit the console's width."""
    console.print(tables.models_table(study))
    for table in tables.matrix_tables(study, console.width):
        console.print(table)
